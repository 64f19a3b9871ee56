"""What a contrast compares: instances of two views of one line, and the networks to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from dig_jax.methods.shared import base, two_views
from dig_jax.models import heads, vit


def instances(tokens: jax.Array, batch: base.Batch, patch: Sequence[int], window_px: int | None):
    """Tokens of V views f32[B,V,N,D] -> instances f32[B,V,S,D], the unit of a contrast, and which
    are real, bool[B,V,S].

    Means over windows of full height and `window_px` width (`heads.pool_windows`). None makes one
    instance of a whole line (all-to-instance), the width of a patch one of every column
    (frame-to-instance). Neither padding nor rows that are not valid count.
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
    return back(pooled), back(real)


class Network(nn.Module):
    """Encoder, projector and, where a method has one, predictor: from views to what a contrast
    compares.

    projector, predictor: heads called with (x, real). window_px: see `instances`. by_view: the
    heads' batch norms take their statistics in each view alone, as in a network called once a view
    (MoCo v3, SimSiam). Otherwise they take them in both views together (SimCLR, DiG). block: see
    `two_views.encode`.
    """

    encoder: nn.Module
    projector: nn.Module
    predictor: nn.Module | None = None
    window_px: int | None = None
    by_view: bool = False
    block: str | int = "last"

    def __call__(self, batch, deterministic=True):
        """Augmented batch -> predictions q, projections z f32[B,V,S,K], real bool[B,V,S]; without a
        predictor q is z.
        """
        z, real = self.project(batch, deterministic)
        return z if self.predictor is None else self._head(self.predictor, z, real), z, real

    def project(self, batch, deterministic=True):
        """(z, real) alone: all that a teacher, which has no predictor, can do."""
        tokens = two_views.encode(self.encoder, batch, None, deterministic, self.block)
        x, real = instances(tokens, batch, self.encoder.patch, self.window_px)
        return self._head(self.projector, x, real), real

    def _head(self, head, x, real):
        return by_view(head, x, real) if self.by_view else head(x, real)


def by_view(head: Callable[..., jax.Array], x: jax.Array, real: jax.Array) -> jax.Array:
    """A head with batch norms, called with each view alone: x f32[B,V,S,D], real bool[B,V,S] ->
    f32[B,V,S,K].
    """
    return jnp.stack([head(x[:, v], real[:, v]) for v in range(x.shape[1])], axis=1)


def moved_center(center, answers, valid, momentum: float):
    """The centre of DINO (arXiv 2104.14294, eq. 4) after a step: towards the mean of the teacher's
    answers, if any. center f32[K], answers f32[...,K], valid bool[...] -> f32[K].
    """
    count = jnp.sum(valid)
    axes = tuple(range(valid.ndim))
    mean = jnp.sum(answers, axes, where=valid[..., None]) / jnp.maximum(count, 1)
    return jnp.where(count > 0, momentum * center + (1 - momentum) * mean, center)


def rows(*arrays: jax.Array) -> list[list[jax.Array]]:
    """Each [B,V,S,...] as V lists of instances [B * S, ...], one a view, as losses want them."""
    return [list(rearrange(x, "b v s ... -> v (b s) ...")) for x in arrays]
