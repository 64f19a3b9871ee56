"""readings-SET.tsv: every evaluated line of a data set, with its truth, reading and confidence.

One line a record, tab-separated, UTF-8, under the header `path truth reading edits confidence`:

    path        the id that the source gave the record, which is its path in most sets
    truth       as labelled, in normal form; readings are written as they are
    edits       between the two under the rule `raw`; their sum over characters of the truth: CER
    confidence  mean over the characters of the reading, 0 to 1; empty where there is none

Records without a text are left out. Backslash, tab and line ends are written as \\\\, \\t, \\n,
\\r.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from dig_jax.workdir import bucket, whole

COLUMNS = ("path", "truth", "reading", "edits", "confidence")
PREFIX, ENDING = "readings-", ".tsv"
ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
PLAIN = {short: char for char, short in ESCAPES.items()}


class Reading(NamedTuple):
    """One line of a data set as a recogniser read it."""

    path: str
    truth: str
    reading: str
    edits: int
    confidence: float | None = None


def file_of(workdir, dataset: str) -> pathlib.Path:
    return bucket.path(workdir) / f"{PREFIX}{dataset}{ENDING}"


def datasets(workdir) -> list[str]:
    """Data sets whose readings lie in a work folder, in order of name."""
    names = (path.name for path in bucket.path(workdir).glob(f"{PREFIX}*{ENDING}"))
    return sorted(name.removeprefix(PREFIX).removesuffix(ENDING) for name in names)


def write(path, lines: Iterable[Reading]) -> None:
    """Writes the file; it appears whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [COLUMNS]
    for line in lines:
        sure = "" if line.confidence is None else f"{line.confidence:.4f}"
        rows.append((*map(escaped, (line.path, line.truth, line.reading)), str(line.edits), sure))
    whole.write(path, "".join("\t".join(row) + "\n" for row in rows))


def is_table(path) -> bool:
    """Whether a file begins with the header of `write`."""
    with bucket.path(path).open(encoding="utf-8") as file:
        return file.readline().rstrip("\r\n").split("\t") == list(COLUMNS)


def read(path) -> list[Reading]:
    """Inverse of `write`. ValueError, with one sentence, for what is no such file."""
    text = bucket.path(path).read_text(encoding="utf-8")
    rows = text.removesuffix("\n").split("\n")[1:]
    if not is_table(path):
        raise ValueError(
            f"{path} is no table of readings: its first line has to name the columns "
            f"{', '.join(COLUMNS)}, with tabs between them"
        )
    return [_parsed(path, number, row) for number, row in enumerate(rows, start=2)]


def _parsed(path, number: int, row: str) -> Reading:
    cells = row.rstrip("\r").split("\t")
    try:
        name, truth, reading, edits, sure = cells
        texts = map(plain, (name, truth, reading))
        return Reading(*texts, int(edits), float(sure) if sure else None)
    except ValueError:
        raise ValueError(
            f"{path} line {number} is no reading: it needs {len(COLUMNS)} cells with tabs between "
            f"them, {', '.join(COLUMNS)}; got {row[:80]!r}"
        ) from None


def escaped(text: str) -> str:
    return re.sub(r"[\\\t\n\r]", lambda match: ESCAPES[match.group()], text)


def plain(text: str) -> str:
    return re.sub(r"\\[\\tnr]", lambda match: PLAIN[match.group()], text)
