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
    return simclr.Method(**{"encoder": pairs.ENCODER, "channels": 1, "projector_dim": 24, "recipe": pairs.BLUR, **changes})


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
    """The official NT-Xent of SemiMTR is the mean; this is the sum of two means, and so are its gradients."""
    q, k, value, grad_q, grad_k = pairs.golden("q", "k", "nt_xent", "nt_xent_grad_q", "nt_xent_grad_k")
    method = make(loss_chunk=chunk)
    real = jnp.ones((24, 2, 1), bool)
    stack = lambda p: jnp.stack([p["q"], p["k"]], axis=1)[:, :, None]  # noqa: E731
    method.network = pairs.Given(lambda p: (stack(p), stack(p), real))
    loss, grads = jax.jit(jax.value_and_grad(lambda p: method.loss(p, NO_STATE, {}, None, 0.0)[0]))({"q": q, "k": k})
    np.testing.assert_allclose(loss, 2 * value, rtol=1e-5)
    pairs.same(grads, {"q": 2 * grad_q, "k": 2 * grad_k}, rtol=1e-4)


def test_every_parameter_learns_and_padding_does_not(case):
    pairs.prove_parameters_learn(case)
    pairs.prove_no_gradient_through_padding(case)
    assert case.out["mutable"] == {} and case.method.init_teacher(case.params) is None


def test_padding_and_rows_that_are_not_valid_do_not_matter(case):
    pairs.prove_padding_does_not_matter(case)


def test_loss_does_not_move_when_padding_grows_rows_fill_up_and_devices_share_them(case):
    pairs.prove_growth_and_devices_do_not_matter(case)


def test_loss_starts_where_chance_puts_it():
    """Unrelated lines in 512 dimensions at T = 1: 2 ln(2B - 1), top-1 near chance."""
    method = make(temperature=1.0)
    z = jax.random.normal(jax.random.key(0), (128, 2, 1, 512))
    method.network = pairs.Given(lambda p: (z, z, jnp.ones((128, 2, 1), bool)))
    loss, aux = jax.jit(lambda: method.loss({}, NO_STATE, {}, None, 0.0))()
    np.testing.assert_allclose(loss, 2 * math.log(2 * 128 - 1), rtol=0.01)
    assert aux.metrics["top1"] < 0.05
    np.testing.assert_allclose(aux.metrics["q_std"], 512**-0.5, rtol=0.01)


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
