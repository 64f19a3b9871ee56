"""Writes a contact sheet of every augmentation operator alone and of random views by whole recipes.

    python -m dig_jax.tools.show_augment --input MY_LINES --output augment.png

Columns are lines, rows are operators; behind a name stand the amounts drawn, with their units. Each
section has a heading. Pixels beyond a line's real width are painted light blue, so that padding
shows.
"""

import argparse
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from dig_jax.augment import recipes, views
from dig_jax.tools import program

PADDING = np.array([190, 215, 245], np.uint8)
LABEL_PX, HEADING_PX, HEADING = 260, 28, (20, 60, 120)
UNITS = {"_px": "px", "degrees": "degrees", "kelvin": "K"}  # by the ending of an amount's name
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def load_lines(folders, count, height_px, width_px, channels, seed):
    """`count` random images of each folder, resized to the height and cut to the width:
    u8[B,H,W,C], i32[B].
    """
    rng = np.random.default_rng(seed)
    images, widths = [], []
    for folder in (program.path(folder, "--input") for folder in folders):
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise FileNotFoundError(
                f"There is no image in {folder}: --input takes folders of line images."
            )
        for path in (
            paths[i] for i in rng.choice(len(paths), min(count, len(paths)), replace=False)
        ):
            picture = cv2.imread(
                str(path), cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
            )
            if picture is None:
                raise ValueError(f"{path} cannot be read as an image.")
            scale = height_px / picture.shape[0]
            size = (max(1, round(picture.shape[1] * scale)), height_px)
            picture = cv2.resize(
                picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            )
            picture = picture.reshape(height_px, -1, channels)[:, :width_px]
            widths.append(picture.shape[1])
            space = ((0, 0), (0, width_px - picture.shape[1]), (0, 0))
            images.append(np.pad(picture, space, constant_values=255))
    return np.stack(images), np.array(widths, np.int32)


def panels(image, width, seed, max_shift_px, random_rows):
    """(label, (f32[B,H,W,C], i32[B] widths)) for the input, operators at their ranges' ends, whole
    recipes.
    """
    key = jax.random.key(seed)
    yield "The lines as they are", None
    yield "input", (jnp.asarray(image, jnp.float32) / 255, width)
    stages = [stage for recipe in recipes.RECIPES.values() for stage in views.stages(recipe)]
    operators = {
        name: amounts for stage in reversed(stages) for name, amounts in stage["operators"]
    }
    yield "Each operator alone, at the least and the most that a recipe draws", None
    for name, amounts in operators.items():
        for end in (0, 1):
            # A chance is no amount to show the ends of: 0 and 1 are its two cases.
            fixed = {
                a: float(end) if a.endswith("_p") else v[end] if isinstance(v, tuple) else v
                for a, v in amounts.items()
                if a != "chance"
            }
            label = f"{name}  {', '.join(map(in_words, fixed.items()))}"
            recipe = views.only(name, **fixed)
            yield label, views.augment_lines(key, image, width, recipe, max_shift_px)
    jitter = {"some_of": (0, 0), "operators": (), "jitter": dict(recipes.DIG["jitter"], p=1.0)}
    for name, recipe in {"jitter": jitter, **recipes.RECIPES}.items():
        kind = "The operator" if name == "jitter" else "The recipe"
        yield f"{kind} {name}, drawn anew in each row", None
        run = jax.jit(
            lambda k, recipe=recipe: views.augment_lines(k, image, width, recipe, max_shift_px)
        )
        for row in range(random_rows):
            yield f"{name} #{row + 1}", run(jax.random.fold_in(key, row))


def in_words(amount):
    """(name, value) of an operator's amount -> "2.5 px", "chance 0.5", "gain 1.2"."""
    name, value = amount
    value = f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"
    for ending, unit in UNITS.items():
        if name.endswith(ending):
            what = name.removesuffix(ending)
            return f"{what} {value} {unit}".strip()
    if name.endswith("_p"):
        return f"chance of {name.removesuffix('_p')} {value}"
    return f"{name} {value}"


def written(height_px, width_px, text, scale, ink, paper=255):
    """A strip of text, u8[height_px, width_px, 3]."""
    strip = np.full((height_px, width_px, 3), paper, np.uint8)
    place = (4, height_px // 2 + 4)
    cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
    return strip


def sheet(rows, shown_px, label_px=LABEL_PX, gap_px=4, padding_px=12):
    """One u8[.., .., 3] picture of (label, views) rows; of the padding it shows `padding_px`. A row
    without views is the heading of those below it.
    """
    lines, shown = [], shown_px + padding_px
    for label, views_of_row in rows:
        if views_of_row is None:
            lines.append(label)
            continue
        view, width = views_of_row
        width = np.asarray(width)
        view = np.round(np.asarray(view) * 255).astype(np.uint8)
        view = np.broadcast_to(view, (*view.shape[:3], 3)).copy()
        view[
            np.broadcast_to(
                np.arange(view.shape[2])[None, None, :] >= width[:, None, None], view.shape[:3]
            )
        ] = PADDING
        margin = written(view.shape[1], label_px, label, 0.36, (0, 0, 0))
        gap = np.full((view.shape[1], gap_px, 3), 190, np.uint8)  # between two lines
        pictures = [
            np.concatenate([picture[:, :px], gap], axis=1) for picture, px in zip(view, shown)
        ]
        lines.append(np.concatenate([margin, *pictures], axis=1))
        lines.append(np.full((gap_px, lines[-1].shape[1], 3), 255, np.uint8))
    wide = lines[-1].shape[1]
    return np.concatenate(
        [
            written(HEADING_PX, wide, line, 0.5, HEADING, 236) if isinstance(line, str) else line
            for line in lines
        ],
        axis=0,
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m dig_jax.tools.show_augment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--input", nargs="+", required=True, help="folders of line images (searched below)"
    )
    parser.add_argument("--output", required=True, help="the PNG to write")
    parser.add_argument("--count", type=int, default=2, help="lines from each folder (default 2)")
    parser.add_argument("--height_px", type=int, default=32, help="of the lines (default 32)")
    parser.add_argument("--width_px", type=int, default=256, help="of the panels (default 256)")
    parser.add_argument(
        "--channels", type=int, choices=(1, 3), default=3, help="1 grey, 3 colour (default 3)"
    )
    parser.add_argument(
        "--max_shift_px",
        type=float,
        default=None,
        help="bound on horizontal shifts (default: none)",
    )
    parser.add_argument(
        "--rows", type=int, default=6, help="random views of each recipe (default 6)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of lines and draws (default 0)")
    args = parser.parse_args(argv)
    try:
        image, width = load_lines(
            args.input, args.count, args.height_px, args.width_px, args.channels, args.seed
        )
        rows = panels(image, width, args.seed, args.max_shift_px, args.rows)
        rows = tqdm(rows, unit=" rows", disable=not sys.stderr.isatty())
        picture = sheet(rows, width)
        output = program.write_picture(args.output, picture[..., ::-1])
    except (ValueError, OSError, cv2.error) as error:
        print(f"error: {program.sentence(error)}", file=sys.stderr)
        return 1
    print(f"{output}: {picture.shape[1]} x {picture.shape[0]} px, {len(width)} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
