"""The contract between one training method and the one trainer.

A method file holds exactly one class `Method(base.Method)`. `config.method.name` is the file's
name, and the rest of `config.method` are the constructor's keyword arguments. A method holds
hyper-parameters and Linen modules only. What it must remember between steps lies in the pytrees
that the trainer passes in and takes back. Methods are pure: the same arguments give the same values
on one device and on a pod, because batches are global arrays and random keys are given.

Letters: B lines, H W C pixels, N tokens, D width, S frames, L label length, V classes. `valid` True
= real row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax.models import vit

Params = Any
Batch = dict[str, jax.Array]


class Aux(NamedTuple):
    """What `loss` returns beside the loss.

    metrics  {name: f32[]}, global means
    mutable  the next `mutable` tree
    weight   f32 or i32[]: how many things the loss is a mean over (`Method.loss_is_mean`), where
             it is not the number of valid lines
    """

    metrics: dict[str, jax.Array]
    mutable: Any
    weight: jax.Array | None = None


class Method:
    """Base of every method. Subclasses override what they need and never call super()."""

    encoder: Any  # of `models.encoders`
    network: (
        nn.Module
    )  # all that is trained, the encoder under the name "encoder"; called with an augmented batch

    # Where nothing trains the encoder: a function (params, raw batch) -> {name: f32/i32[B, ...]}
    # that the methods of this class read in place of batch["image"]. The trainer then runs it once
    # a record and not once a step.
    frozen_features: Callable[[Params, Batch], Batch] | None = None

    # Whether the loss of a batch is the mean of the losses of its parts, each weighted by
    # Aux.weight: a mean over lines, or over pixels, in which no line meets another through contrast
    # or batch norm. Then config.accumulate may cut the batch.
    loss_is_mean: bool = False

    def init(self, key: jax.Array, batch: Batch) -> dict[str, Any]:
        """{"params": f32 tree, the encoder under params["encoder"]; "mutable": tree or {}} from an
        augmented batch.

        Default: the parameters of the network, and nothing mutable.
        """
        return {"params": self.network.init(key, batch)["params"], "mutable": {}}

    def loss(
        self, params: Params, state: Any, batch: Batch, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """(f32[] loss over the global batch, Aux). `batch` went through `augment`; read
        state.teacher, state.mutable.

        progress f32[] in [0, 1) = step / total, for weights and phases that follow the training.
        Gradients are taken with respect to `params` only; `state.params` is the same tree, without
        gradients. Metric names are relative ("pixel", "contrast"): the trainer writes them under
        `train/`.
        """
        raise NotImplementedError

    def check_optimizer(self, decays: Any, clip_norm: float | None) -> None:
        """ValueError where the optimiser of a training contradicts what the method promises.
        decays: `params` in bools, where weight decay moves them; clip_norm: the limit on the global
        norm. Default: it suits.
        """

    def augment(self, key: jax.Array, batch: Batch) -> Batch:
        """Raw u8 batch -> what `loss` reads: f32 views in [-1, 1] and masks, on the device.
        Default: as it is.
        """
        return batch

    def encode(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """Raw batch -> {"tokens": f32[B,N,D], "frames": f32[B,S,F], "frame_length": i32[B]},
        deterministic.

        Default: of whole lines, no token hidden; the frames are the tokens of a column side by
        side.
        """
        return encode_lines(self.encoder, params["encoder"], batch)

    def init_teacher(self, params: Params) -> Any:
        """The subtree that the teacher mirrors (same values as `params` at the start), or None.
        Default: None.
        """
        return None

    def update_teacher(self, teacher: Any, params: Params, progress: jax.Array) -> Any:
        """The moved teacher, before a step's loss. `progress` f32[] in [0, 1) = step / total.
        Default: as it is.
        """
        return teacher

    def schedules(self, progress: jax.Array) -> dict[str, jax.Array]:
        """{name: f32[]}: what the method schedules by `progress`, to be logged under `train/`.
        Default: nothing.
        """
        return {}

    def calibrate(self, params: Params, mutable: Any, batches: Iterator[Batch]) -> Any:
        """`mutable` after a look at raw global training batches, before step 0 (feature
        statistics). Default: as is.

        The trainer calls an overridden calibrate after `init_from` with up to
        config.calibrate_batches batches, never on resume, and each batch can be read once. It runs
        outside jit, so jit the heavy part inside.
        """
        return mutable

    def predict(self, params: Params, mutable: Any, batch: Batch) -> Any:
        """What a recogniser reads in a raw batch; other methods read nothing."""
        raise NotImplementedError(f"{type(self).__module__} does not read: it is no recogniser")

    def reconstruct(self, params: Params, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Pictures of a raw batch to look at, {name: f32[B,H,W,C] in [0, 1]}. Default: none."""
        return {}

    def apply(self, params: Params, part: str, *args: Any, key: jax.Array | None = None) -> Any:
        """network.part(*args) on these parameters. With a key in training mode, with drop path."""
        training = {} if key is None else {"deterministic": False, "rngs": {"drop_path": key}}
        return self.network.apply({"params": params}, *args, method=part, **training)


class WithTeacher(Method):
    """A method with a momentum teacher: the moving average of some parts of the student. m goes
    from `momentum` to 1 on a cosine (BYOL, arXiv 2006.07733)."""

    teacher_parts: Sequence[str]  # the parts that the teacher mirrors; none = there is no teacher
    momentum: float

    def init_teacher(self, params):
        return {name: params[name] for name in self.teacher_parts} or None

    def update_teacher(self, teacher, params, progress):
        """xi <- m xi + (1 - m) theta, with the student as it stands before this step's update."""
        return (
            move_teacher(teacher, params, cosine_momentum(progress, self.momentum))
            if teacher
            else None
        )

    def schedules(self, progress):
        return (
            {"teacher_momentum": cosine_momentum(progress, self.momentum)}
            if self.teacher_parts
            else {}
        )


def normalise(image: jax.Array) -> jax.Array:
    """u8[..., H, W, C] in [0, 255] -> f32 in [-1, 1]."""
    return image.astype(jnp.float32) * (1.0 / 127.5) - 1.0


def check_channels(image: jax.Array, channels: int) -> None:
    """ValueError for images [..., C] of another number of channels than the method was made for."""
    if image.shape[-1] != channels:
        raise ValueError(
            f"images have {image.shape[-1]} channels and the method was made for {channels}: set "
            "config.method.channels to config.data.channels"
        )


def check_column_offset(most: int) -> None:
    """ValueError for an argument column_offset_max below 0."""
    if most < 0:
        raise ValueError(
            f"column_offset_max is {most}; set config.method.column_offset_max to 0 or more"
        )


def check_fractions(**values: float) -> None:
    """ValueError for an argument that does not lie in [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it must lie in [0, 1]: set config.method.{name}")


def check_counts(**values: int) -> None:
    """ValueError for an argument below 1: widths of layers, and how many there are of something."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; set config.method.{name} to 1 or more")


def check_decoder(width: int, heads: int) -> None:
    """ValueError for a transformer whose decoder_width its decoder_heads cannot share, or its 2-D
    position codes.
    """
    check_counts(decoder_width=width, decoder_heads=heads)
    if width % heads or width % 4:
        raise ValueError(
            f"a decoder_width of {width} does not divide by 4 and into {heads} heads: set "
            "config.method.decoder_width to a multiple of both"
        )


def checked_block(block: str | int, encoder: Any, mix: bool = False) -> str | int:
    """The block that tokens come from: "last", a number as int or, with mix, "mix". ValueError for
    one that is not there.

    mix: of a recogniser. A pre-training freezes what stands above the block, which blocks that are
    scanned, one array for all, do not allow.
    """
    if block == "last":
        return block
    depth = getattr(encoder, "depth", 0)
    if not isinstance(encoder, vit.Vit) or not depth:
        raise ValueError(
            f"config.method.block is {block!r}, and only a ViT has blocks: leave it 'last'"
        )
    if mix and block == "mix":
        return block
    if not (str(block).isdigit() and 1 <= int(block) <= depth):
        names = "'last', 'mix'" if mix else "'last'"
        raise ValueError(
            f"config.method.block is {block!r}: set it to {names} or a number from 1 to {depth}"
        )
    if not mix and encoder.scan:
        raise ValueError(
            f"config.method.block is {block!r} and the blocks are scanned, so those above it "
            "cannot be frozen: set config.method.encoder.scan=False"
        )
    return int(block)


def encode_lines(encoder: Any, params: Params, batch: Batch) -> dict[str, jax.Array]:
    """Features of whole, unmasked lines from a raw batch, see `Method.encode`.

    params: the encoder's own. frames: the tokens of a column side by side, f32[B,S,Gh*D].
    """
    tokens = encoder.apply({"params": params}, normalise(batch["image"]), batch["width"])
    frames = vit.frames(tokens, vit.grid(batch["image"].shape, encoder.patch)[0])
    return {
        "tokens": tokens,
        "frames": frames,
        "frame_length": vit.columns(batch["width"], encoder.patch[1]),
    }


def cosine_momentum(progress: jax.Array, start: float) -> jax.Array:
    """m = 1 - (1 - start) (1 + cos(pi progress)) / 2: from `start` at progress 0 to 1 at progress 1
    (BYOL, MoCo v3).
    """
    return 1.0 - 0.5 * (1.0 + jnp.cos(jnp.pi * progress)) * (1.0 - start)


def linear_momentum(progress: jax.Array, start: float, end: float, frac: float) -> jax.Array:
    """tau from `start` in a straight line to `end`, which it reaches after `frac` of the training
    (data2vec, arXiv 2202.03555)."""
    share = jnp.minimum(progress / frac, 1.0) if frac else 1.0
    return start + (end - start) * jnp.asarray(share, jnp.float32)


def move_teacher(teacher: Any, params: Params, momentum: jax.Array | float) -> Any:
    """xi <- m xi + (1 - m) theta for the parts of `params` that the teacher holds, with the student
    as it stands.
    """
    student = {name: params[name] for name in teacher}
    return jax.tree.map(lambda xi, theta: momentum * xi + (1 - momentum) * theta, teacher, student)
