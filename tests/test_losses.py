"""Losses against slow loops written from their equations, in float64, that know only of real rows.

The losses that choose one among many have more tests in test_losses_contrast.py.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax import losses

ROWS, DIM = 12, 5
RNG = np.random.default_rng(7)
QUEUE, CENTER, SAME = RNG.normal(size=(9, DIM)), RNG.normal(size=DIM), RNG.random(ROWS) < 0.5


def cosine(a, b):
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def log_chance(scores, chosen):
    """-log( exp(scores[chosen]) / sum exp(scores) ) of a dict of scores."""
    return -math.log(math.exp(scores[chosen]) / sum(math.exp(score) for score in scores.values()))


def slow_info_nce(x, real, temperature=0.2):
    """2T * mean_i -log( exp(q_i.k_i / T) / sum_j exp(q_i.k_j / T) ), unit vectors."""
    q, k = x
    return (
        2
        * temperature
        * np.mean(
            [log_chance({j: cosine(q[i], k[j]) / temperature for j in real}, i) for i in real]
        )
    )


def slow_nt_xent(x, real, temperature=0.1):
    """Mean over both views of -log( exp(a.b / T) / sum over every other row of both views ), unit
    vectors.
    """
    terms = []
    for view in (0, 1):
        for i in real:
            others = [(v, j) for v in (0, 1) for j in real if (v, j) != (view, i)]
            scores = {
                other: cosine(x[view][i], x[other[0]][other[1]]) / temperature for other in others
            }
            terms.append(log_chance(scores, (1 - view, i)))
    return np.mean(terms)


def slow_queue_nce(x, real, temperature=0.2):
    """mean_i -log( exp(q.k+ / T) / (exp(q.k+ / T) + sum over the queue) ), unit vectors."""
    q, k = x
    candidates = lambda i: dict(
        enumerate([cosine(q[i], key) / temperature for key in [k[i], *QUEUE]])
    )
    return np.mean([log_chance(candidates(i), 0) for i in real])


def slow_n_pair(x, real):
    """mean_i log(1 + sum_{j != i} exp(a_i.p_j - a_i.p_i))."""
    a, p = x
    return np.mean(
        [
            math.log(1 + sum(math.exp(a[i] @ p[j] - a[i] @ p[i]) for j in real if j != i))
            for i in real
        ]
    )


def slow_negative_cosine(x, real):
    p, z = x
    return -np.mean([cosine(p[i], z[i]) for i in real])


def slow_distillation(x, real, student_temperature=0.1, teacher_temperature=0.04):
    """mean_i -sum_k P_t(k) log P_s(k), P_t of (t - c) / Tt, P_s of s / Ts."""

    def softmax(values):
        return np.exp(values - values.max()) / np.exp(values - values.max()).sum()

    terms = []
    for s, t in zip(*x):
        p_t, p_s = softmax((t - CENTER) / teacher_temperature), softmax(s / student_temperature)
        terms.append(-sum(p_t[k] * math.log(p_s[k]) for k in range(DIM)))
    return np.mean([terms[i] for i in real])


def slow_contrastive(x, real, margin=3.0):
    """mean_i D^2 / 2 for a pair of one kind, else max(0, m - D)^2 / 2."""
    terms = []
    for i in real:
        distance = math.sqrt(sum((x[0][i] - x[1][i]) ** 2))
        terms.append(distance**2 / 2 if SAME[i] else max(0.0, margin - distance) ** 2 / 2)
    return np.mean(terms)


def slow_triplet(x, real, margin=0.2):
    """mean_i max(0, |a - p|^2 - |a - n|^2 + m), unit vectors."""
    terms = []
    for i in real:
        a, p, n = (rows[i] / math.sqrt(sum(rows[i] ** 2)) for rows in x)
        terms.append(max(0.0, sum((a - p) ** 2) - sum((a - n) ** 2) + margin))
    return np.mean(terms)


# name: (ours as a function of the rows and valid, the slow loop, how many arrays of rows)
CASES = {
    "info_nce": (lambda q, k, valid: losses.info_nce(q, k, 0.2, valid)[0], slow_info_nce, 2),
    "info_nce chunked": (
        lambda q, k, valid: losses.info_nce(q, k, 0.2, valid, chunk=5)[0],
        slow_info_nce,
        2,
    ),
    "nt_xent": (lambda q, k, valid: losses.nt_xent(q, k, 0.1, valid)[0], slow_nt_xent, 2),
    "nt_xent chunked": (
        lambda q, k, valid: losses.nt_xent(q, k, 0.1, valid, chunk=5)[0],
        slow_nt_xent,
        2,
    ),
    "queue_nce": (
        lambda q, k, valid: losses.queue_nce(q, k, jnp.asarray(QUEUE), 0.2, valid)[0],
        slow_queue_nce,
        2,
    ),
    "n_pair": (losses.n_pair, slow_n_pair, 2),
    "negative_cosine": (losses.negative_cosine, slow_negative_cosine, 2),
    "distillation": (
        lambda s, t, valid: losses.distillation(s, t, jnp.asarray(CENTER), 0.1, 0.04, valid),
        slow_distillation,
        2,
    ),
    "contrastive": (
        lambda a, b, valid: losses.contrastive(a, b, jnp.asarray(SAME), 3.0, valid),
        slow_contrastive,
        2,
    ),
    "triplet": (lambda a, p, n, valid: losses.triplet(a, p, n, 0.2, valid), slow_triplet, 3),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_equal_the_slow_loop_and_no_other_row_takes_part(name):
    """The gradient of every argument against differences of the slow loop, in one random direction
    each.
    """
    loss, slow, count = CASES[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, ROWS, DIM)).astype(np.float32)
    x[1] += x[0]
    valid = rng.random(ROWS) < 0.7
    real = list(np.flatnonzero(valid))
    assert 4 < len(real) < ROWS
    step = jax.jit(jax.value_and_grad(lambda x, valid: loss(*x, valid)))
    exact, direction = x.astype(np.float64), rng.normal(size=x.shape)
    for junk in (1.0, 1e6, 0.0, np.nan):  # what stands in an invalid row must not matter
        x[:, ~valid] = junk
        value, grads = step(jnp.asarray(x), jnp.asarray(valid))
        np.testing.assert_allclose(value, slow(exact, real), rtol=1e-5, atol=1e-6)
        assert (np.asarray(grads)[:, ~valid] == 0).all()
        for argument in range(count):
            way = np.zeros_like(direction)
            way[argument] = 1e-6 * direction[argument]
            slope = (slow(exact + way, real) - slow(exact - way, real)) / 2e-6
            np.testing.assert_allclose(
                np.sum(grads[argument] * direction[argument]), slope, rtol=1e-4, atol=1e-6
            )
    value, grads = step(jnp.asarray(x), jnp.zeros(ROWS, bool))
    assert value == 0 and (grads == 0).all()


@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "queue_nce", "negative_cosine", "triplet"])
def test_without_valid_every_row_is_real_and_its_length_does_not_matter(name):
    loss, slow, count = CASES[name]
    x = np.random.default_rng(2).normal(size=(count, ROWS, DIM)).astype(np.float32)
    value = jax.jit(lambda x: loss(*x, None))
    expected = slow(x.astype(np.float64), list(range(ROWS)))
    for scale in (1.0, np.linspace(0.1, 9.0, ROWS, dtype=np.float32)[:, None]):
        np.testing.assert_allclose(value(jnp.asarray(x * scale)), expected, rtol=1e-5, atol=1e-6)


def test_vectors_of_no_length_and_equal_vectors_have_zero_gradients():
    zero, eye = jnp.zeros((4, 4)), jnp.eye(4)
    assert (jax.grad(lambda p: losses.negative_cosine(p, eye))(zero) == 0).all()
    value, grad = jax.value_and_grad(lambda x: losses.contrastive(x, eye, jnp.zeros(4, bool), 0.5))(
        eye
    )
    assert (grad == 0).all() and value == 0.5**2 / 2


# ---- values that the equations give by themselves ----


def test_negative_cosine_is_minus_one_of_parallel_and_one_of_opposite_rows():
    x = jnp.asarray(np.random.default_rng(3).normal(size=(6, 4)), jnp.float32)
    np.testing.assert_allclose(losses.negative_cosine(x, 7 * x), -1, rtol=1e-6)
    np.testing.assert_allclose(losses.negative_cosine(x, -x), 1, rtol=1e-6)


def test_distillation_starts_at_ln_k():
    """DINO with 65536 outputs: 11.09 (methods.md 15.2); also for a schedule's temperature, known
    only on the device.
    """
    outputs = 65536
    teacher = jnp.asarray(np.random.default_rng(4).normal(size=(3, outputs)), jnp.float32)
    student = 1e-4 * teacher[:, ::-1]
    step = jax.jit(
        lambda temperature: losses.distillation(
            student, teacher, jnp.zeros(outputs), 0.1, temperature
        )
    )
    np.testing.assert_allclose(step(0.04), math.log(outputs), rtol=1e-3)
    assert round(float(step(0.04)), 2) == 11.09
    centred = losses.distillation(
        teacher, teacher + 5.0, jnp.full((1, outputs), 5.0), 1.0, 1.0
    )  # [1, K] will do as well
    np.testing.assert_allclose(
        centred, losses.distillation(teacher, teacher, jnp.zeros(outputs), 1.0, 1.0), rtol=1e-5
    )


def test_triplet_and_contrastive_rest_when_the_margin_is_kept():
    a, b = jnp.eye(4)[:2], jnp.eye(4)[2:]
    assert losses.triplet(a, a, b, 0.2) == 0
    np.testing.assert_allclose(losses.triplet(a, b, a, 0.2), 2.2, rtol=1e-6)
    different = jnp.zeros(2, bool)
    assert losses.contrastive(a, b, different, 1.4) == 0  # they are 1.414 apart
    np.testing.assert_allclose(losses.contrastive(a, b, ~different, 1.4), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: losses.info_nce(x, x, 0), r"temperature is 0.*above 0.*method\.temperature"),
        (
            lambda x: losses.nt_xent(x, x, -1.0),
            r"temperature is -1.0.*above 0.*method\.temperature",
        ),
        (lambda x: losses.queue_nce(x, x, x, 0), r"temperature is 0.*above 0.*method\.temperature"),
        (
            lambda x: losses.distillation(x, x, x[0], 0.0, 0.1),
            r"student temperature is 0.0.*above 0",
        ),
        (
            lambda x: losses.distillation(x, x, x[0], 0.1, 0.0),
            r"teacher temperature is 0.0.*above 0",
        ),
        (lambda x: losses.triplet(x, x, x, 0), r"margin is 0.*method\.margin"),
        (lambda x: losses.masked_smooth_l1(x, x, x > 0, 0), r"beta is 0.*method\.beta"),
        (lambda x: losses.contrastive(x, x, x[0] > 0, 0), r"margin is 0.*method\.margin"),
        (
            lambda x: losses.info_nce(x, x, 0.2, chunk=0),
            r"chunk is 0; .*method\.loss_chunk to at least 1",
        ),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(jnp.eye(2))


# ---- values under a mask ----


def slow_smooth_l1(d, beta=0.5):
    return d * d / (2 * beta) if abs(d) <= beta else abs(d) - beta / 2


@pytest.mark.parametrize(
    "loss, error",
    [
        (losses.masked_mse, lambda d: d**2),
        (losses.masked_l1, abs),
        (functools.partial(losses.masked_smooth_l1, beta=0.5), slow_smooth_l1),
    ],
)
def test_masked_means_equal_the_slow_loop_and_never_read_the_rest(loss, error):
    rng = np.random.default_rng(3)
    prediction, target = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    weight = rng.random((3, 4, 5)) < 0.3
    total, count = 0.0, 0
    for i in np.ndindex(weight.shape):
        if weight[i]:
            total, count = total + error(float(prediction[i]) - float(target[i])), count + 1
    target[~weight] = np.nan
    prediction, target, weight = jnp.asarray(prediction), jnp.asarray(target), jnp.asarray(weight)
    value, grad = jax.value_and_grad(loss)(prediction, target, weight)
    np.testing.assert_allclose(value, total / count, rtol=1e-5)
    assert (grad[~weight] == 0).all() and (grad[weight] != 0).all()
    assert loss(jnp.ones((2, 2)), jnp.zeros((2, 2)), jnp.zeros((2, 2), bool)) == 0


def test_unit_std_is_one_over_root_k_of_spread_rows_and_zero_of_a_collapse():
    rows = jnp.asarray(np.random.default_rng(5).normal(size=(500, 64)), jnp.float32)
    real = jnp.arange(500) < 400
    healthy = losses.unit_std(rows.at[400:].set(1.0), real)
    np.testing.assert_allclose(healthy, 1 / 8, rtol=0.02)
    assert losses.unit_std(jnp.ones((500, 64)) * rows[:, :1] ** 2, real) < 1e-6
