"""Writes a contact sheet of what the model really sees: every line, its views and its masks.

    python -m dig_jax.tools.show_batch --config=dig:preset=cpu,records=RECORDS [--output=batch.png]

One row of panels a line: the batch as it leaves the input pipeline, then each picture that the
method's `augment` makes of it. Inputs and targets are shown alike, hidden patches dark and padding
tinted. For recognisers the text that the label encodes stands below the line. A title says which
step of which records, and a legend what the colours mean.
"""

import re

import cv2
import jax
import numpy as np
from absl import app, flags

from dig_jax.tools import program
from dig_jax.tools.perf.workload import SCHEDULE
from dig_jax.train import command_line
from dig_jax.train.experiment import Experiment

FLAGS = flags.FLAGS
HEAD_PX = 480  # room for the title and the legend
SCALE, GAP_PX, MASKED, PADDING = 2, 10, (60, 60, 200), (225, 235, 245)  # BGR


def as_picture(image, width):
    """One line u8 or f32 [-1, 1] [H, W, C] -> BGR u8, enlarged, padding tinted."""
    if image.dtype != np.uint8:
        image = np.clip(image * 127.5 + 127.5, 0, 255).astype(np.uint8)
    image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.shape[-1] == 1 else cv2.COLOR_RGB2BGR)
    image[:, width:] = PADDING
    return cv2.resize(image, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_NEAREST)


def with_mask(picture, mask, patch):
    """Paints the hidden patches over; mask bool[N] in reading order (column by column)."""
    rows = picture.shape[0] // (patch[0] * SCALE)
    hidden = np.kron(mask.reshape(-1, rows).T, np.ones((patch[0] * SCALE, patch[1] * SCALE), bool))
    picture = picture.copy()
    picture[hidden] = picture[hidden] // 4 + np.array(MASKED, np.uint8) // 4 * 3
    return picture


def mask_of(views, name):
    """bool[B,N], the hidden patches of a view: `mask` is bool[B,V,N], or bool[B,N] of view1 alone;
    None where nothing of it is hidden.
    """
    if "mask" not in views or name not in ("view1", "view2"):
        return None
    mask = np.asarray(views["mask"])
    if mask.ndim == 3:
        return mask[:, int(name[-1]) - 1]
    return mask if name == "view1" else None


def caption(text, width_px, height_px=26):
    """A strip with text; characters that OpenCV's fonts lack come out as '?', which is why it
    stands beside the image.
    """
    strip = np.full((height_px, width_px, 3), 255, np.uint8)
    cv2.putText(
        strip, text, (4, height_px - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (90, 70, 50), 1, cv2.LINE_AA
    )
    return strip


def panels(batch, views, patch, i):
    """[(name, picture)] of line i: the batch's image, then every f32[.., H, W, 1 or 3] that was
    made of it. A method that makes several rows of a line (rotation) or cuts windows from it
    (jigsaw) shows each of them as it is."""
    shown = [("image", as_picture(batch["image"][i], int(batch["width"][i])))]
    pictures = [
        name
        for name, x in views.items()
        if x.ndim == 4 and x.shape[-1] in (1, 3) and x.dtype != np.uint8
    ]
    for name in pictures:
        each = len(views[name]) // len(batch["image"])
        for row in range(i * each, (i + 1) * each):
            view = np.asarray(views[name][row])
            whole = view.shape[1] == batch["image"].shape[2]
            picture = as_picture(view, int(batch["width"][i]) if whole else view.shape[1])
            mask = mask_of(views, name)
            masked = mask is not None and not np.all(mask)  # all: painted, but seen (SSM)
            if masked:
                picture = with_mask(picture, mask[row], patch)
            if name == "image" and np.abs(picture.astype(int) - shown[0][1]).max() <= 1:
                continue  # as it was: a recogniser without a recipe
            shown.append(
                (
                    "augmented" if name == "image" else name + (" (masked)" if masked else ""),
                    picture,
                )
            )
    return shown


def sheet(batch, host, views, patch, rows):
    """The contact sheet, u8[H, W, 3] BGR."""
    lines = []
    for i in range(min(rows, len(batch["image"]))):
        shown = panels(batch, views, patch, i)
        if not lines:
            gap = np.full((26, GAP_PX, 3), 255, np.uint8)
            lines.append(
                np.hstack([part for name, p in shown for part in (caption(name, p.shape[1]), gap)])
            )
        bordered = [
            cv2.copyMakeBorder(p, 0, GAP_PX, 0, GAP_PX, cv2.BORDER_CONSTANT, value=(255, 255, 255))
            for _, p in shown
        ]
        lines.append(np.hstack(bordered))
        if "label" in batch:
            lines.append(caption(host["text"][i] or "(no label)", lines[0].shape[1]))
    return np.vstack(lines)


def headed(picture, title, masked, padded):
    """The sheet below its title and a legend of the colours that occur in it."""
    legend = [("hidden from the network", MASKED)] if masked else []
    legend += [("padding", PADDING)] if padded else []
    wide = max(picture.shape[1], HEAD_PX)
    picture = np.pad(picture, ((0, 0), (0, wide - picture.shape[1]), (0, 0)), constant_values=255)
    strip, x = caption("", wide), 4
    for name, colour in legend:
        strip[5:21, x : x + 16] = colour
        strip[:, x + 20 : x + 220] = caption(name, 200)
        x += 230
    return np.vstack([caption(title, wide), *([strip] if legend else []), picture])


def opened(config):
    """The Experiment of a config on one device. Its schedule may not fit: nothing is trained."""
    told = config.to_dict()
    told["optim"] |= SCHEDULE
    return Experiment.from_config(told, devices=jax.devices()[:1])


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    experiment = opened(command_line.config())
    batch, host = experiment.data.dataset[FLAGS.step]
    views = jax.jit(experiment.augment, static_argnums=1)(batch, FLAGS.step)
    picture = sheet(batch, host, views, experiment.method.encoder.patch, FLAGS.rows)
    config = experiment.config
    records = re.sub(r"[^,@*]*/", "", config["data"]["train"])  # a path would not fit
    title = f"{config['method']['name']}: step {FLAGS.step} of {records}"
    masked = "mask" in views and not np.all(views["mask"])
    padded = bool(np.any(batch["width"] < batch["image"].shape[2]))
    picture = headed(picture, title, masked, padded)
    output = program.write_picture(FLAGS.output, picture)
    for error in host["errors"]:
        print(f"unusable record: {error}")
    lines = len(batch["image"])
    print(f"{output}: {min(FLAGS.rows, lines)} of {lines} lines of step {FLAGS.step}")


if __name__ == "__main__":  # flags are global: programs can be imported side by side
    command_line.define_config("Config of a training run; config.data.train must name records.")
    flags.DEFINE_string("output", "batch.png", "PNG to write.")
    flags.DEFINE_integer("step", 0, "Which training step to show.", lower_bound=0)
    flags.DEFINE_integer("rows", 12, "How many lines.", lower_bound=1)
    flags.mark_flag_as_required("config")
    program.run(main)
