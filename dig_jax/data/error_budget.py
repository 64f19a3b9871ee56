"""Counting the records that cannot be used, and stopping a run that meets too many."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from dig_jax.data.records import Mixture


class TooManyBadRecords(RuntimeError):
    """More records were unusable than the configuration allows."""


class ErrorBudget:
    """Counts unusable records and stops the run past a share of the rows seen, of all or of one
    record set. A set that cannot be read must not hide behind a larger one, or behind a small
    weight. One for each host, over its own rows.

    max_share: in [0, 1]. min_count: with fewer bad rows nothing stops, else one bad line in the
    first batch would. mixture: names the sets (None: all rows are one set).

    Fields: rows, bad; errors {what: how often} of the first KEPT different ones, each of which is
    logged once; kinds {reason without its details: how often} of all.
    """

    KEPT = 1000

    def __init__(self, max_share: float, min_count: int = 10, mixture: Mixture | None = None):
        if not 0 <= max_share <= 1:
            raise ValueError(
                f"data.max_bad_share is {max_share}; it is a share of the records, between 0 and 1"
            )
        self.max_share, self.min_count = max_share, min_count
        self.names = [f"{s.path}@{s.split}" for s in mixture.sets] if mixture else ["the data"]
        self.offsets = mixture.offsets if mixture else np.array([0, np.iinfo(np.int64).max])
        self.set_rows, self.set_bad = (np.zeros(len(self.names), np.int64) for _ in range(2))
        self.errors: dict[str, int] = {}
        self.kinds: collections.Counter[str] = collections.Counter()

    @property
    def rows(self) -> int:
        return int(self.set_rows.sum())

    @property
    def bad(self) -> int:
        return int(self.set_bad.sum())

    def add(self, host: dict[str, Any]) -> None:
        """Counts the rows and errors of one batch. Raises TooManyBadRecords once the budget is
        spent.
        """
        index = np.asarray(host["index"])
        self.set_rows += self._by_set(index[index >= 0])
        self.set_bad += self._by_set(host["bad"])
        for error in host["errors"]:
            self.kinds[error.split("): ", 1)[-1].split(":")[0]] += 1
            if error in self.errors or len(self.errors) < self.KEPT:
                if error not in self.errors:
                    logging.warning("unusable record: %s", error)
                self.errors[error] = self.errors.get(error, 0) + 1
        self._check(self.bad, self.rows, "the lines read")
        for name, bad, rows in zip(self.names, self.set_bad.tolist(), self.set_rows.tolist()):
            self._check(bad, rows, f"the lines read from {name}")

    def _by_set(self, index: Sequence[int]) -> np.ndarray:
        which = np.searchsorted(self.offsets, np.asarray(index, np.int64), side="right") - 1
        return np.bincount(which, minlength=len(self.names))

    def _check(self, bad: int, rows: int, what: str) -> None:
        if bad >= max(1, self.min_count) and bad > self.max_share * rows:
            kinds = ", ".join(f"{count} x {kind}" for kind, count in self.kinds.most_common(4))
            raise TooManyBadRecords(
                f"{bad} of {rows} of {what} ({bad / rows:.1%}) cannot be used, more than "
                f"data.max_bad_share={self.max_share:g} allows. In all: {kinds}. The first is "
                f"{next(iter(self.errors))}. Make the record set again without them, or raise "
                "data.max_bad_share"
            )
