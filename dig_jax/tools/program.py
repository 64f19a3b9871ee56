"""What the programs share: the command line (dig_jax/train/command_line.py), paths, pictures.

if __name__ == "__main__":
    flags.DEFINE_...
    program.run(main)
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from dig_jax.train.command_line import config_text, parse, run, sentence  # noqa: F401
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


def write_picture(output: str, picture: np.ndarray) -> pathlib.Path:
    """Writes u8[H, W, 3] BGR to --output, whose folder is made; ValueError where that fails."""
    import cv2  # here, as most programs do without it

    file = path(output, "--output")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(file), picture)
    except cv2.error:  # a suffix that OpenCV does not know
        written = False
    if not written:
        raise ValueError(f"--output={output} cannot be written: give the name of a .png file")
    return file
