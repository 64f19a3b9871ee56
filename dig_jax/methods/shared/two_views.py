"""Views of a line: how they are made and encoded side by side.

The V views of a line are neighbouring rows, b * V + v, in the network's batch. So splitting the
batch over devices never parts them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax.augment import views
from dig_jax.methods.shared import base


def displaced_crops(
    key, batch: base.Batch, displace_px: int, window_px: int
) -> tuple[tuple[base.Batch, base.Batch], base.Batch]:
    """Two crops of each line, W - displace_px wide, that begin up to displace_px apart. Returns
    their raw batches and {"first" i32[B,2]}, the window of the line with which each begins.

    Where they begin apart, what both show lies at another place in each; `seqclr.aligned` finds
    the pairs. A line that fits a crop is shown whole, twice.
    """
    seen = batch["image"].shape[2] - displace_px
    windows = jnp.clip(batch["width"] - seen, 0, displace_px) // window_px
    first = jax.random.randint(key, (len(windows), 2), 0, windows[:, None] + 1)
    cut = jax.vmap(
        lambda line, window: jax.lax.dynamic_slice_in_dim(line, window * window_px, seen, axis=1)
    )
    narrow = {**batch, "width": jnp.minimum(batch["width"], seen)}
    one, two = ({**narrow, "image": cut(batch["image"], first[:, v])} for v in (0, 1))
    return (one, two), {"first": first}


def augmenter(
    *,
    channels: int,
    recipes: Sequence[Any],
    max_shift_px: float | None,
    column_offset_max: int,
    displace_px: int = 0,
    window_px: int | None = None,
) -> Callable[[jax.Array, base.Batch], base.Batch]:
    """`Method.augment` of methods that compare two views, with all but the data settled.

    (key, raw batch) -> {"view1", "view2" f32[B,H,W,C] in [-1, 1], "width", "valid"} and, when asked
    for, "column_offset" and "first".

    recipes: of view1 and view2; None leaves the line as it is. max_shift_px: bound on the sideways
    way of every pixel, None = unbounded. column_offset_max: see `column_offsets`. displace_px: see
    `displaced_crops`, whole windows of window_px. ValueError for values out of range, here, and for
    images that do not suit them, there.
    """
    recipes = tuple(views.recipe(recipe) for recipe in recipes)
    base.check_column_offset(column_offset_max)
    if displace_px and (window_px is None or displace_px < 0 or displace_px % window_px):
        raise ValueError(
            f"displace_px is {displace_px} with windows of {window_px or 'any'} px; set "
            "config.method.displace_px to 0 or to whole windows, config.method.window_px"
        )

    def augment(key, batch):
        base.check_channels(batch["image"], channels)
        if displace_px >= batch["image"].shape[2]:
            raise ValueError(
                f"displace_px is {displace_px}, so lines must be wider: set config.data.width_px "
                "to more"
            )
        *view_keys, offset_key = jax.random.split(key, 3)
        seen, out = (batch, batch), {}
        if displace_px:
            seen, out = displaced_crops(jax.random.fold_in(key, 3), batch, displace_px, window_px)
        out |= {"width": seen[0]["width"], "valid": batch["valid"]}
        for name, raw, recipe, view_key in zip(
            ("view1", "view2"), seen, recipes, view_keys, strict=True
        ):
            out[name] = view(view_key, raw, recipe, max_shift_px)
        return out | column_offsets(offset_key, len(batch["width"]), 2, column_offset_max)

    return augment


def view(key, batch, recipe, max_shift_px) -> jax.Array:
    """One view of a raw batch, f32[B,H,W,C] in [-1, 1]; recipe None: the line itself."""
    if recipe is None:
        return base.normalise(batch["image"])
    image, width = batch["image"], batch["width"]
    return views.augment(key, image, width, views.recipe(recipe), max_shift_px) * 2.0 - 1.0


def column_offsets(key, rows: int, count: int, most: int) -> base.Batch:
    """{"column_offset" i32[B,V]}, the first column of each view's position code, uniform in
    0..most; {} for most = 0.

    So narrow crops train the positions that long lines use. Each view draws its own, because a
    shared one would give the pair away. Even the same zero for all lets a network match windows by
    their position alone.
    """
    return {"column_offset": jax.random.randint(key, (rows, count), 0, most + 1)} if most else {}


def single(batch: base.Batch, index: int) -> base.Batch:
    """The augmented batch that holds one of its two views, 0 or 1, alone and as "view1"."""
    kept = {
        "view1": batch[("view1", "view2")[index]],
        "width": batch["width"],
        "valid": batch["valid"],
    }
    if "column_offset" in batch:
        kept["column_offset"] = batch["column_offset"][:, index : index + 1]
    return kept


def interleave(parts: Sequence[jax.Array]) -> jax.Array:
    """V arrays [B, ...] -> [B * V, ...], the V of a line next to each other."""
    stacked = jnp.stack(parts, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def encode(
    encoder: nn.Module,
    batch: base.Batch,
    mask: jax.Array | None = None,
    deterministic: bool = True,
    block: str | int = "last",
) -> jax.Array:
    """view1 and, where there is one, view2 of an augmented batch -> tokens f32[B,V,N,D], in one
    pass over B * V rows.

    encoder: a bound module. mask: hidden patches, bool[B,N] of view1 alone, or bool[B,V,N] of every
    view. block: "last", or the number of the block whose output is taken, from 1, without the last
    norm; those above it then have no gradient.
    """
    images = [batch[name] for name in ("view1", "view2") if name in batch]
    if mask is not None and mask.ndim == 3:
        mask = mask.reshape(-1, mask.shape[2])
    elif mask is not None:
        mask = interleave([mask, jnp.zeros_like(mask)][: len(images)])
    offset = batch.get("column_offset")
    offset = None if offset is None else offset.reshape(-1)
    width = jnp.repeat(batch["width"], len(images))
    if encoder.is_initializing():
        block = "last"  # so that every parameter is made, those that stand above the block, too
    each = {} if block == "last" else {"each_block": True}
    tokens = encoder(interleave(images), width, mask, offset, deterministic=deterministic, **each)
    tokens = tokens if block == "last" else tokens[block - 1]
    return tokens.reshape(-1, len(images), *tokens.shape[1:])
