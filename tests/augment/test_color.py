"""Photometric operators against slow NumPy, OpenCV and PIL versions."""

import colorsys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from dig_jax.augment import color, filters
from tests.tiers import tiers

B, H, W = 3, 12, 20
WIDTH = np.array([20, 13, 4])


def picture(channels=3, seed=0):
    return np.random.default_rng(seed).random((B, H, W, channels)).astype(np.float32)


def f32(*values):
    return jnp.array(values, jnp.float32)


def tone(name, image, **amounts):
    """One pixel-by-pixel operator on pictures [B,H,W,C] (the module works on planes)."""
    return np.moveaxis(
        np.asarray(color.TONES[name](jnp.moveaxis(image, 3, 1), jnp.asarray(WIDTH), **amounts)),
        1,
        3,
    )


def convolve(image, width, kernel):
    return np.moveaxis(
        np.asarray(filters.convolve(jnp.moveaxis(image, 3, 1), jnp.asarray(width), *kernel)), 1, 3
    )


NOTHING = {
    "contrast": {"alpha": 1.0},
    "solarize": {"threshold": 2.0, "above": 1.0},
    "grayscale": {"alpha": 0.0},
    "jitter_brightness": {"factor": 1.0},
    "jitter_contrast": {"factor": 1.0},
    "jitter_saturation": {"factor": 1.0},
    "jitter_hue": {"turn": 0.0},
    "brightness": {"factor": 1.0},
    "gamma": {"exponent": 1.0},
    "hue_saturation": {"turn": 0.0, "factor": 1.0},
    "temperature": {"kelvin": 6600.0},
    "posterize": {"levels": 65536.0},
    "rescale": {"factor": 1.0},
    "morphology": {"grow": 0.0},
}
# These have no amount that leaves an image as it is.
ALWAYS = {"invert", "channel_shuffle", "equalize", "median", "erase"}


@pytest.mark.slow
@pytest.mark.parametrize("channels", tiers([3, 1]))
def test_amounts_of_nothing_are_identity(channels):
    image = picture(channels)
    assert set(NOTHING) | ALWAYS == set(color.TONES)
    for name, amounts in NOTHING.items():
        same = tone(name, image, **{a: jnp.full((B,), v) for a, v in amounts.items()})
        atol = {"posterize": 1e-5, "temperature": 2e-3}.get(name, 2e-7)
        inside = np.arange(W)[None, None, :, None] < WIDTH[:, None, None, None]
        np.testing.assert_allclose(np.where(inside, same, image), image, atol=atol, err_msg=name)
    average = filters.average(size=jnp.ones(B))
    for kernel in (
        filters.blur(sigma=jnp.zeros(B)),
        average,
        filters.sharpen(alpha=jnp.zeros(B), lightness=jnp.ones(B)),
    ):
        np.testing.assert_allclose(convolve(image, np.full(B, W), kernel), image, atol=1e-6)


def test_contrast_about_mid_grey():
    image = picture(1)
    ours = tone("contrast", image, alpha=f32(0.5, 1.0, 3.0))
    slow = np.clip(0.5 + np.array([0.5, 1.0, 3.0])[:, None, None, None] * (image - 0.5), 0, 1)
    np.testing.assert_allclose(ours, slow, atol=1e-6)


def test_solarize_inverts_above_or_below():
    image = picture(1)
    ours = tone("solarize", image, threshold=f32(0.3, 0.3, 0.0), above=f32(1.0, 0.0, 0.0))
    np.testing.assert_array_equal(
        ours[0], np.where(image[0] >= np.float32(0.3), 1 - image[0], image[0])
    )
    np.testing.assert_array_equal(
        ours[1], np.where(image[1] < np.float32(0.3), 1 - image[1], image[1])
    )
    np.testing.assert_array_equal(ours[2], image[2])


def test_grayscale_blends_to_opencv_grey():
    image = picture()
    grey = np.stack([cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in image])[..., None]
    ours = tone("grayscale", image, alpha=f32(0.0, 0.25, 1.0))
    share = np.array([0, 0.25, 1])[:, None, None, None]
    np.testing.assert_allclose(ours, (1 - share) * image + share * grey, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5])
def test_blur_equals_opencv_with_five_taps(sigma):
    image = picture()
    ours = convolve(image, WIDTH, filters.blur(sigma=jnp.full((B,), sigma)))
    for i, w in enumerate(WIDTH):
        theirs = cv2.GaussianBlur(image[i, :, :w], (5, 5), sigma, borderType=cv2.BORDER_REPLICATE)
        np.testing.assert_allclose(ours[i, :, :w], theirs, atol=1e-5)


def test_blur_conserves_the_mean_of_a_blot():
    image = np.zeros((B, H, W, 1), np.float32)
    image[:, 5, 8] = 0.8
    ours = convolve(image, np.full(B, W), filters.blur(sigma=f32(0.5, 1.0, 1.5)))
    np.testing.assert_allclose(np.sum(ours, axis=(1, 2, 3)), 0.8, rtol=1e-5)
    assert np.all(np.diff(np.max(ours, axis=(1, 2, 3))) < 0)


def test_sharpen_is_the_kernel_of_imgaug():
    image, alpha, lightness = picture(), [0.5, 0.2, 0.0], [0.5, 1.5, 0.3]
    ours = convolve(image, WIDTH, filters.sharpen(alpha=f32(*alpha), lightness=f32(*lightness)))
    for i, w in enumerate(WIDTH):
        effect = np.full((3, 3), -1.0)
        effect[1, 1] = 8 + lightness[i]
        nothing = np.zeros((3, 3))
        nothing[1, 1] = 1
        kernel = (1 - alpha[i]) * nothing + alpha[i] * effect
        theirs = cv2.filter2D(image[i, :, :w], -1, kernel, borderType=cv2.BORDER_REPLICATE)
        np.testing.assert_allclose(ours[i, :, :w], np.clip(theirs, 0, 1), atol=1e-5)


def test_filters_never_read_padding():
    image = picture()
    other = np.where(np.arange(W)[None, None, :, None] < WIDTH[:, None, None, None], image, 1.0)
    for kernel in (
        filters.blur(sigma=f32(1, 1, 1)),
        filters.sharpen(alpha=f32(1, 1, 1), lightness=f32(1, 1, 1)),
    ):
        one, two = (convolve(i, WIDTH, kernel) for i in (image, other))
        for i, w in enumerate(WIDTH):
            np.testing.assert_array_equal(one[i, :, :w], two[i, :, :w])


@pytest.mark.parametrize(
    "name, enhancer, factor",
    [
        ("jitter_brightness", ImageEnhance.Brightness, 1.35),
        ("jitter_contrast", ImageEnhance.Contrast, 0.6),
        ("jitter_saturation", ImageEnhance.Color, 1.2),
    ],
)
def test_jitter_equals_pillow(name, enhancer, factor):
    image = (picture() * 255).astype(np.uint8)
    ours = tone(name, image / np.float32(255), factor=jnp.full((B,), factor))
    for i, w in enumerate(WIDTH):
        theirs = np.asarray(enhancer(Image.fromarray(image[i, :, :w])).enhance(factor))
        np.testing.assert_allclose(
            ours[i, :, :w] * 255, theirs, atol=1.6
        )  # Pillow rounds brightness and result


def test_hue_equals_colorsys():
    image, turn = picture(), 0.07
    image[0, 0, :3] = [[0.5, 0.5, 0.5], [0, 0, 0], [1, 1, 1]]
    ours = tone("jitter_hue", image, turn=jnp.full((B,), turn))
    for place in [(0, 0, 0), (0, 0, 1), (0, 0, 2), *np.ndindex(2, 3, 4)]:
        h, s, v = colorsys.rgb_to_hsv(*map(float, image[place]))
        np.testing.assert_allclose(
            ours[place], colorsys.hsv_to_rgb((h + turn) % 1, s, v), atol=1e-5
        )


def test_noise_has_the_standard_deviation_asked_for():
    keys = jax.random.split(jax.random.key(0), B)
    image = jnp.full((B, 1, 60, 60), 0.5)
    ours = color.noise(image, color.grain(keys, image.shape[1:]), sigma=f32(0.0, 0.02, 0.1))
    np.testing.assert_allclose(np.std(ours, axis=(1, 2, 3)), [0.0, 0.02, 0.1], rtol=0.06)
    np.testing.assert_allclose(np.mean(ours, axis=(1, 2, 3)), 0.5, atol=0.006)


# ---- the operators of SeqCLR's severities 0 and 1 ----


def real(image, row):
    """The real part of one line, [H,w,C]."""
    return np.asarray(image)[row, :, : WIDTH[row]]


def test_equalize_is_opencvs_on_the_real_part():
    grey = np.random.default_rng(1).integers(60, 140, (B, H, W, 1)).astype(np.uint8)
    grey[2] = 77  # a blank line stays
    ours = tone("equalize", grey / np.float32(255))
    for row in range(B):
        expected = cv2.equalizeHist(np.ascontiguousarray(real(grey, row)[..., 0]))
        np.testing.assert_allclose(real(ours, row)[..., 0] * 255, expected, atol=0.51)


def test_median_and_average_are_those_of_their_neighbours():
    image = picture(1)
    median = tone("median", image)
    average = convolve(image, WIDTH, filters.average(size=f32(3.0, 5.0, 1.0)))
    for row, side in enumerate((3, 5, 1)):
        line = real(image, row)[..., 0]
        padded = np.pad(line, 1, mode="edge")
        near = np.stack([padded[i : i + H, j : j + WIDTH[row]] for i in range(3) for j in range(3)])
        np.testing.assert_allclose(real(median, row)[..., 0], np.median(near, axis=0), atol=1e-7)
        expected = cv2.blur(line, (side, side), borderType=cv2.BORDER_REPLICATE)
        np.testing.assert_allclose(real(average, row)[..., 0], expected, atol=1e-6)


def test_kernels_equal_opencvs_correlation():
    """Motion across and down is a mean of five; emboss is its kernel."""
    image = picture(1)
    motion = np.asarray(filters.motion(degrees=f32(0.0, 90.0, 45.0)))
    np.testing.assert_allclose(motion[0], np.eye(5)[2][:, None] * np.full(5, 0.2), atol=1e-6)
    np.testing.assert_allclose(motion[1], motion[0].T, atol=1e-6)
    np.testing.assert_allclose(motion[2], motion[2].T, atol=1e-6)
    assert motion[2].argmax() == 12 and motion[2][0, 4] == 0 and abs(motion[2].sum() - 1) < 1e-6
    emboss = np.asarray(filters.emboss(alpha=f32(0.0, 1.0, 0.5), strength=f32(1.0, 0.5, 1.5)))
    np.testing.assert_allclose(emboss[0], np.outer(np.eye(5)[2], np.eye(5)[2]), atol=1e-6)
    np.testing.assert_allclose(
        emboss[1][1:4, 1:4], [[-1.5, -0.5, 0], [-0.5, 1, 0.5], [0, 0.5, 1.5]], atol=1e-6
    )
    for kernels in (motion, emboss):
        ours = np.asarray(
            filters.correlate(jnp.moveaxis(image, 3, 1), jnp.asarray(WIDTH), jnp.asarray(kernels))
        )[:, 0]
        for row in range(B):
            line = np.ascontiguousarray(real(image, row)[..., 0])
            expected = np.clip(
                cv2.filter2D(line, -1, kernels[row], borderType=cv2.BORDER_REPLICATE), 0, 1
            )
            np.testing.assert_allclose(ours[row, :, : WIDTH[row]], expected, atol=1e-5)


def test_simple_tones_equal_their_formulas():
    image = picture(3)
    amounts = f32(0.5, 1.0, 2.0)
    each = np.array([0.5, 1.0, 2.0])[:, None, None, None]
    np.testing.assert_allclose(tone("invert", image), 1 - image, atol=1e-7)
    np.testing.assert_allclose(tone("gamma", image, exponent=amounts), image**each, atol=1e-5)
    np.testing.assert_allclose(
        tone("brightness", image, factor=amounts), np.clip(image * each, 0, 1), atol=1e-6
    )
    steps = tone("posterize", image, levels=f32(2.0, 3.9, 16.0))
    assert [len(np.unique(np.round(x, 5))) for x in steps] == [2, 3, 16]
    assert np.abs(steps[2] - image[2]).max() <= 0.5 / 15 + 1e-6
    shuffled = tone("channel_shuffle", image, order=jnp.array([[2, 0, 1], [0, 1, 2], [1, 0, 2]]))
    for row, order in enumerate(([2, 0, 1], [0, 1, 2], [1, 0, 2])):
        np.testing.assert_array_equal(shuffled[row], image[row][..., order])
    white = tone("temperature", np.ones_like(image), kelvin=f32(1900.0, 6600.0, 10000.0))[:, 0, 0]
    # Published values of the fit: candle light is orange, a clear sky blue.
    np.testing.assert_allclose(
        white * 255, [[255, 132, 0], [255, 255, 255], [202, 218, 255]], atol=2.5
    )


def test_rescale_is_a_mean_of_blocks():
    image = picture(1)
    ours = tone("rescale", image, factor=f32(4.0, 2.0, 1.0))
    for row, side in enumerate((4, 2, 1)):
        line = real(image, row)[..., 0]
        wide = np.pad(line, ((0, 0), (0, -line.shape[1] % side)), mode="edge")
        blocks = wide.reshape(H // side, side, -1, side).mean(axis=(1, 3))
        expected = np.repeat(np.repeat(blocks, side, 0), side, 1)[:, : WIDTH[row]]
        np.testing.assert_allclose(real(ours, row)[..., 0], expected, atol=1e-6)


def test_grains_hit_their_share_of_pixels():
    image = jnp.full((2, 3, 64, 256), 0.5)
    grain = color.grain(jax.random.split(jax.random.key(0), 2), image.shape[1:])
    lost = (
        np.asarray(color.dropout(image, grain, share=f32(0.1, 0.2), per_channel=f32(0.0, 1.0))) == 0
    )
    np.testing.assert_allclose(lost.mean(axis=(1, 2, 3)), [0.1, 0.2], atol=0.01)
    assert (lost[0].min(0) == lost[0].max(0)).all()  # all channels of a pixel, or none
    np.testing.assert_allclose(lost[1].all(0).mean(), 0.2**3, atol=0.004)
    salted = np.asarray(color.impulse(image, grain, share=f32(0.1, 0.4)))
    for value in (0.0, 1.0):
        np.testing.assert_allclose((salted == value).mean(axis=(1, 2, 3)), [0.05, 0.2], atol=0.01)
    factor = np.asarray(color.speckle(image, grain, spread=f32(0.5, 0.0))) / 0.5
    assert (
        0.5 <= factor[0].min() < 0.51
        and 1.49 < factor[0].max() <= 1.5
        and abs(factor[0].std() - 0.289) < 0.01
    )
    np.testing.assert_allclose(factor[1], 1.0, atol=1e-6)
