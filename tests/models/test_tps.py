"""Thin-plate splines against scipy's, and a rectifier that starts as the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import interpolate, ndimage

from dig_jax.models import crnn, encoders, tps
from tests import compiled

H, W = 16, 24
WIDTH = np.array([24, 17, 5], np.int32)


def random(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("count", [4, 10, 20])
def test_displacement_is_the_thin_plate_spline_of_scipy(count):
    offsets, x, y = (
        random(2, count, 2),
        random(2, 9, seed=1),
        np.linspace(-1, 1, 7, dtype=np.float32),
    )
    ours = np.asarray(jax.jit(tps.displacement)(offsets, x, y))
    assert ours.shape == (2, 7, 9, 2) and ours.dtype == np.float32
    for row in range(2):
        spline = interpolate.RBFInterpolator(
            tps.fiducial_points(count), offsets[row], kernel="thin_plate_spline", degree=1
        )
        places = np.stack(np.meshgrid(x[row], y), axis=-1).reshape(-1, 2)
        np.testing.assert_allclose(ours[row].reshape(-1, 2), spline(places), atol=2e-4)


def test_the_points_go_where_they_are_sent_and_affine_maps_stay_affine():
    points = tps.fiducial_points(10).astype(np.float32)
    offsets = random(1, 10, 2)
    at = jax.jit(tps.displacement)(offsets, points[None, :, 0], points[[0, -1], 1])[0]
    np.testing.assert_allclose(at[0, :5], offsets[0, :5], atol=1e-4)  # the top edge
    np.testing.assert_allclose(at[1, 5:], offsets[0, 5:], atol=1e-4)
    slant, shift = random(2, 2, seed=2), random(2, seed=3)
    x, y = random(1, 6, seed=4), random(5, seed=5)
    moved = tps.displacement((points @ slant + shift)[None], x, y)[0]
    places = np.stack(np.meshgrid(x[0], y), axis=-1)
    np.testing.assert_allclose(moved, places @ slant + shift, atol=1e-4)


def test_warp_moves_the_real_part_within_itself():
    """No offset: not one bit. All points a quarter of the line to the right: pixel x shows what was
    at x + width / 8.
    """
    image, warp = random(3, H, W, 1), jax.jit(tps.warp)
    np.testing.assert_array_equal(warp(image, WIDTH, np.zeros((3, 8, 2), np.float32)), image)
    offsets = np.broadcast_to(np.array([0.25, 0.0], np.float32), (3, 8, 2))
    moved = np.asarray(warp(image, WIDTH, offsets))
    for row, width in enumerate(WIDTH):
        places = np.clip(np.arange(width) + width / 8, 0, width - 1)
        expected = np.array(
            [np.interp(places, np.arange(width), line) for line in image[row, :, :width, 0]]
        )
        np.testing.assert_allclose(moved[row, :, :width, 0], expected, atol=1e-4)
        np.testing.assert_array_equal(moved[row, :, width:], image[row, :, width:])


SIZE = {
    "kind": "crnn",
    "height_px": 32,
    "dtype": "float32",
    "patch": (32, 4),
    **crnn.SIZES["crnn_nano"],
}


@pytest.fixture(scope="module")
def network():
    """(params of an encoder with a rectifier, jitted encoder with it, the same without, image,
    width).
    """
    image, width = random(3, 32, 48, 1), np.array([48, 37, 9], np.int32)
    straight, plain = encoders.create({**SIZE, "fiducials": 8}), encoders.create(SIZE)
    params = jax.jit(straight.init)(jax.random.key(0), image, width)["params"]
    run = lambda module: jax.jit(lambda params, *args: module.apply({"params": params}, *args))
    return params, run(straight), run(plain), image, width


def bent(params):
    """The same network with a localisation that says something else for every line."""
    kernel = params["rectifier"]["offsets"]["kernel"]
    offsets = {
        **params["rectifier"]["offsets"],
        "kernel": 0.3 * jnp.sin(jnp.arange(kernel.size).reshape(kernel.shape)),
    }
    return {**params, "rectifier": {**params["rectifier"], "offsets": offsets}}


@pytest.mark.slow
def test_an_encoder_starts_as_if_it_had_no_rectifier(network):
    params, straight, plain, image, width = network
    without = {name: part for name, part in params.items() if name != "rectifier"}
    assert "rectifier" in params and not np.any(params["rectifier"]["offsets"]["kernel"])
    np.testing.assert_allclose(
        straight(params, image, width), plain(without, image, width), atol=1e-6
    )
    assert (
        np.abs(
            np.subtract(straight(bent(params), image, width), plain(without, image, width))
        ).max()
        > 0.01
    )


@pytest.mark.slow
def test_rectified_lines_know_nothing_of_padding(network):
    params, straight, _, image, width = network
    straight = jax.jit(straight.__wrapped__, compiler_options=compiled.FOR_USERS)
    params = bent(params)
    tokens = np.asarray(straight(params, image, width))
    junk = np.where((np.arange(48) >= width[:, None])[:, None, :, None], 0.7, image).astype(
        np.float32
    )
    np.testing.assert_allclose(straight(params, junk, width), tokens, atol=1e-6)
    # A wider canvas rounds the localisation otherwise: a place off by 1e-5 px shows in noise, not
    # in smooth strokes.
    smooth = ndimage.uniform_filter(image, (0, 5, 5, 0))
    wider, noisy = (
        np.pad(x, ((0, 0), (0, 0), (0, 16), (0, 0)), constant_values=0.3) for x in (smooth, image)
    )
    tokens = straight(params, smooth, width)
    np.testing.assert_allclose(
        np.asarray(straight(params, wider, width))[:, :12], tokens, atol=5e-5
    )
    offsets, warp = 0.3 * random(3, 8, 2), jax.jit(tps.warp)
    np.testing.assert_array_equal(
        warp(noisy, width, offsets)[:, :, :48], warp(image, width, offsets)
    )


@pytest.mark.slow
def test_gradients_reach_the_localisation(network):
    """At the start its last layer, after a step the whole of it; and no pixel of padding."""
    params, straight, _, image, width = network
    weight = jnp.sin(jnp.arange(3.0 * 12 * 32)).reshape(3, 12, 32)
    grad = jax.jit(
        jax.grad(
            lambda params, image: jnp.sum(weight * straight.__wrapped__(params, image, width)),
            (0, 1),
        )
    )
    first, by_pixel = grad(params, image)
    assert np.abs(first["rectifier"]["offsets"]["kernel"]).max() > 0
    padding = (np.arange(48) >= width[:, None])[:, None, :, None]
    assert np.isfinite(by_pixel).all() and not np.any(np.where(padding, by_pixel, 0))
    later = grad(bent(params), image)[0]["rectifier"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(later):
        assert np.isfinite(leaf).all() and np.any(leaf), jax.tree_util.keystr(path)


def test_impossible_points_become_a_sentence():
    for count in (2, 7):
        with pytest.raises(ValueError, match=f"fiducials is {count}.*even number from 4"):
            tps.fiducial_points(count)
