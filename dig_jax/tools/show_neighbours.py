"""Draws windows of lines, each beside the windows of other lines that an encoder finds most alike.

    python -m dig_jax.tools.show_neighbours gen48 --records=records/mine@validation

MODEL is a run, an export or the name of bundled weights. --records: records, or a folder of images.
A window is the mean of --columns neighbouring frames, minus the mean over all windows. Likeness is
the cosine. On the left of a row is a window that was not picked: they stand at even distances.
An encoder that learnt shapes of letters shows the same letters in a row. The picture of a run goes
into its work folder, where `report` finds it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from absl import flags

from dig_jax.tools import program
from dig_jax.tools.report_lines import NEIGHBOURS as NAME
from dig_jax.tools.show_readings import chosen, decoded, lines_of
from dig_jax.train import command_line

FLAGS = flags.FLAGS
MARGIN, GAP_PX = 0.25, 6  # what is drawn beside a window, in widths of it; between pictures
INK_SHARE = 0.5  # windows with less contrast than this share of the middle one are paper


def windows(frames: np.ndarray, columns: int) -> np.ndarray:
    """f32[S, F] -> f32[S - columns + 1, F]: means of `columns` neighbouring frames."""
    total = np.cumsum(np.pad(frames, ((1, 0), (0, 0))), axis=0, dtype=np.float64)
    return ((total[columns:] - total[:-columns]) / columns).astype(np.float32)


def nearest(queries: np.ndarray, rows: np.ndarray, line: np.ndarray, count: int) -> np.ndarray:
    """i[Q, count]: for each query (a number of a row) the nearest rows of other lines, one a line.

    rows: f32[N, F]. line: i[N], which line a row is of.
    """
    centred = rows - rows.mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
    found = []
    for query in queries:
        order = np.argsort(-(unit @ unit[query]), kind="stable")
        order = order[line[order] != line[query]]
        first = np.sort(np.unique(line[order], return_index=True)[1])  # the best of each line
        found.append(order[first[:count]])
    return np.stack(found)


def pieces(picture: np.ndarray, count: int, columns: int, px: float) -> list[np.ndarray]:
    """The picture of each of `count` windows, `px` a column, with its margins; all of one size."""
    wide, side = round(columns * px), round(columns * px * MARGIN)
    paper = int(np.median(picture))
    padded = cv2.copyMakeBorder(
        picture, 0, 0, side, wide + side, cv2.BORDER_CONSTANT, value=(paper,) * 3
    )
    starts = (round(i * px) for i in range(count))
    return [padded[:, x : x + wide + 2 * side] for x in starts]


def sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Pictures u8[H, W, 3] in rows, the first of a row set apart."""
    gap = lambda px: np.full((rows[0][0].shape[0], px, 3), 255, np.uint8)
    drawn = []
    for first, *others in rows:
        parts = [first, gap(4 * GAP_PX)]
        for other in others:
            parts += [other, gap(GAP_PX)]
        line = np.concatenate(parts[:-1], axis=1)
        drawn += [line, np.full((GAP_PX, line.shape[1], 3), 255, np.uint8)]
    return np.concatenate(drawn[:-1])


def output_of(model: str) -> pathlib.Path:
    """Where the picture goes that nobody named a place for."""
    run = pathlib.Path(model).expanduser()
    return run / "pictures" / NAME if (run / "checkpoints").is_dir() else pathlib.Path(NAME)


def main(argv):
    if len(argv) != 2:
        raise ValueError("name one encoder: a run, an export or bundled weights such as gen48")
    from dig_jax.load import load_encoder  # late: --help needs no JAX

    images = [image for image, _ in chosen(lines_of(FLAGS.records, labelled=False), FLAGS.lines)]
    if len(images) <= FLAGS.neighbours:
        raise ValueError(
            f"--records={FLAGS.records} has {len(images)} lines: {FLAGS.neighbours} neighbours "
            f"need {FLAGS.neighbours + 1}"
        )
    found, drawn, line = [], [], []
    for number, (image, read) in enumerate(zip(images, load_encoder(argv[1])(images))):
        if read.error or len(read.frames) < FLAGS.columns:
            continue
        found.append(windows(read.frames, FLAGS.columns))
        picture = decoded(image)
        px = picture.shape[1] / len(read.frames)
        drawn += pieces(picture, len(found[-1]), FLAGS.columns, px)
        line += [number] * len(found[-1])
    wide = min(piece.shape[1] for piece in drawn)  # lines differ by a rounded pixel
    contrast = np.array([float(piece.std()) for piece in drawn])
    inked = np.flatnonzero(contrast > INK_SHARE * np.median(contrast))
    queries = inked[np.linspace(0, len(inked) - 1, FLAGS.rows + 2)[1:-1].astype(int)]
    others = nearest(queries, np.concatenate(found), np.array(line), FLAGS.neighbours)
    high = max(piece.shape[0] for piece in drawn)
    size = lambda i: cv2.resize(drawn[i], (wide, high))
    rows = [[size(query), *map(size, near)] for query, near in zip(queries, others)]
    output = program.write_picture(FLAGS.output or str(output_of(argv[1])), sheet(rows)[:, :, ::-1])
    print(f"{output}: {len(rows)} windows of {len(set(line))} lines, the nearest beside each")


if __name__ == "__main__":
    where = f"PNG to write; default: RUN/pictures/{NAME}, of other models {NAME}."
    command_line.define_path("output", None, where)
    flags.DEFINE_string("records", None, "RECORDS@SPLIT, or a folder of images.")
    flags.DEFINE_integer("lines", 200, "Lines to look into, at even distances.", lower_bound=2)
    flags.DEFINE_integer("rows", 8, "Windows to look for.", lower_bound=1)
    flags.DEFINE_integer("neighbours", 8, "Neighbours of each.", lower_bound=1)
    flags.DEFINE_integer("columns", 4, "Frames of a window.", lower_bound=1)
    flags.mark_flag_as_required("records")
    program.run(main)
