"""iBOT: both losses and centres against slow loops, what each network sees, sanity at the start."""

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.augment import masks
from dig_jax.methods import ibot
from dig_jax.models import cnn
from tests.methods import pairs

K, DIM = 24, 512  # a wide bottleneck, so that losses start near ln K: within 250 / DIM
GRID = (pairs.HEIGHT // pairs.PATCH[0], pairs.WIDTH // pairs.PATCH[1])


CNN = {"kind": "cnn", "height_px": pairs.HEIGHT, "dtype": "float32", **cnn.SIZES["cnn_nano"]}


def make(**changes):
    recipe = changes.pop("recipe", pairs.BLUR)
    small = {"prototypes": K, "projector_width": 20, "projector_dim": DIM, "recipe": recipe}
    small["mask_ratio"] = 0.5
    return ibot.Method(**{"encoder": pairs.ENCODER, "channels": 1, **small, **changes})


@pytest.fixture(scope="module")
def case():
    """Windows of 16 px; centres that are not 0."""
    method, width = make(window_px=16), pairs.batch()["width"]
    hide = lambda seed: masks.random_mask(jax.random.key(seed), width, GRID, pairs.PATCH, 0.5)
    init = method.init

    def with_centers(key, batch):
        waves = (0.1 * jnp.sin(jnp.arange(K) + i) for i in (0.0, 1.0))
        return init(key, batch) | {"mutable": {"center": dict(zip(("windows", "tokens"), waves))}}

    method.init = with_centers
    return pairs.Case(method, mask=jnp.stack([hide(0), hide(1)], 1))


def cross_entropy(student, teacher, center, temperature):
    wanted = np.exp((teacher - center) / temperature)
    log = student / 0.1 - math.log(np.exp(student / 0.1).sum())
    return -(wanted / wanted.sum() * log).sum()


def test_losses_and_centres_equal_slow_loops(case):
    """Token by token, window by window; the encoder's tokens and the head are taken over."""
    params, teacher, mutable = jax.device_get(case.state)
    center = mutable["center"]
    valid, width = case.valid, case.width
    head = jax.jit(lambda p, x: case.method.network.projector.apply({"params": p["projector"]}, x))
    each = {}
    for who, p, mask in (("student", params, case.batch["mask"]), ("teacher", teacher, None)):
        for view in (0, 1):
            given = case.batch[f"view{view + 1}"], case.batch["width"]
            hidden = None if mask is None else mask[:, view]
            offset = case.batch["column_offset"][:, view]
            each[who, view] = np.asarray(case.encode(p["encoder"], *given, hidden, offset))
    rows, total, count = GRID[0], {"windows": [], "tokens": []}, {0: [], 1: []}
    inside = (np.arange(GRID[1]) * pairs.PATCH[1] < width[:, None]) & valid[:, None]
    inside, answers = np.repeat(inside, rows, 1), {}
    for key, tokens in each.items():
        p = params if key[0] == "student" else teacher
        windows = tokens.reshape(8, 3, 2 * rows, -1)  # of 16 px
        real = inside.reshape(8, 3, 2 * rows)[..., None]
        windows = (windows * real).sum(2) / np.maximum(real.sum(2), 1)
        answers[key] = [np.asarray(head(p, x), np.float64) for x in (tokens, windows)]
    hidden = np.asarray(case.batch["mask"]) & inside[:, None]
    for view in (0, 1):
        for b, n in np.argwhere(hidden[:, view]):
            s, t = (answers[who, view][0][b, n] for who in ("student", "teacher"))
            count[view].append(cross_entropy(s, t, center["tokens"], 0.07))
        total["tokens"].append(np.mean(count[view]))
        terms = [
            cross_entropy(
                answers["student", view][1][b, w],
                answers["teacher", 1 - view][1][b, w],
                center["windows"],
                0.04,
            )
            for b, w in np.argwhere(inside.reshape(8, 3, -1).any(2))
        ]
        total["windows"].append(np.mean(terms))
    found = case.out["metrics"]
    for name, both in total.items():
        np.testing.assert_allclose(found[name], np.mean(both), rtol=2e-4, err_msg=name)
    np.testing.assert_allclose(case.out["loss"], found["windows"] + found["tokens"], rtol=1e-6)
    where = {"tokens": inside, "windows": inside.reshape(8, 3, -1).any(2)}
    for i, (name, real) in enumerate(where.items()):
        mean = np.mean([answers["teacher", view][i][real].mean(0) for view in (0, 1)], 0)
        expected = 0.9 * center[name] + 0.1 * mean
        np.testing.assert_allclose(
            case.out["mutable"]["center"][name], expected, atol=2e-5, err_msg=name
        )
    unit = pairs.unit(
        np.concatenate([answers["teacher", v][0][inside] - center["tokens"] for v in (0, 1)])
    )
    np.testing.assert_allclose(found["t_std"], unit.std(0).mean(), rtol=1e-4)


def test_teacher_takes_no_gradient_and_every_other_parameter_learns(case):
    assert not any(np.any(grad) for grad in jax.tree.leaves(case.out["grads"]["teacher"]))
    for path, grad in jax.tree_util.tree_leaves_with_path(case.out["grads"]["params"]):
        assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)
    assert set(case.state[1]) == {"encoder", "projector"}


def test_student_sees_no_hidden_pixel_of_either_view(case):
    """So no gradient comes from them; the teacher, which sees them, hands none on."""
    for view in (0, 1):
        mask = np.asarray(case.batch["mask"])[:, view].reshape(8, GRID[1], GRID[0])
        pixels = np.kron(mask.transpose(0, 2, 1), np.ones((1, *pairs.PATCH))) > 0
        grad = np.abs(np.asarray(case.out["grads"]["views"][f"view{view + 1}"]))[..., 0]
        assert pixels.any() and (grad[pixels] == 0).all() and grad.any()


def test_nothing_passes_through_padding_or_rows_that_are_not_valid(case):
    pairs.prove_padding_does_not_matter(case)
    inside = (np.arange(pairs.WIDTH)[None] < case.width[:, None]) & case.valid[:, None]
    for grad in case.out["grads"]["views"].values():
        assert not np.abs(np.asarray(grad)).max((1, 3))[~inside].any()


@pytest.mark.slow
def test_loss_does_not_move_when_padding_grows_rows_fill_up_and_devices_share_them(case):
    eight = pairs.prove_growth_and_devices_do_not_matter(case)
    pairs.same(jax.device_get(eight["mutable"]), case.out["mutable"])


def test_start_is_near_the_logarithm_of_the_prototypes(case):
    """No centre yet, and teacher and student are the same."""
    params = case.params
    teacher, zero = case.method.init_teacher(params), jax.tree.map(jnp.zeros_like, case.state[2])
    metrics = case.step(params, teacher, zero, case.batch)["metrics"]
    print({name: float(value) for name, value in metrics.items()}, math.log(K))
    for name in ("windows", "tokens"):
        assert abs(metrics[name] - math.log(K)) < 250 / DIM


def test_augment_hides_in_each_view_for_itself():
    given = pairs.raw()
    made = jax.jit(make(column_offset_max=9).augment)(jax.random.key(3), given)
    assert set(made) == {"view1", "view2", "width", "valid", "column_offset", "mask"}
    mask = np.asarray(made["mask"])
    assert mask.shape == (4, 2, GRID[0] * GRID[1]) and (mask[:, 0] != mask[:, 1]).any()
    columns = -(-np.asarray(given["width"]) // pairs.PATCH[1])
    expected = np.array([int(0.5 * GRID[0] * c) for c in columns])
    np.testing.assert_array_equal(mask.sum(2), np.stack([expected] * 2, 1))


def test_encoders_and_sentences():
    """A ViT and a CNN take the step; whole lines leave as those of any method."""

    def step(raw, encoder):
        method, key = make(encoder=encoder), jax.random.key(0)
        batch = method.augment(key, raw)
        made = method.init(key, batch)
        teacher = method.init_teacher(made["params"])
        state = types.SimpleNamespace(teacher=teacher, mutable=made["mutable"])
        loss, _ = method.loss(made["params"], state, batch, key, 0.0)
        return loss, method.encode(made["params"], raw)["frames"]

    for encoder, shape in ((pairs.ENCODER, (4, 6, 64)), (CNN, (4, 12, 16))):
        loss, frames = jax.eval_shape(functools.partial(step, encoder=encoder), pairs.raw())
        assert loss.shape == () and frames.shape == shape
    pairs.prove_sentences(
        make,
        [
            ({"mask_ratio": 0.0}, r"mask_ratio is 0\.0.*method.mask_ratio"),
            ({"prototypes": 0}, "prototypes is 0.*method.prototypes to 1 or more"),
            ({"momentum": 1.1}, r"momentum is 1\.1.*method.momentum"),
        ],
    )
