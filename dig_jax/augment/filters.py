"""Filters of 5 x 5 pixels on lines (planes, f32[B,C,H,W] in [0,1]), see color.py; none reads
padding."""

import jax.numpy as jnp


def each(amount):
    """f32[B] shaped to meet lines [B,C,H,W]."""
    return amount[:, None, None, None]


TAPS = 5  # imgaug's kernel size for every sigma below 2.1 px; it cuts the bell at 2 px


MAX_SIGMA_PX = 2.1


def blur(*, sigma):
    """GaussianBlur as a filter; sigma f32[B] in pixels, 0 = untouched. Returns (down, across,
    keep), see `convolve`.
    """
    distance = jnp.arange(TAPS, dtype=jnp.float32)[None, :] - TAPS // 2
    bell = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-3)[:, None]) ** 2)
    bell = bell / jnp.sum(bell, axis=1, keepdims=True)
    return bell, bell, jnp.zeros_like(sigma)


def sharpen(*, alpha, lightness):
    """imgaug's Sharpen as a filter: (1 - alpha) * image + alpha * (3x3 kernel of -1 with 8 +
    lightness in the middle).

    The kernel sums to `lightness`, so flat areas become (1 - alpha + alpha * lightness) times as
    bright.
    """
    box = jnp.array([0, 1, 1, 1, 0], jnp.float32)[None, :] * jnp.ones_like(alpha)[:, None]
    return box, -alpha[:, None] * box, 1.0 - alpha + alpha * (9.0 + lightness)


def average(*, size):
    """AverageBlur over a square of `size` f32[B] pixels, 1 .. TAPS, as a filter."""
    distance = jnp.abs(jnp.arange(TAPS, dtype=jnp.float32) - TAPS // 2)[None, :]
    box = jnp.clip(0.5 * size[:, None] + 0.5 - distance, 0.0, 1.0)
    box = box / jnp.sum(box, axis=1, keepdims=True)
    return box, box, jnp.zeros_like(size)


FILTERS = {"blur": blur, "sharpen": sharpen, "average": average}


def motion(*, degrees):
    """MotionBlur over TAPS pixels in a direction, as a kernel f32[B,TAPS,TAPS]."""
    place = jnp.arange(TAPS, dtype=jnp.float32) - TAPS // 2
    angle = jnp.deg2rad(degrees)[:, None]
    hat = lambda at: jnp.maximum(
        1.0 - jnp.abs(at[:, :, None] - place[None, None]), 0.0
    )  # (B, step, tap)
    kernel = jnp.sum(
        hat(place[None] * jnp.sin(angle))[:, :, :, None]
        * hat(place[None] * jnp.cos(angle))[:, :, None],
        axis=1,
    )
    return kernel / jnp.sum(kernel, axis=(1, 2), keepdims=True)


def emboss(*, alpha, strength):
    """Emboss: (1 - alpha) * image + alpha * (light from the lower right), as a kernel
    f32[B,TAPS,TAPS].
    """
    light = jnp.array([[-1, 0, 0], [0, 1, 0], [0, 0, 1]], jnp.float32)
    slope = jnp.array([[-1, -1, 0], [-1, 0, 1], [0, 1, 1]], jnp.float32)
    identity = jnp.zeros((3, 3)).at[1, 1].set(1.0)
    share = alpha[:, None, None]
    kernel = (1.0 - share) * identity[None] + share * (
        light[None] + strength[:, None, None] * slope[None]
    )
    return jnp.pad(kernel, ((0, 0), (1, 1), (1, 1)))


KERNELS = {"motion": motion, "emboss": emboss}


def extend(image, width):
    """Repeats each line's last real column over its padding, so that no filter reads padding."""
    column = (width - 1)[:, None, None, None]
    edge = jnp.take_along_axis(image, column, axis=3)
    return jnp.where(jnp.arange(image.shape[3])[None, None, None, :] > column, edge, image)


def convolve(image, width, down, across, keep):
    """keep * image + the separable filter down (f32[B,TAPS]) x across (f32[B,TAPS]), clipped to
    [0,1]; keep f32[B].
    """
    height, canvas_px = image.shape[2:]
    reach = TAPS // 2
    padded = jnp.pad(
        extend(image, width), ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge"
    )
    # Shifted sums, not a convolution: XLA's depthwise convolutions on CPUs are 20 times slower.
    tall = sum(each(down[:, i]) * padded[:, :, i : i + height] for i in range(TAPS))
    both = sum(each(across[:, i]) * tall[..., i : i + canvas_px] for i in range(TAPS))
    return jnp.clip(each(keep) * image + both, 0.0, 1.0)


def correlate(image, width, kernel):
    """The sum of the neighbours, each times its weight in kernel f32[B,TAPS,TAPS], clipped to
    [0,1].
    """
    height, canvas_px = image.shape[2:]
    reach = TAPS // 2
    padded = jnp.pad(
        extend(image, width), ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge"
    )
    places = [(i, j) for i in range(TAPS) for j in range(TAPS)]
    total = sum(
        each(kernel[:, i, j]) * padded[:, :, i : i + height, j : j + canvas_px] for i, j in places
    )
    return jnp.clip(total, 0.0, 1.0)
