"""Views of a line side by side: what every method that compares views of one line shares.

The V views of a line are neighbouring rows, b * V + v, when they go through a network, so that splitting the batch over
devices never parts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dig_jax.augment import views
from dig_jax.methods import base
from dig_jax.models import heads, vit


def pair(
    key: jax.Array,
    batch: base.Batch,
    recipes: Sequence[str | Mapping[str, Any] | None],
    max_shift_px: float | None,
    column_offset_max: int = 0,
) -> base.Batch:
    """Raw batch -> {"view1", "view2" f32[B,H,W,C] in [-1, 1], "width", "valid"} and, when asked for, "column_offset".

    recipes: of view1 and view2; None leaves the line as it is. max_shift_px: bound on the sideways way of every pixel, None
    = unbounded. column_offset_max: see `column_offsets`.
    """
    *view_keys, offset_key = jax.random.split(key, 3)
    out = {"width": batch["width"], "valid": batch["valid"]}
    for name, recipe, view_key in zip(("view1", "view2"), recipes, view_keys, strict=True):
        out[name] = view(view_key, batch, recipe, max_shift_px)
    return out | column_offsets(offset_key, len(batch["width"]), 2, column_offset_max)


def view(key, batch, recipe, max_shift_px) -> jax.Array:
    """One view of a raw batch, f32[B,H,W,C] in [-1, 1]; recipe None: the line itself."""
    if recipe is None:
        return base.normalise(batch["image"])
    return views.augment(key, batch["image"], batch["width"], views.recipe(recipe), max_shift_px) * 2.0 - 1.0


def column_offsets(key, rows: int, count: int, most: int) -> base.Batch:
    """{"column_offset" i32[B,V]}, the first column of each view's position code, uniform in 0..most; {} for most = 0.

    So narrow crops train the positions that long lines use. Each view draws its own: a shared one would give the pair away,
    and even the same zero for all lets a network match windows by their position alone.
    """
    return {"column_offset": jax.random.randint(key, (rows, count), 0, most + 1)} if most else {}


def interleave(parts: Sequence[jax.Array]) -> jax.Array:
    """V arrays [B, ...] -> [B * V, ...], the V of a line next to each other."""
    stacked = jnp.stack(parts, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def encode(encoder: vit.Vit, batch: base.Batch, mask: jax.Array | None = None, deterministic: bool = True) -> jax.Array:
    """view1 and, where there is one, view2 of an augmented batch -> tokens f32[B,V,N,D], in one pass over B * V rows.

    encoder: a bound module. mask bool[B,N]: hidden patches of view1; view2 is never masked.
    """
    images = [batch[name] for name in ("view1", "view2") if name in batch]
    if mask is not None:
        mask = interleave([mask, jnp.zeros_like(mask)][: len(images)])
    offset = batch.get("column_offset")
    offset = None if offset is None else offset.reshape(-1)
    width = jnp.repeat(batch["width"], len(images))
    tokens = encoder(interleave(images), width, mask, offset, deterministic=deterministic)
    return tokens.reshape(-1, len(images), *tokens.shape[1:])


def instances(tokens: jax.Array, batch: base.Batch, patch: Sequence[int], window_px: int | None):
    """Tokens of V views f32[B,V,N,D] -> instances f32[B,V,S,D], the unit of a contrast, and which are real, bool[B,V,S].

    Means over windows of full height and `window_px` width (`heads.pool_windows`): None makes one instance of a whole line
    (all-to-instance), the width of a patch one of every column (frame-to-instance). Neither padding nor rows that are not
    valid count.
    """
    views_count = tokens.shape[1]
    shape = batch["view1"].shape
    width, valid = (jnp.repeat(batch[name], views_count) for name in ("width", "valid"))
    flat = tokens.reshape(-1, *tokens.shape[2:])
    pooled, real = heads.pool_windows(flat, width, vit.grid(shape, patch), patch, window_px or shape[2])
    real = real & valid[:, None]
    back = lambda x: x.reshape(-1, views_count, *x.shape[1:])  # noqa: E731
    return back(pooled), back(real)
