"""From a mixture of record sets to batches, through Grain.

    step 0, 1, 2, ...     B positions each, of which every host owns a run
      -> record numbers   shuffled anew each epoch, mixed by weight (data/plan.py)
      -> (batch, host)    ONE map reads and decodes the rows of this host together, 4 times faster
                          than one by one (data/loader.py)

Everything is a pure function of (seed, step, row). So a run resumes by slicing (`dataset[step:]`),
and threads or processes cannot change a value. The rows of all hosts one after the other are the
same batch for any number of hosts.

batch: {"image" u8[B,H,W,C], "width" i32[B], "valid" bool[B]} and, for recognition, {"label"
i32[B,L] (0 = CTC blank = padding), "label_length" i32[B]}. B counts the rows of this host.

host: never goes to a device.
    "index"          i64[B], record number in the mixture, -1 in a row that only fills a batch
    "text", "id"     a list of str or None, a list of str
    "errors", "bad"  a list of str, and a list of the record numbers that they name
    "unknown_chars"  int
    "epoch"          float
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from dig_jax.data import buckets, limits, plan
from dig_jax.data.error_budget import ErrorBudget, TooManyBadRecords  # noqa: F401  (for callers)
from dig_jax.data.parallel import WORKER_BATCHES, cores, fitting_workers, free_shared_memory
from dig_jax.data.records import Mixture
from dig_jax.data.sizes import MAX_PIXELS
from dig_jax.text import Charset

if TYPE_CHECKING:
    import grain

ENDLESS = 1 << 48  # steps; Grain wants a length, and slicing needs room above it
# Keys of config.data that say what is read of a record, for windows and for whole lines.
CROPS = ("height_px", "width_px", "channels", "squeeze_px", "contrast", "max_pixels")
WHOLE = ("height_px", "channels", "squeeze_px", "max_width_px", "multiple_px", "contrast")
WHOLE += ("max_pixels",)


def options(data: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those of `names`, CROPS or WHOLE, that config.data states."""
    return {name: data[name] for name in names if name in data}


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
    max_pixels: int = MAX_PIXELS,
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
            f"data.squeeze_px is {squeeze_px} and data.width_px is {width_px}: give both the same "
            "value"
        )
    part = plan.host_rows(batch_size, process_index, process_count)
    rows = functools.partial(
        plan.window_rows,
        plan.stream(mixture, seed),
        batch_size=batch_size,
        part=part,
        width_px=width_px,
        seed=seed,
        size=len(mixture),
    )
    reading = (mixture, height_px, channels, max_pixels, squeeze_px, contrast)
    return _dataset(ENDLESS, rows, part, width_px, *reading)


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
    multiple_px: int = buckets.MULTIPLE_PX,
    squeeze_px: int | None = None,
    contrast: str | None = None,
    process_index: int = 0,
    process_count: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> grain.MapDataset:
    """Endless (batch, host) of whole labelled lines in width buckets (see buckets.bounds); item i
    is step i.

    An epoch is ceil(n / batch_size) steps and holds every labelled record once (by the weights
    where there are any). Its last batch is filled up from its start. Records without a label are
    left out; `summary` counts them. L is the longest label, or max_label_length. squeeze_px: every
    image is squeezed or stretched to this width, the aspect ratio is lost. ValueError: no labels, a
    label longer than L, a line wider than the buckets.
    """
    part = plan.host_rows(batch_size, process_index, process_count)
    rows = plan.EpochPlan(
        mixture, batch_size, part, height_px, buckets_px, multiple_px, seed, squeeze_px
    )
    length = plan.label_length(mixture, max_label_length)
    reading = (mixture, height_px, channels, max_pixels, squeeze_px, contrast, charset, length)
    return _dataset(ENDLESS, rows, part, int(rows.edges[-1]), *reading)


def evaluation(
    mixture: Mixture,
    *,
    batch_size: int,
    height_px: int,
    channels: int,
    charset: Charset | None = None,
    buckets_px: Sequence[int] | int | str = "auto",
    max_label_length: int | None = None,
    multiple_px: int = buckets.MULTIPLE_PX,
    squeeze_px: int | None = None,
    max_width_px: int | None = None,
    contrast: str | None = None,
    process_index: int = 0,
    process_count: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> grain.MapDataset:
    """ceil(n / batch_size) items that hold every labelled record exactly once, whole, narrow
    buckets first.

    What a bucket leaves over joins the next wider one; the last batch is filled with rows of valid
    False and index -1. A line wider than limits.widest_px comes as a bad record, so that one
    sliver cannot make batches of gigabytes. Without a charset there are no label keys and
    unlabelled records take part too. Errors as in `recognition`.
    """
    part = plan.host_rows(batch_size, process_index, process_count)
    chosen = plan.labelled(mixture) if charset is not None else np.arange(len(mixture))
    most = limits.widest_px(mixture.widths(height_px)[chosen], height_px, max_width_px, buckets_px)
    edges, bucket = plan.assign(
        mixture, chosen, height_px, buckets_px, multiple_px, squeeze_px, most
    )
    index, of = buckets.batches(chosen, bucket, len(edges), batch_size, fill=False)
    length = plan.label_length(mixture, max_label_length) if charset is not None else 0
    rows = functools.partial(plan.planned_rows, index[:, part], edges[of])
    reading = (mixture, height_px, channels, max_pixels, squeeze_px, contrast, charset, length)
    return _dataset(len(index), rows, part, int(edges[-1]), *reading)


def steps_per_epoch(mixture: Mixture, batch_size: int, labelled: bool) -> int:
    """ceil(n / batch_size), over the labelled records only or over all. batch_size is global."""
    size = len(plan.labelled(mixture)) if labelled else len(mixture)
    return -(-size // batch_size)


def summary(
    mixture: Mixture,
    height_px: int,
    buckets_px: Sequence[int] | int | str = "auto",
    multiple_px: int = buckets.MULTIPLE_PX,
    squeeze_px: int | None = None,
) -> dict[str, Any]:
    """What recognition will see: records, unlabelled (left out), buckets {width: lines}, padding
    (share of pixels).
    """
    chosen = plan.labelled(mixture)
    edges, bucket = plan.assign(mixture, chosen, height_px, buckets_px, multiple_px, squeeze_px)
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

    "auto": half of the cores (at most 16) as processes where there are more than 4, else a thread.
    With few cores a process costs more (2 s to start, copies) than it gains. The values do not
    depend on it. Programs that use processes need the `if __name__ == "__main__"` guard. Batches
    travel through /dev/shm, and where it is too small for them there are fewer processes.
    """
    import grain  # here: bench_step runs without it

    count = default_workers() if workers == "auto" else int(workers)
    if count < 0:
        raise ValueError(
            f"data.workers is {workers}; give 'auto', 0 (threads) or a number of processes"
        )
    if count and (shape := getattr(dataset, "batch_shape", None)):
        count = fitting_workers(count, math.prod(shape), free_shared_memory())
    # Two batches ahead: prefetch counts elements, and ours are whole batches.
    reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    ahead = dataset[start_step:].to_iter_dataset(reading)
    if count:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads one, which raises in notebooks and tests
        options = grain.multiprocessing.MultiprocessingOptions(
            num_workers=count, per_worker_buffer_size=WORKER_BATCHES
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


def _dataset(
    steps: int, rows: Callable[[int], plan.Rows], part: slice, width_px: int, *reading: Any
) -> grain.MapDataset:
    """Step -> rows -> (batch, host). reading: of Loader. `batch_shape` is the shape (B, H, W, C)
    of this host's widest images."""
    import grain  # here: bench_step runs without it

    from dig_jax.data.loader import Loader

    loader = Loader(*reading)
    dataset = grain.MapDataset.range(steps).map(rows).map(loader)
    dataset.batch_shape = (part.stop - part.start, loader.height_px, width_px, loader.channels)
    return dataset


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
