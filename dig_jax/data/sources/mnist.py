"""Source: MNIST and its relatives (EMNIST, Fashion, KMNIST) in their idx files, gzipped or not.

    train-images-idx3-ubyte.gz   train-labels-idx1-ubyte.gz    the split train
    t10k-images-idx3-ubyte.gz    t10k-labels-idx1-ubyte.gz     the split test
    emnist-letters-train-images-idx3-ubyte.gz, emnist-letters-mapping.txt

The text is the digit, or the character that a mapping.txt gives the class. EMNIST's pictures lie
on their side in its files; they are turned. White ink on black stays as it is.

Format: http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import math
import re
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from dig_jax.data.examples import Example, Report, Skipped, shown
from dig_jax.data.images import Item, Store, stored
from dig_jax.data.lists import Root, open_root, read_source, walk
from dig_jax.data.split_names import split_named

IMAGES = re.compile(r"(.*)images[.-]idx3-ubyte(\.gz)?$")
MAX_SIDE_PX = 4096
CHUNK = 256  # images read at once


def examples(
    *,
    report: Report,
    input: str | None = None,
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text or None, "train-/0000000") file after file. ValueError where
    there is no file of images."""
    root = open_root(input)
    report.about.update(read_source(root))
    files = walk(root, report)
    found = [(file, match[1]) for file in files if (match := IMAGES.fullmatch(file))]
    if not found:
        raise ValueError(f"--input={input} holds no images-idx3-ubyte file (gzipped or not).")
    mapping = next((_mapping(root, file) for file in files if file.endswith("mapping.txt")), {})

    def items() -> Iterator[Item | Skipped]:
        for file, prefix in found:
            yield from _read(root, file, prefix, files, mapping)

    yield from stored(items(), store or Store(), report, workers)


def _read(
    root: Root, file: str, prefix: str, files: Collection[str], mapping: dict[int, str]
) -> Iterator[Item | Skipped]:
    if reason := root.reason(file):
        yield Skipped(file, reason)
        return
    words = re.split(r"[-_/.]+", prefix.lower())
    split = next((s for word in words if (s := split_named(word, ""))), "")
    split = split or ("test" if "t10k" in words else "train")
    labels = re.compile(re.escape(prefix) + r"labels[.-]idx1-ubyte(\.gz)?")
    beside = next((name for name in files if labels.fullmatch(name)), None)
    texts: np.ndarray | None = None
    if beside and not root.reason(beside):
        with _open(root.path / beside) as opened:
            numbers, fault = _head(opened, 1)
            data = _some(opened, min(numbers[0], 1 << 26)) if not fault else b""
            texts = None if fault else np.frombuffer(data, np.uint8)
        if fault:
            yield Skipped(beside, f"{fault} (images kept, unlabelled)")
    turned = "emnist" in prefix.lower()
    with _open(root.path / file) as opened:
        (count, height, width), fault = _head(opened, 3)
        if not fault and not (0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX):
            fault = "idx file of images without a side"
        if fault:
            yield Skipped(file, fault)
            return
        read = 0
        while read < count:
            want = min(CHUNK, count - read) * height * width
            data = _some(opened, want)
            images = np.frombuffer(data[: len(data) // (height * width) * height * width], np.uint8)
            for image in images.reshape(-1, height, width):
                id = f"{prefix.rstrip('/')}/{read:07d}"
                text = None
                if texts is not None and read < len(texts):
                    number = int(texts[read])
                    text = mapping.get(number, str(number))
                elif texts is not None:
                    yield Skipped(id, "no label for this image (image kept, unlabelled)")
                yield split, np.ascontiguousarray(image.T if turned else image), text, id
                read += 1
            if len(data) < want:
                yield Skipped(file, "images that the damaged file lacks", max(count - read, 1))
                return
        if texts is not None and len(texts) > count:
            yield Skipped(beside, "label without an image", len(texts) - count)


def _open(path: Path) -> gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _some(opened: gzip.GzipFile, count: int) -> bytes:
    """Up to `count` bytes: what there is before the file ends or is damaged."""
    parts: list[bytes] = []
    try:
        while count > 0 and (part := opened.read(min(count, 1 << 16))):
            parts.append(part)
            count -= len(part)
    except (OSError, EOFError, ValueError, zlib.error):
        pass
    return b"".join(parts)


def _head(opened: gzip.GzipFile, axes: int) -> tuple[list[int], str]:
    """(the sizes of an idx file of bytes with this many axes, why it is none or "")."""
    data = _some(opened, 4 + 4 * axes)
    if len(data) < 4 + 4 * axes or data[:4] != bytes([0, 0, 8, axes]):
        return [0] * axes, "no idx file of bytes, or damaged"
    sizes = list(struct.unpack(f">{axes}I", data[4:]))
    if math.prod(sizes) > 1 << 40:
        return [0] * axes, "idx file that claims too much"
    return sizes, ""


def _mapping(root: Root, file: str) -> dict[int, str]:
    """{class: character} of EMNIST's mapping.txt: class and code points, upper case first."""
    if root.reason(file):
        return {}
    found = {}
    with (root.path / file).open("rb") as opened:
        text = opened.read(1 << 16).decode("utf-8", "replace")
    for line in text.splitlines():
        numbers = [int(word) for word in line.split() if word.isdecimal() and len(word) < 8]
        if len(numbers) > 1 and 0 < numbers[1] < 0x110000 and not 0xD800 <= numbers[1] < 0xE000:
            found[numbers[0]] = shown(chr(numbers[1]))
    return found
