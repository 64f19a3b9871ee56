"""MoCo: loss and queue against numpy, the teacher, what may reach neither loss nor queue."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.methods import moco
from tests.methods import pairs

QUEUE = 32


def make(**changes):
    small = {"projector_width": 24, "projector_dim": 12, "queue": QUEUE, "recipe": pairs.BLUR}
    return moco.Method(**{"encoder": pairs.ENCODER, "channels": 1, **small, **changes})


@pytest.fixture(scope="module")
def case():
    return pairs.Case(make())


def slow_queue_nce(q, k, queue, temperature):
    """mean_i -log( exp(q.k+ / T) / (exp(q.k+ / T) + sum over the queue) ) and how often k+ is the
    nearest.
    """
    terms, hits = [], 0
    for query, key in zip(pairs.unit(q), pairs.unit(k)):
        scores = [float(query @ key) / temperature, *(queue @ query / temperature)]
        terms.append(pairs.cross_entropy(scores, 0))
        hits += scores[0] > max(scores[1:])
    return np.mean(terms), hits / len(q)


@pytest.mark.parametrize("changes", [{}, {"head": "linear", "temperature": 0.07, "window_px": 16}])
def test_loss_equals_the_slow_loop(case, changes):
    """v2 on whole lines; v1, here in windows: view 1 asks, view 2 of the teacher answers, one
    direction only.
    """
    if changes:
        method = make(**changes, queue=48)
        params, teacher, mutable = pairs.start(method, case.batch)
        assert set(params["projector"]) == {"dense_0"}
        state = types.SimpleNamespace(teacher=teacher, mutable=mutable)
        loss, aux = jax.jit(lambda p: method.loss(p, state, case.batch, jax.random.key(0), 0.0))(
            params
        )
        metrics = aux.metrics
    else:
        (params, teacher, mutable), loss, metrics = (
            case.state,
            case.out["loss"],
            case.out["metrics"],
        )
        assert set(params["projector"]) == {"dense_0", "dense_1"}
    window_px = changes.get("window_px")
    q = pairs.mlp(params["projector"], case.means(params, 0, window_px), False, False)
    k = pairs.mlp(teacher["projector"], case.means(teacher, 1, window_px), False, False)
    assert len(q) == (15 if changes else 7)
    expected, top1 = slow_queue_nce(
        q, k, np.asarray(mutable["queue"], np.float64), changes.get("temperature", 0.2)
    )
    assert set(metrics) == {"contrast", "top1", "q_std"}
    np.testing.assert_allclose(loss, expected, rtol=2e-4)
    np.testing.assert_allclose(metrics["contrast"], expected, rtol=2e-4)
    np.testing.assert_allclose(metrics["top1"], top1, atol=1e-6)
    np.testing.assert_allclose(metrics["q_std"], pairs.spread(q), rtol=2e-4)


def test_keys_of_real_lines_enter_the_queue_after_the_loss(case):
    """The first 8 of 32 places hold this batch's unit keys, but row 4, which is not valid, leaves
    the old noise in its.
    """
    before, after = np.asarray(case.state[2]["queue"]), case.out["mutable"]["queue"]
    teacher = case.state[1]
    k = pairs.unit(pairs.mlp(teacher["projector"], case.means(teacher, 1), False, False))
    np.testing.assert_allclose(after[:8][case.valid], k, atol=2e-5)
    np.testing.assert_array_equal(after[4], before[4])
    np.testing.assert_array_equal(after[8:], before[8:])
    assert case.out["mutable"]["place"] == 8


def test_queue_is_a_ring_of_the_newest_keys():
    """Five batches of 4 into 12 places, against a list; some rows are not valid."""
    rng, step = np.random.default_rng(0), jax.jit(moco.enqueue)
    slow = list(rng.normal(size=(12, 3)).astype(np.float32))
    ring = {"queue": jnp.asarray(slow), "place": jnp.zeros((), jnp.int32)}
    for turn in range(5):
        keys, valid = rng.normal(size=(4, 3)).astype(np.float32), rng.random(4) < 0.7
        ring = step(ring, jnp.asarray(keys), jnp.asarray(valid))
        for row in np.flatnonzero(valid):
            slow[(4 * turn + row) % 12] = keys[row] / np.linalg.norm(keys[row])
        np.testing.assert_allclose(ring["queue"], slow, atol=1e-6)
        assert ring["place"] == 4 * (turn + 1) % 12


def test_queue_starts_as_unit_noise(case):
    queue = np.asarray(case.state[2]["queue"])
    assert queue.shape == (QUEUE, 12) and case.state[2]["place"] == 0
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-5)
    assert np.abs(queue @ queue.T - np.eye(QUEUE)).max() < 0.95  # no two rows alike
    other = jax.jit(case.method.init)(jax.random.key(2), case.batch)["mutable"]["queue"]
    assert not np.allclose(other, queue)


def test_queue_holds_whole_batches():
    for changes, words in (
        ({"queue": 20}, "queue is 20 and a batch makes 8 keys.*method.queue to a multiple of 8"),
        ({"window_px": 16}, "queue is 32 and a batch makes 24 keys.*multiple of 24"),
        ({"queue": 0}, "queue is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(make(**changes).init, jax.random.key(0), pairs.batch())


def test_teacher_gets_no_gradient_and_moves_at_a_constant_rate(case):
    params, teacher, _ = case.state
    assert all((grad == 0).all() for grad in jax.tree.leaves(case.out["grads"]["teacher"]))
    pairs.prove_parameters_learn(case)
    for progress in (0.0, 0.9):
        moved = case.method.update_teacher(teacher, params, jnp.float32(progress))
        pairs.same(
            moved,
            jax.tree.map(lambda xi, theta: 0.999 * xi + 0.001 * theta, teacher, params),
            rtol=1e-6,
        )
    assert not case.method.schedules(jnp.float32(0.5))


def test_nothing_passes_through_padding_or_rows_that_are_not_valid(case):
    pairs.prove_no_gradient_through_padding(case)
    pairs.prove_padding_does_not_matter(case)


@pytest.mark.slow
def test_loss_does_not_move_when_padding_grows_rows_fill_up_and_devices_share_them(case):
    eight = pairs.prove_growth_and_devices_do_not_matter(case)
    queue = eight["mutable"]["queue"]
    assert queue.sharding.is_fully_replicated
    np.testing.assert_allclose(
        queue, case.out["mutable"]["queue"], atol=2e-5
    )  # of 16 new keys the last 8 are not valid


def test_augment_encode_and_sentences():
    pairs.prove_augment(make)
    pairs.prove_encode(make)
    pairs.prove_sentences(
        make,
        [
            ({"head": "conv"}, "head is 'conv'.*method.head.*linear, mlp"),
            ({"momentum": 1.5}, r"momentum is 1\.5.*\[0, 1\].*method.momentum"),
        ],
    )


@pytest.mark.slow
def test_a_cnn_learns():
    pairs.prove_a_cnn_learns(make)
