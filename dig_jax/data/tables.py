"""Labels of images in the layouts that people have: pairs of files, lists, tables, JSON lines.

Each reader adds what a file of a folder says to `Labels`, and reports what it cannot use. Nothing
in a file raises; what is no table at all is a ValueError.
"""

import csv
import io
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from dig_jax.data.disk_map import DiskMap
from dig_jax.data.examples import Report, shown
from dig_jax.data.images import SUFFIXES
from dig_jax.data.lists import MAX_LINE_BYTES, Root, read_lines
from dig_jax.data.split_names import split_named

MAX_TABLE_BYTES = 1 << 30
SEPARATORS = ",\t;|"
# Names of columns as people give them, in the order of preference.
IMAGE_COLUMNS = (
    "image", "image_path", "img_path", "path", "file_name", "filename", "file", "image_file",
    "image_name", "img", "img_name", "image_id", "id", "name",
)  # fmt: skip
TEXT_COLUMNS = (
    "text", "transcription", "transcript", "label", "ground_truth", "gt", "sentence", "words",
    "word", "identity", "target", "value", "content",
)  # fmt: skip
LEFT_OUT = "-"  # in the place of a split: another picture of a line that is read
SPLIT_COLUMNS = ("split", "subset", "partition", "set")
_suffixes = "|".join(sorted(suffix[1:] for suffix in SUFFIXES))
# "path TAB text", "path text" and "path, "text"" (ICDAR); a path ends with the suffix of an image.
LISTED = re.compile(rf"\ufeff?(.*?\.(?:{_suffixes}))(\t|, ?| +|$)(.*)", re.IGNORECASE | re.DOTALL)


class Columns(NamedTuple):
    """Which columns of a table hold what; split is None where no column does."""

    image: int
    text: int
    split: int | None


class Labels(NamedTuple):
    """{path: text, or None where a file names an image without one}, and {path: split, or LEFT_OUT}
    where a file tells it. They lie on the disk."""

    texts: DiskMap
    splits: DiskMap


def add(
    labels: Labels, root: Root, where: str, image: str, text: str | None, report: Report
) -> str | None:
    """Adds one label; its path in the folder, or None where it was reported instead."""
    path = root.find(image)
    if reason := root.reason(path):
        what = "label names a missing image" if reason == "missing" else reason
        report.skip(f"{where}: {shown(path)}", what)
        return None
    if labels.texts.get(path) is not None:
        report.skip(f"{where}: {path}", "second label for one image (the first is kept)")
        return None
    if text and "\ud800" <= max(text) and any("\ud800" <= c <= "\udfff" for c in text):
        # Bytes that are no UTF-8, or half a surrogate pair of JSON.
        report.skip(f"{where}: {path}", "label is not UTF-8 (image kept, unlabelled)")
        text = None
    labels.texts[path] = text
    return path


def read_pairs(
    root: Root, files: Collection[str], texts: Iterable[str], labels: Labels, report: Report
) -> None:
    """x.gt.txt beside x.png; of several images of one text (x.png, x.bin.png) the plain one.

    files: all paths relative to the folder, sorted; texts: those of them that end with .gt.txt.
    """
    of = DiskMap()
    for image in files:
        if os.path.splitext(image)[1].lower() not in SUFFIXES:
            continue
        folder, slash, stem = image.rpartition("/")
        while "." in stem:  # x.bin.png -> x.bin -> x
            stem = stem.rpartition(".")[0]
            text = f"{folder}{slash}{stem}.gt.txt"
            if text in files:
                if (first := of.setdefault(text, image)) is not image:
                    of[text], other = sorted((first, image), key=lambda p: (len(p), p))
                    labels.splits[other] = LEFT_OUT
                    report.skip(other, "another picture of a line (the plain one is kept)")
                break
    for text in texts:
        if (image := of.get(text)) is None:
            report.skip(text, "text without an image")
            continue
        before = report.reasons.total()
        rows = [line for _, line in read_lines(root, text, report)]
        if report.reasons.total() > before:
            continue  # it says why the text was not read; the image is kept, unlabelled
        if len(rows) > 1:
            report.skip(text, "text of more than one line (image kept, unlabelled)")
            continue
        try:
            value = rows[0].decode("utf-8") if rows else ""
        except UnicodeDecodeError:
            report.skip(text, "label is not UTF-8 (image kept, unlabelled)")
            continue
        add(labels, root, text, image, value, report)


def read_list(root: Root, file: str, labels: Labels, report: Report) -> None:
    """Lines "path TAB text", "path text" or 'path, "text"'. Paths are relative to the file."""
    for number, line in read_lines(root, file, report):
        where = f"{file} line {number}"
        # Undecodable bytes of the path are a file's name; of the text they are a finding.
        match = LISTED.fullmatch(os.fsdecode(line))
        if not match:
            report.skip(where, "line without the name of an image")
            continue
        path, separator, text = match.groups()
        if separator.startswith(",") and len(text) > 1 and text[0] == text[-1] == '"':
            text = text[1:-1].replace('\\"', '"').replace('""', '"')
        add(labels, root, where, beside(file, path), text, report)


def beside(file: str, path: str) -> str:
    """A path that a file names, relative to the folder that the file is relative to."""
    return str(PurePosixPath(file).parent / path)


def read_table(
    root: Root,
    file: str,
    labels: Labels,
    report: Report,
    image_column: str | None = None,
    text_column: str | None = None,
) -> None:
    """CSV or TSV with a header, as pandas and spreadsheets write them: quoted fields, a byte order
    mark, UTF-16, any of , TAB ; |. ValueError where no columns of images and texts are found."""
    text = _text(root, file)
    head = text.partition("\n")[0]
    separator, columns = next(
        (
            (sep, columns)
            for sep in SEPARATORS
            for header in csv.reader([head], delimiter=sep)
            if (columns := find_columns(header, image_column, text_column))
        ),
        (",", None),
    )
    if columns is None:
        raise ValueError(
            f"{file} has the header '{shown(head.strip(), 100)}', in which no columns of images "
            "and texts are known: name them with --image_column and --text_column; if it has no "
            "header, write one, or use labels.tsv."
        )
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    next(rows)
    width = max(i for i in columns if i is not None)
    for row in _rows(rows, file, report):
        where = f"{file} line {rows.line_num}"
        if len(row) <= width:
            if row:
                report.skip(where, "row with too few columns")
            continue
        split = row[columns.split] if columns.split is not None else ""
        path = add(labels, root, where, beside(file, row[columns.image]), row[columns.text], report)
        _add_split(labels, where, path, split, report)


def _add_split(labels: Labels, where: str, path: str | None, split: object, report: Report) -> None:
    """Notes the split of a row, where it names one."""
    if not path or not isinstance(split, str) or not split.strip():
        return
    name = split_named(split.strip(), split.strip())
    if re.fullmatch(r"\w[\w.-]{0,99}", name):
        labels.splits.setdefault(path, name)
    else:
        report.skip(f"{where}: {path}", "split that is no name: the usual one instead (image kept)")


def _text(root: Root, file: str) -> str:
    if reason := root.reason(file):
        raise ValueError(f"{file} cannot be read: {reason}.")
    with (root.path / file).open("rb") as opened:
        data = opened.read(MAX_TABLE_BYTES + 1)
    if len(data) > MAX_TABLE_BYTES:
        raise ValueError(f"{file} has more than {MAX_TABLE_BYTES} bytes: split it.")
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    kind, errors = ("utf-16", "replace") if wide else ("utf-8-sig", "surrogateescape")
    return data.decode(kind, errors)


def _rows(rows: Iterator[list[str]], file: str, report: Report) -> Iterator[list[str]]:
    """The rows; those that csv refuses are reported."""
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error:
            report.skip(f"{file} line {rows.line_num}", "row that is no CSV")


def find_columns(
    header: list[str], image: str | None = None, text: str | None = None
) -> Columns | None:
    """The columns of a header, by the names given or those that are usual."""
    names = [name.strip().lower() for name in header]
    place = lambda wanted: next((names.index(name) for name in wanted if name in names), None)
    images = place([image.lower()] if image else IMAGE_COLUMNS)
    texts = place([text.lower()] if text else TEXT_COLUMNS)
    if images is None or texts is None or images == texts:
        return None
    return Columns(images, texts, place(SPLIT_COLUMNS))


def read_json_lines(
    root: Root,
    file: str,
    labels: Labels,
    report: Report,
    image_column: str | None = None,
    text_column: str | None = None,
) -> None:
    """One JSON object a line with the keys of `find_columns`."""
    for number, line in read_lines(root, file, report):
        where = f"{file} line {number}"
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            report.skip(where, "line that is no JSON in UTF-8")
            continue
        columns = find_columns(list(row), image_column, text_column) if _is_row(row) else None
        if columns is None:
            report.skip(where, "line without an image and a text")
            continue
        values = list(row.values())
        image, text = values[columns.image], values[columns.text]
        if not isinstance(image, str) or not isinstance(text, str | int | None):
            report.skip(where, "line without an image and a text")
            continue
        text = None if text is None else str(text)
        path = add(labels, root, where, beside(file, _encodable(image)), text, report)
        split = values[columns.split] if columns.split is not None else None
        _add_split(labels, where, path, split, report)


def _is_row(row: object) -> bool:
    return isinstance(row, dict) and len(row) < 1000


def _encodable(text: str) -> str:
    """JSON may hold half a surrogate pair, which no file name can."""
    return text.encode("utf-8", "replace").decode("utf-8")


def is_list(root: Root, file: str) -> bool:
    """Whether most of the first lines of a text file name images."""
    with (root.path / file).open("rb") as opened:
        lines = [opened.readline(MAX_LINE_BYTES) for _ in range(20)]
    lines = [os.fsdecode(line.rstrip(b"\r\n")) for line in lines if line.strip()]
    return sum(bool(LISTED.fullmatch(line)) for line in lines) > len(lines) / 2
