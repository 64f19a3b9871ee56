"""The one log of a run: metrics.jsonl (and the same numbers for TensorBoard)."""

from __future__ import annotations

import json
import math
import os
from typing import Any


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


def _forget_names(path: str, step: int, names: set[str]) -> None:
    """Rewrite the file without these metrics at this step; a line that then holds nothing goes."""
    rows = read_jsonl(path)
    rows = [{k: v for k, v in row.items() if row["step"] != step or k not in names} for row in rows]
    _rewrite(path, [row for row in rows if len(row) > 1])


def _forget_after(path: str, step: int) -> None:
    """Rewrite the file without the lines of steps > `step`."""
    if os.path.exists(path):
        _rewrite(path, [row for row in read_jsonl(path) if row["step"] <= step])


def _rewrite(path: str, rows: list[dict[str, Any]]) -> None:
    """In one rename, so that a crash leaves the old or the new file."""
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    os.replace(path + ".tmp", path)


class Writer:
    """Appends {"step": n, name: value, ...} lines to WORKDIR/metrics.jsonl and to WORKDIR/tensorboard.

    resume_step: lines of later steps, written before a crash and now repeated, are removed, so the file tells one
    story. So does an evaluation repeated at that step: the later figure replaces the earlier. active=False (every host
    but the lead) makes all calls do nothing.
    """

    def __init__(self, workdir: str, resume_step: int = 0, active: bool = True) -> None:
        self.active = active
        if not active:
            return
        from tensorboardX import SummaryWriter  # imported late: readers of metrics.jsonl need no TensorBoard

        os.makedirs(workdir, exist_ok=True)
        self._path, self._resume_step = os.path.join(workdir, "metrics.jsonl"), resume_step
        _forget_after(self._path, resume_step)
        self._file = open(self._path, "a", encoding="utf-8")
        self._board = SummaryWriter(
            os.path.join(workdir, "tensorboard"), purge_step=resume_step + 1, write_to_disk=True
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line. Values become Python floats; NaN and infinity are written as null, since JSON has neither."""
        if not self.active or not values:
            return
        numbers = {name: float(value) for name, value in values.items()}
        row = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        if step <= self._resume_step:
            self._file.close()
            _forget_names(self._path, int(step), set(row))
            self._file = open(self._path, "a", encoding="utf-8")
        self._file.write(json.dumps({"step": int(step), **row}, allow_nan=False) + "\n")
        self._file.flush()
        for name, number in numbers.items():
            self._board.add_scalar(name, number, int(step))

    def close(self) -> None:
        if self.active:
            self._file.close()
            self._board.close()
