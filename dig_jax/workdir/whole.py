"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable


def write(path: str | os.PathLike, text: str | Iterable[str]) -> None:
    """Writes a local text file in one rename, so that a process that is killed leaves the one
    before. text: or its lines. A link is followed. OSError where it cannot be written."""
    path = pathlib.Path(path).resolve()
    new = path.with_name(path.name + ".tmp")
    with new.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines([text] if isinstance(text, str) else text)
    os.replace(new, path)
