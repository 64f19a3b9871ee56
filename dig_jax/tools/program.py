"""What the programs share: the command line (dig_jax/train/command_line.py), paths, pictures.

if __name__ == "__main__":
    flags.DEFINE_...
    program.run(main)
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from dig_jax.train.command_line import config_text, naming, parse, run, sentence  # noqa: F401
from dig_jax.workdir import bucket


def path(text: str, what: str) -> pathlib.Path:
    """A path of this machine, `~` expanded. what: where it was given, such as "--output"."""
    if "://" in text:
        raise ValueError(
            f"{what} is {text}, the address of an object store: name a file or folder of a file "
            "system, such as the bucket mounted"
        )
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{what} is {text}, but there is no such user: write the path") from None


def folder(text: str, what: str) -> Any:
    """A work folder to read: as `path`, or gs://bucket/run."""
    return bucket.path(text) if bucket.remote(text) else path(text, what)


def named_folder(text: str, what: str) -> tuple[str, Any]:
    """ "NAME=FOLDER" or "FOLDER" -> (NAME or "", work folder). Where "=" stands more than once, the
    folder is the longest end that is there; without one, what stands behind the first "="."""
    if "://" in text:
        head, _, rest = text.partition("://")
        name, _, kind = head.rpartition("=")
        return name, folder(f"{kind}://{rest}", what)
    parts = text.split("=")
    splits = [("=".join(parts[:n]), "=".join(parts[n:])) for n in range(len(parts))]
    there = (one for one in splits if os.path.exists(os.path.expanduser(one[1])))
    name, end = next(there, splits[min(1, len(splits) - 1)])
    return name, path(end, what)


def write_picture(output: str, picture: np.ndarray) -> pathlib.Path:
    """Writes u8[H, W, 3] BGR to --output, whose folder is made. ValueError for a suffix that is of
    no picture; OSError."""
    import cv2  # here, as most programs do without it

    file = path(output, "--output")
    try:
        known, data = cv2.imencode(file.suffix, picture)
    except cv2.error:  # a suffix that OpenCV does not know
        known = False
    if not known:
        raise ValueError(f"--output={output} cannot be written: give the name of a .png file")
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file):
        file.write_bytes(data.tobytes())
    return file
