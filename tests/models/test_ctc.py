"""dig_jax.models.decoders.ctc against the enumeration of all alignments."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dig_jax.models.decoders import ctc


def collapse(path):
    return [c for c, _ in itertools.groupby(path) if c]


def slow_loss(logits, label):
    """-log of the summed probability of all paths that collapse to the label; None if there is
    none.
    """
    steps, classes = logits.shape
    wide = logits.astype(np.float64)
    log_p = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    total = 0.0
    for path in itertools.product(range(classes), repeat=steps):
        if collapse(path) == list(label):
            total += np.exp(sum(log_p[t, c] for t, c in enumerate(path)))
    return -np.log(total) if total else None


# (frames, label): empty, plain, repeats (which need one more frame), exact fits and labels that are
# too long
CASES = [
    (1, []),
    (5, []),
    (1, [1]),
    (5, [2]),
    (4, [1, 2]),
    (5, [1, 1]),
    (3, [1, 1]),
    (5, [2, 2, 1]),
    (5, [1, 2, 1]),
]
IMPOSSIBLE = [(1, [1, 2]), (2, [1, 1]), (3, [1, 1, 2]), (0, []), (4, [2, 2, 2])]


def batch():
    cases = CASES + IMPOSSIBLE
    logits = 2.0 * np.random.default_rng(0).normal(size=(len(cases), 5, 3)).astype(np.float32)
    label = np.zeros((len(cases), 4), np.int32)
    for i, (_, text) in enumerate(cases):
        label[i, : len(text)] = text
    lengths = np.array([s for s, _ in cases], np.int32)
    label_length = np.array([len(text) for _, text in cases], np.int32)
    return cases, logits, lengths, label, label_length


def test_loss_equals_the_sum_over_all_alignments():
    cases, logits, lengths, label, label_length = batch()
    loss, feasible = jax.jit(ctc.ctc_loss)(
        *map(jnp.asarray, (logits, lengths, label, label_length))
    )
    for i, (steps, text) in enumerate(cases):
        expected = slow_loss(logits[i, :steps], text) if steps else None
        assert bool(feasible[i]) == (expected is not None), cases[i]
        np.testing.assert_allclose(
            loss[i], expected or 0.0, rtol=1e-5, atol=1e-6, err_msg=str(cases[i])
        )


@pytest.fixture(scope="module")
def random_lines():
    """Lines of 60 frames and 40 classes: short, long, with repeats, exact fits, one impossible."""
    rng = np.random.default_rng(3)
    label_length = np.array([20, 7, 0, 30, 12, 30], np.int32)
    label = rng.integers(1, 40, (6, 30)).astype(np.int32)
    label[1, :7], label[4] = 5, np.tile([3, 3, 4], 10)
    lengths = np.array([60, 33, 9, 60, 16, 20], np.int32)
    logits = 4.0 * rng.normal(size=(6, 60, 40)).astype(np.float32)
    return tuple(map(jnp.asarray, (logits, lengths, label, label_length)))


def optax_loss(logits, lengths, label, label_length):
    """The same by optax, without the line that has no alignment."""
    pad = lambda count, most: (jnp.arange(most)[None] >= count[:, None]).astype(jnp.float32)
    rest = pad(lengths, 60), label, pad(label_length, 30)
    losses = optax.ctc_loss(logits, *rest, blank_id=0)
    return jnp.where(jnp.arange(6) == 5, 0.0, losses)


def test_value_and_gradient_equal_those_of_optax(random_lines):
    logits, *rest = random_lines
    weights = jnp.arange(1.0, 7.0)  # cotangents that differ
    ours = lambda x: (ctc.ctc_loss(x, *rest)[0] * weights).sum()
    theirs = lambda x: (optax_loss(x, *rest) * weights).sum()
    value, gradient = jax.jit(jax.value_and_grad(ours))(logits)
    wanted, slope = jax.jit(jax.value_and_grad(theirs))(logits)
    assert ctc.ctc_loss(logits, *rest)[1].tolist() == [True] * 5 + [False]
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, atol=2e-4)
    np.testing.assert_allclose(gradient.sum(-1), 0.0, atol=1e-5)  # softmax minus posteriors
    assert not np.asarray(gradient[5]).any() and not np.asarray(gradient[1, 33:]).any()


def test_the_value_alone_is_that_of_the_gradient(random_lines):
    logits, *rest = random_lines
    alone = jax.jit(lambda x: ctc.ctc_loss(x, *rest)[0])(logits)
    beside = jax.jit(lambda x: jax.vjp(lambda y: ctc.ctc_loss(y, *rest)[0], x)[0])(logits)
    np.testing.assert_allclose(alone, beside, rtol=1e-6)


def test_frames_needed_of_numpy_and_jax():
    label, length = np.array([[1, 1, 2, 2], [3, 3, 3, 3], [4, 4, 9, 9]]), np.array([4, 3, 0])
    assert ctc.frames_needed(label, length).tolist() == [6, 5, 0]
    assert jax.jit(ctc.frames_needed)(label, length).tolist() == [6, 5, 0]


def test_infeasible_lines_and_padding_frames_have_no_gradient():
    cases, logits, lengths, label, label_length = batch()
    rest = tuple(map(jnp.asarray, (lengths, label, label_length)))
    grad = np.asarray(
        jax.jit(jax.grad(lambda x: ctc.ctc_loss(x, *rest)[0].sum()))(jnp.asarray(logits))
    )
    assert np.isfinite(grad).all()
    for i, (steps, _) in enumerate(cases):
        assert not grad[i, steps:].any()
        assert grad[i, :steps].any() == (i < len(CASES))
    step = 1e-4  # finite differences of the enumeration
    for i, t, c in ((3, 2, 1), (5, 4, 0), (7, 0, 2)):
        steps, text = cases[i]
        up, down = logits.astype(np.float64), logits.astype(np.float64)
        up[i, t, c] += step
        down[i, t, c] -= step
        slope = (slow_loss(up[i, :steps], text) - slow_loss(down[i, :steps], text)) / (2 * step)
        np.testing.assert_allclose(grad[i, t, c], slope, atol=1e-4)


def test_loss_does_not_depend_on_padding():
    _, logits, lengths, label, label_length = batch()
    loss = jax.jit(ctc.ctc_loss)(*map(jnp.asarray, (logits, lengths, label, label_length)))[0]
    wide = np.pad(logits, ((0, 0), (0, 6), (0, 0)), constant_values=50.0)
    longer = np.pad(label, ((0, 0), (0, 3)), constant_values=2)  # rubbish past the label length
    other = jax.jit(ctc.ctc_loss)(*map(jnp.asarray, (wide, lengths, longer, label_length)))[0]
    np.testing.assert_allclose(other, loss, rtol=1e-5, atol=1e-5)


def test_greedy_against_a_slow_loop():
    rng = np.random.default_rng(0)
    logits, lengths = rng.normal(size=(3, 7, 4)).astype(np.float32), np.array([7, 3, 1])
    ids = np.asarray(ctc.greedy(jnp.asarray(logits), jnp.asarray(lengths)))
    assert ids.dtype == np.int32
    for b in range(3):
        for t in range(7):
            best = max(range(4), key=lambda c: logits[b, t, c]) if t < lengths[b] else 0
            assert ids[b, t] == best


@pytest.mark.parametrize("kind", ["linear", "bilstm"])
def test_head_gives_float32_logits_that_padding_does_not_move(kind):
    head = ctc.CtcHead(11, kind=kind, hidden=6)
    frames, lengths = jax.random.normal(jax.random.key(0), (2, 8, 5)), jnp.array([8, 3])
    params = jax.jit(head.init)(jax.random.key(1), frames, lengths)
    logits = jax.jit(head.apply)(params, frames, lengths)
    assert logits.shape == (2, 8, 11) and logits.dtype == jnp.float32
    np.testing.assert_allclose(
        jax.jit(head.apply)(params, frames[1:, :3], lengths[1:]), logits[1:, :3], atol=1e-6
    )
    low = jax.jit(ctc.CtcHead(11, kind=kind, hidden=6, dtype="bfloat16").apply)(
        params, frames, lengths
    )
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, logits, atol=0.05)


def test_unknown_head_is_a_sentence():
    with pytest.raises(ValueError, match="lstm2"):
        ctc.CtcHead(5, kind="lstm2").init(jax.random.key(0), jnp.ones((1, 4, 3)), jnp.array([4]))


def test_confidence_is_the_softmax_of_the_best_class():
    logits = np.random.default_rng(0).normal(0, 40, (2, 3, 5)).astype(np.float32)
    slow = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    slow = (slow / slow.sum(-1, keepdims=True)).max(-1)
    np.testing.assert_allclose(ctc.confidence(jnp.asarray(logits)), slow, rtol=1e-5)


def test_where_characters_lie_and_how_sure_they_are():
    """- a a - a b b (b): the last frame is padding. The second a stands alone between blanks."""
    ids = np.array([0, 1, 1, 0, 1, 2, 2, 2])
    sure = np.array([0.9, 0.3, 0.8, 0.9, 0.5, 0.2, 0.4, 1.0])
    ids[7] = 0
    reading = jax.tree.map(np.asarray, ctc.collapse(ids[None], sure[None], np.array([7])))
    assert reading["ids"][0, :4].tolist() == [1, 1, 2, 0] and reading["length"] == 3
    np.testing.assert_allclose(reading["confidence"][0, :4], [0.8, 0.5, 0.4, 0], rtol=1e-6)
    assert reading["line"] == pytest.approx(1.7 / 3)
    blank = ctc.collapse(ids[None] * 0, sure[None], np.array([2]))
    assert float(blank["line"][0]) == pytest.approx(0.6)  # the mean over its blanks
    assert float(ctc.collapse(ids[None] * 0, sure[None], np.array([0]))["line"][0]) == 0


def test_a_shortcut_adds_its_loss_and_reads_nothing():
    options = {"kind": "bilstm", "hidden": 4, "shortcut": 0.3}
    decoder, plain = (
        ctc.Ctc(ctc.CtcHead(3, **given)) for given in (options, options | {"shortcut": 0.0})
    )
    _, _, lengths, label, label_length = batch()
    lengths = np.maximum(lengths, 1)
    frames = np.random.default_rng(1).normal(size=(len(lengths), 5, 6)).astype(np.float32)
    params = decoder.init(jax.random.key(0), frames, lengths)
    reader = {name: tree for name, tree in params.items() if name != "shortcut"}
    assert jax.tree.structure(reader) == jax.tree.structure(
        jax.eval_shape(plain.init, jax.random.key(0), frames, lengths)
    )
    given = (lengths, label, label_length)
    early = (
        frames @ np.asarray(params["shortcut"]["kernel"]) + params["shortcut"]["bias"][None, None]
    )
    expected = plain.loss(reader, frames, *given)[0] + 0.3 * ctc.ctc_loss(early, *given)[0]
    loss, feasible = decoder.loss(params, frames, *given)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(feasible, plain.loss(reader, frames, *given)[1])
    np.testing.assert_array_equal(
        decoder.logits(params, frames, lengths), plain.logits(reader, frames, lengths)
    )
    grads = jax.grad(lambda params: decoder.loss(params, frames, *given)[0].sum())(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["shortcut"]))
