"""Latent targets: the loss against a slow loop, what the student may see, where no gradient comes
from, the teacher's schedule, and a teacher that another run made."""

from __future__ import annotations

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.configs.pretrain import latent as config
from dig_jax.methods import latent
from dig_jax.models import cnn
from dig_jax.train import start
from dig_jax.train.state import TrainState
from tests.methods import checks
from tests.methods.checks import PATCH, ROWS, WIDTH, grown, inside, lines, pixels_of, same

ENCODER = {"patch": PATCH, "width": 32, "depth": 3, "heads": 2, "dtype": "float32"}
BETA = 0.7  # of the size of the errors, so that both branches of the loss are taken


def make(**changes):
    small = {"channels": 1, "column_offset_max": 9, "beta": BETA, "encoder": ENCODER}
    return latent.Method(**{**small, **changes})


@functools.cache
def small():
    """(method, params as drawn, params with every array random, augmented batch); row 4 fills."""
    return checks.started(make())


@functools.cache
def step(method):
    """jitted (params, teacher, batch) -> ((loss, (metrics, weight)), gradients by params, teacher
    and pixels)."""

    def loss(params, teacher, image, batch):
        state = types.SimpleNamespace(teacher=teacher, mutable={})
        given = {**batch, "view1": image}
        value, aux = method.loss(params, state, given, jax.random.key(5), 0.0)
        return value, (aux.metrics, aux.weight)

    step = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    return lambda params, teacher, batch: step(params, teacher, batch["view1"], batch)


@functools.cache
def case():
    """(params, teacher, batch, result of the step): teacher and student differ."""
    method, _, params, batch = small()
    teacher = checks.shifted({"encoder": params["encoder"]})
    return params, teacher, batch, jax.device_get(step(method)(params, teacher, batch))


def asked(batch):
    return np.asarray(batch["mask"]) & np.asarray(batch["valid"])[:, None]


def test_loss_against_a_slow_loop():
    """K = 2 of three blocks: their mean at each hidden token, normalised; then Huber's loss."""
    method, (params, teacher, batch, ((loss, (metrics, weight)), _)) = small()[0], case()
    said = np.asarray(method.apply(params, "__call__", batch), np.float64)
    blocks = method.encoder.apply(
        {"params": teacher["encoder"]}, batch["view1"], batch["width"], None,
        batch["column_offset"][:, 0], each_block=True,
    )  # fmt: skip
    blocks, terms, targets = np.asarray(blocks, np.float64), [], []
    for line, token in np.argwhere(asked(batch)):
        mean = (blocks[1, line, token] + blocks[2, line, token]) / 2
        target = (mean - mean.mean()) / np.sqrt(mean.var() + 1e-5)
        targets.append(target / np.linalg.norm(target))
        for error in np.abs(said[line, token] - target):
            terms.append(error**2 / (2 * BETA) if error <= BETA else error - BETA / 2)
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-4)
    assert loss == metrics["latent"] and weight == asked(batch).sum() > 30
    np.testing.assert_allclose(metrics["t_std"], np.std(targets, axis=0).mean(), rtol=1e-4)


def test_teacher_takes_no_gradient_and_the_student_learns_all_it_has():
    _, _, _, (_, (grads, teacher, _)) = case()
    assert not any(np.any(grad) for grad in jax.tree.leaves(teacher))
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)


def test_gradient_comes_from_hidden_tokens_alone_and_the_student_sees_none_of_their_pixels():
    method, (params, teacher, batch, (_, (_, _, by_pixel))) = small()[0], case()
    hidden, real = pixels_of(np.asarray(batch["mask"])), inside(batch)
    read = real & ~hidden & asked(batch).any(1)[:, None, None]
    grad = np.asarray(by_pixel)[..., 0]
    assert (grad[~read] == 0).all() and (grad[read] != 0).all()

    def loss(said):
        method_like = make()
        method_like.apply = lambda p, part, *a, **k: (
            said if part == "__call__" else method.apply(p, part, *a, **k)
        )
        state = types.SimpleNamespace(teacher=teacher, mutable={})
        return method_like.loss(params, state, batch, None, 0.0)[0]

    said = method.apply(params, "__call__", batch)
    by_token = np.abs(np.asarray(jax.grad(loss)(said))).max(-1) > 0
    np.testing.assert_array_equal(by_token, asked(batch))


def test_start_is_the_loss_of_unrelated_vectors():
    """A target of variance 1 and a first answer that knows nothing of it: Huber's loss of a normal
    number with the variance of both, by quadrature. Position codes are in both, hence a quarter."""
    method, drawn, _, batch = small()
    teacher = {"encoder": drawn["encoder"]}
    (loss, (metrics, _)), _ = step(method)(drawn, teacher, batch)
    spread = math.sqrt(1 + np.asarray(method.apply(drawn, "__call__", batch))[asked(batch)].var())
    x = np.linspace(-8, 8, 4001) * spread
    density = np.exp(-0.5 * (x / spread) ** 2) / spread / math.sqrt(2 * math.pi)
    huber = np.where(np.abs(x) <= BETA, x**2 / 2 / BETA, np.abs(x) - BETA / 2)
    print("start", float(loss), "expected", np.trapezoid(density * huber, x))
    np.testing.assert_allclose(loss, np.trapezoid(density * huber, x), rtol=0.25)
    assert 0.3 / math.sqrt(32) < metrics["t_std"] < 1.01 / math.sqrt(32)


@pytest.mark.slow
def test_loss_does_not_move_when_padding_grows_rows_fill_up_or_devices_share_them():
    method, (params, teacher, batch, expected) = small()[0], case()
    pick = lambda out: (out[0], out[1][0])
    grown_batch = grown(batch, more=8)
    (params, teacher), batch = checks.on_eight_devices((params, teacher), grown_batch)
    same(jax.device_get(pick(step(method)(params, teacher, batch))), pick(expected), rtol=2e-5)


def test_teacher_follows_a_straight_line_or_stays():
    params, teacher, *_ = case()
    method = make(momentum=0.9, momentum_end=0.98, momentum_frac=0.5)
    for progress, momentum in ((0.0, 0.9), (0.25, 0.94), (0.5, 0.98), (0.9, 0.98)):
        moved = method.update_teacher(teacher, params, jnp.float32(progress))
        blend = lambda xi, theta, m=momentum: m * xi + (1 - m) * theta
        same(moved, {"encoder": jax.tree.map(blend, teacher["encoder"], params["encoder"])})
        found = method.schedules(jnp.float32(progress))["teacher_momentum"]
        np.testing.assert_allclose(found, momentum, rtol=1e-6)
    fixed = make(target="fixed")
    assert fixed.update_teacher(teacher, params, 0.5) is teacher and not fixed.schedules(0.5)


def test_a_fixed_teacher_is_loaded_and_the_student_is_not():
    """As config.init_parts of `teacher=RUN` says; a teacher that is loaded is not overwritten."""
    options = config.get_config("preset=cpu,teacher=runs/mae")
    assert options.method.target == "fixed" and options.init_from == "runs/mae"
    assert options.init_parts == ("params/encoder->teacher/encoder",)
    method, drawn, params, _ = small()
    state = TrainState(jnp.zeros(()), drawn, method.init_teacher(drawn), None, {})
    path = options.init_parts[0].split("->")[1]
    other = checks.shifted(drawn["encoder"])
    new = start.replace_parts(state, {path: other}, make(target="fixed"))
    jax.tree.map(np.testing.assert_array_equal, new.teacher["encoder"], other)
    jax.tree.map(np.testing.assert_array_equal, new.params, drawn)
    both = {path: other, "params/encoder": params["encoder"]}
    new = start.replace_parts(state, both, method)
    jax.tree.map(np.testing.assert_array_equal, new.teacher["encoder"], other)
    jax.tree.map(np.testing.assert_array_equal, new.params["encoder"], params["encoder"])
    alone = start.replace_parts(state, {"params/encoder": params["encoder"]}, method)
    jax.tree.map(np.testing.assert_array_equal, alone.teacher["encoder"], params["encoder"])
    with pytest.raises(ValueError, match="target=fixed has no teacher: add teacher=RUN"):
        config.get_config("target=fixed")


@pytest.mark.slow
def test_pixels_are_a_target_too():
    """Huber's loss over hidden real pixels; there is no teacher, and pictures can be drawn."""
    method, drawn, _, batch = checks.started(make(target="pixels"))
    assert method.init_teacher(drawn) is None
    (loss, (metrics, weight)), _ = step(method)(drawn, None, batch)
    count = (pixels_of(np.asarray(batch["mask"])) & inside(batch))[batch["valid"]].sum()
    assert set(metrics) == {"pixel"} and int(weight) == count and 0.2 < loss < 0.8
    shapes = jax.eval_shape(method.reconstruct, drawn, lines(), jax.random.key(0))
    assert set(shapes) == {"masked", "output", "original"}
    assert make().reconstruct(drawn, lines(), None) == {}


@pytest.mark.slow
def test_a_cnn_is_its_own_last_block():
    encoder = {"kind": "cnn", "height_px": 32, "dtype": "float32", **cnn.SIZES["cnn_nano"]}
    method = make(encoder=encoder, mask_span=2)
    batch = dict(jax.device_get(jax.jit(method.augment)(jax.random.key(0), lines())))
    params = jax.jit(method.init)(jax.random.key(1), batch)["params"]
    (loss, _), (grads, *_) = step(method)(params, {"encoder": params["encoder"]}, batch)
    assert batch["mask"].shape == (8, WIDTH // 4) and 0.1 < loss < 2
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)
    assert latent.last_blocks(None, method.encoder) == 0


def test_half_of_the_blocks_is_the_default():
    assert [latent.last_blocks(k, make().encoder) for k in (None, 1, 3)] == [2, 1, 3]
    tokens = jnp.asarray(np.random.default_rng(0).normal(3, 2, (4, ROWS, 32)), jnp.float32)
    found = np.asarray(latent.normalised(tokens))
    np.testing.assert_allclose(found.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(found.std(-1), 1, rtol=1e-4)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"target": "emma"}, "target is 'emma'.*method.target to one of ema, fixed, pixels"),
        ({"target_blocks": 4}, "target_blocks is 4 and the encoder has 3 blocks"),
        ({"target_blocks": 0}, "target_blocks is 0.*config.method.target_blocks"),
        ({"mask_ratio": 1.0}, r"mask_ratio is 1\.0.*method.mask_ratio"),
        ({"momentum_end": 1.5}, "momentum_end is 1.5.*method.momentum_end"),
        ({"channels": 3}, "images have 1 channels.*method.channels"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes).augment(jax.random.key(0), lines())
