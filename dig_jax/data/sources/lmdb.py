"""Source: LMDB databases in the layout of Clova's deep-text-recognition-benchmark, which MJSynth,
SynthText, Union14M, PARSeq and others come in.

    num-samples       how many
    image-000000001   an encoded image; numbers begin at 1
    label-000000001   its text in UTF-8; a set for pre-training has none
    id-000000001      the id of the record, as tools.export_records writes it; others have none

--input is the folder of one database, or a folder with several anywhere below, or a list with
commas. A folder named train, training, val, validation, test or evaluation gives its databases
that split; else all is "train". SOURCE.md beside a database or in --input gives its licence.
The databases are read in a process apart, because a damaged one can crash its reader.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from dig_jax.data.apart import Died, read_apart
from dig_jax.data.examples import Example, Report, Skipped, shown
from dig_jax.data.extras import need
from dig_jax.data.images import Item, Store, stored
from dig_jax.data.lists import Root, read_source
from dig_jax.data.split_names import split_of

OWN_FILES = ("data.mdb", "lock.mdb")  # of a database that is a folder
MAX_DEATHS = 20  # of the reader in one database, after which the rest of it is given up


def examples(
    *,
    report: Report,
    input: str | None = None,
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text or None, id) in the order of the paths, then the numbers.

    id: "folder/image-000000001", or the one stored. Raises FileNotFoundError where --input has no
    database, RuntimeError where the package lmdb is missing.
    """
    need("lmdb", "lmdb")
    places = find(input)
    about: dict[str, list[str]] = {}
    for root, path in places:
        known = read_source(Root(root)) if root.is_dir() else {}
        for key, value in {**known, **_own(path)}.items():
            about.setdefault(key, []).append(value)
    report.about.update({key: "; ".join(dict.fromkeys(values)) for key, values in about.items()})
    report.notes.append(f"{len(places)} LMDB, such as {shown(str(places[0][1]))}")
    report.total = 0
    several = len({root for root, _ in places}) > 1

    def found() -> Iterator[Item | Skipped]:
        for root, path in places:
            name = path.relative_to(root).as_posix()
            name = "" if name == "." else name
            parts = [root.name, *Path(name).parts]
            yield from read(path, "/".join(parts) if several else name, split_of(parts), report)

    yield from stored(found(), store or Store(), report, workers)


def find(input: str | None) -> list[tuple[Path, Path]]:
    """[(root, database)]: folders that hold data.mdb, or files named .mdb or .lmdb."""
    whole = Path(input or "")
    names = [input] if whole.exists() else [part for part in (input or "").split(",") if part]
    found = []
    for root in [Path(name).expanduser() for name in names if name]:
        inside = [(root.parent, root)] if root.is_file() else [(root, p) for p in _walk(root)]
        if not inside:
            raise FileNotFoundError(f"--input={root} holds no LMDB: there is no data.mdb in it.")
        found += inside
    if not found:
        raise FileNotFoundError(f"--input is '{input or ''}', but must be a folder with data.mdb.")
    return found


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders.sort()
        if "data.mdb" in files:
            yield Path(folder)
        others = [file for file in files if file.endswith((".lmdb", ".mdb"))]
        yield from (Path(folder, file) for file in sorted(others) if file not in OWN_FILES)


def _own(path: Path) -> dict[str, str]:
    """What SOURCE.md beside the database says; its path is not a source."""
    if not (path / "SOURCE.md").is_file():
        return {}
    return {key: value for key, value in read_source(Root(path)).items() if value != str(path)}


def read(path: Path, name: str, split: str, report: Report) -> Iterator[Item | Skipped]:
    """The records of one database, and what is left out of it. A record that ends the reader is
    named, and the next one is read by a new process."""
    prefix = f"{name}/" if name else ""
    place = name or path.name
    at, last, deaths = None, None, 0
    while True:
        try:
            items = read_apart("dig_jax.data.lmdb_read:entries", str(path), at)
            first, count, declared, size, keys = next(items)
            if last is None:
                at, last = first, first + count
                report.total = (report.total or 0) + count
                yield from _told(place, declared, size, keys, report)
            for number, image, label, id in items:
                at, key = number + 1, f"{prefix}image-{number:09d}"
                if image is None:
                    missing = "no image under this key"
                    yield Skipped(key, "image beyond num-samples" if number >= last else missing)
                    continue
                text, fault = _text(label)
                if fault:
                    yield Skipped(key, fault)
                yield split, image, text, _id(id) or key
            return
        except (ValueError, StopIteration) as error:
            left = max(last - at, 1) if last is not None else 1
            yield Skipped(place, f"LMDB cannot be read ({_kind(error)})", left)
            return
        except Died:
            deaths += 1
            if last is None:
                yield Skipped(place, "LMDB is damaged: it cannot be opened")
                return
            yield Skipped(f"{prefix}image-{at:09d}", "LMDB is damaged: this record ends its reader")
            at += 1
            if deaths >= MAX_DEATHS and at < last:
                yield Skipped(place, "LMDB is damaged: the rest of it is given up", last - at)
            if deaths >= MAX_DEATHS or at >= last:
                return


def _told(
    place: str, declared: int | None, size: int, keys: list[bytes], report: Report
) -> Iterator[Skipped]:
    """Notes on the counts of a database, and what they leave out."""
    if declared is None:
        report.notes.append(f"{shown(place)} has no num-samples: read to the first gap")
        if not any(key.startswith((b"image-", b"id-", b"label-")) for key in keys):
            some = shown(", ".join(key.decode("utf-8", "replace") for key in keys), 100)
            yield Skipped(place, "LMDB is not of Clova's layout (no key image-000000001)")
            report.notes.append(f"the keys of {shown(place)} look like: {some or 'none at all'}")
    elif declared > size:
        lost = min(declared - size, 10**12)
        yield Skipped(place, "counted by num-samples, but not in the database", lost)


def _text(label: bytes | None) -> tuple[str | None, str]:
    try:
        return (None if label is None else label.decode("utf-8")), ""
    except UnicodeDecodeError:
        return None, "label is not UTF-8 (image kept, unlabelled)"


def _id(id: bytes | None) -> str:
    return shown(id.decode("utf-8", "replace"), 1000) if id else ""


def _kind(error: Exception) -> str:
    """The message without the path, which the name tells: reasons are few."""
    return shown(str(error).split(":")[0].strip() or "it is empty", 60)
