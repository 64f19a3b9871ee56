"""checksums.json in a folder lists the size and the CRC-32 of every other file in it.

It is written after everything else, in one rename. A folder without it says nothing about itself:
its writer was killed before, or is older. CRC-32 finds what disks and copies do to files, not what
people do on purpose.
"""

from __future__ import annotations

import json
import os
import zlib

NAME = "checksums.json"
OLD_NAME = "seal.json"  # what programs before 0.2 called it


def write(folder: str) -> None:
    """Write the checksums of a folder as it is now."""
    path = os.path.join(folder, NAME)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump({"files": _files(folder)}, file)
    os.replace(path + ".tmp", path)


def fault(folder: str, contents: bool = True) -> str | None:
    """The first difference from the checksums in a few words; None where there is none, or no file
    of them.

    contents: compare the CRC-32, too, which reads every byte (about 1 GB/s).
    """
    stated = next((name for name in (NAME, OLD_NAME) if _has(folder, name)), None)
    if stated is None:
        return None
    try:
        with open(os.path.join(folder, stated), encoding="utf-8") as file:
            files = json.load(file)["files"]
        for name, (size, crc) in sorted(files.items()):
            path = os.path.join(folder, name)
            if not os.path.isfile(path):
                return f"{name} is missing"
            if os.path.getsize(path) != size:
                return f"{name} has {os.path.getsize(path)} bytes instead of {size}"
            if contents and _crc(path) != crc:
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
    return os.path.isfile(os.path.join(folder, name))


def _files(folder: str) -> dict[str, tuple[int, int]]:
    """{path in the folder: (bytes, CRC-32)} of all files but the checksums."""
    found = {}
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
