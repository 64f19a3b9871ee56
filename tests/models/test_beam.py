"""Prefix beam search against the sum over all alignments, the n-gram against counting, spelling."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest

from dig_jax.models.decoders.beam import END, NGram, prefix_beam
from dig_jax.models.decoders.lexicon import Lexicon
from dig_jax.text import Charset

CHARSET = Charset("ab")
EVERYTHING = {"beam": 1000, "floor": -math.inf}


def random_line(seed, frames=5, classes=3, sharp=1.0):
    logits = sharp * np.random.default_rng(seed).normal(size=(frames, classes))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def log_p_line(lm, line):
    """ln p of a whole line and its end."""
    ids = (*line, END)
    return sum(lm.log_p(ids[:place], now) for place, now in enumerate(ids))


def by_enumeration(log_probs):
    """{reading: ln of the summed probability of its alignments}, from all paths."""
    found = defaultdict(float)
    frames, classes = log_probs.shape
    for path in itertools.product(range(classes), repeat=frames):
        ids = tuple(CHARSET.ctc_collapse(np.array(path), frames))
        found[ids] += math.exp(log_probs[np.arange(frames), path].sum())
    return {ids: math.log(p) for ids, p in found.items()}


@pytest.mark.parametrize("seed", range(8))
def test_a_wide_prefix_beam_finds_the_most_probable_reading(seed):
    log_probs = random_line(seed)
    want = by_enumeration(log_probs)
    found = prefix_beam(log_probs, **EVERYTHING)
    best = max(want, key=want.get)
    assert found.ids == best and found.score == pytest.approx(want[best], abs=1e-9)


def by_best_alignment(log_probs, ids):
    """(ln p, frames) of the most probable alignment of ids, every one being tried."""
    found = []
    for way in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        starts = [k for k, c in enumerate(way) if c and (k == 0 or way[k - 1] != c)]
        if tuple(way[k] for k in starts) == ids:
            found.append((sum(log_probs[k, c] for k, c in enumerate(way)), tuple(starts)))
    return max(found)


@pytest.mark.parametrize("seed", range(20))
def test_characters_stand_where_the_most_probable_alignment_puts_them(seed):
    log_probs = random_line(seed)
    found = prefix_beam(log_probs, **EVERYTHING)
    assert found.frames == by_best_alignment(log_probs, found.ids)[1]


def test_a_faint_character_stands_where_it_is_seen():
    """Its shorter prefix, more probable, grows to it at every frame."""
    rows = [[0.02, 0.97, 0.01], [0.98, 0.01, 0.01], [0.54, 0.01, 0.45], [0.89, 0.01, 0.10]]
    found = prefix_beam(np.log([*rows, [0.98, 0.01, 0.01]]), beam=8)
    assert (found.ids, found.frames) == ((1, 2), (0, 2))
    np.testing.assert_allclose(found.confidence, (0.97, 0.45))


@pytest.mark.parametrize("seed", range(8))
def test_a_language_model_is_added_as_the_formula_says(seed):
    log_probs = random_line(seed)
    lm = NGram([[1, 2, 1], [2, 1], [1, 1]], size=3, order=3)
    want = {
        ids: score + 0.7 * log_p_line(lm, ids) + 0.3 * len(ids)
        for ids, score in by_enumeration(log_probs).items()
    }
    found = prefix_beam(log_probs, lm=lm, weight=0.7, bonus=0.3, **EVERYTHING)
    best = max(want, key=want.get)
    assert found.ids == best and found.score == pytest.approx(want[best], abs=1e-9)


def test_a_sum_of_alignments_beats_the_best_path():
    """The case that greedy reading gets wrong: blank is best in each frame, "a" in sum."""
    log_probs = np.log([[0.6, 0.4, 1e-9], [0.6, 0.4, 1e-9]])
    assert CHARSET.ctc_collapse(log_probs.argmax(-1), 2) == []
    assert prefix_beam(log_probs).ids == (1,)


@pytest.mark.parametrize("beam", [1, 16])
def test_sure_lines_are_read_as_greedily(beam):
    for seed in range(5):
        log_probs = random_line(seed, frames=30, classes=3, sharp=30.0)
        ids = log_probs.argmax(-1)
        found = prefix_beam(log_probs, beam=beam)
        assert list(found.ids) == CHARSET.ctc_collapse(ids, 30)
        assert all(ids[frame] == char for frame, char in zip(found.frames, found.ids))
        assert min(found.confidence, default=1) > 0.3


def test_a_language_model_decides_between_letters_that_look_alike():
    alike = np.log([[0.02, 0.49, 0.49], [0.96, 0.02, 0.02], [0.02, 0.48, 0.5]])
    lines = [[1, 1]] * 5
    assert prefix_beam(alike, lm=NGram(lines, 3, 2)).ids == (1, 1)
    assert prefix_beam(alike).ids[1] == 2


def test_no_frames_are_read_as_nothing():
    found = prefix_beam(np.zeros((0, 3)))
    assert found.ids == () and found.confidence == () and found.score == 0


def test_probabilities_of_every_history_add_up_to_one():
    lines = [[1, 2, 3, 1, 2], [2, 2], [], [3, 1]]
    for order in range(1, 7):
        lm = NGram(lines, size=5, order=order)
        for history in [(), (1,), (1, 2), (4,), (3, 1, 2), (2, 2, 2, 2, 2, 2)]:
            total = sum(math.exp(lm.log_p(history, now)) for now in range(5))
            assert total == pytest.approx(1), (order, history)


def test_witten_bell_by_hand():
    """Of "ab", "ac" with END: a b END a c END. p(b | a) = (1 + 2 p(b)) / (2 + 2) with p(b) = (1 + 4
    / 4) / (6 + 4), as four kinds were seen in six places and 1 / 4 stands below."""
    lm = NGram([[1, 2], [1, 3]], size=4, order=2)
    single = (1 + 4 * 0.25) / (6 + 4)
    assert math.exp(lm.log_p((), 2)) == pytest.approx(single)
    assert math.exp(lm.log_p((1,), 2)) == pytest.approx((1 + 2 * single) / 4)
    assert math.exp(lm.log_p((3, 1), 2)) == pytest.approx((1 + 2 * single) / 4)


def test_an_n_gram_comes_back_from_its_arrays(tmp_path):
    rng = np.random.default_rng(0)
    lines = [rng.integers(1, 7, rng.integers(0, 9)).tolist() for _ in range(40)]
    lm = NGram(lines, 7, 4)
    np.savez(tmp_path / "lm.npz", **lm.arrays())
    with np.load(tmp_path / "lm.npz") as arrays:
        back = NGram.of_arrays(arrays, 7)
        with pytest.raises(ValueError, match="are not of 6 ids"):
            NGram.of_arrays(arrays, 6)
    assert back.order == 4
    for line in rng.integers(1, 7, (20, 6)).tolist():  # seen and unseen histories
        assert log_p_line(back, line) == log_p_line(lm, line)


def test_orders_outside_1_to_6_are_refused():
    with pytest.raises(ValueError, match="from 1 to 6"):
        NGram([[1]], 3, 7)


def test_spelling_changes_unknown_words_with_one_nearest():
    lexicon = Lexicon(["Das Haus steht dort, das Hans", "Straße 12"])
    assert lexicon.correct("Das Stroße 13 stehl.") == "Das Straße 13 steht."
    assert lexicon.correct("Haxs") == "Haxs"  # Haus and Hans are as near
    assert lexicon.correct("Ab do x9") == "Ab do x9"  # too short to be sure
    assert Lexicon(["lange Worte"], edits=2).correct("lxnge Wxrta") == "lange Wxrta"
    marked = Lexicon(["gefu\u0364hrten", "\u0939\u093f\u0928\u094d\u0926\u0940"])  # whole words
    assert marked.words == ["gefu\u0364hrten", "\u0939\u093f\u0928\u094d\u0926\u0940"]
    assert marked.correct("gefu\u0364hrtcn Orten") == "gefu\u0364hrten Orten"
