"""What there is to know of the labels and sizes of a record set: counts, rare characters, labels
that look wrong. Reads the index and the labels, no image."""

import dataclasses
import unicodedata
from collections import Counter

import numpy as np

from dig_jax.data import labels
from dig_jax.data.record_set import RecordSet

RARE = 5  # a character that stands in fewer lines is hardly learnt
OFTEN = 20  # lines with one text, in a set of lines
NARROW = 0.12  # width of a line, in heights, for each character: less than the narrowest print has
WIDE = 3.0  # the same for a label that misses most of its line
LONG_ENOUGH = 4  # characters, for a judgement on the width


@dataclasses.dataclass(frozen=True)
class Stats:
    """Of one split. width_px, height_px, chars i64[n]: of its records, chars -1 = no label.
    counts: {character: how often it stands in a label}. lines: {character: in how many labels}.
    suspects: {why: i64 rows}. repeated: the labels that most lines share."""

    width_px: np.ndarray
    height_px: np.ndarray
    chars: np.ndarray
    counts: Counter[str]
    lines: Counter[str]
    suspects: dict[str, np.ndarray]
    repeated: list[tuple[str, int]]


def of(records: RecordSet) -> Stats:
    """Reads the index and the labels of a split."""
    index = {name: array.astype(np.int64) for name, array in records.index.items()}
    width, height, chars = index["width_px"], index["height_px"], index["label_chars"]
    rows = np.flatnonzero(chars > 0)
    texts = {row: records.text(row) for row in rows.tolist()}
    shared = Counter(texts.values())
    lines = Counter(char for text in texts.values() for char in set(text))
    return Stats(
        width, height, chars, characters(records), lines, suspects(texts, shared, index),
        [pair for pair in shared.most_common(12) if pair[1] > 1],
    )  # fmt: skip


def characters(records: RecordSet) -> Counter[str]:
    """How often each character stands in the labels."""
    codes, counts = np.unique(records.codes, return_counts=True)
    return Counter(dict(zip(labels.text_of(codes), counts.tolist())))


def suspects(
    texts: dict[int, str], shared: Counter[str], index: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """{why a label looks wrong: its rows}, of {row: label}. A rule of thumb each: what it finds is
    to be looked at, and nothing is left out for it."""
    width, height, chars = index["width_px"], index["height_px"], index["label_chars"]
    share = width / np.maximum(height, 1) / np.maximum(chars, 1)
    judged = (chars >= LONG_ENOUGH) & (height > 0)
    where = lambda test: np.array([row for row, text in texts.items() if test(text)], np.int64)
    digits = lambda text: all(unicodedata.category(c)[0] in "NPZ" for c in text)
    alike = lambda text: len(text) >= LONG_ENOUGH and len(set(text)) == 1
    wide = (chars > 0) & (height > 0) & (share > WIDE)
    found = {
        "no label": np.flatnonzero(chars < 0),
        "empty label": np.flatnonzero(chars == 0),
        "digits and marks only": where(digits),
        "one character again and again": where(alike),
        f"text of {OFTEN} lines or more": where(lambda t: shared[t] >= OFTEN and len(t) > 1),
        "label too long for the width": np.flatnonzero(judged & (share < NARROW)),
        "label too short for the width": np.flatnonzero(wide),
        "image whose size cannot be read": np.flatnonzero(height == 0),
    }
    return {why: rows for why, rows in found.items() if len(rows)}


def folders(ids: list[str], most: int = 20) -> list[tuple[str, int]]:
    """[(first part of the id, how many)], the most frequent ones; empty where ids have one part."""
    parts = Counter(id.split("/", 1)[0] for id in ids if "/" in id)
    return parts.most_common(most) if len(parts) > 1 else []


def named(char: str) -> str:
    """A character as it may stand in a page: what cannot be seen by its code."""
    if char == " ":
        return "space"
    seen = char.isprintable() and not unicodedata.combining(char)
    return char if seen else f"U+{ord(char):04X}"


def title(char: str) -> str:
    return f"U+{ord(char):04X} {unicodedata.name(char, 'without a name')}"
