"""Beam search over frames with a language model of characters. numpy and dictionaries, on the host.

| paper | part | here |
|---|---|---|
| Graves & Jaitly 2014; Hannun et al. 2014 (1408.2873) | prefix beam search | `prefix_beam` |
| Witten & Bell 1991; Chen & Goodman 1999, section 2.4 | interpolated n-gram | `NGram` |

Greedy reading takes the best class of each frame. A prefix beam sums over all alignments of a
reading, and a language model may then choose between readings that look alike:

    score(y) = ln p_ctc(y | line) + weight * ln p_lm(y) + bonus * |y|
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

BLANK = 0
END = 0  # of a line, to a language model; it never meets the blank
NEVER = -math.inf


class NGram:
    """Character n-gram over ids, learnt from lines: ln p(id | up to `order - 1` ids before it).

    Witten and Bell's interpolation: a history h that was followed by T(h) different ids leaves the
    share T / (T + count) to the next shorter history. Below all stands 1 / size.

        p(c | h) = (count(h, c) + T(h) p(c | h')) / (count(h) + T(h))

    A line begins without a history and is followed by END. order: 1 to 6. size: number of ids, END
    included. ValueError for another order.
    """

    def __init__(self, lines: Iterable[Sequence[int]], size: int, order: int = 5):
        if not 1 <= order <= 6:
            raise ValueError(f"an n-gram of order {order}: set lm to a number from 1 to 6")
        self.order, self.size = order, size
        self.followers: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
        for line in lines:
            ids = (*map(int, line), END)
            for place, now in enumerate(ids):
                for start in range(max(0, place - order + 1), place + 1):
                    counts = self.followers[ids[start:place]]
                    counts[now] = counts.get(now, 0) + 1
        self._counted()

    def _counted(self) -> None:
        self.totals = {history: sum(c.values()) for history, c in self.followers.items()}
        self.known: dict[tuple[tuple[int, ...], int], float] = {}

    def arrays(self) -> dict[str, np.ndarray]:
        """All counts, to be stored: for n from 1 to the order "ids_n" u16[m, n], up to n - 1 ids
        and the one that followed, and "counts_n" u32[m]."""
        found: dict[str, np.ndarray] = {}
        for n in range(1, self.order + 1):
            histories = [h for h in self.followers if len(h) == n - 1]
            rows = [(*h, now) for h in histories for now in self.followers[h]]
            counts = [count for h in histories for count in self.followers[h].values()]
            found[f"ids_{n}"] = np.array(rows, np.uint16).reshape(-1, n)
            found[f"counts_{n}"] = np.array(counts, np.uint32)
        return found

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], size: int) -> NGram:
        """From what `arrays` gave. ValueError for ids that are none of `size`."""
        made = cls((), size, len(arrays) // 2)
        for n in range(1, made.order + 1):
            ids, counts = arrays[f"ids_{n}"], arrays[f"counts_{n}"]
            if ids.shape != (len(counts), n) or (len(ids) and ids.max() >= size):
                raise ValueError(f"the counts of order {n} are not of {size} ids")
            for row, count in zip(ids.tolist(), counts.tolist()):
                made.followers[tuple(row[:-1])][row[-1]] = count
        made._counted()
        return made

    def log_p(self, history: tuple[int, ...], now: int) -> float:
        history = history[max(0, len(history) - self.order + 1) :]
        key = (history, now)
        if key not in self.known:
            self.known[key] = math.log(self._p(history, now))
        return self.known[key]

    def _p(self, history: tuple[int, ...], now: int) -> float:
        shorter = self._p(history[1:], now) if history else 1.0 / self.size
        counts = self.followers.get(history)
        if not counts:
            return shorter
        kinds = len(counts)
        return (counts.get(now, 0) + kinds * shorter) / (self.totals[history] + kinds)


class Found(NamedTuple):
    """A reading, its score, and for each character the frame where the most probable alignment put
    it and the highest probability of its class from there to the next character, as `ctc.collapse`
    has it."""

    ids: tuple[int, ...]
    score: float
    frames: tuple[int, ...]
    confidence: tuple[float, ...]


class _Prefix:
    """A prefix: ln of the probability of its alignments that end in a blank, and in its last
    character. extra: what the language model adds."""

    __slots__ = ("blank", "char", "extra")

    def __init__(self, extra: float):
        self.blank = self.char = NEVER
        self.extra = extra

    @property
    def total(self) -> float:
        return _add(self.blank, self.char)


def prefix_beam(
    log_probs: np.ndarray,
    beam: int = 16,
    lm: NGram | None = None,
    weight: float = 0.2,
    bonus: float = 0.4,
    floor: float = -5.0,
) -> Found:
    """The best reading of a line, log_probs f32[S, V] over its real frames.

    beam: prefixes kept a frame. lm, weight, bonus: see the module; without an lm neither counts.
    floor: classes this far below the best one of a frame, in ln p, are not tried there (-inf = all
    are).
    """
    first = _Prefix(0.0)
    first.blank = 0.0
    alive: dict[tuple[int, ...], _Prefix] = {(): first}
    frames = np.asarray(log_probs, np.float64)
    tried = [np.flatnonzero(row[1:] >= row.max() + floor) + 1 for row in frames]
    for row, classes in zip(frames, tried):
        blank = float(row[BLANK])
        options = [(int(c), float(row[c])) for c in classes]
        following: dict[tuple[int, ...], _Prefix] = {}

        def at(ids, extra, following=following):
            found = following.get(ids)
            if found is None:
                found = following[ids] = _Prefix(extra)
            return found

        for ids, prefix in alive.items():
            total = prefix.total
            same = at(ids, prefix.extra)
            same.blank = _add(same.blank, total + blank)
            if ids:
                same.char = _add(same.char, prefix.char + float(row[ids[-1]]))
            for char, log_p in options:
                # The same character again needs a blank between.
                before = prefix.blank if ids and char == ids[-1] else total
                if before == NEVER:
                    continue
                longer = (*ids, char)
                extra = prefix.extra
                if lm is not None and longer not in following:
                    extra += weight * lm.log_p(ids, char) + bonus
                grown = at(longer, extra)
                grown.char = _add(grown.char, before + log_p)
        best = sorted(following.items(), key=lambda item: -item[1].total - item[1].extra)
        alive = dict(best[:beam])

    def score(item):
        ids, prefix = item
        return prefix.total + prefix.extra + (weight * lm.log_p(ids, END) if lm else 0.0)

    ids, prefix = max(alive.items(), key=score)
    seen = alignment(frames, ids)
    runs = zip(ids, seen, (*seen[1:], len(frames)))
    sure = tuple(float(np.exp(frames[first:end, c].max())) for c, first, end in runs)
    return Found(ids, score((ids, prefix)), seen, sure)


def alignment(log_probs: np.ndarray, ids: Sequence[int]) -> tuple[int, ...]:
    """The frame at which each of the ids begins in their most probable alignment (Viterbi's).
    log_probs f[S, V], with at least as many frames as ids, and one more between two that are alike.
    """
    if not ids:
        return ()
    # Blanks between the characters; a blank is jumped over where other characters meet.
    states = np.zeros(2 * len(ids) + 1, np.int64)
    states[1::2] = ids
    jumps = np.zeros(len(states), bool)
    jumps[3::2] = states[3::2] != states[1:-2:2]
    back = np.zeros((len(log_probs), len(states)), np.int64)  # how many states it came on
    best = np.full(len(states), NEVER)
    best[:2] = log_probs[0, states[:2]]
    for frame in range(1, len(log_probs)):
        ways = np.full((3, len(states)), NEVER)
        ways[0], ways[1, 1:] = best, best[:-1]
        ways[2, 2:] = np.where(jumps[2:], best[:-2], NEVER)
        back[frame] = ways.argmax(0)
        best = ways.max(0) + log_probs[frame, states]
    state = len(states) - 1 - int(best[-2] > best[-1])
    begins = [0] * len(ids)
    for frame in range(len(log_probs) - 1, -1, -1):
        if state % 2:
            begins[state // 2] = frame
        state -= int(back[frame, state])
    return tuple(begins)


def _add(a: float, b: float) -> float:
    """ln(e^a + e^b)."""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))
