"""The page about record sets: what it counts, and that no data gets out of its place."""

import html.parser

import numpy as np
import pytest

from dig_jax.data.record_set import RecordSet
from dig_jax.data.writer import encode_image, write
from dig_jax.tools import record_stats, show_records

EVIL = "</code><script>alert('x')</script>\u202e&amp;"


def image(width=200, height=40):
    return encode_image(np.full((height, width), 128, np.uint8), "png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rows = [("train", image(300), f"line {i} of many", f"book{i % 3}/{i}") for i in range(30)]
    rows += [
        ("train", image(300), EVIL, "<b>id</b>"),
        ("train", image(30), "far too long for a line so narrow", "narrow"),
        ("train", image(900), "ab", "wide"),
        ("train", image(), "1848", "digits"),
        ("train", image(), None, "bare"),
        ("train", image(), "aaaaa", "alike"),
        ("train", b"no image", "x", "broken"),
        *(("train", image(), "the same", f"same/{i}") for i in range(25)),
        ("test", image(), "Ω and ж", "t/0"),
    ]
    path = tmp_path_factory.mktemp("show") / "set"
    write(path, rows, about={"licence": "<i>CC0</i>"})
    return path


def test_what_looks_wrong_is_found_and_nothing_else(folder):
    stats = record_stats.of(RecordSet(folder))
    found = {why: rows.tolist() for why, rows in stats.suspects.items()}
    assert found == {
        "no label": [34],
        "digits and marks only": [33],
        "one character again and again": [35],
        "text of 20 lines or more": list(range(37, 62)),
        "label too long for the width": [31],
        "label too short for the width": [32],
        "image whose size cannot be read": [36],
    }
    assert stats.repeated == [("the same", 25)]
    assert stats.counts["Ω"] == 0 and stats.counts["f"] == 32 and stats.lines["f"] == 31
    assert record_stats.folders([f"a/{i}" for i in range(3)] + ["b/1"]) == [("a", 3), ("b", 1)]
    assert record_stats.folders(["a/1", "a/2"]) == [] == record_stats.folders(["x", "y"])


class Page(html.parser.HTMLParser):
    """Tags that are opened and never closed, all tags, and what would be loaded from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.loaded = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        links = [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.loaded += [link for link in links if link and not link.startswith(("data:", "#"))]
        if tag not in ("meta", "img", "br", "path", "use", "html", "rect", "defs"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_data_stay_data(folder):
    text = show_records.page([(str(folder), "")], lines=70)
    page = Page(text)
    assert not page.open and not page.loaded and not page.tags & {"script", "b id", "i"}
    assert "&lt;/code&gt;&lt;script&gt;alert" in text and "\u202e" not in text
    assert "&lt;i&gt;CC0&lt;/i&gt;" in text and "&lt;b&gt;id&lt;/b&gt;" in text
    assert text.count("<div class=line>") >= 62 + 1 and "(image of a format" in text
    assert "that train lacks" in text and "Ω ж" in text
    for words in ("62 of 62 lines", "book0", "Longest labels", "Narrow", "U+202E"):
        assert words.lower() in text.lower(), words
    assert "--ratio: 22.5" in text  # 900 x 40 px: shrunk no further than to 16 px of height


def test_a_bar_stands_over_its_number():
    """Lines of one height have one bar and whole numbers below it."""
    text = show_records.histogram("Height", np.full(9, 48), "px")
    assert ">48<" in text and ">48." not in text


def test_sets_of_one_line_without_labels_have_a_page(tmp_path):
    write(tmp_path / "one", [("train", image(), None, "a")])
    write(tmp_path / "two", [("train", image(), "b", "a")])
    text = show_records.page([(str(tmp_path / n), "train") for n in ("one", "two")], lines=5)
    assert "2 record sets" in text and "(no label)" in text and not Page(text).open
