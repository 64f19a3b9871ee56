"""Lines that stand in a set twice, the same bytes or nearly the same picture.

The hash of a picture has 255 bits: the signs of its lowest 16 x 16 cosine frequencies, after
reduction to 128 x 32, against their median (pHash, Zauner 2010, wider as lines are). A copy stored
anew at 70 to 100 % of the size and JPEG quality 50 to 90 differed in 4 to 6 of them (median). Two
different lines of one set differed in 72 at least; so 36 is the border.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from dig_jax.data.examples import Report
from dig_jax.data.parallel import ordered_map
from dig_jax.data.record_set import parse
from dig_jax.data.sizes import BadRecord
from dig_jax.data.spool import Columns

MOST_SIGNS = 36  # that two pictures of one line differ in
MOST_STRETCH = 0.1  # of the ratio of width to height
TURNS = 16  # sorted orders in which two near signatures have to be neighbours once
NEIGHBOURS = 4
BLANK = bytes(32)


def without_duplicates(
    columns: Columns,
    values: Callable[[np.ndarray], Iterator[bytes]],
    report: Report,
    workers: int | None = None,
) -> Columns:
    """The columns with split -1 for every line that stands in the set twice, each reported.

    Of equal lines within "train" the first stays, a labelled one before others. A line of train
    that stands in another split too goes from train, so that evaluations keep all of theirs. Two
    pictures with different labels are no duplicates; the same bytes with different labels are
    reported and kept.
    """
    count = len(columns.split)
    made = ordered_map(signature, values(np.arange(count)), workers)
    table = np.frombuffer(b"".join(made), np.dtype([("bytes", "S8"), ("signs", "u1", 32)]))
    same, near = pairs_of_equal(table["bytes"]), near_pairs(table["signs"], columns)
    texts = {row: columns.text(row) for row in np.unique(np.concatenate([same, near])).tolist()}
    ids = dict(zip(range(count), columns.each_id())) if texts else {}
    for group in connected(same.tolist()):
        first, *others = [row for row in group if texts[row]] or group
        for row in others:
            if texts[row] != texts[first]:
                report.skip(f"{ids[first]} = {ids[row]}", "same image under two labels (both kept)")
    agree = lambda pair: not (texts[pair[0]] and texts[pair[1]]) or texts[pair[0]] == texts[pair[1]]
    equal = [pair for pair in [*same.tolist(), *near.tolist()] if agree(pair)]
    split = columns.split.copy()
    name = lambda row: columns.names[columns.split[row]]
    for group in connected(equal):
        stays: dict[int, int] = {}  # {row that goes: the one that stays}
        # An unlabelled picture may join two labels, each of which stays.
        for text in dict.fromkeys(texts[row] for row in group if texts[row]) or [""]:
            rows = [row for row in group if texts[row] in ("", text)]
            best = max(rank(name(row)) for row in rows)
            keep = [row for row in rows if rank(name(row)) == best]
            keep = keep if best else [min(keep, key=lambda row: (columns.chars[row] < 0, row))]
            stays = dict.fromkeys(set(rows) - set(keep), keep[0]) | stays
        for row, kept in sorted(stays.items()):
            like = table["bytes"][row] == table["bytes"][kept]
            kind = "the same" if like else "nearly the same"
            report.skip(
                f"{ids[row]} = {ids[kept]}",
                f"{kind} image stands in {name(kept)} (left out of {name(row)})",
            )
            split[row] = -1
    return dataclasses.replace(columns, split=split)


def rank(split: str) -> int:
    """Which split keeps a line that two have: test before validation and others before train."""
    return {"train": 0, "test": 2}.get(split, 1)


def signature(value: bytes) -> bytes:
    """Message of a record -> 40 bytes: a hash of the image's bytes, and its signs (BLANK where
    nothing can be seen on it)."""
    try:
        image = parse(value).image
    except BadRecord:
        return bytes(8) + BLANK
    return hashlib.blake2b(image, digest_size=8).digest() + signs(image)


def signs(image: bytes) -> bytes:
    """255 signs of an encoded image, in 32 bytes."""
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
    if pixels is None or int(pixels.max()) - int(pixels.min()) < 8:
        return BLANK
    small = cv2.resize(pixels, (128, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:16, :16].ravel()
    low[0] = -np.inf  # the brightness
    return np.packbits(low > np.median(low[1:])).tobytes()


def pairs_of_equal(keys: np.ndarray) -> np.ndarray:
    """i64[m, 2], each row a pair (first of its kind, another) with equal keys."""
    order = np.argsort(keys, kind="stable")
    new = np.concatenate([[True], keys[order][1:] != keys[order][:-1]])
    first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    return np.stack([first, order], 1)[~new]


def near_pairs(signatures: np.ndarray, columns: Columns) -> np.ndarray:
    """i64[m, 2], pairs of rows of u8[n, 32] that differ in few signs and have one shape. Found by
    sorting in several orders, each with other signs first: no two rows are compared but
    neighbours."""
    rows = np.flatnonzero(signatures.any(1))
    signatures = signatures[rows]
    shape = np.log(np.maximum(columns.width_px, 1) / np.maximum(columns.height_px, 1))[rows]
    words = np.ascontiguousarray(signatures).view(np.uint64)
    found = [np.empty((0, 2), np.int64)]
    for turn in range(TURNS):
        keys = np.roll(signatures, turn * 32 // TURNS, axis=1)[:, :16].copy().view(">u8")
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        for step in range(1, NEIGHBOURS + 1):
            a, b = order[:-step], order[step:]
            near = np.bitwise_count(words[a] ^ words[b]).sum(1) <= MOST_SIGNS
            near &= np.abs(shape[a] - shape[b]) <= MOST_STRETCH
            found.append(np.sort(np.stack([a[near], b[near]], 1), axis=1))
    return rows[np.unique(np.concatenate(found), axis=0)]


def connected(pairs: list[list[int]]) -> list[list[int]]:
    """Groups of rows that these pairs join, each ascending."""
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = row = parent[parent[row]]
        return row

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    groups: dict[int, list[int]] = {}
    for row in sorted(parent):
        groups.setdefault(root(row), []).append(row)
    return list(groups.values())
