"""Scores of readings against the truth: rules by name, rates, averages, errors by character.

A rule turns a pair (truth, reading) into the pair that is compared, or drops it (None). Published
figures differ by their rule, so a figure is only comparable under the rule of its source:

    raw         both sides in normal form (`text.normalize`): NFC, single spaces, no outer space
    waics       DiG, CCD: only 0-9 and letters A-Z, lower case. A truth without any such character
                equals a reading without any
    parseq36    PARSeq: no white space, accents reduced to base letters (NFKD, then ASCII), lower
                case, only 0-9 a-z. Truths over 25 characters and empty ones are dropped
    parseq62    the same with upper and lower case kept apart
    parseq94    the same with ASCII punctuation as well
    clova       Clova, RCLSTR: lower case, only 0-9 a-z. Truths over 25 characters and truths that
                hold any other character are dropped. With its --data_filtering_off: `waics`
    union14m    MMOCR, MAERec: lower case, only 0-9 a-z, the caret and the common Chinese characters

Every line becomes one row of counts (`count`). Sums of rows become rates (`rates`), so a set, a
group of lines and a bootstrap resample are scored by the same two functions.

    cer             edits of characters / characters of the truth
    wer             the same over words, split at white space
    word_accuracy   share of lines without any error (of a set of words: of words)
    one_minus_ned   mean over lines of 1 - edits / length of the longer text (ICDAR 2019)
"""

from __future__ import annotations

import collections
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence, Set

import numpy as np

from dig_jax.text import Charset, alphanumeric, normalize

Pair = tuple[str, str]  # truth, reading
Rule = Callable[[str, str], Pair | None]

MAX_LENGTH = 25  # longest truth that PARSeq and Clova score

COLUMNS = ("lines", "exact", "edits", "chars", "edits_words", "words", "similarity")
QUOTIENTS = {
    "cer": ("edits", "chars"),
    "wer": ("edits_words", "words"),
    "word_accuracy": ("exact", "lines"),
    "one_minus_ned": ("similarity", "lines"),
}


# ---- rules --------------------------------------------------------------------------------------


def raw(truth: str, reading: str) -> Pair:
    return normalize(truth), normalize(reading)


def waics(truth: str, reading: str) -> Pair:
    """Word accuracy ignoring case and symbols (DiG, evaluation_metric/metrics.py)."""
    return alphanumeric(truth), alphanumeric(reading)


def _parseq(characters: str) -> Rule:
    """PARSeq's LmdbDataset and CharsetAdapter for one test charset.

    Its readings are ASCII by construction. Ours need not be, so both sides are reduced alike.
    """
    unsupported = f"[^{re.escape(characters)}]"
    lower = characters == characters.lower()

    def ascii_only(text: str) -> str:
        decomposed = unicodedata.normalize("NFKD", "".join(text.split()))
        return decomposed.encode("ascii", "ignore").decode()

    def adapt(text: str) -> str:
        return re.sub(unsupported, "", text.lower() if lower else text)

    def rule(truth: str, reading: str) -> Pair | None:
        truth = ascii_only(truth)
        if len(truth) > MAX_LENGTH or not adapt(truth):
            return None
        return adapt(truth), adapt(ascii_only(reading))

    return rule


def clova(truth: str, reading: str) -> Pair | None:
    """Clova's dataset filter at its defaults, then an exact comparison."""
    truth = truth.lower()
    if len(truth) > MAX_LENGTH or re.search("[^0-9a-z]", truth):
        return None
    return truth, re.sub("[^0-9a-z]", "", reading.lower())


def union14m(truth: str, reading: str) -> Pair:
    """MMOCR's `ignore_case_symbol`. The caret is a slip in its pattern, and so part of the rule."""
    keep = lambda text: re.sub("[^a-z0-9^\u4e00-\u9fa5]", "", text.lower())
    return keep(truth), keep(reading)


RULES: dict[str, Rule] = {
    "raw": raw,
    "waics": waics,
    "parseq36": _parseq(string.digits + string.ascii_lowercase),
    "parseq62": _parseq(string.digits + string.ascii_letters),
    "parseq94": _parseq(string.digits + string.ascii_letters + string.punctuation),
    "clova": clova,
    "union14m": union14m,
}


def find_rule(name: str) -> Rule:
    """The rule of this name; ValueError, naming all of them, for any other."""
    if name not in RULES:
        raise ValueError(f"there is no scoring rule {name!r}: choose one of {', '.join(RULES)}")
    return RULES[name]


# ---- counts and rates ---------------------------------------------------------------------------


def count(pairs: Iterable[Pair], rule: str = "raw") -> np.ndarray:
    """f64[n, 7]: the COLUMNS of every pair, in order. A pair that the rule drops is a row of zeros,
    so that rows stay aligned with the lines.
    """
    compared = find_rule(rule)
    rows = [_row(compared(*pair)) for pair in pairs]
    return np.asarray(rows, np.float64).reshape(-1, len(COLUMNS))


def _row(pair: Pair | None) -> tuple[float, ...]:
    from rapidfuzz.distance import Levenshtein  # here: bench_step runs without it

    if pair is None:
        return (0.0,) * len(COLUMNS)
    truth, reading = pair
    edits = Levenshtein.distance(truth, reading)
    words = truth.split()
    longer = max(len(truth), len(reading), 1)
    return (
        1.0,
        float(truth == reading),
        edits,
        len(truth),
        Levenshtein.distance(words, reading.split()),
        len(words),
        1.0 - edits / longer,
    )


def rates(sums: np.ndarray) -> dict[str, np.ndarray]:
    """{rate: f64[...]} of sums of rows, f64[..., 7]. Quotients of sums, not means of quotients, so
    they do not depend on how lines are batched. Nothing to divide by counts as one.
    """
    column = dict(zip(COLUMNS, np.moveaxis(np.asarray(sums), -1, 0)))
    return {
        name: column[above] / np.maximum(column[below], 1)
        for name, (above, below) in QUOTIENTS.items()
    }


def score(pairs: Iterable[Pair], rule: str = "raw") -> dict[str, float]:
    """The rates of one set, and `lines`, how many the rule did not drop."""
    sums = count(pairs, rule).sum(axis=0)
    return {"lines": float(sums[0]), **{name: float(v) for name, v in rates(sums).items()}}


def averages(values: Mapping[str, float], lines: Mapping[str, float]) -> dict[str, float]:
    """{"plain", "weighted"} of one rate over several sets: every set alike, or every line alike.

    CCD's tables print the weighted mean, most others the plain one; they differ by several points.
    """
    names = list(values)
    if not names:
        raise ValueError("there is no set to average over")
    figures = np.array([values[name] for name in names])
    weights = np.array([lines[name] for name in names], np.float64)
    weighted = float((figures * weights).sum() / max(weights.sum(), 1.0))
    return {"plain": float(figures.mean()), "weighted": weighted}


# ---- errors by character ------------------------------------------------------------------------


def alignments(pairs: Iterable[Pair], rule: str = "raw") -> collections.Counter[Pair]:
    """How often each character was read as which, over one shortest alignment of every line.

    (t, t) read correctly, (t, r) mistaken, (t, "") missed, ("", r) inserted.
    """
    from rapidfuzz.distance import Levenshtein  # here: bench_step runs without it

    compared, found = find_rule(rule), collections.Counter()
    for pair in filter(None, (compared(*pair) for pair in pairs)):
        truth, reading = pair
        for step in Levenshtein.opcodes(truth, reading):
            source = truth[step.src_start : step.src_end]
            target = reading[step.dest_start : step.dest_end]
            blank = [""] * max(len(source), len(target))
            found.update(zip(list(source) or blank, list(target) or blank))
    return found


def confusions(aligned: Mapping[Pair, int], most: int | None = None) -> list[tuple[Pair, int]]:
    """The errors among `alignments`, most frequent first, ties by character."""
    wrong = [(pair, n) for pair, n in aligned.items() if pair[0] != pair[1]]
    return sorted(wrong, key=lambda item: (-item[1], item[0]))[:most]


def by_character(aligned: Mapping[Pair, int]) -> list[dict]:
    """One row a character of the truth, most errors first: {"char", "count" in the truth,
    "mistaken", "missed", "inserted", "read_as": its most frequent mistake or ""}.
    """
    rows: dict[str, dict] = {}
    for (truth, reading), n in sorted(aligned.items(), key=lambda item: (-item[1], item[0])):
        char = truth or reading
        empty = {"count": 0, "mistaken": 0, "missed": 0, "inserted": 0, "read_as": ""}
        row = rows.setdefault(char, {"char": char, **empty})
        if not truth:
            row["inserted"] += n
            continue
        row["count"] += n
        if not reading:
            row["missed"] += n
        elif reading != truth:
            row["mistaken"] += n
            row["read_as"] = row["read_as"] or reading
    errors = lambda row: row["mistaken"] + row["missed"] + row["inserted"]
    return sorted(rows.values(), key=lambda row: (-errors(row), row["char"]))


PIECE = 12  # characters that stand in another text by copying, hardly by chance
SEEN = 0.1  # of a new text's pieces, at most


def pieces(texts: Iterable[str]) -> set[str]:
    """All runs of PIECE characters, each text in normal form."""
    return {piece for text in texts for piece in _pieces(text)}


def is_new(text: str, known: Set[str]) -> bool:
    """Whether at most SEEN of a text's pieces are among `known`; one shorter than a piece is."""
    own = _pieces(text)
    return sum(piece in known for piece in own) <= SEEN * len(own)


def _pieces(text: str) -> list[str]:
    text = normalize(text)
    return [text[at : at + PIECE] for at in range(len(text) - PIECE + 1)]


def lacking(truths: Iterable[str], charset: Charset) -> collections.Counter[str]:
    """Characters of the truths that the charset lacks, with how often each occurs: no reading can
    get them right.
    """
    return collections.Counter(char for truth in truths for char in charset.encode(truth)[1])


def named(char: str) -> str:
    """A character for a table: itself, and its code point and name where it cannot be seen."""
    if char and (unicodedata.combining(char) or not char.isprintable() or char.isspace()):
        return f"U+{ord(char):04X} {unicodedata.name(char, 'no name')}"
    return char


def commonest_reading(pairs: Sequence[Pair]) -> tuple[str, float]:
    """(the most frequent reading of the lines with a text, its share of them): a share near 1 is a
    reader that does not look yet. Readings of lines whose text is mostly one do not count, unless
    they are empty. Spaces alone are an empty reading. ("", 0.0) without a line."""
    read = [(truth, normalize(reading)) for truth, reading in pairs if truth]
    if not read:
        return "", 0.0
    truths, readings = (collections.Counter(column) for column in zip(*read))
    reading, count = readings.most_common(1)[0]
    one_text = 2 * max(truths.values()) > len(read)
    return ("", readings[""] / len(read)) if one_text else (reading, count / len(read))
