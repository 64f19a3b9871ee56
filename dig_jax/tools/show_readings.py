"""Draws lines with what a recogniser read in them, mistakes in red: one picture to show.

    python -m dig_jax.tools.show_readings RUN --records=records/archiscribe@validation

RUN is a work folder in which an evaluation left readings-SET.tsv. The lines are taken evenly from
the table as it stands, so that they are neither the best nor the worst.
"""

import pathlib

import cv2
import matplotlib
import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFont
from rapidfuzz.distance import Levenshtein

from dig_jax.data import records
from dig_jax.tools import program
from dig_jax.train import command_line
from dig_jax.workdir import readings

FLAGS = flags.FLAGS
WIDE_PX, HIGH_PX, FONT_PX, GAP_PX = 1000, 48, 26, 14
INK, WRONG, LEFT_OUT = (20, 40, 90), (200, 20, 20), "\N{MIDDLE DOT}"
# What the fonts at hand lack, and what looks like it.
LIKE = {"\u0364": "\u1d49", "\u2e17": "=", "\ua75b": "r"}


def marked(truth: str, reading: str) -> list[tuple[str, bool]]:
    """[(piece, whether it is wrong)] of the reading; a dot stands for what it leaves out."""
    pieces = []
    for tag, _, _, c, d in Levenshtein.opcodes(truth, reading):
        pieces.append((LEFT_OUT if tag == "delete" else reading[c:d], tag != "equal"))
    return pieces


def decoded(image: bytes) -> np.ndarray:
    """Encoded bytes -> u8[HIGH_PX, w, 3] RGB, at most WIDE_PX wide."""
    picture = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
    times = min(HIGH_PX / picture.shape[0], WIDE_PX / picture.shape[1])
    size = (max(1, round(picture.shape[1] * times)), max(1, round(picture.shape[0] * times)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def drawn(lines: list[tuple[np.ndarray, str, str]]) -> np.ndarray:
    """[(picture, truth, reading)] -> u8[H, WIDE_PX + 2 * GAP_PX, 3] BGR."""
    file = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    height = sum(picture.shape[0] + FONT_PX + 2 * GAP_PX for picture, *_ in lines)
    sheet = Image.new("RGB", (WIDE_PX + 2 * GAP_PX, height), "white")
    draw, y = ImageDraw.Draw(sheet), GAP_PX
    for picture, truth, reading in lines:
        sheet.paste(Image.fromarray(picture), (GAP_PX, y))
        y += picture.shape[0] + GAP_PX // 3
        pieces, size = marked(truth, reading), FONT_PX
        shown = [("".join(LIKE.get(c, c) for c in text), wrong) for text, wrong in pieces]
        font = ImageFont.truetype(str(file), size)
        while sum(font.getlength(text) for text, _ in shown) > WIDE_PX and size > 8:
            size -= 1
            font = ImageFont.truetype(str(file), size)
        x = float(GAP_PX)
        for text, wrong in shown:
            draw.text((x, y), text, font=font, fill=WRONG if wrong else INK)
            x += font.getlength(text)
        y += FONT_PX + GAP_PX + GAP_PX // 2
    return np.asarray(sheet)[:, :, ::-1]


def main(argv):
    if len(argv) != 2:
        raise ValueError("name the work folder of an evaluated recogniser, and no more")
    run = program.path(argv[1], "RUN")
    sets = readings.datasets(run)
    if not sets:
        raise ValueError(f"{run} holds no readings-SET.tsv: evaluate the recogniser first")
    rows = readings.read(readings.file_of(run, FLAGS.set or sets[0]))
    mixture = records.open_sets(FLAGS.records)
    images = {r.id: r.image for r in mixture.read(range(len(mixture))) if not r.error}
    rows = [row for row in rows if row.path in images]
    if not rows:
        raise ValueError(
            f"{FLAGS.records} holds no line of these readings: name the set and split evaluated"
        )
    chosen = np.linspace(0, len(rows) - 1, min(FLAGS.lines, len(rows)) + 2)[1:-1].round()
    lines = [rows[int(i)] for i in chosen]
    picture = drawn([(decoded(images[r.path]), r.truth, r.reading) for r in lines])
    output = program.write_picture(FLAGS.output, picture)
    wrong = sum(row.edits for row in lines)
    print(f"{output}: {len(lines)} of {len(rows)} lines, {wrong} edits in them")


if __name__ == "__main__":
    command_line.define_path("output", "readings.png", "PNG to write.")
    flags.DEFINE_string("records", None, "The set and split that was evaluated: RECORDS@SPLIT.")
    flags.DEFINE_string("set", "", "Data set of the readings, where there are several.")
    flags.DEFINE_integer("lines", 6, "How many lines.", lower_bound=1)
    flags.mark_flag_as_required("records")
    program.run(main)
