"""tools/small_e: the letter of old print, in fonts that lack it."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from fontTools import ttLib
from PIL import ImageFont

from dig_jax.data import typeset
from dig_jax.tools import small_e

LACKS = next(p for p in typeset.bundled_fonts() if p.name == "DejaVuSans-Oblique.ttf")


def mask(file, text):
    """Ink bool[h, w] of a text, on a page of one size."""
    page = typeset.load_font(str(file), 80)
    ink = typeset.Image.new("L", (400, 200))
    typeset.ImageDraw.Draw(ink).text((20, 60), text, font=page, fill=255)
    return np.asarray(ink) > 127


@pytest.fixture
def file(tmp_path):
    assert small_e.SMALL_E not in ttLib.TTFont(LACKS).getBestCmap()
    return shutil.copy(LACKS, tmp_path / "font.ttf")


def test_the_letter_stands_above_the_one_before_it_and_takes_no_room(file):
    assert small_e.add(file) and not small_e.add(file)
    for char in "aou":
        alone, both = mask(file, char), mask(file, char + "\u0364")
        own = both & ~alone
        assert (both & alone).sum() == alone.sum() and own.any()
        rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
        letter = np.flatnonzero(alone.any(0))
        assert rows[-1] < np.flatnonzero(alone.any(1))[0]  # above it
        assert letter[0] <= columns.mean() <= letter[-1]
    font = ImageFont.truetype(str(file), 80)
    assert font.getlength("u\u0364r") == font.getlength("ur")
    np.testing.assert_array_equal(mask(file, "Hamburg"), mask(LACKS, "Hamburg"))


def test_a_letter_that_stands_beside_its_own_is_made_anew(file):
    font = ttLib.TTFont(file)
    for table in font["cmap"].tables:
        if table.isUnicode():
            table.cmap[small_e.SMALL_E] = font.getBestCmap()[ord("e")]
    font.save(file)
    assert small_e.add(file) and not small_e.add(file)


def test_what_has_no_outlines_stays_and_what_is_no_font_is_named(file, tmp_path):
    font = ttLib.TTFont(file)
    font["glyf"]["o"] = type(font["glyf"]["o"])()  # empty
    font["glyf"]["o"].numberOfContours = 0
    font.save(file)
    assert not small_e.add(file)
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    with pytest.raises(ValueError, match=r"broken.ttf is no font .*: remove it"):
        small_e.add(tmp_path / "broken.ttf")


def test_the_program_counts_fonts_and_names_an_empty_folder(file, tmp_path):
    run = lambda folder: subprocess.run(
        [sys.executable, "-m", "dig_jax.tools.small_e", f"--fonts={folder}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "1 of 1 fonts got a small e above" in run(tmp_path).stdout
    (tmp_path / "none").mkdir()
    refused = run(tmp_path / "none")
    assert refused.returncode and "holds no .ttf file" in refused.stderr
