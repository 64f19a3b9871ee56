"""Photometric operators against slow NumPy, OpenCV and PIL versions."""

import colorsys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from dig_jax.augment import color

B, H, W = 3, 12, 20
WIDTH = np.array([20, 13, 4])


def picture(channels=3, seed=0):
    return np.random.default_rng(seed).random((B, H, W, channels)).astype(np.float32)


def f32(*values):
    return jnp.array(values, jnp.float32)


def tone(name, image, **amounts):
    """One pixel-by-pixel operator on pictures [B,H,W,C] (the module works on planes)."""
    return np.moveaxis(np.asarray(color.TONES[name](jnp.moveaxis(image, 3, 1), jnp.asarray(WIDTH), **amounts)), 1, 3)


def convolve(image, width, kernel):
    return np.moveaxis(np.asarray(color.convolve(jnp.moveaxis(image, 3, 1), jnp.asarray(width), *kernel)), 1, 3)


NOTHING = {
    "contrast": {"alpha": 1.0},
    "solarize": {"threshold": 2.0, "above": 1.0},
    "grayscale": {"alpha": 0.0},
    "jitter_brightness": {"factor": 1.0},
    "jitter_contrast": {"factor": 1.0},
    "jitter_saturation": {"factor": 1.0},
    "jitter_hue": {"turn": 0.0},
}


@pytest.mark.parametrize("channels", [1, 3])
def test_amounts_of_nothing_are_identity(channels):
    image = picture(channels)
    assert set(NOTHING) == set(color.TONES)
    for name, amounts in NOTHING.items():
        same = tone(name, image, **{a: jnp.full((B,), v) for a, v in amounts.items()})
        np.testing.assert_allclose(same, image, atol=1e-7, err_msg=name)
    for kernel in (color.blur(sigma=jnp.zeros(B)), color.sharpen(alpha=jnp.zeros(B), lightness=jnp.ones(B))):
        np.testing.assert_allclose(convolve(image, np.full(B, W), kernel), image, atol=1e-6)


def test_contrast_about_mid_grey():
    image = picture(1)
    ours = tone("contrast", image, alpha=f32(0.5, 1.0, 3.0))
    slow = np.clip(0.5 + np.array([0.5, 1.0, 3.0])[:, None, None, None] * (image - 0.5), 0, 1)
    np.testing.assert_allclose(ours, slow, atol=1e-6)


def test_solarize_inverts_above_or_below():
    image = picture(1)
    ours = tone("solarize", image, threshold=f32(0.3, 0.3, 0.0), above=f32(1.0, 0.0, 0.0))
    np.testing.assert_array_equal(ours[0], np.where(image[0] >= np.float32(0.3), 1 - image[0], image[0]))
    np.testing.assert_array_equal(ours[1], np.where(image[1] < np.float32(0.3), 1 - image[1], image[1]))
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
    ours = convolve(image, WIDTH, color.blur(sigma=jnp.full((B,), sigma)))
    for i, w in enumerate(WIDTH):
        theirs = cv2.GaussianBlur(image[i, :, :w], (5, 5), sigma, borderType=cv2.BORDER_REPLICATE)
        np.testing.assert_allclose(ours[i, :, :w], theirs, atol=1e-5)


def test_blur_conserves_the_mean_of_a_blot():
    image = np.zeros((B, H, W, 1), np.float32)
    image[:, 5, 8] = 0.8
    ours = convolve(image, np.full(B, W), color.blur(sigma=f32(0.5, 1.0, 1.5)))
    np.testing.assert_allclose(np.sum(ours, axis=(1, 2, 3)), 0.8, rtol=1e-5)
    assert np.all(np.diff(np.max(ours, axis=(1, 2, 3))) < 0)


def test_sharpen_is_the_kernel_of_imgaug():
    image, alpha, lightness = picture(), [0.5, 0.2, 0.0], [0.5, 1.5, 0.3]
    ours = convolve(image, WIDTH, color.sharpen(alpha=f32(*alpha), lightness=f32(*lightness)))
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
    for kernel in (color.blur(sigma=f32(1, 1, 1)), color.sharpen(alpha=f32(1, 1, 1), lightness=f32(1, 1, 1))):
        one, two = (convolve(i, WIDTH, kernel) for i in (image, other))
        for i, w in enumerate(WIDTH):
            np.testing.assert_array_equal(one[i, :, :w], two[i, :, :w])


@pytest.mark.parametrize("name, enhancer, factor", [
    ("jitter_brightness", ImageEnhance.Brightness, 1.35),
    ("jitter_contrast", ImageEnhance.Contrast, 0.6),
    ("jitter_saturation", ImageEnhance.Color, 1.2),
])
def test_jitter_equals_pillow(name, enhancer, factor):
    image = (picture() * 255).astype(np.uint8)
    ours = tone(name, image / np.float32(255), factor=jnp.full((B,), factor))
    for i, w in enumerate(WIDTH):
        theirs = np.asarray(enhancer(Image.fromarray(image[i, :, :w])).enhance(factor))
        np.testing.assert_allclose(ours[i, :, :w] * 255, theirs, atol=1.6)  # Pillow rounds brightness and result


def test_hue_equals_colorsys():
    image, turn = picture(), 0.07
    image[0, 0, :3] = [[0.5, 0.5, 0.5], [0, 0, 0], [1, 1, 1]]
    ours = tone("jitter_hue", image, turn=jnp.full((B,), turn))
    for place in [(0, 0, 0), (0, 0, 1), (0, 0, 2), *np.ndindex(2, 3, 4)]:
        h, s, v = colorsys.rgb_to_hsv(*map(float, image[place]))
        np.testing.assert_allclose(ours[place], colorsys.hsv_to_rgb((h + turn) % 1, s, v), atol=1e-5)


def test_noise_has_the_standard_deviation_asked_for():
    keys = jax.random.split(jax.random.key(0), B)
    image = jnp.full((B, 1, 60, 60), 0.5)
    ours = color.add(image, color.grain(keys, image.shape[1:]), f32(0.0, 0.02, 0.1))
    np.testing.assert_allclose(np.std(ours, axis=(1, 2, 3)), [0.0, 0.02, 0.1], rtol=0.06)
    np.testing.assert_allclose(np.mean(ours, axis=(1, 2, 3)), 0.5, atol=0.006)
