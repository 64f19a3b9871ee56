"""Source: Street View House Numbers, full numbers or cropped digits.

    train/digitStruct.mat, train/1.png    full numbers (HDF5; needs the extra hdf5); test, extra
    train_32x32.mat, test_32x32.mat       cropped digits

Both are read where both are there; --level=word or --level=digit takes one. A full number is cut
out by the box around the boxes of its digits. The label 10 is the digit 0.

Y. Netzer et al., Reading digits in natural images with unsupervised feature learning, 2011. The
.mat files are read in a process apart, because a damaged one can crash its reader.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from dig_jax.data.apart import Died, read_apart
from dig_jax.data.boxes import Box, Picture, cut_boxes
from dig_jax.data.examples import Example, Report, Skipped, shown
from dig_jax.data.extras import need
from dig_jax.data.images import Item, Store, stored
from dig_jax.data.lists import Root, open_root, read_source, walk
from dig_jax.data.split_names import split_named

CROPPED = re.compile(r"(?:.*/)?(\w+)_32x32\.mat")


def examples(
    *,
    report: Report,
    input: str | None = None,
    level: str = "auto",
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text, "train/1.png" or "train_32x32/0000000"). The split extra
    keeps its name. ValueError where there is no .mat file."""
    if level not in ("auto", "word", "digit"):
        raise ValueError(f"--level is '{level}', but must be auto, word or digit.")
    root = open_root(input)
    report.about.update(read_source(root))
    files = walk(root, report)
    full = [file for file in files if PurePosixPath(file).name == "digitStruct.mat"]
    digits = [file for file in files if CROPPED.fullmatch(file)]
    full, digits = full if level != "digit" else [], digits if level != "word" else []
    if not full and not digits:
        raise ValueError(f"--input={input} holds no digitStruct.mat and no *_32x32.mat of SVHN.")
    if full and digits:
        raise ValueError("both full numbers and digits are there: take one with --level=word|digit")
    store = store or Store()
    if full:
        need("h5py", "hdf5")
        pictures = [one for file in full for one in _numbers(root, file)]
        yield from cut_boxes(pictures, store, report, workers)
    else:
        yield from stored(_digits(root, digits), store, report, workers)


def _numbers(root: Root, file: str) -> Iterator[Picture | Skipped]:
    folder = PurePosixPath(file).parent
    split = _split(folder.name)
    read, count = 0, None
    try:
        items = read_apart("dig_jax.data.mat_read:digit_struct", str(root.path / file))
        count = next(items)
        for item in items:
            read += 1
            if isinstance(item, str):
                yield Skipped(f"{file} row {read}", "digitStruct.mat is damaged at an image")
                continue
            name, rows = item
            path = (folder / PurePosixPath(name).name).as_posix()
            reason = root.reason(path)
            if reason not in ("", "missing"):
                yield Skipped(path, reason)
                continue
            text = "".join(str(int(row[0]) % 10) for row in rows if 0 < row[0] < 11)
            if not rows or len(text) < len(rows):
                yield Skipped(path, "number with a digit that is none")
                continue
            left, top = (min(row[k] for row in rows) for k in (1, 2))
            right, bottom = (max(row[k] + row[k + 2] for row in rows) for k in (1, 2))
            sides = [min(max(side, -1e6), 1e6) for side in (left, top, right, bottom)]
            if any(side != side for side in sides):
                yield Skipped(path, "box without an area in the image")
                continue
            box = Box(path, text, *sides)
            yield Picture(split, None if reason else root.path / path, path, [box])
    except (Died, ValueError, StopIteration) as error:
        lost = max((count or 0) - read, 1)
        yield Skipped(file, f"damaged: the rest is not read{_told(error)}", lost)


def _digits(root: Root, files: list[str]) -> Iterator[Item | Skipped]:
    for file in files:
        name = CROPPED.fullmatch(file)[1]
        read, count = 0, None
        try:
            items = read_apart("dig_jax.data.mat_read:cropped", str(root.path / file))
            count = next(items)
            for image, label in items:
                id = f"{name}_32x32/{read:07d}"
                read += 1
                text = str(label % 10) if 0 <= label <= 10 else None
                if text is None:
                    yield Skipped(id, "label that is no digit (image kept, unlabelled)")
                yield _split(name), image, text, id
        except (Died, ValueError, StopIteration) as error:
            lost = max((count or 0) - read, 1)
            yield Skipped(file, f"damaged: the rest is not read{_told(error)}", lost)


def _split(name: str) -> str:
    return "extra" if name.lower() == "extra" else split_named(name)


def _told(error: Exception) -> str:
    """The type of a refusal; a crash of the reader has none."""
    return f" ({shown(str(error).split(':')[0], 40)})" if isinstance(error, ValueError) else ""
