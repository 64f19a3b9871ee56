"""Drawing one text line as if it had been printed, aged and scanned. numpy, Pillow and OpenCV; one
rng, no other state.

A line goes through: ink mask (font, spacing) -> geometry (uneven letters, slope, slant, wave) ->
worn ink -> paper -> both mixed -> scanner. The distances are in parts of the font size, so they
look alike at any resolution.
"""

import functools
import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

cv2.setNumThreads(1)  # lines are too small to share between threads; processes fill the cores

Rng = np.random.Generator


# Scripts whose letters join, stack or run from right to left: Hebrew to Myanmar, Khmer, and the
# presentation forms. Raqm (HarfBuzz and FriBidi) sets them.
SHAPED = re.compile("[\u0590-\u109f\u1780-\u17ff\ufb1d-\ufdff\ufe70-\ufeff]")
LETTER = re.compile(".[\u0300-\u036f]*")  # with the marks behind it


@functools.lru_cache(maxsize=4096)
def load_font(file: str, size_px: int, shaped: bool = False) -> ImageFont.FreeTypeFont:
    """The font at a size. Basic layout where it does: raqm would set the same line differently on
    other machines."""
    layout = ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC
    return ImageFont.truetype(file, size_px, layout_engine=layout)


def bundled_fonts() -> list[Path]:
    """Text fonts that matplotlib brings, the same on every machine."""
    import matplotlib  # only for these

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    names = ("DejaVuS", "STIXGeneral")
    return sorted(
        p for p in folder.glob("*.ttf") if p.name.startswith(names) and "Disp" not in p.name
    )


class Page(NamedTuple):
    """Shares of the lines, or of books that look alike, that look as scanned pages do. tight: cut
    close to their ink, as layout programs cut them. crowded: with bits of the lines above and
    below. heavy: letters thicker than drawn, as ink spreads. bitonal: in black and white, as many
    books are scanned, with greys at the edges alone from the reduction to one height. ruled: a
    printed line runs where the letters stand. uneven: letters differ in width, height, place and
    slant, as a hand writes them. clean: no stain, wear or noise, as scanners that even out a page
    leave it; the other side may show through."""

    tight: float = 0.0
    crowded: float = 0.0
    heavy: float = 0.0
    bitonal: float = 0.0
    ruled: float = 0.0
    uneven: float = 0.0
    clean: float = 0.0


AS_DRAWN = Page()


def render(
    looks: Rng, rng: Rng, text: str, font: str, height_px: int, channels: int, page: Page = AS_DRAWN
) -> np.ndarray:
    """u8[height_px, w] for channels 1, u8[height_px, w, 3] (RGB) for 3. The whole text is inside
    the picture.

    looks decides what the lines of a book have in common (size, spacing, ink, paper, wear). rng
    decides what differs from line to line (slope, and where stains and grain lie). They may be the
    same generator.
    """
    # Drawn larger or smaller than asked for: after the resize at the end, lines differ in sharpness
    # as scans do.
    size = max(8, int(height_px * looks.uniform(0.45, 1.1)))
    shaped = bool(SHAPED.search(text))
    # No draw where a share is 0, so that lines of old seeds stay as they were.
    heavy = page.heavy and looks.random() < page.heavy
    stroke = size * float(looks.uniform(0.005, 0.02)) if heavy else 0.0
    ink = draw(looks, text, load_font(font, size, shaped), size, stroke)
    if page.uneven and looks.random() < page.uneven:
        ink = vary(rng, ink, size)
    ink = bend(rng, ink, size)
    if page.tight and looks.random() < page.tight:
        ink = cut(rng, ink, size)
    if page.crowded and looks.random() < page.crowded:
        other = " ".join(sorted(text.split(" "), key=lambda _: rng.random()))
        ink = crowd(rng, ink, draw(rng, other, load_font(font, size, shaped), size, stroke), size)
    if page.ruled and looks.random() < page.ruled:
        ink = rule(looks, rng, ink, size)
    clean = page.clean and looks.random() < page.clean
    if clean:
        ink, paper = ink.astype(np.float32) / 255, np.zeros(ink.shape, np.float32)
    else:
        ink, paper = wear(looks, rng, ink, size), make_paper(looks, rng, ink.shape, size)
    bitonal = page.bitonal and looks.random() < page.bitonal
    if bitonal:
        paper *= 0.5  # who scans so has evened out the shadows
    image = scan(looks, rng, mix(looks, ink, paper, channels), size, noisy=not clean)
    if bitonal:
        image = black_and_white(looks, image)
    height, width = image.shape[:2]
    width = max(1, (2 * width * height_px + height) // (2 * height))
    how = cv2.INTER_AREA if height > height_px else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height_px), interpolation=how)


def draw(
    rng: Rng, text: str, font: ImageFont.FreeTypeFont, size: int, stroke: float = 0.0
) -> np.ndarray:
    """Ink u8[h, w], 255 = full, with the chosen letter and word spacing and margins that leave room
    to bend. A line that needs shaping is set as one piece, its words in the order of the script.
    stroke: px that letters grow by on each side.
    """
    tracking = float(rng.uniform(-0.02, 0.12)) * size if rng.random() < 0.35 else 0.0
    space = font.getlength(" ") * float(rng.uniform(0.8, 2.0)) + tracking
    pieces, x = [], 0.0
    if SHAPED.search(text):
        pieces, x = [(0.0, text)], font.getlength(text) + space
    for word in () if pieces else text.split(" "):
        # Whole words keep the font's kerning; spaced letters are set one by one, as a printer does,
        # with the marks that stand on them.
        for piece in LETTER.findall(word) if tracking else (word,):
            pieces.append((x, piece))
            x += font.getlength(piece) + tracking
        x += space
    ascent, descent = font.getmetrics()
    room = 0.22 * size  # what bend() may move
    left, right = (room + size * rng.uniform(0.0, 0.6, 2)).tolist()
    top, bottom = (room + size * rng.uniform(-0.1, 0.3, 2)).tolist()
    page = Image.new(
        "L", (int(left + x - space + right) + 1, int(top + ascent + descent + bottom) + 1)
    )
    pen = ImageDraw.Draw(page)
    for x, piece in pieces:
        pen.text((left + x, top), piece, font=font, fill=255, stroke_width=stroke)
    return np.asarray(page)


def bend(rng: Rng, ink: np.ndarray, size: int) -> np.ndarray:
    """Slope, slant and baseline wave in one remap; the centre stays, nothing moves by more than 0.2
    font sizes up or down."""
    height, width = ink.shape
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    chance = rng.random(3)
    slope = float(rng.uniform(-0.12, 0.12)) * size * (chance[0] < 0.6)  # at the ends of the line
    slope = min(max(slope, -0.02 * width), 0.02 * width)  # short words would stand on their heads
    slant = float(rng.uniform(-0.12, 0.12)) * (chance[1] < 0.4)
    wave = float(rng.uniform(0.0, 0.07)) * size * (chance[2] < 0.4)
    if not (slope or slant or wave):
        return ink
    phase = x * (2 * np.pi / (size * float(rng.uniform(6, 20)))) + float(rng.uniform(0, 2 * np.pi))
    shift = slope * (2 * x / max(width - 1, 1) - 1) + wave * np.sin(phase)
    map_x = x[None, :] + slant * (y[:, None] - height / 2)
    map_y = y[:, None] + shift.astype(np.float32)[None, :]
    return cv2.remap(ink, map_x.astype(np.float32), map_y, cv2.INTER_LINEAR)  # outside: no ink


def baseline(ink: np.ndarray) -> int:
    """The row where the letters stand: below it, ink falls off the most."""
    rows = cv2.blur(ink.sum(axis=1, dtype=np.float32)[:, None], (1, 3))[:, 0]
    return int(np.argmax(rows[:-1] - rows[1:])) if len(rows) > 1 else 0


def vary(rng: Rng, ink: np.ndarray, size: int) -> np.ndarray:
    """Letters of a hand: from one to the next, width and height differ by up to a quarter, slant by
    0.25, and the place by 0.08 font sizes; the ink has room for it afterwards."""
    around = int(0.3 * size) + 1
    ink = cv2.copyMakeBorder(ink, around, around, around, around, cv2.BORDER_CONSTANT, value=0)
    height, width = ink.shape
    strength = float(rng.uniform(0.2, 1.0))
    # Smooth along the line, with about one free value a letter or two.
    drift = lambda most: (
        (2 * patches(rng, (2, width), size * float(rng.uniform(0.4, 1.2)))[0] - 1) * most * strength
    )
    place, taller, slant, wider = drift(0.08 * size), drift(0.25), drift(0.25), drift(0.25)
    base = baseline(ink)
    below = (np.arange(height) - base)[:, None]
    map_x = np.arange(width) + np.cumsum(wider - wider.mean()) + slant * below
    map_y = base + below * (1 + taller) + place
    return cv2.remap(ink, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR)


def rule(looks: Rng, rng: Rng, ink: np.ndarray, size: int) -> np.ndarray:
    """The ink and a thin straight line from end to end, near where the letters stand: printed, so
    fainter than most pens, and now and then broken by the scan."""
    height, width = ink.shape
    middle = baseline(ink) + size * float(rng.uniform(-0.04, 0.14))
    tilt = float(rng.uniform(-0.06, 0.06)) * size
    middle = middle + tilt * np.linspace(-1, 1, width)
    thick = max(1.2, size * float(looks.uniform(0.015, 0.05)))
    away = np.abs(np.arange(height)[:, None] - middle[None, :])
    line = np.clip(thick / 2 + 0.5 - away, 0, 1) * float(looks.uniform(150, 255))
    if looks.random() < 0.3:
        line = line * (patches(rng, (2, width), size * float(rng.uniform(0.3, 3)))[0] > 0.35)
    return np.maximum(ink, line.astype(np.uint8))


def cut(rng: Rng, ink: np.ndarray, size: int) -> np.ndarray:
    """The part of a line that holds ink, with up to 0.12 font sizes beside it on each side: as a
    layout program cuts lines out of a page."""
    rows, columns = (np.flatnonzero(ink.max(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return ink
    top, bottom, left, right = (size * rng.uniform(0.0, 0.12, 4)).astype(int)
    return ink[
        max(rows[0] - top, 0) : rows[-1] + bottom + 1,
        max(columns[0] - left, 0) : columns[-1] + right + 1,
    ]


def crowd(rng: Rng, ink: np.ndarray, other: np.ndarray, size: int) -> np.ndarray:
    """The ink with what hangs into it of another line, drawn the same way: descenders of one above,
    ascenders of one below, each 0.03 to 0.15 font sizes."""
    rows = np.flatnonzero(other.max(axis=1))
    if not len(rows):
        return ink
    ink = ink.copy()
    above, below = (max(1, int(size * share)) for share in rng.uniform(0.03, 0.15, 2))
    bits = other[rows[-1] + 1 - above : rows[-1] + 1], other[rows[0] : rows[0] + below]
    for part, bit in zip((ink[:above], ink[-below:]), bits):
        shifted = np.roll(bit, int(rng.integers(bit.shape[1])), axis=1)
        shifted = shifted[: len(part), : part.shape[1]]
        part[: len(shifted), : shifted.shape[1]] = np.maximum(
            part[: len(shifted), : shifted.shape[1]], shifted
        )
    return ink


def wear(looks: Rng, rng: Rng, ink: np.ndarray, size: int) -> np.ndarray:
    """u8 -> f32[h, w] in [0, 1]: thicker or thinner strokes, patchy ink, small holes."""
    worn = ink.astype(np.float32) / 255
    chance = looks.random(3)
    if chance[0] < 0.5:
        worn = cv2.GaussianBlur(worn, (0, 0), 0.02 * size + 0.3)
        worn = np.clip(
            (worn - float(looks.uniform(0.3, 0.6))) * float(looks.uniform(1.5, 4)) + 0.5, 0, 1
        )
    if chance[1] < 0.5:
        worn = worn * (
            1
            - float(looks.uniform(0.1, 0.55))
            * patches(rng, ink.shape, size * float(looks.uniform(0.5, 4)))
        )
    if chance[2] < 0.25:
        holes = patches(rng, ink.shape, max(1.5, 0.07 * size))
        worn = worn * np.clip((holes - float(looks.uniform(0.05, 0.25))) * 8, 0.2, 1)
    return worn * float(looks.uniform(0.75, 1.0))


def patches(rng: Rng, shape: tuple[int, int], scale_px: float) -> np.ndarray:
    """Smooth noise f32[h, w] in [0, 1], about one independent value for each scale_px x
    scale_px.
    """
    rows, columns = (max(2, round(side / scale_px) + 1) for side in shape)
    coarse = rng.random((rows, columns), np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def make_paper(looks: Rng, rng: Rng, shape: tuple[int, int], size: int) -> np.ndarray:
    """f32[h, w], lightness around 0: flat, or with a gradient, clouds, fibres and now and then a
    ruled line.
    """
    height, width = shape
    paper = np.zeros(shape, np.float32)
    chance = looks.random(4)
    if chance[0] < 0.4:
        across, down = looks.uniform(-0.15, 0.15, 2).astype(np.float32)
        paper += across * np.linspace(-1, 1, width, dtype=np.float32)[None, :]
        paper += down * np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    if chance[1] < 0.6:
        strength = float(looks.uniform(0.02, 0.2))
        paper += strength * (patches(rng, shape, size * float(looks.uniform(0.3, 5))) - 0.5)
    if chance[2] < 0.5:
        strength = float(looks.uniform(0.01, 0.1))
        paper += strength * (patches(rng, shape, float(looks.uniform(1.5, 4))) - 0.5)
    if chance[3] < 0.08:
        row = int(height * looks.uniform(0.05, 0.95))
        paper[row : row + max(1, size // 24)] -= float(looks.uniform(0.1, 0.4))
    return paper


def mix(rng: Rng, ink: np.ndarray, paper: np.ndarray, channels: int) -> np.ndarray:
    """Ink on paper -> f32[h, w] or f32[h, w, 3] in 0..255; ink and paper differ by 30 % lightness
    or more.
    """
    light = float(rng.uniform(0.62, 1.0))
    dark = float(rng.uniform(0.0, light - 0.4))
    if rng.random() < 0.15:  # the other side shows through
        paper = paper - float(rng.uniform(0.03, 0.12)) * cv2.GaussianBlur(ink[:, ::-1], (0, 0), 1.2)
    tints = rng.uniform(-1, 1, (2, 3)).astype(np.float32)
    warm = np.array([0.05, 0.0, -0.08], np.float32) * float(rng.random())
    inverse = rng.random() < 0.06
    if inverse:
        light, dark = dark, light
    if channels == 1:
        ground = light + paper
        return 255 * (ground + ink * (dark - ground))
    ground = light + paper[:, :, None] + warm + 0.05 * tints[0]
    colour = dark + (0.12 if rng.random() < 0.6 else 0.3) * (tints[1] - tints[1].mean())
    return (255 * (ground + ink[:, :, None] * (colour - ground))).astype(np.float32)


def scan(looks: Rng, rng: Rng, image: np.ndarray, size: int, noisy: bool = True) -> np.ndarray:
    """f32 in about 0..255 -> u8: out of focus and, where it may be, noisy, now and then."""
    chance = looks.random(2)
    if chance[0] < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), 0.2 + float(looks.uniform(0.0, 0.045)) * size)
    if noisy and chance[1] < 0.5:
        noise = rng.standard_normal(image.shape[:2], np.float32) * float(looks.uniform(1, 10))
        image = image + (noise if image.ndim == 2 else noise[:, :, None])
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def black_and_white(rng: Rng, image: np.ndarray) -> np.ndarray:
    """u8 -> u8 of 0 and 255 alone: halfway between ink and paper, which Otsu's threshold tells
    apart, give or take a fifth of their difference."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if grey.min() == grey.max():
        return image  # no ink to tell from paper
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    dark, light = (float(part.mean()) for part in (grey[grey <= level], grey[grey > level]))
    level = (dark + light) / 2 + 0.2 * float(rng.uniform(-1, 1)) * (light - dark)
    white = np.where(grey > level, np.uint8(255), np.uint8(0))
    return white if image.ndim == 2 else np.repeat(white[:, :, None], 3, 2)
