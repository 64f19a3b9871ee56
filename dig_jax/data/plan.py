"""Which records one host reads at which step: integers only, so looking ahead is cheap."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dig_jax.data import buckets
from dig_jax.data.records import Mixture
from dig_jax.data.sizes import MAX_ASPECT

if TYPE_CHECKING:
    import grain

_CROP, _ORDER, _MIX, _STEPS = range(4)  # streams of randomness under one seed


class Rows(NamedTuple):
    """What one host has to load for one step. index i64[B], u f64[B] or None: where to crop."""

    index: np.ndarray
    width_px: int
    u: np.ndarray | None
    epoch: float


def host_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of the global batch that this host loads."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"data.batch_size is {batch_size}, which {process_count} processes cannot share "
            "evenly: make it a multiple"
        )
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)


def stream(mixture: Mixture, seed: int) -> grain.MapDataset:
    """Position -> record number, endless, shuffled anew each epoch. Computed on the fly: no list of
    the records.
    """
    import grain  # here: bench_step runs without it

    if not mixture.weighted:
        return grain.MapDataset.range(len(mixture)).seed(seed).shuffle().repeat()
    parts = [
        grain.MapDataset.range(int(start), int(stop))
        .seed((seed + number) % 2**32)
        .shuffle()
        .repeat()
        for number, (start, stop) in enumerate(zip(mixture.offsets[:-1], mixture.offsets[1:]))
    ]
    return grain.MapDataset.mix(parts, weights=mixture.weights)


def window_rows(
    stream: grain.MapDataset,
    step: int,
    *,
    batch_size: int,
    part: slice,
    width_px: int,
    seed: int,
    size: int,
) -> Rows:
    # Only the rows of this host are looked up: the shuffle costs 10 us a record, and a pod's batch
    # has thousands.
    positions = np.arange(step * batch_size + part.start, step * batch_size + part.stop)
    index = np.array([stream[int(position)] for position in positions], np.int64)
    return Rows(
        index, width_px, buckets.uniform(seed, (_CROP,), positions), step * batch_size / size
    )


def planned_rows(index: np.ndarray, width_px: np.ndarray, step: int) -> Rows:
    return Rows(index[step], int(width_px[step]), None, step / len(index))


class EpochPlan:
    """Step -> Rows for recognition. The plan of an epoch is a few numpy calls (2 s for 10 M
    records) and is kept.
    """

    def __init__(
        self, mixture, batch_size, part, height_px, buckets_px, multiple_px, seed, squeeze_px
    ):
        chosen = labelled(mixture)
        self.batch_size, self.part, self.seed = batch_size, part, seed
        self.edges, bucket = assign(mixture, chosen, height_px, buckets_px, multiple_px, squeeze_px)
        cuts = np.searchsorted(chosen, mixture.offsets[1:-1]) if mixture.weighted else []
        chosen = chosen.astype(np.int32)  # travels to each worker process
        self.sets, self.buckets = np.split(chosen, cuts), np.split(bucket, cuts)
        self.draws = [len(chosen)]
        if mixture.weighted:
            if not all(len(numbers) for numbers in self.sets):
                raise ValueError(
                    "a set of the weighted mixture has no labelled record: take it out of "
                    "data.train"
                )
            self.draws = buckets.shares(mixture.weights, len(chosen))
        self.steps = -(-len(chosen) // batch_size)
        self.plans: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, step: int) -> Rows:
        epoch, row = divmod(step, self.steps)
        plans = self.plans
        if epoch not in plans:
            plans = {epoch: self._plan(epoch)} | {
                old: plan for old, plan in plans.items() if abs(epoch - old) == 1
            }
            self.plans = plans  # one assignment, so that reading threads never meet half a plan
        index, of = plans[epoch]
        return Rows(
            index[row, self.part].astype(np.int64),
            int(self.edges[of[row]]),
            None,
            step / self.steps,
        )

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [
            self._draw(len(numbers), which, epoch * int(draws), int(draws))
            for which, (numbers, draws) in enumerate(zip(self.sets, self.draws))
        ]
        records = np.concatenate([s[rows] for s, rows in zip(self.sets, drawn)])
        bucket = np.concatenate([b[rows] for b, rows in zip(self.buckets, drawn)])
        if len(self.sets) > 1:
            mix = buckets.permutation(len(records), self.seed, (_MIX, epoch))
            records, bucket = records[mix], bucket[mix]
        index, width = buckets.batches(records, bucket, len(self.edges), self.batch_size, fill=True)
        shuffle = buckets.permutation(len(index), self.seed, (_STEPS, epoch))
        return index[shuffle], width[shuffle]

    def _draw(self, size: int, which: int, start: int, count: int) -> np.ndarray:
        """Draws start .. start + count of the endless, each time newly shuffled, rounds through one
        set of `size`.
        """
        first, last = start // size, (start + count - 1) // size
        rounds = [
            buckets.permutation(size, self.seed, (_ORDER, which, number))
            for number in range(first, last + 1)
        ]
        return np.concatenate(rounds)[start - first * size :][:count]


def labelled(mixture: Mixture) -> np.ndarray:
    """i64[n], the records that have a label (an empty one counts). ValueError where none has."""
    chosen = np.flatnonzero(mixture.label_chars >= 0)
    if not len(chosen):
        raise ValueError(
            f"none of the {len(mixture)} records has a label, but a recogniser needs labels: "
            "give labelled records in data.train, or pre-train"
        )
    return chosen


def assign(
    mixture, chosen, height_px, buckets_px, multiple_px, squeeze_px, most_px=None
) -> tuple[np.ndarray, np.ndarray]:
    """(bucket widths i64[K] in px, bucket number i64[n] of the chosen). Lines wider than most_px
    go into the last bucket, where they do not fit. ValueError names a line that is too wide.
    """
    if squeeze_px:
        return np.array([squeeze_px]), np.zeros(len(chosen), np.uint16)
    widths = mixture.widths(height_px)[chosen]
    widths = np.minimum(widths, most_px or np.max(widths))
    widest = f"the widest is {mixture.where(int(chosen[np.argmax(widths)]))}"
    if isinstance(buckets_px, str | int) and np.max(widths) > MAX_ASPECT * height_px:
        raise ValueError(
            f"a line is {int(np.max(widths))} px wide at height {height_px}, more than "
            f"{MAX_ASPECT} times its height ({widest}). Its batches would be as wide: make the "
            "record set again without it, or list the widths in data.buckets_px"
        )
    try:
        edges = buckets.bounds(widths, buckets_px, multiple_px)
    except ValueError as error:
        raise ValueError(f"{error} ({widest})") from None
    return edges, np.searchsorted(edges, widths).astype(np.uint16)


def label_length(mixture: Mixture, max_label_length: int | None) -> int:
    """L: the longest label, or the given number if no label is longer."""
    longest = int(np.max(mixture.label_chars))
    if max_label_length is not None and longest > max_label_length:
        raise ValueError(
            f"the longest label has {longest} characters "
            f"({mixture.where(int(np.argmax(mixture.label_chars)))}), more than "
            f"data.max_label_length={max_label_length}: raise it, or set it to None for the longest"
        )
    return max(1, longest if max_label_length is None else max_label_length)
