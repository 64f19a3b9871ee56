"""A scanned page made even: u8[h, w] grey, dark ink on light paper, in and out.

Each stage is a function of the picture alone. `clean` runs them in the order of STAGES, and gives
the affine map back to the picture as given. Lengths follow from the text's own size (`text_px`),
so that the resolution does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import cv2
import numpy as np

PAPER = 255
MAX_SKEW = 8.0  # degrees that `deskew` looks for, to both sides
LEAST_CONTRAST = 24  # grey levels between ink and paper; with less there is nothing to read
SMALL_PX = 1000  # side to which a page is reduced where details do not matter
LOW_PX = 200  # lower pictures show a line or two, not a page with a border
SPECK = 0.02  # ink of a speck at most, as a share of the squared text size
RULE_LENGTH, RULE_WIDTH = 12.0, 0.3  # in text sizes: the least length and the most thickness
RULE_CONTRAST = 32  # grey levels below paper: rules are often paler than ink


class Cleaned(NamedTuple):
    """image: u8[h, w]. back: f64[2, 3], its (x, y, 1) -> (x, y) of the picture as given.

    steps: {stage: picture after it}, only where they were asked for.
    """

    image: np.ndarray
    back: np.ndarray
    steps: dict[str, np.ndarray]


def clean(image: np.ndarray, skip: Collection[str] = (), keep_steps: bool = False) -> Cleaned:
    """All stages that `skip` does not name."""
    back, steps = np.eye(3), {}
    for name, stage in STAGES.items():
        if name in skip:
            continue
        image, matrix = stage(image)
        back = back @ matrix
        if keep_steps:
            steps[name] = image
    return Cleaned(image, back[:2], steps)


# ---- what the stages share


def ink_of(image: np.ndarray) -> np.ndarray:
    """bool[h, w]: ink by Otsu's threshold (1979), or by the middle between text and paper.

    The lower one counts: stains paler than the text raise Otsu's.
    """
    threshold, _ = cv2.threshold(image, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    counts = np.cumsum(cv2.calcHist([image], [0], None, [256], [0, 256])) / image.size
    text, paper = np.searchsorted(counts, (0.005, 0.5))
    return image <= np.clip(min(threshold, (text + paper) / 2), 90, 200)


def components(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(labels i32[h, w], 0 for paper; i32[n, 5] left, top, width, height, ink of 1 ... n)."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8), connectivity=8)
    return labels, stats[1:]


def text_px(stats: np.ndarray) -> float:
    """The usual height of a letter in px: the median, letters weighted by their width.

    stats: of `components`. Specks count little, as they are narrow; rules and stains are left out.
    """
    width, height, ink = stats[:, 2], stats[:, 3], stats[:, 4]
    letters = (height >= 4) & (ink >= 8) & (width <= 8 * height) & (height <= 8 * width)
    letters &= ink >= 0.1 * width * height
    if not letters.any():
        return float(np.median(height)) if len(height) else 0.0
    height, weight = height[letters], np.minimum(width, 2 * height)[letters]
    rank = np.argsort(height)
    total = np.cumsum(weight[rank])
    return float(height[rank][np.searchsorted(total, total[-1] / 2)])


def opened(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """u8[h, w]: what of a mask holds a rectangle of width x height px, all of it on the picture."""
    kernel, outside = np.ones((height, width), np.uint8), cv2.BORDER_CONSTANT
    return cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel, None, (-1, -1), 1, outside, 0)


def contrast(image: np.ndarray) -> int:
    """Grey levels between the darkest and the lightest of all but a few pixels."""
    low, high = np.percentile(image, (0.1, 99.9))
    return int(high - low)


def reduced(image: np.ndarray, most_px: int = SMALL_PX) -> np.ndarray:
    """The picture with no side longer than most_px, averaged."""
    factor = most_px / max(image.shape)
    if factor >= 1:
        return image
    size = [max(1, round(side * factor)) for side in image.shape[::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


# ---- the stages: u8[h, w] -> (u8[h', w'], f64[3, 3] from the new picture to the old one)

SAME = np.eye(3)
Staged = tuple[np.ndarray, np.ndarray]


def polarity(image: np.ndarray) -> Staged:
    """Light writing on dark ground becomes dark on light.

    Writing is what differs most from the ground around it, whichever way.
    """
    small = reduced(image)
    side = min(63, max(3, min(small.shape) // 2)) | 1
    below, above = np.percentile(small.astype(np.int16) - cv2.medianBlur(small, side), (1, 99))
    return (255 - image if above > -below else image), SAME


def illumination(image: np.ndarray) -> Staged:
    """Divides by the paper, which a closing wider than letters shows: shadows and stains go."""
    small = cv2.medianBlur(reduced(image), 3)
    size = max(9, min(max(small.shape) // 16, min(small.shape)) // 2 * 2 + 1)
    paper = cv2.morphologyEx(small, cv2.MORPH_CLOSE, np.ones((size, size), np.uint8))
    paper = cv2.GaussianBlur(paper, (0, 0), size / 6)
    paper = cv2.resize(paper, image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.divide(image, np.maximum(paper, 1), scale=PAPER), SAME


def border(image: np.ndarray) -> Staged:
    """Dark edges of a scan, and what touches them, become paper.

    A border is dark, reaches the edge of the picture, and is solid. Letters vanish when the dark
    parts are opened with a square of a sixtieth of the page.
    """
    small = reduced(image)
    paper = float(np.percentile(small, 90))
    side = max(3, min(small.shape) // 60)
    dark = (small < 0.5 * paper).astype(np.uint8)
    solid = cv2.morphologyEx(
        cv2.copyMakeBorder(dark, side, side, side, side, cv2.BORDER_REPLICATE),
        cv2.MORPH_OPEN,
        np.ones((side, side), np.uint8),
    )[side:-side, side:-side]
    labels, stats = components(solid)
    h, w = small.shape
    left, top, right, bottom = (*stats[:, :2].T, *(stats[:, :2] + stats[:, 2:4]).T)
    at_edge = (left == 0) | (top == 0) | (right == w) | (bottom == h)
    long = np.maximum(stats[:, 2], stats[:, 3]) >= 0.1 * max(h, w)
    # A picture of one line is as low as its letters, which touch its edges.
    if min(image.shape) < LOW_PX or not (at_edge & long).any():
        return image, SAME
    mask = np.isin(labels, 1 + np.flatnonzero(at_edge & long)).astype(np.uint8)
    mask = cv2.dilate(mask, np.ones((side, side), np.uint8))
    mask = cv2.resize(mask, image.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return np.where(mask > 0, np.uint8(paper), image), SAME


def despeckle(image: np.ndarray) -> Staged:
    """Paints over specks: components far smaller than the dot of an i."""
    labels, stats = components(ink_of(image))
    if not len(stats):
        return image, SAME
    speck = stats[:, 4] < SPECK * text_px(stats) ** 2
    mask = np.r_[False, speck][labels].astype(np.uint8)
    mask = cv2.dilate(mask, np.ones((3, 3), np.uint8)) > 0
    mask &= ~np.r_[False, ~speck][labels]
    return np.where(mask, cv2.medianBlur(image, 5), image), SAME


def orientation(image: np.ndarray) -> Staged:
    """Turns a page that lies on its side by a quarter, clockwise.

    Lines give the rows of an upright page strong dark and light bands. Which of the two ways is up
    the reader decides (`read.py`): an upside-down page reads with little confidence.
    """
    ink = _letters(image)
    level, standing = (
        max(bands(each, angle) for angle in angles(1.0, MAX_SKEW))
        for each in (points(ink), points(ink.T))
    )
    if min(image.shape) < LOW_PX or 1.5 * level >= standing:
        return image, SAME
    return quarter(image, 1)


def deskew(image: np.ndarray) -> Staged:
    """Turns the page by the angle at which its rows are most unlike each other."""
    angle = skew_degrees(image)
    return rotate(image, angle) if abs(angle) >= 0.05 else (image, SAME)


def rules(image: np.ndarray) -> Staged:
    """Removes ruled lines, frames and separators; strokes that cross them stay.

    A rule is thin and far longer than a letter. Its pixels are filled from both of its sides.
    """
    size = text_px(components(ink_of(image))[1])
    length, width = round(RULE_LENGTH * size), max(3, round(RULE_WIDTH * size))
    if length < 60:
        return image, SAME
    image = _without_rules(image, length, width)
    across = _without_rules(np.ascontiguousarray(image.T), length, width)
    return np.ascontiguousarray(across.T), SAME


STAGES: dict[str, Callable[[np.ndarray], Staged]] = {
    "polarity": polarity,
    "illumination": illumination,
    "border": border,
    "despeckle": despeckle,
    "orientation": orientation,
    "deskew": deskew,
    "rules": rules,
}


# ---- their parts


def skew_degrees(image: np.ndarray) -> float:
    """The angle by which lines fall (positive: to the right), found to a twentieth of a degree."""
    ink, best = points(_letters(image)), 0.0
    for step, reach in ((0.5, MAX_SKEW), (0.1, 0.4), (0.05, 0.05)):
        best = max((best + angles(step, reach)).tolist(), key=lambda angle: bands(ink, angle))
    return best if bands(ink, best) > 1.02 * bands(ink, 0.0) else 0.0


def angles(step: float, reach: float) -> np.ndarray:
    """Degrees from -reach to reach, f64[n]; 0 is first, so that it wins where all are alike."""
    one_side = np.arange(step, reach + step / 2, step)
    return np.concatenate([[0.0], one_side, -one_side])


class Points(NamedTuple):
    """Where there is ink, and how much: f64[n] each; x from the middle of the page."""

    y: np.ndarray
    x: np.ndarray
    ink: np.ndarray


def points(ink: np.ndarray) -> Points:
    """Of f32[h, w]."""
    y, x = np.nonzero(ink)
    return Points(y.astype(np.float64), x - ink.shape[1] / 2, ink[y, x].astype(np.float64))


def bands(ink: Points, degrees: float) -> float:
    """How unlike neighbouring rows are: the sum of their squared differences.

    Ink is sheared by the angle and summed along rows (Postl, 1986).
    """
    row = ink.y - ink.x * np.tan(np.radians(degrees))
    low = np.floor(row).astype(np.int64)
    upper = (row - low) * ink.ink
    low -= low.min(initial=0)
    size = int(low.max(initial=0)) + 3
    profile = np.bincount(low, ink.ink - upper, size)
    profile[1:] += np.bincount(low, upper, size)[:-1]
    return float(np.sum(np.diff(profile) ** 2))


def _letters(image: np.ndarray) -> np.ndarray:
    """Ink f32[h, w] of what may be letters, at SMALL_PX: neither rules nor large stains."""
    ink = ink_of(image)
    labels, stats = components(ink)
    size = text_px(stats) if len(stats) else 0.0
    letter = (stats[:, 2] < 12 * size) & (stats[:, 3] < 4 * size) & (stats[:, 3] > 0.3 * size)
    ink = np.r_[False, letter][labels]
    return reduced(ink.astype(np.float32), SMALL_PX)


def quarter(image: np.ndarray, turns: int) -> Staged:
    """The picture turned clockwise by `turns` quarters."""
    h, w = image.shape
    maps = {
        0: SAME,
        1: np.array([[0, 1, 0], [-1, 0, h - 1], [0, 0, 1.0]]),
        2: np.array([[-1, 0, w - 1], [0, -1, h - 1], [0, 0, 1.0]]),
        3: np.array([[0, -1, w - 1], [1, 0, 0], [0, 0, 1.0]]),
    }
    return np.ascontiguousarray(np.rot90(image, -turns)), maps[turns % 4]


def rotate(image: np.ndarray, degrees: float) -> Staged:
    """The picture turned anticlockwise about its centre; larger, so that nothing is cut off."""
    h, w = image.shape
    sine, cosine = abs(np.sin(np.radians(degrees))), abs(np.cos(np.radians(degrees)))
    size = int(np.ceil(w * cosine + h * sine)), int(np.ceil(h * cosine + w * sine))
    there = cv2.getRotationMatrix2D((w / 2, h / 2), degrees, 1.0)
    there[:, 2] += (size[0] - w) / 2, (size[1] - h) / 2
    paper = int(np.median(image))
    turned = cv2.warpAffine(image, there, size, flags=cv2.INTER_CUBIC, borderValue=paper)
    return turned, np.linalg.inv(np.vstack([there, [0, 0, 1]]))


def _without_rules(image: np.ndarray, length: int, width: int) -> np.ndarray:
    """The picture without rules along rows: theirs are the vertical runs of at most `width` px."""
    pale = (image < int(np.median(image)) - RULE_CONTRAST).astype(np.uint8)
    # Noise may break a rule by a pixel or two, and what is left of its skew moves it by a row.
    joined = cv2.morphologyEx(pale, cv2.MORPH_CLOSE, np.ones((1, 3), np.uint8))
    joined = cv2.dilate(joined, np.ones((3, 1), np.uint8))
    long = opened(joined, length, 1)
    if not long.any():
        return image
    thick = cv2.morphologyEx(pale, cv2.MORPH_OPEN, np.ones((width + 1, 1), np.uint8))
    fringe = cv2.dilate(long & pale & ~thick, np.ones((3, 1), np.uint8))
    mask = (fringe > 0) & (thick == 0)
    row = np.arange(len(image), dtype=np.int32)[:, None]
    above = np.maximum.accumulate(np.where(mask, -1, row), axis=0)
    below = np.minimum.accumulate(np.where(mask, len(image), row)[::-1], axis=0)[::-1]
    edge = np.pad(image, ((1, 1), (0, 0)), constant_values=PAPER).astype(np.float32)
    y, x = np.nonzero(mask)
    up, down = above[y, x], below[y, x]
    share = (y - up) / (down - up)
    image = image.copy()
    image[y, x] = edge[up + 1, x] * (1 - share) + edge[down + 1, x] * share
    return image
