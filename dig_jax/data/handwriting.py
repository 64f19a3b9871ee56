"""What the handwriting sets have in common: lists of splits, images by their names."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from dig_jax.data.disk_map import DiskMap
from dig_jax.data.examples import Report
from dig_jax.data.images import SUFFIXES
from dig_jax.data.lists import Root, read_lines
from dig_jax.data.split_names import split_named


def read_splits(root: Root, files: Iterable[str], report: Report) -> dict[str, str]:
    """{name in a list: split that the list's own name tells}; the first list of a name wins.

    A list holds one name a line: of a page, a line or a file. Suffixes of images are dropped.
    """
    splits: dict[str, str] = {}
    for file in files:
        split = split_of_list(file)
        for _, line in read_lines(root, file, report):
            name = line.decode("utf-8", "replace").strip()
            if name.lower().endswith((".png", ".jpg", ".tif", ".txt")):
                name = name[: name.rindex(".")]
            if splits.setdefault(name, split) != split:
                report.skip(f"{file}: {name}", "listed in two splits (the first is kept)")
    return splits


def split_of_list(file: str) -> str:
    """ "TrainLines.lst", "validationset1.txt" or "test.uttlist" -> the split."""
    name = PurePosixPath(file).name.split(".")[0].lower()
    name = name.removesuffix("lines").removesuffix("words").rstrip("0123456789_-")
    return split_named(name, "")


def lists_of_splits(files: Iterable[str], suffixes: tuple[str, ...]) -> list[str]:
    """The files whose name says which split they list."""
    return [file for file in files if file.endswith(suffixes) and split_of_list(file)]


def by_stem(root: Root, files: Iterable[str]) -> DiskMap:
    """{name without suffix: the first path} of all images among the files."""
    found = DiskMap()
    for path in files:
        pure = PurePosixPath(path)
        if pure.suffix.lower() in SUFFIXES and not root.reason(path):
            found.setdefault(pure.stem, path)
    return found
