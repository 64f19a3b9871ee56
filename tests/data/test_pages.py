"""Pages in PAGE-XML and ALTO, as several producers write them: every line comes back, in order,
with its pixels; what cannot be cut is counted by lines.
"""

import cv2
import numpy as np
import pytest

from dig_jax.data import page_lines
from dig_jax.data.page_lines import straightened
from tests.data.made import make, picture, refused

PAGE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/{}"
LINES = [(20, 10, 200, 30), (24, 60, 180, 26), (30, 110, 220, 40), (18, 170, 150, 24)]  # x, y, w, h
TEXTS = ["Erste Zeile,", "zweite Zeile", "dritte & letzte", "Randnote"]


def page_image(width=300, height=220):
    """A page with LINES on it, and the pixels of each."""
    page = np.full((height, width), 230, np.uint8)
    for number, (x, y, w, h) in enumerate(LINES):
        page[y : y + h, x : x + w] = picture(number, w, h)
    return page


def write(folder, name, page=None):
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / name), page_image() if page is None else page)


def corners(box):
    """The polygon of a box, its last pixels included, as PAGE counts."""
    x, y, w, h = box
    return f"{x},{y} {x + w - 1},{y} {x + w - 1},{y + h - 1} {x},{y + h - 1}"


def escaped(text):
    return text.replace("&", "&amp;")


def line_xml(number, text=None, extra="", coords=None):
    text = TEXTS[number] if text is None else text
    return (
        f'<TextLine id="l{number}" {extra}><Coords points="{coords or corners(LINES[number])}"/>'
        f"<TextEquiv><Unicode>{escaped(text)}</Unicode></TextEquiv></TextLine>"
    )


def page_xml(body, image="p1.png", year="2019-07-15", size=(300, 220), head=""):
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<PcGts xmlns="{PAGE.format(year)}"><Metadata/>'
        f'<Page imageFilename="{image}" imageWidth="{size[0]}" imageHeight="{size[1]}">{head}{body}</Page></PcGts>'
    )


def transkribus(folder):
    """page/x.xml beside the image's folder, order in `custom`, a baseline, words."""
    write(folder, "0001_p1.jpg.png")
    regions = "".join(
        f'<TextRegion id="r{r}" custom="readingOrder {{index:{1 - r};}} structure {{type:paragraph;}}"><Coords points="0,0 9,9 9,0"/>'
        + "".join(line_xml(n, extra=f'custom="readingOrder {{index:{i};}}"') for i, n in order)
        + f"<TextEquiv><Unicode>{escaped(' '.join(TEXTS[n] for _, n in order))}</Unicode></TextEquiv></TextRegion>"
        for r, order in ((0, [(0, 3)]), (1, [(1, 1), (0, 0), (2, 2)]))
    )
    (folder / "page").mkdir()
    text = page_xml(regions, "0001_p1.jpg.png", "2013-07-15")
    (folder / "page" / "0001_p1.xml").write_text(text)
    return "page/0001_p1.xml"


def escriptorium(folder):
    """Lines out of order, ReadingOrder by references, text in the line only."""
    write(folder, "p1.png")
    order = (
        '<ReadingOrder><OrderedGroup id="o"><RegionRefIndexed index="1" regionRef="b"/>'
        '<RegionRefIndexed index="0" regionRef="a"/></OrderedGroup></ReadingOrder>'
    )
    body = (
        f'<TextRegion id="b"><Coords points="0,0"/>{line_xml(3)}</TextRegion>'
        f'<TextRegion id="a">{line_xml(0)}{line_xml(1)}{line_xml(2)}</TextRegion>'
    )
    (folder / "p1.xml").write_text(page_xml(body, head=order))
    return "p1.xml"


def ocrd(folder):
    """OCR-D: prefix pc:, images in a folder of their own, text in words, alternatives by index."""
    write(folder / "OCR-D-IMG", "p1.png")
    lines = []
    for number, text in enumerate(TEXTS):
        words = "".join(
            f'<pc:Word id="w{number}{i}"><pc:Coords points="{corners(LINES[number])}"/>'
            f'<pc:TextEquiv index="1"><pc:Unicode>wrong</pc:Unicode></pc:TextEquiv>'
            f'<pc:TextEquiv index="0"><pc:Unicode>{escaped(word)}</pc:Unicode></pc:TextEquiv></pc:Word>'
            for i, word in enumerate(text.split())
        )
        coords = corners(LINES[number])
        lines.append(
            f'<pc:TextLine id="l{number}"><pc:Coords points="{coords}"/>{words}</pc:TextLine>'
        )
    (folder / "OCR-D-GT").mkdir()
    text = (
        f'<pc:PcGts xmlns:pc="{PAGE.format("2018-07-15")}"><pc:Page imageFilename="OCR-D-IMG/p1.png" imageWidth="300" '
        f'imageHeight="220"><pc:TextRegion id="r">{"".join(lines)}</pc:TextRegion></pc:Page></pc:PcGts>'
    )
    (folder / "OCR-D-GT" / "p1.xml").write_text(text)
    return "OCR-D-GT/p1.xml"


def aletheia(folder):
    """2010: Point elements, nested regions, a path of Windows."""
    write(folder / "scans", "P1.PNG")
    lines = []
    for number, text in enumerate(TEXTS):
        pairs = [pair.split(",") for pair in corners(LINES[number]).split()]
        dots = "".join(f'<Point x="{x}" y="{y}"/>' for x, y in pairs)
        lines.append(
            f'<TextLine id="l{number}"><Coords>{dots}</Coords><TextEquiv><PlainText>{escaped(text)}</PlainText></TextEquiv></TextLine>'
        )
    body = f'<TextRegion id="r"><TextRegion id="s">{"".join(lines[:2])}</TextRegion>{"".join(lines[2:])}</TextRegion>'
    (folder / "x.xml").write_text(page_xml(body, "C:\\scans\\p1.png", "2010-03-19"))
    return "x.xml"


PRODUCERS = {
    "transkribus": transkribus,
    "escriptorium": escriptorium,
    "ocrd": ocrd,
    "aletheia": aletheia,
}


@pytest.mark.parametrize("producer", PRODUCERS)
def test_known_lines_come_back_pixel_for_pixel(tmp_path, producer):
    file = PRODUCERS[producer](tmp_path / "in")
    made = make(tmp_path / "out", "page_xml", f"--input={tmp_path / 'in'}", "--codec=png")
    assert list(made.texts.values()) == TEXTS and made.reasons == {}
    for number, (_, _, w, h) in enumerate(LINES):
        assert np.array_equal(made.image(f"{file}#l{number}"), picture(number, w, h))


def alto(lines, image="p1.png", version="v4", unit="pixel", size=(300, 220), head="", pages=None):
    names = image if isinstance(image, list) else [image]
    sources = "".join(
        f"<sourceImageInformation><fileName>{n}</fileName></sourceImageInformation>" for n in names
    )
    namespace = f' xmlns="http://www.loc.gov/standards/alto/ns-{version}#"' if version else ""
    bodies = pages or [lines]
    shapes = "".join(
        f'<Page ID="P{i}" WIDTH="{size[0]}" HEIGHT="{size[1]}"><PrintSpace><TextBlock ID="b">{body}</TextBlock></PrintSpace></Page>'
        for i, body in enumerate(bodies)
    )
    return (
        f'<?xml version="1.0"?><alto{namespace}><Description><MeasurementUnit>{unit}</MeasurementUnit>{sources}</Description>'
        f"{head}<Layout>{shapes}</Layout></alto>"
    )


def box_line(number, scale=1.0, hyphen=False):
    """ABBYY's way: boxes, words with SP between, HYP at the end."""
    x, y, w, h = (value * scale for value in LINES[number])
    strings = f'<SP WIDTH="3"/>'.join(  # noqa: F541
        f'<String ID="s{number}{i}" CONTENT="{escaped(word)}" HPOS="{x:.4f}" VPOS="{y:.4f}" WIDTH="{w:.4f}" HEIGHT="{h:.4f}"/>'
        for i, word in enumerate(TEXTS[number].split())
    )
    return (
        f'<TextLine ID="l{number}" HPOS="{x:.4f}" VPOS="{y:.4f}" WIDTH="{w:.4f}" HEIGHT="{h:.4f}" BASELINE="{y + h:.1f}">{strings}'
        f"{'<HYP CONTENT=' + chr(34) + '-' + chr(34) + '/>' if hyphen else ''}</TextLine>"
    )


def shape_line(number, points):
    """kraken's and eScriptorium's way: a polygon and one String."""
    return (
        f'<TextLine ID="l{number}" BASELINE="20 40 210 40"><Shape><Polygon POINTS="{points}"/></Shape>'
        f'<String CONTENT="{escaped(TEXTS[number])}"/></TextLine>'
    )


@pytest.mark.parametrize(
    "kind", ["abbyy", "no namespace", "mm10", "inch1200", "commas", "blanks", "order"]
)
def test_alto_of_several_hands(tmp_path, kind):
    write(tmp_path / "in", "p1.png")
    boxes = lambda scale=1.0: "".join(box_line(n, scale) for n in range(4))
    text = {
        "abbyy": lambda: alto(boxes(), version="v2"),
        "no namespace": lambda: alto(boxes(), version=""),
        "mm10": lambda: alto(boxes(25.4 / 30), unit="mm10", size=(254, 220 * 25.4 / 30)),
        "inch1200": lambda: alto(boxes(4), unit="inch1200", size=(1200, 880)),
        "commas": lambda: alto("".join(shape_line(n, corners(LINES[n])) for n in range(4))),
        "blanks": lambda: alto("".join(shape_line(n, corners(LINES[n]).replace(",", " ")) for n in range(4))),
        "order": lambda: alto("".join(box_line(n) for n in (2, 0, 3, 1)), head=(
            "<ReadingOrder><OrderedGroup>" + "".join(f'<ElementRef REF="l{n}"/>' for n in range(4)) + "</OrderedGroup></ReadingOrder>")),
    }[kind]()  # fmt: skip
    (tmp_path / "in" / "p1.xml").write_text(text)
    made = make(tmp_path / "out", "alto", f"--input={tmp_path / 'in'}", "--codec=png")
    assert list(made.texts.values()) == TEXTS and made.reasons == {}
    for number, (_, _, w, h) in enumerate(LINES):
        assert np.array_equal(made.image(f"p1.xml#l{number}"), picture(number, w, h))


def test_hyphens_words_and_pages_of_one_file(tmp_path):
    write(tmp_path / "in", "p1.png")
    write(tmp_path / "in", "p2.png", 255 - page_image())
    two = alto("", ["p1.png", "p2.png"], pages=[box_line(1, hyphen=True), box_line(0)])
    (tmp_path / "in" / "book.xml").write_text(two)
    made = make(tmp_path / "out", "alto", f"--input={tmp_path / 'in'}", "--codec=png")
    assert made.texts == {"book.xml#l1": "zweite Zeile-", "book.xml#l0": "Erste Zeile,"}
    assert np.array_equal(made.image("book.xml#l0"), 255 - picture(0, 200, 30))
    words = make(tmp_path / "words", "alto", f"--input={tmp_path / 'in'}", "--level=word")
    assert list(words.texts.values()) == ["zweite", "Zeile", "Erste", "Zeile,"]
    from PIL import Image

    frames = [Image.fromarray(p) for p in (page_image(), 255 - page_image())]
    frames[0].save(tmp_path / "in" / "both.tif", save_all=True, append_images=frames[1:])
    (tmp_path / "in" / "book.xml").write_text(
        alto("", "both.tif", pages=[box_line(1), box_line(0)])
    )
    made = make(tmp_path / "tif", "alto", f"--input={tmp_path / 'in'}", "--codec=png")
    assert np.array_equal(made.image("book.xml#l0"), 255 - picture(0, 200, 30))
    (tmp_path / "in" / "book.xml").unlink()
    for page in (1, 2, 3):  # as tools.read writes them: a document for each page of the file
        (tmp_path / "in" / f"both-{page}.xml").write_text(alto(box_line(0), f"both.tif#{page}"))
    made = make(tmp_path / "pages", "alto", f"--input={tmp_path / 'in'}", "--codec=png")
    assert np.array_equal(made.image("both-1.xml#l0"), picture(0, 200, 30))
    assert np.array_equal(made.image("both-2.xml#l0"), 255 - picture(0, 200, 30))
    (reason,) = made.reasons
    assert reason.startswith("image of fewer frames than its file has pages")


@pytest.mark.parametrize("source", ["book.pdf#2", "book.tif#2"])
def test_a_page_of_a_file_that_is_not_there_has_an_image_of_its_own(tmp_path, source):
    """The pages were drawn or split: book-2.png beside book-2.xml, and not the first one."""
    write(tmp_path / "in", "book.png", 255 - page_image())
    write(tmp_path / "in", "book-2.png")
    (tmp_path / "in" / "book-2.xml").write_text(alto(box_line(0), source))
    made = make(tmp_path / "out", "alto", f"--input={tmp_path / 'in'}", "--codec=png")
    assert np.array_equal(made.image("book-2.xml#l0"), picture(0, 200, 30))
    told = "image of a page is missing: that of the page file's name is cut (lines kept)"
    assert made.reasons == {told: 1}


def test_polygons_are_masked_with_paper(tmp_path):
    page = page_image()
    page[10:40, 20:220] = 200
    page[12:20, 150:160] = 0  # of a neighbour, outside the polygon
    write(tmp_path / "in", "p1.png", page)
    body = line_xml(0, coords="20,10 140,10 140,25 219,25 219,39 20,39")
    (tmp_path / "in" / "p1.xml").write_text(page_xml(f"<TextRegion>{body}</TextRegion>"))
    for mask, dark in (("True", 0), ("False", 80)):
        made = make(
            tmp_path / mask,
            "page_xml",
            f"--input={tmp_path / 'in'}",
            "--codec=png",
            f"--mask={mask}",
        )
        image = made.image("p1.xml#l0")
        assert image.shape == (30, 200) and (image == 0).sum() == dark
        assert image[0, 190] == 200


def test_baselines_are_straightened():
    """A bar drawn along a slope and along a bow lies level, and keeps its length and thickness."""
    for bow in (0, 25):
        xs = np.arange(20, 281)
        ys = 100 + 0.2 * (xs - 150) + bow * np.sin(xs / 60)
        image = np.full((220, 300), 220, np.uint8)
        line = np.stack([xs, ys], 1)
        cv2.polylines(image, [np.round(line).astype(np.int32)], False, 20, 3)
        polygon = np.vstack([line - (0, 20), (line + (0, 8))[::-1]])
        out = straightened(image, np.round(polygon).astype(int), line[::20], np.float64(220))
        rows = np.flatnonzero((out < 120).mean(1) > 0.5)
        length = np.hypot(*np.diff(line, axis=0).T).sum()
        assert 2 <= len(rows) <= 5 and np.ptp(rows) == len(rows) - 1
        assert abs(out.shape[1] - length) < 12 and 26 <= out.shape[0] <= 36
        dark = (out < 120).any(0)
        assert dark.mean() > 0.9


def test_a_line_of_a_sloping_page_comes_back_level(tmp_path):
    page = np.full((300, 600), 220, np.uint8)
    page[150:154, 50:550] = 0
    turn = cv2.getRotationMatrix2D((300, 150), 8, 1)
    page = cv2.warpAffine(page, turn, (600, 300), borderValue=220)
    write(tmp_path / "in", "p1.png", page)
    at = lambda x, y: "{:.0f},{:.0f}".format(*(turn @ (x, y, 1)))
    polygon = " ".join(at(x, y) for x, y in ((40, 130), (560, 130), (560, 165), (40, 165)))
    line = (
        f'<TextLine id="l"><Coords points="{polygon}"/><Baseline points="{at(40, 153)} {at(560, 153)}"/>'
        "<TextEquiv><Unicode>x</Unicode></TextEquiv></TextLine>"
    )
    (tmp_path / "in" / "p1.xml").write_text(page_xml(line, size=(600, 300)))
    flags = (f"--input={tmp_path / 'in'}", "--codec=png", "--height_px=200")
    plain = make(tmp_path / "a", "page_xml", *flags).image("p1.xml#l")
    level = make(tmp_path / "b", "page_xml", *flags, "--straighten").image("p1.xml#l")
    assert plain.shape[0] > 100 and level.shape[0] < 45
    assert (level < 100).any(1).sum() <= 8 and abs(level.shape[1] - 521) < 6


def test_every_line_is_a_record_or_a_reason(tmp_path):
    write(tmp_path / "in", "p1.png")
    odd = [
        line_xml(0), '<TextLine id="none"><TextEquiv><Unicode>x</Unicode></TextEquiv></TextLine>',
        '<TextLine id="two"><Coords points="1,1 5,5"/></TextLine>', '<TextLine id="out"><Coords points="900,1 950,1 950,9"/></TextLine>',
        '<TextLine id="huge"><Coords points="-99999999,-9 99999999999,-9 9999,9999"/></TextLine>', line_xml(1, ""),
        '<TextLine id="l0"><Coords points="20,10 200,10 200,39 20,39"/></TextLine>',
    ]  # fmt: skip
    (tmp_path / "in" / "p1.xml").write_text(page_xml("".join(odd)))
    (tmp_path / "in" / "gone.xml").write_text(page_xml(line_xml(0) + line_xml(1), "gone.png"))
    (tmp_path / "in" / "mets.xml").write_text("<mets/>")
    (tmp_path / "in" / "broken.xml").write_text("<PcGts>")
    (tmp_path / "in" / "a.xml").write_text(alto(box_line(0)))
    (tmp_path / "in" / "empty.xml").write_text(page_xml(""))
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {b} "{("&" + a + ";") * 20}">' for a, b in zip("abcdefgh", "bcdefghi")
    )
    (tmp_path / "in" / "bomb.xml").write_text(bomb + "]><PcGts>&i;</PcGts>")
    made = make(tmp_path / "out", "page_xml", f"--input={tmp_path / 'in'}")
    assert made.texts == {
        "p1.xml#l0": TEXTS[0], "p1.xml#huge": None, "p1.xml#l1": None, "p1.xml#line6": None
    }  # fmt: skip
    assert made.reasons == {
        "without a polygon or box that can be read": 1, "polygon of fewer than 3 points": 1, "outside the image": 1,
        "empty label (image kept, unlabelled)": 1, "image of a page is missing (its lines)": 2,
        "XML that is no PAGE file": 1, "no XML, or damaged": 2, "ALTO, not PAGE: --source=alto reads it": 1,
        "page file without a line": 1,
    }  # fmt: skip


def test_numbers_of_a_polygon_do_not_change_places(tmp_path):
    """A word among them, or one too few, would pair the others wrongly: left out, and counted."""
    box = page_lines.points(corners(LINES[0]))
    long = [f"{x:.14f}, {y:.0f}e0" for x, y in box]
    assert len(box) == 4 and page_lines.points(" ".join(long)) == box
    broken = ["nan,10 219,10 219,39 20,39", "20,10 219,10 219,39 20", "20,10 219,10 219,3g 20,39"]
    lines = [line_xml(0, coords=points) for points in (*broken, " ".join(long))]
    write(tmp_path / "in", "p1.png")
    (tmp_path / "in" / "p1.xml").write_text(page_xml("".join(lines)))
    made = make(tmp_path / "out", "page_xml", f"--input={tmp_path / 'in'}", "--codec=png")
    assert made.reasons == {"without a polygon or box that can be read": 3}
    (id,) = made.rows
    np.testing.assert_array_equal(made.image(id), picture(0, *LINES[0][2:]))


def test_an_image_of_another_name_is_told(tmp_path):
    write(tmp_path / "in", "p1.png")
    (tmp_path / "in" / "p1.xml").write_text(page_xml(line_xml(0), "scan.png"))
    made = make(tmp_path / "out", "page_xml", f"--input={tmp_path / 'in'}")
    assert made.texts == {"p1.xml#l0": TEXTS[0]}
    told = "image of a page is missing: that of the page file's name is cut (lines kept)"
    assert made.reasons == {told: 1}


def test_scaled_images_glyphs_and_splits(tmp_path):
    page = cv2.resize(page_image(), (600, 440), interpolation=cv2.INTER_NEAREST)
    write(tmp_path / "in" / "val", "p1.png", page)
    glyphs = "".join(f"<Glyph><TextEquiv><Unicode>{c}</Unicode></TextEquiv></Glyph>" for c in "abc")
    word = f"<Word><Coords points='1,1 9,1 9,9'/>{glyphs}</Word>"
    line = f'<TextLine id="l"><Coords points="{corners(LINES[0])}"/>{word}{word}</TextLine>'
    (tmp_path / "in" / "val" / "p1.xml").write_text(page_xml(line))
    made = make(tmp_path / "out", "page_xml", f"--input={tmp_path / 'in'}", "--height_px=400")
    assert made.texts == {"val/p1.xml#l": "abc abc"} and made.splits == {
        "val/p1.xml#l": "validation"
    }
    assert abs(made.image("val/p1.xml#l").shape[1] - 400) < 4
    assert list(made.reasons) == [
        "page of another size than its image: polygons scaled (lines kept)"
    ]
    assert make(
        tmp_path / "w", "page_xml", f"--input={tmp_path / 'in'}", "--text_from=word"
    ).texts == {"val/p1.xml#l": None}
    (tmp_path / "in" / "val" / "p1.xml").write_text(page_xml(line, size=(300, 100)))
    assert "another shape" in refused(tmp_path / "s", "page_xml", f"--input={tmp_path / 'in'}")


def test_refusals(tmp_path):
    write(tmp_path / "in", "p1.png")
    assert "holds no XML" in refused(tmp_path / "out", "alto", f"--input={tmp_path / 'in'}")
    (tmp_path / "in" / "p1.xml").write_text(page_xml(line_xml(0)))
    assert "--level is 'x'" in refused(tmp_path / "out", "alto", f"--input={tmp_path}", "--level=x")
    assert "--text_from is 'x'" in refused(
        tmp_path / "out", "page_xml", f"--input={tmp_path}", "--text_from=x"
    )
    told = refused(tmp_path / "out", "alto", f"--input={tmp_path / 'in'}")
    assert "PAGE, not ALTO: --source=page_xml reads it" in told
    (tmp_path / "in" / "p1.png").unlink()
    assert "--source=page_xml reads it" in refused(
        tmp_path / "out", "folder", f"--input={tmp_path / 'in'}"
    )
