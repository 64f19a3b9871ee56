"""Photometric operators on the device: tones (pixel by pixel) and 5-tap filters.

image f32[B,C,H,W] in [0,1], C = 1 (grey) or 3 (RGB); planes, because three interleaved channels keep CPUs from using
their vector units (20 times slower). Every amount is f32[B], one for each line; results are clipped to [0,1], as 8-bit
images are.
Definitions: imgaug (contrast, blur, sharpen, solarize, grayscale) and torchvision's ColorJitter (jitter_*), see
reference section 1.7. Departures: no rounding to 8 bits between operators; filters repeat the edge pixel of the real
line (imgaug mirrors it).
"""

import jax
import jax.numpy as jnp

TAPS = 5  # imgaug's kernel size for every sigma below 2.1 px; it cuts the bell at 2 px
MAX_SIGMA_PX = 2.1


def _each(amount):
    return amount[:, None, None, None]


def luma(image):
    """f32[B,1,H,W]: ITU-R 601 brightness; a grey image is its own."""
    if image.shape[1] == 1:
        return image
    return 0.299 * image[:, 0:1] + 0.587 * image[:, 1:2] + 0.114 * image[:, 2:3]


def _blend(other, image, share):
    return jnp.clip(other * (1.0 - _each(share)) + image * _each(share), 0.0, 1.0)


def contrast(image, width, *, alpha):
    """LinearContrast: 0.5 + alpha * (image - 0.5)."""
    return _blend(0.5, image, alpha)


def solarize(image, width, *, threshold, above):
    """Inverts the values >= threshold where above > 0.5, else the values < threshold."""
    bright = image >= _each(threshold)
    return jnp.where(bright == (_each(above) > 0.5), 1.0 - image, image)


def grayscale(image, width, *, alpha):
    """(1 - alpha) * image + alpha * its brightness."""
    return image if image.shape[1] == 1 else _blend(luma(image), image, 1.0 - alpha)


def jitter_brightness(image, width, *, factor):
    """factor * image."""
    return jnp.clip(image * _each(factor), 0.0, 1.0)


def jitter_contrast(image, width, *, factor):
    """Away from (factor > 1) or towards the mean brightness of the line's real pixels."""
    real = (jnp.arange(image.shape[3])[None, :] < width[:, None]).astype(image.dtype)
    total = jnp.sum(jnp.sum(luma(image), axis=(1, 2)) * real, axis=1)
    mean = total / (image.shape[2] * width.astype(image.dtype))
    return _blend(_each(mean), image, factor)


def jitter_saturation(image, width, *, factor):
    """Away from (factor > 1) or towards grey."""
    return grayscale(image, width, alpha=1.0 - factor)


def jitter_hue(image, width, *, turn):
    """Adds `turn` (1 = the full circle) to the hue of HSV."""
    if image.shape[1] == 1:
        return image
    r, g, b = image[:, 0], image[:, 1], image[:, 2]
    value = jnp.maximum(jnp.maximum(r, g), b)
    chroma = value - jnp.minimum(jnp.minimum(r, g), b)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sixth = jnp.where(value == r, (g - b) / safe, jnp.where(value == g, 2.0 + (b - r) / safe, 4.0 + (r - g) / safe))
    sixth = sixth + 6.0 * turn[:, None, None]

    def channel(start):
        k = start + sixth
        k = k - 6.0 * jnp.floor(k / 6.0)  # jnp.mod is not vectorised
        return value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

    turned = jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=1)
    return jnp.where(_each(turn) == 0.0, image, jnp.clip(turned, 0.0, 1.0))


TONES = {
    "contrast": contrast,
    "solarize": solarize,
    "grayscale": grayscale,
    "jitter_brightness": jitter_brightness,
    "jitter_contrast": jitter_contrast,
    "jitter_saturation": jitter_saturation,
    "jitter_hue": jitter_hue,
}


def blur(*, sigma):
    """GaussianBlur as a filter; sigma f32[B] in pixels, 0 = untouched. Returns (down, across, keep), see `convolve`."""
    distance = jnp.arange(TAPS, dtype=jnp.float32)[None, :] - TAPS // 2
    bell = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-3)[:, None]) ** 2)
    bell = bell / jnp.sum(bell, axis=1, keepdims=True)
    return bell, bell, jnp.zeros_like(sigma)


def sharpen(*, alpha, lightness):
    """imgaug's Sharpen as a filter: (1 - alpha) * image + alpha * (3x3 kernel of -1 with 8 + lightness in the middle).

    The kernel sums to `lightness`, so flat areas become (1 - alpha + alpha * lightness) times as bright.
    """
    box = jnp.array([0, 1, 1, 1, 0], jnp.float32)[None, :] * jnp.ones_like(alpha)[:, None]
    return box, -alpha[:, None] * box, 1.0 - alpha + alpha * (9.0 + lightness)


FILTERS = {"blur": blur, "sharpen": sharpen}

def extend(image, width):
    """Repeats each line's last real column over its padding, so that no filter reads padding."""
    column = (width - 1)[:, None, None, None]
    edge = jnp.take_along_axis(image, column, axis=3)
    return jnp.where(jnp.arange(image.shape[3])[None, None, None, :] > column, edge, image)


def convolve(image, width, down, across, keep):
    """keep * image + the separable filter down (f32[B,TAPS]) x across (f32[B,TAPS]), clipped to [0,1]; keep f32[B]."""
    height, canvas_px = image.shape[2:]
    reach = TAPS // 2
    padded = jnp.pad(extend(image, width), ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    # Shifted sums, not a convolution: XLA's depthwise convolutions on CPUs are 20 times slower.
    tall = sum(_each(down[:, i]) * padded[:, :, i : i + height] for i in range(TAPS))
    both = sum(_each(across[:, i]) * tall[..., i : i + canvas_px] for i in range(TAPS))
    return jnp.clip(_each(keep) * image + both, 0.0, 1.0)


def grain(keys, shape):
    """f32[B, *shape]: standard normal values for `add`, each line's from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def add(image, grain, sigma):
    """Noise: image + sigma * grain, sigma f32[B]."""
    return jnp.clip(image + _each(sigma) * grain, 0.0, 1.0)
