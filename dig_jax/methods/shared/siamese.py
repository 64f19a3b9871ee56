"""Views of a line side by side: what every method that compares views of one line shares.

The V views of a line are neighbouring rows, b * V + v, when they go through a network, so that
splitting the batch over devices never parts them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import views
from dig_jax.methods.shared import base
from dig_jax.models import heads, vit


def stretches(
    key, batch: base.Batch, displace_px: int, window_px: int
) -> tuple[tuple[base.Batch, base.Batch], base.Batch]:
    """Two stretches of each line, W - displace_px wide, that begin up to displace_px apart: their
    raw batches, and {"first" i32[B,2]}, the window of the line with which each begins.

    Where they begin apart, what both show lies at another place in each; `instances` finds the
    pairs. A line that fits a stretch is shown whole, twice.
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


def two_views(
    *,
    channels: int,
    recipes: Sequence[Any],
    max_shift_px: float | None,
    column_offset_max: int,
    displace_px: int = 0,
    window_px: int | None = None,
) -> Callable[[jax.Array, base.Batch], base.Batch]:
    """`Method.augment` of methods that compare two views, with all but the data settled: (key, raw
    batch) -> {"view1", "view2" f32[B,H,W,C] in [-1, 1], "width", "valid"} and, when asked for,
    "column_offset" and "first".

    recipes: of view1 and view2; None leaves the line as it is. max_shift_px: bound on the sideways
    way of every pixel, None = unbounded. column_offset_max: see `column_offsets`. displace_px: see
    `stretches`, whole windows of window_px. ValueError for values out of range, here, and for
    images that do not suit them, there.
    """
    recipes = tuple(views.recipe(recipe) for recipe in recipes)
    base.check_column_offset(column_offset_max)
    if displace_px and (window_px is None or displace_px < 0 or displace_px % window_px):
        raise ValueError(
            f"displace_px is {displace_px} with windows of {window_px or 'any'} px; set config.method.displace_px to 0 or to "
            "whole windows, config.method.window_px"
        )

    def augment(key, batch):
        base.check_channels(batch["image"], channels)
        if displace_px >= batch["image"].shape[2]:
            raise ValueError(
                f"displace_px is {displace_px}, so lines must be wider: set config.data.width_px to more"
            )
        *view_keys, offset_key = jax.random.split(key, 3)
        seen, out = (batch, batch), {}
        if displace_px:
            seen, out = stretches(jax.random.fold_in(key, 3), batch, displace_px, window_px)
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
    return (
        views.augment(key, batch["image"], batch["width"], views.recipe(recipe), max_shift_px) * 2.0
        - 1.0
    )


def column_offsets(key, rows: int, count: int, most: int) -> base.Batch:
    """{"column_offset" i32[B,V]}, the first column of each view's position code, uniform in
    0..most; {} for most = 0.

    So narrow crops train the positions that long lines use. Each view draws its own: a shared one
    would give the pair away, and even the same zero for all lets a network match windows by their
    position alone.
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
    encoder: vit.Vit, batch: base.Batch, mask: jax.Array | None = None, deterministic: bool = True
) -> jax.Array:
    """view1 and, where there is one, view2 of an augmented batch -> tokens f32[B,V,N,D], in one
    pass over B * V rows.

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
    """Tokens of V views f32[B,V,N,D] -> instances f32[B,V,S,D], the unit of a contrast, and which
    are real, bool[B,V,S].

    Means over windows of full height and `window_px` width (`heads.pool_windows`): None makes one
    instance of a whole line (all-to-instance), the width of a patch one of every column
    (frame-to-instance). Neither padding nor rows that are not valid count, nor, of views that begin
    at different windows ("first", see `stretches`), what only one of them shows: those of the
    second view are moved to the places of the first.
    """
    views_count = tokens.shape[1]
    shape = batch["view1"].shape
    width, valid = (jnp.repeat(batch[name], views_count) for name in ("width", "valid"))
    flat = tokens.reshape(-1, *tokens.shape[2:])
    pooled, real = heads.pool_windows(
        flat, width, vit.grid(shape, patch), patch, window_px or shape[2]
    )
    real = real & valid[:, None]
    back = lambda x: x.reshape(-1, views_count, *x.shape[1:])
    pooled, real = back(pooled), back(real)
    return _aligned(pooled, real, batch["first"]) if "first" in batch else (pooled, real)


def _aligned(x, real, first):
    """Instances f32[B,2,S,D], real bool[B,2,S] of views that begin at windows i32[B,2] -> the same,
    where the second view's S are those of the first; real where both views have them."""
    place = (
        jnp.arange(x.shape[2])[None] + (first[:, 0] - first[:, 1])[:, None]
    )  # in view 2, of what is s in view 1
    shown = (place >= 0) & (place < x.shape[2])
    place = jnp.where(shown, place, 0)
    moved = jnp.take_along_axis(x[:, 1], place[..., None], axis=1)
    both = real[:, 0] & shown & jnp.take_along_axis(real[:, 1], place, axis=1)
    return jnp.stack([x[:, 0], moved], axis=1), jnp.stack([both, both], axis=1)


class Network(nn.Module):
    """Encoder, projector and, where a method has one, predictor: from views to what a contrast
    compares.

    projector, predictor: heads called with (x, real). window_px: see `instances`. by_view: the
    batch norms of the heads take their statistics in each view alone, as a network does that is
    called once a view (MoCo v3, SimSiam); else in both views together (SimCLR, DiG).
    """

    encoder: nn.Module
    projector: nn.Module
    predictor: nn.Module | None = None
    window_px: int | None = None
    by_view: bool = False

    def __call__(self, batch, deterministic=True):
        """Augmented batch -> predictions q, projections z f32[B,V,S,K], real bool[B,V,S]; without a
        predictor q is z.
        """
        z, real = self.project(batch, deterministic)
        return z if self.predictor is None else self._head(self.predictor, z, real), z, real

    def project(self, batch, deterministic=True):
        """(z, real) alone: all that a teacher, which has no predictor, can do."""
        tokens = encode(self.encoder, batch, None, deterministic)
        x, real = instances(tokens, batch, self.encoder.patch, self.window_px)
        return self._head(self.projector, x, real), real

    def _head(self, head, x, real):
        return each(head, x, real) if self.by_view else head(x, real)


def each(head: Callable[..., jax.Array], x: jax.Array, real: jax.Array) -> jax.Array:
    """A head with batch norms, called with each view alone: x f32[B,V,S,D], real bool[B,V,S] ->
    f32[B,V,S,K].
    """
    return jnp.stack([head(x[:, v], real[:, v]) for v in range(x.shape[1])], axis=1)


def rows(x: jax.Array, index: int) -> jax.Array:
    """The instances of one view: [B,V,S,...] -> [B * S, ...], as losses want them."""
    return x[:, index].reshape(-1, *x.shape[3:])


def crosswise(loss: Callable[..., Any], ours: jax.Array, theirs: jax.Array, real: jax.Array) -> Any:
    """loss(our view 1, their view 2) + loss(our view 2, their view 1), leaf by leaf of what `loss`
    returns.

    ours, theirs f32[B,2,S,K], real bool[B,2,S]: an instance counts when it is real, which in both
    views it is or is not. loss(x, y, valid=...) takes f32[M,K], f32[M,K], bool[M].
    """
    one = loss(rows(ours, 0), rows(theirs, 1), valid=rows(real, 0))
    two = loss(rows(ours, 1), rows(theirs, 0), valid=rows(real, 1))
    return jax.tree.map(operator.add, one, two)


def among_keys(
    ctr: Callable[..., Any], q: jax.Array, k: jax.Array, real: jax.Array
) -> dict[str, jax.Array]:
    """The figures of ctr(q1, k2) + ctr(q2, k1), f32[] each: contrast (that sum), top1 (share of
    queries that find their own key, mean of both directions), q_std (spread of unit queries, mean
    over channels). ctr: `losses.info_nce`."""
    contrast, top1 = crosswise(ctr, q, k, real)
    return {"contrast": contrast, "top1": top1 / 2, "q_std": losses.unit_std(q, real)}


def among_all(ctr: Callable[..., Any], z: jax.Array, real: jax.Array) -> dict[str, jax.Array]:
    """The figures of instances that look for their partner among those of both views, f32[] each:
    contrast, top1 (share of instances whose nearest is their partner), q_std (spread of z). ctr:
    `losses.nt_xent`."""
    contrast, top1 = ctr(rows(z, 0), rows(z, 1), valid=rows(real, 0))
    return {"contrast": contrast, "top1": top1, "q_std": losses.unit_std(z, real)}
