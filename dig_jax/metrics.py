"""Accumulators, and the one log of a run: metrics.jsonl (and the same numbers for TensorBoard)."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np


class Mean:
    """Weighted mean of what `add` was given: add(values f32[...], weight same shape or a number)."""

    def __init__(self) -> None:
        self.total, self.weight = 0.0, 0.0

    def add(self, value: Any, weight: Any = 1.0) -> None:
        value, weight = np.broadcast_arrays(np.asarray(value, np.float64), np.asarray(weight, np.float64))
        used = weight != 0  # a NaN on a padding row must not reach the sum through 0 * NaN
        self.total += float(np.sum(value[used] * weight[used]))
        self.weight += float(np.sum(weight[used]))

    @property
    def result(self) -> float:
        """The mean; NaN where nothing was added, so that nobody mistakes "no data" for 0."""
        return self.total / self.weight if self.weight else math.nan


class Count:
    """Named whole numbers that only grow: add(errors=3, characters=40), total("errors")."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, **amounts: int) -> None:
        for name, amount in amounts.items():
            self.counts[name] = self.counts.get(name, 0) + int(amount)

    def total(self, name: str) -> int:
        return self.counts.get(name, 0)

    def share(self, part: str, whole: str) -> float:
        """part / whole, NaN where whole is 0."""
        return self.total(part) / self.total(whole) if self.total(whole) else math.nan


def read_jsonl(path: str) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl, in file order. A last line cut off by a killed process is left out."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):  # no newline after it: the writer died half way
                break
            raise ValueError(f"{path} line {number} is no JSON object ({error}): remove that line") from error
    return rows


def _forget_after(path: str, step: int) -> None:
    """Rewrite the file without the lines of steps > `step`, in one rename so a crash leaves the old or the new file."""
    if not os.path.exists(path):
        return
    kept = [row for row in read_jsonl(path) if row["step"] <= step]
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in kept)
    os.replace(path + ".tmp", path)


class Writer:
    """Appends {"step": n, name: value, ...} lines to WORKDIR/metrics.jsonl and to WORKDIR/tensorboard.

    resume_step: lines of later steps, written before a crash and now repeated, are removed, so the file tells one
    story. active=False (every host but the lead) makes all calls do nothing.
    """

    def __init__(self, workdir: str, resume_step: int = 0, active: bool = True) -> None:
        self.active = active
        if not active:
            return
        from tensorboardX import SummaryWriter  # imported late: readers of metrics.jsonl need no TensorBoard

        os.makedirs(workdir, exist_ok=True)
        path = os.path.join(workdir, "metrics.jsonl")
        _forget_after(path, resume_step)
        self._file = open(path, "a", encoding="utf-8")
        self._board = SummaryWriter(
            os.path.join(workdir, "tensorboard"), purge_step=resume_step + 1, write_to_disk=True
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line. Values become Python floats; NaN and infinity are written as null, since JSON has neither."""
        if not self.active or not values:
            return
        numbers = {name: float(value) for name, value in values.items()}
        row = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        self._file.write(json.dumps({"step": int(step), **row}, allow_nan=False) + "\n")
        self._file.flush()
        for name, number in numbers.items():
            self._board.add_scalar(name, number, int(step))

    def close(self) -> None:
        if self.active:
            self._file.close()
            self._board.close()
