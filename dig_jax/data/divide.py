"""Holding lines back for validation and test, where a source has no such splits."""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from dig_jax.data.duplicates import without_duplicates
from dig_jax.data.examples import Report, shown
from dig_jax.data.spool import Columns

NAMES = {"validation": ("validation", "val", "valid", "dev"), "test": ("test",)}


@dataclasses.dataclass(frozen=True)
class Division:
    """Arranges the records of a source (see writer.Arrange).

    validation, test: shares of the labelled lines of "train" to hold back, 0 = none. seed: of the
    draw. group_by: a regular expression. Lines stay together whose ids agree in what it matches
    (its groups, if it has any), such as the pages of a work or of a writer. dedupe: duplicate lines
    are left out first. ValueError for shares that leave no line for training.
    """

    validation: float = 0.0
    test: float = 0.0
    seed: int = 0
    group_by: str | None = None
    dedupe: bool = False
    workers: int | None = None

    def __post_init__(self):
        if self.validation + self.test > 0.95:
            raise ValueError(
                f"--validation={self.validation:g} and --test={self.test:g} leave less than a "
                "twentieth of the lines for training: lower them"
            )
        if self.group_by is not None and not self.moved:
            raise ValueError("--group_by says what stays together: give --validation or --test too")
        try:
            re.compile(self.group_by or "")
        except re.error as error:
            raise ValueError(
                f"--group_by={self.group_by} is no regular expression: {error}"
            ) from None

    @property
    def moved(self) -> float:
        return self.validation + self.test

    def __call__(
        self, columns: Columns, values: Callable[[np.ndarray], Iterator[bytes]], report: Report
    ) -> Columns:
        if self.dedupe:
            columns = without_duplicates(columns, values, report, self.workers)
        shares = {name: getattr(self, name) for name in NAMES if getattr(self, name)}
        if not shares:
            return columns
        for name in shares:
            if found := [other for other in columns.names if other in NAMES[name]]:
                raise ValueError(
                    f"--{name}={shares[name]:g} holds lines back, but the source has a split "
                    f"{found[0]!r}: leave the option out"
                )
        if "train" not in columns.names:
            raise ValueError(
                f"--{'/--'.join(shares)} hold back lines of the split 'train', and the source has "
                f"only {', '.join(columns.names)}"
            )
        train = columns.split == columns.names.index("train")
        if self.group_by is None:
            sides = self._at_random(np.flatnonzero(train & (columns.chars >= 0)), shares, report)
        else:
            sides = self._by_group(columns, train, shares, report)
        names, split = list(columns.names), columns.split.copy()
        for name, rows in sides.items():
            split[rows] = len(names)
            names.append(name)
        return dataclasses.replace(columns, names=names, split=split)

    def _at_random(
        self, rows: np.ndarray, shares: dict[str, float], report: Report
    ) -> dict[str, np.ndarray]:
        """{split: its rows} of i64[m] labelled rows: one of each 1 / share, of fewer rows one. So
        the share is exact, and the same lines are drawn whatever follows."""
        count, left, sides = len(rows), Fraction(1), {}
        for number, (name, share) in enumerate(shares.items()):
            key = [self.seed, *[1] * number]
            drawn = draw(len(rows), Fraction(str(share)) / left, key)
            if not len(drawn) and len(rows) > 1:  # of few lines at least one
                drawn = np.random.default_rng(key).integers(len(rows), size=1)
            sides[name], rows = rows[drawn], np.delete(rows, drawn)
            left -= Fraction(str(share))
            report.notes.append(
                f"{len(drawn)} of {count} labelled lines are held back at random as the split "
                f"{name}; --group_by=REGEX keeps the lines of a page or writer together"
            )
        return sides

    def _by_group(
        self, columns: Columns, train: np.ndarray, shares: dict[str, float], report: Report
    ) -> dict[str, np.ndarray]:
        """{split: its rows}, whole groups, as near to the shares as they allow."""
        of, sizes, alone = self._groups(columns, train)
        groups = sorted(sizes)
        if len(groups) <= len(shares):
            raise ValueError(
                f"--group_by={self.group_by} finds {len(groups)} groups, such as "
                f"{shown(groups[0])!r}: {len(shares) + 1} are needed for train, {', '.join(shares)}"
            )
        if alone:
            report.notes.append(
                f"{alone} ids do not match --group_by={self.group_by}: each is a group of its own"
            )
        total = sum(sizes.values())
        order = [groups[i] for i in np.random.default_rng(self.seed).permutation(len(groups))]
        taken: dict[str, str] = {}  # group -> split
        for left, (name, share) in zip(range(len(shares), 0, -1), shares.items()):
            free = [group for group in order if group not in taken]
            chosen = nearest([sizes[group] for group in free], share * total, len(free) - left)
            taken |= {free[i]: name for i in chosen}
            held = sum(sizes[free[i]] for i in chosen)
            report.notes.append(
                f"{held} of {total} labelled lines ({held / max(total, 1):.1%}) are held back as "
                f"the split {name}: {len(chosen)} of {len(groups)} groups of --group_by, such as "
                f"{shown(free[chosen[0]])!r}"
            )
        side = np.array([taken.get(group, "") for group in of], object)
        rows = np.flatnonzero(train)
        return {name: rows[side == name] for name in shares}

    def _groups(
        self, columns: Columns, train: np.ndarray
    ) -> tuple[list[str], collections.Counter[str], int]:
        """(group of each row of train, labelled lines of each group, ids that do not match)."""
        of, sizes, alone = [], collections.Counter(), 0
        for id, here, chars in zip(columns.each_id(), train.tolist(), columns.chars.tolist()):
            if here:
                match = re.search(self.group_by, id)
                alone += match is None
                group = id if match is None else "/".join(filter(None, match.groups())) or match[0]
                of.append(group)
                sizes[group] += chars >= 0
        return of, sizes, alone


def draw(count: int, share: Fraction, key: Sequence[int]) -> np.ndarray:
    """Ascending i64 numbers below count: one of each 1 / share, at random."""
    first = lambda block: math.ceil(block / share)  # number of a block's first line
    drawn, block = [], 0
    while first(block) < count:
        rng = np.random.default_rng([key[0], block, *key[1:]])
        drawn.append(int(rng.integers(first(block), first(block + 1))))
        block += 1
    return np.array([number for number in drawn if number < count], np.int64)


def nearest(sizes: Sequence[int], goal: float, most: int) -> list[int]:
    """Numbers of the groups, in this order, that together come near `goal` lines: at least one, at
    most `most`."""
    chosen, total = [], 0
    for number, size in enumerate(sizes):
        if size and len(chosen) < most and total + size / 2 <= goal:
            chosen.append(number)
            total += size
    return chosen or [min(range(len(sizes)), key=lambda i: (sizes[i] == 0, sizes[i]))]
