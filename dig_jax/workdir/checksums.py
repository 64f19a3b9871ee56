"""Whole or broken: seal.json in a folder lists the size and the CRC-32 of every other file in it.

Written after everything else, in one rename. A folder without a seal says nothing about itself: its
writer was killed before, or is older than seals. CRC-32 finds what disks and copies do to files,
not what people do on purpose.
"""

from __future__ import annotations

import json
import os
import zlib

NAME = "seal.json"


def write(folder: str) -> None:
    """Seal a folder as it is now."""
    path = os.path.join(folder, NAME)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump({"files": _files(folder)}, file)
    os.replace(path + ".tmp", path)


def fault(folder: str, contents: bool = True) -> str | None:
    """The first difference from the seal in a few words; None where there is none, or no seal.

    contents: compare the CRC-32, too, which reads every byte (about 1 GB/s).
    """
    try:
        with open(os.path.join(folder, NAME), encoding="utf-8") as file:
            sealed = json.load(file)["files"]
        for name, (size, crc) in sorted(sealed.items()):
            path = os.path.join(folder, name)
            if not os.path.isfile(path):
                return f"{name} is missing"
            if os.path.getsize(path) != size:
                return f"{name} has {os.path.getsize(path)} bytes instead of {size}"
            if contents and _crc(path) != crc:
                return f"{name} has other contents than were written"
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{NAME} cannot be read"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    return None


def _files(folder: str) -> dict[str, tuple[int, int]]:
    """{path in the folder: (bytes, CRC-32)} of all files but the seal."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if name not in (NAME, NAME + ".tmp"):
                found[os.path.relpath(path, folder)] = (os.path.getsize(path), _crc(path))
    return found


def _crc(path: str) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
