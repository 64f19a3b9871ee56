"""Colourisation: the colour space against ITU-R 601 and the house's grey, and that the encoder sees
no colour.
"""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.augment import color
from dig_jax.methods import colorization
from dig_jax.models import vit

ENCODER = {"patch": (8, 4), "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}


@pytest.fixture(scope="module")
def raw():
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 32, 3), np.uint8)
    width = np.array([32, 19, 8])
    return {"image": jnp.asarray(image), "width": jnp.asarray(width), "valid": jnp.ones(3, bool)}


@pytest.fixture(scope="module")
def method():
    return colorization.Method(encoder=ENCODER, channels=3, decoder_width=24)


def test_colours_are_those_of_itu_r_601():
    corners = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [1, 0, 1]], np.float32
    )
    grey, colour = colorization.split_colour(jnp.asarray(corners) * 2 - 1)
    # Y, Cb, Cr of the standard, for R G B in [0, 1].
    expected = [[0.299, -0.168736, 0.5], [0.587, -0.331264, -0.418688], [0.114, 0.5, -0.081312], [1, 0, 0], [0, 0, 0],
                [0.413, 0.331264, 0.418688]]  # fmt: skip
    np.testing.assert_allclose(
        np.concatenate([grey / 2 + 0.5, colour / 2], axis=-1), expected, atol=1e-5
    )
    np.testing.assert_allclose(colorization.join_colour(grey, colour), corners * 2 - 1, atol=1e-5)


def test_the_encoder_sees_the_grey_of_the_house_and_no_colour(raw, method):
    batch = jax.jit(method.augment)(jax.random.key(0), raw)
    view, image = np.asarray(batch["view1"]), np.asarray(raw["image"], np.float32) / 255
    assert view.shape == image.shape and (view == view[..., :1]).all()
    planes = color.luma(jnp.asarray(image).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(view[..., 0] / 2 + 0.5, planes[:, 0], atol=1e-6)
    # Other colours of the same grey: the same view, another target.
    other = colorization.join_colour(batch["view1"][..., :1], 0.1 * batch["target"][..., ::-1])
    grey, colour = colorization.split_colour(other)
    np.testing.assert_allclose(grey, view[..., :1], atol=1e-5)
    assert np.abs(colour - batch["target"]).max() > 0.1
    assert np.abs(batch["target"]).max() <= 1


def test_right_colours_paint_the_original_and_no_colours_paint_it_grey(raw, method):
    batch = jax.jit(method.augment)(jax.random.key(0), raw)
    painter = colorization.Method(encoder=ENCODER, channels=3)
    original = np.asarray(raw["image"]) / 255
    real = (np.arange(32) < np.asarray(raw["width"])[:, None])[:, None, :, None]
    for colours, expected in [
        (batch["target"], original),
        (0 * batch["target"], batch["view1"] / 2 + 0.5),
    ]:
        said = vit.patchify(colours, (8, 4))
        painter.network = types.SimpleNamespace(apply=lambda *args, said=said, **how: said)
        pictures = painter.reconstruct({}, raw, jax.random.key(0))
        np.testing.assert_allclose(
            pictures["output"], np.where(real, expected, original), atol=1e-5
        )
        np.testing.assert_allclose(pictures["masked"], batch["view1"] / 2 + 0.5, atol=1e-6)
        np.testing.assert_allclose(pictures["original"], original, atol=1e-6)


def test_grey_images_are_refused_in_a_sentence():
    with pytest.raises(
        ValueError, match="channels is 1; only colour images.*config.data.channels to 3"
    ):
        colorization.Method(encoder=ENCODER, channels=1)
