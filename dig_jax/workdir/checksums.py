"""checksums.json in a folder lists the size and the CRC-32 of every other file in it.

It is written after everything else, in one rename. A folder without it says nothing about itself:
its writer was killed before, or is older. CRC-32 finds what disks and copies do to files, not what
people do on purpose.

A bucket keeps a CRC-32C of each object itself, so nothing is read there, neither to write nor to
compare them. A folder that was copied from or to a bucket is compared by sizes alone.
"""

from __future__ import annotations

import json
import os
import zlib

from dig_jax.workdir import bucket, whole

NAME = "checksums.json"
OLD_NAME = "seal.json"  # what programs before 0.2 called it


def write(folder: str) -> None:
    """Write the checksums of a folder as it is now."""
    if bucket.remote(folder):
        (bucket.path(folder) / NAME).write_text(json.dumps({"files": _files(folder)}))
        return
    whole.write(os.path.join(folder, NAME), json.dumps({"files": _files(folder)}))


def fault(folder: str, contents: bool = True) -> str | None:
    """The first difference from the checksums in a few words; None where there is none, or no file
    of them.

    contents: compare the CRC-32, too, which reads every byte (about 1 GB/s).
    """
    stated = next((name for name in (NAME, OLD_NAME) if _has(folder, name)), None)
    if stated is None:
        return None
    try:
        files = json.loads((bucket.path(folder) / stated).read_text(encoding="utf-8"))["files"]
        there = _Bucket(folder) if bucket.remote(folder) else _Disk(folder)
        for name, (size, crc) in sorted(files.items()):
            found = there.size(name)
            if found is None:
                return f"{name} is missing"
            if found != size:
                return f"{name} has {found} bytes instead of {size}"
            if contents and isinstance(crc, there.kind) and there.crc(name) != crc:
                return f"{name} has other contents than were written"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{stated} cannot be read"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    return None


def exist(folder: str) -> bool:
    """Whether a folder has checksums."""
    return _has(folder, NAME) or _has(folder, OLD_NAME)


def _has(folder: str, name: str) -> bool:
    return (bucket.path(folder) / name).is_file()


class _Disk:
    """Sizes and CRC-32 of the files of a folder."""

    kind = int

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def size(self, name: str) -> int | None:
        """Bytes; None where it is missing."""
        path = os.path.join(self.folder, name)
        return os.path.getsize(path) if os.path.isfile(path) else None

    def crc(self, name: str) -> int:
        return _crc(os.path.join(self.folder, name))


class _Bucket:
    """Sizes and CRC-32C of the objects of a folder, base64, as the bucket tells them."""

    kind = str

    def __init__(self, folder: str) -> None:
        self.files = bucket.inventory(folder)

    def size(self, name: str) -> int | None:
        return self.files[name][0] if name in self.files else None

    def crc(self, name: str) -> str | None:
        return self.files[name][1]


def _files(folder: str) -> dict[str, tuple[int, int | str | None]]:
    """{path in the folder: (bytes, CRC)} of all files but the checksums."""
    if bucket.remote(folder):
        files = bucket.inventory(folder)
        return {name: told for name, told in files.items() if name not in (NAME, OLD_NAME)}
    found: dict[str, tuple[int, int | str | None]] = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if name not in (NAME, NAME + ".tmp", OLD_NAME):
                found[os.path.relpath(path, folder)] = (os.path.getsize(path), _crc(path))
    return found


def _crc(path: str) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
