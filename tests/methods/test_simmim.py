"""SimMIM: the loss against a slow loop, which pixels may reach it and by which way, and its value
at the start.
"""

from __future__ import annotations

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.methods import mae, simmim
from dig_jax.models import vit
from tests.methods import checks
from tests.methods.checks import PATCH, ROWS, WIDTH, grown, inside, lines, pixels_of, same

ENCODER = {"patch": PATCH, "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}
STATE = types.SimpleNamespace(teacher=None, mutable={})


def make(**changes):
    """A small SimMIM that reads grey lines and hides pairs of patches."""
    return simmim.Method(encoder=ENCODER, **{"channels": 1, "mask_unit_px": (8, 16), **changes})


@functools.cache
def loss_and_grads(method):
    """jitted (params, batch) -> (loss, (gradients by parameters, gradients by pixels
    f32[B,H,W,C])).
    """

    def loss(params, image, batch):
        return method.loss(params, STATE, {**batch, "view1": image}, jax.random.key(5), 0.0)[0]

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return lambda params, batch: step(params, batch["view1"], batch)


@functools.cache
def predict(method):
    return jax.jit(lambda params, batch: method.network.apply({"params": params}, batch))


@functools.cache
def small():
    """(method, params as they are drawn, params with every array random, augmented batch), which
    the tests share; row 4 of the batch is filler."""
    return checks.started(make(column_offset_max=9))


def hidden_pixels(batch):
    """bool[B,H,W]: real pixels of hidden patches."""
    return pixels_of(batch["mask"]) & inside(batch)


def test_loss_is_the_mean_distance_over_hidden_real_pixels():
    """The paper's L1, pixel by pixel, of the image as the encoder reads it."""
    method, _, params, batch = small()
    prediction = np.asarray(
        vit.unpatchify(predict(method)(params, batch), PATCH, (ROWS, WIDTH // PATCH[1])), np.float64
    )
    image, hidden, total, count = (
        np.asarray(batch["view1"], np.float64),
        hidden_pixels(batch),
        0.0,
        0,
    )
    for b, y, x in np.argwhere(hidden):
        if batch["valid"][b]:
            total, count = total + abs(prediction[b, y, x, 0] - image[b, y, x, 0]), count + 1
    np.testing.assert_allclose(loss_and_grads(method)(params, batch)[0], total / count, rtol=1e-5)


def test_hidden_pixels_are_targets_and_nothing_else():
    """Their values do not reach the prediction, and visible, padding and filler pixels are no
    target.
    """
    method, _, params, batch = small()
    hidden = hidden_pixels(batch)
    dirty = {**batch, "view1": np.where(hidden[..., None], np.float32(np.nan), batch["view1"])}
    np.testing.assert_array_equal(predict(method)(params, dirty), predict(method)(params, batch))
    grad = np.asarray(loss_and_grads(method)(params, batch)[1][1])[..., 0]
    entering = hidden & np.asarray(batch["valid"])[:, None, None]
    # d|p - x| / dx is +-1 where x is a target; it has no other way to the loss, so all sizes are
    # one over the count.
    np.testing.assert_allclose(np.abs(grad[entering]), 1 / entering.sum(), rtol=1e-4)
    read = inside(batch) & ~hidden & entering.any(axis=(1, 2), keepdims=True)
    assert (grad[~entering & ~read] == 0).all() and (grad[read] != 0).all()
    assert (grad[hidden & ~entering] == 0).all() and (
        hidden & ~entering
    ).any()  # a filler row has hidden patches, too


@pytest.mark.slow
def test_loss_does_not_move_when_padding_grows_rows_fill_up_and_devices_share_them():
    """Wider canvas, other pixels in the padding, eight more rows that are not valid, all of it over
    eight devices.
    """
    method, _, params, batch = small()
    eight = loss_and_grads(method)(*checks.on_eight_devices(params, grown(batch, more=8)))
    loss, (grads, by_pixel) = jax.device_get(eight)
    wanted = loss_and_grads(method)(params, batch)
    same((loss, (grads, by_pixel[:8, :, :WIDTH])), wanted, rtol=2e-5)
    assert not by_pixel[8:].any() and not by_pixel[:, :, WIDTH:].any()


def test_a_constant_is_what_the_start_reaches():
    """Uniform noise in [-1, 1] about a small prediction p: E|x - p| = (1 + p^2) / 2."""
    method, drawn, _, batch = small()
    prediction = np.asarray(predict(method)(drawn, batch))[batch["mask"] & batch["valid"][:, None]]
    expected = np.mean(
        np.where(np.abs(prediction) < 1, (1 + prediction**2) / 2, np.abs(prediction))
    )
    np.testing.assert_allclose(loss_and_grads(method)(drawn, batch)[0], expected, rtol=0.05)


def test_units_of_the_config_are_hidden_and_lines_stay_as_they_are():
    method, _, params, batch = small()
    mask = batch["mask"].reshape(8, WIDTH // PATCH[1], ROWS)
    pairs = mask.reshape(8, -1, 2, ROWS)
    assert (
        pairs[[0, 6]].min(axis=2) == pairs[[0, 6]].max(axis=2)
    ).all()  # lines that fill their last unit
    assert mask[0].sum() == 2 * math.ceil(0.6 * 16)
    np.testing.assert_allclose(batch["view1"], np.asarray(lines()["image"]) / 127.5 - 1, atol=1e-6)
    offset = batch["column_offset"]
    assert (
        offset.shape == (8, 1)
        and offset.min() >= 0
        and offset.max() <= 9
        and len(np.unique(offset)) > 3
    )
    moved = {**batch, "column_offset": offset + 4 * (np.arange(8) == 2)[:, None]}
    changed = np.abs(
        np.subtract(predict(method)(params, moved), predict(method)(params, batch))
    ).max(axis=(1, 2))
    assert (changed > 1e-4).tolist() == [i == 2 for i in range(8)]


def test_parameters_and_features_are_those_of_other_methods():
    method, drawn, _, _ = small()
    other = mae.Method(encoder=ENCODER, channels=1)
    raw = lines()
    theirs = jax.eval_shape(
        lambda: other.init(jax.random.key(0), other.augment(jax.random.key(1), raw))["params"]
    )
    assert set(drawn) == {"encoder", "head"} and set(drawn["head"]) == {"kernel", "bias"}
    assert jax.tree.map(jnp.shape, drawn["encoder"]) == jax.tree.map(
        lambda x: x.shape, theirs["encoder"]
    )
    out = jax.eval_shape(method.encode, drawn, raw)
    assert {name: x.shape for name, x in out.items()} == {
        "tokens": (8, 32, 32),
        "frames": (8, 8, ROWS * 32),
        "frame_length": (8,),
    }


def test_pictures_change_hidden_patches_only():
    method, _, params, batch = small()  # of key 0
    raw = lines()
    pictures = jax.tree.map(np.asarray, jax.jit(method.reconstruct)(params, raw, jax.random.key(0)))
    hidden, original = hidden_pixels(batch), np.asarray(raw["image"]) / 255
    for name in ("masked", "output", "original"):
        np.testing.assert_allclose(pictures[name][~hidden], original[~hidden], atol=1e-6)
    assert (pictures["masked"][hidden] == 0.5).all()
    shown = (
        np.asarray(vit.unpatchify(predict(method)(params, batch), PATCH, (ROWS, 8)))[hidden] * 0.5
        + 0.5
    )
    np.testing.assert_allclose(pictures["output"][hidden], np.clip(shown, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"mask_ratio": 0.0}, r"mask_ratio is 0\.0.*method.mask_ratio"),
        ({"mask_unit_px": (8, 12)}, r"units of \(8, 12\) px.*method.mask_unit_px"),
        ({"target": "raw"}, "target is 'raw'.*method.target.*input"),
        ({"column_offset_max": -1}, "column_offset_max is -1.*0 or more"),
        ({"channels": 3}, "images have 1 channels.*method.channels"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes).augment(jax.random.key(0), lines())
