"""Record sets on disk: ArrayRecord shards of tf.Example messages, an index beside them, and
mixtures of several sets.

A records folder:
    records.json                          schema version, name, count, splits, character set, source, licence, what
                                          was left out
    <split>-00000-of-0000N.array_record   tf.Example {image: encoded bytes, id: utf-8, text: utf-8 or absent}
    index-<split>.npz                     width_px u16[n], height_px u16[n], label_chars i32[n] (-1 = no label)

Records of a split are numbered through its shards in order. Groups of one record and no compression
in the ArrayRecord file: random access is 40x faster than with groups of 16, and the images are
compressed already. Reading goes shard by shard in one call for a whole batch, 4x faster than record
by record.
"""

import dataclasses
import functools
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dig_jax.data.manifest import check_shards, read_index, read_manifest
from dig_jax.data.sizes import BadRecord, resized_width
from dig_jax.data.writer import (
    MANIFEST,
    Report,
    encode_image,
    example_class,
    serialize,
    shown,
    write,
)

__all__ = [
    "BadRecord", "Mixture", "Record", "RecordSet", "Report", "encode_image", "open_sets", "parse", "parse_spec",
    "read_manifest", "resized_width", "serialize", "shown", "write",
]  # fmt: skip


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


class RecordSet:
    """One split of one records folder. Threads may share it; pickled, it carries names only and
    opens its files again."""

    def __init__(self, path: str | Path, split: str = "train"):
        self.path, self.split = Path(path), split
        self.manifest = read_manifest(path)
        if split not in self.manifest["splits"]:
            known = ", ".join(sorted(self.manifest["splits"]))
            raise ValueError(f"{self.path} has no split '{split}'; it has: {known}.")
        self.entry = self.manifest["splits"][split]
        self.starts = np.concatenate([[0], np.cumsum(self.entry["shard_counts"])]).astype(np.int64)
        check_shards(self.path, self.entry)
        self._open()
        _ = self.index  # read now, so that what is wrong with it is said now

    def _open(self) -> None:
        self._readers: list[Any] = [None] * len(self.entry["shards"])
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_readers", "_lock", "index")}

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
    def fingerprint(self) -> str:
        """Changes with the records and not with their place: 16 hex digits over what records.json
        says of this split (a digest of its records, where it was made since there is one), the
        sizes of lines and labels, and of the shards."""
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


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several record sets read as one: index i in [0, len) is the i-th chosen record, set after
    set.

    sets: the record sets. chosen: i64[n], ascending numbers of records in the concatenation of the
    whole sets. offsets: i64[len(sets) + 1], set k holds the mixture's indices [offsets[k],
    offsets[k + 1]). weights: share of the draws for each set, summing to 1. weighted: False = the
    weights are just the sets' sizes, so that an epoch may show every record once.
    """

    sets: tuple[RecordSet, ...]
    chosen: np.ndarray
    offsets: np.ndarray
    weights: tuple[float, ...]
    weighted: bool

    def __len__(self) -> int:
        return len(self.chosen)

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum([len(s) for s in self.sets])]).astype(np.int64)

    def _locate(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        wanted = np.asarray(indices, np.int64).reshape(-1)
        if wanted.size and not (0 <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"Record index outside [0, {len(self)}) of the mixture.")
        numbers = self.chosen[wanted]
        which = np.searchsorted(self._starts, numbers, side="right") - 1
        return which, numbers - self._starts[which]

    def read(self, indices: Sequence[int]) -> list[Record]:
        """As RecordSet.read, over all sets: one batched read for each set and shard."""
        which, rows = self._locate(indices)
        records: list[Record] = [Record(b"", None, "", "not read")] * len(which)
        for number in np.unique(which):
            places = np.flatnonzero(which == number)
            for place, record in zip(places.tolist(), self.sets[number].read(rows[places])):
                records[place] = record
        return records

    __getitems__ = read

    def where(self, index: int) -> str:
        """Where a record lies: 'folder/shard.array_record#row'."""
        which, rows = self._locate([index])
        return self.sets[which[0]].where(int(rows[0]))

    def widths(self, height_px: int) -> np.ndarray:
        """i32[n], see RecordSet.widths."""
        return np.concatenate([s.widths(height_px) for s in self.sets])[self.chosen]

    @functools.cached_property
    def label_chars(self) -> np.ndarray:
        """i32[n], characters of each label, -1 where there is none."""
        return np.concatenate([s.label_chars for s in self.sets])[self.chosen]

    def texts(self) -> Iterator[str]:
        """The labels of the chosen records, unlabelled and unreadable ones left out."""
        labelled = np.flatnonzero(self.label_chars >= 0)
        for start in range(0, len(labelled), 1024):
            for record in self.read(labelled[start : start + 1024]):
                if record.text is not None:
                    yield record.text


_PART = re.compile(r"(?P<path>.*?)(?:@(?P<split>[^@*/]*))?(?:\*(?P<weight>[^*@/]*))?")


def parse_spec(spec: str, split: str = "train") -> list[tuple[str, str, float | None]]:
    """'PATH[@SPLIT][*WEIGHT],PATH2...' -> [(path, split, weight or None)]; `split` is that of a
    part which names none.

    Raises ValueError for an empty part, an empty split, or a weight that is not a number above 0.
    """
    parts = []
    for part in spec.split(","):
        match = _PART.fullmatch(part.strip())
        path, named, weight = match["path"], match["split"], match["weight"]
        if not path or named == "":
            raise ValueError(
                f"Cannot read '{part}' in the data spec '{spec}'; write PATH[@SPLIT][*WEIGHT],PATH2..."
            )
        if weight is not None:
            try:
                value = float(weight)
            except ValueError:
                value = -1.0
            if not 0 < value < float("inf"):
                raise ValueError(
                    f"The weight '{weight}' in data spec '{spec}' must be a number above 0, as in *0.5."
                )
        parts.append((path, named or split, None if weight is None else value))
    return parts


def open_sets(
    spec: str, subset: float | int | None = None, subset_seed: int = 0, subset_order: str = "random"
) -> Mixture:
    """Opens the record sets of a spec ('PATH[@SPLIT][*WEIGHT],PATH2...') as one mixture.

    Weights are shares of draws: 'a*3,b' takes three lines of a for one of b (1 where a part names
    none, once any part does). Without any weight every record is drawn equally often. subset: None
    = all; in (0, 1] = that fraction; above 1 = that many records of the whole mixture. Smaller
    subsets of one seed are contained in larger ones. subset_order: 'random' (by subset_seed), or
    'first', as the official DiG code chooses: the first fraction of each set. Errors:
    FileNotFoundError or ValueError, one sentence that lists what exists.
    """
    parts = parse_spec(spec)
    sets = tuple(RecordSet(path, split) for path, split, _ in parts)
    sizes = [len(s) for s in sets]
    chosen = _choose(sizes, subset, subset_seed, subset_order)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    offsets = np.searchsorted(chosen, starts)
    counts = np.diff(offsets)
    weighted = any(weight is not None for _, _, weight in parts)
    raw = [
        (1.0 if w is None else w) if weighted else float(n) for (_, _, w), n in zip(parts, counts)
    ]
    for (path, split, _), count in zip(parts, counts):
        if weighted and count == 0:
            raise ValueError(
                f"No record of {path}@{split} is in the subset of {len(chosen)}, but it has a weight."
            )
    total = sum(raw)
    return Mixture(sets, chosen, offsets, tuple(w / total for w in raw), weighted)


def _choose(sizes: list[int], subset: float | int | None, seed: int, order: str) -> np.ndarray:
    """Ascending i64 numbers of the chosen records in the concatenation of sets of these sizes."""
    total = sum(sizes)
    if order not in ("random", "first"):
        raise ValueError(f"subset_order is '{order}', but must be 'random' or 'first'.")
    if subset is None:
        return np.arange(total)
    if not subset > 0 or (subset > 1 and subset != int(subset)):
        raise ValueError(
            f"subset is {subset}, but must be a fraction in (0, 1], a whole number above 1, or None."
        )
    if subset > total and subset > 1:
        raise ValueError(f"subset asks for {int(subset)} records, but there are only {total}.")
    if subset <= 1 and order == "first":
        starts = np.concatenate([[0], np.cumsum(sizes)])
        chosen = np.concatenate(
            [start + np.arange(int(n * subset)) for start, n in zip(starts, sizes)]
        )
    else:
        count = int(subset) if subset > 1 else round(total * subset)
        picks = (
            np.arange(total) if order == "first" else np.random.default_rng(seed).permutation(total)
        )
        chosen = np.sort(picks[:count])
    if not len(chosen):
        raise ValueError(f"subset is {subset}, which leaves none of the {total} records; raise it.")
    return chosen.astype(np.int64)
