"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import pathlib


def write(path: str | os.PathLike, text: str) -> None:
    """Writes a local text file in one rename, so that a process that is killed leaves the one
    before. A link is followed. OSError where it cannot be written."""
    path = pathlib.Path(path).resolve()
    new = path.with_name(path.name + ".tmp")
    new.write_text(text, encoding="utf-8", newline="\n")
    os.replace(new, path)
