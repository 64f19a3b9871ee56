"""SimCLR: the loss from the tokens on against numpy, what may not reach it, chance at the start."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.methods import simclr
from tests.methods import pairs

NO_STATE = types.SimpleNamespace(mutable={})


def make(**changes):
    return simclr.Method(
        **{
            "encoder": pairs.ENCODER,
            "channels": 1,
            "projector_dim": 24,
            "recipe": pairs.BLUR,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def case():
    return pairs.Case(make())


def test_loss_is_the_sum_of_both_views_means(case):
    """Batch norms over both views together, anchors in both views, the means of the two added."""
    h = [case.means(case.params, view) for view in (0, 1)]
    projector = case.params["projector"]
    assert set(projector["norm_1"]) == {"scale", "bias"} and set(projector["norm_2"]) == {"scale"}
    assert projector["dense_0"]["kernel"].shape == (32, 32) and len(projector) == 6
    z = pairs.mlp(projector, np.concatenate(h), True, True)
    one, two, top1 = pairs.nt_xent(*np.split(z, 2), 0.1)
    np.testing.assert_allclose(case.out["loss"], np.mean(one) + np.mean(two), rtol=2e-4)
    expected = {"contrast": np.mean(one) + np.mean(two), "top1": top1, "q_std": pairs.spread(z)}
    assert set(case.out["metrics"]) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(case.out["metrics"][name], value, rtol=2e-4, err_msg=name)


@pytest.mark.parametrize("chunk", [None, 7])
def test_gradients_flow_through_both_sides_as_in_the_reference(chunk):
    """The official NT-Xent of SemiMTR is the mean; this is the sum of two means, and so are its
    gradients.
    """
    q, k, value, grad_q, grad_k = pairs.golden(
        "q", "k", "nt_xent", "nt_xent_grad_q", "nt_xent_grad_k"
    )
    method = make(loss_chunk=chunk)
    real = jnp.ones((24, 2, 1), bool)
    stack = lambda p: jnp.stack([p["q"], p["k"]], axis=1)[:, :, None]
    method.network = pairs.Given(lambda p: (stack(p), stack(p), real))
    loss, grads = jax.jit(jax.value_and_grad(lambda p: method.loss(p, NO_STATE, {}, None, 0.0)[0]))(
        {"q": q, "k": k}
    )
    np.testing.assert_allclose(loss, 2 * value, rtol=1e-5)
    pairs.same(grads, {"q": 2 * grad_q, "k": 2 * grad_k}, rtol=1e-4)


class TestProofs(pairs.Proofs):
    pass


@pytest.mark.slow
def test_loss_starts_where_chance_puts_it():
    """2 ln(2B - 1) at T = 1."""
    method = make(temperature=1.0)
    method.network = pairs.Given(lambda z: (z, z, jnp.ones(z.shape[:3], bool)))
    pairs.prove_chance(
        lambda z: method.loss(z, NO_STATE, {}, None, 0.0), (128, 2, 1), 2 * math.log(2 * 128 - 1)
    )


def test_augment_encode_and_sentences():
    pairs.prove_augment(make)
    pairs.prove_encode(make)
    pairs.prove_sentences(
        make,
        [
            ({"recipe": "digg"}, "recipe is 'digg'.*method.recipe"),
            ({"projector_layers": 0}, "projector_layers is 0.*method.projector_layers to 1"),
        ],
    )


@pytest.mark.slow
def test_a_cnn_learns():
    pairs.prove_a_cnn_learns(make)
