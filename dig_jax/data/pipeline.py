"""From a mixture of record sets to batches, through Grain.

    step 0, 1, 2, ...        B positions each, of which every host owns a run
      -> record numbers      shuffled anew each epoch, mixed by weight: integers only, so looking ahead is cheap
      -> (batch, host)       ONE map reads and decodes the rows of this host together, 4 times faster than one by one

Everything is a pure function of (seed, step, row). So a run resumes by slicing (`dataset[step:]`),
the rows of all hosts one after the other are the same batch for any number of hosts, and threads or
processes cannot change a value.

batch: {"image" u8[B,H,W,C], "width" i32[B], "valid" bool[B]} and, for recognition, {"label"
i32[B,L] (0 = CTC blank = padding), "label_length" i32[B]}; B counts the rows of this host. host,
which never goes to a device: {"index" i64[B] (record number in the mixture, -1 in a row that only
fills a batch), "text" list of str or None, "id" list of str, "errors" list of str, "bad" list of
the record numbers that they name, "unknown_chars" int, "epoch" float}.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import grain
import numpy as np
from absl import flags, logging

from dig_jax.data import buckets, transforms
from dig_jax.data.error_budget import ErrorBudget, TooManyBadRecords  # noqa: F401  (callers find them here)
from dig_jax.data.parallel import cores
from dig_jax.data.records import BadRecord, Mixture, Record, resized_width, shown
from dig_jax.data.writer import MAX_ASPECT
from dig_jax.text import Charset

ENDLESS = 1 << 48  # steps; Grain wants a length, and slicing needs room above it
_CROP, _ORDER, _MIX, _STEPS = range(4)  # streams of randomness under one seed


class Rows(NamedTuple):
    """What one host has to load for one step. index i64[B], u f64[B] or None: where to crop."""

    index: np.ndarray
    width_px: int
    u: np.ndarray | None
    epoch: float


CROPS = (
    "height_px",
    "width_px",
    "channels",
    "squeeze_px",
    "contrast",
    "max_pixels",
)  # keys of config.data that say what a crop is


def pretrain(
    mixture: Mixture,
    *,
    batch_size: int,
    height_px: int,
    width_px: int,
    channels: int,
    seed: int,
    squeeze_px: int | None = None,
    contrast: str | None = None,
    process_index: int = 0,
    process_count: int = 1,
    max_pixels: int = transforms.MAX_PIXELS,
) -> grain.MapDataset:
    """Endless (batch, host) of random windows of width_px, labels unread; item i is step i.
    batch_size is global.

    squeeze_px: instead of windows, whole images squeezed or stretched to this width, which must be
    width_px. contrast: "stretch" = transforms.stretch_contrast of each whole line, None or "none" =
    greys as stored. Without weights every record is drawn once an epoch; with them each set keeps
    its own epochs.
    """
    if squeeze_px not in (None, width_px):
        raise ValueError(
            f"data.squeeze_px is {squeeze_px} and data.width_px is {width_px}: give both the same value"
        )
    part = _part(batch_size, process_index, process_count)
    rows = functools.partial(
        _window_rows,
        _stream(mixture, seed),
        batch_size=batch_size,
        part=part,
        width_px=width_px,
        seed=seed,
        size=len(mixture),
    )
    logging.info(
        "pre-training data: %d records, %d steps an epoch",
        len(mixture),
        -(-len(mixture) // batch_size),
    )
    return (
        grain.MapDataset.range(ENDLESS)
        .map(rows)
        .map(_Loader(mixture, height_px, channels, max_pixels, squeeze_px, contrast))
    )


def recognition(
    mixture: Mixture,
    *,
    batch_size: int,
    height_px: int,
    channels: int,
    charset: Charset,
    seed: int,
    buckets_px: Sequence[int] | int | str = "auto",
    max_label_length: int | None = None,
    multiple_px: int = 32,
    squeeze_px: int | None = None,
    contrast: str | None = None,
    process_index: int = 0,
    process_count: int = 1,
    max_pixels: int = transforms.MAX_PIXELS,
) -> grain.MapDataset:
    """Endless (batch, host) of whole labelled lines in width buckets (see buckets.bounds); item i
    is step i.

    An epoch is ceil(n / batch_size) steps and holds every labelled record once (by the weights
    where there are any); its last batch is filled up from its start. Records without a label are
    left out and counted in the log. L is the longest label, or max_label_length. squeeze_px: every
    image is squeezed or stretched to this width, the aspect ratio is lost. ValueError: no labels, a
    label longer than L, a line wider than the buckets.
    """
    part = _part(batch_size, process_index, process_count)
    plan = _EpochPlan(
        mixture, batch_size, part, height_px, buckets_px, multiple_px, seed, squeeze_px
    )
    length = _label_length(mixture, max_label_length)
    loader = _Loader(
        mixture, height_px, channels, max_pixels, squeeze_px, contrast, charset, length
    )
    logging.info(
        "recognition data: %s", summary(mixture, height_px, buckets_px, multiple_px, squeeze_px)
    )
    return grain.MapDataset.range(ENDLESS).map(plan).map(loader)


def evaluation(
    mixture: Mixture,
    *,
    batch_size: int,
    height_px: int,
    channels: int,
    charset: Charset | None = None,
    buckets_px: Sequence[int] | int | str = "auto",
    max_label_length: int | None = None,
    multiple_px: int = 32,
    squeeze_px: int | None = None,
    contrast: str | None = None,
    process_index: int = 0,
    process_count: int = 1,
    max_pixels: int = transforms.MAX_PIXELS,
) -> grain.MapDataset:
    """ceil(n / batch_size) items that hold every labelled record exactly once, whole, narrow
    buckets first.

    What a bucket leaves over joins the next wider one; the last batch is filled with rows of valid
    False and index -1. Without a charset there are no label keys and unlabelled records take part
    too. Errors as in `recognition`.
    """
    part = _part(batch_size, process_index, process_count)
    chosen = _labelled(mixture) if charset is not None else np.arange(len(mixture))
    edges, bucket = _assign(mixture, chosen, height_px, buckets_px, multiple_px, squeeze_px)
    index, of = buckets.batches(chosen, bucket, len(edges), batch_size, fill=False)
    length = _label_length(mixture, max_label_length) if charset is not None else 0
    rows = functools.partial(_planned_rows, index[:, part], edges[of])
    loader = _Loader(
        mixture, height_px, channels, max_pixels, squeeze_px, contrast, charset, length
    )
    return grain.MapDataset.range(len(index)).map(rows).map(loader)


def steps_per_epoch(mixture: Mixture, batch_size: int, labelled: bool) -> int:
    """ceil(n / batch_size), over the labelled records only or over all. batch_size is global."""
    size = len(_labelled(mixture)) if labelled else len(mixture)
    return -(-size // batch_size)


def summary(
    mixture: Mixture,
    height_px: int,
    buckets_px: Sequence[int] | int | str = "auto",
    multiple_px: int = 32,
    squeeze_px: int | None = None,
) -> dict[str, Any]:
    """What recognition will see: records, unlabelled (left out), buckets {width: lines}, padding
    (share of pixels).
    """
    chosen = _labelled(mixture)
    edges, bucket = _assign(mixture, chosen, height_px, buckets_px, multiple_px, squeeze_px)
    ink = 1.0 if squeeze_px else mixture.widths(height_px)[chosen].sum() / edges[bucket].sum()
    lines = np.bincount(bucket, minlength=len(edges))
    return {
        "records": len(chosen),
        "unlabelled": len(mixture) - len(chosen),
        "padding": round(1 - float(ink), 3),
        "buckets": {int(edge): int(count) for edge, count in zip(edges, lines)},
    }


@contextlib.contextmanager
def iterate(
    dataset: grain.MapDataset, start_step: int = 0, workers: int | str = "auto"
) -> Iterator[Iterator[tuple]]:
    """Context of an iterator over dataset[start_step:], read ahead by a thread or by `workers`
    processes.

    "auto": half of the cores (at most 16) as processes where there are more than 4, else a thread,
    because with few cores a process costs more (2 s to start, copies) than it gains. The values do
    not depend on it. Programs that use processes need the `if __name__ == "__main__"` guard;
    batches travel through /dev/shm.
    """
    count = default_workers() if workers == "auto" else int(workers)
    if count < 0:
        raise ValueError(
            f"data.workers is {workers}; give 'auto', 0 (threads) or a number of processes"
        )
    # Two batches ahead: prefetch counts elements, and ours are whole batches.
    reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    ahead = dataset[start_step:].to_iter_dataset(reading)
    if count:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads an absl flag, which raises in notebooks and tests
        options = grain.multiprocessing.MultiprocessingOptions(
            num_workers=count, per_worker_buffer_size=2
        )
        ahead = ahead.mp_prefetch(options)
    iterator = iter(ahead)
    batches = _own_memory(iterator) if count else (item for item in iterator)
    try:
        yield batches
    finally:
        batches.close()  # the caller may keep `batches`; Grain's iterator must not live on in it
        iterator.close()  # else worker processes and shared memory outlive the run
        del iterator


def _own_memory(iterator: Iterator[tuple]) -> Iterator[tuple]:
    """Copies what lies in the shared memory of a worker, so that a batch may be kept (0.3 ms a
    batch).
    """
    for batch, host in iterator:
        yield (
            {name: np.array(value) for name, value in batch.items()},
            host | {"index": np.array(host["index"])},
        )


def default_workers() -> int:
    """Worker processes that "auto" stands for on this machine; 0 = a thread."""
    count = cores()
    return min(count // 2, 16) if count > 4 else 0


# ---- record numbers -------------------------------------------------------------------------------------------------


def _part(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of the global batch that this host loads."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"data.batch_size is {batch_size}, which {process_count} processes cannot share evenly: make it a multiple"
        )
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)


def _stream(mixture: Mixture, seed: int) -> grain.MapDataset:
    """Position -> record number, endless, shuffled anew each epoch. Computed on the fly: no list of
    the records.
    """
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


def _window_rows(
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


def _planned_rows(index: np.ndarray, width_px: np.ndarray, step: int) -> Rows:
    return Rows(index[step], int(width_px[step]), None, step / len(index))


class _EpochPlan:
    """Step -> Rows for recognition. The plan of an epoch is a few numpy calls (2 s for 10 M
    records) and is kept.
    """

    def __init__(
        self, mixture, batch_size, part, height_px, buckets_px, multiple_px, seed, squeeze_px
    ):
        chosen = _labelled(mixture)
        self.batch_size, self.part, self.seed = batch_size, part, seed
        self.edges, bucket = _assign(
            mixture, chosen, height_px, buckets_px, multiple_px, squeeze_px
        )
        cuts = np.searchsorted(chosen, mixture.offsets[1:-1]) if mixture.weighted else []
        chosen = chosen.astype(np.int32)  # travels to each worker process
        self.sets, self.buckets = np.split(chosen, cuts), np.split(bucket, cuts)
        self.draws = [len(chosen)]
        if mixture.weighted:
            if not all(len(numbers) for numbers in self.sets):
                raise ValueError(
                    "a set of the weighted mixture has no labelled record: take it out of data.train"
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


def _labelled(mixture: Mixture) -> np.ndarray:
    """i64[n], the records that have a label (an empty one counts). ValueError where none has."""
    chosen = np.flatnonzero(mixture.label_chars >= 0)
    if not len(chosen):
        raise ValueError(
            f"none of the {len(mixture)} records has a label, so nothing can be learnt to read from them: "
            "give labelled records in data.train, or pre-train"
        )
    return chosen


def _assign(
    mixture, chosen, height_px, buckets_px, multiple_px, squeeze_px
) -> tuple[np.ndarray, np.ndarray]:
    """(bucket widths i64[K] in px, bucket number i64[n] of the chosen). ValueError names a line
    that is too wide.
    """
    if squeeze_px:
        return np.array([squeeze_px]), np.zeros(len(chosen), np.uint16)
    widths = mixture.widths(height_px)[chosen]
    widest = f"the widest is {mixture.where(int(chosen[np.argmax(widths)]))}"
    if isinstance(buckets_px, str | int) and np.max(widths) > MAX_ASPECT * height_px:
        raise ValueError(
            f"a line is {int(np.max(widths))} px wide at height {height_px}, more than {MAX_ASPECT} times its height, and its "
            f"batches would be as wide ({widest}): make the record set again without it, or list the widths in data.buckets_px"
        )
    try:
        edges = buckets.bounds(widths, buckets_px, multiple_px)
    except ValueError as error:
        raise ValueError(f"{error} ({widest})") from None
    return edges, np.searchsorted(edges, widths).astype(np.uint16)


def _label_length(mixture: Mixture, max_label_length: int | None) -> int:
    """L: the longest label, or the given number if no label is longer."""
    longest = int(np.max(mixture.label_chars))
    if max_label_length is not None and longest > max_label_length:
        raise ValueError(
            f"the longest label has {longest} characters ({mixture.where(int(np.argmax(mixture.label_chars)))}), more "
            f"than data.max_label_length={max_label_length}: raise it, or set it to None for the longest"
        )
    return max(1, longest if max_label_length is None else max_label_length)


# ---- pixels and labels ----------------------------------------------------------------------------------------------


class _Loader:
    """Rows -> (batch, host): one read for all rows, then decode, resize, crop or pad, encode."""

    def __init__(
        self,
        mixture: Mixture,
        height_px: int,
        channels: int,
        max_pixels: int,
        squeeze_px: int | None = None,
        contrast: str | None = None,
        charset: Charset | None = None,
        label_length: int = 0,
    ):
        if contrast not in (None, "none", "stretch"):
            raise ValueError(f"data.contrast is {contrast!r}: set it to 'none' or 'stretch'")
        self.contrast = contrast == "stretch"
        self.mixture, self.charset, self.label_length = mixture, charset, label_length
        self.height_px, self.channels, self.max_pixels, self.squeeze_px = (
            height_px,
            channels,
            max_pixels,
            squeeze_px,
        )

    def __call__(self, rows: Rows) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        size = len(rows.index)
        batch = {
            "image": np.full(
                (size, self.height_px, rows.width_px, self.channels), transforms.PAPER, np.uint8
            ),
            "width": np.ones(size, np.int32),
            "valid": np.zeros(size, bool),
        }
        if self.charset is not None:
            batch["label"] = np.zeros((size, self.label_length), np.int32)
            batch["label_length"] = np.zeros(size, np.int32)
        host = {
            "index": rows.index,
            "text": [None] * size,
            "id": [""] * size,
            "errors": [],
            "bad": [],
            "unknown_chars": 0,
            "epoch": rows.epoch,
        }
        real = np.flatnonzero(rows.index >= 0)
        for row, record in zip(real.tolist(), self.mixture.read(rows.index[real])):
            host["text"][row], host["id"][row] = record.text, record.id
            try:
                image, width = self._image(
                    record, rows.width_px, None if rows.u is None else rows.u[row]
                )
                if self.charset is not None:
                    host["unknown_chars"] += self._label(
                        record, batch["label"][row], batch["label_length"], row
                    )
            except BadRecord as error:
                number = int(rows.index[row])
                host["bad"].append(number)
                host["errors"].append(
                    f"{self.mixture.where(number)} ({shown(record.id, 200) or 'no id'}): {error}"
                )
                continue
            batch["image"][row, :, :width] = image[:, :width]
            batch["width"][row], batch["valid"][row] = width, True
        return batch, host

    def _image(self, record: Record, width_px: int, u: float | None) -> tuple[np.ndarray, int]:
        if record.error:
            raise BadRecord(record.error)
        image = transforms.decode(record.image, self.channels, self.max_pixels)
        try:
            if self.squeeze_px:
                image = transforms.squeeze(image, self.height_px, self.squeeze_px)
                return self._contrasted(image), self.squeeze_px
            if u is not None and self.contrast:  # of the whole line, so the whole line is resized
                image = self._contrasted(transforms.resize_to_height(image, self.height_px))
                return transforms.crop(image, width_px, u)
            if u is not None:
                return transforms.crop_to_height(image, self.height_px, width_px, u)
            height, width = image.shape[:2]
            # Before resizing: a stale index must not make one line unpack to a gigabyte.
            if resized_width(width, height, self.height_px) > width_px:
                raise BadRecord(
                    f"{width} x {height} px does not fit its bucket of {width_px} px: the index is stale"
                )
            image = self._contrasted(transforms.resize_to_height(image, self.height_px))
            return image, image.shape[1]
        except cv2.error as error:
            raise BadRecord(f"cannot be resized: {' '.join(str(error).split())}") from error

    def _contrasted(self, image: np.ndarray) -> np.ndarray:
        return transforms.stretch_contrast(image) if self.contrast else image

    def _label(self, record: Record, label: np.ndarray, lengths: np.ndarray, row: int) -> int:
        """Writes the label of one row in place; returns how many of its characters the character
        set lacks.
        """
        if record.text is None:
            raise BadRecord("the index counts a label, the record has none: the index is stale")
        ids, unknown = self.charset.encode(record.text)
        if len(ids) > len(label):
            raise BadRecord(
                f"a label of {len(ids)} characters where the index counts at most {len(label)}"
            )
        label[: len(ids)] = ids
        lengths[row] = len(ids)
        return len(unknown)
