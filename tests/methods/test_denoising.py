"""Denoising: how lines are spoilt, and what the pictures show."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.methods import denoising
from dig_jax.models import vit

ENCODER = {"patch": (8, 4), "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}


@pytest.fixture(scope="module")
def raw():
    image = np.random.default_rng(0).integers(60, 200, (40, 16, 64, 3), np.uint8)
    width = np.resize([64, 37, 9], 40)
    return {"image": jnp.asarray(image), "width": jnp.asarray(width), "valid": jnp.ones(40, bool)}


def spoil(raw, **options):
    """Spoilt and clean line in grey of [0, 1], padding cut off: lists of f[H, w, C]."""
    options = {"drop": 0.0, **options}
    batch = jax.jit(denoising.Method(encoder=ENCODER, channels=3, **options).augment)(
        jax.random.key(0), raw
    )
    grey = {name: np.asarray(batch[name]) * 0.5 + 0.5 for name in ("view1", "target")}
    np.testing.assert_allclose(grey["target"], np.asarray(raw["image"]) / 255, atol=1e-6)
    return (
        [line[:, :width] for line, width in zip(grey[name], np.asarray(raw["width"]))]
        for name in grey
    )


def test_lost_pixels_are_paper_and_the_others_are_untouched(raw):
    spoilt, clean = (
        np.concatenate([line.reshape(-1, 3) for line in lines]) for lines in spoil(raw, drop=0.25)
    )
    lost = (spoilt == 1).all(axis=1)
    np.testing.assert_allclose(lost.mean(), 0.25, atol=0.01)
    np.testing.assert_allclose(spoilt[~lost], clean[~lost], atol=1e-6)


def test_noise_is_of_another_strength_in_every_line_and_never_beyond_the_most(raw):
    spread = np.array([(a - b).std() for a, b in zip(*spoil(raw, noise_sigma=0.1))])
    assert 0 < spread.min() < 0.02 and 0.08 < spread.max() < 0.105
    np.testing.assert_allclose(spread.mean(), 0.05, atol=0.012)


def test_blur_smooths_and_moves_nothing(raw):
    spoilt, clean = spoil(raw, blur_sigma_px=1.5)
    rough = (
        [np.abs(np.diff(line, axis=0)).mean() for line in spoilt],
        [np.abs(np.diff(line, axis=0)).mean() for line in clean],
    )
    assert (np.array(rough[0]) < np.array(rough[1]) + 1e-6).all() and np.mean(
        rough[0]
    ) < 0.7 * np.mean(rough[1])
    means = np.array([[a.mean(), b.mean()] for a, b in zip(spoilt, clean)])
    np.testing.assert_allclose(means[:, 0], means[:, 1], atol=0.02)


@pytest.mark.parametrize("target", ["pixel", "normalized"])
def test_a_perfect_answer_paints_the_clean_line(raw, target):
    method = denoising.Method(encoder=ENCODER, channels=3, drop=0.5, target=target)
    small = {name: x[:3] for name, x in raw.items()}
    clean = np.asarray(small["image"], np.float32) / 255
    patches = vit.patchify(jnp.asarray(clean), (8, 4))
    real = np.arange(64) < np.asarray(small["width"])[:, None]
    if target == "normalized":  # per patch and channel, real pixels only; floor 0.05
        said = np.zeros(patches.shape, np.float32)
        for b in range(3):
            for n in range(patches.shape[1]):
                x, y = n // 2 * 4, n % 2 * 8
                block, inside = clean[b, y : y + 8, x : x + 4], real[b, x : x + 4]
                if inside.any():
                    some = block[:, inside]
                    deviation = np.sqrt(some.var(axis=(0, 1), ddof=1) + 0.05**2)
                    said[b, n] = ((block - some.mean(axis=(0, 1))) / deviation).ravel()
        patches = jnp.asarray(said)
    method.network = types.SimpleNamespace(apply=lambda *args, **how: patches)
    pictures = method.reconstruct({}, small, jax.random.key(0))
    np.testing.assert_allclose(pictures["output"], clean, atol=1e-4)
    np.testing.assert_allclose(pictures["original"], clean, atol=1e-6)
    assert 0.4 < (np.asarray(pictures["masked"])[0] == 1).mean() < 0.6


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"drop": 1.0}, r"drop is 1\.0.*\[0, 1\).*config.method.drop"),
        ({"noise_sigma": -0.1}, "noise_sigma is -0.1.*config.method.noise_sigma"),
        (
            {"blur_sigma_px": 3.0},
            r"blur_sigma_px is 3\.0.*config.method.blur_sigma_px to 0\.\.2\.1",
        ),
        ({"drop": 0.0}, "nothing is spoilt.*config.method.drop"),
        ({"target": "raw"}, "target is 'raw'.*config.method.target"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        denoising.Method(encoder=ENCODER, channels=1, **changes)
