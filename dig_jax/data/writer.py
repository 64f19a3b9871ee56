"""Writing a records folder (layout: see dig_jax.data.records): tf.Example messages, image encoding,
shards, index, report."""

import functools
import glob
import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dig_jax.data import labels
from dig_jax.data.examples import Example, Report, shown
from dig_jax.data.sizes import BadRecord, header_size
from dig_jax.text import INVISIBLE, Charset, normalize

SCHEMA_VERSION = 1
MANIFEST = "records.json"
WRITER_OPTIONS = "group_size:1,uncompressed"
MAX_SIDE_PX = 65535  # the index holds u16
SHARD_BYTES = 256 << 20

MAX_LABEL_CHARS = 10_000  # a label array is as wide as the longest label, for every line of a batch
MAX_ASPECT = (
    500  # times wider than high: ten times a long line; a batch is as wide as its widest line
)
UPRIGHT = 2  # times higher than wide: a line that runs downwards
BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@functools.cache
def example_class() -> Any:
    """The tf.Example protobuf class; imported at first use, because TFDS takes 0.4 s to import."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example


def serialize(image: bytes, text: str | None, id: str) -> bytes:
    """tf.Example bytes of one record."""
    example = example_class()()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(image)
    feature["id"].bytes_list.value.append(
        id.encode("utf-8", "backslashreplace")
    )  # file names need not be Unicode
    if text is not None:
        feature["text"].bytes_list.value.append(text.encode("utf-8"))
    return example.SerializeToString(deterministic=True)


def encode_image(image: np.ndarray, codec: str = "jpeg", quality: int = 95) -> bytes:
    """u8[h,w], u8[h,w,1] or u8[h,w,3] (RGB) -> JPEG (full colour resolution: thin coloured strokes
    suffer otherwise) or PNG."""
    import cv2  # here: bench_step runs without it

    if image.ndim == 3 and image.shape[2] == 3:
        image = image[:, :, ::-1]
    if codec == "jpeg":
        sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling]
        extension = ".jpg"
    elif codec == "png":
        options, extension = [cv2.IMWRITE_PNG_COMPRESSION, 6], ".png"
    else:
        raise ValueError(f"codec is '{codec}', but must be 'jpeg' or 'png'.")
    done, data = cv2.imencode(extension, np.ascontiguousarray(image), options)
    if not done:
        raise ValueError(f"OpenCV could not encode an image of shape {image.shape} as {codec}.")
    return data.tobytes()


def label_fault(text: str) -> str:
    """Why a normalised label cannot be one ("" where it can)."""
    if not text:
        return "empty label (image kept, unlabelled)"
    if len(text) > MAX_LABEL_CHARS:
        return f"label longer than {MAX_LABEL_CHARS} characters (image kept, unlabelled)"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in set(text)):
        return "label with control characters (image kept, unlabelled)"
    return ""


class _Split:
    """The records of one split while they are written: one spool file, and the numbers for the
    index.
    """

    def __init__(self, folder: Path, name: str):
        from array_record.python.array_record_module import ArrayRecordWriter

        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(
                f"The split name '{shown(name)}' must be made of letters, digits, '_', '-' and '.' "
                "(not first)."
            )
        self.name, self.spool = name, folder / f"spool-{name}"
        self.writer = ArrayRecordWriter(str(self.spool), WRITER_OPTIONS)
        self.sizes: list[tuple[int, int]] = []
        self.texts: list[str | None] = []
        self.bytes, self.digest = 0, hashlib.sha256()

    def add(self, image: bytes, text: str | None, id: str, size: tuple[int, int]) -> None:
        value = serialize(image, text, id)
        self.writer.write(value)
        self.bytes += len(value)
        self.digest.update(value)
        self.sizes.append(size)
        self.texts.append(text)

    def finish(self, folder: Path, shards: int) -> dict[str, Any]:
        """Closes the spool, deals it out to shards of equal size, writes the index, and returns the
        manifest's entry."""
        self.writer.close()
        count = len(self.sizes)
        shards = min(count, shards or -(-self.bytes // SHARD_BYTES))
        names = [f"{self.name}-{i:05d}-of-{shards:05d}.array_record" for i in range(shards)]
        bounds = [count * i // shards for i in range(shards + 1)]
        if shards == 1:
            self.spool.rename(folder / names[0])
        else:
            _deal(self.spool, [folder / name for name in names], bounds)
            self.spool.unlink()
        sizes = np.array(self.sizes, np.uint16).reshape(-1, 2)
        chars = np.array([-1 if t is None else len(t) for t in self.texts], np.int32)
        index, labels_file = f"index-{self.name}.npz", f"labels-{self.name}.npz"
        np.savez_compressed(
            folder / index, width_px=sizes[:, 0], height_px=sizes[:, 1], label_chars=chars
        )
        (folder / labels_file).write_bytes(labels.pack(self.texts))
        return {
            "count": count,
            "digest": self.digest.hexdigest(),
            "labelled": int((chars >= 0).sum()),
            "shards": names,
            "shard_counts": [b - a for a, b in zip(bounds, bounds[1:])],
            "index": index,
            "labels": labels_file,
            "width_px": [int(f(sizes[:, 0])) for f in (np.min, np.median, np.max)],
            "height_px": [int(f(sizes[:, 1])) for f in (np.min, np.median, np.max)],
        }


def _deal(spool: Path, files: list[Path], bounds: list[int]) -> None:
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    reader = ArrayRecordReader(str(spool), options="readahead_buffer_size:0,max_parallelism:0")
    for file, start, end in zip(files, bounds, bounds[1:]):
        writer = ArrayRecordWriter(str(file), WRITER_OPTIONS)
        for first in range(start, end, 1024):
            for value in reader.read(list(range(first, min(first + 1024, end)))):
                writer.write(value)
        writer.close()
    reader.close()


def write(
    output: str | Path,
    examples: Iterable[Example],
    *,
    name: str | None = None,
    height_px: int | None = None,
    shards: int = 0,
    overwrite: bool = False,
    report: Report | None = None,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes a records folder and returns its manifest. The folder appears whole at the end, or not
    at all.

    examples: (split, encoded image bytes, text or None, source id); a split's records keep their
    order. Texts are stored normalised; an empty one counts as no label and is reported. Images are
    stored as they come, broken ones too (their size in the index is 0 x 0): sources check them,
    this function does not. shards: files a split, 0 = one for each 256 MiB. report: read after the
    last example. about: further keys of records.json. Raises FileExistsError where the folder
    exists (with overwrite only where it is no records folder), ValueError where there is no
    example.
    """
    if "://" in str(output):
        raise ValueError(
            f"--output is {output}, the address of an object store: name a folder of a file "
            "system, such as the bucket mounted"
        )
    output = Path(output).expanduser()
    report = report or Report()
    _check_output(output, overwrite)
    if shards < 0:
        raise ValueError(
            f"shards is {shards}, but must be 0 (as many as the size asks for) or more."
        )
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    left = sorted(output.absolute().parent.glob(f".{glob.escape(output.name)}.unfinished-*"))
    if left:
        report.notes.append(
            f"{len(left)} folders of conversions that were killed or still run, such as {left[0]}: "
            "delete those of which none runs any more"
        )
    folder = output.absolute().parent / f".{output.absolute().name}.unfinished-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        splits = _spool(folder, examples, report)
        if not splits:
            why = "; ".join(
                f"{count} x {reason}" for reason, count in report.reasons.most_common(5)
            )
            raise ValueError(
                f"No record could be made for {output}: {why or 'the source found no line'}."
            )
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": name or output.absolute().name,
            "count": sum(len(s.sizes) for s in splits),
            "splits": {s.name: s.finish(folder, shards) for s in splits},
            "charset": _charset(splits),
            "height_px": height_px,
            **{"source": "", "licence": "", **report.about, **(about or {})},
            "notes": report.notes,
            "skipped": report.skipped(),
        }
        (folder / MANIFEST).write_text(
            json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
        _move_into_place(folder, output, overwrite)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / MANIFEST).is_file():
        raise FileExistsError(
            f"{output} exists and is no records folder; it is left alone, choose another --output."
        )
    if not overwrite:
        raise FileExistsError(
            f"{output} holds a record set already; replace it with --overwrite, or choose another."
        )


def _spool(folder: Path, examples: Iterable[Example], report: Report) -> list[_Split]:
    splits: dict[str, _Split] = {}
    directed = invisible = 0
    upright: list[str] = []
    for split, image, text, id in examples:
        try:
            size = header_size(image)
        except BadRecord:
            size = 0, 0  # kept: reading names it, where it stands
        if max(size) > MAX_SIDE_PX:
            report.skip(id, f"wider or higher than {MAX_SIDE_PX} px")
            continue
        if size[0] > MAX_ASPECT * size[1] > 0:
            report.skip(id, f"more than {MAX_ASPECT} times as wide as high")
            continue
        if size[1] > UPRIGHT * size[0] > 0 and (text is None or len(text) > 2):
            upright.append(id)
        if text is not None:
            invisible += any(chr(code) in text for code in INVISIBLE)
            text = normalize(text)
            directed += not BIDI.isdisjoint(text)
            if fault := label_fault(text):
                report.skip(id, fault)
                text = None
        if split not in splits:
            splits[split] = _Split(folder, split)
        splits[split].add(image, text, id, size)
    if upright:
        report.notes.append(
            f"{len(upright)} images are more than {UPRIGHT} times as high as wide, such as "
            f"{shown(upright[0])}: turn lines that run downwards by 90 degrees first"
        )
    if invisible:
        report.notes.append(
            f"{invisible} labels held zero-width characters (such as U+200B), which are taken out"
        )
    if directed:
        report.notes.append(
            f"{directed} labels hold marks of writing direction (such as U+202E), which are kept "
            "as characters"
        )
    return list(splits.values())


def _charset(splits: list[_Split]) -> str:
    """Characters of the training labels, or of all labels where no split is called train; '' where
    nothing is labelled."""
    chosen = [s for s in splits if s.name == "train"] or splits
    chars = set().union(*(text or "" for s in chosen for text in s.texts))
    return Charset("".join(sorted(chars))).chars if chars else ""


def _move_into_place(folder: Path, output: Path, overwrite: bool) -> None:
    _check_output(output, overwrite)  # something may have appeared there meanwhile
    old = folder.with_name(folder.name + "-old")
    if (output / MANIFEST).is_file():
        output.rename(old)
    elif output.is_dir():
        output.rmdir()
    folder.rename(output)
    shutil.rmtree(old, ignore_errors=True)
