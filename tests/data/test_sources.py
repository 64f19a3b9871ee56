"""Sources of lines: a folder full of traps, and rendered lines that depend on nothing but their
seed and number.
"""

import functools
import importlib
import io
import os
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from dig_jax.data import typeset
from dig_jax.data.examples import Report
from dig_jax.data.images import Store
from dig_jax.data.parallel import ordered_map
from dig_jax.data.sources import folder, lines
from dig_jax.data.split_names import USUAL, sizes_of


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def grey(width=60, height=24, value=200):
    """A picture of one grey with a dark stroke, so that it has contrast."""
    image = Image.new("L", (width, height), value)
    image.paste(value // 4, (width // 2, height // 2, width // 2 + 3, height // 2 + 3))
    return image


def pixels(data, flag=cv2.IMREAD_UNCHANGED):
    return cv2.imdecode(np.frombuffer(data, np.uint8), flag)


def read(root, **options):
    report = Report()
    workers = options.pop("workers", 0)
    store = Store(**options)
    found = folder.examples(report=report, input=str(root), store=store, workers=workers)
    return list(found), report


def bomb():
    """A PNG of 200 bytes whose header promises 60000 x 60000 pixels."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(9)))
        + chunk(b"IEND", b"")
    )


@pytest.fixture
def root(tmp_path):
    """Four good images in two splits with labels."""
    (tmp_path / "images").mkdir()
    (tmp_path / "splits").mkdir()
    for name in "abcd":
        (tmp_path / "images" / f"{name}.png").write_bytes(encoded(grey()))
    (tmp_path / "labels.tsv").write_text(
        "".join(f"images/{n}.png\ttext {n}\n" for n in "abcd"), "utf-8"
    )
    (tmp_path / "splits" / "train.txt").write_text("images/b.png\nimages/a.png\n")
    (tmp_path / "splits" / "validation.txt").write_text("images/c.png\nimages/d.png\n")
    return tmp_path


def test_a_clean_folder(root):
    (root / "SOURCE.md").write_text(
        "# x\n- **Source**: there\n- Licence: CC BY 4.0 (really)\n- Attribution: me\n"
    )
    found, report = read(root)
    assert [(s, t, i) for s, _, t, i in found] == [
        ("train", "text b", "images/b.png"), ("train", "text a", "images/a.png"),
        ("validation", "text c", "images/c.png"), ("validation", "text d", "images/d.png"),
    ]  # fmt: skip
    assert all(
        data.startswith(b"\xff\xd8") and pixels(data).shape == (24, 60) for _, data, _, _ in found
    )
    assert (
        report.skipped() == {"count": 0, "reasons": {}, "first": []}
        and report.notes == []
        and report.total == 4
    )
    assert report.about == {"source": "there", "licence": "CC BY 4.0 (really)", "attribution": "me"}


def test_images_alone_are_one_unlabelled_training_split(tmp_path):
    for name in ("b.jpg", "sub/a.WEBP", ".hidden.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(grey(), "WEBP" if "WEBP" in name else "JPEG"))
    found, report = read(tmp_path)
    assert [(s, t, i) for s, _, t, i in found] == [
        ("train", None, "b.jpg"),
        ("train", None, "sub/a.WEBP"),
    ]
    assert report.about == {"source": str(tmp_path)} and "unlabelled" in report.notes[0]


def test_every_kind_of_damage_is_counted_and_named_and_nothing_raises(root):
    good = encoded(Image.effect_noise((300, 40), 50).convert("L"), "JPEG")
    files = {
        "cut.jpg": good[: len(good) // 2], "cut.png": encoded(grey(300, 40))[:60], "empty.png": b"",
        "text.png": b"this is no image", "bomb.png": bomb(), "head.png": bomb()[:20], "zeros.tif": bytes(5000),
        "good.jpg": good,
    }  # fmt: skip
    for name, data in files.items():
        (root / "images" / name).write_bytes(data)
    (root / "images" / "folder.png").mkdir()
    listed = "".join(f"images/{name}\n" for name in [*files, "folder.png"])
    (root / "splits" / "extra.txt").write_text(
        listed
        + "images/gone.png\n/etc/passwd\n../x.png\nimages/../../y.png\nC:\\z.png\nimages/good.jpg\n\n  \n"
    )
    (root / "labels.tsv").write_bytes(
        b"\xef\xbb\xbfimages/a.png\ttext a\r\nimages/b.png\tbad \xff\xfe\nimages/c.png no tab\nimages/gone.png\tx\n"
        b"../up.png\tx\n/abs.png\tx\nimages/a.png\tagain\nimages/d.png\t\nnul\0.png\tx\n\n"
    )
    (root / "images" / "nowhere.png").write_bytes(encoded(grey()))
    found, report = read(root)
    assert {i: t for _, _, t, i in found} == {
        "images/a.png": "text a", "images/b.png": None, "images/c.png": None, "images/d.png": "",
        "images/good.jpg": None,
    }  # fmt: skip
    reasons = {}
    for entry in report.first:
        reasons.setdefault(entry["reason"], []).append(entry["name"].split(": ")[-1].split("/")[-1])
    assert reasons == {
        "label is not UTF-8 (image kept, unlabelled)": ["labels.tsv line 2"],
        "label line without a tab": ["labels.tsv line 3"],
        "label names a missing image": ["gone.png"],
        "path leads out of the folder": [
            "up.png",
            "abs.png",
            "passwd",
            "x.png",
            "y.png",
            "C:\\z.png",
        ],
        "second label for one image (the first is kept)": ["a.png"],
        "path holds a NUL character": ["nul\\x00.png"],
        "split names a missing image": ["gone.png"],
        "not a file": ["folder.png"],
        "listed twice in one split": ["good.jpg"],
        "image in no split": ["nowhere.png"],
        "truncated or damaged image": ["cut.jpg", "cut.png"],
        "empty file": ["empty.png"],
        "not an image": ["text.png", "head.png", "zeros.tif"],
        "more than 50000000 pixels": ["bomb.png"],
    }
    assert report.skipped()["count"] == sum(len(names) for names in reasons.values())


def test_pixel_limit_is_read_from_the_header(root, monkeypatch):
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded before its size was checked")
    )
    found, report = read(root, max_pixels=60 * 24 - 1)
    assert not found and report.reasons == {"more than 1439 pixels": 4}


def test_names_that_are_not_unicode_do_not_stop_the_walk(tmp_path):
    name = os.fsencode(str(tmp_path)) + b"/caf\xe9.png"
    try:
        with open(name, "wb") as file:
            file.write(encoded(grey()))
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    (tmp_path / "labels.tsv").write_bytes(b"caf\xe9.png\tx\n")
    found, _ = read(tmp_path)
    assert [t for _, _, t, _ in found] == ["x"]


def test_an_image_in_two_splits_is_noted(root):
    with (root / "splits" / "train.txt").open("a") as file:
        file.write("images/c.png\n")
    found, report = read(root)
    assert len(found) == 5 and report.notes == [
        "1 images stand in more than one split (train and validation), such as images/c.png"
    ]


def test_only_higher_images_are_reduced(tmp_path):
    for name, size in {
        "high": (300, 96),
        "low": (300, 20),
        "odd": (7, 97),
        "thin": (1, 5000),
    }.items():
        (tmp_path / f"{name}.png").write_bytes(encoded(grey(*size)))
    found, _ = read(tmp_path, codec="png")
    assert {i: pixels(d).shape for _, d, _, i in found} == {
        "high.png": (48, 150), "low.png": (20, 300), "odd.png": (48, 3), "thin.png": (48, 1)
    }  # fmt: skip


def test_a_jpeg_that_fits_is_stored_byte_for_byte(tmp_path):
    kept, turned, flipped = encoded(grey(), "JPEG", quality=70), Image.Exif(), Image.Exif()
    turned[0x0112], flipped[0x0112] = 6, 3
    files = {
        "kept": kept, "tall": encoded(grey(60, 60), "JPEG"), "colour": encoded(grey().convert("RGB"), "JPEG"),
        "turned": encoded(grey(24, 40), "JPEG", exif=turned), "flipped": encoded(grey(), "JPEG", exif=flipped),
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    found = {i.split(".")[0]: d for _, d, _, i in read(tmp_path)[0]}
    assert {name: found[name] == data for name, data in files.items()} == {
        "kept": True, "tall": False, "colour": False, "turned": False, "flipped": False
    }  # fmt: skip
    assert pixels(found["turned"], cv2.IMREAD_UNCHANGED).shape == (
        24,
        40,
    )  # upright, and no orientation left to apply
    assert found["colour"] != files["colour"] and pixels(found["colour"]).ndim == 2
    assert all(data.startswith(b"\x89PNG") for _, data, _, _ in read(tmp_path, codec="png")[0])


@pytest.mark.parametrize(
    ("image", "value"),
    [
        (Image.fromarray(np.full((9, 9), 51400, np.uint16)), 200),  # 16 bits, not clipped to white
        (Image.new("RGBA", (9, 9), (0, 0, 0, 0)), 255),  # transparent is paper
        (Image.new("LA", (9, 9), (100, 255)), 100),
        (Image.new("1", (9, 9), 1), 255),
        (Image.new("CMYK", (9, 9), (0, 0, 0, 55)), 200),
        (Image.new("P", (9, 9), 0), 0),
    ],
)
def test_any_pixel_type_becomes_grey_or_colour(tmp_path, image, value):
    (tmp_path / "x.tif").write_bytes(
        encoded(image, "TIFF") if image.mode != "P" else encoded(image)
    )
    for channels in (1, 3):
        ((_, data, _, _),) = read(tmp_path, channels=channels, codec="png")[0]
        out = pixels(data)
        assert (
            out.shape == ((9, 9) if channels == 1 else (9, 9, 3))
            and abs(int(out.flat[0]) - value) <= 1
        )


def test_colour_survives_in_the_right_order(tmp_path):
    (tmp_path / "x.png").write_bytes(encoded(Image.new("RGB", (9, 9), (250, 20, 0))))
    ((_, data, _, _),) = read(tmp_path, channels=3)[0]
    assert np.abs(pixels(data, cv2.IMREAD_COLOR_RGB)[4, 4].astype(int) - (250, 20, 0)).max() < 12


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_what_is_made(root, workers):
    assert read(root, workers=workers)[0] == read(root)[0]


def test_pages_behind_the_first_are_counted(tmp_path):
    """Of a TIFF; further frames of a GIF are the same picture in motion."""
    frames = [grey(value=200 - n) for n in range(3)]
    for name in ("scan.tif", "moves.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    small = grey(30, 12)
    small.encoderinfo = {"tiffinfo": {254: 1}}  # says that it is a copy of the first
    frames[0].save(tmp_path / "thumbnail.tif", save_all=True, append_images=[small])
    report = Report()
    made = list(folder.examples(report=report, input=str(tmp_path), store=Store(), workers=0))
    assert len(made) == 3
    assert dict(report.reasons) == {"file of several pages: all but the first (image kept)": 1}


def test_folder_refusals(tmp_path):
    for wrong in (None, "", str(tmp_path / "absent")):
        with pytest.raises(FileNotFoundError, match="must be a folder"):
            list(folder.examples(report=Report(), input=wrong))
    with pytest.raises(ValueError, match="channels is 2"):
        read(tmp_path, channels=2)


# Rendered lines.

SMALL = {"fonts": "bundled", "workers": 0}


def render(report=None, **options):
    return list(lines.examples(report=report or Report(), **{**SMALL, **options}))


def test_lines_depend_on_seed_split_and_number_only():
    once = render(splits="train=12,validation=4", seed=7)
    assert once == render(splits="train=12,validation=4", seed=7, workers=2)
    assert once[:5] == render(count=5, seed=7)  # more lines do not change the first
    assert once[12:] == render(splits="validation=4", seed=7)
    assert {e[2] for e in once[:4]} != {
        e[2] for e in once[12:]
    }  # splits are not copies of each other
    assert all(a[1] != b[1] for a, b in zip(once, render(count=12, seed=8)))


def test_lines_are_what_they_say(tmp_path):
    report = Report()
    found = render(
        report, count=40, height_px=32, min_words=2, max_words=3, channels=3, codec="png"
    )
    for split, data, text, _ in found:
        image = pixels(data)
        assert split == "train" and image.shape[0] == 32 and image.ndim == 3 and image.std() > 3
        assert (
            2 <= len(text.split()) <= 3 + 2 * sum(c.isdigit() for c in text)
        )  # "3. 5. 1850" counts as one
    assert len({i for *_, i in found}) == 40 and report.total == 40 and report.reasons == {}
    assert "bundled" not in report.about["source"] and "fonts: DejaVu" in report.notes[0]


def test_words_come_from_the_vocabulary(tmp_path):
    (tmp_path / "v.txt").write_text("alpha alpha alpha beta 漢字", "utf-8")
    report = Report()
    found = render(report, input=str(tmp_path / "v.txt"), count=60, max_words=1)
    words = ["".join(c for c in t.lower() if c.isalpha()) for _, _, t, _ in found]
    assert set(words) == {"alpha", "beta", ""} and words.count("alpha") > words.count("beta")
    assert lines.read_vocabulary(str(tmp_path / "v.txt")).frequency["own"] == (0.6, 0.2, 0.2)
    assert (
        report.reasons == {"word with a character that no font has": 1}
        and report.first[0]["name"] == "漢字"
    )


def test_own_vocabulary_is_real_and_large_enough():
    vocabulary = lines.read_vocabulary(None)
    assert (
        set(vocabulary.words) == set(lines.SHARES)
        and sum(len(w) for w in vocabulary.words.values()) >= 1200
    )
    assert all(abs(sum(f) - 1) < 1e-9 for f in vocabulary.frequency.values())
    assert set("äöüßéèêçœÉ") < vocabulary.chars and all(w.strip("'-").replace("-", "").replace("'", "").isalpha()
                                                       for ws in vocabulary.words.values() for w in ws)  # fmt: skip


def test_fonts_are_usable_and_cover_what_they_say():
    fonts = lines.find_fonts("bundled", frozenset("äéœ漢<“") | lines.PLAIN)
    names = {os.path.basename(f.file): f for f in fonts}
    assert {"DejaVuSans.ttf", "cmr10.ttf", "STIXGeneral.ttf"} < set(names)
    assert not any(lines.SYMBOL_FONTS.search(name) or "Display" in name for name in names)
    assert names["DejaVuSans.ttf"].covers >= set("äéœ") and not names["cmr10.ttf"].covers & set(
        "äéœ漢<“"
    )
    with pytest.raises(FileNotFoundError, match="--fonts is 'nowhere'"):
        lines.find_fonts("nowhere", lines.PLAIN)


def test_words_go_to_fonts_that_have_their_characters():
    vocabulary = lines.Vocabulary({"x": ("hat", "été")}, {"x": (0.5, 0.5)}, {"x": 1.0})
    tex, full = (
        lines.Font(n, n, c) for n, c in (("t", lines.TEX_CHARS), ("f", lines.TEX_CHARS | {"é"}))
    )
    options = {
        "seed": 0,
        "words": (1, 1),
        "height_px": 32,
        "channels": 1,
        "codec": "png",
        "quality": 95,
    }
    maker = lines.LineMaker(vocabulary, [tex, full], **options)
    assert maker.writable("x", tex.covers)[0] == ["hat"] and maker.writable("x", full.covers)[
        0
    ] == ["hat", "été"]
    only = lines.LineMaker(
        lines.Vocabulary({"x": ("été",)}, {"x": (1.0,)}, {"x": 1.0}), [tex, full], **options
    )
    assert {only._choose_font(np.random.default_rng(s), "x").file for s in range(20)} == {"f"}


def test_broken_font_files_are_passed_over(tmp_path):
    (tmp_path / "x.ttf").write_bytes(b"no font")
    with pytest.raises(ValueError, match="no font with Latin letters"):
        lines.find_fonts(str(tmp_path), lines.PLAIN)


def test_compose_writes_only_what_the_font_covers():
    covers = lines.TEX_CHARS
    known, cumulative = ["straße"[:4], "haus"], np.array([0.5, 1.0])
    for seed in range(300):
        text = lines.compose(np.random.default_rng(seed), known, cumulative, covers, 5)
        assert (
            set(text) - {" "} <= covers
            and text == text.strip()
            and "  " not in text
            and len(text) >= 9
        )


def test_no_ink_leaves_the_picture():
    font = lines.find_fonts("bundled", lines.PLAIN)[3].file
    for seed in range(60):
        rng = np.random.default_rng(seed)
        size = 40
        ink = typeset.draw(
            rng, "Ägypten (jfyg) HÉLÈNE"[: 3 + seed % 19], typeset.load_font(font, size), size
        )
        bent = typeset.bend(rng, ink, size)
        edge = max(bent[0].max(), bent[-1].max(), bent[:, 0].max(), bent[:, -1].max())
        assert edge == 0 and abs(bent.sum(dtype=float) / ink.sum(dtype=float) - 1) < 0.02


def test_text_stands_out_from_its_paper():
    contrasts = []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        ink = np.zeros((20, 20), np.float32)
        ink[5:15, 5:15] = 1
        image = typeset.mix(rng, ink, np.zeros_like(ink), 1)
        contrasts.append(abs(image[10, 10] - image[0, 0]))
    assert min(contrasts) > 0.3 * 255


@pytest.mark.parametrize(
    "spec", ["", "train", "train=0", "train=-1", "train=x", "a/b=3", "a=1,a=2", "train=1,"]
)
def test_splits_refusals(spec):
    with pytest.raises(ValueError, match="--splits"):
        sizes_of(spec)


@pytest.mark.parametrize("source", ["lines", "captcha", "digits"])
def test_count_is_short_for_splits_and_not_beside_them(source, tmp_path):
    examples = importlib.import_module(f"dig_jax.data.sources.{source}").examples
    with pytest.raises(ValueError, match="--count=5 is short for --splits=train=5: give one"):
        list(examples(report=Report(), splits="train=4,validation=2", count=5))
    assert sizes_of(USUAL, 5) == {"train": 5}
    with pytest.raises(ValueError, match="--count is -5: give"):
        sizes_of(USUAL, -5)


def test_lines_refusals(tmp_path):
    with pytest.raises(ValueError, match="min_words"):
        render(min_words=3, max_words=2)
    with pytest.raises(ValueError, match="channels is 4"):
        render(channels=4)
    (tmp_path / "v.txt").write_bytes(b"gut \xff")
    with pytest.raises(FileNotFoundError, match="cannot be read .*: name a text file"):
        lines.read_vocabulary(str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match="not UTF-8"):
        render(input=str(tmp_path / "v.txt"))
    (tmp_path / "v.txt").write_text(" \n")
    with pytest.raises(ValueError, match="no word"):
        render(input=str(tmp_path / "v.txt"))
    (tmp_path / "v.txt").write_text("漢字")
    with pytest.raises(ValueError, match="No font here"):
        render(input=str(tmp_path / "v.txt"))


# Processes.


def die(item):
    if item == 50:
        os._exit(9)
    return item


def refuse(item):
    raise ValueError(f"item {item}")


def test_ordered_map_keeps_order_and_reads_ahead_a_little():
    taken = []
    items = (taken.append(i) or i for i in range(400))
    results = ordered_map(functools.partial(pow, 2), items, workers=2, chunk=4)
    assert [next(results) for _ in range(5)] == [1, 2, 4, 8, 16] and len(taken) <= 4 * (2 * 4 + 2)
    assert list(results) == [2**i for i in range(5, 400)]


@pytest.mark.slow
def test_ordered_map_raises_where_a_worker_dies_or_refuses():
    with pytest.raises(RuntimeError, match="worker process died"):
        list(ordered_map(die, range(100), workers=2))
    with pytest.raises(ValueError, match="item 0"):
        list(ordered_map(refuse, range(100), workers=2))


def test_a_book_has_one_font_and_one_ground_and_many_texts():
    def looks(found):
        """Font and lightness of the paper (rounded: noise moves it a little)."""
        return {
            (i.split()[1], round(np.percentile(pixels(data), 90) / 16)) for _, data, _, i in found
        }

    one = render(count=8, seed=3, books=1)
    assert len({i.split()[1] for *_, i in one}) == 1 and len(looks(one)) <= 2
    assert len({text for _, _, text, _ in one}) == 8
    assert len(looks(render(count=24, seed=3, books=3))) <= 6 < len(looks(render(count=24, seed=3)))
    with pytest.raises(ValueError, match="books is -1"):
        render(count=1, books=-1)


# ---- lists as others write them -----------------------------------------------------------------


def labels_of(root, text):
    (root / "labels.tsv").write_bytes(text.encode())
    found, report = read(root)
    return {id: label for _, _, label, id in found}, report


def two_images(tmp_path, names=("a.png", "b.png")):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(grey()))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected", "noted"),
    [
        ('a.png\t"He said ""no"""\nb.png\t"two, three"\n', ['He said "no"', "two, three"], True),
        ('a.png\t"He said ""no"""\nb.png\tplain\n', ['He said "no"', "plain"], True),
        ('"a.png"\t"one"\n"b.png"\t"two"\n', ["one", "two"], True),
        ('a.png\t"Ja", sagte er\nb.png\t"""x"""\n', ['"Ja", sagte er', '"""x"""'], False),
        ('a.png\t"Ja"\nb.png\tnein\n', ['"Ja"', "nein"], False),
        ('a.png\t12" pipe\nb.png\t"\n', ['12" pipe', '"'], False),
    ],
)
def test_quoted_labels_are_unquoted_where_the_file_is_quoted(tmp_path, text, expected, noted):
    found, report = labels_of(two_images(tmp_path), text)
    assert [found["a.png"], found["b.png"]] == expected
    assert any("as spreadsheets do it" in note for note in report.notes) == noted


def test_paths_from_windows_absolute_ones_and_other_unicode_forms_are_found(tmp_path):
    decomposed = "Gru\u0308n.png"  # as macOS stores it
    two_images(tmp_path, ("sub/a.png", "b.png", decomposed))
    found, report = labels_of(
        tmp_path, f"sub\\a.png\tone\n{tmp_path}/b.png\ttwo\nGr\u00fcn.png\t3\n"
    )
    assert found == {"sub/a.png": "one", "b.png": "two", decomposed: "3"}
    assert report.skipped()["count"] == 0
    notes = " ".join(report.notes)
    assert "1 paths with back-slashes" in notes and "1 absolute paths inside" in notes
    assert "1 names in another Unicode form" in notes
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "test.txt").write_text(f"sub\\a.png\nGr\u00fcn.png\n{tmp_path}/b.png\n")
    assert len(read(tmp_path)[0]) == 3


def test_what_is_passed_over_by_its_suffix_is_named(tmp_path):
    two_images(tmp_path)
    for name in ("c.heic", "d.JXL", "e.pdf", "f.jpeg.part", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    _, report = labels_of(tmp_path, "a.png\tone\nb.png\ttwo\n")
    assert {entry["name"] for entry in report.first} == {"c.heic", "d.JXL", "e.pdf", "f.jpeg.part"}
    assert report.reasons[".heic is not read: convert it to PNG or JPEG"] == 1


def test_an_image_without_contrast_is_kept_and_named(tmp_path):
    two_images(tmp_path)
    (tmp_path / "blank.png").write_bytes(encoded(Image.new("L", (60, 24), 250)))
    found, report = read(tmp_path)
    assert len(found) == 3
    assert dict(report.reasons) == {"no contrast: nothing can be seen on it (image kept)": 1}


def test_labels_in_capitals_are_labels(tmp_path):
    two_images(tmp_path)
    (tmp_path / "LABELS.TSV").write_text("a.png\tone\nnothing\n")
    found, report = read(tmp_path)
    assert [text for _, _, text, _ in found] == ["one", None] and not report.notes
    assert report.first[0]["name"] == "LABELS.TSV line 2"
    (tmp_path / "labels.tsv").write_text("a.png\ttwo\n")
    assert [text for _, _, text, _ in read(tmp_path)[0]] == ["two", None]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.gt.txt": "one", "b.gt.txt": "two"}, "2 pairs x.png \\+ x.gt.txt"),
        ({"gt.txt": "a.png\tone"}, "gt.txt looks like labels: --source=pairs"),
        ({"p/labels.tsv": "a.png\tone"}, "labels lie deeper, in p/labels.tsv"),
        ({"p/LABELS.TSV": "a.png\tone"}, "labels lie deeper, in p/LABELS.TSV"),
        ({"Transkription.TSV": "image\ttext"}, "Transkription.TSV looks like labels: --source=pa"),
        ({"labels.txt": "a.png one"}, "labels.txt looks like labels: --source=pairs"),
        ({"notes.txt": "b", "T.TXT": "a.png one"}, "T.TXT looks like labels: --source=pairs"),
        ({"Labels.txt": "one"}, "Labels.txt is not read: save it as labels.tsv, a path, a tab"),
        ({"labels.xlsx": "one"}, "labels.xlsx is not read: save it as labels.tsv"),
    ],
)
def test_labels_of_other_layouts_are_named(tmp_path, files, words):
    two_images(tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    _, report = read(tmp_path)
    assert re.search(f"no labels.tsv: .*{words}", report.notes[0])
