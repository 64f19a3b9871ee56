"""Writing a records folder (layout: see dig_jax.data.records): tf.Example messages, image encoding,
shards, index, report."""

import contextlib
import functools
import glob
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dig_jax.data import labels
from dig_jax.data.examples import Example, Report
from dig_jax.data.oddities import Oddities
from dig_jax.data.spool import PROGRESS, Columns, Spool
from dig_jax.text import Charset

SCHEMA_VERSION = 1
MANIFEST = "records.json"
SHARD_BYTES = 256 << 20
FULL = "No space left on device|Disk quota exceeded|File too large"


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


class Arrange(Protocol):
    """What happens to the records of a source before they become a set: see divide.Division."""

    moved: float  # largest share of the records that changes the split: they need room twice

    def __call__(
        self, columns: Columns, values: Callable[[np.ndarray], Iterator[bytes]], report: Report
    ) -> Columns:
        """The columns with other `split` and `names`; what is left out is reported."""
        ...


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
    asked: dict[str, Any] | None = None,
    arrange: Arrange | None = None,
    fill: Callable[[Spool, Iterable[Example], Report, float], Oddities] | None = None,
) -> dict[str, Any]:
    """Writes a records folder and returns its manifest. The folder appears whole at the end, or not
    at all.

        examples   (split, encoded image bytes, text or None, source id); a split's records keep
                   their order. Texts are stored normalised; an empty one counts as no label
                   and is reported.
        shards     files a split, 0 = one for each 256 MiB
        report     read after the last example
        about      further keys of records.json
        arrange    moves records between splits
        fill       in place of `take_in`
        asked      the options of the conversion, JSON

    Images are stored as they come, broken ones too (their size in the index is 0 x 0): sources
    check them, this function does not. With `asked`, a conversion that is killed or fails leaves
    what it has done in `.NAME.unfinished`, and the same one goes on from there.

    Raises FileExistsError where the folder exists (with overwrite only where it is no records
    folder). Raises ValueError where there is no example or an unfinished conversion had other
    options, and OSError where the disk is too small.
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
    with under_way(output, asked, report) as spool:
        if spool.progress["stage"] == "fill":
            # Needing room twice: what changes the split, and the shard under way (--shards=1: all).
            twice = (arrange.moved if arrange else 0.0) + (1 / shards if shards else 0.0)
            report.notes += (fill or take_in)(spool, examples, report, twice).notes()
            columns = spool.columns() if spool.counts else None
            if columns and arrange:
                columns = arrange(columns, spool.values, report)
            if not columns or columns.split.max() < 0:
                raise ValueError(f"No record could be made for {output}: {_why(report)}.")
            spool.arrange(columns)
            told = {
                "about": {"source": "", "licence": "", **report.about, **(about or {})},
                "notes": report.notes,
                "skipped": report.skipped(),
            }
            spool.save(stage="deal", told=told)
        told = spool.progress["told"]
        columns = spool.columns()
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": name or output.absolute().name,
            "count": int((columns.split >= 0).sum()),
            "splits": _splits(spool, columns, shards),
            "charset": _charset(columns),
            "height_px": height_px,
            **told["about"],
            "notes": told["notes"],
            "skipped": told["skipped"],
        }
        (spool.folder / MANIFEST).write_text(
            json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
        spool.clear()
        _move_into_place(spool.folder, output, overwrite)
    return manifest


@contextlib.contextmanager
def under_way(output: Path, asked: dict[str, Any] | None, report: Report) -> Iterator[Spool]:
    """The folder of a conversion, beside its output: that of a former one where it can be gone on
    with. It is deleted at the end unless it holds finished chunks and `asked` says of what."""
    parent = output.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    hidden = f".{output.absolute().name}.unfinished"
    left = sorted(parent.glob(f"{glob.escape(hidden)}-*"))
    if left:
        report.notes.append(
            f"{len(left)} folders of conversions that were killed or still run, such as {left[0]}: "
            "delete those of which none runs any more"
        )
    folder = parent / (hidden if asked else f"{hidden}-{os.getpid()}")
    if not asked:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    with _locked(folder):
        spool = Spool(folder, keep=bool(asked))
        stage = spool.progress.setdefault("stage", "fill")
        if asked:
            _check_asked(spool, asked)
            spool.progress["asked"] = asked
        report.before = spool.progress.get("report", {}) if stage == "fill" else {}
        try:
            yield spool
        except (OSError, RuntimeError) as error:  # RuntimeError: of ArrayRecord
            if not (full := re.search(FULL, str(error))):
                raise
            raise OSError(
                f"{output} cannot be written ({full[0].lower()}): free some room and "
                "repeat the command, or choose an --output on a larger disk"
            ) from error
        finally:
            done = asked and (spool.counts or any(folder.glob("part-0*")))
            if folder.is_dir() and not done:
                shutil.rmtree(folder, ignore_errors=True)


def _check_asked(spool: Spool, asked: dict[str, Any]) -> None:
    before = spool.progress.get("asked", asked)
    for key in sorted(before.keys() | asked.keys()):
        if before.get(key) != asked.get(key):
            raise ValueError(
                f"{spool.folder} holds {sum(spool.counts)} records of an unfinished conversion "
                f"with {key}={before.get(key)}, not {asked.get(key)}. Repeat its command to resume "
                "it, or delete that folder to start anew"
            )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps a second process out of a folder; ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        raise ValueError(f"another conversion is writing {folder}: wait for it or end it") from None
    except OSError:  # a file system without locks, such as a mounted bucket
        pass
    try:
        yield
    finally:
        os.close(number)


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


def take_in(
    spool: Spool, examples: Iterable[Example], report: Report, twice: float = 0.0
) -> Oddities:
    """Takes all examples in. A source that does its work in Report.work skips what a former
    conversion did. For any other source the first examples are read again and not written."""
    odd = Oddities()
    by_jobs = report.before.get("jobs") is not None
    passed = 0 if by_jobs else spool.progress.get("taken", 0)
    odd.update(spool.progress.get("odd", {}) if by_jobs else {})
    jobs, taken = None, 0
    try:
        for example in examples:
            whole = report.jobs is None or report.jobs != jobs  # no job is half done
            jobs = report.jobs
            if whole and taken >= passed and (spool.due() or taken == passed + 256):
                check_space(spool, report, taken, twice)
            if whole and taken >= passed and spool.due():
                spool.commit(report=report.state(), taken=taken, odd=odd)
            record = odd.checked(example, report)
            if record and taken >= passed:
                split, image, text, id, size = record
                spool.add(split, serialize(image, text, id), text, id, size)
            taken += 1
        spool.commit(report=report.state(), taken=taken, odd=odd)
    except BaseException:
        spool.abandon()
        raise
    return odd


def _why(report: Report) -> str:
    counts = (f"{count} x {reason}" for reason, count in report.reasons.most_common(5))
    return "; ".join(counts) or "the source found no line"


def check_space(spool: Spool, report: Report, taken: int, twice: float) -> None:
    """OSError where the disk has less room than the records still need, as far as those so far
    tell. twice: share of them that lies on the disk twice for a while."""
    done = report.jobs or taken
    if not done or not report.total:
        return
    whole = spool.written / done * max(report.total, done)
    need = whole - spool.written + min(twice * whole + min(whole, SHARD_BYTES), whole)
    free = shutil.disk_usage(spool.folder).free
    if need > free:
        raise OSError(
            f"{spool.folder.parent} has {free / 1e9:.1f} GB free and the records will take about "
            f"{need / 1e9:.1f} GB more: free some, or choose an --output on a larger disk"
        )


def _splits(spool: Spool, columns: Columns, shards: int) -> dict[str, Any]:
    """Deals the records out to shards, writes indices and labels, and returns the entries of the
    manifest."""
    wanted = {}
    for code, split in enumerate(columns.names):
        size = int(columns.bytes[columns.split == code].sum(dtype=np.int64))
        wanted[split] = shards or -(-size // SHARD_BYTES)
    entries = {}
    for split, dealt in spool.deal(columns, wanted).items():
        chosen = columns.split == columns.names.index(split)
        width, height = columns.width_px[chosen], columns.height_px[chosen]
        chars = columns.chars[chosen].astype(np.int32)
        index, labels_file = f"index-{split}.npz", f"labels-{split}.npz"
        np.savez_compressed(
            spool.folder / index, width_px=width, height_px=height, label_chars=chars
        )
        (spool.folder / labels_file).write_bytes(labels.pack([columns.texts_of(chosen)]))
        entries[split] = {
            "count": len(chars),
            "digest": dealt["digest"],
            "labelled": int((chars >= 0).sum()),
            "shards": dealt["shards"],
            "shard_counts": dealt["shard_counts"],
            "index": index,
            "labels": labels_file,
            "width_px": [int(f(width)) for f in (np.min, np.median, np.max)],
            "height_px": [int(f(height)) for f in (np.min, np.median, np.max)],
        }
    return entries


def _charset(columns: Columns) -> str:
    """Characters of the training labels, or of all labels where no split is called train; '' where
    nothing is labelled."""
    chosen = columns.split >= 0
    if "train" in columns.names:
        train = columns.split == columns.names.index("train")
        chosen = train if train.any() else chosen
    chars = set(columns.texts_of(chosen))
    return Charset("".join(sorted(chars))).chars if chars else ""


def _move_into_place(folder: Path, output: Path, overwrite: bool) -> None:
    _check_output(output, overwrite)  # something may have appeared there meanwhile
    old = folder.with_name(folder.name + "-old")
    if (output / MANIFEST).is_file():
        shutil.rmtree(old, ignore_errors=True)  # of a conversion that was killed right here
        output.rename(old)
    elif output.is_dir():
        output.rmdir()
    folder.rename(output)
    (output / PROGRESS).unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)
