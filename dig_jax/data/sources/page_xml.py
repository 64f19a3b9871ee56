"""Source: pages with PAGE-XML (Transkribus, eScriptorium, OCR-D, Aletheia), cut into lines.

Every .xml below --input is read, whatever the year of its namespace. The image is the one that
imageFilename names, beside the file, in the folder, or anywhere below by its name. Lines come in
the reading order of the file (ReadingOrder, or Transkribus' custom "readingOrder {index:0;}").

    --level=line|word                 what is cut out
    --text_from=auto|line|word|glyph  whose TextEquiv is the text; auto: the line's, else its words'
    --mask=False                      the whole bounding box instead of the polygon
    --straighten                      along the baseline

Format: https://github.com/PRImA-Research-Lab/PAGE-XML.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from dig_jax.data.page_lines import (
    BadPage,
    Line,
    Page,
    Points,
    Wanted,
    numbers,
    page_source,
    points,
)

LAST = 1 << 30  # the place of what no reading order names


def parse(root: ET.Element, wanted: Wanted) -> list[Page]:
    """The pages of a file, its root element given. Raises BadPage where it is no PAGE."""
    if root.tag.lower() == "alto":
        raise BadPage("ALTO, not PAGE: --source=alto reads it")
    if root.tag != "PcGts":
        raise BadPage("XML that is no PAGE file")
    pages = []
    for page in root.iter("Page"):
        others = [image.get("filename", "") for image in page.findall("AlternativeImage")]
        names = [name for name in (page.get("imageFilename"), *others) if name]
        width, height = (numbers(page.get(f"image{side}")) or [0] for side in ("Width", "Height"))
        lines = [
            one
            for element in ordered_lines(page)
            for one in (element.iter("Word") if wanted.level == "word" else (element,))
        ]
        found = [
            Line(
                one.get("id", ""),
                _points(one.find("Coords")),
                None,
                _points(one.find("Baseline")),
                text_of(one, wanted.text_from),
            )
            for one in lines
        ]
        pages.append(Page(names, (width[0], height[0]), 0.0, 0, found))
    return pages


def _points(element: ET.Element | None) -> Points:
    """points="1,2 3,4", or the Point elements of the versions before 2013."""
    if element is None:
        return []
    if found := points(element.get("points")):
        return found
    each = [numbers(f"{p.get('x')} {p.get('y')}") for p in element.findall("Point")]
    return [(p[0], p[1]) for p in each if len(p) == 2]


def ordered_lines(page: ET.Element) -> list[ET.Element]:
    """The TextLine elements in reading order: of the regions, then of the lines in each."""
    order = {id: place for place, id in enumerate(_references(page.find("ReadingOrder")))}
    by_region: dict[tuple[int, int], list[tuple[int, ET.Element]]] = {}
    # Depth first without recursion, since files may nest without end.
    stack = [(page, (LAST, 0))]
    regions = 0
    while stack:
        element, place = stack.pop()
        if element.tag == "TextLine":
            by_region.setdefault(place, []).append((_custom(element), element))
            continue
        if element.tag.endswith("Region"):
            regions += 1
            own = order.get(element.get("id", ""), place[0]) if order else _custom(element)
            place = own, regions
        stack += [(child, place) for child in reversed(list(element))]
    lines = []
    for _, group in sorted(by_region.items(), key=lambda region: region[0][0]):
        # Only where every line tells its place.
        told = all(custom != LAST for custom, _ in group)
        ordered = sorted(group, key=lambda line: line[0]) if told else group
        lines += [element for _, element in ordered]
    return lines


def _custom(element: ET.Element) -> int:
    """The index of custom="readingOrder {index:3;}"."""
    match = re.search(
        r"readingOrder\s*\{[^}]{0,200}?index\s*:\s*(\d{1,9})", element.get("custom", "")
    )
    return int(match[1]) if match else LAST


def _references(order: ET.Element | None) -> Iterator[str]:
    """The ids of regions in the order that groups of groups give them."""
    index = lambda element: int(next(iter(numbers(element.get("index"))), LAST))
    stack = [order] if order is not None else []
    while stack:
        element = stack.pop()
        if id := element.get("regionRef"):
            yield id
        children = list(element)
        if element.tag.startswith("OrderedGroup"):
            children.sort(key=index)
        stack += reversed(children)


def text_of(element: ET.Element, text_from: str) -> str | None:
    """The text of a line or word; None where the file has none at that level."""
    own = _own_text(element)
    if text_from == "line" or (text_from == "auto" and own is not None):
        return own
    if element.tag == "Word" or text_from == "glyph":
        words = [element] if element.tag == "Word" else element.findall("Word")
        texts = ["".join(_own_text(g) or "" for g in word.findall("Glyph")) for word in words]
        if element.tag == "Word" and text_from == "word":
            return own
    else:
        texts = [_own_text(word) or "" for word in element.findall("Word")]
        if text_from == "auto" and not any(texts):
            return text_of(element, "glyph")
    texts = [text for text in texts if text]
    return " ".join(texts) if texts else None


def _own_text(element: ET.Element) -> str | None:
    """Of several TextEquiv the one of the lowest index, as the format prescribes."""
    rank = lambda found: next(iter(numbers(found.get("index"))), 0.0)
    for found in sorted(element.findall("TextEquiv"), key=rank):
        for name in ("Unicode", "PlainText"):
            if (text := found.find(name)) is not None:
                return text.text or ""
    return None


examples = page_source(parse)
