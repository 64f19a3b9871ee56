"""Read the text of line images: python -m dig_jax.tools.predict --model=RUN INPUT...

    python -m dig_jax.tools.predict --model=runs/reader lines/ --output=readings.tsv

INPUT: images, folders of images, records (RECORDS or RECORDS@split), or `-` for a list of paths on
stdin. --model: a run, an export or the name of bundled weights; one to onnx reads fastest on a CPU.
--output: a .tsv file, or .jsonl; without it, a table on the terminal. A file that is there is gone
on with: what it names is not read again. A bad image is named and stops nothing; the exit
code is 1 only where no image at all could be read.

--beam=8 --lm=4 --texts=FILE lets an n-gram of characters choose between readings that look alike;
--words=FILE turns unknown words into the only near one of a text; the characters are those read.
What an output holds already is not read again, whatever the search: name another file.

Columns: path, text, confidence (mean over the characters), characters (left,right,confidence of
each, in px of the image), error. In .jsonl the characters name themselves, too. Backslash, tab and
line ends are written as \\\\, \\t, \\n, \\r in tables.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from absl import flags
from tqdm import tqdm

from dig_jax.data.sizes import BadRecord
from dig_jax.tools import program, reader_flags
from dig_jax.train import command_line
from dig_jax.workdir.readings import escaped, plain

FLAGS = flags.FLAGS
COLUMNS = ("path", "text", "confidence", "characters", "error")
MANIFEST = "records.json"
NAMED = 10  # bad images on the terminal; the output names all


# ---- what is read


def inputs(names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(name, image) of everything that was named. FileNotFoundError for what is not there."""
    for name in names:
        if name == "-":
            lines = (line.rstrip("\r\n") for line in sys.stdin)
            yield from ((line, line) for line in lines if line)
            continue
        path, split = place(name)
        if (path / MANIFEST).is_file():
            for record_name, record in records_of(path, split):
                yield record_name, BadRecord(record.error) if record.error else record.image
        elif path.is_dir() and split is None:
            yield from images_below(path)
        elif path.is_file() and split is None:
            yield str(path), path
        else:
            raise FileNotFoundError(
                f"there is no {name}: name images, folders of images, records, or - for stdin"
            )


def images_below(folder: pathlib.Path) -> Iterator[tuple[str, Any]]:
    """Images of a folder and its folders, hidden ones left out, by name."""
    from dig_jax.data.images import SUFFIXES

    found = False
    for here, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for file in sorted(files):
            if not file.startswith(".") and pathlib.Path(file).suffix.lower() in SUFFIXES:
                found = True
                yield os.path.join(here, file), os.path.join(here, file)
    if not found:
        raise FileNotFoundError(f"{folder} holds no image: name another folder")


def place(name: str) -> tuple[pathlib.Path, str | None]:
    """(path, split or None) of what is named on the command line."""
    path = program.path(name, "INPUT")
    if path.exists() or "@" not in name:
        return path, None
    folder, _, split = name.rpartition("@")
    return program.path(folder, "INPUT"), split


def records_of(folder: pathlib.Path, split: str | None) -> Iterator[tuple[str, Any]]:
    """(name, record) of a records folder, labelled or not: of one split, or of all."""
    from dig_jax.data import records

    splits = [split] if split else sorted(records.read_manifest(folder)["splits"])
    for name in splits:
        mixture = records.open_sets(f"{folder}@{name}")
        for row, record in enumerate(mixture.stream()):
            yield record.id or mixture.where(row), record


# ---- what is written


def as_row(reading: Any) -> str:
    """A line of a table."""
    places = " ".join(f"{c.left:.1f},{c.right:.1f},{c.confidence:.3f}" for c in reading.characters)
    sure = "" if reading.error else f"{reading.confidence:.4f}"
    cells = (escaped(reading.name), escaped(reading.text), sure, places, escaped(reading.error))
    return "\t".join(cells)


def as_json(reading: Any) -> str:
    """A line of JSON."""
    row: dict[str, Any] = {"path": reading.name}
    if reading.error:
        return json.dumps(row | {"error": reading.error}, ensure_ascii=False)
    row |= {"text": reading.text, "confidence": round(reading.confidence, 4)}
    row["characters"] = [
        {
            "char": each.char,
            "confidence": round(each.confidence, 3),
            "left": round(each.left, 1),
            "right": round(each.right, 1),
        }
        for each in reading.characters
    ]
    return json.dumps(row, ensure_ascii=False)


def parsed(line: str, number: int, as_json: bool) -> tuple[str, str, float | None] | None:
    """(path, text, confidence or None for a bad image) of a line of a file, None of its header.
    ValueError where it is none."""
    if as_json:
        try:
            row = json.loads(line)
            text = "" if "error" in row else row["text"]
            return row["path"], text, row.get("confidence")
        except (KeyError, TypeError, AttributeError):
            raise ValueError from None
    cells = line.split("\t")
    if len(cells) != len(COLUMNS) or (number == 0) != (cells == list(COLUMNS)):
        raise ValueError
    path, text, sure, _, _ = cells
    return (plain(path), plain(text), float(sure) if sure else None) if number else None


def begun(line: str, number: int, as_json: bool) -> bool:
    """Whether an unfinished line of a file can be one of ours, cut off."""
    if not as_json:
        return number > 0 or "\t".join(COLUMNS).startswith(line)
    whole = re.match(r'\{"path": "(?:[^"\\]|\\.)*"', line)
    rest = line[whole.end() :] if whole else line
    starts = (', "text": "', ', "error": "') if whole else ('{"path": "',)
    return any(rest.startswith(start) or start.startswith(rest) for start in starts)


class Table:
    """The file of readings, or the terminal (path None).

    done, bad: how often it holds which name, and how often as a bad image. skipped: what `lacks`
    left out so far, (lines that were read, images that were not readable).
    """

    def __init__(self, path: pathlib.Path | None):
        self.path, self.skipped = path, (0, 0)
        self.done, self.bad = collections.Counter[str](), collections.Counter[str]()
        self.json = path is not None and path.suffix in (".jsonl", ".json")
        if path is None:
            self.file = sys.stdout
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = self._whole(path) if path.exists() else 0
            self.file = open(path, "r+" if whole else "w", encoding="utf-8", newline="\n")
            self.file.seek(whole)
            self.file.truncate()
        if not self.json and (path is None or not self.file.tell()):
            self.file.write("\t".join(COLUMNS) + "\n")

    def _whole(self, path: pathlib.Path) -> int:
        """Bytes of whole lines, whose names are noted; an unfinished line is read again."""
        size = 0
        with open(path, "rb") as file:
            for number, data in enumerate(file):
                line = data.decode("utf-8", "replace")
                self._note(path, number, line)
                size += len(data) * line.endswith("\n")
        return size

    def _note(self, path: pathlib.Path, number: int, line: str) -> None:
        try:
            if not line.endswith("\n"):
                if not begun(line, number, self.json):
                    raise ValueError
            elif row := parsed(line.rstrip("\n"), number, self.json):
                self.done[row[0]] += 1
                self.bad[row[0]] += row[2] is None
        except ValueError:
            raise ValueError(
                f"--output={path} exists and line {number + 1} is no reading: name another file"
            ) from None

    def lacks(self, images: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Those of (name, image) that it does not hold. Two sets may have records of one name."""
        left, bad = self.done.copy(), self.bad.copy()
        for name, image in images:
            if not left[name]:
                yield name, image
                continue
            left[name] -= 1
            was_bad, (lines, wrong) = bad[name] > 0, self.skipped
            bad[name] -= was_bad
            self.skipped = lines + (not was_bad), wrong + was_bad

    def write(self, reading: Any) -> None:
        self.file.write((as_json if self.json else as_row)(reading) + "\n")

    def close(self) -> None:
        self.file.flush()
        if self.path is not None:
            self.file.close()


# ---- the program


def read_all(
    reader: Any,
    names: Sequence[str],
    table: Table,
    batch_size: int,
    correct: Callable[[str], str] | None = None,
) -> tuple[int, int]:
    """Reads what the table lacks into it, and closes it. -> (lines read, images not readable).

    correct: text -> text, of each line, such as `Lexicon.correct`."""
    lines = bad = 0
    try:
        with tqdm(unit=" lines", disable=not sys.stderr.isatty()) as bar:
            for reading in reader.stream(table.lacks(inputs(names)), batch_size):
                text = correct(reading.text) if correct else reading.text
                table.write(reading._replace(text=text))
                bar.update()
                lines, bad = lines + (not reading.error), bad + bool(reading.error)
                if reading.error and bad <= NAMED:
                    more = " (further ones are named in the output only)" * (bad == NAMED)
                    tqdm.write(f"{reading.name}: {reading.error}{more}", file=sys.stderr)
    finally:
        table.close()
    return lines, bad


def summary(
    lines: int, bad: int, skipped: tuple[int, int], seconds: float, parts: dict[str, float]
) -> str:
    """Sentences for the terminal: how many lines, how fast, and where the time went. skipped: as
    in `Table`."""
    once = parts.get("load", 0.0) + parts.get("compile", 0.0)
    each = {name: parts.get(name, 0.0) for name in ("decode", "prepare", "network", "text")}
    each["other"] = max(0.0, seconds - once - sum(each.values()))
    shares = ", ".join(f"{name} {1000 * t / max(lines, 1):.2f} ms" for name, t in each.items())
    again = f"; {skipped[0]} were read before" if any(skipped) else ""
    again += f" and {skipped[1]} could not be" if skipped[1] else ""
    rate = lines / max(seconds - once, 1e-9)
    cpu = lines / max(parts.get("cpu", 0.0), 1e-9)
    return (
        f"{lines} lines read, {bad} could not be{again}\n"
        f"{seconds:.1f} s, of which loading {parts.get('load', 0.0):.1f} s and compiling "
        f"{parts.get('compile', 0.0):.1f} s; then {rate:.0f} lines/s, "
        f"{cpu:.0f} a second of CPU time: {shares} a line"
    )


def main(argv: list[str]) -> int:
    start = time.perf_counter()
    if len(argv) < 2:
        raise ValueError("name images, folders or records to read, or - for a list on stdin")
    correct = reader_flags.spelling()
    reader = reader_flags.reader()
    parts = reader.lines.seconds
    if any((pathlib.Path(name.partition("@")[0]) / MANIFEST).is_file() for name in argv[1:]):
        from dig_jax.data import records, writer  # noqa: F401  (loading, not reading)

        writer.example_class()
    parts["load"] = time.perf_counter() - start
    table, cpu = Table(pathlib.Path(FLAGS.output) if FLAGS.output else None), time.process_time()
    lines, bad = read_all(reader, argv[1:], table, FLAGS.batch_size, correct)
    parts["cpu"] = time.process_time() - cpu - parts["compile_cpu"]
    seconds = time.perf_counter() - start
    print(summary(lines, bad, table.skipped, seconds, parts), file=sys.stderr)
    read, wrong = lines + table.skipped[0], bad + table.skipped[1]
    return 1 if wrong and not read else 0


if __name__ == "__main__":
    reader_flags.define_reader_flags()
    reader_flags.define_spelling_flags()
    command_line.define_path("output", None, "File to write: .tsv or .jsonl. Default: terminal.")
    program.run(main)
