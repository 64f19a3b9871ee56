"""Record sets on disk: ArrayRecord shards of tf.Example messages, an index beside them, and
mixtures of several sets.

A records folder:
    records.json                          schema version, name, count, splits, character set,
                                          source, licence, what was left out
    <split>-00000-of-0000N.array_record   tf.Example {image: encoded bytes, id: utf-8,
                                          text: utf-8 or absent}
    index-<split>.npz                     width_px u16[n], height_px u16[n],
                                          label_chars i32[n] (-1 = no label)
    labels-<split>.npz                    utf8 u1[m], all labels in a row, so that starting reads
                                          no image; absent in folders of older versions

Records of a split are numbered through its shards in order.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from dig_jax.data import labels
from dig_jax.data.examples import Report, shown
from dig_jax.data.manifest import read_manifest
from dig_jax.data.record_set import Record, RecordSet, parse
from dig_jax.data.sizes import BadRecord, resized_width
from dig_jax.data.writer import MANIFEST, encode_image, serialize, write
from dig_jax.text import normalize

__all__ = [
    "BadRecord", "Mixture", "Record", "RecordSet", "Report", "count_labels", "cut", "encode_image",
    "open_sets", "parse", "parse_spec", "read_manifest", "resized_width", "serialize", "shown",
    "texts_of", "training_lines", "write",
]  # fmt: skip


AT_ONCE = 256  # records of a read, as a batch of a training
SUBSET = ("subset", "subset_seed", "subset_order")  # of config.data


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

    def stream(self) -> Iterator[Record]:
        """Every record in order, read AT_ONCE at a time."""
        for at in range(0, len(self), AT_ONCE):
            yield from self.read(range(at, min(at + AT_ONCE, len(self))))

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

    @functools.cached_property
    def frames_needed(self) -> np.ndarray:
        """i32[n], see labels.frames_needed."""
        each = [labels.frames_needed(s.codes, s.label_chars) for s in self.sets]
        return np.concatenate(each)[self.chosen]

    def texts(self) -> Iterator[str]:
        """The labels of the chosen records, unlabelled and unreadable ones left out. No image is
        read."""
        for number, records in enumerate(self.sets):
            chosen = self.chosen[self.offsets[number] : self.offsets[number + 1]]
            rows = chosen - self._starts[number]
            yield from filter(None, records.texts(rows[records.label_chars[rows] > 0]))

    def keep(self, mask: np.ndarray) -> "Mixture":
        """The same with the records of bool[n] only."""
        offsets = np.concatenate([[0], np.cumsum(mask)])[self.offsets]
        weights = self.weights
        if not self.weighted:
            weights = tuple((np.diff(offsets) / max(offsets[-1], 1)).tolist())
        chosen = self.chosen[mask]
        return Mixture(self.sets, chosen, offsets, weights, self.weighted)

    def beside(self, other: "Mixture", share: float) -> "Mixture":
        """Both as one, the other for a share of the draws."""
        chosen = np.concatenate([self.chosen, self._starts[-1] + other.chosen])
        offsets = np.concatenate([self.offsets, len(self) + other.offsets[1:]])
        weights = *(w * (1 - share) for w in self.weights), *(w * share for w in other.weights)
        return Mixture(self.sets + other.sets, chosen, offsets, weights, True)


_PART = re.compile(r"(?P<path>.*?)(?:@(?P<split>[^@*/]*))?(?:\*(?P<weight>[^*@/]*))?")


def cut(spec: str) -> list[str]:
    """The parts of a spec. Pieces between commas that only together name a records folder are one
    part."""

    def exists(part: str) -> bool:
        path = _PART.fullmatch(part.strip())["path"]
        return (Path(path).expanduser() / MANIFEST).is_file()

    parts, pieces = [], spec.split(",")
    while pieces:
        longer = (n for n in range(2, len(pieces) + 1) if exists(",".join(pieces[:n])))
        count = 1 if exists(pieces[0]) else next(longer, 1)
        parts.append(",".join(pieces[:count]))
        pieces = pieces[count:]
    return parts


def parse_spec(spec: str, split: str = "train") -> list[tuple[str, str, float | None]]:
    """'PATH[@SPLIT][*WEIGHT],PATH2...' -> [(path, split, weight or None)]; `split` is that of a
    part which names none.

    A comma may stand in a PATH that is a records folder while what stands before it is none.
    Raises ValueError for an empty part, an empty split, or a weight that is not a number above 0.
    """
    if "://" in spec:
        raise ValueError(
            f"'{spec}' is the address of an object store: name a folder of a file system, such as "
            "the bucket mounted"
        )
    parts = []
    for part in cut(spec):
        match = _PART.fullmatch(part.strip())
        path, named, weight = match["path"], match["split"], match["weight"]
        if not path or named == "":
            raise ValueError(
                f"Cannot read '{part}' in the data spec '{spec}'; write "
                "PATH[@SPLIT][*WEIGHT],PATH2..."
            )
        if weight is not None:
            try:
                value = float(weight)
            except ValueError:
                value = -1.0
            if not 0 < value < float("inf"):
                raise ValueError(
                    f"The weight '{weight}' in data spec '{spec}' must be a number above 0, as in "
                    "*0.5."
                )
        parts.append((path, named or split, None if weight is None else value))
    return parts


def open_sets(
    spec: str,
    subset: float | int | None = None,
    subset_seed: int = 0,
    subset_order: str = "random",
    labelled: bool = False,
    rehearse: str | None = None,
    rehearse_share: float | None = None,
) -> Mixture:
    """Opens the record sets of a spec ('PATH[@SPLIT][*WEIGHT],PATH2...') as one mixture.

    Weights are shares of draws: 'a*3,b' takes three lines of a for one of b (1 where a part names
    none, once any part does). Without any weight every record is drawn equally often. subset: None
    = all; in (0, 1] = that fraction; above 1 = that many records of the whole mixture. Smaller
    subsets of one seed are contained in larger ones. subset_order: 'random' (by subset_seed), or
    'first', as the official DiG code chooses: the first fraction of each set. labelled: only
    records with a label take part, in the subset too (an empty label counts). rehearse: another
    spec, whole, for rehearse_share of the draws (None: half): what a network that goes on is not to
    forget. Errors: FileNotFoundError or ValueError, one sentence that lists what exists.
    """
    if rehearse:
        share = 0.5 if rehearse_share is None else rehearse_share
        if not 0 < share < 1:
            raise ValueError(f"config.data.rehearse_share is {share}: set it between 0 and 1")
        own = open_sets(spec, subset, subset_seed, subset_order, labelled)
        return own.beside(open_sets(rehearse, labelled=labelled), share)
    parts = parse_spec(spec)
    sets = tuple(RecordSet(path, split) for path, split, _ in parts)
    starts = np.concatenate([[0], np.cumsum([len(s) for s in sets])])
    numbers = np.arange(starts[-1])
    if labelled:
        numbers = numbers[np.concatenate([s.label_chars >= 0 for s in sets])]
        if not len(numbers):
            raise ValueError(
                f"none of the {starts[-1]} records of {spec} has a label, but a recogniser "
                "needs labels: give labelled records in data.train, or pre-train"
            )
    sizes = np.diff(np.searchsorted(numbers, starts)).tolist()
    what = f"labelled lines (of {starts[-1]} records)" if labelled else "records"
    chosen = numbers[_choose(sizes, subset, subset_seed, subset_order, what)]
    offsets = np.searchsorted(chosen, starts)
    counts = np.diff(offsets)
    weighted = any(weight is not None for _, _, weight in parts)
    raw = [
        (1.0 if w is None else w) if weighted else float(n) for (_, _, w), n in zip(parts, counts)
    ]
    for (path, split, _), count in zip(parts, counts):
        if weighted and count == 0:
            raise ValueError(
                f"No record of {path}@{split} is in the subset of {len(chosen)}, but it has a "
                "weight."
            )
    total = sum(raw)
    return Mixture(sets, chosen, offsets, tuple(w / total for w in raw), weighted)


def training_lines(data: Mapping) -> Mixture:
    """The labelled lines that are given to a recogniser with this config.data, rehearsed ones left
    out; `limits.learnable` says which it cannot learn. Errors: those of `open_sets`."""
    subset = {name: data[name] for name in SUBSET if data.get(name) is not None}
    return open_sets(data["train"], labelled=True, **subset)


def texts_of(source: str) -> list[str]:
    """Texts in normal form: those of labelled records, or the lines of a UTF-8 file whose name ends
    in .txt. FileNotFoundError where nothing lies there; other errors: those of `open_sets`."""
    if "://" in source or "\n" in source:
        raise ValueError(
            f"{source!r} names no texts: name labelled records, or one .txt file, on this machine"
        )
    if not source.endswith(".txt"):
        texts = list(open_sets(source).texts())
        if not texts:
            raise ValueError(f"{source} has no label: name records with labels, or a .txt file")
        return texts
    try:
        lines = Path(source).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not in UTF-8 ({error}): convert it, as iconv does") from None
    return [normalize(line) for line in lines if line.strip()]


def true_labels(mixture: Mixture) -> int:
    """How many of these lines have a true label. tools.pseudo_label writes those first, before the
    ones that a reader labelled; of other records all labels are true."""
    total = 0
    for number, one in enumerate(mixture.sets):
        rows = mixture.chosen[mixture.offsets[number] : mixture.offsets[number + 1]]
        total += int(np.sum(rows - mixture._starts[number] < one.true_labels))
    return total


def count_labels(data: Mapping) -> dict[str, int]:
    """{"true": n, "read": n}: of those lines, how many have a true label, and how many one that a
    reader gave them. Errors: those of `open_sets`."""
    mixture = training_lines(data)
    true = true_labels(mixture)
    return {"true": true, "read": len(mixture) - true}


def _choose(
    sizes: list[int], subset: float | int | None, seed: int, order: str, what: str
) -> np.ndarray:
    """Ascending i64 numbers of the chosen records in the concatenation of sets of these sizes."""
    total = sum(sizes)
    if order not in ("random", "first"):
        raise ValueError(f"subset_order is '{order}', but must be 'random' or 'first'.")
    if subset is None:
        return np.arange(total)
    number = isinstance(subset, int | float) and not isinstance(subset, bool)
    if not number or not subset > 0 or (subset > 1 and subset != int(subset)):
        raise ValueError(
            f"subset is {subset!r}, but must be a fraction in (0, 1], a whole number above 1, or "
            "None."
        )
    if subset > total and subset > 1:
        raise ValueError(
            f"data.subset (labels=) asks for {int(subset)}, but there are only {total} {what}."
        )
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
        raise ValueError(f"subset is {subset}, which leaves none of the {total} {what}; raise it.")
    return chosen.astype(np.int64)
