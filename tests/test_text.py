"""Normal form, charset round trips, CTC collapse against a slow loop, alphanumeric rule."""

import unicodedata

import numpy as np
import pytest
from bidi.algorithm import get_display
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_jax.text import (
    Charset,
    alphanumeric,
    base_direction,
    direction_of,
    logical_order,
    normalize,
    to_logical,
    to_visual,
)


def test_normalize_composes_and_cleans_white_space():
    assert normalize("  e\u0301t\u00e9\u00a0\t\n ein\u2003Saͤchs.  ") == "été ein Saͤchs."
    assert normalize(" \n\t ") == ""


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_normalize_is_idempotent_and_nfc(text):
    once = normalize(text)
    assert normalize(once) == once and unicodedata.is_normalized("NFC", once)
    assert "  " not in once and once == once.strip()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("It's", "ITS"),
        ("No. 5", "no5"),
        ("?", ""),
        ("é", ""),
        ("Straße", "strae"),
        ("a\u0301b", "b"),
    ],
)
def test_alphanumeric_vectors(a, b):
    assert alphanumeric(a) == alphanumeric(b)


def test_alphanumeric_keeps_only_ascii():
    assert (
        alphanumeric("ÀÉx٣Ω-K9") == "xk9"
    )  # Greek and Arabic digits are alphanumeric to Unicode, not here


def test_charset_is_independent_of_order_and_spelling():
    one = Charset.from_texts(["Gänse", "b a"])
    other = Charset.from_texts(["a  b", "Ga\u0308nse"])
    assert one == other and hash(one) == hash(other) and one.chars == " Gabensä" and one.size == 9


@given(st.lists(st.text(min_size=1), min_size=1))
@settings(max_examples=200, deadline=None)
def test_charset_round_trip(texts):
    if not any(normalize(text) for text in texts):
        with pytest.raises(ValueError, match="at least one character"):
            Charset.from_texts(texts)
        return
    charset = Charset.from_texts(texts)
    for text in texts:
        ids, unknown = charset.encode(text)
        assert not unknown and all(0 < i < charset.size for i in ids)
        assert charset.decode(ids) == normalize(text)
    assert Charset.from_json(charset.to_json()) == charset and charset.to_json().isascii()


def test_unknown_characters_are_returned_in_order():
    assert Charset("ab").encode("axbyx") == ([1, 2], ["x", "y", "x"])


def test_decode_drops_blanks_keeps_repeats_and_refuses_other_ids():
    charset = Charset("ab")
    assert charset.decode(np.array([0, 1, 1, 0, 2])) == "aab"
    for wrong in (3, -1):
        with pytest.raises(ValueError, match="outside"):
            charset.decode([wrong])


def test_charset_refuses_doubles():
    with pytest.raises(ValueError, match="'a'"):
        Charset("aba")


@pytest.mark.parametrize("value", ["", "[]", '{"x": 1}', "null"])
def test_from_json_refuses_other_json(value):
    with pytest.raises(ValueError, match="Not a character set"):
        Charset.from_json(value)


def slow_collapse(ids, length):
    """B of Graves et al. 2006, section 3.1, frame by frame."""
    label, before = [], 0
    for value in ids[:length]:
        if value != before and value != 0:
            label.append(value)
        before = value
    return label


def test_ctc_collapse_vectors():
    charset = Charset("abc")
    assert charset.ctc_collapse(np.array([1, 1, 0, 1, 2, 2, 0, 0, 3]), 9) == [1, 1, 2, 3]
    assert charset.ctc_collapse(np.array([1, 1, 0, 1, 2, 2, 0, 0, 3]), 3) == [
        1
    ]  # frames past the length are padding
    assert (
        charset.ctc_collapse(np.zeros(4, np.int32), 4)
        == charset.ctc_collapse(np.array([1]), 0)
        == []
    )


def test_ctc_collapse_against_the_loop():
    rng = np.random.default_rng(0)
    charset = Charset("abc")
    for _ in range(300):
        ids, length = rng.integers(0, 4, 12).astype(np.int32), int(rng.integers(0, 13))
        assert charset.ctc_collapse(ids, length) == slow_collapse(ids.tolist(), length)


# ---- right to left

SHALOM = "\u05e9\u05dc\u05d5\u05dd"  # written from the right, its first letter at the right
PICTURES = {
    SHALOM: SHALOM[::-1],
    f"{SHALOM} 12.5": f"12.5 {SHALOM[::-1]}",
    f"abc {SHALOM}": f"abc {SHALOM[::-1]}",
    f"({SHALOM})": f"({SHALOM[::-1]})",  # brackets are drawn as they open and close
    f"{SHALOM}, abc!": f"!abc ,{SHALOM[::-1]}",
    "\u0633\u0644\u0627\u0645 \u0661\u0662": "\u0661\u0662 \u0645\u0627\u0644\u0633",
    "It's (12) %": "It's (12) %",
}


@pytest.mark.parametrize("text, picture", PICTURES.items())
def test_labels_follow_the_picture_and_readings_are_turned_back(text, picture):
    assert to_visual(text) == picture
    assert to_logical(picture, direction_of(text)) == text
    charset = Charset.from_texts(PICTURES, base_direction([text]))
    assert charset.decode(charset.encode(text)[0]) == text


def test_marks_stay_behind_their_letters():
    pointed = "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd"  # two marks on the first letter
    picture = "\u05dd\u05d5\u05b9\u05dc\u05e9\u05c1\u05b8"
    assert to_visual(pointed) == picture and to_logical(picture, "R") == pointed


WORDS = st.sampled_from([SHALOM, SHALOM[:2], "\u0633\u0644\u0627\u0645", "\u05d1\u05b8"])
LATIN = st.sampled_from(["abc", "It's", "e\u0364"])


@given(st.lists(WORDS, min_size=1), st.sampled_from(["", " 7", " 12.5", "!", " ?", "."]))
@settings(max_examples=50, deadline=None)
def test_lines_from_the_right_come_back(words, end):
    line = " ".join(words) + end
    assert to_logical(to_visual(line), "R") == line


@given(st.lists(WORDS, min_size=1), st.lists(LATIN, min_size=1), st.booleans())
@settings(max_examples=50, deadline=None)
def test_mixed_lines_come_back_to_the_same_picture(words, latin, first):
    """A Latin and a Hebrew part side by side: the picture does not say which was first, the base
    does."""
    parts = (" ".join(words), " ".join(latin))
    line = " ".join(parts if first else parts[::-1])
    assert to_logical(to_visual(line), direction_of(line)) == line
    assert to_visual(to_logical(to_visual(line), "L")) == to_visual(line)


PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0628\u0647 \u062e\u0627\u0646\u0647"
HIDDEN = st.sampled_from(
    ["", "\u200c", "\u200d", "\u00ad", "\u05b8", "\u05b8\u200d", "\u200d\u0308"]
)
PIECES = st.tuples(st.sampled_from(["\u05e9", "\u0645", "a", "7", ",", "(", " "]), HIDDEN)


@pytest.mark.parametrize(
    "text", [PERSIAN, f"abc {PERSIAN}", "\u200d" + SHALOM, "a\u00adb " + SHALOM]
)
def test_joiners_are_read_and_written(text):
    for base in "RL":
        charset = Charset.from_texts([text], base)
        ids, unknown = charset.encode(text)
        assert set(charset.chars) == set(text) and not unknown
        assert len(ids) == len(text)
    charset = Charset.from_texts([text], base_direction([text]))
    assert charset.decode(charset.encode(text)[0]) == text


@given(st.lists(PIECES, min_size=1))
@settings(max_examples=200, deadline=None)
def test_nothing_hidden_is_lost_or_moves_a_letter(pieces):
    """The letters stand as the algorithm puts them; each keeps what is behind it."""
    letters, line = ("".join(parts) for parts in (next(zip(*pieces)), map("".join, pieces)))
    for base in "RL":
        assert to_visual(letters, base) == (
            get_display(letters, base_dir=base) if set(letters) & set("\u05e9\u0645") else letters
        )
        drawn, moved = to_visual(line, base), iter(to_visual(letters, base))
        assert sorted(drawn.translate(TURNED)) == sorted(line.translate(TURNED))
        assert all(next(moved) == char for char in drawn if char in LETTERS)
        behind = sorted((a, b) for a, b in pieces if a not in "()")
        assert sorted(pair for pair in clusters(drawn) if pair[0] not in "()") == behind


LETTERS = frozenset("\u05e9\u0645a7,() ")
TURNED = str.maketrans(")", "(")


def clusters(line):
    found = []
    for char in line:
        found += [[char, ""]] if char in LETTERS else []
        found[-1][1] += char if char not in LETTERS else ""
    return [tuple(pair) for pair in found]


@given(st.text(), st.sampled_from("RL"))
@settings(max_examples=200, deadline=None)
def test_any_text_has_a_picture_with_all_its_characters(text, base):
    line = SHALOM + text + "\u2067\u05d0\u202c"
    order = logical_order(to_visual(line, base), to_logical(to_visual(line, base), base))
    assert sorted(order) == list(range(len(line))) == list(range(len(to_visual(line, base))))
    assert Charset.from_texts([line], base).encode(line)[1] == []


@pytest.mark.parametrize("text", PICTURES)
def test_the_order_of_a_reading_names_the_places_of_its_characters(text):
    drawn, turned = to_visual(text), str.maketrans("()", "((")
    found = "".join(drawn[i] for i in logical_order(drawn, text))
    assert found.translate(turned) == text.translate(turned)


def test_marks_of_writing_direction_are_no_characters():
    for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)):
        charset = Charset.from_texts([f"{chr(code)}{SHALOM} abc"], "R")
        assert charset == Charset.from_texts([f"{SHALOM} abc"], "R"), hex(code)
    assert base_direction([f"\u200eabc {SHALOM}", f"\u200e{SHALOM}", f"\u200e{SHALOM}"]) == "R"


def test_the_base_is_chosen_by_the_lines_with_right_to_left_letters():
    assert base_direction(["abc", "1"]) == ""
    assert base_direction([*["abc"] * 9, SHALOM]) == "R"
    assert base_direction([f"abc {SHALOM}", f"b {SHALOM}", SHALOM]) == "L"


def test_old_character_sets_keep_the_order_of_the_text():
    old = Charset.from_json('{"chars": "' + SHALOM + '"}')
    assert old.base == "" and old.decode(old.encode(SHALOM)[0]) == SHALOM
    assert old.encode(SHALOM)[0] == [1, 2, 3, 4]
    new = Charset.from_texts([SHALOM], "R")
    assert Charset.from_json(new.to_json()) == new != old


def test_an_extended_character_set_keeps_its_ids():
    old = Charset("cab")
    new = old.extended(["abz", "\u00e9c"])
    assert new.chars == "cabz\u00e9" and new.encode("cab")[0] == old.encode("cab")[0]
    assert old.extended(["abc"]) == old
    both = old.extended(["\u05d0\u05d1 a"])  # what it could not say, it learns as it is drawn
    assert both.base == "R" and both.chars == old.chars + " \u05d0\u05d1"
    assert both.encode("\u05d0\u05d1")[0] == both.encode("\u05d1")[0] + both.encode("\u05d0")[0]
    logical = Charset("\u05d0")  # learnt as texts are stored, and it stays so
    assert logical.extended(["\u05d1"]).base == ""


def test_characters_that_nobody_sees_are_no_characters():
    assert normalize("\ufeffzwei\u200b Wör\u2060ter \u200b") == "zwei Wörter"
    assert normalize("می\u200cخواهم") == "می\u200cخواهم"  # a joiner changes how letters look
