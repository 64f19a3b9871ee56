"""What each stage made of a page, as pictures to look at."""

from __future__ import annotations

import pathlib

import cv2
import numpy as np

from dig_jax.pages.read import Found

COLOURS = ((60, 60, 220), (200, 110, 0), (0, 140, 60))  # BGR, one line after the other
MOST_PX = 1600  # of the longer side of a picture


def debug(found: Found, page: pathlib.Path) -> None:
    """Writes PAGE-1-polarity.png ... PAGE-8-lines.png: the page after each stage, and its lines."""
    page.parent.mkdir(parents=True, exist_ok=True)
    steps = {**found.cleaned.steps, "lines": lines(found)}
    for number, (stage, picture) in enumerate(steps.items(), 1):
        file = f"{page}-{number}-{stage}.png"
        if not cv2.imwrite(file, reduced(picture)):
            raise OSError(f"{file} could not be written: is the disk full, or the folder closed?")


def lines(found: Found) -> np.ndarray:
    """u8[h, w, 3] BGR: the clean page, each line framed and numbered in reading order."""
    picture = cv2.cvtColor(found.cleaned.image, cv2.COLOR_GRAY2BGR)
    thick = max(1, max(picture.shape) // 800)
    for number, line in enumerate(found.lines):
        colour = COLOURS[found.blocks[number] % len(COLOURS)]
        cv2.polylines(picture, [np.round(line.polygon).astype(np.int32)], True, colour, thick)
        left, top, _, bottom = line.box
        size = min(1.0, line.image.shape[0] / 50) * 1.2
        place = (max(0, int(left - 40 * size - 6)), int((top + bottom) / 2 + 10 * size))
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(picture, str(number + 1), place, font, size, colour, thick, cv2.LINE_AA)
    return picture


def reduced(picture: np.ndarray) -> np.ndarray:
    """No side longer than MOST_PX."""
    factor = MOST_PX / max(picture.shape[:2])
    if factor >= 1:
        return picture
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
