"""A page that was read, as other programs take it: plain text, JSON, hOCR 1.2, ALTO 4."""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np

import dig_jax
from dig_jax.pages.read import Page, TextLine
from dig_jax.text import in_utf8

ALTO = "http://www.loc.gov/standards/alto/ns-v4#"
XHTML = "http://www.w3.org/1999/xhtml"
FORBIDDEN = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # by XML 1.0
SUFFIX = {"text": ".txt", "json": ".json", "hocr": ".hocr", "alto": ".xml"}


def text(page: Page) -> str:
    """A line of text each line, an empty line between blocks."""
    groups = (lines for _, lines in itertools.groupby(page.lines, lambda line: line.block))
    return "\n\n".join("\n".join(line.text for line in lines) for lines in groups) + "\n"


def as_json(page: Page) -> str:
    """One object: page, width_px, height_px, lines of polygon, box, block, text, confidence, words.

    Places are in px of the page as given, boxes left, top, right, bottom.
    """
    row: dict = {"page": in_utf8(page.name)}
    if page.error:
        return json.dumps(row | {"error": page.error}, ensure_ascii=False)
    row |= {"width_px": page.width_px, "height_px": page.height_px, "unread": list(page.unread)}
    row["lines"] = [
        {
            "text": line.text,
            "confidence": round(line.confidence, 4),
            "block": line.block,
            "box": box(page, line.polygon),
            "polygon": points(page, line.polygon),
            "words": [
                {
                    "text": word.text,
                    "confidence": round(word.confidence, 4),
                    "box": box(page, word.polygon),
                }
                for word in line.words
            ],
        }
        for line in page.lines
    ]
    return json.dumps(row, ensure_ascii=False)


def hocr(page: Page) -> str:
    """An XHTML document of one page: blocks, lines with their polygons, words with confidence."""
    html = ET.Element("html", {"xmlns": XHTML})
    head = ET.SubElement(html, "head")
    ET.SubElement(head, "title").text = plain(page.name)
    ET.SubElement(head, "meta", {"charset": "utf-8"})
    parts = "ocr_page ocr_carea ocr_line ocrx_word"
    for name, content in (
        ("ocr-system", f"dig_jax {dig_jax.__version__}"),
        ("ocr-capabilities", parts),
    ):
        ET.SubElement(head, "meta", {"name": name, "content": content})
    size = f"bbox 0 0 {page.width_px} {page.height_px}"
    image = plain(page.name).replace('"', "'")
    sheet = _span(ET.SubElement(html, "body"), "div", "ocr_page", f'image "{image}"; {size}')
    for number, lines in itertools.groupby(page.lines, lambda line: line.block):
        lines = list(lines)
        around = np.concatenate([line.polygon for line in lines])
        block = _span(sheet, "div", "ocr_carea", _bbox(page, around), f"block_{number}")
        for line in lines:
            corners = " ".join(f"{x} {y}" for x, y in points(page, line.polygon))
            title = f"{_bbox(page, line.polygon)}; poly {corners}"
            row = _span(block, "span", "ocr_line", title)
            row.tail = "\n"
            for word in line.words:
                sure = f"x_wconf {round(100 * word.confidence)}"
                cell = _span(row, "span", "ocrx_word", f"{_bbox(page, word.polygon)}; {sure}")
                cell.text, cell.tail = plain(word.text), " "
    return _document(html, "<!DOCTYPE html>\n")


def alto(page: Page) -> str:
    """An ALTO document of one page; lines carry their polygon, words their confidence (WC)."""
    root = ET.Element("alto", {"xmlns": ALTO})
    about = ET.SubElement(root, "Description")
    ET.SubElement(about, "MeasurementUnit").text = "pixel"
    source = ET.SubElement(about, "sourceImageInformation")
    ET.SubElement(source, "fileName").text = plain(page.name)
    done = ET.SubElement(about, "OCRProcessing", {"ID": "OCR_0"})
    software = ET.SubElement(ET.SubElement(done, "ocrProcessingStep"), "processingSoftware")
    ET.SubElement(software, "softwareName").text = "dig_jax"
    ET.SubElement(software, "softwareVersion").text = dig_jax.__version__
    size = {"WIDTH": str(page.width_px), "HEIGHT": str(page.height_px)}
    number = re.search(r"#(\d+)$", page.name)  # of a file of several
    about_it = {"ID": "page_0", "PHYSICAL_IMG_NR": number[1] if number else "1", **size}
    sheet = ET.SubElement(ET.SubElement(root, "Layout"), "Page", about_it)
    space = ET.SubElement(sheet, "PrintSpace", {"HPOS": "0", "VPOS": "0", **size})
    count = itertools.count()
    for number, lines in itertools.groupby(page.lines, lambda line: line.block):
        lines = list(lines)
        around = _places(page, np.concatenate([line.polygon for line in lines]))
        block = ET.SubElement(space, "TextBlock", {"ID": f"block_{number}", **around})
        for line in lines:
            _alto_line(page, line, block, f"line_{next(count)}")
    return _document(root)


def _alto_line(page: Page, line: TextLine, block: ET.Element, name: str) -> None:
    row = ET.SubElement(block, "TextLine", {"ID": name, **_places(page, line.polygon)})
    corners = " ".join(f"{x},{y}" for x, y in points(page, line.polygon))
    ET.SubElement(ET.SubElement(row, "Shape"), "Polygon", {"POINTS": corners})
    for number, word in enumerate(line.words):
        if number:
            ET.SubElement(row, "SP")
        sure = {"WC": f"{min(max(word.confidence, 0.0), 1.0):.3f}"}
        content = {"CONTENT": plain(word.text), **_places(page, word.polygon), **sure}
        ET.SubElement(row, "String", content)


def points(page: Page, polygon: np.ndarray) -> list[list[int]]:
    """[[x, y], ...], whole px, inside the page."""
    inside = np.clip(np.round(polygon), 0, (page.width_px, page.height_px))
    return inside.astype(int).tolist()


def box(page: Page, polygon: np.ndarray) -> list[int]:
    """[left, top, right, bottom] around a polygon, whole px, inside the page."""
    corners = np.array(points(page, polygon))
    return [*corners.min(0).tolist(), *corners.max(0).tolist()]


def plain(text: str) -> str:
    """The text without characters that XML 1.0 forbids."""
    return FORBIDDEN.sub("", text)


def _span(parent: ET.Element, tag: str, kind: str, title: str, name: str = "") -> ET.Element:
    more = {"id": name} if name else {}
    return ET.SubElement(parent, tag, {"class": kind, "title": title, **more})


def _bbox(page: Page, polygon: np.ndarray) -> str:
    return "bbox " + " ".join(map(str, box(page, polygon)))


def _places(page: Page, polygon: np.ndarray) -> dict[str, str]:
    left, top, right, bottom = box(page, polygon)
    names = ("HPOS", "VPOS", "WIDTH", "HEIGHT")
    return dict(zip(names, map(str, (left, top, right - left, bottom - top))))


def _document(root: ET.Element, head: str = "") -> str:
    if not head:  # in hOCR, white space is text
        ET.indent(root)
    words = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}{words}\n'


FORMATS: dict[str, Callable[[Page], str]] = {
    "text": text,
    "json": as_json,
    "hocr": hocr,
    "alto": alto,
}
