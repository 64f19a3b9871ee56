"""Pages read: files -> pictures -> lines in reading order -> their texts, placed on the page.

A reader is anything with stream((name, u8[h, w]) pairs, batch_size) -> readings in that order, as
`dig_jax.load_reader` gives it.
"""

from __future__ import annotations

import io
import itertools
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from dig_jax.data.extras import need
from dig_jax.data.images import SUFFIXES, BadImage, Store
from dig_jax.data.sizes import BadRecord, open_image
from dig_jax.pages import clean, locate, order
from dig_jax.text import logical_order

MAX_PIXELS = 100_000_000  # A3 at 600 dpi has 70 million
PDF_DPI = 300
ONE_LINE = 0.5  # share of a picture's height from which its tallest line is all that it shows
UNSURE, SURER = 0.75, 0.1  # confidence below which a page is tried upside down, and what must gain
TRIED = 12  # lines that are read upside down


class Word(NamedTuple):
    """polygon: f64[4, 2] in px of the page as given. confidence: 0 to 1, None for no letters."""

    text: str
    confidence: float
    polygon: np.ndarray


class TextLine(NamedTuple):
    """polygon: f64[n, 2] in px of the page as given. block: its number on the page, from 0.

    characters: from left to right, (char, confidence, left, right). The places are shares of the
    width of `image` u8[h, w], the line as the reader was given it.
    """

    polygon: np.ndarray
    block: int
    text: str
    confidence: float
    words: list[Word]
    characters: tuple[tuple[str, float, float, float], ...] = ()
    image: np.ndarray | None = None


class Page(NamedTuple):
    """name: the file, and the page of several. lines: in reading order. error: why none is there.

    unread: reasons of lines that the reader refused.
    """

    name: str
    width_px: int
    height_px: int
    lines: list[TextLine]
    error: str = ""
    unread: tuple[str, ...] = ()


class Found(NamedTuple):
    """Lines located on one picture, in reading order. cleaned: where they lie."""

    name: str
    shape: tuple[int, int]
    cleaned: clean.Cleaned
    lines: list[locate.Line]
    blocks: list[int]
    error: str = ""


NOTHING = clean.Cleaned(np.zeros((0, 0), np.uint8), np.eye(3)[:2], {})


# ---- files -> pictures


def pictures(path: str | os.PathLike, dpi: int = PDF_DPI) -> Iterator[tuple[str, Any]]:
    """(name, u8[h, w]) of each page of a file; (name, BadRecord) for what is no picture.

    Images upright by their EXIF tag, all frames of a TIFF, all pages of a PDF.
    """
    name, store = str(path), Store(channels=1, max_pixels=MAX_PIXELS)
    try:
        data = store.read(pathlib.Path(path))
        if data.startswith(b"%PDF"):
            yield from pdf_pages(name, data, dpi)
            return
        # Of a JPEG or GIF only the first: further ones are thumbnails, or move.
        opened = open_image(data) if data else None
        frames = opened.n_frames if opened and opened.format == "TIFF" else 1
        for frame in range(frames):
            image = np.asarray(store.pixels(data, frame)[0])
            yield (f"{name}#{frame + 1}" if frames > 1 else name), image
    except (BadImage, BadRecord) as error:
        yield name, BadRecord(str(error))


def pdf_pages(name: str, data: bytes, dpi: int) -> Iterator[tuple[str, Any]]:
    """(name#number, u8[h, w]) of the pages of a PDF, drawn at `dpi`. Needs the extra "pdf"."""
    try:
        pdfium = need("pypdfium2", "pdf")
        pages = pdfium.PdfDocument(io.BytesIO(data))
    except RuntimeError as error:  # PdfiumError is one, too
        yield name, BadRecord(f"this PDF cannot be opened: {error}")
        return
    with pages:
        for number in range(len(pages)):
            try:
                image = _drawn(pages[number], dpi / 72)
            except RuntimeError as error:
                image = BadRecord(f"this page of the PDF cannot be drawn: {error}")
            yield f"{name}#{number + 1}", image


def _drawn(page: Any, scale: float) -> Any:
    """u8[h, w] of a page of a PDF, or a BadRecord where it is too large."""
    if page.get_width() * page.get_height() * scale**2 > MAX_PIXELS:
        return BadRecord(f"more than {MAX_PIXELS} pixels: give a lower --dpi")
    return np.asarray(page.render(scale=scale, grayscale=True).to_pil().convert("L"))


def files_of(names: Iterable[str]) -> Iterator[str]:
    """The files of files and folders; a name that is nowhere is given on, to be refused later."""
    for name in names:
        if os.path.isdir(name):
            kinds = SUFFIXES | {".pdf"}
            yield from sorted(
                str(path)
                for path in pathlib.Path(name).rglob("*")
                if path.suffix.lower() in kinds
                and not path.name.startswith(".")
                and (path.is_file() or not path.exists())  # a broken link is named later
            )
        else:
            yield name


# ---- pictures -> lines


def find(
    name: str,
    image: Any,
    skip: Collection[str] = (),
    right_to_left: bool = False,
    keep_steps: bool = False,
) -> Found:
    """The lines of a picture u8[h, w]. skip: stages of `clean` that are left out."""
    if isinstance(image, BadRecord):
        return Found(name, (0, 0), NOTHING, [], [], str(image))
    nothing = clean.Cleaned(image, np.eye(3)[:2], {})
    if min(image.shape) < 8:
        reason = f"{image.shape[1]} x {image.shape[0]} px is too small for a line of text"
        return Found(name, image.shape, nothing, [], [], reason)
    if clean.contrast(image) < clean.LEAST_CONTRAST:
        return Found(name, image.shape, nothing, [], [], "nothing is written on it: no contrast")
    cleaned = clean.clean(image, skip, keep_steps)
    lines = locate.locate(cleaned.image)
    if is_one_line(cleaned.image, lines):
        cleaned = clean.Cleaned(image, np.eye(3)[:2], cleaned.steps)
        lines = [whole(image)]
    return arranged(name, image.shape, cleaned, lines, right_to_left)


def arranged(
    name: str,
    shape: tuple[int, int],
    cleaned: clean.Cleaned,
    lines: list[locate.Line],
    right_to_left: bool,
) -> Found:
    """The lines in reading order."""
    boxes = np.array([line.box for line in lines]).reshape(-1, 4)
    ranks = order.reading_order(boxes, right_to_left)
    blocks = order.blocks(boxes, ranks)
    error = "" if lines else "no line of text was found on it"
    chosen, numbers = [lines[i] for i in ranks], [blocks[i] for i in ranks]
    return Found(name, shape, cleaned, chosen, numbers, error)


def is_one_line(image: np.ndarray, lines: list[locate.Line]) -> bool:
    """Whether a picture shows one line and nothing else: its lines are nearly as tall as it is."""
    h, w = image.shape
    tallest = max((line.image.shape[0] for line in lines), default=0)
    return w >= 2 * h and (tallest >= ONE_LINE * h or not lines)


def whole(image: np.ndarray) -> locate.Line:
    """The picture as a line."""
    h, w = image.shape
    polygon = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float64)
    return locate.Line(polygon, image, 0, np.zeros(w))


# ---- lines -> texts


def read(
    found: Iterable[Found],
    reader: Any,
    *,
    batch_size: int = 32,
    correct: Callable[[str], str] | None = None,
    right_to_left: bool = False,
    both_ways: bool = True,
) -> Iterator[Page]:
    """The pages with their texts, in order; lines of several pages share batches.

    correct: text -> text, of each line, such as `Lexicon.correct`. both_ways: a page that reads
    with little confidence is tried upside down.
    """
    waiting: list[Found] = []

    def lines() -> Iterator[tuple[str, np.ndarray]]:
        for page in found:
            waiting.append(page)
            yield from ((page.name, line.image) for line in page.lines)

    readings = reader.stream(lines(), batch_size)
    # A page is known to `waiting` before its first line can come back.
    for reading in itertools.chain(readings, [None]):
        while waiting and not waiting[0].lines:
            yield _page(waiting.pop(0), [], correct)
        if reading is None:
            return
        page = waiting.pop(0)
        texts = [reading, *itertools.islice(readings, len(page.lines) - 1)]
        if both_ways and mean_confidence(texts) < UNSURE:
            page, texts = upright(page, texts, reader, batch_size, right_to_left)
        yield _page(page, texts, correct)


def mean_confidence(readings: Iterable[Any]) -> float:
    """Over all characters; 0 where there is none."""
    sure = [each.confidence for reading in readings for each in reading.characters]
    return float(np.mean(sure)) if sure else 0.0


def upright(
    page: Found, texts: list[Any], reader: Any, batch_size: int, right_to_left: bool
) -> tuple[Found, list[Any]]:
    """The page and its readings, or those of the page turned upside down where it reads better."""
    some = sorted(range(len(page.lines)), key=lambda i: -page.lines[i].image.shape[1])[:TRIED]
    turned = [(page.name, np.ascontiguousarray(page.lines[i].image[::-1, ::-1])) for i in some]
    before = mean_confidence(texts[i] for i in some)
    if mean_confidence(reader.stream(iter(turned), batch_size)) < before + SURER:
        return page, texts
    image, matrix = clean.quarter(page.cleaned.image, 2)
    back = (np.vstack([page.cleaned.back, [0, 0, 1]]) @ matrix)[:2]
    cleaned = clean.Cleaned(image, back, page.cleaned.steps)
    one = len(page.lines) == 1 and page.lines[0].image.shape == image.shape
    lines = [whole(image)] if one else locate.locate(image)
    page = arranged(page.name, page.shape, cleaned, lines, right_to_left)
    again = reader.stream(((page.name, line.image) for line in page.lines), batch_size)
    return page, list(again)


def _page(page: Found, readings: list[Any], correct: Callable[[str], str] | None) -> Page:
    lines = [
        text_line(line, block, reading, page.cleaned.back, correct)
        for line, block, reading in zip(page.lines, page.blocks, readings)
        if not reading.error
    ]
    unread = tuple(reading.error for reading in readings if reading.error)
    height, width = page.shape
    return Page(page.name, width, height, lines, page.error, unread)


def text_line(
    line: locate.Line,
    block: int,
    reading: Any,
    back: np.ndarray,
    correct: Callable[[str], str] | None = None,
) -> TextLine:
    """A reading placed on the page as given. back: f64[2, 3], from the clean page to that one."""
    placed = lambda polygon: polygon @ back[:, :2].T + back[:, 2]
    text = correct(reading.text) if correct else reading.text
    words = [
        Word(word, sure, placed(line.quad(left, right)))
        for word, (sure, left, right) in zip(text.split(" "), spans(reading))
        if word
    ]
    wide = line.image.shape[1]
    characters = tuple(
        (c.char, c.confidence, c.left / wide, c.right / wide) for c in reading.characters
    )
    polygon = placed(line.polygon)
    return TextLine(polygon, block, text, reading.confidence, words, characters, line.image)


def spans(reading: Any) -> list[tuple[float, float, float]]:
    """(confidence, left, right) in px of the words of a reading, in the order of its text."""
    visual = "".join(each.char for each in reading.characters)
    ordered = [reading.characters[i] for i in logical_order(visual, reading.text)]
    found, part = [], []
    for each in [*ordered, None]:
        if each is not None and each.char != " ":
            part.append(each)
            continue
        sure = float(np.mean([c.confidence for c in part])) if part else 0.0
        at = (min(c.left for c in part), max(c.right for c in part)) if part else (0.0, 0.0)
        found.append((sure, *at))
        part = []
    return found
