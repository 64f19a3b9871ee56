"""CER of many recognisers with 95 % intervals, from the readings in their work folders: what the
tables of tools.results, the report and the pictures of tools.label_curves share."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dig_jax.evaluators import intervals, scoring
from dig_jax.tools.tables import bounds, percent
from dig_jax.workdir import readings
from dig_jax.workdir.read import Run
from dig_jax.workdir.readings import Reading


def pairs(lines: Sequence[Reading]) -> list[scoring.Pair]:
    return [(line.truth, line.reading) for line in lines]


def paths(lines: Sequence[Reading]) -> list[str]:
    return [line.path for line in lines]


# What several runs read of one set: lines of the first, lines of the second, ..
Runs = Sequence[Sequence[Reading]]


def by_key(lines: Sequence[Reading]) -> dict[tuple[str, int], Reading]:
    """{(path, how often it was there before): line}."""
    seen: collections.Counter[str] = collections.Counter()
    result = {}
    for line in lines:
        result[line.path, seen[line.path]] = line
        seen[line.path] += 1
    return result


def together(many: Runs) -> list[Reading]:
    """The lines of all runs, one behind the other."""
    return list(itertools.chain(*many))


def groupings(many: Runs, group_by: str | None) -> dict[str, np.ndarray]:
    """{name: i64[n], the group of every line of `together`}: by line, where a line that several
    runs have read is one, and by group where there is a pattern."""
    keys = [key for lines in many for key in by_key(lines)]
    found = {"by line": intervals.numbered(keys)}
    if group_by:
        found["by group"] = intervals.group_ids(paths(together(many)), group_by)
    return found


INTERVALS = ("run", "start", "labels", "data", "lines", "CER", "by line", "groups", "by group")


class Spread(NamedTuple):
    """The CER of one recogniser on one set, with 95 % intervals (rates; NaN where there is none).

    groups: how many there are, None without a pattern; by_group is then None, too.
    """

    run: Run
    dataset: str
    lines: int
    cer: float
    by_line: tuple[float, float]
    groups: int | None
    by_group: tuple[float, float] | None

    @property
    def interval(self) -> tuple[float, float]:
        """That by group where there is one, else by line."""
        return self.by_line if self.by_group is None else self.by_group


def spreads(many: Sequence[Run], group_by: str | None) -> list[Spread]:
    """Each recogniser, one that only evaluates too, and each data set whose readings lie in its
    folder. ValueError for a pattern that some path does not match.
    """
    found = []
    for run in many:
        for name in readings.datasets(run.path) if run.is_recogniser else ():
            lines = readings.read(readings.file_of(run.path, name))
            if not lines:  # no line had a label
                continue
            counts = scoring.count(pairs(lines))
            cer = float(scoring.rates(counts.sum(axis=0))["cer"])
            alone = intervals.interval(counts, intervals.group_ids(paths(lines)))
            groups = intervals.group_ids(paths(lines), group_by) if group_by else None
            number = None if groups is None else len(set(groups.tolist()))
            together = None if groups is None else intervals.interval(counts, groups)
            found.append(Spread(run, name, len(lines), cer, alone, number, together))
    return found


AGAINST = ("data", "run", "against", "points more", "95 % interval", "real?")


def against_best(found: Sequence[Spread], group_by: str | None) -> list[tuple]:
    """Rows under AGAINST: each recogniser and the one with the lowest CER on its data set, line by
    line (`intervals.compare`), by group where there is a pattern."""
    rows = []
    for name in dict.fromkeys(one.dataset for one in found):
        ones = sorted((one for one in found if one.dataset == name), key=lambda one: one.cer)
        best, *others = (by_key(readings.read(readings.file_of(s.run.path, name))) for s in ones)
        for one, lines in zip(ones[1:], others):
            place = (name, one.run.name, ones[0].run.name)
            if _truths(lines) != _truths(best):
                rows.append((*place, "has other lines", "-", "-"))
                continue
            sides = [[side[key] for key in lines] for side in (lines, best)]
            counts = (scoring.count(pairs(side)) for side in sides)
            gap = intervals.compare(*counts, intervals.group_ids(paths(sides[0]), group_by))
            shown = bounds(gap.low, gap.high, "+"), "yes" if gap.is_real else "not shown"
            rows.append((*place, percent(gap.value, "+"), *shown))
    return rows


def _truths(lines: Mapping[tuple[str, int], Reading]) -> dict[tuple[str, int], str]:
    return {key: line.truth for key, line in lines.items()}


def interval_rows(found: Sequence[Spread]) -> list[tuple]:
    """Rows under INTERVALS."""
    return [
        (
            *(one.run.name, one.run.start, one.run.labels, one.dataset, one.lines),
            *(percent(one.cer), bounds(*one.by_line), "-" if one.groups is None else one.groups),
            "-" if one.by_group is None else bounds(*one.by_group),
        )
        for one in found
    ]
