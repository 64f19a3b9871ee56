"""MAE: an encoder that reads a quarter of the patches, and a light decoder that rebuilds the rest.

Paper   He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377;
        for text Jiang et al., "Revisiting Scene Text Recognition: A Data Perspective", ICCV 2023,
        arXiv 2307.08723 (Union14M, MAERec), whose code is followed. tests/methods/test_mae.py holds
        us to that code.

    what                                                        where
    remove 75 % of the patches at random                        masks.random_mask
    the others, and nothing else, through the encoder           Network.encode, vit.Vit(keep=...)
    back to their places, mask tokens in the gaps, positions    Decoder
    transformer blocks, linear layer to pixels                  Decoder
    target: pixels normalised by the statistics of their patch  pixels.pixel_target
    L = mean over removed patches of (prediction - target)^2    losses.masked_mse

Certain, from the public code:

- int(ratio * N) removed patches;
- codes are added before patches are removed, and again, narrower, before the decoder;
- Xavier-uniform weights, the mask token (and the CLS token) drawn with deviation 0.02;
- layer norms at 1e-6;
- the unbiased variance of all values of a patch plus 1e-6 (of pixels in [-1, 1]: target_floor is
  its root in [0, 1]).

Keys have no bias here, which under a softmax changes nothing.

Static shapes on ragged lines. The encoder has K places, as many as a line that fills the canvas
keeps patches (`masks.most_visible`). Every line removes the same share of its *real* patches, so a
shorter one keeps fewer. What it keeps lies in reading order in its first places. The rest are
empty: attention does not read them and the decoder does not put them back. So features and loss of
a line are those it would have alone, and every line rebuilds the same share. The price is that the
empty places are computed and thrown away, as padding is everywhere else. (Keeping K patches of
every line instead would show all of a short line.)

Departures for lines of text
- No CLS token unless cls=True: whole lines of tokens are what a recogniser reads. With it the
  encoder's parameters are the same; the token stands beside them, as params["cls_token"]. Probes
  and fine-tuning therefore start from it alike, but do without the token. MAERec's recogniser reads
  it as one more token.
- Positions by column and row of the grid as it is. The authors' table takes 8 x 32 patches for 16 x
  16, so that the halves of a line share column codes. position="square_2d" is that table, for the
  words preset and their weights.
- mask_span > 1 removes runs of columns. Removed patches are weighted by their real pixels, which
  tells only in the last, partly real column.

CAN (Mishra et al., 2022, arXiv 2210.16870) is the option `can`. Two views of a line, each with its
own mask and noise of its own strength, go through encoder and decoder.

    SimCLR's loss between the means of what the encoder reads   Method._can_loss, losses.nt_xent
    removed patches, without their noise                        the loss above
    the noise itself, of length 1, in the patches it reads      Method._can_loss

Ours: a code of the strength is added to all that the decoder reads, through two layers; noise and
pixels leave it side by side. Weights and strength are the paper's as we remember them.

Watch   pixel: about 1 is what predicting nothing reaches with a normalised target (on clean print
        less, since paper is flat). The encoder never sees a mask token, nor gaps: a probe on whole
        lines reads sequences 1 / (1 - ratio) times as long as those it was trained on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import masks
from dig_jax.methods.shared import base, contrast, pixels, two_views
from dig_jax.models import encoders, heads, transformer, vit
from dig_jax.models.layers import Dense, LayerNorm, along_last, sincos_2d

TOKEN_INIT = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Can:
    """Options of CAN. recipe, max_shift_px: of both views, see `two_views.augmenter`. noise_max:
    largest deviation of the noise, in the units of pixels in [-1, 1]. weight_*: of the three
    losses."""

    recipe: Any = "lines_light"
    max_shift_px: float | None = 2.0
    noise_max: float = 0.05
    temperature: float = 0.1
    weight_contrast: float = 0.03
    weight_pixel: float = 0.70
    weight_noise: float = 0.27
    projector_width: int = 512
    projector_dim: int = 128


class Decoder(nn.Module):
    """Pixels of every patch from the encoded visible ones. values: of a patch, ph * pw * C. prefix:
    tokens before those of the line. form: `Vit.form`. The rest as in `vit.Vit`."""

    values: int
    width: int
    depth: int
    heads: int
    prefix: int
    position: str
    flat_columns: int
    form: Mapping[str, Any]

    @nn.compact
    def __call__(self, tokens, seen, real, grid, column_offset=None, strength=None):
        """tokens f32[B,prefix+K,D], those of the line in reading order; seen, real bool[B,N]: the
        patches that the encoder read, and those that are no padding; strength f32[B] of the noise
        in them -> f32[B,N,P]."""
        dtype = self.form["dtype"]
        x = Dense(self.width, dtype=dtype, name="embed")(tokens)
        if strength is not None:
            code = sincos_2d(1000 * strength, jnp.zeros_like(strength), self.width)
            code = nn.relu(Dense(self.width, dtype=dtype, name="strength_0")(code))
            x = x + Dense(self.width, dtype=dtype, name="strength_1")(code)[:, None]
        front, x = x[:, : self.prefix], x[:, self.prefix :]
        mask_token = self.param("mask_token", TOKEN_INIT, (self.width,), jnp.float32)
        place = jnp.maximum(jnp.cumsum(seen, axis=1) - 1, 0)  # of a seen patch among the seen ones
        x = jnp.take_along_axis(x, place[..., None], axis=1)
        x = jnp.where(seen[..., None], x, along_last(mask_token, x))
        x = x + vit.position_codes(
            self.position, grid, self.width, self.flat_columns, column_offset
        )
        x = transformer.blocks(
            jnp.concatenate([front, x], axis=1),
            self.prefix + jnp.sum(real, axis=1),
            depth=self.depth,
            heads=self.heads,
            hidden=4 * self.width,
            **self.form,
        )
        return Dense(self.values, dtype=dtype, name="pixels")(
            LayerNorm(name="norm")(x)[:, self.prefix :]
        )


class Network(nn.Module):
    """Encoder, decoder and, where the decoder expects one, a CLS token. hide: arguments of
    `masks.hider`. projector: of CAN.
    """

    encoder: vit.Vit
    decoder: Decoder
    hide: Mapping[str, Any]
    projector: nn.Module | None = None

    def setup(self):
        if self.decoder.prefix:
            self.cls_token = self.param("cls_token", TOKEN_INIT, (self.encoder.width,), jnp.float32)

    def __call__(self, batch, deterministic=True):
        """Augmented batch -> patch vectors f32[B,N,P] in the units of the target, for removed and
        visible patches. Of CAN (see `rows`) with the noise beside them, f32[B,N,2P], and the
        projected mean of what the encoder read, f32[B,K].
        """
        if self.projector is not None:
            batch = rows(batch)
        grid, real, seen, offset = self._layout(batch)
        tokens = self.encode(batch, deterministic)
        output = self.decoder(tokens, seen, real, grid, offset, batch.get("strength"))
        if self.projector is None:
            return output
        count = jnp.sum(seen, 1)
        mean = jnp.sum(tokens[:, self.decoder.prefix :], 1) / jnp.maximum(count, 1)[:, None]
        return output, self.projector(mean, batch["valid"] & (count > 0))

    def encode(self, batch, deterministic=True):
        """The visible patches, encoded: f32[B,prefix+K,D], in reading order, then zeros in empty
        places.
        """
        grid, _, seen, offset = self._layout(batch)
        count = seen.shape[1]
        keep = jnp.sort(jnp.where(seen, jnp.arange(count)[None], count), axis=1)[
            :, : masks.most_visible(grid, self.encoder.patch, **self.hide)
        ]
        prefix = None
        if self.decoder.prefix:
            prefix = jnp.broadcast_to(self.cls_token, (len(seen), 1, self.encoder.width))
        return self.encoder(
            batch["view1"],
            batch["width"],
            column_offset=offset,
            deterministic=deterministic,
            keep=keep,
            prefix=prefix,
        )

    def _layout(self, batch):
        """Grid, real and seen patches bool[B,N], and the first column i32[B] or None."""
        grid = vit.grid(batch["view1"].shape, self.encoder.patch)
        real = vit.token_valid(batch["width"], self.encoder.patch, grid)
        offset = batch["column_offset"][:, 0] if "column_offset" in batch else None
        return grid, real, real & ~batch["mask"], offset


def rows(batch):
    """The augmented batch of CAN with its two views as rows of their own, view1 f32[2B,H,W,C]."""
    both = {"view1": two_views.interleave([batch["view1"], batch["view2"]])}
    both |= {name: jnp.repeat(batch[name], 2) for name in ("width", "valid")}
    for name in ("mask", "strength", "noise"):
        both[name] = batch[name].reshape(-1, *batch[name].shape[2:])
    if "column_offset" in batch:
        both["column_offset"] = batch["column_offset"].reshape(-1, 1)
    return both


class Method(base.Method):
    """MAE.

    encoder: keyword arguments of `vit.Vit`. channels: C of the images. mask_*: see `masks.hider`.
    decoder_*: of the decoder's transformer. target, target_floor: see `pixels.pixel_target`; the
    default floor is the official one, which blows the grain of blank paper up to full size.
    column_offset_max: see `two_views.column_offsets`. can: options of `Can`, None = MAE. Raises
    ValueError for values out of range.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        mask_ratio: float = 0.75,
        mask_span: int = 1,
        mask_kind: str | None = None,
        mask_unit_px: Sequence[int] | None = None,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        cls: bool = False,
        target: str = "normalized_joint",
        target_floor: float = 5e-4,
        column_offset_max: int = 0,
        can: Mapping[str, Any] | None = None,
    ):
        pixels.check(target, mask_ratio, column_offset_max, target_floor)
        base.check_decoder(decoder_width, decoder_heads)
        self.encoder = encoders.create_vit(encoder)
        if self.encoder.position == "learned":
            raise ValueError(
                "position is 'learned', and the decoder of MAE has no table of its own: set "
                "config.method.encoder.position='sincos_2d'"
            )
        self.patch, self.channels = tuple(encoder["patch"]), channels
        self.target = self.patch, target, target_floor
        self.column_offset_max = column_offset_max
        hide = {"ratio": mask_ratio, "span": mask_span, "kind": mask_kind, "unit_px": mask_unit_px}
        self.hide = masks.hider(self.patch, **hide)
        self.can, self.loss_is_mean, projector = None, can is None, None
        if can is not None:
            known = [field.name for field in dataclasses.fields(Can)]
            if unknown := sorted(set(can) - set(known)):
                raise ValueError(
                    f"can has {', '.join(unknown)}; config.method.can has {', '.join(known)}"
                )
            self.can = can = Can(**can)
            base.check_counts(projector_width=can.projector_width, projector_dim=can.projector_dim)
            self.two = two_views.augmenter(
                channels=channels,
                recipes=(can.recipe, can.recipe),
                max_shift_px=can.max_shift_px,
                column_offset_max=column_offset_max,
            )
            widths = (can.projector_width, can.projector_width, can.projector_dim)
            projector = heads.Mlp(widths, self.encoder.dtype, last_norm="scale")
        decoder = Decoder(
            values=math.prod(self.patch) * channels * (1 if can is None else 2),
            width=decoder_width,
            depth=decoder_depth,
            heads=decoder_heads,
            prefix=int(cls),
            position=self.encoder.position,
            flat_columns=self.encoder.flat_columns,
            form=self.encoder.form(decoder_width // decoder_heads),
        )
        self.network = Network(
            encoder=self.encoder, decoder=decoder, hide=hide, projector=projector
        )

    def augment(self, key, batch):
        """See `pixels.masked_view`. For CAN two noisy views, mask bool[B,2,N], their noise of
        deviation 1 f32[B,2,H,W,C], and its strength f32[B,2].
        """
        if self.can:
            return self._can_views(key, batch)
        layout = self.channels, self.patch, self.column_offset_max
        return pixels.masked_view(key, batch, self.hide, *layout)

    def loss(self, params, state, batch, key, progress):
        """L, also the metric pixel; the decoder rebuilds all patches, removed ones count."""
        if self.can:
            return self._can_loss(params, state, batch, key)
        prediction = self.apply(params, "__call__", batch, key=key)
        target = pixels.pixel_target(batch["view1"], batch["width"], *self.target)[0]
        hidden = pixels.loss_weights(batch, self.patch)
        loss = losses.masked_mse(prediction, target, hidden)
        return loss, base.Aux({"pixel": loss}, state.mutable, jnp.sum(hidden))

    def _can_views(self, key, batch):
        """See `augment`."""
        two_key, mask_key, noise_key, strength_key = jax.random.split(key, 4)
        out, shape = self.two(two_key, batch), batch["image"].shape
        grid = vit.grid(shape, self.patch)
        each = [self.hide(k, out["width"], grid) for k in jax.random.split(mask_key)]
        noise = jax.random.normal(noise_key, (shape[0], 2, *shape[1:]))
        strength = jax.random.uniform(strength_key, (shape[0], 2), maxval=self.can.noise_max)
        for view, name in enumerate(("view1", "view2")):
            out[name] += strength[:, view, None, None, None] * noise[:, view]
        return out | {"mask": jnp.stack(each, 1), "noise": noise, "strength": strength}

    def _can_loss(self, params, state, batch, key):
        """The weighted sum. Metrics: pixel, noise and contrast, each before its weight; top1, the
        share of means whose nearest is their partner; q_std, the spread of the projected means.
        """
        output, z = self.apply(params, "__call__", batch, key=key)
        prediction, noise = jnp.split(output, 2, -1)
        both = rows(batch)
        clean = both["view1"] - both["strength"][:, None, None, None] * both["noise"]
        target = pixels.pixel_target(clean, both["width"], *self.target)[0]
        hidden = pixels.loss_weights(both, self.patch)
        shown = pixels.loss_weights({**both, "mask": ~both["mask"]}, self.patch)
        pixel = losses.masked_mse(prediction, target, hidden)
        noise_loss = losses.masked_mse(noise, vit.patchify(both["noise"], self.patch), shown)
        z = z.reshape(-1, 2, 1, z.shape[-1])
        valid = jnp.broadcast_to(batch["valid"][:, None, None], z.shape[:3])
        (z1, z2), (real, _) = contrast.rows(z, valid)
        contrast_loss, top1 = losses.nt_xent(z1, z2, self.can.temperature, real)
        metrics = {"pixel": pixel, "noise": noise_loss, "contrast": contrast_loss, "top1": top1}
        metrics["q_std"] = losses.unit_std(z, valid)
        loss = self.can.weight_pixel * pixel + self.can.weight_noise * noise_loss
        return loss + self.can.weight_contrast * contrast_loss, base.Aux(metrics, state.mutable)

    def reconstruct(self, params, batch, key):
        """`pixels.pictures` of a raw batch; of CAN the first view, as the encoder reads it."""
        batch = self.augment(key, batch)
        output = self.apply(params, "__call__", batch)
        if self.can:
            output = jnp.split(output[0][::2], 2, -1)[0]
            batch = {**batch, "mask": batch["mask"][:, 0]}
        return pixels.pictures(output, batch, *self.target)
