"""SeqCLR: three mappings and three projectors against numpy from the tokens on, what may not reach
the loss, chance.
"""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.methods import seqclr
from dig_jax.methods.shared import contrast
from tests.methods import pairs
from tests.models.test_heads import slow_lstm

NO_STATE = types.SimpleNamespace(mutable={})
SMALL = {"projector_width": 24, "projector_dim": 16, "window_px": 16}


def make(**changes):
    return seqclr.Method(
        **{"encoder": pairs.ENCODER, "channels": 1, "recipe": pairs.BLUR, **SMALL, **changes}
    )


@pytest.fixture(scope="module")
def case():
    return pairs.Case(make(projection="mlp"))


def slow_frames(case, params, view):
    """Means of the tokens of a column, of real columns alone: a list of float64 [S,D], one a valid
    row.
    """
    tokens, rows = case.tokens(params, view), pairs.HEIGHT // pairs.PATCH[0]
    columns = np.maximum(-(-case.width // pairs.PATCH[1]), 1)
    column = lambda b, c: np.mean([tokens[b, c * rows + r] for r in range(rows)], axis=0)
    return [
        np.asarray([column(b, c) for c in range(columns[b])], np.float64)
        for b in np.flatnonzero(case.valid)
    ]


def slow_project(params, frames):
    if "mlp" in params.get("projector", {}):
        return pairs.mlp(params["projector"]["mlp"], frames, False, False)
    if "lstm" in params.get("projector", {}):
        both = [
            slow_lstm(params["projector"]["lstm"], frames, direction, 24) for direction in (0, 1)
        ]
        dense = params["projector"]["dense"]
        return np.concatenate(both, -1) @ np.asarray(dense["kernel"], np.float64) + np.asarray(
            dense["bias"], np.float64
        )
    return frames


def slow_instances(case, params, view, window_px):
    """Project every frame, then average from left to right: float64 [M,K] of the real windows of
    the valid rows.
    """
    each, found = (window_px or pairs.WIDTH) // pairs.PATCH[1], []
    for frames in slow_frames(case, params, view):
        projected = slow_project(params, frames)
        found += [
            projected[first : first + each].mean(0) for first in range(0, len(projected), each)
        ]
    return np.asarray(found)


@pytest.mark.parametrize(
    "projection, window_px, instances",
    [("none", None, 7), ("none", 8, 26), ("mlp", 16, 15), ("bilstm", 16, 15)],
)
def test_instances_equal_the_slow_loop(case, projection, window_px, instances):
    """All-to-instance, frame-to-instance and window-to-instance; project, then pool."""
    method = make(projection=projection, window_px=window_px)
    params, _, _ = pairs.start(method, case.batch)
    assert ("projector" in params) == (projection != "none")
    z, real = jax.jit(lambda p: method.network.apply({"params": p}, case.batch))(params)
    for view in (0, 1):
        expected = slow_instances(case, params, view, window_px)
        assert expected.shape == (instances, 32 if projection == "none" else 16)
        np.testing.assert_allclose(
            np.asarray(z)[:, view][np.asarray(real)[:, view]], expected, atol=2e-5
        )


def test_loss_is_the_mean_over_both_views(case):
    z = [slow_instances(case, case.params, view, 16) for view in (0, 1)]
    one, two, top1 = pairs.nt_xent(*z, 0.1)
    expected = {
        "contrast": np.mean(one + two),
        "top1": top1,
        "q_std": pairs.spread(np.concatenate(z)),
    }
    np.testing.assert_allclose(case.out["loss"], expected["contrast"], rtol=2e-4)
    assert set(case.out["metrics"]) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(case.out["metrics"][name], value, rtol=2e-4, err_msg=name)


@pytest.mark.parametrize("chunk", [None, 7])
def test_loss_and_gradients_equal_the_reference(chunk):
    """The official loss of SemiMTR, float64: gradients flow through both sides."""
    q, k, value, grad_q, grad_k = pairs.golden(
        "q", "k", "nt_xent", "nt_xent_grad_q", "nt_xent_grad_k"
    )
    method = make(loss_chunk=chunk)
    stack = lambda p: jnp.stack([p["q"], p["k"]], axis=1).reshape(4, 6, 2, 16).swapaxes(1, 2)
    method.network = pairs.Given(lambda p: (stack(p), jnp.ones((4, 2, 6), bool)))
    loss, grads = jax.jit(jax.value_and_grad(lambda p: method.loss(p, NO_STATE, {}, None, 0.0)[0]))(
        {"q": q, "k": k}
    )
    np.testing.assert_allclose(loss, value, rtol=1e-5)
    pairs.same(grads, {"q": grad_q, "k": grad_k}, rtol=1e-4)


class TestProofs(pairs.Proofs):
    pass


@pytest.mark.slow
def test_loss_starts_where_chance_puts_it():
    """ln(2M - 1) at T = 1."""
    method = make(temperature=1.0)
    method.network = pairs.Given(lambda z: (z, jnp.ones(z.shape[:3], bool)))
    pairs.prove_chance(
        lambda z: method.loss(z, NO_STATE, {}, None, 0.0), (32, 2, 5), math.log(2 * 160 - 1)
    )


@pytest.mark.slow
def test_displaced_views_are_paired_by_what_they_show():
    """The grey of a pixel is its column, so each window's mean tells its place in the line; every
    pair must agree.
    """
    method = make(displace_px=16, recipe=())
    columns = jnp.broadcast_to(
        jnp.arange(pairs.WIDTH, dtype=jnp.uint8)[:, None], (64, pairs.HEIGHT, pairs.WIDTH, 1)
    )
    width = jnp.full(64, pairs.WIDTH).at[:3].set(jnp.array([30, 32, 40]))
    batch = jax.jit(method.augment)(
        jax.random.key(0),
        {"image": columns, "width": width, "valid": jnp.ones(64, bool).at[9].set(False)},
    )
    assert batch["view1"].shape == (64, pairs.HEIGHT, 32, 1) and np.asarray(
        batch["width"]
    ).tolist() == [30, *[32] * 63]
    assert not batch["first"][:3].any() and {tuple(row) for row in batch["first"].tolist()} == {
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    }
    means = lambda view: view.reshape(64, 2, 8, 4, 8).mean((2, 4)).swapaxes(1, 2).reshape(64, 8, 1)
    patches = jnp.stack([means(batch["view1"]), means(batch["view2"])], axis=1)
    z, real = contrast.instances(patches, batch, pairs.PATCH, 16)
    z, real = seqclr.aligned(z, real, batch["first"])
    together = np.asarray(batch["first"][:, 0] == batch["first"][:, 1]) & (np.arange(64) != 9)
    apart = np.asarray(batch["first"][:, 0] != batch["first"][:, 1]) & (np.arange(64) != 9)
    np.testing.assert_array_equal(np.asarray(real[:, 0]).sum(1), 2 * together + apart)
    np.testing.assert_array_equal(real[:, 0], real[:, 1])
    same = np.asarray(z[:, 0] - z[:, 1])[..., 0][np.asarray(real[:, 0])]
    np.testing.assert_allclose(same, 0, atol=1e-6)
    assert (
        np.abs(np.asarray(patches[:, 0] - patches[:, 1])[apart]).min() > 0.1
    )  # else nothing had moved


def test_augment_encode_and_sentences():
    pairs.prove_augment(make)
    pairs.prove_encode(make)
    pairs.prove_sentences(
        make,
        [
            ({"recipe": "paper"}, "recipe is 'paper'.*method.recipe.*seqclr_2"),
            ({"displace_px": 24}, "displace_px is 24 with windows of 16 px.*method.displace_px"),
            ({"displace_px": 48}, "displace_px is 48, so lines must be wider.*data.width_px"),
            ({"projection": "lstm"}, "projection is 'lstm'.*method.projection.*none, mlp, bilstm"),
        ],
    )
    with pytest.raises(ValueError, match="12 px.*patches of 8 px.*window_px"):
        jax.eval_shape(make(window_px=12).init, jax.random.key(0), pairs.batch())


@pytest.mark.slow
def test_a_cnn_learns():
    pairs.prove_a_cnn_learns(make)
