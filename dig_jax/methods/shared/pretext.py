"""Pretext tasks: what the classic ones share. A question is made of a line, and its answer is known
without a reader.

    kind                 methods                                where
    choose 1 of K        rotation, jigsaw, relative_position    Classifier, choice_loss
      from windows       jigsaw, relative_position              Layout, cutter
    paint the line       colorization, denoising                Painter, paint_loss

A batch of the first kind holds Q questions a line, each of V / Q views: view1 .. viewV f32[B,H,w,C]
in [-1, 1], width i32[B] (real pixels of each view), valid bool[B], answer i32[B,Q] and perhaps
column_offset i32[B,V]. One of the second kind holds view1 (what the encoder sees), target
f32[B,H,W,P] in [-1, 1] (what shall be painted), width and valid. In both, `valid` is False too for
lines of which no question can be made. The metric `used` is the share of rows that count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import views
from dig_jax.methods.shared import base, contrast, pixels, two_views
from dig_jax.models import heads, layers, vit

# ---- windows ----


class Layout(NamedTuple):
    """A row of `cells` windows of full height, window_px wide and gap_px apart. Each is then pushed
    to the right by its own 0..jitter_px. So neighbours keep gap_px - jitter_px .. gap_px +
    jitter_px between them."""

    cells: int
    window_px: int
    gap_px: int
    jitter_px: int

    @property
    def span_px(self) -> int:
        """Width that the row may take."""
        return self.cells * (self.window_px + self.gap_px) - self.gap_px + self.jitter_px

    def check(self, patch_px: int) -> None:
        if self.window_px <= 0 or self.window_px % patch_px:
            raise ValueError(
                f"window_px is {self.window_px}; it must be a multiple of the patch width, "
                f"{patch_px}: set config.method.window_px"
            )
        if not 0 <= self.jitter_px <= self.gap_px:
            raise ValueError(
                f"jitter_px is {self.jitter_px} and gap_px {self.gap_px}; windows may not overlap: "
                "set config.method.jitter_px to 0..gap_px"
            )


def cut(
    key,
    batch: base.Batch,
    cells: jax.Array,
    layout: Layout,
    recipe: Any,
    column_offset_max: int,
    context_free: bool = True,
) -> base.Batch:
    """Raw batch -> {"view1" .. "viewV", "width", "valid"} and, when asked for, "column_offset":
    windows as lines of their own.

    cells i32[B,V]: the cell that each view shows. recipe: augmentation, or None. If context_free it
    is of every window by itself, so that their tones differ. Otherwise it is of the whole line
    before it is cut, so that strokes go on from window to window. The row lies anywhere within the
    real line. A line that is narrower than the row is not valid. So no window holds padding, and
    padding reveals nothing about `cells`. ValueError where not even a full image has room for the
    row.
    """
    (rows, count), window_px = cells.shape, layout.window_px
    if layout.span_px > (canvas_px := batch["image"].shape[2]):
        raise ValueError(
            f"images are {canvas_px} px wide and {layout.cells} windows of {window_px} px take "
            f"{layout.span_px} px: widen config.data.width_px, or set a smaller "
            "config.method.window_px or gap_px"
        )
    left_key, jitter_key, view_key, offset_key = jax.random.split(key, 4)
    room = jnp.maximum(batch["width"] - layout.span_px, 0)
    left = jax.random.randint(left_key, room.shape, 0, room + 1)
    pushed = jax.random.randint(jitter_key, cells.shape, 0, layout.jitter_px + 1)
    start = left[:, None] + cells * (window_px + layout.gap_px) + pushed  # (B, V)
    columns = (start[..., None] + jnp.arange(window_px)[None, None]).reshape(rows, 1, -1, 1)
    image = batch["image"] if context_free else two_views.view(view_key, batch, recipe, None)
    windows = jnp.take_along_axis(
        image, columns, axis=2, mode="clip"
    )  # (B, H, V * w, C); lines too narrow do not count
    windows = jnp.moveaxis(windows.reshape(rows, image.shape[1], count, window_px, -1), 2, 1)
    if context_free:
        lines = {
            "image": windows.reshape(-1, *windows.shape[2:]),
            "width": jnp.full(rows * count, window_px, jnp.int32),
        }
        windows = two_views.view(view_key, lines, recipe, None).reshape(windows.shape)
    out = {f"view{i + 1}": windows[:, i] for i in range(count)}
    out["width"] = jnp.full(rows, window_px, jnp.int32)
    out["valid"] = batch["valid"] & (batch["width"] >= layout.span_px)
    return out | two_views.column_offsets(offset_key, rows, count, column_offset_max)


def cutter(
    *,
    channels: int,
    layout: Layout,
    patch_px: int,
    recipe: Any,
    column_offset_max: int,
    context_free: bool = True,
) -> Callable[[jax.Array, base.Batch, jax.Array], base.Batch]:
    """`cut` with all but the data settled: (key, raw batch, cells) -> augmented batch without an
    answer. ValueError for values out of range, here, and for images of another number of channels,
    there."""
    base.check_column_offset(column_offset_max)
    layout.check(patch_px)
    recipe = views.recipe(recipe)

    def augment(key, batch, cells):
        base.check_channels(batch["image"], channels)
        return cut(key, batch, cells, layout, recipe, column_offset_max, context_free)

    return augment


# ---- choose one of K ----


def check_layers(tile_width: int, projector_width: int, context_free: bool) -> None:
    """ValueError for widths that `Classifier` cannot have."""
    for name, value in (("tile_width", tile_width), ("projector_width", projector_width)):
        if value < 0:
            raise ValueError(f"{name} is {value}; set config.method.{name} to 0 or more")
    if not tile_width and not context_free:
        raise ValueError(
            "tile_width is 0, the mean of all tokens, which cannot tell windows that lie in one "
            "image: set config.method.tile_width above 0, or config.method.context_free=True"
        )


class Classifier(nn.Module):
    """Encoder on the views, one vector of each, and a classifier on the vectors of a question side
    by side.

    context_free: the encoder sees every view by itself, and views meet in the classifier alone.
    Otherwise the views of a line, windows without padding, lie side by side in one image. What
    shows at the edge of one can then be compared with the next.

    tile: width of a layer with ReLU that makes the vector of all tokens in their order, for
    windows, which hold no padding. 0: the mean over the real tokens, which forgets where in the
    view they lie. hidden: width of a layer with ReLU before the last one; 0 = linear.
    """

    encoder: nn.Module  # of `models.encoders`
    views: int
    classes: int
    hidden: int
    tile: int = 0
    context_free: bool = True

    @nn.compact
    def __call__(self, batch, deterministic=True):
        """-> logits f32[B,Q,K]."""
        views = [batch[f"view{i + 1}"] for i in range(self.views)]
        if self.context_free:
            rows = {name: jnp.repeat(batch[name], self.views) for name in ("width", "valid")}
            rows["view1"] = two_views.interleave(views)
            if "column_offset" in batch:
                rows["column_offset"] = batch["column_offset"].reshape(-1, 1)
        else:
            rows = {"view1": jnp.concatenate(views, axis=2), "width": batch["width"] * self.views}
            if "column_offset" in batch:
                rows["column_offset"] = batch["column_offset"][:, :1]
        tokens = two_views.encode(self.encoder, rows, None, deterministic)
        how = {"dtype": self.encoder.dtype, "kernel_init": layers.uniform_fan_in()}
        if self.tile:
            flat = tokens.reshape(
                self.views * len(batch["width"]), -1
            )  # columns in their order, so windows as well
            x = jax.nn.relu(layers.Dense(self.tile, **how, name="tile")(flat))
        else:
            x, _ = contrast.instances(tokens, rows, self.encoder.patch, None)  # (B * V, 1, 1, D)
        x = x.reshape(*batch["answer"].shape, -1)  # (B, Q, V / Q * D)
        if self.hidden:
            x = jax.nn.relu(layers.Dense(self.hidden, **how, name="fuse")(x))
        return layers.Dense(self.classes, **how, name="choose")(x)


def cross_entropy(
    logits: jax.Array, answer: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(loss f32[] in nats, accuracy f32[]): means over the questions of valid lines, 0 without any.

    logits f32[B,Q,K], answer i32[B,Q], valid bool[B]. Without knowledge about ln K and 1 / K. Lines
    that are not valid reach neither figure nor any gradient, not even when they are NaN.
    """
    counts = jnp.broadcast_to(valid[:, None], answer.shape)
    logits = jnp.where(counts[..., None], logits, 0.0)
    right = jnp.take_along_axis(jax.nn.log_softmax(logits), answer[..., None], axis=-1)[..., 0]
    mean = lambda x: jnp.sum(jnp.where(counts, x, 0.0)) / jnp.maximum(jnp.sum(counts), 1)
    return -mean(right), mean(jnp.argmax(logits, axis=-1) == answer)


def choice_loss(logits: jax.Array, batch: base.Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`cross_entropy` of an augmented batch, and the metrics accuracy and used."""
    loss, accuracy = cross_entropy(logits, batch["answer"], batch["valid"])
    return loss, {"accuracy": accuracy, "used": jnp.mean(batch["valid"], dtype=jnp.float32)}


# ---- paint the line ----


class Painter(nn.Module):
    """Encoder on the whole of view1 and a pixel decoder on each token -> f32[B,N,values], values =
    ph * pw * P.
    """

    encoder: nn.Module
    values: int
    decoder_width: int

    @nn.compact
    def __call__(self, batch, deterministic=True):
        tokens = two_views.encode(self.encoder, batch, None, deterministic)[:, 0]
        decoder = heads.PixelDecoder(
            self.values,
            self.decoder_width,
            self.encoder.dtype,
            getattr(self.encoder, "gelu", "exact"),  # a CNN has none
            name="pix_decoder",
        )
        return decoder(tokens)


def paint_loss(
    prediction: jax.Array, batch: base.Batch, *, baseline: jax.Array, patch, kind, floor
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """Mean square over every real pixel of valid lines, in the units of `pixels.pixel_target`; the
    metrics; and how many values it is a mean over.

    baseline f32[B,H,W,P] in [-1, 1]: what can be said without learning anything (the spoilt image
    itself, grey). Metrics: pixel, the loss, and baseline, the same figure of that answer: learning
    begins where pixel falls below it.
    """
    target, mean, deviation, real = pixels.pixel_target(
        batch["target"], batch["width"], patch, kind, floor
    )
    real = real & batch["valid"][:, None, None]
    baseline = (vit.patchify(baseline * 0.5 + 0.5, patch) - mean) / deviation
    loss, of_baseline = (losses.masked_mse(x, target, real) for x in (prediction, baseline))
    return loss, {"pixel": loss, "baseline": of_baseline}, jnp.sum(real)
