"""pages/read and tools/read: files become texts; what cannot be read is one sentence."""

import io
import json
import struct
import zlib

import cv2
import numpy as np
import pytest
from absl import flags
from PIL import Image

from dig_jax.load import Character, Reading
from dig_jax.pages import clean, read
from dig_jax.text import to_visual
from dig_jax.tools import read as tool
from tests.pages import composed


@pytest.fixture(scope="module")
def page():
    return composed.page(gap=(0.3, 0.4)).image


def all_of(names, reader=None, **options):
    found = (
        read.find(name, image)
        for file in read.files_of(names)
        for name, image in read.pictures(file)
    )
    return list(read.read(found, reader or composed.Stub(), **options))


def claimed(width, height):
    """A PNG whose header tells any size."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    head = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + head + b"\0\0\0\0IEND\xaeB`\x82"


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


BAD = {
    "empty.png": (b"", "empty file"),
    "text.png": (b"no image at all", "not an image"),
    "cut.png": (png(np.full((50, 50), 255, np.uint8))[:60], "truncated or damaged"),
    "huge.png": (claimed(40_000, 40_000), "too large"),
    "one.png": (png(np.zeros((1, 1), np.uint8)), "too small for a line"),
    "black.png": (png(np.zeros((400, 300), np.uint8)), "nothing is written on it"),
    "white.png": (png(np.full((400, 300), 255, np.uint8)), "nothing is written on it"),
    "pdf.pdf": (b"%PDF-1.4 and then nothing", "this PDF cannot be opened"),
}


def test_bad_files_are_named_and_stop_nothing(page, tmp_path):
    for name, (data, _) in BAD.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "z_good.png").write_bytes(png(page))
    *bad, good = all_of([tmp_path / "gone.png", tmp_path])
    assert bad[0].name.endswith("gone.png") and "cannot be read" in bad[0].error
    reasons = {result.name.rpartition("/")[2]: result.error for result in bad[1:]}
    assert reasons.keys() == BAD.keys()
    for name, (_, words) in BAD.items():
        assert words in reasons[name] and "\n" not in reasons[name], (name, reasons[name])
    assert len(good.lines) == 10 and not good.error


def test_lines_of_all_pages_share_one_stream_and_keep_their_page(page, tmp_path):
    frames = [Image.fromarray(page), Image.fromarray(page[: page.shape[0] // 2])]
    frames[0].save(tmp_path / "two.tif", save_all=True, append_images=frames[1:])
    (tmp_path / "a.png").write_bytes(png(page))
    first, second, third = all_of([tmp_path / "two.tif", tmp_path / "a.png"])
    assert (first.name[-6:], second.name[-6:]) == (".tif#1", ".tif#2")
    texts = [line.text for result in (first, second, third) for line in result.lines]
    assert len(first.lines) == 10 and len(second.lines) < 10
    assert texts == [f"word {n}" for n in range(1, len(texts) + 1)]


def test_a_picture_of_one_line_is_read_whole(page):
    for line in composed.lines():
        for picture in (line, np.pad(line, 6, constant_values=255), 255 - line):
            found = read.find("line", picture)
            assert len(found.lines) == 1, picture.shape
            assert found.lines[0].image.shape == picture.shape
    assert len(read.find("page", page).lines) == 10


def test_a_page_upside_down_is_turned(page):
    """The stub is sure of what looks like a line of the upright page."""
    small = lambda image: cv2.resize(image, (300, 20), interpolation=cv2.INTER_AREA).ravel()
    known = [small(line.image) for line in read.find("page", page).lines]
    like = lambda image: max(np.corrcoef(small(image), line)[0, 1] for line in known)
    reader = composed.Stub(lambda image: 0.9 if like(image) > 0.8 else 0.3)
    turned = read.find("page", page[::-1, ::-1].copy())
    (left,) = read.read([turned], reader, both_ways=False)
    (result,) = read.read([turned], reader)
    assert left.lines[0].confidence < 0.5 < result.lines[0].confidence
    rows = np.array([line.polygon[:, 1].mean() for line in result.lines])
    assert (np.diff(rows) < 0).all()  # the first line lies lowest on the picture as given


def test_spelling_is_mended_word_by_word(page):
    upper = lambda text: text.upper()
    (result,) = read.read([read.find("page", page)], composed.Stub(), correct=upper)
    assert [word.text for word in result.lines[0].words] == ["WORD", "1"]


def seen(picture, text):
    """A reading whose characters stand at 0 to 1, 1 to 2 and so on."""
    letters = [Character(char, 0.5, i, i + 1) for i, char in enumerate(picture)]
    return Reading("", text, 0.5, letters)


@pytest.mark.parametrize(
    "text",
    [
        "ab cde",
        "שלום עולם",
        "שלום abc def עולם",
        "abc שלום עולם",
        "שלום 12 (אב), abc!",
        "می\u200cخواهم به خانه",
        "אבא אבא",
    ],
)
def test_words_of_right_to_left_lines_have_their_places(text):
    picture, spans = to_visual(text), read.spans(seen(to_visual(text), text))
    assert len(spans) == len(text.split(" ")) and len(set(spans)) == len(spans)
    letters = lambda word: sorted(char for char in word if char not in "(),.!")
    for word, (sure, left, right) in zip(text.split(" "), spans):
        assert letters(picture[left:right]) == letters(word) and sure == 0.5
    if text == "אבא אבא":  # the first word of a text stands at the right, whatever it says
        assert spans[0] == (0.5, 4, 7)


def test_characters_learnt_in_the_order_of_the_text_keep_it():
    assert read.spans(seen("שלום אב", "שלום אב")) == [(0.5, 0, 4), (0.5, 5, 7)]


def test_files_place_the_words_of_mixed_lines(page):
    """All formats take the words' boxes from one place."""
    text = "שלום abc def עולם"
    reader = type("", (), {"stream": lambda self, images, _: map(lambda one: placed(*one), images)})
    placed = lambda name, image: seen(to_visual(text), text)
    (result,) = read.read([read.find("page", page)], reader(), both_ways=False)
    assert [word.text for word in result.lines[0].words] == text.split(" ")
    left = {word.text: word.polygon[:, 0].min() for word in result.lines[0].words}
    assert sorted(left, key=left.get) == ["עולם", "abc", "def", "שלום"]


def test_a_pdf_is_read_page_by_page(page, tmp_path):
    pytest.importorskip("pypdfium2")
    sheets = [Image.fromarray(page), Image.fromarray(page)]
    sheets[0].save(tmp_path / "b.pdf", save_all=True, append_images=sheets[1:], resolution=150)
    one, two = read.pictures(tmp_path / "b.pdf", dpi=150)
    assert one[0].endswith("b.pdf#1") and two[0].endswith("b.pdf#2")
    assert np.abs(np.subtract(one[1].shape, page.shape)).max() <= 1
    ((_, low),) = [one for one in read.pictures(tmp_path / "b.pdf", dpi=30)][:1]
    assert low.shape[0] < page.shape[0]


def test_a_missing_library_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pypdfium2", None)
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.4")
    ((_, reason),) = read.pictures(tmp_path / "b.pdf")
    assert "pip install 'dig_jax[pdf]'" in str(reason)


# ---- the program


def test_a_hash_in_a_path_is_part_of_it(tmp_path, page):
    """Only the number at the end of a page's name is that of a page."""
    names = [
        "/scans/set#3/page.png",
        "scan#1.png",
        "a#1/book.pdf#2",
        "a#1/book.pdf#12",
        "b#2.tif#1",
    ]
    (one,) = read.read([read.find("one", page)], composed.Stub())
    assert (
        tool.write_all([one._replace(name=name) for name in names], "text", str(tmp_path))[0] == 5
    )
    written = {path.name for path in tmp_path.rglob("*")}
    assert written == {"page.txt", "scan#1.txt", "book-2.txt", "book-12.txt", "b#2-1.txt"}


def test_files_are_written_under_their_names(page, tmp_path, capsys):
    results = all_of([]) + list(read.read([read.find("d/a.png", page)], composed.Stub()))
    bad = read.Page("bad.png", 0, 0, [], "not an image")
    twice = [results[0], bad, results[0]._replace(unread=("too wide",))]
    assert tool.write_all(twice, "alto", str(tmp_path / "new")) == (2, 1, 20)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"a.xml", "a-2.xml"}
    told = capsys.readouterr().err
    assert "bad.png: not an image\n" in told
    assert "1 of its lines could not be read, such as: too wide" in told
    assert tool.write_all(twice, "json", "") == (2, 1, 20)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.get("error", "") for row in rows] == ["", "not an image", ""]
    tool.write_all([results[0]], "text", "")
    assert capsys.readouterr().out.startswith("word 1\nword 2\n")


def test_names_of_files():
    taken: set[str] = set()
    pages = ("x/book.pdf#2", "book.pdf#2", "book.tif", "a.b.png")
    names = [tool.page_name(page, taken) for page in pages]
    assert names == ["book-2", "book-2-2", "book", "a.b"]


def test_stages_are_drawn(page, tmp_path):
    for folder in ("a", "b"):  # two pages of one name
        (tmp_path / folder).mkdir()
        Image.fromarray(page).save(tmp_path / folder / "p.png")
    pages = [str(tmp_path / folder / "p.png") for folder in ("a", "b")]
    list(tool.found_pages(pages, ["border"], 300, False, str(tmp_path / "d")))
    drawn = {path.name for path in (tmp_path / "d").iterdir()}
    assert len(drawn) == 2 * len(clean.STAGES) and not any("border" in name for name in drawn)
    assert {"p-1-polarity.png", "p-7-lines.png", "p-2-7-lines.png"} <= drawn
    (tmp_path / "d" / "p-7-lines.png").unlink()
    (tmp_path / "d" / "p-7-lines.png").mkdir()
    with pytest.raises(OSError, match="p-7-lines.png could not be written"):
        list(tool.found_pages(pages, ["border"], 300, False, str(tmp_path / "d")))


def test_files_of_other_kinds_are_counted(tmp_path, capsys):
    for name in ("a.HEIC", "b.pdf", "c.png"):
        (tmp_path / name).write_bytes(b"x")
    tool.say_left_out([str(tmp_path), str(tmp_path / "a.HEIC")])
    want = f"{tmp_path}: 1 .heic left out: other kinds are read once they are PNG or JPEG\n"
    assert capsys.readouterr().err == want


def test_wrong_flags_are_one_sentence(monkeypatch):
    given = {"skip": [], "format": "text", "output": "", "batch_size": 32, "dpi": 300, "edits": 1}

    def check(names=("a.png",), **changes):
        values = flags.FlagValues()
        for name, value in (given | changes).items():
            kind = flags.DEFINE_list if name == "skip" else flags.DEFINE_string
            kind = flags.DEFINE_integer if isinstance(value, int) else kind
            kind(name, value, "", flag_values=values)
        values(["program"])
        monkeypatch.setattr(tool, "FLAGS", values)
        tool.check(names)

    check()
    for words, changes in (
        ("name pages to read", {"names": []}),
        ("--skip=ironing: stages are polarity", {"skip": ["ironing"]}),
        ("give --output=FOLDER", {"format": "alto"}),
        ("--dpi is 3: give 30 or more", {"dpi": 3}),
    ):
        with pytest.raises(ValueError, match=words):
            check(**changes)


def test_a_page_of_a_pdf_that_cannot_be_drawn_stops_nothing(page, tmp_path):
    """Three pages, of which the second is none any more."""
    pytest.importorskip("pypdfium2")
    sheets = [Image.fromarray(page)] * 3
    sheets[0].save(tmp_path / "b.pdf", save_all=True, append_images=sheets[1:], resolution=72)
    data = (tmp_path / "b.pdf").read_bytes()
    parts = data.split(b"/Type /Page\n")
    assert len(parts) == 4
    broken = parts[0] + b"/Type /Page\n" + parts[1] + b"/Type /Nope\n" + parts[2]
    (tmp_path / "b.pdf").write_bytes(broken + b"/Type /Page\n" + parts[3])
    one, two, three = read.pictures(tmp_path / "b.pdf", dpi=72)
    assert one[1].shape == three[1].shape == page.shape and two[0].endswith("b.pdf#2")
    assert "this page of the PDF cannot be drawn" in str(two[1])


def test_the_thumbnail_of_a_jpeg_is_no_page(page, tmp_path):
    small = Image.fromarray(page).resize((90, 120))
    Image.fromarray(page).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[small])
    assert Image.open(tmp_path / "a.jpg").n_frames == 2
    ((name, image),) = read.pictures(tmp_path / "a.jpg")
    assert name.endswith("a.jpg") and image.shape == page.shape
