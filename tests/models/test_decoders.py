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
from dig_jax.models.decoders import autoregressive
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


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def counted(p):
    """Expected characters in front of each frame: p f[B,S,V] of classes, 0 the blank."""
    result = np.zeros(p.shape[:2])
    for line, at, c in np.ndindex(p.shape):
        if c:
            before = p[line, at - 1, c] if at else 0.0
            result[line, at + 1 :] += p[line, at, c] * (1 - before)
    return result


def by_steps(network, params, memory, label):
    """Teacher forcing in a loop of steps: ln p f[B,T+1,V] and weights f[B,T+1,S]."""
    apply = functools.partial(network.apply, {"params": params})

    @jax.jit
    def step(*given):
        state, hidden, weights = apply(*given, method="step")
        return state, jax.nn.log_softmax(apply(hidden, method="logits")), weights

    state, last, found = apply(memory, method="start"), np.zeros(len(label), np.int32), []
    for place in range(label.shape[1] + 1):
        state, *seen = step(memory, state, last, place)
        found.append(seen)
        last = label[:, place] if place < label.shape[1] else last
    return (np.stack(each, 1) for each in zip(*found))


@pytest.mark.parametrize("shortcut", [0.0, 0.3])
@pytest.mark.parametrize("kind", tiers(ONE_BY_ONE))
def test_loss_reading_and_attention_are_those_of_single_steps(kind, shortcut):
    """Teacher forcing in one piece (a scan, or all places in parallel) against a loop of steps;
    behind a shortcut by what it adds to the loss and to the frames, in numpy."""
    decoder = decoders.create(CLASSES, kind, shortcut=shortcut, **OPTIONS[kind])
    values, length, label, count = toy_lines(rows=3, seed=3)
    params, frames, number = learnt(kind)[2], np.asarray(values), None
    if shortcut:
        fresh = jax.jit(decoder.init)(jax.random.key(1), values, length)
        params = fresh | params | {"told": {"kernel": 5 * fresh["told"]["kernel"]}}
        short, told = (jax.tree.map(np.asarray, params[name]) for name in ("shortcut", "told"))
        logits = frames @ short["kernel"] + short["bias"]
        number = counted(softmax(logits)).astype(np.float32)
        frames = frames + softmax(logits) @ told["kernel"]
    given = ({"params": params}, frames, length, None, number)
    memory = jax.jit(functools.partial(decoder.network.apply, method="memory"))(*given)
    steps = functools.partial(by_steps, decoder.network, params, memory)

    log_p, weights = steps(np.asarray(label))
    target = np.pad(label, ((0, 0), (0, 1)))
    real = np.arange(target.shape[1])[None] <= np.asarray(count)[:, None]
    cost = -(np.take_along_axis(log_p, target[..., None], -1)[..., 0] * real).sum(1)
    if shortcut:
        cost += shortcut * decoders.ctc.ctc_loss(logits, length, label, count)[0]
    lines = (values, length, label, count)
    np.testing.assert_allclose(jax.jit(decoder.loss)(params, *lines)[0], cost, rtol=1e-4, atol=1e-5)
    looks = jax.jit(decoder.attention)(params, values, length, label)
    np.testing.assert_allclose(looks, weights[:, :-1], rtol=1e-4, atol=1e-6)

    reading = jax.jit(decoder.read)(params, values, length)
    best = next(steps(np.asarray(reading["ids"]))).argmax(-1)
    for row, expected, frames_ in zip(texts(reading), best, np.asarray(length)):
        assert row == expected[: len(row)].tolist()
        assert len(row) == frames_ or expected[len(row)] == 0


@pytest.mark.parametrize("kind", ONE_BY_ONE)
def test_the_gradient_reaches_a_shortcut_through_its_loss_and_through_the_reader(kind):
    """Each way alone: the loss where nothing is told, and telling where the loss hardly counts."""
    lines = toy_lines(rows=4, seed=1)

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(weight, params):
        decoder = decoders.create(CLASSES, kind, shortcut=weight, **OPTIONS[kind])
        return jax.grad(lambda params: decoder.loss(params, *lines)[0].sum())(params)

    decoder = decoders.create(CLASSES, kind, shortcut=0.3, **OPTIONS[kind])
    params = jax.jit(decoder.init)(jax.random.key(1), *lines[:2])
    silent = params | {"told": jax.tree.map(jnp.zeros_like, params["told"])}
    largest = lambda grads: max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads["shortcut"]))
    for path, grad in jax.tree_util.tree_leaves_with_path(gradient(0.3, params)):
        assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)
    assert largest(gradient(1e-9, params)) > 1e-4
    assert largest(gradient(0.3, silent)) > 1e-2
    counted = kind == "transformer"  # what it counts is another way to the Transformer
    assert counted == (largest(gradient(1e-9, silent)) > 1e-6)


@pytest.mark.parametrize("kind", ONE_BY_ONE)
def test_behind_a_shortcut_padding_changes_nothing_and_a_beam_finds_no_worse_reading(kind):
    decoder = decoders.create(CLASSES, kind, shortcut=0.3, **OPTIONS[kind])
    values, length, label, count = toy_lines(seed=2)
    fresh = jax.jit(decoder.init)(jax.random.key(1), values, length)
    params = (
        fresh | learnt(kind)[2] | {"shortcut": {n: 9 * x for n, x in fresh["shortcut"].items()}}
    )
    real = jnp.arange(values.shape[1])[None, :, None] < length[:, None, None]
    more = jnp.pad(jnp.where(real, values, 7.0), ((0, 0), (0, 4), (0, 0)), constant_values=-3.0)
    one, two = (
        jax.jit(decoder.loss)(params, frames, length, label, count) for frames in (values, more)
    )
    np.testing.assert_allclose(one[0], two[0], rtol=1e-4, atol=1e-5)
    read = jax.jit(decoder.read, static_argnames="beam")
    one, two = read(params, values, length), read(params, more, length)
    assert texts(one) == texts(two)
    costs = [
        jax.jit(decoder.loss)(params, values, length, found["ids"], found["length"])[0]
        - decoder.shortcut * ctc_cost(params, values, length, found)
        for found in (one, read(params, values, length, beam=4))
    ]
    assert (np.asarray(costs[1]) <= np.asarray(costs[0]) + 1e-4).all()


def spans(path):
    """(class, first frame, end frame) of each character of a best path: the runs of its class."""
    found, at = [], 0
    for char, run in itertools.groupby(path.tolist()):
        at, start = at + len(list(run)), at
        found += [(char, start, at)] if char else []
    return found


def ctc_cost(params, values, length, found):
    logits = values @ params["shortcut"]["kernel"] + params["shortcut"]["bias"][None, None]
    return decoders.ctc.ctc_loss(logits, length, found["ids"], found["length"])[0]


def test_a_shortcut_counts_the_characters_of_a_sure_path():
    """Of one-hot frames: those that the best path collapses to up to each frame."""
    paths = np.array(list(itertools.product(range(3), repeat=5)))
    number = autoregressive.numbers(jnp.asarray(1e3 * np.eye(3)[paths], jnp.float32))
    for path, found in zip(paths, np.asarray(number)):
        wanted = [len(spans(path[:place])) for place in range(5)]
        np.testing.assert_allclose(found, wanted, atol=1e-5)


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


def test_a_label_that_only_ctc_cannot_fit_is_learnt_by_the_reader_alone():
    """Two equal characters in two frames: CTC would need a blank between them."""
    decoder = decoders.create(CLASSES, "attention", shortcut=0.3, **OPTIONS["attention"])
    values = toy_lines(rows=1)[0][:, :2]
    given = (jnp.array([2]), jnp.array([[1, 1]]), jnp.array([2]))
    params = decoder.init(jax.random.key(0), values, given[0])
    hardly = decoders.create(CLASSES, "attention", shortcut=1e-9, **OPTIONS["attention"])
    loss, feasible = decoder.loss(params, values, *given)
    assert feasible[0] and loss[0] > 0
    np.testing.assert_allclose(loss, hardly.loss(params, values, *given)[0], rtol=1e-6)
    grads = jax.grad(lambda params: decoder.loss(params, values, *given)[0][0])(params)
    assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))


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
        ({"kind": "glimpse", "shortcut": -0.3}, "shortcut is -0.3 .* 0 for none"),
        ({"kind": "linear", "hidden": 64, "shortcut": 0.3}, "hidden, shortcut, .* dropout, dtype"),
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
        found, count = spans(ids[row, :n]), reading["length"][row]
        assert count == len(found) and not reading["ids"][row, count:].any()
        assert reading["ids"][row, :count].tolist() == [char for char, _, _ in found]
        assert reading["frame"][row, :count].tolist() == [start for _, start, _ in found]
        best = [sure[row, start:stop].max() for _, start, stop in found]
        np.testing.assert_allclose(reading["confidence"][row, :count], best)
        mean = np.mean(best) if len(best) else sure[row, :n].mean()
        np.testing.assert_allclose(reading["line"][row], mean, rtol=1e-6)
