"""The one log of a run: metrics.jsonl (and the same numbers for TensorBoard)."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from dig_jax.workdir import bucket, whole

FLUSH_S = 60.0  # how old the TensorBoard files may be; metrics.jsonl is never behind


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl, in file order. A last line cut off by a killed process is left
    out.
    """
    lines = bucket.path(path).read_bytes().decode("utf-8", "replace").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # no newline after it: the writer died half way
                break
            raise ValueError(
                f"{path} line {number} is no JSON object ({error}): remove that line"
            ) from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise ValueError(
                f"{path} line {number} is no JSON object with a step: remove that line"
            )
        rows.append(row)
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
    whole.write(path, "".join(json.dumps(row) + "\n" for row in rows))


class Writer:
    """Appends {"step": n, name: value, ...} lines to WORKDIR/metrics.jsonl and to
    WORKDIR/tensorboard.

    resume_step: lines of later steps, written before a crash and now repeated, are removed, so the
    file tells one story. So does an evaluation repeated at that step: the later figure replaces the
    earlier. active=False (every host but the lead) makes all calls do nothing. publish: copies the
    folder to a bucket, at each `sync`.
    """

    def __init__(
        self,
        workdir: str,
        resume_step: int = 0,
        active: bool = True,
        publish: Callable[[], None] = lambda: None,
    ) -> None:
        self.active, self.workdir, self._publish = active, workdir, publish
        if not active:
            return
        os.makedirs(workdir, exist_ok=True)
        self._path, self._resume_step = os.path.join(workdir, "metrics.jsonl"), resume_step
        with _told(self._path):
            _forget_after(self._path, resume_step)
            self._file = _open(self._path)
        self._board = _Board(os.path.join(workdir, "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line. Values become Python floats; NaN and infinity are written as null, since JSON
        has neither.

        Raises OSError with a sentence where the disk refuses.
        """
        if not self.active or not values:
            return
        numbers = {name: float(value) for name, value in values.items()}
        row = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        line = (json.dumps({"step": int(step), **row}, allow_nan=False) + "\n").encode()
        with _told(self._path):
            if step <= self._resume_step:
                self._file.close()
                _forget_names(self._path, int(step), set(row))
                self._file = _open(self._path)
            if self._file.write(line) < len(line):  # a disk that is nearly full takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with _told(self._board.folder):
            self._board.write(int(step), numbers)

    def sync(self) -> None:
        """Wait until the lines are on the disk, for a checkpoint that promises to go on after
        them.
        """
        if self.active:
            with _told(self._path):
                os.fsync(self._file.fileno())
            with _told(self._board.folder):
                self._board.flush()
            self._publish()

    def close(self) -> None:
        if self.active:
            self._file.close()
            with _told(self._board.folder):
                self._board.close()


def _open(path: str) -> Any:
    """For appending, unbuffered: a line is in the file or it is not, and what failed is not tried
    again at close.
    """
    return open(path, "ab", buffering=0)


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({(error.strerror or str(error)).lower()}): mend that and "
            "run the same command again, which goes on from the last checkpoint"
        ) from error


class _Board:
    """TensorBoard scalars, written where they are reported. (tensorboardX's own SummaryWriter
    writes in a thread that dies on a full disk and lets the caller wait for ever.)"""

    def __init__(self, folder: str, purge_step: int) -> None:
        from tensorboardX import (
            event_file_writer,
            proto,
            summary,
        )  # late: readers of metrics.jsonl need no TensorBoard

        self.folder, self._event, self._scalar = folder, proto.event_pb2.Event, summary.scalar
        self._flushed = time.monotonic()
        with _told(folder):
            os.makedirs(folder, exist_ok=True)
            self._writer = event_file_writer.EventsWriter(os.path.join(folder, "events"))
            start = proto.event_pb2.SessionLog(status=proto.event_pb2.SessionLog.START)
            self._writer.write_event(self._event(step=purge_step, file_version="brain.Event:2"))
            self._writer.write_event(
                self._event(step=purge_step, session_log=start)
            )  # hides what is now repeated

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.write_event(
                self._event(step=step, wall_time=time.time(), summary=self._scalar(name, value))
            )
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()
