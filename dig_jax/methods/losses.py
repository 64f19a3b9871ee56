"""Losses that two or more methods share. Everything here is float32 and knows nothing of networks.

    info_nce     2T * cross-entropy of cosine similarities      MoCo v3 (arXiv 2104.02057) algorithm 1, `ctr`; DiG
    masked_mse   mean square over chosen values                  SimMIM, MAE, the pixel loss of DiG
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_TINY = 1e-12


def unit(x: jax.Array) -> jax.Array:
    """x f32[..., K] scaled to length 1 along the last axis; a zero vector stays zero, with zero gradient."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, _TINY**2))


def info_nce(
    q: jax.Array, k: jax.Array, temperature: float, valid: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Contrast of queries against keys: the positive of row i is row i, every other row of `k` is a negative.

    q, k         f32[M, K], any length (made unit here). The caller stops the gradient of `k`.
    temperature  T > 0. The result is multiplied by 2T, so that gradients keep their size when T moves.
    valid        bool[M]; rows that are False are neither queries, nor positives, nor negatives. None: all are real.
    Returns      loss f32[] in nats, at random start about 2T ln M, and top-1 f32[], the share of queries whose own key
                 is nearest. Under jit over a mesh, M counts the rows of every device. Without valid rows both are 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0: set method.temperature, 0.2 in DiG")
    valid = jnp.ones(q.shape[:1], bool) if valid is None else valid
    logits = jnp.einsum(
        "ik,jk->ij", unit(q.astype(jnp.float32)), unit(k.astype(jnp.float32)), precision="highest"
    )  # (M, M)
    logits = jnp.where(valid[None, :], logits / temperature, -jnp.inf)
    positive = jnp.where(valid, jnp.diagonal(logits), 0.0)
    # A batch without any valid row has only -inf columns; 0 in their place keeps the unused gradient finite.
    total = jax.nn.logsumexp(jnp.where(valid.any(), logits, 0.0), axis=1)
    weight = valid.astype(jnp.float32)
    count = jnp.maximum(weight.sum(), 1.0)
    loss = 2.0 * temperature * jnp.sum(weight * (total - positive)) / count
    nearest = jnp.argmax(logits, axis=1) == jnp.arange(q.shape[0])
    return loss, jnp.sum(weight * nearest) / count


def masked_mse(prediction: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean of (prediction - target)^2 over the values whose `weight` is True; 0 when there is none.

    All three f32 / f32 / bool of one shape. Values of weight False reach neither the loss nor any gradient, not even
    when they are NaN. Returns f32[].
    """
    error = jnp.where(weight, prediction - target, 0.0)
    return jnp.sum(error * error) / jnp.maximum(jnp.sum(weight, dtype=jnp.float32), 1.0)


def unit_std(x: jax.Array, real: jax.Array) -> jax.Array:
    """Collapse figure: standard deviation of the unit rows of x f32[..., K] over those that are real bool[...], mean over
    channels, f32[]. About 1 / sqrt(K) is healthy (SimSiam, arXiv 2011.10566, section 4.1), 0 is collapse. No gradient.
    """
    rows, weight = unit(jax.lax.stop_gradient(x)), real[..., None].astype(jnp.float32)
    count = jnp.maximum(weight.sum(), 1)
    axes = tuple(range(rows.ndim - 1))
    mean = (rows * weight).sum(axes, keepdims=True) / count
    return jnp.sqrt((jnp.square(rows - mean) * weight).sum(axes) / count).mean()
