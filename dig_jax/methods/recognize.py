"""Text recognition on top of any encoder: frozen probe, fine-tuning, training from scratch,
evaluation.

Encoder (`models/encoders.py`) -> frames, one a token column -> optional standardisation -> one or
several heads: decoders of one kind (`models/decoders`): CTC, attention, Transformer, glimpses.
Which of the protocols it is, the config says:

    probe      frozen=True, standardize=True, several heads     `configs/recognize/probe.py`
    fine-tune  frozen=False, one head, init_from a pre-training `configs/recognize/finetune.py`
    scratch    the same without init_from                       `configs/recognize/scratch.py`

`block` says which block the frames come from: the last one, another, or a mix of all. A mix is
ELMo's (Peters et al. 2018, equation 1): normalised outputs of the blocks, weighted by a softmax
over one number a block. Every head learns these numbers for itself.

A sweep in one run. A frozen probe is evidence only once its learning rate is tuned, and the
features it reads do not depend on the rate. So `heads` may name several heads of the same shape,
one a rate. All start from the same numbers and read the same features. An optimiser rule for each
(`optim.rules`: "^heads/lr_0.001/" -> lr_scale) gives it its rate. The loss is the sum of the heads'
losses. They share no parameter and Adam works on each number alone, so every head ends where it
would have ended in a run of its own. The condition is that nothing couples them: no clipping by a
global norm.

What to watch
- Frozen means: no gradient (stop_gradient, and no rule may train the encoder), no drop path, no
  trainable norm. The trainable norm and the active dropout of DiG's own frozen evaluation are left
  out on purpose (methods.md 1.9, 14.1).
- An encoder without a final norm (DiG has none while its contrast is on) is followed by one that
  belongs to the recogniser. So every row of a table reads normalised tokens. Where the encoder is
  frozen, this norm stays as it starts.
- Standardisation has no trainable part either: mean and spread of every channel over the real
  frames of the training split, computed once (`calibrate`), kept in `mutable`. Without it a probe
  compares scales of features, not features. The tokens of a ViT have a large common part, also
  with random weights. A new head has to learn to ignore it first, and that takes hundreds of steps.
  So a ViT is standardised if nothing else is said. A CNN is not: it learns more slowly then.
- A line whose label needs more frames than it has (for CTC its length and one for each repeat)
  cannot be learnt. It is left out of the loss and counted in the metric `infeasible_frac`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dig_jax.augment import views
from dig_jax.methods.shared import base
from dig_jax.models import decoders, encoders, vit
from dig_jax.models.layers import LayerNorm
from dig_jax.text import Charset

STD_FLOOR = 1e-6  # a dead channel is divided by this, not by zero


class Method(base.Method):
    """Encoder + heads.

    charset: classes of the heads (0 = blank or end). encoder: see `encoders.create`. heads: {name:
    arguments of `decoders.create`}, the same for all, more than one only on a frozen encoder.
    frames: "concat" (the tokens of a column side by side) or "mean". block: "last", "mix", or the
    number of a block, from 1. frozen, standardize: see above; standardize None: a ViT's frames are.
    drop_path, dropout: instead of the encoder's. recipe: augmentation of training lines, a name in
    `augment.recipes` or a recipe, moving text sideways by at most `max_shift_px` (None: no bound);
    None = none. Raises ValueError for what contradicts itself.
    """

    loss_is_mean = True

    def __init__(
        self,
        *,
        charset: Charset,
        encoder: Mapping[str, Any],
        heads: Mapping[str, Mapping[str, Any]],
        frames: str = "concat",
        block: str | int = "last",
        frozen: bool = False,
        standardize: bool | None = None,
        drop_path: float | None = None,
        dropout: float | None = None,
        recipe: views.Recipe = None,
        max_shift_px: float | None = None,
    ):
        if not encoder:
            raise ValueError(
                "config.method.encoder is not set: name a pre-training with "
                "--config.init_from=DIR, or with --config.shape_from=DIR for random weights of "
                "the same shape"
            )
        check_heads(heads, frozen)
        self.charset = charset
        self.names = tuple(sorted(heads))
        self.pool, self.frozen = frames, frozen
        self.recipe, self.max_shift_px = views.recipe(recipe), max_shift_px
        given = {"drop_path": drop_path, "dropout": dropout}
        # An encoder that lacks one of them needs none for a 0.
        own = {k: v for k, v in given.items() if v or (v is not None and k in encoder)}
        self.encoder = encoders.create({**encoder, **own})
        is_vit = isinstance(self.encoder, vit.Vit)
        self.standardize = is_vit if standardize is None else standardize
        self.block = base.checked_block(block, self.encoder, mix=True)
        own = self.block == "last" and self.encoder.final_norm
        self.norm = None if own else LayerNorm()
        head = {"dtype": self.encoder.dtype, **next(iter(heads.values()))}
        self.head = decoders.create(charset.size, **head)
        self.frozen_features = self._frozen_features if frozen and recipe is None else None

    def check_optimizer(self, decays, clip_norm):
        held = {name: tree for name, tree in decays.items() if name != "heads"}
        if self.frozen and any(jax.tree.leaves(held)):  # decay moves a weight without a gradient
            raise ValueError(
                "config.method.frozen is True, but weight decay would move the encoder: set "
                "config.optim.rules=(('^heads/', {}), ('', {'freeze': True}))"
            )
        if len(self.names) > 1 and clip_norm:
            raise ValueError(
                f"config.optim.clip_norm is {clip_norm}: the gradients of {len(self.names)} heads "
                "would shrink each other. Set it to None, or keep one head"
            )

    def init(self, key, batch):
        encoder_key, norm_key, head_key = jax.random.split(key, 3)
        params = {
            "encoder": self.encoder.init(encoder_key, batch["image"], batch["width"])["params"]
        }
        if self.norm:
            params["norm"] = self.norm.init(norm_key, jnp.zeros((1, 1, self.encoder.width)))[
                "params"
            ]
        frames, length = self._frames(params, batch)
        head = self.head.init(head_key, self._mixed(None, frames), length)
        if self.block == "mix":
            head = head | {"mix": jnp.zeros(self.encoder.depth)}
        params["heads"] = {
            name: head for name in self.names
        }  # the same start, so that only the rate differs
        size = frames.shape[-1]
        scale = {
            "mean": jnp.zeros(size),
            "std": jnp.full(size, jnp.nan),
        }  # a forgotten `calibrate` must not go unseen
        return {"params": params, "mutable": {"scale": scale} if self.standardize else {}}

    # network

    def _tokens(self, params, batch, key=None):
        """Normalised images -> tokens f32[B,N,D], of a mix side by side f32[B,N,depth*D]. With a
        key: training mode (drop path).
        """
        options = {"deterministic": key is None, "rngs": key if key is None else {"drop_path": key}}
        if self.block != "last":
            options["each_block"] = True
        variables = {"params": params["encoder"]}
        tokens = self.encoder.apply(variables, batch["image"], batch["width"], **options)
        if self.block not in ("last", "mix"):
            tokens = tokens[self.block - 1]
        if self.norm:
            tokens = self.norm.apply({"params": params["norm"]}, tokens)
        return jnp.concatenate(tokens, -1) if self.block == "mix" else tokens

    def _frames(self, params, batch, key=None):
        """Frames f32[B,S,F] and how many of them are real, i32[B]; of a batch that brings them
        along, those.
        """
        if "frames" not in batch:
            batch = self._encoded(params, batch, key)
        return batch["frames"], batch["frame_length"]

    def _encoded(self, params, batch, key=None):
        """{"tokens", "frames", "frame_length"} of normalised images."""
        tokens, patch = self._tokens(params, batch, key), self.encoder.patch
        frames = vit.frames(tokens, vit.grid(batch["image"].shape, patch)[0], self.pool)
        return {
            "tokens": tokens,
            "frames": frames,
            "frame_length": vit.columns(batch["width"], patch[1]),
        }

    def _frozen_features(self, params, batch):
        """Raw batch -> what `_frames` takes in place of the image."""
        return {
            name: value for name, value in self.encode(params, batch).items() if name != "tokens"
        }

    def _scaled(self, mutable, frames):
        """Frames as the heads take them."""
        if not self.standardize:
            return frames
        mean, std = (mutable["scale"][name][None, None] for name in ("mean", "std"))
        return (frames - mean) / std

    def _mixed(self, head, frames):
        """Frames f32[B,S,F] as a head reads them: of a mix, the weighted sum of its blocks. Without
        a head: the plain mean."""
        if self.block != "mix":
            return frames
        depth = self.encoder.depth
        weights = jax.nn.softmax(jnp.zeros(depth) if head is None else head["mix"])
        rows = frames.shape[-1] // (depth * self.encoder.width)  # token rows of a column, or 1
        each = frames.reshape(*frames.shape[:2], rows, depth, self.encoder.width)
        mixed = jnp.einsum("bsrkd,k->bsrd", each, weights, precision="highest")
        return mixed.reshape(*frames.shape[:2], -1)

    def _by_head(self, function, heads):
        """function of each head's parameters, at once: every leaf [K, ..]."""
        if len(self.names) == 1:  # a stack of one would slow the products of an LSTM
            return jax.tree.map(lambda x: x[None], function(heads[self.names[0]]))
        return jax.vmap(function)(self._stacked(heads))

    def _stacked(self, heads):
        """Parameters of all heads, each leaf [K, ..] in the order of `names`."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(heads[n] for n in self.names))

    # training

    def augment(self, key, batch):
        """Image as f32[B,H,W,C] in [-1, 1], augmented where there is a recipe. For training
        only.
        """
        if self.recipe is None:
            return _normalised(batch)
        image, width = views.augment_lines(
            key, batch["image"], batch["width"], self.recipe, self.max_shift_px
        )
        return batch | {"image": image * 2.0 - 1.0, "width": width}

    def loss(self, params, state, batch, key, progress):
        """Sum over heads of the mean over real, feasible lines of the decoder's loss."""
        frames, length = self._frames(params, batch, None if self.frozen else key)
        if self.frozen:
            frames = jax.lax.stop_gradient(frames)
        frames = self._scaled(state.mutable, frames)

        def score(head):
            given = (self._mixed(head, frames), length, batch["label"], batch["label_length"])
            return self.head.loss(head, *given, key)

        # (K, B), (K, B): whether a label fits does not depend on the head
        losses, feasible = self._by_head(score, params["heads"])
        valid, fits = batch["valid"], batch["valid"] & feasible[0]
        means = jnp.where(fits[None], losses, 0.0).sum(axis=1) / jnp.maximum(fits.sum(), 1)  # (K,)
        metrics = (
            {f"loss_{name}": mean for name, mean in zip(self.names, means)}
            if len(self.names) > 1
            else {}
        )
        metrics["infeasible_frac"] = (valid & ~fits).sum() / jnp.maximum(valid.sum(), 1)
        return means.sum(), base.Aux(metrics, state.mutable, fits.sum())

    def calibrate(self, params, mutable, batches):
        """Mean and standard deviation of every channel over the real frames of `batches` (raw,
        global; read once).

        A batch is summed up on the device in two passes, and batches are merged in float64 (Chan,
        Golub, LeVeque 1983). The plain sum of squares would lose the spread of a channel whose mean
        is large.
        """
        if not self.standardize:
            return mutable
        moments = jax.jit(self._moments)
        count, mean, squares = 0.0, 0.0, 0.0
        for batch in batches:
            n, batch_mean, batch_squares = (
                np.asarray(x, np.float64) for x in moments(params, batch)
            )
            if n:
                shift = batch_mean - mean
                squares = squares + batch_squares + shift**2 * (count * n / (count + n))
                mean, count = mean + shift * (n / (count + n)), count + n
        if not count:
            raise ValueError(
                "no readable training line to standardise the features with: check "
                "config.data.train"
            )
        scale = {"mean": mean, "std": np.maximum(np.sqrt(squares / count), STD_FLOOR)}
        place = lambda new, old: jax.device_put(np.asarray(new, np.float32), old.sharding)
        return mutable | {"scale": jax.tree.map(place, scale, mutable["scale"])}

    def _moments(self, params, batch):
        """Number of real frames f32[], their mean f32[F] and the sum of their squared deviations
        f32[F].
        """
        frames, length = self._frames(params, _normalised(batch))
        real = (jnp.arange(frames.shape[1])[None] < length[:, None]) & batch["valid"][
            :, None
        ]  # (B, S)
        real = real[..., None].astype(jnp.float32)
        count = real.sum()
        mean = (frames * real).sum(axis=(0, 1)) / jnp.maximum(count, 1)
        return count, mean, (jnp.square(frames - mean[None, None]) * real).sum(axis=(0, 1))

    # reading

    def encode(self, params, batch):
        return self._encoded(params, _normalised(batch))

    def predict(self, params, mutable, batch, beam: int = 1):
        """Raw batch -> {head: a reading of each line, see `decoders`}.

        beam: readings of a line that are followed at once, by decoders that search on the device.
        """
        options = {"beam": beam} if beam > 1 else {}
        return self._read(params, mutable, batch, lambda *given: self.head.read(*given, **options))

    def logits(self, params, mutable, batch):
        """Raw batch -> {head: {"logits" f[B,S,V], "length" i32[B]}} of every frame, by CTC."""

        def read(head, frames, length):
            return {"logits": self.head.logits(head, frames, length), "length": length}

        return self._read(params, mutable, batch, read)

    def attention(self, params, mutable, batch, head, ids):
        """Which frames the characters i32[B,T] came from that this head read in a raw batch:
        f32[B,T,S], see `decoders`. AttributeError for CTC, which looks at every frame once.
        """
        frames, length = self._frames(params, _normalised(batch))
        own = params["heads"][head]
        frames = self._mixed(own, self._scaled(mutable, frames))
        return self.head.attention(own, frames, length, ids)

    def _read(self, params, mutable, batch, read):
        frames, length = self._frames(params, _normalised(batch))
        frames = self._scaled(mutable, frames)
        each = lambda head: read(head, self._mixed(head, frames), length)
        if len(self.names) == 1:  # a stack of one would slow the products of an LSTM
            return {self.names[0]: each(params["heads"][self.names[0]])}
        # One head after the other: logits of 5,000 classes are large enough once.
        found = jax.lax.map(each, self._stacked(params["heads"]))
        return {name: jax.tree.map(lambda x, i=i: x[i], found) for i, name in enumerate(self.names)}


def _normalised(batch):
    """Pixels from u8 to [-1, 1], where the batch has any (see `base.Method.frozen_features`)."""
    return batch | {"image": base.normalise(batch["image"])} if "image" in batch else batch


def check_heads(heads: Mapping[str, Mapping[str, Any]], frozen: bool) -> None:
    """Raises ValueError where several heads could not be what they would be in runs of their
    own.
    """
    if not heads:
        raise ValueError(
            "config.method.heads is empty: name at least one head, such as "
            "{'ctc': {'kind': 'linear'}}"
        )
    first = dict(next(iter(heads.values())))
    for name, head in heads.items():
        if dict(head) != first:
            raise ValueError(
                f"head {name!r} is {dict(head)}, another {first}: "
                "give config.method.heads one shape"
            )
    if len(heads) > 1 and not frozen:
        raise ValueError(
            f"{len(heads)} heads would all pull at an encoder that trains: "
            "set config.method.frozen=True, or keep one"
        )
