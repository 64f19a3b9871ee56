"""One split of one records folder: reading its records, its index, its labels. The layout is in
dig_jax.data.records.

Reading goes shard by shard in one call for a whole batch, 4x faster than record by record. The
ArrayRecord file has groups of one record and no compression. Random access is 40x faster than with
groups of 16, and the images are compressed already.
"""

import functools
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from dig_jax.data import labels
from dig_jax.data.examples import shown
from dig_jax.data.manifest import TRUE_LABELS, check_shards, read_index, read_manifest
from dig_jax.data.sizes import BadRecord, resized_width
from dig_jax.data.writer import MANIFEST, example_class


class Record(NamedTuple):
    """One line: encoded image, its text (None = unlabelled), the source's id, and why it is
    unusable (None = it is fine).

    An unusable record has empty image bytes, so a decoder that does not look at `error` refuses it
    too.
    """

    image: bytes
    text: str | None
    id: str
    error: str | None = None


def parse(value: bytes) -> Record:
    """Inverse of `serialize`. Raises BadRecord where the bytes are no tf.Example, have no image, or
    hold text that is not UTF-8."""
    from google.protobuf.message import DecodeError

    try:
        feature = example_class().FromString(value).features.feature
    except DecodeError as error:
        raise BadRecord("not a tf.Example message") from error
    images = feature["image"].bytes_list.value
    if not images or not images[0]:
        raise BadRecord("no image bytes")
    ids, texts = feature["id"].bytes_list.value, feature["text"].bytes_list.value
    try:
        text = texts[0].decode("utf-8") if texts else None
    except UnicodeDecodeError as error:
        raise BadRecord("text is not UTF-8") from error
    return Record(images[0], text, ids[0].decode("utf-8", "replace") if ids else "")


OWN_LABELS = re.compile(r"(\d+) lines carry labels of a reader")  # a note of tools.pseudo_label
VALIDATION = ("val", "valid", "dev")  # what others call the split "validation"


def called(split: str, splits: Mapping[str, Any]) -> str:
    """What a folder with these splits calls `split`: "validation" has other names, too."""
    if split == "validation" and split not in splits:
        return next(filter(splits.get, VALIDATION), split)
    return split


class RecordSet:
    """One split of one records folder. Threads may share it; pickled, it carries names only and
    opens its files again."""

    def __init__(self, path: str | Path, split: str = "train"):
        self.path = Path(path).expanduser()
        self.manifest = read_manifest(self.path)
        split = called(split, self.manifest["splits"])
        if split not in self.manifest["splits"]:
            known = ", ".join(sorted(self.manifest["splits"]))
            how = "name another one, as in PATH@SPLIT"
            if split == "validation":
                how += (
                    " (config.evals.recognition.datasets says what is evaluated), or make the set "
                    "again with make_records --validation=0.1, which holds lines back"
                )
            raise ValueError(f"{self.path} has no split '{split}'; it has: {known}: {how}.")
        self.split = split
        self.entry = self.manifest["splits"][split]
        self.starts = np.concatenate([[0], np.cumsum(self.entry["shard_counts"])]).astype(np.int64)
        check_shards(self.path, self.entry)
        self._open()
        _ = self.index  # read now, so that what is wrong with it is said now

    @functools.cached_property
    def true_labels(self) -> int:
        """How many of its first records have labels that no reader gave them: all, but of the
        training lines that tools.pseudo_label wrote."""
        if self.split == "train":
            if TRUE_LABELS in self.manifest:
                return self.manifest[TRUE_LABELS]
            notes = map(str, self.manifest.get("notes") or ())  # records of before there was a key
            for found in filter(None, map(OWN_LABELS.match, notes)):
                return self.entry["count"] - int(found[1])
        return self.entry["count"]

    def _open(self) -> None:
        self._readers: list[Any] = [None] * len(self.entry["shards"])
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        opened = ("_readers", "_lock", "index", "codes")
        return {k: v for k, v in self.__dict__.items() if k not in opened}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return self.entry["count"]

    @functools.cached_property
    def index(self) -> dict[str, np.ndarray]:
        """width_px u16[n], height_px u16[n], label_chars i32[n]."""
        return read_index(self.path / self.entry["index"], len(self))

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """u32[m], the code points of all labels in a row, see dig_jax.data.labels. Folders of older
        versions have no file of them: then every labelled record is read once."""
        if "labels" in self.entry:
            return labels.read(self.path / self.entry["labels"], self.label_chars)
        rows = np.flatnonzero(self.label_chars > 0)
        logging.info(
            "%s holds no file of its labels: reading %d records; made again, it starts faster",
            self.path,
            len(rows),
        )
        starts = labels.starts_of(self.label_chars)
        codes = np.zeros(starts[-1], np.uint32)  # 0 stays where a record cannot be read
        for first in range(0, len(rows), 1024):
            chunk = rows[first : first + 1024]
            for row, record in zip(chunk.tolist(), self.read(chunk)):
                text = labels.codes_of(record.text or "")
                if len(text) == self.label_chars[row]:
                    codes[starts[row] : starts[row] + len(text)] = text
        return codes

    def text(self, row: int) -> str:
        """The label of a record, "" where it has none or cannot be read."""
        start = self._label_starts[row]
        codes = self.codes[start : start + max(int(self.label_chars[row]), 0)]
        return labels.text_of(codes[codes > 0])

    def texts(self, rows: np.ndarray) -> Iterator[str]:
        """`text` of i64[m] records, 40 times faster for many."""
        whole = labels.text_of(self.codes)
        starts, ends = self._label_starts[rows], self._label_starts[rows + 1]
        for start, end in zip(starts.tolist(), ends.tolist()):
            yield whole[start:end].replace("\0", "")

    @functools.cached_property
    def _label_starts(self) -> np.ndarray:
        return labels.starts_of(self.label_chars)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the records and not with their place. They hash the sizes
        of lines, labels and shards, and what records.json says of this split: a digest of its
        records, in sets that are new enough to have one."""
        known = hashlib.sha256(json.dumps(self.entry, sort_keys=True).encode())
        known.update(
            repr([(self.path / shard).stat().st_size for shard in self.entry["shards"]]).encode()
        )
        for name in sorted(self.index):
            known.update(self.index[name].tobytes())
        return known.hexdigest()[:16]

    @property
    def label_chars(self) -> np.ndarray:
        """i32[n], characters of each label, -1 where there is none."""
        return self.index["label_chars"]

    def widths(self, height_px: int) -> np.ndarray:
        """i32[n], the width of each line when it is resized to height_px, aspect kept; 1 where its
        header was unreadable."""
        return resized_width(self.index["width_px"], self.index["height_px"], height_px).astype(
            np.int32
        )

    def where(self, index: int) -> str:
        """Where a record lies: 'folder/shard.array_record#row'."""
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        return f"{self.path / self.entry['shards'][shard]}#{int(index) - int(self.starts[shard])}"

    def read_raw(self, indices: Sequence[int]) -> list[bytes | BadRecord]:
        """tf.Example bytes of each index, one read for each shard; the reason where the shard is
        damaged there.
        """
        wanted = np.asarray(indices, np.int64).reshape(-1)
        if wanted.size and not (0 <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"Record index outside [0, {len(self)}) of {self.path}@{self.split}.")
        shards = np.searchsorted(self.starts, wanted, side="right") - 1
        values: list[bytes | BadRecord] = [_DAMAGED] * len(wanted)
        for shard in np.unique(shards):
            places = np.flatnonzero(shards == shard)
            rows = (wanted[places] - self.starts[shard]).tolist()
            for place, value in zip(places.tolist(), self._read_shard(int(shard), rows)):
                values[place] = value
        return values

    def _read_shard(self, shard: int, rows: list[int]) -> list[bytes | BadRecord]:
        reader = self._reader(shard)
        if isinstance(reader, BadRecord):
            return [reader] * len(rows)
        try:
            return reader.read(rows)
        except (
            RuntimeError,
            ValueError,
            IndexError,
        ):  # one damaged record spoils the whole call: find out which
            return [_read_one(reader, row) for row in rows]

    def _reader(self, shard: int) -> Any:
        """The open shard, or a BadRecord where it is no ArrayRecord or not the one that the
        manifest counts.
        """
        with self._lock:
            if self._readers[shard] is None:
                self._readers[shard] = self._open_shard(
                    self.path / self.entry["shards"][shard], shard
                )
            return self._readers[shard]

    def _open_shard(self, file: Path, shard: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        if not file.is_file():  # opening a pipe would wait for ever
            return BadRecord("the shard has vanished")
        try:
            # No read-ahead and no reader threads: both only pay for sequential reading.
            reader = ArrayRecordReader(
                str(file),
                options="readahead_buffer_size:0,max_parallelism:0",
                file_reader_buffer_size=32768,
            )
            count, options = reader.num_records(), reader.writer_options_string()
        except (RuntimeError, ValueError, OSError):
            return BadRecord("the shard is damaged or cut short")
        expected = self.entry["shard_counts"][shard]
        if count != expected:
            return BadRecord(f"the shard holds {count} records where {MANIFEST} counts {expected}")
        if "uncompressed" not in options:  # else a record of a few bytes could unpack to gigabytes
            return BadRecord(
                f"the shard is compressed ({shown(options, 80)}); make_records writes none that is"
            )
        return reader

    def read(self, indices: Sequence[int]) -> list[Record]:
        """The records in the order asked for, read as one batch. A damaged one never raises: it
        comes with `error` set."""
        return [_parse_or_error(value) for value in self.read_raw(indices)]

    __getitems__ = read

    def __getitem__(self, index: int) -> Record:
        return self.read([index])[0]


_DAMAGED = BadRecord("the shard is damaged here")


def _read_one(reader: Any, row: int) -> bytes | BadRecord:
    try:
        return reader.read([row])[0]
    except (RuntimeError, ValueError, IndexError):
        return _DAMAGED


def _parse_or_error(value: bytes | BadRecord) -> Record:
    try:
        return parse(value) if isinstance(value, bytes) else Record(b"", None, "", str(value))
    except BadRecord as error:
        return Record(b"", None, "", str(error))
