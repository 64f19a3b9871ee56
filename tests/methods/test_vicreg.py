"""VICReg: the three terms against numpy, its value at the start, and what takes no part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.configs.pretrain import vicreg as config
from dig_jax.methods import vicreg
from tests.methods import pairs


def make(**changes):
    small = {"projector_width": 20, "recipe": pairs.BLUR}
    return vicreg.Method(**{"encoder": pairs.ENCODER, "channels": 1, **small, **changes})


@pytest.fixture(scope="module")
def case():
    return pairs.Case(make(window_px=16))


class TestProofs(pairs.Proofs):
    """Without a teacher, so all of them hold."""


def slow_terms(z1, z2):
    """s / d, the mean of both v, the sum of both c: feature by feature."""
    count, width = z1.shape
    s = sum((a - b) ** 2 for a, b in zip(z1.ravel(), z2.ravel())) / count / width
    v, c = 0.0, 0.0
    for z in (z1, z2):
        matrix = np.cov(z, rowvar=False)
        v += sum(max(0, 1 - np.sqrt(matrix[j, j] + 1e-4)) for j in range(width)) / width / 2
        pairs_of = [(i, j) for i in range(width) for j in range(width) if i != j]
        c += sum(matrix[i, j] ** 2 for i, j in pairs_of) / width
    return s, v, c


def test_loss_equals_the_slow_loop(case):
    """Windows of 16 px; every batch norm sees one view; the last layer is nothing but a matrix."""
    projector = case.state[0]["projector"]
    assert set(projector["dense_2"]) == {"kernel"} and "norm_2" not in projector
    z = [pairs.mlp(projector, case.means(case.params, v, 16), True, False) for v in (0, 1)]
    assert len(z[0]) == 15
    s, v, c = slow_terms(*z)
    np.testing.assert_allclose(case.out["loss"], 25 * s + 25 * v + c, rtol=2e-4)
    expected = {"invariance": s, "variance": v, "covariance": c}
    expected["q_std"] = pairs.spread(np.concatenate(z))
    assert set(case.out["metrics"]) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(case.out["metrics"][name], value, rtol=2e-4, err_msg=name)


@pytest.mark.slow
def test_terms_start_where_chance_puts_them_and_rest_where_they_should():
    """Independent normal numbers of deviation 1/2: v is 1/2, s is twice the variance, c is the
    sampling noise of a covariance, (d - 1) variance^2 / n."""
    rows, width = 2000, 64
    z1, z2 = jax.random.normal(jax.random.key(0), (2, rows, width)) / 2
    valid = jnp.ones(rows, bool)
    np.testing.assert_allclose(vicreg.variance(z1, valid), 0.5, rtol=0.02)
    np.testing.assert_allclose(vicreg.invariance(z1, z2, valid), 0.5, rtol=0.02)
    np.testing.assert_allclose(vicreg.covariance(z1, valid), (width - 1) * 0.25**2 / rows, rtol=0.1)
    assert vicreg.variance(4 * z1, valid) == 0 and vicreg.invariance(z1, z1, valid) == 0
    collapsed = jnp.ones((rows, width))
    np.testing.assert_allclose(vicreg.variance(collapsed, valid), 0.99, rtol=1e-5)
    grad = jax.grad(lambda z: vicreg.variance(z, valid))(collapsed)
    assert np.isfinite(grad).all() and vicreg.covariance(collapsed, valid) == 0


def test_rows_that_are_not_valid_may_hold_anything():
    z = np.random.default_rng(1).normal(size=(9, 5)).astype(np.float32)
    valid = np.arange(9) < 6
    spoilt = np.where(valid[:, None], z, np.nan)
    for term in (vicreg.variance, vicreg.covariance):
        np.testing.assert_allclose(term(spoilt, valid), term(z[:6], np.ones(6, bool)), rtol=1e-5)
        assert np.isfinite(jax.grad(term)(spoilt, valid)).all()
        assert np.isfinite(term(spoilt, valid & False))
    np.testing.assert_allclose(
        vicreg.covariance(z[:6], valid[:6]) * 2,
        slow_terms(z[:6], z[:6])[2],
        rtol=1e-4,
    )


def test_augment_encode_sentences_and_windows():
    pairs.prove_augment(make)
    pairs.prove_encode(make)
    pairs.prove_sentences(
        make, [({"projector_width": 0}, "projector_width is 0.*config.method.projector_width")]
    )
    sizes = {size: config.get_config(f"size={size}").method.window_px for size in ("T", "cnn48")}
    assert sizes == {"T": 32, "cnn48": 48}
