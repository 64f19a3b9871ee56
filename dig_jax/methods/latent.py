"""Latent targets: the student sees a masked line and says what a teacher makes of the whole line.

Paper   Baevski et al., "data2vec", ICML 2022, arXiv 2202.03555. For text with a fixed teacher:
        LMIM, CVPR 2025.

    what                                                         where
    student: mask tokens, every token through the encoder: f     Network.__call__
    teacher: the whole line; the mean of its last K blocks,      Network.target
        normalised over the width of each token: y
    L = smooth L1 of f and y over masked tokens, its square      losses.masked_smooth_l1
        part as wide as beta
    xi <- tau xi + (1 - tau) theta; tau rises in a straight      Method.update_teacher
        line from tau_0 to tau_e, then stays                     base.linear_momentum

Certain, from the public code for images: targets are the outputs of whole blocks, normalised after
the mean (the paper's text normalises each block). K is half of the blocks, beta 2; 60 % of the
patches are masked, and one linear layer stands behind the student. tau goes from 0.999 to 0.9998.

target="fixed" keeps the teacher as it started. It is a network of the same shape that another run
or an import made: `latent:teacher=RUN` loads it. target="pixels" has no teacher; then this is
SimMIM with another loss, and the latent targets are all that differs.

Departures
- The teacher is the moving average of the whole encoder (there: without the patch embedding).
- LMIM's decoder, which looks at a second view, and its loss between two CLS tokens are left out.
- A CNN has no blocks: its target is its output, normalised.
- The loss is a mean over the width of a token; there it is a sum, scaled.

Watch   t_std: spread of the targets, healthy about 1 / sqrt(D); near 0 they are all alike, which
        is collapse: the loss then falls towards 0, too. latent starts near the loss of two
        unrelated vectors, about 0.3 with beta 2. Latent targets start slowly: give them three times
        the steps of a reconstruction before you judge.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import masks
from dig_jax.methods.shared import base, pixels, two_views
from dig_jax.models import encoders, heads, vit

TARGETS = ("ema", "fixed", "pixels")


class Network(nn.Module):
    """Student and, on its own parameters, teacher (the encoder alone).

    values: what is said of a token, D or a patch's pixels. blocks: K, 0 for an encoder without
    blocks.
    """

    encoder: Any
    values: int
    blocks: int

    @nn.compact
    def __call__(self, batch, deterministic=True):
        """Augmented batch -> what the student says of every token, f32[B,N,values]."""
        tokens = two_views.encode(self.encoder, batch, batch["mask"], deterministic)[:, 0]
        return heads.linear(self.values, self.encoder.width, self.encoder.dtype, "head")(tokens)

    def target(self, batch):
        """Augmented batch -> y f32[B,N,D] of the whole line; its tokens have mean 0 and variance
        1."""
        offset = batch["column_offset"][:, 0] if "column_offset" in batch else None
        each = {"each_block": True} if self.blocks else {}
        tokens = self.encoder(batch["view1"], batch["width"], None, offset, **each)
        return normalised(jnp.mean(tokens[-self.blocks :], 0) if self.blocks else tokens)


def normalised(tokens, epsilon=1e-5):
    """f32[...,D] -> the same with mean 0 and variance 1 over D: a layer norm without parameters."""
    tokens = tokens.astype(jnp.float32)
    tokens = tokens - jnp.mean(tokens, -1, keepdims=True)
    return tokens * jax.lax.rsqrt(jnp.mean(jnp.square(tokens), -1, keepdims=True) + epsilon)


def last_blocks(count: int | None, encoder: Any) -> int:
    """K of an encoder: `count`, or None for half of its blocks; 0 for a CNN, which has none."""
    depth = encoder.depth if isinstance(encoder, vit.Vit) else 0
    if count is None:
        return -(-depth // 2)
    if not depth or not 1 <= count <= depth:
        raise ValueError(
            f"target_blocks is {count} and the encoder has {depth} blocks: set "
            "config.method.target_blocks to None, or to a number of them"
        )
    return count


class Method(base.WithTeacher):
    """Latent targets.

    encoder: see `encoders.create`. channels: C of the images. target: "ema", "fixed" or "pixels".
    target_blocks: K, None = half of the blocks. beta: difference at which the loss turns from a
    square into a line. mask_*: see `masks.hider`. momentum, momentum_end: tau_0 and tau_e, which is
    reached after momentum_frac of the training. pixel_target, target_floor: see
    `pixels.pixel_target`, for target "pixels". column_offset_max: see `two_views.column_offsets`.
    Raises ValueError for values out of range.
    """

    loss_is_mean = True

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        target: str = "ema",
        target_blocks: int | None = None,
        beta: float = 2.0,
        mask_ratio: float = 0.6,
        mask_span: int = 1,
        mask_kind: str | None = None,
        mask_unit_px: Sequence[int] | None = None,
        momentum: float = 0.999,
        momentum_end: float = 0.9998,
        momentum_frac: float = 1.0,
        pixel_target: str = "normalized",
        target_floor: float = 0.05,
        column_offset_max: int = 0,
    ):
        if target not in TARGETS:
            raise ValueError(
                f"target is {target!r}; set config.method.target to one of {', '.join(TARGETS)}"
            )
        pixels.check(pixel_target, mask_ratio, column_offset_max, target_floor)
        base.check_fractions(
            momentum=momentum, momentum_end=momentum_end, momentum_frac=momentum_frac
        )
        self.encoder = encoders.create(encoder)
        self.patch, self.channels = tuple(self.encoder.patch), channels
        self.target = target
        self.pixel_target = self.patch, pixel_target, target_floor
        self.teacher_parts = () if target == "pixels" else ("encoder",)
        self.rise = momentum, momentum_end, momentum_frac
        self.distance = functools.partial(losses.masked_smooth_l1, beta=beta)
        self.hide = masks.hider(self.patch, mask_ratio, mask_span, mask_kind, mask_unit_px)
        self.column_offset_max = column_offset_max
        patch = math.prod(self.patch) * channels
        self.network = Network(
            encoder=self.encoder,
            values=patch if target == "pixels" else self.encoder.width,
            blocks=last_blocks(target_blocks, self.encoder),
        )

    def augment(self, key, batch):
        """See `pixels.masked_view`."""
        layout = self.channels, self.patch, self.column_offset_max
        return pixels.masked_view(key, batch, self.hide, *layout)

    def loss(self, params, state, batch, key, progress):
        """L. Metrics: latent (L itself) and t_std, the spread of the targets that count, as unit
        vectors; for pixels the metric pixel alone.
        """
        said = self.apply(params, "__call__", batch, key=key)
        if self.target == "pixels":
            target = pixels.pixel_target(batch["view1"], batch["width"], *self.pixel_target)[0]
            loss_weights = pixels.loss_weights(batch, self.patch)
            loss = self.distance(said, target, loss_weights)
            return loss, base.Aux({"pixel": loss}, state.mutable, jnp.sum(loss_weights))
        target = jax.lax.stop_gradient(self.apply(state.teacher, "target", batch))
        loss_weights = batch["mask"] & batch["valid"][:, None]
        loss = self.distance(said, target, jnp.broadcast_to(loss_weights[..., None], said.shape))
        metrics = {"latent": loss, "t_std": losses.unit_std(target, loss_weights)}
        return loss, base.Aux(metrics, state.mutable, jnp.sum(loss_weights))

    def update_teacher(self, teacher, params, progress):
        if self.target != "ema":
            return teacher
        return base.move_teacher(teacher, params, base.linear_momentum(progress, *self.rise))

    def schedules(self, progress):
        if self.target != "ema":
            return {}
        return {"teacher_momentum": base.linear_momentum(progress, *self.rise)}

    def reconstruct(self, params, batch, key):
        """`pixels.pictures` of a raw batch where pixels are the target; else {}."""
        if self.target != "pixels":
            return {}
        batch = self.augment(key, batch)
        return pixels.pictures(self.apply(params, "__call__", batch), batch, *self.pixel_target)
