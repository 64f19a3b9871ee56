"""Lines of page files (PAGE-XML, ALTO): images found, polygons cut out, baselines straightened.

What both formats share once a file is parsed into `Page`s; see sources/page_xml.py, alto.py.
"""

import dataclasses
import functools
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np

from dig_jax.data.disk_map import DiskMap
from dig_jax.data.examples import Example, Report, Skipped, shown
from dig_jax.data.images import SUFFIXES, BadImage, Store
from dig_jax.data.lists import Root, open_root, read_source, walk
from dig_jax.data.split_names import split_of

MAX_XML_BYTES = 64 << 20
MAX_POINTS = 10_000  # of a polygon
NUMBER = re.compile(r"[-+]?\d{1,15}(?:\.\d{0,30})?(?:[eE][-+]?\d{1,2})?")
SAME_SCALE = 0.005  # a page is of the size of its image where the ratio differs by less
Points = list[tuple[float, float]]


class BadPage(Exception):
    """A page file that cannot be read; the message is the kind of reason."""


class Line(NamedTuple):
    """A line or word. polygon: vertices in px, which belong to it; box: (left, top, right, bottom)
    where there is no polygon, right and bottom outside. text: None where the file has none."""

    id: str
    polygon: Points
    box: tuple[float, float, float, float] | None
    baseline: Points
    text: str | None


class Page(NamedTuple):
    """names: of its image, the best first. size: (width, height) in the unit of the lines; unit:
    that unit in px at 1 dpi, 0 where it is a pixel. frame: of an image of several. numbered: it is
    that of the very file named; an image of another name is of this page alone."""

    names: list[str]
    size: tuple[float, float]
    unit: float
    frame: int
    lines: list[Line]
    numbered: bool = False


class Wanted(NamedTuple):
    """What is read of a page. level: "line" or "word", what is cut out; text_from: "auto", "line",
    "word" or "glyph", where its text stands."""

    level: str
    text_from: str


def _plain(name: str) -> str:
    """The name of a file without its folders, of any system, in lower case."""
    return name.strip().replace("\\", "/").rpartition("/")[2].lower()


@dataclasses.dataclass(frozen=True)
class PageReader:
    """Makes the examples of one page file. Pickles."""

    root: Root
    parse: Callable[[ET.Element, Wanted], list[Page]]
    wanted: Wanted
    store: Store
    mask: bool
    straighten: bool

    def __call__(self, file: str) -> list[Example | Skipped]:
        """The examples of all lines, and what was left out: every line is one or the other."""
        try:
            pages = self.parse(read_xml(self.root, file), self.wanted)
        except BadPage as error:
            return [Skipped(file, str(error))]
        made: list[Example | Skipped] = []
        if not any(page.lines for page in pages):
            made.append(Skipped(file, f"page file without a {self.wanted.level}"))
        ids: set[str] = set()
        for page in pages:
            made += self._page(file, page, ids)
        return made

    def _page(self, file: str, page: Page, ids: set[str]) -> Iterator[Example | Skipped]:
        path, named = self._image(file, page)
        if path is None:
            name = f"{file}: {shown(page.names[0]) if page.names else 'no image named'}"
            yield Skipped(name, "image of a page is missing (its lines)", max(len(page.lines), 1))
            return
        if page.names and not named:
            told = "image of a page is missing: that of the page file's name is cut (lines kept)"
            yield Skipped(f"{file}: {shown(page.names[0])}", told)
        try:
            own = PurePosixPath(path).name.lower() in map(_plain, page.names)
            frame = page.frame if own or not page.numbered else 0
            found = self.store.page(self.root.path / path, frame)
        except BadImage as error:
            yield Skipped(f"{file}: {path}", f"{error} (lines of a page)", max(len(page.lines), 1))
            return
        scale = scale_of(page, found.size, found.info.get("dpi"))
        if isinstance(scale, str):
            yield Skipped(f"{file}: {path}", scale, max(len(page.lines), 1))
            return
        if scale != (1.0, 1.0) and not page.unit:
            yield Skipped(file, "page of another size than its image: polygons scaled (lines kept)")
        pixels = np.asarray(found)
        split = split_of(PurePosixPath(file).parent.parts)
        for line in page.lines:
            id = line.id if line.id and line.id not in ids else f"{self.wanted.level}{len(ids)}"
            ids.add(id)
            id = f"{file}#{shown(id, 100)}"
            image = cut(pixels, line, scale, self.mask, self.straighten)
            kept, reason = (b"", image) if isinstance(image, str) else self.store(image)
            if reason:
                yield Skipped(id, reason)
            if kept:
                yield split, kept, line.text, id

    def _image(self, file: str, page: Page) -> tuple[str | None, bool]:
        """The image that a page file names: beside it, below the root, or anywhere in the folder by
        its name. Otherwise, and False, the image with the page file's own name."""
        folder = PurePosixPath(file).parent
        for name in page.names:
            name = name.strip().replace("\\", "/")
            for start in (folder, PurePosixPath(".")):
                path = os.path.normpath(start / name)
                if not path.startswith(("..", "/")) and not self.root.reason(path):
                    return path, True
        known = [_plain(name) for name in page.names]
        if not page.numbered:  # book.png is not the second page of book.pdf
            known += [PurePosixPath(name).stem for name in known]
        stem = PurePosixPath(file).name.split(".")[0]
        for wanted in [*known, stem]:
            key = f"{wanted.lower()}\0"
            places = (found.removeprefix(key) for found in self._images.starting(key))
            near = lambda place: len(os.path.commonprefix([place, file]))
            if place := max(places, key=near, default=None):
                return place, wanted in known
        return None, False

    @functools.cached_property
    def _images(self) -> DiskMap:
        """Name of an image with and without suffix, in lower case, NUL, its path."""
        found = DiskMap()
        for path in walk(self.root):
            name = PurePosixPath(path).name.lower()
            if PurePosixPath(name).suffix in SUFFIXES and not self.root.reason(path):
                for key in (name, PurePosixPath(name).stem):
                    found.setdefault(f"{key}\0{path}")
        return found


def page_source(
    parse: Callable[[ET.Element, Wanted], list[Page]],
) -> Callable[..., Iterator[Example]]:
    """The `examples` of a source whose page files `parse` reads. `parse` must pickle."""

    def examples(
        *,
        report: Report,
        input: str | None = None,
        level: str = "line",
        text_from: str = "auto",
        mask: bool = True,
        straighten: bool = False,
        store: Store | None = None,
        workers: int | None = None,
    ) -> Iterator[Example]:
        """Yields (split, image bytes, text or None, "file.xml#line id"), page after page. A folder
        named train, val or test gives its pages that split. ValueError where there is no XML."""
        root = open_root(input)
        if level not in ("line", "word"):
            raise ValueError(f"--level is '{level}', but must be line or word.")
        if text_from not in ("auto", "line", "word", "glyph"):
            told = f"--text_from is '{text_from}'"
            raise ValueError(f"{told}, but must be auto, line, word or glyph.")
        report.about.update(read_source(root))
        found = walk(root, report)
        files = lambda: (path for path in found if path.lower().endswith(".xml"))
        report.total = sum(1 for _ in files())
        if not report.total:
            raise ValueError(f"{root.path} holds no XML file.")
        wanted = Wanted(level, text_from)
        reader = PageReader(root, parse, wanted, store or Store(), mask, straighten)
        yield from report.work(reader, files(), workers)

    return examples


def read_xml(root: Root, file: str) -> ET.Element:
    """The root element of a file, names without their namespace. Raises BadPage. Entities that
    grow are refused by expat; none outside the file is read."""
    if reason := root.reason(file):
        raise BadPage(f"page file cannot be read: {reason}")
    with (root.path / file).open("rb") as opened:
        data = opened.read(MAX_XML_BYTES + 1)
    if len(data) > MAX_XML_BYTES:
        raise BadPage(f"page file of more than {MAX_XML_BYTES} bytes")
    try:
        element = ET.fromstring(data)
    except Exception as error:  # of any bytes: ParseError, LookupError, ValueError ...
        raise BadPage("no XML, or damaged") from error
    for one in element.iter():
        one.tag = one.tag.rpartition("}")[2] if isinstance(one.tag, str) else ""
    return element


def numbers(text: str | None) -> list[float]:
    """All numbers of a string, at most those of MAX_POINTS points, in +-1e7."""
    found = NUMBER.findall((text or "")[: 40 * MAX_POINTS])
    return [min(max(float(x), -1e7), 1e7) for x in found[: 2 * MAX_POINTS]]


def sides(element: ET.Element, names: Sequence[str]) -> list[float] | None:
    """The numbers of these attributes; None where one has none."""
    found = [numbers(element.get(name)) for name in names]
    return [each[0] for each in found] if all(found) else None


def points(text: str | None) -> Points:
    """ "1,2 3,4", or "1 2 3 4", as both formats and their versions write them. Empty where one of
    them is no number or has no partner: those behind it would change places."""
    parts = re.split(r"[\s,;]+", (text or "").strip(" \t\r\n,;"), maxsplit=2 * MAX_POINTS)
    if len(parts) % 2 or not all(map(NUMBER.fullmatch, parts)):
        return []
    flat = numbers(" ".join(parts))
    return list(zip(flat[::2], flat[1::2]))


def scale_of(
    page: Page, size: tuple[int, int], dpi: tuple[float, float] | None
) -> tuple[float, float] | str:
    """px a unit of the page, in x and y, or why it is not known."""
    width, height = page.size
    if width > 0 and height > 0:
        scale = size[0] / width, size[1] / height
        if page.unit:
            return scale
        if abs(scale[0] / scale[1] - 1) > 0.02:
            return "page of another shape than its image (its lines)"
        same = all(abs(s - 1) < SAME_SCALE for s in scale)
        return (1.0, 1.0) if same else scale
    if page.unit:
        if not dpi or not min(dpi) > 1:
            return "page in mm10 or inch1200 without its size (its lines)"
        return float(dpi[0]) * page.unit, float(dpi[1]) * page.unit
    return 1.0, 1.0


def cut(
    image: np.ndarray, line: Line, scale: tuple[float, float], mask: bool, straighten: bool
) -> np.ndarray | str:
    """u8[h,w] or u8[h,w,3], the bounding box of a line; or why there is none.

    mask: pixels outside the polygon become the median of those inside, which is the paper. With
    straighten, columns are moved and turned so that the baseline is a level straight line.
    """
    height, width = image.shape[:2]
    if not line.polygon:
        if line.box is None:
            return "without a polygon or box that can be read"
        left, top, right, bottom = np.round(np.multiply(line.box, (*scale, *scale))).astype(int)
        corners = [(left, top), (right - 1, top), (right - 1, bottom - 1), (left, bottom - 1)]
        polygon = np.array(corners)
        if right <= left or bottom <= top:
            return "box without an area"
    else:
        polygon = np.round(np.multiply(line.polygon, scale)).astype(int)
        if len(polygon) < 3:
            return "polygon of fewer than 3 points"
    left, top = np.maximum(polygon.min(0), 0)
    right, bottom = np.minimum(polygon.max(0), (width - 1, height - 1))
    if right < left or bottom < top:
        return "outside the image"
    part = image[top : bottom + 1, left : right + 1]
    # Farther out than this a vertex says no more, and OpenCV counts in 16 bits of fraction.
    local = np.clip(polygon - (left, top), -30_000, 30_000)
    inside = np.zeros(part.shape[:2], np.uint8)
    cv2.fillPoly(inside, [local.astype(np.int32)], 255)
    if not inside.any():
        return "outside the image"
    ground = np.median(part[inside > 0], axis=0)
    if mask:
        part = part.copy()
        part[inside == 0] = ground.astype(np.uint8)
    if straighten and len(line.baseline) > 1:
        base = np.multiply(line.baseline, scale) - (left, top)
        return straightened(part, local, np.clip(base, -30_000, 30_000), ground)
    return part


def straightened(
    image: np.ndarray, polygon: np.ndarray, baseline: np.ndarray, ground: np.ndarray
) -> np.ndarray:
    """The band around a baseline f[n,2] (px, along the text) that holds the polygon, resampled so
    that the baseline is level. Its length is that of the baseline, prolonged to the polygon's ends.
    """
    steps = np.diff(baseline, axis=0)
    baseline = baseline[np.append(True, np.hypot(*steps.T) > 0.5)]
    if len(baseline) < 2:
        return image
    first, last = baseline[0] - baseline[1], baseline[-1] - baseline[-2]
    first, last = first / np.hypot(*first), last / np.hypot(*last)
    before = max(0.0, ((polygon - baseline[0]) @ first).max())
    after = max(0.0, ((polygon - baseline[-1]) @ last).max())
    path = np.vstack([baseline[0] + before * first, baseline[1:-1], baseline[-1] + after * last])
    along = np.append(0, np.cumsum(np.hypot(*np.diff(path, axis=0).T)))
    length = int(min(max(round(along[-1]) + 1, 1), 4 * sum(image.shape[:2]), 30_000))
    at = np.linspace(0, along[-1], length)
    x, y = (np.interp(at, along, path[:, axis]) for axis in (0, 1))
    # Normals of a path smoothed over the height of a line: corners of the baseline open no gaps.
    spread = max(1, image.shape[0] // 4) | 1
    smooth = lambda v: cv2.blur(np.gradient(v)[None], (spread, 1))[0] if length > 1 else v
    dx, dy = smooth(x), smooth(y)
    norm = np.maximum(np.hypot(dx, dy), 1e-6)
    dx, dy = dx / norm, dy / norm
    nearest = np.abs(polygon[:, :1] * 1.0 - x[None]).argmin(1)
    offset = (polygon[:, 1] - y[nearest]) * dx[nearest] - (polygon[:, 0] - x[nearest]) * dy[nearest]
    limit = 2 * sum(image.shape[:2])
    low, high = int(max(np.floor(offset.min()), -limit)), int(min(np.ceil(offset.max()), limit))
    down = np.arange(low, high + 1, dtype=np.float32)[:, None]
    map_x, map_y = x[None] - dy[None] * down, y[None] + dx[None] * down
    border = tuple(float(g) for g in np.atleast_1d(ground))
    return cv2.remap(
        image,
        map_x.astype(np.float32),
        map_y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=border,
    )
