"""Masked contrast within a line: the loss against a slow loop, what each side may see, and the
value at the start."""

from __future__ import annotations

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax import losses
from dig_jax.methods import linecontrast
from tests.methods import checks
from tests.methods.checks import PATCH, ROWS, WIDTH, grown, lines, pixels_of, same

ENCODER = {"patch": PATCH, "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}
STATE = types.SimpleNamespace(teacher=None, mutable={})
COLUMNS = WIDTH // PATCH[1]


def make(**changes):
    small = {"channels": 1, "mask_span": 2, "dim": 16, "hidden": 24, "column_offset_max": 9}
    return linecontrast.Method(encoder=ENCODER, **{**small, **changes})


@functools.cache
def small():
    """(method, params as drawn, params with every array random, augmented batch); row 4 fills."""
    return checks.started(make())


@functools.cache
def step(method):
    """jitted (params, batch) -> ((loss, metrics), gradients by parameters)."""

    def loss(params, batch):
        value, aux = method.loss(params, STATE, batch, jax.random.key(5), 0.0)
        return value, (aux.metrics, aux.weight)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def sides(method):
    return jax.jit(lambda params, batch: method.apply(params, "__call__", batch))


def asked(batch):
    mask = batch["mask"].reshape(8, COLUMNS, ROWS)
    assert (mask.min(2) == mask.max(2)).all()  # whole columns
    return mask[:, :, 0] & batch["valid"][:, None]


def test_loss_against_a_slow_loop():
    method, params, _, batch = small()
    c, q = (np.asarray(x, np.float64) for x in sides(method)(params, batch))
    total, right, count = 0.0, 0, 0
    cos = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    for line, columns in enumerate(asked(batch)):
        choices = np.flatnonzero(columns)
        for t in choices if len(choices) > 1 else ():
            scores = [cos(c[line, t], q[line, s]) / 0.1 for s in choices]
            own = scores[list(choices).index(t)]
            total += math.log(sum(math.exp(score) for score in scores)) - own
            right, count = right + (own == max(scores)), count + 1
    (loss, (metrics, weight)), _ = step(method)(params, batch)
    assert count > 6 and int(weight) == count
    np.testing.assert_allclose(loss, total / count, rtol=1e-5)
    np.testing.assert_allclose(metrics["top1"], right / count, rtol=1e-6)


def test_context_sees_no_hidden_pixel_and_a_target_only_its_neighbourhood():
    method, _, params, batch = small()
    c, q = sides(method)(params, batch)
    hidden = pixels_of(batch["mask"])[..., None]
    noise = np.random.default_rng(1).uniform(-1, 1, batch["view1"].shape).astype(np.float32)
    other = {**batch, "view1": np.where(hidden, noise, batch["view1"])}
    np.testing.assert_array_equal(sides(method)(params, other)[0], c)
    moved = batch["view1"].copy()
    moved[0, :, 3 * PATCH[1] : 4 * PATCH[1]] *= -1
    changed = np.abs(np.subtract(sides(method)(params, {**batch, "view1": moved})[1], q))
    assert (changed[0].max(-1) > 0).nonzero()[0].tolist() == [2, 3, 4] and not changed[1:].any()


def test_a_target_knows_no_place():
    """Equal columns have equal targets wherever they stand, so that counting does not help."""
    method, _, params, batch = small()
    flat = {**batch, "view1": np.tile(batch["view1"][:, :, :8], (1, 1, COLUMNS, 1))}
    target = np.asarray(sides(method)(params, flat)[1])[0]
    np.testing.assert_allclose(target[1:-1], target[1:2].repeat(COLUMNS - 2, 0), atol=1e-6)


@pytest.mark.slow
def test_loss_does_not_move_when_padding_grows_rows_fill_up_and_devices_share_them():
    method, _, params, batch = small()
    eight = step(method)(*checks.on_eight_devices(params, grown(batch, more=8)))
    (loss, (metrics, _)), grads = jax.device_get(eight)
    (first, (before, _)), first_grads = step(method)(params, batch)
    same((loss, metrics, grads), (first, before, first_grads), rtol=2e-5)


@pytest.mark.slow
def test_start_is_what_chance_expects():
    """Unrelated unit vectors of K numbers: cosines of deviation 1 / sqrt(K)."""
    rng = np.random.default_rng(0)
    c, q = rng.normal(size=(2, 64, 20, 128))
    loss, top1, count = losses.line_contrast(c, q, np.ones((64, 20), bool), 0.1)
    assert int(count) == 64 * 20
    # E exp(x / T) of a normal x of deviation s: exp(s^2 / 2T^2)
    np.testing.assert_allclose(loss, math.log(20) + 0.5 / 128 / 0.01, atol=0.1)
    np.testing.assert_allclose(top1, 1 / 20, atol=0.02)


def test_gradients_reach_both_sides_and_a_lone_column_counts_nothing():
    rng = np.random.default_rng(1)
    c, q = (jnp.asarray(x, jnp.float32) for x in rng.normal(size=(2, 3, 5, 8)))
    places = np.zeros((3, 5), bool)
    places[0, :3], places[1, 2] = True, True
    loss = lambda c, q: losses.line_contrast(c, q, places, 0.1)[0]
    for grad in jax.grad(loss, (0, 1))(c, q):
        seen = np.abs(np.asarray(grad)).max(-1) > 0
        np.testing.assert_array_equal(seen, places & (np.arange(3) == 0)[:, None])
    assert np.isfinite(loss(c * 0, q)) and loss(c, c) < loss(c, q)
    assert losses.line_contrast(c, q, places & False, 0.1)[0] == 0


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"mask_ratio": 0.0}, r"mask_ratio is 0\.0.*method.mask_ratio"),
        ({"mask_span": 1}, "mask_span is 1.*method.mask_span"),
        ({"reach": -1}, "reach is -1.*method.reach"),
        ({"dim": 0}, "dim is 0.*method.dim"),
        ({"temperature": 0.0}, "temperature is 0.*method.temperature"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        method = make(**changes)
        shape = jax.eval_shape(method.augment, jax.random.key(0), lines())
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
        params = jax.eval_shape(method.init, jax.random.key(0), batch)["params"]
        loss = lambda *given: method.loss(given[0], STATE, *given[1:], 0.0)[0]
        jax.eval_shape(loss, params, batch, jax.random.key(0))
