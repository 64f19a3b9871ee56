"""Lines of text on a clean, level page: u8[h, w] grey -> Line, each with its own picture.

Letters are smeared along rows, far more than across them (after Li, Zheng, Doermann and Jaeger,
"Script-independent text line segmentation in freestyle handwritten documents", 2008). What stays
dark is the middle band of each line, also where ascenders and descenders of neighbours touch. Tall
strips of paper part columns. Each letter then joins the nearest band.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from dig_jax.pages.clean import (
    LEAST_CONTRAST,
    PAPER,
    components,
    contrast,
    ink_of,
    opened,
    text_px,
)

WORKING_PX = 14.0  # to which letters are reduced where bands are looked for
SMEAR = 2.0, 0.22  # standard deviations along and across a line, in letter heights
BAND = 0.5  # of the darkest row near it: where the band of a line ends
FAINT = 0.07  # share of ink below which a band ends
GUTTER = 1.2, 6.0  # width and height of paper between columns, in letter heights
NEAR = 4.0  # letter heights from a gutter to the line on its right, at most
REACH, MARK_REACH = 1.6, 0.9  # letter heights from a band to ink of its letters, of its dots
BENT = 0.35  # letter heights by which the middle of a line moves before it is straightened
MARGIN = 0.06  # letter heights of paper around a line


class Line(NamedTuple):
    """polygon: f64[n, 2], (x, y) in px of the clean page, clockwise from the upper left.

    image: u8[h, w], the line made straight, with nothing of its neighbours. left: x of its first
    column on the clean page. top: f64[w], y of its first row there, for each column.
    """

    polygon: np.ndarray
    image: np.ndarray
    left: int
    top: np.ndarray

    @property
    def box(self) -> tuple[float, float, float, float]:
        """left, top, right, bottom on the clean page."""
        return (*self.polygon.min(0).tolist(), *self.polygon.max(0).tolist())

    def quad(self, left: float, right: float) -> np.ndarray:
        """f64[4, 2]: corners of columns left to right of `image`, on the clean page."""
        edges = np.clip([left, right], 0, self.image.shape[1] - 1)
        upper = self.top[edges.astype(int)]
        x, height = self.left + np.array([left, right]), self.image.shape[0]
        corners = [(x[0], upper[0]), (x[1], upper[1]), (x[1], upper[1] + height)]
        return np.array([*corners, (x[0], upper[0] + height)])


def locate(image: np.ndarray) -> list[Line]:
    """All lines, from top to bottom. None where there is no contrast or no letter."""
    if min(image.shape) < 8 or contrast(image) < LEAST_CONTRAST:
        return []
    labels, stats = components(ink_of(image))
    size = text_px(stats)
    if size < 4:
        return []
    usual = likely_letters(stats, size)
    marks = punctuation(stats, size)
    bands = bands_of(labels, usual, marks, size)
    found = assign(labels, stats, usual, bands, size)
    # Headings are set so much larger that they need a look of their own.
    large = (stats[:, 3] > 2.5 * size) & (stats[:, 3] < 15 * size) & (stats[:, 2] < 60 * size)
    large &= (stats[:, 4] > 0.1 * stats[:, 2] * stats[:, 3]) & ~touches(labels, stats, bands)
    if large.sum() >= 2:
        big = text_px(stats[large])
        more = assign(labels, stats, large, bands_of(labels, large, marks, big), big)
        found = np.where((found == 0) & (more > 0), more + found.max(), found)
    y, x = np.nonzero(found)
    number = found[y, x]
    order = np.argsort(number, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
    lines = [line_of(image, found, y[part], x[part], size) for part in parts if len(part)]
    return sorted((line for line in lines if line), key=lambda line: line.box[1])


def likely_letters(stats: np.ndarray, size: float) -> np.ndarray:
    """bool[n]: components as large as letters, or as several that touch."""
    width, height, ink = stats[:, 2], stats[:, 3], stats[:, 4]
    fits = (height >= 0.4 * size) & (height <= 2.5 * size) & (width <= 14 * size)
    return fits & (ink >= 0.1 * width * height)


def punctuation(stats: np.ndarray, size: float) -> np.ndarray:
    """bool[n]: components as large as hyphens and full stops, and no remains of rules."""
    width, height, ink = stats[:, 2], stats[:, 3], stats[:, 4]
    fits = (height >= 0.12 * size) & (height <= 2.5 * size) & (width <= 2 * size)
    return fits & (ink >= 0.02 * size**2) & (ink >= 0.3 * width * height)


def bands_of(labels: np.ndarray, letters: np.ndarray, marks: np.ndarray, size: float) -> np.ndarray:
    """i32[h, w]: the middle band of each line, numbered from 1; 0 elsewhere.

    letters: bool[n], components that make bands. marks: those that keep columns together, too.
    """
    factor = min(1.0, WORKING_PX / size)
    shape = [max(1, round(side * factor)) for side in labels.shape[::-1]]
    small, all_ink = (
        cv2.resize(
            np.r_[False, chosen].astype(np.float32)[labels], shape, interpolation=cv2.INTER_AREA
        )
        for chosen in (letters, letters | marks)
    )
    size *= factor
    smeared = cv2.GaussianBlur(small, (0, 0), SMEAR[0] * size, sigmaY=SMEAR[1] * size)
    near = cv2.dilate(smeared, np.ones((round(1.4 * size) // 2 * 2 + 1, 1), np.uint8))
    band = (smeared > BAND * near) & (smeared > FAINT) & ~gutters(all_ink > 0.1, size)
    # Bands of one line that noise or a large letter nicks are joined along the row.
    band = cv2.morphologyEx(
        band.astype(np.uint8), cv2.MORPH_OPEN, np.ones((max(2, round(0.2 * size)), 1), np.uint8)
    )
    _, numbers, found, _ = cv2.connectedComponentsWithStats(band, connectivity=4)
    keep = found[:, 2] >= 0.5 * size
    keep[0] = False
    renumber = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return cv2.resize(renumber[numbers], labels.shape[::-1], interpolation=cv2.INTER_NEAREST)


def gutters(ink: np.ndarray, size: float) -> np.ndarray:
    """bool[h, w]: paper wider than between words, beside the left edge of many lines.

    To its left there is text, too, at any distance: lines of the column there may be short.
    """
    tall = np.ones((round(3 * size) // 2 * 2 + 1, 1), np.uint8)
    rows = cv2.dilate(ink.astype(np.uint8), tall)
    left = np.maximum.accumulate(rows, axis=1)
    near = round(NEAR * size)
    padded = np.pad(rows, ((0, 0), (0, near)))
    right = cv2.dilate(padded, np.ones((1, near), np.uint8), anchor=(0, 0))[:, : ink.shape[1]]
    width, height = (max(1, round(side * size)) for side in GUTTER)
    between = left & right & (1 - ink.astype(np.uint8))
    return opened(between, width, height) > 0


def touches(labels: np.ndarray, stats: np.ndarray, bands: np.ndarray) -> np.ndarray:
    """bool[n]: components that lie in two bands or more: letters of two lines that touch."""
    inside = (bands > 0) & (labels > 0)
    width = int(bands.max()) + 1
    cells = np.bincount(labels[inside] * width + bands[inside], minlength=(len(stats) + 1) * width)
    return (cells.reshape(-1, width)[1:] > 0).sum(axis=1) > 1


def assign(
    labels: np.ndarray, stats: np.ndarray, letters: np.ndarray, bands: np.ndarray, size: float
) -> np.ndarray:
    """i32[h, w]: the number of the line to which each pixel of ink belongs; 0: to none.

    A component belongs to the line that is nearest to most of it; one that reaches into two bands
    is cut between them. Dots and accents must be nearer than letters.
    """
    nearest, away = nearest_band(bands)
    across = touches(labels, stats, bands) & (stats[:, 3] <= 6 * size)
    letter = letters | across
    # Rules and stains belong to no line.
    mark = (stats[:, 3] < 2.5 * size) & (stats[:, 2] < 4 * size)
    mark &= stats[:, 4] >= 0.15 * stats[:, 2] * stats[:, 3]
    reach = np.select([letter, mark], [REACH * size, MARK_REACH * size], 0)
    y, x = np.nonzero((labels > 0) & (away < REACH * size))
    label, line = labels[y, x], nearest[y, x]
    near = away[y, x] < np.r_[0, reach][label]
    y, x, label, line = y[near], x[near], label[near], line[near]
    width = int(bands.max()) + 1
    votes = np.bincount(label * width + line, minlength=(len(stats) + 1) * width)
    of = votes.reshape(-1, width).argmax(1)
    of[1:][~beside(stats, of[1:], letter, size)] = 0
    owner = np.zeros_like(labels)
    owner[y, x] = np.where(np.r_[False, across][label], line, of[label])
    return owner


def beside(stats: np.ndarray, line: np.ndarray, letter: np.ndarray, size: float) -> np.ndarray:
    """bool[n]: components not far to the left or right of all letters of their line, i[n]."""
    left, right = stats[:, 0], stats[:, 0] + stats[:, 2]
    first, last = np.full(line.max() + 1, np.inf), np.full(line.max() + 1, -np.inf)
    np.minimum.at(first, line[letter], left[letter])
    np.maximum.at(last, line[letter], right[letter])
    return (right > first[line] - size) & (left < last[line] + size)


def nearest_band(bands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """i32[h, w] each: the band nearest above or below a pixel, and how many px it is away."""
    h = len(bands)
    row = np.arange(h, dtype=np.int32)[:, None]
    there = bands > 0
    above = np.maximum.accumulate(np.where(there, row, -2 * h), axis=0)
    below = np.minimum.accumulate(np.where(there, row, 3 * h)[::-1], axis=0)[::-1]
    at = np.where(row - above <= below - row, above, below)
    return np.take_along_axis(bands, np.clip(at, 0, h - 1), axis=0), np.abs(at - row)


def line_of(
    image: np.ndarray, owner: np.ndarray, y: np.ndarray, x: np.ndarray, size: float
) -> Line | None:
    """The line whose ink is at (y, x), i[n] each; None where it is too little for a letter."""
    left, right = int(x.min()), int(x.max()) + 1
    if right - left < 0.4 * size or len(y) < 0.1 * size**2:
        return None
    middle = centre(y, x, left, right, size)
    low, high = np.percentile(y - middle[x - left], (0.05, 99.95))
    if high - low < 0.4 * size:
        return None
    margin = max(1, round(MARGIN * size))
    columns = np.arange(max(0, left - margin), min(image.shape[1], right + margin))
    middle = middle[np.clip(columns - left, 0, right - left - 1)]
    height = int(np.ceil(high - low)) + 1 + 2 * margin
    top = middle + np.floor(low) - margin
    picture = alone(image, owner, int(owner[y[0], x[0]]), columns, top, height)
    corners = np.unique(np.linspace(0, len(columns) - 1, 2 if np.ptp(top) < 1 else 9).astype(int))
    upper = np.stack([columns[corners] + (corners > 0), top[corners]], axis=1)
    polygon = np.concatenate([upper, upper[::-1] + (0, height)])
    polygon[:, 1] = np.clip(polygon[:, 1], 0, len(image))
    return Line(polygon, picture, int(columns[0]), top)


def centre(y: np.ndarray, x: np.ndarray, left: int, right: int, size: float) -> np.ndarray:
    """f64[right - left]: the middle row of a line in each column; a constant where it is level.

    A parabola through the means of pieces some letters wide; short lines have no bend.
    """
    piece = ((x - left) / (4 * size)).astype(int)
    ink = np.bincount(piece)
    keep = ink > 0
    at = (np.bincount(piece, x)[keep] / ink[keep]), (np.bincount(piece, y)[keep] / ink[keep])
    degree = 0 if len(at[0]) < 4 else 1 if len(at[0]) < 8 else 2
    columns = np.arange(left, right)
    shift = np.polynomial.Polynomial.fit(*at, degree, w=np.sqrt(ink[keep]))(columns)
    bent = degree and np.ptp(shift) > BENT * size
    return shift if bent else np.full(right - left, float(y.mean()))


def alone(
    image: np.ndarray, owner: np.ndarray, number: int, columns: np.ndarray, top: np.ndarray, h: int
) -> np.ndarray:
    """u8[h, w]: the columns from row `top` on, with the ink of other lines painted over."""
    first, last = int(np.floor(top.min())), int(np.ceil(top.max())) + h + 1
    rows = slice(max(0, first), max(0, last))
    part, own = image[rows, columns[0] : columns[-1] + 1], owner[rows, columns[0] : columns[-1] + 1]
    others = ((own > 0) & (own != number)).astype(np.uint8)
    others = (cv2.dilate(others, np.ones((3, 3), np.uint8)) > 0) & (own != number)
    part = np.where(others, np.uint8(PAPER), part)
    map_x = np.tile(np.arange(len(columns), dtype=np.float32), (h, 1))
    map_y = (top - rows.start)[None, :] + np.arange(h)[:, None]
    return cv2.remap(
        part,
        map_x,
        map_y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=PAPER,
    )
