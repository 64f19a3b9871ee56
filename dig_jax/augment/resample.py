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

    def weights(position, size):
        first, share = _pair(position, size)
        away = _numbers(size) - first
        return jnp.where(away == 0.0, 1.0 - share, jnp.where(away == 1.0, share, 0.0))

    return _products(image, x, y, weights)


def _numbers(size):
    return jnp.arange(size, dtype=jnp.float32)[None, None]


def _products(image, x, y, weights):
    """Sums of an image [B,C,H,W] whose weights are a product of one for the column and one for the
    row. weights: (position [B,P,1], size) -> [B,P,size]."""
    batch, _, height, canvas_px = image.shape
    x, y = (position.reshape(batch, -1, 1) for position in (x, y))
    # In full float32: a TPU's products are of bfloat16 otherwise.
    rows = jnp.einsum("bpw,bchw->bcph", weights(x, canvas_px), image, precision="highest")
    return jnp.sum(rows * weights(y, height)[:, None], axis=3).reshape(image.shape)


def nearest(values, x, y, width, outside):
    """Values [B,H,W] at the pixels nearest to positions (x, y), f32[B,H,W] each. `outside` where
    that pixel, or the pixel of the result, is not of the real line. A map of labels follows an
    image through this: labels have no mean. Numbers up to 2 ** 24, for TPUs take products.
    """
    _, height, canvas_px = values.shape
    column, row = jnp.round(x), jnp.round(y)
    right = width[:, None, None]
    inside = (
        (column >= 0)
        & (column < right)
        & (row >= 0)
        & (row < height)
        & (jnp.arange(canvas_px)[None, None] < right)
    )
    column, row = jnp.where(inside, column, 0.0), jnp.where(inside, row, 0.0)
    picked = jax.lax.platform_dependent(
        values, column, row, tpu=pixels_by_products, default=pixels_by_gathers
    )
    return jnp.where(inside, picked, outside)


def pixels_by_gathers(values, column, row):
    """Values [B,H,W] of whole pixels, f32[B,H,W] each."""
    batch, _, canvas_px = values.shape
    index = (row * canvas_px + column).astype(jnp.int32).reshape(batch, -1)
    return jnp.take_along_axis(values.reshape(batch, -1), index, axis=1).reshape(values.shape)


def pixels_by_products(values, column, row):
    """The same, exactly: one weight is 1 and all others are 0."""
    hot = lambda place, size: (_numbers(size) == place).astype(jnp.float32)
    image = values.astype(jnp.float32)[:, None]
    return _products(image, column, row, hot)[:, 0].astype(values.dtype)
