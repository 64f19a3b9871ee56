"""How well lines are found and read on pages composed from labelled lines.

    python -m dig_jax.tools.perf.bench_pages --data=records/lines@validation --model=runs/reader

Pages are composed from lines that follow each other in the records, so mostly of one book, turned
by -5 to 5 degrees. The set "usual": plain or noisy pages of one and two columns. The set "hard":
ruled paper, stains, a shadow, and all of them at once on two columns. A seed decides all of it.

Localisation: mean IoU of lines with the best polygon found; lines missed, split and merged;
polygons that are no line. CER of four kinds:

    perfect  the lines before they were laid on pages
    known    cut from the page at their known places
    found    cut from the page where they were found
    page     whole pages, reading order included

Without --model, localisation only. --tesseract adds Tesseract's page segmentation on the same
pages, read by the same reader. It needs the package tesserocr. The last line is JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from absl import flags

from dig_jax.tools import program
from dig_jax.train import command_line

FLAGS = flags.FLAGS
USUAL = [("plain", 1), ("noise", 1), ("plain", 2), ("noise", 2)]
HARD = [("ruled", 1), ("stains", 1), ("shadow", 1), ("all", 1), ("all", 2)]
IN_LINE, PIECE, WITHIN = 0.5, 0.1, 0.5  # shares of areas that make a line found, split, merged


# ---- pages


def pages(spec: str, count: int, lines: int, seed: int) -> dict[str, list[tuple[Any, list[str]]]]:
    """{set: [(Composed, texts of its lines)]}: `count` usual pages and one of each hard kind."""
    from dig_jax.data import records, transforms
    from dig_jax.pages.compose import compose

    data = records.open_sets(spec)
    if len(data) < lines:
        raise ValueError(f"--data={spec} has {len(data)} lines: give a set of {lines} or more")
    rng, made = np.random.default_rng(seed), {"usual": [], "hard": []}
    kinds = [("usual", *USUAL[i % len(USUAL)]) for i in range(count)]
    for group, kind, columns in [*kinds, *(("hard", *kind) for kind in HARD)]:
        first = int(rng.integers(0, len(data) - lines + 1))
        rows = data.read(range(first, first + lines))
        pictures = [transforms.decode(row.image, 1)[:, :, 0] for row in rows]
        skew = float(rng.uniform(-5, 5))
        page = compose(rng, pictures, kind=kind, columns=columns, skew_degrees=skew)
        made[group].append((page, [rows[i].text for i in page.used], pictures))
    return made


def cut(image: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """u8[h, w]: what lies in the four corners, f64[4, 2], made upright, with 2 px around."""
    w = int(np.linalg.norm(quad[1] - quad[0])) + 4
    h = int(np.linalg.norm(quad[3] - quad[0])) + 4
    target = np.array([[2, 2], [w - 2, 2], [w - 2, h - 2], [2, h - 2]], np.float32)
    matrix = cv2.getPerspectiveTransform(quad.astype(np.float32), target)
    return cv2.warpPerspective(image, matrix, (w, h), borderMode=cv2.BORDER_REPLICATE)


# ---- localisation


def overlaps(truth: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """(areas f64[t], areas f64[f], common areas f64[t, f]) of polygons f64[n, 2], in px."""
    every = [np.asarray(polygon, np.float64) for polygon in (*truth, *found)]
    origin = np.floor(np.min([polygon.min(0) for polygon in every], axis=0))
    boxes = [np.r_[polygon.min(0), polygon.max(0)] for polygon in every]
    size = np.ceil(np.max([box[2:] for box in boxes], axis=0) - origin).astype(int) + 2

    def mask(number: int) -> tuple[tuple[slice, slice], np.ndarray]:
        x, y = np.floor(boxes[number][:2] - origin).astype(int)
        right, bottom = np.minimum(np.ceil(boxes[number][2:] - origin).astype(int) + 1, size)
        drawn = np.zeros((bottom - y, right - x), np.uint8)
        points = np.round(every[number] - origin - (x, y)).astype(np.int32)
        cv2.fillPoly(drawn, [points], 1)
        return (slice(y, bottom), slice(x, right)), drawn

    masks = [mask(number) for number in range(len(every))]
    areas = np.array([float(drawn.sum()) for _, drawn in masks])
    common = np.zeros((len(truth), len(found)))
    page = np.zeros(size[::-1], np.uint8)
    for t in range(len(truth)):
        place, drawn = masks[t]
        page[place] = drawn
        for f in range(len(found)):
            other, shape = masks[len(truth) + f]
            common[t, f] = float((page[other] & shape).sum())
        page[place] = 0
    return areas[: len(truth)], areas[len(truth) :], common


def localisation(truth: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> dict[str, float]:
    """Counts: lines, polygons, missed, split, merged, false; iou: the sum over lines."""
    if not len(found):
        counts = dict.fromkeys(("polygons", "split", "merged", "false", "iou"), 0)
        return {"lines": len(truth), "missed": len(truth), **counts}
    line, polygon, common = overlaps(truth, found)
    of_line, of_polygon = common / line[:, None], common / np.maximum(polygon, 1)
    iou = common / (line[:, None] + polygon - common)
    pieces = (of_line >= PIECE) & (of_polygon >= WITHIN)
    covers = of_line >= IN_LINE
    return {
        "lines": len(truth),
        "polygons": len(found),
        "missed": int((of_line.sum(1) < IN_LINE).sum()),
        "split": int((pieces.sum(1) > 1).sum()),
        "merged": int((covers & (covers.sum(0) > 1)).any(1).sum()),
        "false": int((of_polygon.sum(0) < 0.3).sum()),
        "iou": float(iou.max(1).sum()),
    }


def owned(truth: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> list[list[int]]:
    """The polygons of each line, from left to right: each belongs to the line it covers most."""
    lines: list[list[int]] = [[] for _ in truth]
    if len(found):
        _, areas, common = overlaps(truth, found)
        for number in np.argsort([polygon[:, 0].min() for polygon in found]):
            best = int(common[:, number].argmax())
            if common[best, number] > 0.2 * areas[number]:
                lines[best].append(int(number))
    return lines


# ---- figures


def edits(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """f64[2]: edits and characters of (truth, reading) pairs."""
    from dig_jax.evaluators import scoring

    table = scoring.count(pairs)
    return table[:, [scoring.COLUMNS.index(name) for name in ("edits", "chars")]].sum(0)


def texts_of(reader: Any, images: Sequence[np.ndarray]) -> list[str]:
    return [reading.text for reading in reader.read(list(images))]


def compared(
    truth: Sequence[np.ndarray], texts: Sequence[str], found: Sequence[np.ndarray], read: list[str]
) -> dict[str, np.ndarray]:
    """{"found", "page"}: edits and characters, by line and of the page in its order."""
    joined = [" ".join(read[i] for i in numbers) for numbers in owned(truth, found)]
    return {
        "found": edits(list(zip(texts, joined))),
        "page": edits([(" ".join(texts), " ".join(read))]),
    }


def measure(made: Sequence[tuple], reader: Any, tesseract: bool) -> dict[str, Any]:
    """{"dig_jax", "tesseract", ...: figures} of a set of pages."""
    finders = {"dig_jax": ours} | ({"tesseract": theirs, "tesseract_cleaned": cleaned_theirs})
    if not tesseract:
        finders = {"dig_jax": ours}
    result: dict[str, Any] = {}
    for name, finder in finders.items():
        counts: dict[str, float] = {}
        errors: dict[str, np.ndarray] = {}
        seconds = 0.0
        for page, texts, pictures in made:
            start = time.process_time()
            polygons, images = finder(page.image)
            seconds += time.process_time() - start
            for key, value in localisation(page.polygons, polygons).items():
                counts[key] = counts.get(key, 0) + value
            if reader is None:
                continue
            found = compared(page.polygons, texts, polygons, texts_of(reader, images))
            if name == "dig_jax":
                known = [cut(page.image, quad) for quad in page.polygons]
                perfect = [pictures[i] for i in page.used]
                found |= {"perfect": edits(list(zip(texts, texts_of(reader, perfect))))}
                found |= {"known": edits(list(zip(texts, texts_of(reader, known))))}
            for key, value in found.items():
                errors[key] = errors.get(key, 0) + value
        lines = counts.pop("lines")
        row = {"lines": lines, "iou": round(counts.pop("iou") / lines, 4), **counts}
        row |= {f"cer_{key}": round(float(value[0] / value[1]), 4) for key, value in errors.items()}
        result[name] = row | {"cpu_s_a_page": round(seconds / len(made), 2)}
    return result


def ours(image: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(polygons on the page, pictures of the lines), in reading order."""
    from dig_jax.pages import read

    found = read.find("page", image)
    back = found.cleaned.back
    polygons = [line.polygon @ back[:, :2].T + back[:, 2] for line in found.lines]
    return polygons, [line.image for line in found.lines]


def theirs(image: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The same by Tesseract's page segmentation: boxes of lines, in its order."""
    import tesserocr
    from PIL import Image

    polygons, images = [], []
    with tesserocr.PyTessBaseAPI(init=False) as api:
        api.InitForAnalysePage()
        api.SetPageSegMode(tesserocr.PSM.AUTO)
        api.SetImage(Image.fromarray(image))
        layout = api.AnalyseLayout()
        level = tesserocr.RIL.TEXTLINE
        for line in tesserocr.iterate_level(layout, level) if layout else ():
            box = line.BoundingBox(level)
            if box is None or box[2] - box[0] < 2 or box[3] - box[1] < 2:
                continue
            left, top, right, bottom = box
            corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
            polygons.append(np.array(corners, np.float64))
            images.append(np.ascontiguousarray(image[top:bottom, left:right]))
    return polygons, images


def cleaned_theirs(image: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tesseract's segmentation of our clean page."""
    from dig_jax.pages import clean

    done = clean.clean(image)
    polygons, images = theirs(done.image)
    return [polygon @ done.back[:, :2].T + done.back[:, 2] for polygon in polygons], images


def main(argv: list[str]) -> int:
    reader = None
    if FLAGS.model:
        from dig_jax import load

        reader = load.load_reader(FLAGS.model)
    made = pages(FLAGS.data, FLAGS.pages, FLAGS.lines, FLAGS.seed)
    result = {
        name: measure(group, reader, FLAGS.tesseract) for name, group in made.items() if group
    }
    for group, rows in result.items():
        for name, row in rows.items():
            print(f"{group:6} {name:18}", " ".join(f"{key} {value}" for key, value in row.items()))
    print(json.dumps({"pages": {name: len(group) for name, group in made.items()}, **result}))
    return 0


if __name__ == "__main__":
    command_line.define_path("data", None, "Labelled records: FOLDER or FOLDER@split.")
    command_line.define_path("model", "", "Recogniser. Without it, localisation only.")
    flags.DEFINE_integer("pages", 8, "Usual pages; the hard ones are five.")
    flags.DEFINE_integer("lines", 16, "Lines of a page.")
    flags.DEFINE_integer("seed", 0, "Of the pages.")
    flags.DEFINE_boolean("tesseract", False, "Tesseract's segmentation beside ours.")
    flags.mark_flag_as_required("data")
    program.run(main)
