"""Which records stand together in a batch when lines keep their own width: pure integer planning,
no pixels.

Lines are grouped by width into a few buckets. So a batch is only as wide as its bucket, and the
compiler sees a few static shapes. All randomness is a hash of (seed, what for, counter): the same
on every host, with every numpy.
"""

from collections.abc import Sequence

import numpy as np

MULTIPLE_PX = 32  # of the widths that are chosen
AUTO_COUNT = 4  # each width costs one compilation; the fifth saves little padding


def random64(seed: int, stream: tuple[int, ...], counter) -> np.ndarray:
    """u64[n] of random bits for the counters i64[n]: SplitMix64 (Steele et al. 2014), keyed by
    (seed, stream).
    """
    key = np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)
    bits = (np.atleast_1d(counter).astype(np.uint64) + np.uint64(1)) * np.uint64(
        0x9E3779B97F4A7C15
    ) + key
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def uniform(seed: int, stream: tuple[int, ...], counter) -> np.ndarray:
    """f64[n] in [0, 1), one number a counter."""
    return (random64(seed, stream, counter) >> np.uint64(11)) * 2.0**-53


def permutation(size: int, seed: int, stream: tuple[int, ...]) -> np.ndarray:
    """i64[size], a random order of range(size). Sorts random bits with the number itself in the low
    ones.

    Sorting values is several times faster than argsort, and as no two are equal the result is that
    of any machine.
    """
    low = np.uint64(max(1, size - 1).bit_length())
    keys = random64(seed, stream, np.arange(size)) >> low << low | np.arange(size, dtype=np.uint64)
    return (np.sort(keys) & ((np.uint64(1) << low) - np.uint64(1))).astype(np.int64)


def bounds(
    widths: np.ndarray,
    buckets_px: Sequence[int] | int | str = "auto",
    multiple_px: int = MULTIPLE_PX,
) -> np.ndarray:
    """Bucket widths i64[K] in px, ascending, the last at least as wide as the widest line.

    widths: i[n], resized widths in px. buckets_px: the widths themselves, or how many to choose
    ("auto" = 4): those of the given multiple that cost the least padding in all. ValueError when a
    line is wider than the last bucket.
    """
    if isinstance(buckets_px, str | int):
        count = AUTO_COUNT if buckets_px == "auto" else buckets_px
        if isinstance(count, str) or count < 1:
            raise ValueError(
                f"data.buckets_px is {buckets_px}; give 'auto', a number of buckets or a list of "
                "widths"
            )
        return _least_padding(np.asarray(widths, np.int64), count, multiple_px)
    listed = list(buckets_px) if isinstance(buckets_px, Sequence | np.ndarray) else []
    if not listed or not all(isinstance(width, int | np.integer) and width > 0 for width in listed):
        raise ValueError(
            f"data.buckets_px is {buckets_px}; give 'auto', a number of buckets, or a list of "
            "widths, each at least 1 px"
        )
    chosen = np.unique(np.asarray(listed, np.int64))
    too_wide = int(np.sum(widths > chosen[-1]))
    if too_wide:
        raise ValueError(
            f"{too_wide} of {len(widths)} lines are wider than the widest bucket of {chosen[-1]} "
            f"px (the widest is {int(np.max(widths))} px). Add a bucket of at least that width to "
            "data.buckets_px, or set it to 'auto'"
        )
    return chosen


def _least_padding(widths: np.ndarray, count: int, multiple_px: int) -> np.ndarray:
    """The `count` multiples of multiple_px with the smallest sum of padded widths, by dynamic
    programming.
    """
    lines = np.bincount(-(-widths // multiple_px))
    edges, lines = np.flatnonzero(lines) * multiple_px, lines[lines > 0]
    total = np.concatenate([[0], np.cumsum(lines)])
    cost, before = (
        (edges * total[1:]).astype(np.float64),
        [],
    )  # cost[j]: the lines up to edges[j] in one bucket
    for _ in range(min(count, len(edges)) - 1):
        # options[i, j]: the best for the lines up to edges[i], and one more bucket edges[j] for
        # those above
        options = cost[:, None] + edges[None, :] * (total[None, 1:] - total[1:, None])
        options[np.tril_indices(len(edges))] = np.inf
        before.append(np.argmin(options, axis=0))
        cost = np.min(options, axis=0)
    chosen = [len(edges) - 1]
    for best in reversed(before):
        chosen.append(int(best[chosen[-1]]))
    return edges[chosen[::-1]]


def shares(weights: Sequence[float], size: int) -> np.ndarray:
    """i64[S] that sum to `size`, in proportion to the weights, each at least 1 (largest remainders
    round up).
    """
    exact = np.asarray(weights, np.float64) / np.sum(weights) * size
    if size < len(exact):
        raise ValueError(
            f"{size} draws an epoch cannot give {len(exact)} record sets one each: use fewer sets"
        )
    counts = np.maximum(1, np.floor(exact).astype(np.int64))
    while (left := size - int(counts.sum())) > 0:
        counts[np.argmax(exact - counts)] += 1
    for _ in range(-left):  # those that were raised to 1 take it from the largest
        counts[np.argmax(np.where(counts > 1, counts - exact, -np.inf))] -= 1
    return counts


def batches(order: np.ndarray, bucket: np.ndarray, count: int, batch_size: int, fill: bool):
    """Cuts one epoch into ceil(n / batch_size) batches of one width each -> (rows i64[S, B], bucket
    i64[S]).

    order: i64[n], the records in the order of drawing; bucket: i64[n], the bucket of each of them,
    of `count`. What is left of a bucket moves to the next wider one, where it fits. The very last
    batch is filled up with the first records of the epoch (fill) or with -1.
    """
    rows, of, left = [], [], order[:0]
    for number in range(count):
        line_up = np.concatenate([left, order[bucket == number]])
        whole = len(line_up) // batch_size * batch_size
        rows.append(line_up[:whole].reshape(-1, batch_size))
        of.append(np.full(len(rows[-1]), number))
        left = line_up[whole:]
    if len(left):
        missing = batch_size - len(left)
        more = np.resize(order, missing) if fill else np.full(missing, -1)
        rows.append(np.concatenate([left, more])[None])
        of.append(np.array([count - 1]))
    return np.concatenate(rows), np.concatenate(of)
