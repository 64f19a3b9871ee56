"""How sure a rate is: bootstrap intervals by line and by group, and two recognisers compared.

Lines of one book, writer or page share type, hand and paper, so they are wrong together. Resampling
lines (Efron 1979) then promises too much: what varies from one test set to the next is the group.
`group_ids` says which lines belong together, and whole groups are drawn with replacement. Both
intervals are percentiles of the resampled rates.

What to watch
- An interval by group needs groups: with fewer than about ten it is too narrow, with one it does
  not exist (NaN).
- It says how the rate would vary over other lines or works, not over other seeds of the training.
- In a paired comparison both recognisers read the same resampled lines, so what makes a line hard
  for both cancels out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Sequence

import numpy as np

from dig_jax.evaluators import scoring

SAMPLES = 2000
LEVEL = 0.95
FEW_GROUPS = 10
CHUNK = 1 << 22  # drawn numbers held at once


def group_ids(paths: Sequence[str], pattern: str | None = None) -> np.ndarray:
    """i64[n], the group of every line, numbered from 0 in order of appearance.

    pattern: a regular expression, searched in the path. Its capture groups name the group of a
    line; without any, what it matched. None: every line is a group of its own. Raises ValueError
    for a pattern that is none, and for one that some path does not match.
    """
    if pattern is None:
        return np.arange(len(paths))
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--group_by={pattern} is no regular expression: {error}") from None
    found = [expression.search(path) for path in paths]
    missed = [path for path, match in zip(paths, found) if match is None]
    if missed:
        raise ValueError(
            f"--group_by={pattern} matches no part of {len(missed)} of {len(paths)} paths, "
            f"such as {missed[0]!r}: every path has to name its group"
        )
    return numbered([match.groups() or match.group() for match in found])


def numbered(keys: Sequence[Hashable]) -> np.ndarray:
    """i64[n]: equal keys have one number, from 0 in order of appearance."""
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], np.int64)


def group_sums(counts: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """f64[G, ...]: rows of counts, f64[n, ...], summed over each group; groups of dropped lines
    only are left out.
    """
    sums = np.zeros((int(groups.max(initial=-1)) + 1, *counts.shape[1:]))
    np.add.at(sums, groups, counts)
    return sums[sums.any(axis=tuple(range(1, sums.ndim)))]


def resample(sums: np.ndarray, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """f64[samples, ...]: each the sum over as many groups as there are, drawn with replacement."""
    size = len(sums)
    flat = sums.reshape(size, -1)
    rng = np.random.default_rng(seed)
    drawn = np.empty((samples, flat.shape[1]))
    step = max(CHUNK // max(size, 1), 1)
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        chosen = rng.integers(size, size=(rows, size)) + np.arange(rows)[:, None] * size
        times = np.bincount(chosen.ravel(), minlength=rows * size).reshape(rows, size)
        drawn[start : start + rows] = times @ flat
    return drawn.reshape(samples, *sums.shape[1:])


def interval(
    counts: np.ndarray, groups: np.ndarray, rate: str = "cer", level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """(low, high) of a rate of `scoring.QUOTIENTS` by groups of lines; NaN for fewer than two."""
    sums = group_sums(counts, groups)
    if len(sums) < 2:
        return float("nan"), float("nan")
    return _percentiles(scoring.rates(resample(sums, seed=seed))[rate], level)


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Difference:
    """One rate of two recognisers on the same lines. `low` and `high` bound a - b; `p` is the
    two-sided bootstrap p-value of no difference; all NaN for fewer than two groups.
    """

    a: float
    b: float
    low: float
    high: float
    p: float
    groups: int

    @property
    def value(self) -> float:
        return self.a - self.b

    @property
    def is_real(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def compare(
    a: np.ndarray,
    b: np.ndarray,
    groups: np.ndarray,
    rate: str = "cer",
    level: float = LEVEL,
    seed: int = 0,
) -> Difference:
    """Paired: counts of the same lines by two recognisers, f64[n, 7] each, resampled together."""
    if a.shape != b.shape:
        raise ValueError(
            f"{len(a)} and {len(b)} lines cannot be paired: both have to read the same"
        )
    of = lambda sums: scoring.rates(sums)[rate]
    means = float(of(a.sum(axis=0))), float(of(b.sum(axis=0)))
    sums = group_sums(np.stack([a, b], axis=1), groups)  # (G, 2, 7)
    if len(sums) < 2:
        return Difference(*means, float("nan"), float("nan"), float("nan"), len(sums))
    drawn = of(resample(sums, seed=seed))  # (samples, 2)
    difference = drawn[:, 0] - drawn[:, 1]
    low, high = _percentiles(difference, level)
    tail = min((difference <= 0).sum(), (difference >= 0).sum())
    p = min(2 * (tail + 1) / (len(difference) + 1), 1.0)
    return Difference(*means, low, high, float(p), len(sums))
