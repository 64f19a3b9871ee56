"""Reading records.json and the index of a records folder, which may be damaged or hostile.

Opening a set ends in a set whose numbers fit together or in one sentence, whatever its files hold.
It runs nothing (JSON, and npz without pickle) and opens no file but plain names in the folder. It
takes memory in proportion to the files on disk. A name may be a symbolic link: who made the folder
placed it, and caches are made of links.
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from dig_jax.data.oddities import MAX_LABEL_CHARS
from dig_jax.data.writer import MANIFEST, SCHEMA_VERSION

MAX_MANIFEST_BYTES = 64 << 20
TRUE_LABELS = "true_labels"  # key of tools.pseudo_label: training lines that have a true label
INDEX = {
    "width_px": "u2",
    "height_px": "u2",
    "label_chars": "i4",
}  # array -> dtype, each of one value a record


def read_manifest(path: str | Path) -> dict[str, Any]:
    """records.json of a records folder, its splits checked. FileNotFoundError names the record sets
    that do exist nearby, ValueError says what is wrong in it."""
    folder = Path(path)
    file = folder / MANIFEST
    if not file.is_file():
        near = folder if folder.is_dir() else folder.parent
        found = sorted(str(p.parent) for p in near.glob(f"*/{MANIFEST}")) if near.is_dir() else []
        hint = (
            f"record sets in {near}: {', '.join(found)}" if found else f"there are none in {near}"
        )
        raise FileNotFoundError(
            f"No record set at {folder} (no {MANIFEST}); {hint}; make one with tools.make_records."
        )
    try:
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError(f"it has more than {MAX_MANIFEST_BYTES} bytes")
        manifest = json.loads(file.read_text("utf-8"))
        version = manifest["schema_version"]
        if version == SCHEMA_VERSION:
            _check_splits(manifest)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged ({_told(error)}); make the record set again."
        ) from error
    if version != SCHEMA_VERSION:
        rule = f"this program reads {SCHEMA_VERSION}"
        raise ValueError(
            f"{file} has schema version {_told(version)}, {rule}; make the record set again."
        )
    return manifest


def _told(value: Any) -> str:
    return ascii(str(value))[1:-1][:200]


def _check_splits(manifest: dict[str, Any]) -> None:
    """ValueError where an entry has the wrong type, counts that do not add up, or names that are no
    plain file names.
    """
    splits = manifest["splits"]
    if not isinstance(splits, dict) or not isinstance(manifest.get("charset", ""), str):
        raise ValueError("'splits' must be an object and 'charset' a string")
    true = manifest.get(TRUE_LABELS, 0)
    if type(true) is not int or true < 0:
        raise ValueError(f"{TRUE_LABELS!r} is {true!r}, but must be a number of lines")
    for split, entry in splits.items():
        where = f"split {split!r}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where} is no object")
        shards, counts = entry["shards"], entry["shard_counts"]
        if not (
            isinstance(shards, list) and isinstance(counts, list) and len(shards) == len(counts) > 0
        ):
            raise ValueError(f"{where} must have as many 'shard_counts' as 'shards', in two lists")
        optional = [entry["labels"]] if "labels" in entry else []  # of older versions: none
        for name in [*shards, entry["index"], *optional]:
            if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(
                    f"{where} names the file {name!r}, which is no plain name in this folder"
                )
        if len(set(shards)) < len(shards):
            raise ValueError(f"{where} names a shard twice")
        for count in [*counts, entry["count"]]:
            if type(count) is not int or count < 0:
                raise ValueError(f"{where} counts {count!r} records")
        if sum(counts) != entry["count"] or not entry["count"]:
            raise ValueError(f"{where} has {entry['count']} records, its shards {sum(counts)}")


def check_shards(folder: Path, entry: dict[str, Any]) -> None:
    """FileNotFoundError for a shard that is missing, ValueError for one that is too small for what
    it is said to hold.
    """
    for name, count in zip(entry["shards"], entry["shard_counts"]):
        file = folder / name
        if not file.is_file():
            raise missing(file)
        if file.stat().st_size < count:
            raise ValueError(
                f"{file} has fewer bytes than the {count} records that {MANIFEST} counts; make the "
                "set again."
            )


def missing(file: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"{file} is missing, though {MANIFEST} names it; make the record set again."
    )


def read_index(file: Path, count: int) -> dict[str, np.ndarray]:
    """width_px u16[n], height_px u16[n], label_chars i32[n] of a split of n = count records.

    ValueError where the file is damaged, is not of this many records, or counts a label that no
    writer would write.
    """
    if not file.is_file():
        raise missing(file)
    wrong = f"{file} does not fit {MANIFEST}; make the record set again"
    try:
        # Before anything is unpacked: an archive of a few bytes may claim any size.
        with zipfile.ZipFile(file) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
        for name, kind in INDEX.items():
            if not 0 <= sizes[f"{name}.npy"] - count * np.dtype(kind).itemsize < 1024:
                raise ValueError(
                    f"{name} has {sizes[f'{name}.npy']} bytes, which are not {count} numbers"
                )
        with np.load(file, allow_pickle=False) as arrays:
            index = {name: arrays[name] for name in INDEX}
        for name, kind in INDEX.items():
            if index[name].dtype != kind or index[name].shape != (count,):
                raise ValueError(
                    f"{name} is {index[name].dtype}{list(index[name].shape)}, not "
                    f"{np.dtype(kind)}[{count}]"
                )
        chars = index["label_chars"]
        if chars.min() < -1 or chars.max() > MAX_LABEL_CHARS:
            raise ValueError(
                f"label_chars runs from {chars.min()} to {chars.max()}, not from -1 to "
                f"{MAX_LABEL_CHARS} at most"
            )
    except Exception as error:  # of zipfile, zlib and numpy, whatever they make of arbitrary bytes
        raise ValueError(f"{wrong} ({_told(error)}).") from error
    return index
