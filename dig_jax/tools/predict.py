"""Read the text of line images: python -m dig_jax.tools.predict --model=RUN INPUT...

    python -m dig_jax.tools.predict --model=runs/reader lines/ --output=readings.tsv

INPUT: images (of a file of several pages the first), folders of images, records (RECORDS or
RECORDS@split), or `-` for a list of paths on stdin. --model: a run, an export or the name of
bundled weights; one to onnx reads fastest on a CPU. --output: a .tsv file, or .jsonl; without it, a
table on the terminal. A file that is there is gone on with: what it has read is not read again, bad
images are. OUTPUT.reader.json says what read it; another model or search is refused. A bad image is
named and stops nothing; the exit code is 1 only where no image at all could be read.

--beam=8 --lm=4 --texts=FILE lets an n-gram of characters choose between readings that look alike;
--words=FILE turns unknown words into the only near one of a text; the characters are those read.

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
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from tqdm import tqdm

from dig_jax.data.sizes import BadRecord
from dig_jax.text import in_utf8
from dig_jax.tools import program, reader_flags
from dig_jax.train import command_line
from dig_jax.workdir import whole
from dig_jax.workdir.readings import escaped, plain

FLAGS = flags.FLAGS
COLUMNS = ("path", "text", "confidence", "characters", "error")
MANIFEST = "records.json"
NAMED = 10  # bad images on the terminal; the output names all
ENDINGS = (".tsv", ".jsonl")
READ_BY = ".reader.json"  # behind the name of an output: the file that says what read it


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
    """Images of a folder and its folders, hidden ones left out, by name. Pictures and pages of
    other kinds are counted on the terminal."""
    from dig_jax.data.images import SUFFIXES, left_out

    found, others = False, []
    for here, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for file in sorted(file for file in files if not file.startswith(".")):
            path = os.path.join(here, file)
            if pathlib.Path(file).suffix.lower() in SUFFIXES:
                found = True  # a pipe would be waited for
                special = os.path.exists(path) and not os.path.isfile(path)
                yield path, BadRecord("not a file") if special else path
            else:
                others.append(file)
    words = left_out(others)
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no image{f' ({words})' * bool(words)}: name another folder"
        )
    if words:
        tqdm.write(f"{folder}: {words}", file=sys.stderr)


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


def read_by(reader: Any) -> dict[str, Any]:
    """What decides the texts: the model, and the words that mend them. By content, not by path."""
    import numpy as np

    from dig_jax import trees

    def digest(parts: Iterable[Any]) -> str:
        value = 0
        for part in parts:
            value = zlib.crc32(part if isinstance(part, bytes) else part.tobytes(), value)
        return f"{value:08x}"

    model, search = reader.model, reader.search.options
    weights = (np.asarray(leaf) for leaf in trees.named_leaves(model.weights).values())
    if model.program is not None:
        from dig_jax.interop import onnx
        from dig_jax.interop.model import located

        weights = [(located(FLAGS.model) / onnx.FILE).read_bytes()]
    found = {"model": FLAGS.model, "weights": digest(weights), "beam": search["beam"]}
    if ngram := search["lm"]:
        found |= {"lm": ngram.order, "texts": digest(ngram.arrays().values())}
        found |= {"lm_weight": search["weight"], "lm_bonus": search["bonus"]}
    if FLAGS.words:
        words = program.path(FLAGS.words, "--words").read_bytes()
        found |= {"words": digest([words]), "edits": FLAGS.edits}
    return found


def check_read_by(path: pathlib.Path, now: Mapping[str, Any]) -> None:
    """ValueError where the file of readings was read by another model or search than `now`; a line
    on the terminal where it does not say."""
    beside = path.with_name(path.name + READ_BY)
    if not beside.exists():
        print(f"{path}: it is not known what read the lines that it holds", file=sys.stderr)
        return
    try:
        then = dict(json.loads(beside.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(
            f"{beside} does not say what read {path}: name another --output, or delete both files"
        ) from None
    keys = [key for key in then | now if key != "model" and then.get(key) != now.get(key)]
    if keys:
        said = ["model", "weights"] if "weights" in keys else keys
        was, new = (", ".join(f"{k} {d.get(k, 'none')}" for k in said) for d in (then, now))
        raise ValueError(
            f"--output={path} was read with {was}, and now it would be {new}: name another file, "
            "or read as before"
        )


class Table:
    """The file of readings, or the terminal (path None).

    done: how often it holds which name. Bad images, and other lines of their names, are taken out,
    to be read again. skipped: lines that `lacks` left out so far. read_by: as `read_by` says, kept
    beside the file. ValueError for a file of another reader, or that is none of ours.
    """

    def __init__(self, path: pathlib.Path | None, read_by: Mapping[str, Any] | None = None):
        self.path, self.skipped = path, 0
        self.done, self.bad = collections.Counter[str](), set[str]()
        self.json = path is not None and path.suffix == ".jsonl"
        if path is None:
            self.file = sys.stdout
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            size = self._opened(path, read_by) if path.exists() else 0
            if read_by is not None and not self.done:
                whole.write(path.with_name(path.name + READ_BY), json.dumps(read_by) + "\n")
            self.file = open(path, "r+" if size else "w", encoding="utf-8", newline="\n")
            self.file.seek(size)
            self.file.truncate()
        if not self.json and (path is None or not self.file.tell()):
            self.file.write("\t".join(COLUMNS) + "\n")

    def _opened(self, path: pathlib.Path, read_by: Mapping[str, Any] | None) -> int:
        """Bytes of whole lines, whose names are noted; an unfinished line is read again."""
        size = 0
        with open(path, "rb") as file:
            for number, data in enumerate(file):
                line = data.decode("utf-8", "replace")
                self._note(path, number, line)
                size += len(data) * line.endswith("\n")
        for name in self.bad:
            del self.done[name]
        if self.done and read_by is not None:
            check_read_by(path, read_by)
        if not self.bad:
            return size
        with open(path, "rb") as file:
            lines = enumerate(data.decode("utf-8", "replace") for data in file)
            whole.write(path, (line for number, line in lines if self._good(line, number)))
        return path.stat().st_size

    def _good(self, line: str, number: int) -> bool:
        """Whether a line of the file stays in it."""
        if not line.endswith("\n"):
            return False
        row = parsed(line.rstrip("\n"), number, self.json)
        return row is None or row[0] not in self.bad

    def _note(self, path: pathlib.Path, number: int, line: str) -> None:
        try:
            if not line.endswith("\n"):
                if not begun(line, number, self.json):
                    raise ValueError
            elif row := parsed(line.rstrip("\n"), number, self.json):
                self.done[row[0]] += 1
                if row[2] is None:
                    self.bad.add(row[0])
        except ValueError:
            raise ValueError(
                f"--output={path} exists and line {number + 1} is no reading: name another file"
            ) from None

    def lacks(self, images: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Those of (name, image) that it does not hold. Two sets may have records of one name."""
        left = self.done.copy()
        for name, image in images:
            name = in_utf8(name)
            if left[name]:
                left[name] -= 1
                self.skipped += 1
            else:
                yield name, image

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


def summary(lines: int, bad: int, skipped: int, seconds: float, parts: dict[str, float]) -> str:
    """Sentences for the terminal: how many lines, how fast, and where the time went. skipped: as
    in `Table`."""
    once = parts.get("load", 0.0) + parts.get("compile", 0.0)
    each = {name: parts.get(name, 0.0) for name in ("decode", "prepare", "network", "text")}
    each["other"] = max(0.0, seconds - once - sum(each.values()))
    shares = ", ".join(f"{name} {1000 * t / max(lines, 1):.2f} ms" for name, t in each.items())
    again = f"; {skipped} were read before" * bool(skipped)
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
    output = pathlib.Path(FLAGS.output) if FLAGS.output else None
    if output and output.suffix not in ENDINGS:
        raise ValueError(f"--output={output} is no {' or '.join(ENDINGS)} file: name one")
    correct = reader_flags.spelling()
    reader = reader_flags.reader()
    parts = reader.lines.seconds
    if any((pathlib.Path(name.partition("@")[0]) / MANIFEST).is_file() for name in argv[1:]):
        from dig_jax.data import records, writer  # noqa: F401  (loading, not reading)

        writer.example_class()
    parts["load"] = time.perf_counter() - start
    table, cpu = Table(output, read_by(reader) if output else None), time.process_time()
    lines, bad = read_all(reader, argv[1:], table, FLAGS.batch_size, correct)
    parts["cpu"] = time.process_time() - cpu - parts["compile_cpu"]
    seconds = time.perf_counter() - start
    print(summary(lines, bad, table.skipped, seconds, parts), file=sys.stderr)
    return 1 if bad and not lines + table.skipped else 0


if __name__ == "__main__":
    reader_flags.define_reader_flags()
    reader_flags.define_spelling_flags()
    command_line.define_path("output", None, "File to write: .tsv or .jsonl. Default: terminal.")
    program.run(main)
