"""Losses against slow loops written from their equations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.methods import losses


def _slow_info_nce(q, k, temperature, valid):
    """2T * mean_i -log( exp(q_i.k_i / T) / sum_j exp(q_i.k_j / T) ), i and j over real rows, in float64."""
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    rows = [i for i in range(len(q)) if valid[i]]
    cosine = lambda a, b: float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))  # noqa: E731
    terms, hits = [], 0
    for i in rows:
        similar = {j: cosine(q[i], k[j]) / temperature for j in rows}
        terms.append(math.log(sum(math.exp(s) for s in similar.values())) - similar[i])
        hits += max(similar, key=similar.get) == i
    return 2 * temperature * sum(terms) / len(terms), hits / len(rows)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_info_nce_equals_the_slow_loop_and_ignores_invalid_rows(temperature):
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 12, 5)).astype(np.float32)
    k += q  # so that some queries find their key
    valid = rng.random(12) < 0.7
    assert 2 < valid.sum() < 12
    expected_loss, expected_top1 = _slow_info_nce(q, k, temperature, valid)
    for junk in (1.0, 1e6, 0.0):  # what stands in an invalid row must not matter
        q[~valid], k[~valid] = junk, -junk
        loss, top1 = losses.info_nce(jnp.asarray(q), jnp.asarray(k), temperature, jnp.asarray(valid))
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
        np.testing.assert_allclose(top1, expected_top1, rtol=1e-6)


def test_info_nce_gradient_of_invalid_rows_is_zero_and_finite():
    rng = np.random.default_rng(1)
    q, k = jnp.asarray(rng.normal(size=(2, 6, 4)), jnp.float32)
    valid = jnp.asarray([True, True, False, True, False, True])
    q = q.at[2].set(0.0)  # the length of a zero vector has no derivative: it must not become NaN
    grads = jax.grad(lambda q, k: losses.info_nce(q, k, 0.2, valid)[0], (0, 1))(q, k)
    for grad in grads:
        assert np.isfinite(grad).all()
        assert (np.asarray(grad)[[2, 4]] == 0).all() and (np.abs(np.asarray(grad)[[0, 1, 3, 5]]).max(1) > 0).all()
    none = jnp.zeros(6, bool)
    value, grad = jax.value_and_grad(lambda q: losses.info_nce(q, k, 0.2, none)[0])(q)
    assert value == 0 and (grad == 0).all()


@pytest.mark.parametrize("rows", [4, 64])
def test_info_nce_of_orthonormal_pairs(rows):
    """q = k orthonormal, T = 0.2: 2T ln(1 + (M - 1) exp(-1/T)) (methods.md 15.2)."""
    eye = jnp.eye(rows)
    loss, top1 = losses.info_nce(eye, 3.0 * eye, 0.2)
    np.testing.assert_allclose(loss, 2 * 0.2 * math.log(1 + (rows - 1) * math.exp(-5)), rtol=1e-5)
    assert top1 == 1


def test_info_nce_of_unrelated_rows_starts_near_2t_ln_m():
    rng = np.random.default_rng(2)
    q, k = jnp.asarray(rng.normal(size=(2, 512, 256)), jnp.float32)
    loss, top1 = losses.info_nce(q, k, 0.2)
    np.testing.assert_allclose(loss, 0.4 * math.log(512), rtol=0.02)
    assert top1 < 0.03


def test_info_nce_refuses_a_temperature_of_zero():
    with pytest.raises(ValueError, match=r"temperature is 0.*above 0.*method\.temperature"):
        losses.info_nce(jnp.eye(2), jnp.eye(2), 0)


def test_masked_mse_equals_the_slow_loop_and_never_reads_the_rest():
    rng = np.random.default_rng(3)
    prediction, target = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    weight = rng.random((3, 4, 5)) < 0.3
    total, count = 0.0, 0
    for i in np.ndindex(weight.shape):
        if weight[i]:
            total, count = total + (float(prediction[i]) - float(target[i])) ** 2, count + 1
    target[~weight] = np.nan
    prediction, target, weight = jnp.asarray(prediction), jnp.asarray(target), jnp.asarray(weight)
    loss, grad = jax.value_and_grad(losses.masked_mse)(prediction, target, weight)
    np.testing.assert_allclose(loss, total / count, rtol=1e-5)
    assert (grad[~weight] == 0).all() and (grad[weight] != 0).all()
    assert losses.masked_mse(jnp.ones((2, 2)), jnp.zeros((2, 2)), jnp.zeros((2, 2), bool)) == 0
