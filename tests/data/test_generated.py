"""Generated sources: captchas, numbers, and lines in scripts beyond Latin."""

import sys

import cv2
import numpy as np
import pytest
from PIL import features

from dig_jax.data import typeset
from dig_jax.data.images import Store
from dig_jax.data.sources import captcha, digits
from tests.data.made import make, refused

CAPTCHAS = ("--count=12", "--seed=3", "--codec=png", "--height_px=60")
NEEDS_RAQM = pytest.mark.skipif(
    not features.check("raqm"), reason="this Pillow has no raqm: it looks for libfribidi"
)


def test_captchas_depend_on_seed_split_and_number_only(tmp_path):
    made = make(tmp_path / "a", "captcha", *CAPTCHAS, "--workers=0")
    assert made.rows == make(tmp_path / "b", "captcha", *CAPTCHAS).rows
    other = make(
        tmp_path / "c", "captcha", "--count=12", "--seed=4", "--codec=png", "--height_px=60"
    )
    assert not {image for _, image, _ in made.rows.values()} & {
        image for _, image, _ in other.rows.values()
    }
    twice = make(tmp_path / "d", "captcha", "--splits=train=3,test=3", *CAPTCHAS[1:])
    assert list(twice.rows.items())[:3] == list(made.rows.items())[:3]
    assert twice.splits[list(twice.rows)[-1]] == "test"
    maker = captcha.Maker("ab", (1, 1), ("plain",), 0, Store())
    assert maker(("train", 7)) == maker(("train", 7))


def test_captchas_are_what_they_say(tmp_path):
    made = make(
        tmp_path / "out",
        "captcha",
        "--count=40",
        "--characters=0123",
        "--min_chars=2",
        "--max_chars=3",
        "--channels=3",
    )
    assert all(set(text) <= set("0123") and 2 <= len(text) <= 3 for text in made.texts.values())
    assert {id.split()[-1] for id in made.rows} == set(captcha.STYLES)
    assert all(made.image(id).std() > 5 for id in made.rows) and made.reasons == {}
    dark = [made.image(id).mean() for id in made.rows if id.endswith("dark")]
    bare = [made.image(id).mean() for id in made.rows if id.endswith("bare")]
    assert max(dark) < min(bare)
    only = make(tmp_path / "one", "captcha", "--count=3", "--styles=bare")
    assert all(id.endswith("bare") for id in only.rows)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--styles=x", "--styles is 'x'"),
        ("--min_chars=9", "min_chars is 9"),
        ("--characters=", "--characters is"),
        ("--splits=x", "Cannot read"),
    ],
)
def test_captcha_refusals(tmp_path, flag, words):
    assert words in refused(tmp_path / "out", "captcha", flag)


NUMBERS = ("--splits=train=30,validation=20", "--min_chars=1", "--max_chars=3", "--codec=png")


def test_numbers_depend_on_seed_split_and_number_only(tmp_path):
    made = make(tmp_path / "a", "digits", *NUMBERS, "--workers=0")
    assert made.rows == make(tmp_path / "b", "digits", *NUMBERS).rows
    other = make(tmp_path / "c", "digits", *NUMBERS, "--seed=4")
    assert set(other.texts.values()) != set(made.texts.values())
    assert all(text.isdecimal() and 1 <= len(text) <= 3 for text in made.texts.values())
    assert all(made.image(id).shape[0] == 48 for id in made.rows) and made.reasons == {}


def test_no_digit_stands_in_two_splits():
    parts = digits.runs(["train", "validation", "test"], 100)
    assert parts == {"train": (0, 60), "validation": (60, 80), "test": (80, 100)}
    assert digits.runs(["train"], 100) == {"train": (0, 100)}
    assert digits.runs(["a", "b"], 100) == {"a": (0, 50), "b": (50, 100)}


def test_a_number_is_its_digits_one_after_the_other():
    """A bar, a ring and a bar: full height at both ends, hollow in the middle."""
    ink = np.zeros((2, 8, 8), np.float32)
    ink[0, :, 3:5] = 1  # a bar
    ink[1, [0, -1]] = ink[1, :, [0, -1]] = 1  # a ring
    drawn = digits.draw(np.random.default_rng(0), ink[[0, 1, 0]])
    assert drawn.dtype == np.uint8 and drawn.shape[0] == 48 and drawn.shape[2] == 3
    dark = drawn[..., 0] < drawn[..., 0].min() / 2 + drawn[..., 0].max() / 2
    columns = np.flatnonzero(dark.any(0))
    bars = dark.sum(0)[columns[[0, -1]]]
    assert (bars >= 26).all() and columns[0] >= 3 and columns[-1] < drawn.shape[1] - 3
    ring = dark[:, columns.mean().astype(int)]
    assert 4 <= ring.sum() < 26  # two strokes, hollow between them


def test_a_number_says_what_is_drawn():
    """Two digits, one all ink and one with little: the text tells how wide and dark they are."""
    ink = np.zeros((2, 8, 8), np.float32)
    ink[0], ink[1, :, 4] = 1, 1
    make = digits.Maker(ink, np.array([8, 1]), {"train": (0, 2)}, (1, 5), 0, Store(codec="png"))
    lengths = set()
    for index in range(20):
        ((split, image, text, _),) = make(("train", index))
        grey = cv2.imdecode(np.frombuffer(image, np.uint8), 0)
        dark = grey < (int(grey.min()) + int(grey.max())) / 2
        runs = np.diff(np.flatnonzero(np.diff(np.r_[0, dark.any(0), 0])))[::2]  # widths of ink
        lengths.add(len(text))
        assert split == "train" and set(text) <= {"1", "8"}
        lone = text.count("1")
        assert sum(runs) > 20 * text.count("8") + 2 * lone
        assert sum(runs) < 46 * text.count("8") + 14 * lone
    assert lengths == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--min_chars=9",), "min_chars is 9"),
        (("--splits=" + ",".join(f"s{i}=1" for i in range(21)),), "names 21 splits"),
    ],
)
def test_numbers_refusals(tmp_path, flags, words):
    assert words in refused(tmp_path / "out", "digits", *flags)


def test_numbers_without_the_package_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "pip install 'dig_jax[digits]'" in refused(tmp_path / "out", "digits")


SCRIPTS = {
    "Greek": "Καλημέρα κόσμε τί κάνεις σήμερα",
    "Cyrillic": "Съешь ещё этих мягких французских булок",
    "Hebrew": "שלום עולם אבגד הוזח טיכל",
    "Arabic": "مرحبا بالعالم السلام عليكم كتاب",
}


@pytest.mark.parametrize(
    "script",
    ["Greek", "Cyrillic", *(pytest.param(s, marks=NEEDS_RAQM) for s in ("Hebrew", "Arabic"))],
)
def test_lines_in_other_scripts(tmp_path, script):
    (tmp_path / "words.txt").write_text(SCRIPTS[script], "utf-8")
    flags = (f"--input={tmp_path / 'words.txt'}", "--fonts=bundled", "--count=12", "--seed=1")
    made = make(tmp_path / "out", "lines", *flags)
    assert len(made.rows) == 12 and made.reasons == {}
    words = {word.lower() for word in SCRIPTS[script].split()}
    texts = " ".join(made.texts.values()).lower()
    assert any(word in texts for word in words) and all(
        made.image(id).std() > 3 for id in made.rows
    )


def drawn(text, shaped):
    """Ink of a text in DejaVu Sans, cut to what there is."""
    file = next(str(p) for p in typeset.bundled_fonts() if p.name == "DejaVuSans.ttf")
    ink = typeset.draw(np.random.default_rng(4), text, typeset.load_font(file, 40, shaped), 40)
    x, y, w, h = cv2.boundingRect(ink)
    return ink[y : y + h, x : x + w]


def test_a_tight_line_keeps_all_its_ink_and_little_paper():
    file, rng = str(typeset.bundled_fonts()[0]), np.random.default_rng(7)
    for text in 10 * ("a", "gjpqy", "The quick brown fox"):  # margins of 0 px among them
        ink = typeset.draw(rng, text, typeset.load_font(file, 40, False), 40)
        cut = typeset.cut(rng, ink, 40)
        assert cut.sum() == ink.sum()
        x, y, width, height = cv2.boundingRect(cut)
        paper = x, y, cut.shape[1] - x - width, cut.shape[0] - y - height
        assert max(paper) <= 0.12 * 40
    blank = np.zeros((30, 50), np.uint8)
    assert typeset.cut(rng, blank, 40).shape == blank.shape


def test_the_share_of_tight_lines_is_the_one_asked_for(tmp_path):
    flags = ("--fonts=bundled", "--count=60", "--seed=1", "--min_words=4", "--codec=png")
    loose, some, all_ = (
        make(tmp_path / f"{tight}", "lines", *flags, f"--tight={tight}").rows
        for tight in (0.0, 0.5, 1.0)
    )
    assert loose == make(tmp_path / "unsaid", "lines", *flags).rows
    texts = lambda rows: {id: text for id, (_, _, text) in rows.items()}
    assert texts(loose) == texts(some) == texts(all_)
    same = sum(some[id] == all_[id] for id in some)
    assert 15 < same < 45
    assert not any(loose[id] == all_[id] for id in loose)


@NEEDS_RAQM
def test_right_to_left_lines_run_from_right_to_left_and_join():
    """The first letter stands at the right end, and Arabic letters are joined."""
    aleph, line = drawn("א", True), drawn("אבג דה", True)
    right = line[:, -aleph.shape[1] :]
    rows = np.flatnonzero(right.any(1))
    assert np.array_equal(right[rows[0] : rows[-1] + 1] > 128, aleph > 128)
    joined, _ = cv2.connectedComponents((drawn("سس", True) > 60).astype(np.uint8))
    single, _ = cv2.connectedComponents((drawn("س", True) > 60).astype(np.uint8))
    assert joined == single == 2  # the ground, and one piece of ink


def test_scripts_without_a_font_are_a_sentence(tmp_path):
    (tmp_path / "words.txt").write_text("नमस्ते दुनिया", "utf-8")
    told = refused(
        tmp_path / "out", "lines", f"--input={tmp_path / 'words.txt'}", "--fonts=bundled"
    )
    assert "No font here can write" in told and "Devanagari" in told and "--fonts=FOLDER" in told


def test_shaping_without_raqm_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    (tmp_path / "words.txt").write_text("שלום", "utf-8")
    told = refused(
        tmp_path / "out", "lines", f"--input={tmp_path / 'words.txt'}", "--fonts=bundled"
    )
    assert "need shaping" in told and "raqm" in told


def test_bits_of_other_lines_hang_in_at_the_edges_alone():
    file, rng = str(typeset.bundled_fonts()[0]), np.random.default_rng(3)
    font = typeset.load_font(file, 40, False)
    ink = np.zeros((60, 300), np.uint8)
    other = typeset.draw(rng, "gypsy quay", font, 40)
    deepest = 0
    for _ in range(20):
        crowded = typeset.crowd(rng, ink, other, 40)
        rows = np.flatnonzero(crowded.any(1))
        assert rows[0] == 0 or rows[-1] == 59
        edge = np.minimum(rows, 59 - rows)
        deepest = max(deepest, edge.max())
        assert edge.max() < 6  # 0.15 font sizes
        own = np.full_like(ink, 200)
        assert (typeset.crowd(rng, own, other, 40) >= 200).all()  # the line's own ink stays
    assert deepest >= 3 and not ink.any()
    np.testing.assert_array_equal(typeset.crowd(rng, ink, np.zeros_like(ink), 40), ink)


@pytest.mark.parametrize("channels", [1, 3])
def test_black_and_white_keeps_ink_and_paper_apart(channels):
    image = np.full((20, 40, channels), 190, np.uint8)
    image[5:10, 5:30] = 60
    image += np.random.default_rng(0).integers(0, 9, image.shape, np.uint8)
    for seed in range(9):
        found = typeset.black_and_white(np.random.default_rng(seed), image.squeeze())
        assert set(np.unique(found)) == {0, 255} and found.shape == image.squeeze().shape
        dark = found.reshape(20, 40, channels)[..., 0] == 0
        assert dark[5:10, 5:30].all() and dark.sum() == 125


@pytest.mark.parametrize("flag", ["crowded", "heavy", "bitonal", "ruled", "uneven", "clean"])
def test_the_share_of_lines_that_look_scanned_is_the_one_asked_for(tmp_path, flag):
    """And none of them changes what a line says."""
    flags = ("--count=40", "--fonts=bundled", "--codec=png", "--min_words=3", "--tight=1")
    none, some, all_ = (
        make(tmp_path / f"{i}", "lines", *flags, f"--{flag}={i / 2}") for i in range(3)
    )
    assert none.texts == some.texts == all_.texts
    same = lambda a, b: sum(a.rows[id] == b.rows[id] for id in a.rows)
    assert same(none, all_) == 0 and 8 < same(some, all_) < 32
    if flag == "clean":  # paper of one grey, but where the other side shows through
        flat = lambda image: np.bincount(image.ravel()).max() / image.size
        shares = [[flat(line.image(id)) for id in line.rows] for line in (none, all_)]
        assert np.median(shares[0]) < 0.3 < 0.4 < np.quantile(shares[1], 0.2)
    if flag == "bitonal":  # greys are left where the height was reduced
        shares = [
            np.mean([np.isin(line.image(id), (0, 255)).mean() > 0.7 for id in line.rows])
            for line in (none, some, all_)
        ]
        assert shares[0] < 0.1 and 0.2 < shares[1] < 0.8 and shares[2] > 0.9


def test_a_rule_runs_from_end_to_end_where_the_letters_stand():
    font = typeset.load_font(str(typeset.bundled_fonts()[0]), 40)
    ink = typeset.draw(np.random.default_rng(1), "no nun sees us", font, 40)
    feet = np.flatnonzero(ink.any(1))[-1]  # no letter hangs lower
    assert abs(typeset.baseline(ink) - feet) <= 1
    broken = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        ruled = typeset.rule(rng, rng, ink, 40)
        added = ruled > ink
        assert (ruled >= ink).all() and not ink[added].all()
        rows = np.flatnonzero(added.any(1))
        assert feet - 6 <= rows[0] and rows[-1] <= feet + 10 and len(rows) < 10
        broken += not (ruled > 40).any(0).all()
    assert 1 <= broken <= 15
    blank = typeset.rule(rng, rng, np.zeros((1, 5), np.uint8), 40)  # too low for a baseline
    assert blank.shape == (1, 5)


def test_uneven_letters_differ_and_none_is_lost():
    """The letter l ten times: as drawn they are alike, as written they are not."""
    font = typeset.load_font(str(typeset.bundled_fonts()[0]), 40)
    ink = typeset.draw(np.random.default_rng(0), " ".join("l" * 10), font, 40)

    def letters(ink):
        count, _, boxes, _ = cv2.connectedComponentsWithStats((ink > 60).astype(np.uint8))
        return count - 1, boxes[1:, cv2.CC_STAT_HEIGHT], boxes[1:, cv2.CC_STAT_WIDTH]

    count, heights, _ = letters(ink)
    assert count == 10 and np.ptp(heights) <= 1
    spreads = []
    for seed in range(12):
        count, uneven, _ = letters(typeset.vary(np.random.default_rng(seed), ink, 40))
        assert count == 10
        assert (np.abs(uneven / heights[0] - 1) < 0.4).all()
        spreads.append(np.ptp(uneven))
    assert min(spreads) >= 1 and max(spreads) >= 5


def test_heavy_letters_hold_the_drawn_ones_and_more():
    font = typeset.load_font(str(typeset.bundled_fonts()[0]), 40)
    drawn = [typeset.draw(np.random.default_rng(1), "Hag", font, 40, stroke) for stroke in (0, 0.8)]
    thin, heavy = (ink.astype(int) for ink in drawn)
    assert (heavy >= thin).all() and 1.1 < heavy.sum() / thin.sum() < 2


def test_favoured_fonts_make_half_of_the_lines_and_their_share_of_the_rest(tmp_path):
    flags = ("--count=120", "--fonts=bundled", "--seed=2", "--max_words=2")
    usual = make(tmp_path / "usual", "lines", *flags)
    assert usual.rows == make(tmp_path / "none", "lines", *flags, "--favour=").rows
    made = make(tmp_path / "favoured", "lines", *flags, "--favour=DejaVuSerif")
    share = lambda of: np.mean(["DejaVuSerif" in id for id in of.rows])
    assert share(usual) < 0.4 and 0.5 < share(made) < 0.8
    one = make(tmp_path / "one", "lines", *flags, "--favour=DejaVuSerif-Italic")
    assert 0.45 < np.mean(["DejaVuSerif-Italic" in id for id in one.rows]) < 0.75
    said = refused(tmp_path / "wrong", "lines", *flags, "--favour=Nothing")
    assert "--favour=Nothing: begin the name of a font's file: /" in said


def test_a_picture_without_ink_stays_as_it_is():
    blank = np.full((20, 40), 200, np.uint8)
    np.testing.assert_array_equal(typeset.black_and_white(np.random.default_rng(0), blank), blank)


def test_spaced_letters_keep_the_marks_that_stand_on_them(monkeypatch):
    """A mark set by itself would stand a letter space away, or on a box."""
    pieces = []
    pen = type("Pen", (), {"text": lambda self, at, piece, **_: pieces.append(piece)})
    monkeypatch.setattr(typeset.ImageDraw, "Draw", lambda page: pen())
    font = typeset.load_font(str(typeset.bundled_fonts()[0]), 40)
    for seed in range(20):
        typeset.draw(np.random.default_rng(seed), "fu\u0364r e\u0301", font, 40)
    assert set(pieces) == {"fu\u0364r", "e\u0301", "f", "u\u0364", "r"}
