"""Reads some lines and shows them: truths beside readings, and a picture with mistakes in red.

    python -m dig_jax.tools.show_readings fraktur
    python -m dig_jax.tools.show_readings runs/reader --records=records/mine@validation --lines=10

MODEL is a run, an export or the name of bundled weights. --records: records, or a folder of images
with labels.tsv; bundled readers bring a few lines of their own. Lines are taken at even distances,
so that they are neither the best nor the worst.
"""

from __future__ import annotations

import pathlib
import shutil
import sys
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFont
from rapidfuzz.distance import Levenshtein

from dig_jax.tools import program
from dig_jax.tools.tables import as_text
from dig_jax.train import command_line

FLAGS = flags.FLAGS
WIDE_PX, HIGH_PX, FONT_PX, GAP_PX = 1000, 48, 26, 14
OWN_LINES = "lines"  # a folder beside the weights that ship
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


def lines_of(spec: str, labelled: bool = True) -> list[tuple[bytes, str]]:
    """(encoded image, truth) of the lines of records or of a folder; labelled: of those alone."""
    from dig_jax.data import records
    from dig_jax.data.examples import Report
    from dig_jax.data.sources import folder

    where = program.path(spec, "--records")
    if where.is_dir() and not (where / records.MANIFEST).is_file():
        report = Report()
        found = folder.examples(report=report, input=str(where), workers=0)
        lines = [(image, text) for _, image, text, _ in found]
        for reason, count in report.reasons.items():
            print(f"{spec}: {count} left out: {reason}", file=sys.stderr)
    else:
        mixture = records.open_sets(spec, labelled=labelled)
        lines = [(r.image, r.text) for r in mixture.read(range(len(mixture))) if not r.error]
    return [(image, text or "") for image, text in lines if text or not labelled]


def chosen(lines: Sequence[tuple[bytes, str]], count: int) -> list[tuple[bytes, str]]:
    """`count` of the lines at even distances; all, where there are no more."""
    if len(lines) <= count:
        return list(lines)
    return [lines[int(i)] for i in np.linspace(0, len(lines) - 1, count + 2)[1:-1].round()]


def summary(name: str, read: Sequence[tuple[str, str]], columns: int) -> str:
    """What a terminal so wide shows of [(truth, reading)]: both side by side, or one below the
    other where that is too wide; then the error rate.
    """
    edits = [Levenshtein.distance(*pair) for pair in read]
    rows = [(*pair, f"{n} wrong" if n else "") for pair, n in zip(read, edits)]
    shown = as_text(("the line says", f"{name} reads", ""), rows)
    if max(map(len, shown.splitlines())) > columns:
        shown = "\n".join(f"  says   {truth}\n  reads  {text}  {n}" for truth, text, n in rows)
    total = sum(len(truth) for truth, _ in read)
    return (
        f"{shown}\n{name}: {sum(edits)} of {total} characters wrong in {len(read)} lines "
        f"(CER {100 * sum(edits) / max(total, 1):.1f} %)"
    )


def main(argv):
    if len(argv) != 2:
        raise ValueError("name one reader: a run, an export or bundled weights such as fraktur")
    from dig_jax.interop.model import located
    from dig_jax.load import load_reader  # late: --help needs no JAX
    from dig_jax.text import normalize

    own = located(argv[1]) / OWN_LINES
    spec = FLAGS.records or (str(own) if own.is_dir() else "")
    if not spec:
        raise ValueError(f"{argv[1]} brings no lines of its own: name some with --records")
    lines = chosen(lines_of(spec), FLAGS.lines)
    if not lines:
        raise ValueError(f"--records={spec} holds no line with a text: name labelled lines")
    readings = load_reader(argv[1]).read([image for image, _ in lines])
    name = pathlib.Path(argv[1]).name
    truths = [normalize(truth) for _, truth in lines]
    pairs = [(truth, line.text) for truth, line in zip(truths, readings)]
    print(summary(name, pairs, shutil.get_terminal_size().columns))
    sheet = [
        (decoded(image), truth, line.text)
        for (image, _), truth, line in zip(lines, truths, readings)
    ]
    print(f"picture: {program.write_picture(FLAGS.output, drawn(sheet))}")


if __name__ == "__main__":
    command_line.define_path("output", "readings.png", "PNG to write.")
    flags.DEFINE_string("records", None, "RECORDS@SPLIT, or a folder with labels.tsv.")
    flags.DEFINE_integer("lines", 6, "How many lines.", lower_bound=1)
    program.run(main)
