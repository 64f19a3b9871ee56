"""Every decoder behind the one interface: it learns toy lines without an error, its gradient
reaches the frames, padding changes nothing; reading with a cache, with beams and step by step.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dig_jax.models import decoders
from tests.tiers import tiers

CLASSES, WIDE = 5, 6  # blank or end, and four characters; numbers in a frame
OPTIONS = {
    "linear": {},
    "bilstm": {"hidden": 8},
    "attention": {"hidden": 16, "reach": 2},
    "transformer": {"width": 16, "depth": 2, "heads": 2, "inner": 32},
    "glimpse": {"hidden": 16, "stride": 2.0, "reach": 6.0},
}
ONE_BY_ONE = ("attention", "transformer", "glimpse")


def toy_lines(rows=8, frames=10, seed=0):
    """Each character is a frame of its own pattern and a blank frame behind it, so that all
    decoders can learn it: (frames, length, label, label_length)."""
    rng = np.random.default_rng(seed)
    patterns = np.eye(CLASSES, WIDE)
    count = rng.integers(1, frames // 2 + 1, rows)
    label = rng.integers(1, CLASSES, (rows, frames // 2)) * (
        np.arange(frames // 2) < count[:, None]
    )
    ids = np.stack([label, np.zeros_like(label)], -1).reshape(rows, -1)
    values = patterns[ids] + 0.1 * rng.normal(size=(rows, frames, WIDE))
    as_ints = [jnp.asarray(x, jnp.int32) for x in (2 * count, label, count)]
    return jnp.asarray(values, jnp.float32), *as_ints


@functools.cache
def learnt(kind):
    """(decoder, parameters at first, after training on the toy lines, last loss)."""
    decoder = decoders.create(CLASSES, kind, **OPTIONS[kind])
    lines = toy_lines()
    first = jax.jit(decoder.init)(jax.random.key(0), *lines[:2])
    tx = optax.adam(2e-2)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(lambda p: decoder.loss(p, *lines)[0].mean())(params)
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, (params, tx.init(params)), length=200)

    (params, _), losses = train(first)
    return decoder, first, params, float(losses[-1])


@functools.cache
def reader(kind, beam=1):
    decoder = learnt(kind)[0]
    options = {"beam": beam} if beam > 1 else {}
    return jax.jit(functools.partial(decoder.read, **options))


def texts(reading):
    return [
        np.asarray(ids)[:n].tolist()
        for ids, n in zip(reading["ids"], np.asarray(reading["length"]))
    ]


def labels(lines):
    return [row[:n].tolist() for row, n in zip(np.asarray(lines[2]), np.asarray(lines[3]))]


@pytest.mark.parametrize("kind", tiers(OPTIONS))
def test_learns_toy_lines_without_an_error_and_says_where(kind):
    _, _, params, loss = learnt(kind)
    lines = toy_lines()
    reading = reader(kind)(params, *lines[:2])
    assert loss < 0.5 and texts(reading) == labels(lines)
    used = np.arange(lines[0].shape[1])[None] < np.asarray(reading["length"])[:, None]
    sure = np.asarray(reading["confidence"])
    assert (sure[used] > 0.5).all() and (sure <= 1 + 1e-6).all() and (sure[~used] == 0).all()
    mean = [row[:n].mean() for row, n in zip(sure, np.asarray(reading["length"]))]
    np.testing.assert_allclose(reading["line"], mean, rtol=1e-5)
    place = 2 * np.arange(lines[0].shape[1])[None]
    near = np.abs(np.asarray(reading["frame"]) - place)[used] <= 1
    # What a recurrent reader looks at is its own business; the frames of CTC are exact.
    assert near.all() if kind in ("linear", "bilstm") else np.asarray(reading["frame"]).max() > 2


@pytest.mark.parametrize("kind", tiers(OPTIONS, 2))
def test_gradient_reaches_the_real_frames_and_every_parameter(kind):
    decoder, first, _, _ = learnt(kind)
    values, length, label, count = toy_lines(seed=1)
    loss = lambda params, values: decoder.loss(params, values, length, label, count)[0].sum()
    for_params, for_frames = jax.jit(jax.grad(loss, (0, 1)))(first, values)
    for path, grad in jax.tree_util.tree_leaves_with_path(for_params):
        assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)
    real = np.arange(values.shape[1])[None] < np.asarray(length)[:, None]
    moved = np.abs(np.asarray(for_frames)).max(-1)
    assert (moved[~real] == 0).all() and (moved[real].reshape(-1) > 0).mean() > 0.9


@pytest.mark.parametrize("kind", tiers(OPTIONS, 3))
def test_padding_changes_nothing(kind):
    decoder, _, params, _ = learnt(kind)
    values, length, label, count = toy_lines(seed=2)
    real = jnp.arange(values.shape[1])[None, :, None] < length[:, None, None]
    more = jnp.pad(jnp.where(real, values, 7.0), ((0, 0), (0, 4), (0, 0)), constant_values=-3.0)
    wider = jnp.pad(label, ((0, 0), (0, 2)))
    loss = jax.jit(decoder.loss)
    one, two = loss(params, values, length, label, count), loss(params, more, length, wider, count)
    np.testing.assert_allclose(one[0], two[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(one[1], two[1])
    one, two = reader(kind)(params, values, length), reader(kind)(params, more, length)
    assert texts(one) == texts(two)
    np.testing.assert_allclose(one["line"], two["line"], rtol=1e-4)


@pytest.mark.parametrize("kind", tiers(ONE_BY_ONE))
def test_the_loss_is_that_of_single_steps(kind):
    """Teacher forcing in one piece (a scan, or all places in parallel) against a loop of steps."""
    decoder, _, params, _ = learnt(kind)
    lines = toy_lines(rows=3, seed=3)
    apply = functools.partial(decoder.network.apply, {"params": params})

    @jax.jit
    def begin(*frames):
        memory = apply(*frames, method="memory")
        return memory, apply(memory, method="start")

    @jax.jit
    def step(*given):
        state, hidden, _ = apply(*given, method="step")
        return state, jax.nn.log_softmax(apply(hidden, method="logits"))

    memory, state = begin(*lines[:2])
    label, count = np.asarray(lines[2]), np.asarray(lines[3])
    cost, last = np.zeros(3), np.zeros(3, np.int32)
    for place in range(label.shape[1] + 1):
        state, log_p = step(memory, state, last, place)
        last = label[:, place] if place < label.shape[1] else np.zeros(3, np.int32)
        cost -= np.where(place <= count, np.asarray(log_p)[np.arange(3), last], 0)
    np.testing.assert_allclose(jax.jit(decoder.loss)(params, *lines)[0], cost, rtol=1e-4, atol=1e-5)


@functools.cache
def transformer(name):
    """A method of the network, compiled: (params, ..) -> what it gives."""
    network = learnt("transformer")[0].network
    return jax.jit(lambda params, *given: network.apply({"params": params}, *given, method=name))


@jax.jit
def whole_prefixes(params, frames, length, ids):
    """Without a cache: ln p f32[B,T,V] behind every place of ids i32[B,T], and the weights."""
    network = learnt("transformer")[0].network
    apply = functools.partial(network.apply, {"params": params})
    hidden, weights = apply(apply(frames, length, method="memory"), ids, method="parallel")
    return hidden, weights, jax.nn.log_softmax(apply(hidden, method="logits"))


def test_the_cache_of_the_transformer_gives_what_the_whole_prefix_gives():
    params = learnt("transformer")[2]
    values, length, label, _ = toy_lines(seed=4)
    memory = transformer("memory")(params, values, length)
    state = transformer("start")(params, memory)
    before = jnp.pad(label, ((0, 0), (1, 0)))
    whole, looks, _ = whole_prefixes(params, values, length, before)
    for place in range(before.shape[1]):
        given = (params, memory, state, before[:, place], place)
        state, hidden, weights = transformer("step")(*given)
        np.testing.assert_allclose(hidden, whole[:, place], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(weights, looks[:, place], rtol=1e-5, atol=1e-6)
        # What stands behind a place must not matter to it.
        other = before.at[:, place + 1 :].set(1)
        again = whole_prefixes(params, values, length, other)[0]
        np.testing.assert_allclose(again[:, place], whole[:, place], rtol=1e-5, atol=1e-6)


def slow_beam(params, values, length, beam):
    """One line, whole prefixes without a cache, lists of readings."""
    alive = [(0.0, (), False)]
    for place in range(length + 1):
        found = []
        for score, ids, done in alive:
            if done or place == length:
                found.append((score, ids, True))
                continue
            before = np.zeros((1, len(values) + 1), int)  # one shape; what is behind is masked
            before[0, 1 : 1 + len(ids)] = ids
            told = whole_prefixes(params, values[None], np.array([length]), before)[2]
            log_p = np.asarray(told)[0, len(ids)]
            found.append((score + log_p[0], ids, True))
            found += [(score + log_p[c], (*ids, c), False) for c in range(1, CLASSES)]
        alive = sorted(found, key=lambda each: -each[0])[:beam]
    return list(alive[0][1])


@pytest.mark.parametrize("beam", tiers([3, 1]))
def test_beam_search_follows_the_best_readings(beam):
    """With parameters between the first and the learnt ones, so that readings compete."""
    _, first, params, _ = learnt("transformer")
    mixed = jax.tree.map(lambda a, b: 0.6 * a + 0.4 * b, first, params)
    values, length, _, _ = toy_lines(rows=6, frames=6, seed=5)
    got = texts(reader("transformer", beam)(mixed, values, length))
    want = [slow_beam(mixed, row, int(n), beam) for row, n in zip(values, np.asarray(length))]
    assert got == want


@pytest.mark.parametrize("kind", tiers(["attention", "glimpse"]))
def test_a_wide_beam_finds_a_reading_at_least_as_probable(kind):
    decoder, first, params, _ = learnt(kind)
    mixed = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, first, params)
    values, length, _, _ = toy_lines(seed=6)
    costs = []
    for beam in (1, 4):
        reading = reader(kind, beam)(mixed, values, length)
        loss = jax.jit(decoder.loss)
        costs.append(loss(mixed, values, length, reading["ids"], reading["length"])[0])
    assert (np.asarray(costs[1]) <= np.asarray(costs[0]) + 1e-4).all()


@pytest.mark.parametrize("kind", ONE_BY_ONE)
def test_attention_behind_a_reading_is_what_the_reading_looked_at(kind):
    """`read` keeps the frame of the largest weight of each character, found in another loop."""
    decoder, _, params, _ = learnt(kind)
    values, length, _, _ = toy_lines()
    reading = reader(kind)(params, values, length)
    weights = np.asarray(jax.jit(decoder.attention)(params, values, length, reading["ids"]))
    assert weights.shape == (*reading["ids"].shape, values.shape[1])
    used = np.arange(values.shape[1])[None] < np.asarray(reading["length"])[:, None]
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(weights.argmax(-1)[used], np.asarray(reading["frame"])[used])
    beyond = np.arange(values.shape[1])[None] >= np.asarray(length)[:, None]
    assert (np.moveaxis(weights, 1, 2)[beyond] == 0).all()


@pytest.mark.parametrize("kind", ONE_BY_ONE)
def test_labels_longer_than_the_line_are_not_feasible(kind):
    decoder, first, _, _ = learnt(kind)
    values, _, label, _ = toy_lines(rows=2)
    given = (values, jnp.array([2, 4]), label, jnp.array([3, 4]))
    loss, feasible = jax.jit(decoder.loss)(first, *given)
    assert feasible.tolist() == [False, True] and loss[0] == 0 < loss[1]


@pytest.mark.parametrize("kind", tiers(OPTIONS))
def test_dropout_needs_a_key(kind):
    decoder = decoders.create(CLASSES, kind, **OPTIONS[kind], dropout=0.5)
    lines, params = toy_lines(rows=2), learnt(kind)[1]
    loss = jax.jit(decoder.loss)
    one, two = (float(loss(params, *lines, jax.random.key(i))[0][0]) for i in range(2))
    plain = float(loss(params, *lines)[0][0])
    assert len({one, two, plain}) == 3


@pytest.mark.parametrize(
    "options, words",
    [
        ({"kind": "lstm"}, "attention, transformer, glimpse"),
        ({"kind": "attention", "depth": 2}, "depth, which kind 'attention'"),
        ({"kind": "transformer", "width": 10, "heads": 4}, "width and heads"),
    ],
)
def test_wrong_options_are_sentences(options, words):
    with pytest.raises(ValueError, match=words):
        decoder = decoders.create(CLASSES, **options)
        decoder.init(jax.random.key(0), *toy_lines(rows=1)[:2])


def test_collapse_equals_the_spans_of_each_line():
    ids = np.array(list(itertools.product(range(3), repeat=5)), np.int32)
    rng = np.random.default_rng(0)
    length = rng.integers(1, 6, len(ids)).astype(np.int32)
    ids *= np.arange(5) < length[:, None]
    sure = rng.random(ids.shape).astype(np.float32)
    reading = jax.tree.map(np.asarray, decoders.ctc.collapse(ids, sure, length))
    for row, n in enumerate(length):
        chars, starts, stops = decoders.ctc.spans(ids[row], n)
        count = reading["length"][row]
        assert count == len(chars) and not reading["ids"][row, count:].any()
        np.testing.assert_array_equal(reading["ids"][row, :count], chars)
        np.testing.assert_array_equal(reading["frame"][row, :count], starts)
        best = [sure[row, a:b].max() for a, b in zip(starts, stops)]
        np.testing.assert_allclose(reading["confidence"][row, :count], best)
        mean = np.mean(best) if len(best) else sure[row, :n].mean()
        np.testing.assert_allclose(reading["line"][row], mean, rtol=1e-6)
