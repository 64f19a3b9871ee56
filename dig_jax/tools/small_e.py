"""Fonts with the small e above (U+0364) of old German print, in which ü was uͤ.

    python -m dig_jax.tools.small_e --fonts=FONTS
    python -m dig_jax.tools.word_list --language=de --long_s --before_1830=0.4 --output=words.txt

A font that lacks the letter gets one, made of its own e; the file is written anew. So does a font
whose letter stands beside the one before it, since lines are set without the font's rules for
marks. For lines to train on: ask a font's licence before you pass the file on.
"""

import pathlib

from absl import flags
from fontTools import ttLib
from fontTools.pens import boundsPen, recordingPen, transformPen, ttGlyphPen

from dig_jax.tools import program
from dig_jax.train import command_line

FLAGS = flags.FLAGS
SMALL_E, NAME = 0x364, "uni0364"
SCALE, GAP = 0.42, 0.05  # of the e, and of the em between it and the letter below


def add(file: pathlib.Path) -> bool:
    """Adds the letter to a TrueType font, over the middle of a, o and u and above them. False where
    the font has it there already, or has no outlines of these letters. ValueError for what is no
    font."""
    try:
        font = ttLib.TTFont(file)
    except ttLib.TTLibError as error:
        raise ValueError(f"{file} is no font ({error}): remove it") from error
    names = font.getBestCmap() or {}
    if "glyf" not in font or not all(ord(c) in names for c in "aoue"):
        return False
    glyphs = font.getGlyphSet()

    def bounds(char: str) -> tuple[float, float, float, float] | None:
        pen = boundsPen.BoundsPen(glyphs)
        glyphs[names[ord(char)]].draw(pen)
        return pen.bounds

    if SMALL_E in names and (own := bounds(chr(SMALL_E))) and own[0] + own[2] < 0:
        return False
    below, small = [bounds(char) for char in "aou"], bounds("e")
    if small is None or None in below:
        return False
    middles = [
        (box[0] + box[2]) / 2 - glyphs[names[ord(char)]].width for char, box in zip("aou", below)
    ]
    left, bottom, right, _ = small
    across = sum(middles) / 3 - SCALE * (left + right) / 2
    up = max(box[3] for box in below) + GAP * font["head"].unitsPerEm - SCALE * bottom
    outline = recordingPen.DecomposingRecordingPen(glyphs)
    glyphs[names[ord("e")]].draw(outline)
    made = ttGlyphPen.TTGlyphPen(None)
    outline.replay(transformPen.TransformPen(made, (SCALE, 0, 0, SCALE, across, up)))
    font["glyf"][NAME] = made.glyph()
    font["hmtx"][NAME] = 0, round(SCALE * left + across)
    for table in font["cmap"].tables:
        if table.isUnicode():
            table.cmap[SMALL_E] = NAME
    font.save(file)
    return True


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"{argv[1]!r} is no option: write --name=value")
    folder = program.path(FLAGS.fonts, "--fonts")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() == ".ttf")
    if not files:
        raise ValueError(f"--fonts is {folder}, which holds no .ttf file: name a folder of fonts")
    count = sum(map(add, files))
    print(f"{folder}: {count} of {len(files)} fonts got a small e above")


if __name__ == "__main__":
    command_line.define_path("fonts", None, "A folder of TrueType fonts, written anew.")
    flags.mark_flag_as_required("fonts")
    program.run(main)
