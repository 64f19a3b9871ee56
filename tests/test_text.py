"""Normal form, charset round trips, CTC collapse against a slow loop, alphanumeric rule."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_jax.text import Charset, alphanumeric, normalize


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
