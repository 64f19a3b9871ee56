"""Source: pages with ALTO (ABBYY, kraken, eScriptorium, Tesseract, national libraries), cut into
lines.

Every .xml below --input is read, of versions 1 to 4. Lines are cut by Shape/Polygon where there is
one, else by HPOS, VPOS, WIDTH, HEIGHT; these may be pixels, mm10 or inch1200. Several Page elements
are several images, or the frames of one. Options as for --source=page_xml.

Format: https://www.loc.gov/standards/alto/.
"""

import re
import xml.etree.ElementTree as ET

from dig_jax.data.page_lines import (
    BadPage,
    Line,
    Page,
    Points,
    Wanted,
    numbers,
    page_source,
    points,
    sides,
)

UNITS = {"mm10": 1 / 254, "inch1200": 1 / 1200}  # in inches; px at 1 dpi
HYPHEN = "-"
PAGE_OF = re.compile(r"(.+\.\w+)#([1-9]\d{0,5})", re.DOTALL)  # book.tiff#2, as tools.read has it


def parse(root: ET.Element, wanted: Wanted) -> list[Page]:
    """The pages of a file, its root element given. Raises BadPage where it is no ALTO."""
    if root.tag == "PcGts":
        raise BadPage("PAGE, not ALTO: --source=page_xml reads it")
    if root.tag.lower() != "alto":
        raise BadPage("XML that is no ALTO file")
    names = [(name.text or "").strip() for name in root.iter("fileName")]
    names = [name for name in names if name]
    unit = (root.findtext("Description/MeasurementUnit") or "pixel").strip().lower()
    if unit not in ("pixel", *UNITS):
        raise BadPage("ALTO of an unknown MeasurementUnit")
    order = {
        reference.get("REF", ""): place for place, reference in enumerate(root.iter("ElementRef"))
    }
    pages = []
    elements = list(root.iter("Page"))
    for number, page in enumerate(elements):
        own = [names[number]] if len(names) == len(elements) > 1 else names
        frame = number if len(names) <= 1 < len(elements) else 0
        numbered = PAGE_OF.fullmatch(own[0]) if len(own) == 1 else None
        if numbered:
            own, frame = [numbered[1]], int(numbered[2]) - 1
        side = lambda name, page=page: (numbers(page.get(name)) or [0.0])[0]
        lines = _ordered(page, order)
        if wanted.level == "word":
            lines = [string for line in lines for string in line.iter("String")]
        found = [_line(element, wanted) for element in lines]
        size = side("WIDTH"), side("HEIGHT")
        pages.append(Page(own, size, UNITS.get(unit, 0.0), frame, found, bool(numbered)))
    return pages


def _ordered(page: ET.Element, order: dict[str, int]) -> list[ET.Element]:
    """The TextLine elements, blocks and lines that ReadingOrder names (version 4.3) first."""
    if not order:
        return list(page.iter("TextLine"))
    last = len(order)
    placed: list[tuple[int, ET.Element]] = []
    stack = [(page, last)]
    while stack:
        element, place = stack.pop()
        place = order.get(element.get("ID", ""), place)
        if element.tag == "TextLine":
            placed.append((place, element))
            continue
        stack += [(child, place) for child in reversed(list(element))]
    placed.sort(key=lambda line: line[0])
    return [element for _, element in placed]


def _line(element: ET.Element, wanted: Wanted) -> Line:
    """A TextLine or String."""
    polygon = element.find("Shape/Polygon")
    box = None
    if found := sides(element, ("HPOS", "VPOS", "WIDTH", "HEIGHT")):
        left, top, width, height = found
        box = left, top, left + width, top + height
    return Line(
        element.get("ID", ""),
        points(polygon.get("POINTS")) if polygon is not None else [],
        box,
        _baseline(element.get("BASELINE"), box),
        _text(element, wanted.text_from),
    )


def _baseline(text: str | None, box: tuple[float, float, float, float] | None) -> Points:
    """One number is a height (versions 1 to 3), several are points."""
    flat = numbers(text)
    if len(flat) == 1 and box is not None:
        return [(box[0], flat[0]), (box[2], flat[0])]
    return points(text) if len(flat) > 2 else []


def _text(element: ET.Element, text_from: str) -> str | None:
    """Words joined by spaces, the hyphen of a word that goes on in the next line at its end."""
    if element.tag == "String":
        return _content(element, text_from)
    texts: list[str] = []
    any_text = False
    for one in element:
        if one.tag == "String":
            content = _content(one, text_from)
            any_text |= content is not None
            texts.append(content or "")
        elif one.tag == "HYP" and texts:
            texts[-1] += one.get("CONTENT") or HYPHEN
    return " ".join(text for text in texts if text) if any_text else None


def _content(string: ET.Element, text_from: str) -> str | None:
    if text_from == "glyph":
        return "".join(glyph.get("CONTENT", "") for glyph in string.findall("Glyph")) or None
    return string.get("CONTENT")


examples = page_source(parse)
