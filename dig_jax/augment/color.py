"""Photometric operators on the device: tones (pixel by pixel), filters of 5 x 5 pixels and grains
(noise of every pixel).

image f32[B,C,H,W] in [0,1], C = 1 (grey) or 3 (RGB). Channels are planes: three interleaved ones
keep CPUs from using their vector units (20 times slower). Every amount is f32[B], one for each
line; results are clipped to [0,1], as 8-bit images are. Definitions: imgaug, and torchvision's
ColorJitter (jitter_*), see reference sections 1.7 and 2.3.

Departures:

- no rounding to 8 bits between operators;
- filters repeat the edge pixel of the real line (imgaug mirrors it);
- posterize has equal steps of grey, where imgaug finds colours by k-means;
- medians are of 3 x 3 and averages of at most 5 x 5 pixels.
"""

import jax
import jax.numpy as jnp

from dig_jax.augment import geometry
from dig_jax.augment.filters import FILTERS, KERNELS, convolve, correlate, each, extend


def luma(image):
    """f32[B,1,H,W]: ITU-R 601 brightness; a grey image is its own."""
    if image.shape[1] == 1:
        return image
    return 0.299 * image[:, 0:1] + 0.587 * image[:, 1:2] + 0.114 * image[:, 2:3]


def _blend(other, image, share):
    return jnp.clip(other * (1.0 - each(share)) + image * each(share), 0.0, 1.0)


def contrast(image, width, *, alpha):
    """LinearContrast: 0.5 + alpha * (image - 0.5)."""
    return _blend(0.5, image, alpha)


def solarize(image, width, *, threshold, above):
    """Inverts the values >= threshold where above > 0.5, else the values < threshold."""
    bright = image >= each(threshold)
    return jnp.where(bright == (each(above) > 0.5), 1.0 - image, image)


def grayscale(image, width, *, alpha):
    """(1 - alpha) * image + alpha * its brightness."""
    return image if image.shape[1] == 1 else _blend(luma(image), image, 1.0 - alpha)


def jitter_brightness(image, width, *, factor):
    """factor * image."""
    return jnp.clip(image * each(factor), 0.0, 1.0)


def jitter_contrast(image, width, *, factor):
    """Away from (factor > 1) or towards the mean brightness of the line's real pixels."""
    real = geometry.inside(width, image.shape[3]).astype(image.dtype)
    total = jnp.sum(jnp.sum(luma(image), axis=(1, 2)) * real, axis=1)
    mean = total / (image.shape[2] * width.astype(image.dtype))
    return _blend(each(mean), image, factor)


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
    sixth = jnp.where(
        value == r,
        (g - b) / safe,
        jnp.where(value == g, 2.0 + (b - r) / safe, 4.0 + (r - g) / safe),
    )
    sixth = sixth + 6.0 * turn[:, None, None]

    def channel(start):
        k = start + sixth
        k = k - 6.0 * jnp.floor(k / 6.0)  # jnp.mod is not vectorised
        return value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

    turned = jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=1)
    return jnp.where(each(turn) == 0.0, image, jnp.clip(turned, 0.0, 1.0))


def invert(image, width):
    """1 - image."""
    return 1.0 - image


def brightness(image, width, *, factor):
    """factor * image, the operator of imgaug; `jitter_brightness` is that of torchvision, in an
    order of its own.
    """
    return jitter_brightness(image, width, factor=factor)


def gamma(image, width, *, exponent):
    """image ** exponent."""
    return jnp.clip(image, 1e-6, 1.0) ** each(exponent)


def channel_shuffle(image, width, *, order):
    """The channels in another order, i32[B,C]."""
    return jnp.take_along_axis(image, order[:, :, None, None], axis=1)


def hue_saturation(image, width, *, turn, factor):
    """Hue by `turn` of the circle, saturation times `factor`."""
    return jitter_saturation(jitter_hue(image, width, turn=turn), width, factor=factor)


def temperature(image, width, *, kelvin):
    """As lit by a black body of `kelvin` (1,100 .. 40,000), by the fit of T. Helland (2012) to
    CIE's table.
    """
    t = kelvin / 100.0
    beyond = jnp.maximum(t - 60.0, 1.0)
    red = jnp.where(t <= 66.0, 1.0, 1.29294 * beyond**-0.1332047592)
    green = jnp.where(t <= 66.0, 0.390082 * jnp.log(t) - 0.631841, 1.129891 * beyond**-0.0755148492)
    blue = jnp.where(t >= 66.0, 1.0, 0.543207 * jnp.log(jnp.maximum(t - 10.0, 1.0)) - 1.196254)
    light = jnp.clip(jnp.stack([red, green, blue], axis=1), 0.0, 1.0)
    return image * light[:, : image.shape[1], None, None]


def posterize(image, width, *, levels):
    """At most `levels` (2 or more) values in equal steps."""
    steps = each(jnp.floor(levels) - 1.0)
    return jnp.round(image * steps) / steps


def equalize(image, width):
    """Histogram equalisation of the brightness of the line's real pixels; colours move with it."""
    grey = luma(image)
    real = geometry.inside(width, image.shape[3])[:, None, None]
    bins = jnp.clip(jnp.round(grey * 255.0), 0, 255).astype(jnp.int32)
    flat = jnp.where(real, bins, 256).reshape(len(image), -1)  # padding has a bin of its own
    below = jnp.cumsum(jax.vmap(lambda row: jnp.bincount(row, length=257))(flat)[:, :256], axis=1)
    first = jnp.min(jnp.where(below > 0, below, jnp.iinfo(jnp.int32).max), axis=1, keepdims=True)
    share = (below - first) / jnp.maximum(below[:, -1:] - first, 1)
    new = jnp.take_along_axis(share, bins.reshape(len(image), -1), axis=1).reshape(grey.shape)
    blank = (below[:, -1:] == first)[:, :, None, None]
    return jnp.clip(image + jnp.where(blank, 0.0, new - grey), 0.0, 1.0)


def median(image, width):
    """The median of each pixel's 3 x 3 neighbours."""
    padded = jnp.pad(extend(image, width), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    height, canvas_px = image.shape[2:]
    near = [padded[:, :, i : i + height, j : j + canvas_px] for i in range(3) for j in range(3)]
    # Each round sends the lowest of what is left to the front; after five rounds the median stands
    # there.
    for start in range(5):
        for i in range(8, start, -1):
            near[i - 1], near[i] = (
                jnp.minimum(near[i - 1], near[i]),
                jnp.maximum(near[i - 1], near[i]),
            )
    return near[4]


def rescale(image, width, *, factor):
    """Made smaller by `factor` f32[B] in [1, 4] and large again, in blocks: a mixture of the two
    nearest of 1, 2 and 4.
    """
    height, canvas_px = image.shape[2:]
    up, across = -height % 4, -canvas_px % 4
    padded = jnp.pad(extend(image, width), ((0, 0), (0, 0), (0, up), (0, across)), mode="edge")
    octave, out = jnp.log2(factor), 0.0
    for i, side in enumerate((1, 2, 4)):
        blocks = padded.reshape(
            *image.shape[:2], (height + up) // side, side, (canvas_px + across) // side, side
        )
        coarse = jnp.broadcast_to(
            jnp.mean(blocks, axis=(3, 5), keepdims=True), blocks.shape
        ).reshape(padded.shape)
        out += coarse[:, :, :height, :canvas_px] * each(jnp.maximum(1.0 - jnp.abs(octave - i), 0.0))
    return out


def morphology(image, width, *, grow):
    """Thicker strokes (grow f32[B] towards 1) or thinner ones (towards -1), of dark ink.

    A mixture of the image with its minimum or maximum over 3 x 3 pixels: erosion and dilation.
    """
    height, canvas_px = image.shape[2:]
    padded = jnp.pad(extend(image, width), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")

    def over(pick):
        tall = [padded[:, :, i : i + height] for i in range(3)]
        tall = pick(pick(tall[0], tall[1]), tall[2])
        wide = [tall[..., i : i + canvas_px] for i in range(3)]
        return pick(pick(wide[0], wide[1]), wide[2])

    other = jnp.where(each(grow) > 0, over(jnp.minimum), over(jnp.maximum))
    return _blend(other, image, 1.0 - jnp.abs(grow))


def erase(image, width, *, boxes, grey):
    """Paints boxes f32[B,N,4] with one grey f32[B]: cutout (DeVries and Taylor, arXiv 1708.04552).

    A box is (centre x as a fraction of the real width, centre y of the height, half its width and
    height in px).
    """
    height, canvas_px = image.shape[2:]
    x = jnp.arange(canvas_px, dtype=jnp.float32)[None, None, None, :]
    y = jnp.arange(height, dtype=jnp.float32)[None, None, :, None]
    box = boxes[..., None, None]
    across = jnp.abs(x - box[:, :, 0] * width[:, None, None, None]) <= box[:, :, 2]
    down = jnp.abs(y - box[:, :, 1] * height) <= box[:, :, 3]
    hit = jnp.any(across & down, axis=1, keepdims=True)
    return jnp.where(hit, each(grey), image)


TONES = {
    "morphology": morphology,
    "erase": erase,
    "contrast": contrast,
    "solarize": solarize,
    "grayscale": grayscale,
    "invert": invert,
    "brightness": brightness,
    "gamma": gamma,
    "channel_shuffle": channel_shuffle,
    "hue_saturation": hue_saturation,
    "temperature": temperature,
    "posterize": posterize,
    "equalize": equalize,
    "median": median,
    "rescale": rescale,
    "jitter_brightness": jitter_brightness,
    "jitter_contrast": jitter_contrast,
    "jitter_saturation": jitter_saturation,
    "jitter_hue": jitter_hue,
}
# Idle on grey images.
COLOURLESS = (
    "grayscale",
    "channel_shuffle",
    "hue_saturation",
    "temperature",
    "jitter_saturation",
    "jitter_hue",
)


def grain(keys, shape):
    """f32[B, *shape]: standard normal values for GRAINS, each line's from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def noise(image, grain, *, sigma):
    """image + sigma * grain, sigma f32[B]."""
    return jnp.clip(image + each(sigma) * grain, 0.0, 1.0)


def dropout(image, grain, *, share, per_channel):
    """A share f32[B] of the pixels becomes black; where per_channel > 0.5 each channel loses its
    own.
    """
    together = jnp.broadcast_to(grain[:, :1], grain.shape)
    chance = jax.scipy.special.ndtr(jnp.where(each(per_channel) > 0.5, grain, together))
    return jnp.where(chance < each(share), 0.0, image)


def impulse(image, grain, *, share):
    """ImpulseNoise: a share f32[B] of the values becomes black or white, half each."""
    chance = jax.scipy.special.ndtr(grain)
    image = jnp.where(chance < 0.5 * each(share), 0.0, image)
    return jnp.where(chance > 1.0 - 0.5 * each(share), 1.0, image)


def speckle(image, grain, *, spread):
    """MultiplyElementwise: every value times its own factor, uniform within 1 +- spread."""
    return jnp.clip(
        image * (1.0 + each(spread) * (2.0 * jax.scipy.special.ndtr(grain) - 1.0)), 0.0, 1.0
    )


GRAINS = {"noise": noise, "dropout": dropout, "impulse": impulse, "speckle": speckle}


def apply(name, image, width, grain, amounts):
    """The photometric operator of this name."""
    if name in GRAINS:
        return GRAINS[name](image, grain, **amounts)
    if name in FILTERS:
        return convolve(image, width, *FILTERS[name](**amounts))
    if name in KERNELS:
        return correlate(image, width, KERNELS[name](**amounts))
    return TONES[name](image, width, **amounts)
