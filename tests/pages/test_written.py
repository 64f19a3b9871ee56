"""pages/write: what is written parses, and holds the texts and boxes inside the page."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from dig_jax.pages import read, write
from tests.pages import composed

NAME = 'a "page" & <more>\x01.png'


@pytest.fixture(scope="module")
def page():
    """Two columns at an angle, read by the stub; one word holds what XML must escape."""
    made = composed.page(columns=2, skew_degrees=3.0)
    found = read.find(NAME, made.image)
    (result,) = read.read([found], composed.Stub())
    line = result.lines[0]
    odd = line._replace(text="a<b &\x02", words=[line.words[0]._replace(text="a<b &\x02")])
    return result._replace(lines=[odd, *result.lines[1:]])


def inside(page, left, top, right, bottom):
    return 0 <= left < right <= page.width_px and 0 <= top < bottom <= page.height_px


def test_a_page_of_a_file_of_several_says_which_one(page):
    for name, number in (("book.tiff#12", "12"), ("scan#3.png", "1")):
        root = ET.fromstring(write.alto(page._replace(name=name)))
        sheet = next(node for node in root.iter() if node.tag.endswith("Page"))
        assert sheet.get("PHYSICAL_IMG_NR") == number


@pytest.mark.parametrize("error", ["", "bad"])
def test_a_name_that_is_no_utf8_can_be_written(page, error):
    odd = page._replace(name="bad\udcff.png", error=error)
    for kind in ("json", "text", "hocr", "alto"):
        assert write.FORMATS[kind](odd).encode("utf-8")
    assert json.loads(write.as_json(odd))["page"] == r"bad\udcff.png"


def test_hocr_parses_and_places_every_word(page):
    document = write.hocr(page)
    root = ET.fromstring(document.replace("<!DOCTYPE html>\n", ""))
    of = lambda kind: [node for node in root.iter() if node.get("class") == kind]
    assert [len(of(kind)) for kind in ("ocr_page", "ocr_carea", "ocr_line")] == [1, 2, 10]
    words = ["".join(node.itertext()) for node in of("ocrx_word")]
    assert words[0] == "a<b &" and words[1:3] == ["word", "2"] and len(words) == 19
    for node in [*of("ocr_line"), *of("ocrx_word"), *of("ocr_carea")]:
        box = re.search(r"bbox (\d+) (\d+) (\d+) (\d+)", node.get("title"))
        assert inside(page, *map(int, box.groups()))
    assert all(re.search(r"poly( \d+){8,}", node.get("title")) for node in of("ocr_line"))
    assert of("ocrx_word")[1].get("title").endswith("x_wconf 90")
    assert "&lt;more&gt;" in document and "\x01" not in document


def test_alto_parses_and_places_every_word(page):
    root = ET.fromstring(write.alto(page).encode())
    assert root.tag == f"{{{write.ALTO}}}alto"
    of = lambda kind: list(root.iter(f"{{{write.ALTO}}}{kind}"))
    assert [len(of(kind)) for kind in ("Page", "TextBlock", "TextLine")] == [1, 2, 10]
    words = [node.get("CONTENT") for node in of("String")]
    assert words[:3] == ["a<b &", "word", "2"] and len(of("SP")) == 9
    for node in [*of("TextBlock"), *of("TextLine"), *of("String")]:
        left, top, w, h = (int(node.get(name)) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT"))
        assert inside(page, left, top, left + w, top + h)
    for node in of("Polygon"):
        assert re.fullmatch(r"\d+,\d+( \d+,\d+){3,}", node.get("POINTS"))
    names = [node.get("ID") for node in root.iter() if node.get("ID")]
    assert len(set(names)) == len(names)
    assert all(0 <= float(node.get("WC")) <= 1 for node in of("String"))


def test_json_has_its_fields(page):
    row = json.loads(write.as_json(page))
    assert row.keys() == {"page", "width_px", "height_px", "unread", "lines"}
    assert row["page"] == NAME and len(row["lines"]) == 10
    for line in row["lines"]:
        names = {"text", "confidence", "block", "box", "polygon", "words"}
        assert line.keys() == names and inside(page, *line["box"])
        assert all(word.keys() == {"text", "confidence", "box"} for word in line["words"])
        for word in line["words"]:
            middle = (word["box"][1] + word["box"][3]) / 2
            assert line["box"][1] < middle < line["box"][3]
    bad = json.loads(write.as_json(read.Page("x", 0, 0, [], "no image")))
    assert bad == {"page": "x", "error": "no image"}


def test_text_parts_blocks_by_an_empty_line(page):
    first, second = write.text(page).strip("\n").split("\n\n")
    assert first.split("\n")[1:] == ["word 2", "word 3", "word 4", "word 5"]
    assert second.split("\n") == [f"word {n}" for n in range(6, 11)]


def test_words_lie_on_the_line_they_belong_to(page):
    """The quads of words are turned as the line is."""
    for line in page.lines[1:]:
        for word in line.words:
            across = word.polygon[1] - word.polygon[0]
            assert abs(np.degrees(np.arctan2(across[1], across[0])) - 3.0) < 0.3
