"""Pages composed from pictures of lines, with the place of each line known.

What localisation and reading of pages are measured and tested on. One seeded generator decides
everything: the same seed gives the same page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from dig_jax.data.typeset import patches

Rng = np.random.Generator
KINDS = ("plain", "noise", "columns", "ruled", "stains", "shadow", "all")
HARD = ("ruled", "stains", "shadow", "all")


class Composed(NamedTuple):
    """image: u8[h, w]. polygons: f64[n, 4, 2] in px, around the ink of each line, in reading order.

    used: which of the given lines they are, i[n].
    """

    image: np.ndarray
    polygons: np.ndarray
    used: list[int]


def compose(
    rng: Rng,
    lines: Sequence[np.ndarray],
    *,
    kind: str = "plain",
    columns: int = 1,
    skew_degrees: float = 0.0,
    gap: tuple[float, float] = (0.1, 0.4),
) -> Composed:
    """lines: u8[h, w] each, in the order in which they are read. kind: one of KINDS.

    gap: paper between two lines, in heights of a line. Lines are laid column by column, levels
    matched so that their paper is white; the page is then aged by `kind` and turned.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: choose one of {', '.join(KINDS)}")
    tall = float(np.median([line.shape[0] for line in lines]))
    wide = max(line.shape[1] for line in lines)
    margin, gutter = round(2.5 * tall), round(rng.uniform(0.9, 1.6) * tall)
    each = -(-len(lines) // columns)
    placed, bottom = [], 0
    for column in range(columns):
        y = margin
        for number in range(column * each, min((column + 1) * each, len(lines))):
            placed.append((number, margin + column * (wide + gutter), y))
            y += lines[number].shape[0] + round(tall * rng.uniform(*gap))
        bottom = max(bottom, y)
    page = np.full((bottom + margin, 2 * margin + columns * wide + (columns - 1) * gutter), 255.0)
    quads = []
    for number, x, y in placed:
        line = white_ground(lines[number])
        h, w = line.shape
        page[y : y + h, x : x + w] = np.minimum(page[y : y + h, x : x + w], line)
        quads.append(ink_quad(line) + (x, y))
    page = aged(rng, page, kind, tall)
    image, quads = turned(page, np.array(quads), skew_degrees)
    return Composed(image, quads, [number for number, _, _ in placed])


def white_ground(line: np.ndarray) -> np.ndarray:
    """f64[h, w]: the paper of a line at 255, its ink at 0, whatever it was."""
    low, high = np.percentile(line, (1, 90))
    return np.clip((line - low) * (255 / max(high - low, 1.0)), 0, 255)


def ink_quad(line: np.ndarray) -> np.ndarray:
    """f64[4, 2]: corners of the box around the ink, clockwise from the upper left."""
    y, x = np.nonzero(line < 128)
    left, right = (x.min(), x.max() + 1) if len(x) else (0, line.shape[1])
    top, bottom = (y.min(), y.max() + 1) if len(y) else (0, line.shape[0])
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def aged(rng: Rng, page: np.ndarray, kind: str, tall: float) -> np.ndarray:
    """f64[h, w] in 0..255: paper and scanner of a kind. tall: height of a line in px."""
    h, w = page.shape
    paper = np.full_like(page, 0.94)
    if kind in ("ruled", "all"):
        pitch, width = tall * rng.uniform(1.15, 1.4), max(2, round(tall / 24))
        for y in np.arange(tall, h - tall / 2, pitch):
            paper[round(y) : round(y) + width] *= rng.uniform(0.5, 0.75)
        x = round(1.5 * tall)
        paper[:, x : x + width] *= 0.6
    if kind in ("stains", "all"):
        stains = np.clip((patches(rng, page.shape, 5 * tall) - 0.62) * 4, 0, 1)
        paper *= 1 - 0.45 * stains
        for _ in range(3):
            centre = (int(rng.uniform(0, w)), int(rng.uniform(0, h)))
            ring = np.zeros_like(page)
            cv2.circle(ring, centre, round(rng.uniform(2, 5) * tall), 0.35, round(tall / 3))
            paper *= 1 - cv2.GaussianBlur(ring, (0, 0), tall / 12)
    if kind in ("shadow", "all"):
        across = np.linspace(-1, 1, w)[None, :] * rng.choice([-1.0, 1.0])
        down = np.linspace(-1, 1, h)[:, None] * rng.uniform(-0.5, 0.5)
        paper *= 1 - 0.6 / (1 + np.exp(-6 * (across + down)))  # the fold of a book
    page = page * paper
    if kind != "plain":
        page = cv2.GaussianBlur(page, (0, 0), 0.6) + rng.normal(0, 8, page.shape)
        specks = rng.random(page.shape) < 2e-4
        page[cv2.dilate(specks.astype(np.uint8), np.ones((2, 2), np.uint8)) > 0] = 40
    return page


def turned(page: np.ndarray, quads: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """(u8[h', w'], quads) turned clockwise by `degrees` about the middle; nothing is cut off."""
    h, w = page.shape
    sine, cosine = abs(np.sin(np.radians(degrees))), abs(np.cos(np.radians(degrees)))
    size = int(np.ceil(w * cosine + h * sine)), int(np.ceil(h * cosine + w * sine))
    matrix = cv2.getRotationMatrix2D((w / 2, h / 2), -degrees, 1.0)
    matrix[:, 2] += (size[0] - w) / 2, (size[1] - h) / 2
    if degrees:
        page = cv2.warpAffine(
            page, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        quads = quads @ matrix[:, :2].T + matrix[:, 2]
    return np.clip(page + 0.5, 0, 255).astype(np.uint8), quads
