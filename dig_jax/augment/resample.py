"""Values of an image between its pixels: one resampling for all the maps of `geometry`."""

import jax
import jax.numpy as jnp


def bilinear(image, x, y):
    """Bilinear values of image f32[B,C,H,W] at positions (x, y), f32[B,H,W] each, inside the
    image; differentiable in all three.

    Gathers four pixels each. The compiler for TPUs makes slow programs of that, so there two
    products give the same values to float error (docs/performance.md).
    """
    return jax.lax.platform_dependent(image, x, y, tpu=by_products, default=by_gathers)


def _pair(position, size):
    """(first, share), f32 as position: the left or upper pixel of a pair, and the share of the
    other. The last pixel is the second of its pair, so that its slope is that of the pair. An image
    one pixel wide or high has no slope."""
    first = jnp.clip(jnp.floor(position), 0, max(size - 2, 0))
    return first, position - first if size > 1 else jnp.zeros_like(position)


def by_gathers(image, x, y):
    """See `bilinear`."""
    batch, channels, height, canvas_px = image.shape
    flat = image.reshape(batch, channels, height * canvas_px)
    (left, right_share), (upper, lower_share) = _pair(x, canvas_px), _pair(y, height)
    right_share, lower_share = right_share[:, None], lower_share[:, None]
    index = (upper.astype(jnp.int32) * canvas_px + left.astype(jnp.int32)).reshape(batch, 1, -1)

    def at(offset):
        # Out of range on images one pixel high or wide only, where the neighbour's share is 0.
        picked = jnp.take_along_axis(flat, index + offset, axis=2, mode="clip")
        return picked.reshape(image.shape)

    above = at(0) * (1.0 - right_share) + at(1) * right_share
    below = at(canvas_px) * (1.0 - right_share) + at(canvas_px + 1) * right_share
    return above * (1.0 - lower_share) + below * lower_share


def by_products(image, x, y):
    """See `bilinear`. H * W multiply-adds a result, in a product whose weights the compiler for
    TPUs makes on the way; it stores some where a gradient is asked for."""
    batch, _, height, canvas_px = image.shape

    def weights(position, size):
        first, share = (a.reshape(batch, -1, 1) for a in _pair(position, size))
        away = jnp.arange(size, dtype=jnp.float32)[None, None] - first
        return jnp.where(away == 0.0, 1.0 - share, jnp.where(away == 1.0, share, 0.0))

    # In full float32: a TPU's products are of bfloat16 otherwise.
    rows = jnp.einsum("bpw,bchw->bcph", weights(x, canvas_px), image, precision="highest")
    return jnp.sum(rows * weights(y, height)[:, None], axis=3).reshape(image.shape)


def nearest(values, x, y, width, outside):
    """Values [B,H,W] at the pixels nearest to positions (x, y), f32[B,H,W] each. `outside` where
    that pixel, or the pixel of the result, is not of the real line. A map of labels follows an
    image through this: labels have no mean.
    """
    batch, height, canvas_px = values.shape
    column, row = (jnp.round(axis).astype(jnp.int32) for axis in (x, y))
    right = width[:, None, None]
    inside = (
        (column >= 0)
        & (column < right)
        & (row >= 0)
        & (row < height)
        & (jnp.arange(canvas_px)[None, None] < right)
    )
    index = jnp.where(inside, row * canvas_px + column, 0).reshape(batch, -1)
    picked = jnp.take_along_axis(values.reshape(batch, -1), index, axis=1).reshape(values.shape)
    return jnp.where(inside, picked, outside)
