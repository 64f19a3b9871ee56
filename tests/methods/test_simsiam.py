"""SimSiam: the loss against numpy and the reference, the stopped gradient, batch norms view by
view.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.methods import simsiam
from tests.methods import pairs

NO_STATE = types.SimpleNamespace(mutable={})


def make(**changes):
    small = {"projector_width": 28, "projector_dim": 16, "predictor_width": 6, "recipe": pairs.BLUR}
    return simsiam.Method(**{"encoder": pairs.ENCODER, "channels": 1, **small, **changes})


@pytest.fixture(scope="module")
def case():
    return pairs.Case(make(window_px=16))


def test_loss_equals_the_slow_loop(case):
    """Windows of 16 px; every batch norm sees one view; the predictor ends in a dense layer with a
    bias.
    """
    params = case.params
    assert set(params["projector"]) == {"dense_0", "norm_0", "dense_1", "norm_1", "dense_2"}
    assert (
        set(params["predictor"]) == {"dense_0", "norm_0", "dense_1"}
        and "bias" in params["predictor"]["dense_1"]
    )
    z = [
        pairs.mlp(params["projector"], case.means(params, view, 16), True, True) for view in (0, 1)
    ]
    p = [pairs.mlp(params["predictor"], x, True, False) for x in z]
    assert len(z[0]) == 15
    cosine = np.mean(
        [pairs.unit(p[v][i]) @ pairs.unit(z[1 - v][i]) for v in (0, 1) for i in range(15)]
    )
    np.testing.assert_allclose(case.out["loss"], -cosine, atol=2e-5)
    assert set(case.out["metrics"]) == {"cosine", "q_std"}
    np.testing.assert_allclose(case.out["metrics"]["cosine"], cosine, atol=2e-5)
    np.testing.assert_allclose(
        case.out["metrics"]["q_std"], pairs.spread(np.concatenate(z)), rtol=2e-4
    )


def test_loss_and_gradients_equal_the_reference_and_targets_take_none():
    p1, p2, z1, z2, value, grad = pairs.golden("p1", "p2", "z1", "z2", "simsiam", "simsiam_grad_p1")
    method = make()
    stack = lambda *views: jnp.stack(views, axis=1)[:, :, None]
    real = jnp.ones((24, 2, 1), bool)
    method.network = pairs.Given(lambda p: (stack(p["p1"], p["p2"]), stack(p["z1"], p["z2"]), real))
    given = {"p1": p1, "p2": p2, "z1": z1, "z2": z2}
    loss, grads = jax.jit(jax.value_and_grad(lambda p: method.loss(p, NO_STATE, {}, None, 0.0)[0]))(
        given
    )
    np.testing.assert_allclose(loss, value, atol=1e-6)
    pairs.same(grads["p1"], grad, rtol=1e-4)
    assert (grads["z1"] == 0).all() and (grads["z2"] == 0).all() and (grads["p2"] != 0).any()


def test_collapse_shows():
    """Unrelated predictions: cosine 0 and spread 1 / sqrt(K); equal ones: cosine 1 and no
    spread.
    """
    method, real = make(), jnp.ones((64, 2, 1), bool)
    apart, equal = (
        jax.random.normal(jax.random.key(0), (2, 64, 2, 1, 256)),
        jnp.ones((2, 64, 2, 1, 256)),
    )
    for (p, z), cosine, spread in ((apart, 0.0, 1 / 16), (equal, 1.0, 0.0)):
        method.network = pairs.Given(lambda _, p=p, z=z: (p, z, real))
        metrics = jax.jit(lambda: method.loss({}, NO_STATE, {}, None, 0.0)[1].metrics)()  # noqa: B023
        np.testing.assert_allclose(
            [metrics["cosine"], metrics["q_std"]], [cosine, spread], atol=0.02
        )


class TestProofs(pairs.Proofs):
    pass


def test_augment_encode_and_sentences():
    pairs.prove_augment(make)
    pairs.prove_encode(make)
    pairs.prove_sentences(make, [({"recipe": "digg"}, "recipe is 'digg'.*method.recipe")])


@pytest.mark.slow
def test_a_cnn_learns():
    pairs.prove_a_cnn_learns(make)
