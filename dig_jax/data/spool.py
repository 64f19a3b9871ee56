"""Records on their way into a set: chunks on disk while the source is read, then shards.

A folder under way holds

    progress.json       how far it is; a chunk that it does not name was never written
    chunk-NNNNN.*       records in the order of the source, and what is known of each (Columns)
    arranged.npz        the split of each record, once all are there

and, from then on, the files of the record set. Whatever the moment of a kill, what progress.json
names is whole. Chunks are deleted as they are dealt out. So the disk holds the records, the shard
under way, and once more what changes the split.
"""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dig_jax.data import labels

WRITER_OPTIONS = "group_size:1,uncompressed"
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
PROGRESS, ARRANGED = "progress.json", "arranged.npz"
COMMIT_BYTES, COMMIT_S = 64 << 20, 10.0  # what a kill costs at most
AT_ONCE = 1024  # records in memory


@dataclasses.dataclass(frozen=True)
class Columns:
    """What is known of n records beside their bytes.

    names: the splits. split i32[n]: number of a split, -1 = left out. bytes i32[n]: of the message.
    width_px, height_px u16[n]. chars i32[n]: of the label, -1 = none. codes u32: code points of the
    labels in a row. ids u8 and id_bytes i32[n]: the ids in a row, UTF-8, and their lengths.
    """

    names: list[str]
    split: np.ndarray
    bytes: np.ndarray
    width_px: np.ndarray
    height_px: np.ndarray
    chars: np.ndarray
    codes: np.ndarray
    ids: np.ndarray
    id_bytes: np.ndarray

    def each_id(self) -> Iterator[str]:
        ends, row = np.cumsum(self.id_bytes, dtype=np.int64), self.ids.tobytes()
        for start, end in zip((ends - self.id_bytes).tolist(), ends.tolist()):
            yield row[start:end].decode()

    def text(self, row: int) -> str:
        """The label of a record; "" where it has none."""
        start = self._starts[row]
        return labels.text_of(self.codes[start : start + max(int(self.chars[row]), 0)])

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return labels.starts_of(self.chars)

    def texts_of(self, chosen: np.ndarray) -> str:
        """The labels of the records of bool[n], in a row."""
        return labels.text_of(self.codes[np.repeat(chosen, np.maximum(self.chars, 0))])


class Spool:
    """The records of a conversion in the order of the source, in chunks. keep: chunks outlive the
    process; `progress` is what a former one left behind."""

    def __init__(self, folder: Path, keep: bool = False):
        self.folder, self.keep = folder, keep
        self.progress: dict[str, Any] = {"counts": [], "files": []}
        if keep and (folder / PROGRESS).is_file():
            self.progress = json.loads((folder / PROGRESS).read_text("utf-8"))
        for file in folder.glob("chunk-*"):  # of a chunk that was never finished
            if file.stem not in self.progress["files"]:
                file.unlink()
        if self.progress.get("stage") != "deal":
            (folder / ARRANGED).unlink(missing_ok=True)
        self._begin()

    @property
    def counts(self) -> list[int]:
        """Records of each finished chunk."""
        return self.progress["counts"]

    def _file(self, number: int, end: str) -> Path:
        return self.folder / f"{self.progress['files'][number]}{end}"

    @property
    def _next(self) -> Path:
        """The chunk under way, without its end."""
        return self.folder / f"chunk-{len(self.counts):05d}"

    def _begin(self) -> None:
        self._writer, self._rows, self._bytes, self._since = None, [], 0, time.monotonic()
        self._names: list[str] = []
        self._texts: list[str] = []
        self._ids: list[bytes] = []

    def add(
        self, split: str, value: bytes, text: str | None, id: str, size: tuple[int, int]
    ) -> None:
        """One record: its message, label, id, and (width, height) in px."""
        if self._writer is None:
            self._writer = open_writer(self._next.with_suffix(ENDS[0]))
        if split not in self._names:
            self._names.append(split)
        self._writer.write(value)
        chars = -1 if text is None else len(text)
        name = id.encode("utf-8", "backslashreplace")
        self._rows.append((self._names.index(split), len(value), *size, chars, len(name)))
        self._texts.append(text or "")
        self._ids.append(name)
        self._bytes += len(value)

    @property
    def written(self) -> int:
        """Bytes of all records so far."""
        return self.progress.get("bytes", 0) + self._bytes

    def due(self) -> bool:
        """Whether it is time for a `commit`."""
        waited = time.monotonic() - self._since
        return self._writer is not None and (self._bytes >= COMMIT_BYTES or waited >= COMMIT_S)

    def commit(self, **progress: Any) -> None:
        """Finishes the chunk and writes down how far the conversion is, JSON."""
        if self._writer is not None:
            self._writer.close()
            rows = np.array(self._rows, np.int32).reshape(-1, 6)
            with self._next.with_suffix(ENDS[1]).open("wb") as file:
                np.savez(
                    file,
                    rows=rows,
                    names=np.array(self._names),
                    utf8=np.frombuffer("".join(self._texts).encode(), np.uint8),
                    ids=np.frombuffer(b"".join(self._ids), np.uint8),
                )
            if self.keep:
                for end in ENDS:
                    to_disk(self._next.with_suffix(end))
            self.progress["bytes"] = self.written
            self.progress["files"].append(self._next.name)
            self.counts.append(len(rows))
            self._begin()
        self.save(**progress)

    def save(self, **progress: Any) -> None:
        """Writes progress.json as a whole."""
        self.progress.update(progress)
        if self.keep:
            replace(self.folder / PROGRESS, json.dumps(self.progress, indent=1))

    def abandon(self) -> None:
        """Closes what is open and frees the disk of the unfinished chunk."""
        if self._writer is not None:
            self._writer.close()
            self._next.with_suffix(ENDS[0]).unlink(missing_ok=True)
        self._begin()

    def arrange(self, columns: Columns) -> None:
        """Keeps the splits of these columns for the rest of the conversion."""
        np.savez(self.folder / ARRANGED, split=columns.split, names=np.array(columns.names))
        to_disk(self.folder / ARRANGED)

    def columns(self) -> Columns:
        """Of all finished chunks; their splits as `arrange` left them."""
        parts, names = [], {}
        for number in range(len(self.counts)):
            with np.load(self._file(number, ENDS[1]), allow_pickle=False) as arrays:
                rows, codes = arrays["rows"], labels.codes_of(arrays["utf8"].tobytes().decode())
                here = [names.setdefault(name, len(names)) for name in arrays["names"].tolist()]
                rows[:, 0] = np.array(here, np.int32)[rows[:, 0]]
                parts.append((rows, codes, arrays["ids"]))
        rows, codes, ids = (np.concatenate(column) for column in zip(*parts))
        split, size, width, height, chars, id_bytes = np.ascontiguousarray(rows.T)
        width, height = width.astype(np.uint16), height.astype(np.uint16)
        if (file := self.folder / ARRANGED).is_file():
            with np.load(file, allow_pickle=False) as arrays:
                split, names = arrays["split"], arrays["names"].tolist()
        return Columns(list(names), split, size, width, height, chars, codes, ids, id_bytes)

    def values(self, rows: np.ndarray) -> Iterator[bytes]:
        """The messages of these records, i64[m] ascending, a few at a time in memory."""
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        for number in np.unique(np.searchsorted(starts, rows, side="right") - 1).tolist():
            first, end = np.searchsorted(rows, starts[number : number + 2])
            file = self._file(number, ENDS[0])
            yield from read_values(file, rows[first:end] - starts[number])

    def deal(self, columns: Columns, shards: dict[str, int]) -> dict[str, dict[str, Any]]:
        """Writes the shards, so many of each split, and returns {split: {"digest", "shards",
        "shard_counts"}}. Shards that are there already are kept. Small splits come first, so that
        the chunks can go while the large one is written."""
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        left = np.add.reduceat((columns.split >= 0).astype(np.int64), starts[:-1])
        sizes = np.bincount(columns.split[columns.split >= 0], minlength=len(columns.names))
        made = {}
        for code in np.argsort(sizes, kind="stable").tolist():
            name, count = columns.names[code], int(sizes[code])
            if not count:
                continue
            rows = np.flatnonzero(columns.split == code)
            number = min(count, shards[name])
            bounds = [count * i // number for i in range(number + 1)]
            files = [f"{name}-{i:05d}-of-{number:05d}.array_record" for i in range(number)]
            digest = hashlib.sha256()
            for file, start, end in zip(files, bounds, bounds[1:]):
                chosen = rows[start:end]
                self._write_shard(self.folder / file, chosen, digest)
                left -= np.diff(np.searchsorted(chosen, starts))
                for chunk in np.flatnonzero(left == 0).tolist():
                    self._file(chunk, ENDS[0]).unlink(missing_ok=True)
            made[name] = {
                "digest": digest.hexdigest(),
                "shards": files,
                "shard_counts": [b - a for a, b in zip(bounds, bounds[1:])],
            }
        return {name: made[name] for name in columns.names if name in made}

    def _write_shard(self, file: Path, rows: np.ndarray, digest: Any) -> None:
        if file.is_file():
            for value in read_values(file, np.arange(len(rows))):
                digest.update(value)
            return
        unfinished = file.with_name(f"unfinished-{file.name}")
        writer = open_writer(unfinished)
        for value in self.values(rows):
            digest.update(value)
            writer.write(value)
        writer.close()
        if self.keep:
            to_disk(unfinished)
        unfinished.rename(file)

    def clear(self) -> None:
        """Deletes all that is no part of a record set, progress.json excepted."""
        for pattern in ("chunk-*", "unfinished-*", ARRANGED):
            for file in self.folder.glob(pattern):
                file.unlink()
        for part in self.folder.glob("part-*"):  # of a pipeline
            shutil.rmtree(part)


ENDS = (".array_record", ".npz")


def open_writer(file: Path) -> Any:
    from array_record.python.array_record_module import ArrayRecordWriter

    return ArrayRecordWriter(str(file), WRITER_OPTIONS)


def read_values(file: Path, rows: Sequence[int] | np.ndarray) -> Iterator[bytes]:
    """The messages of these records of an ArrayRecord file."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(file), options=READER_OPTIONS)
    try:
        for first in range(0, len(rows), AT_ONCE):
            yield from reader.read(np.asarray(rows[first : first + AT_ONCE]).tolist())
    finally:
        reader.close()


def to_disk(file: Path) -> None:
    """Waits until a file is on the disk: a loss of power may come right after."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def replace(file: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(text, "utf-8")
    to_disk(new)
    new.replace(file)
