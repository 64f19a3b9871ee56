"""A web page on this machine that reads: python -m dig_jax.tools.web

    pip install "dig_jax[demo]"
    python -m dig_jax.tools.web --model=runs/reader

Drop a picture of a line or of a page on it, and choose a reader. It shows where the lines are, the
text, and each character below its place, tinted by how sure the reader was. --model adds a run or
an export to the readers that ship. Nothing leaves the machine; --host=0.0.0.0 lets others of the
network in.
"""

from __future__ import annotations

import functools
import html
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from absl import flags

from dig_jax.data.extras import need
from dig_jax.tools import program
from dig_jax.tools.report_lines import data_uri
from dig_jax.train import command_line

FLAGS = flags.FLAGS
COLOURS = ((200, 60, 60), (20, 100, 200), (30, 140, 70))  # RGB of the blocks of a page
SHOWN_PX = 1600  # of the longer side of the picture
LINE_PX = 34  # least height of a line that is shown
TITLE = "dig_jax reads"
HINT = (
    "Each character stands where the reader saw it. Below 50 % confidence it is red, up to 90 % "
    "yellow. Hover over it for the number."
)
STYLE = """
#characters .line { display: grid; grid-template-columns: 2rem minmax(0, 1fr); margin: .7rem 0 }
#characters .strip { overflow-x: auto } #characters img { width: 100%; display: block }
#characters .chars { position: relative; height: 1.6rem; font-size: .85rem }
#characters .chars span { position: absolute; top: 0; height: 100%; white-space: pre;
  text-align: center; line-height: 1.6rem; border-left: 1px solid #8886; overflow: visible }
"""
TINTS = ((0.5, "#f6b3ab"), (0.9, "#fbe3a3"))  # below which confidence; readable in dark mode, too


def readers(model: str | None) -> list[str]:
    """The bundled readers, encoders left out, and `model` in front of them."""
    from dig_jax.interop import model as models

    names = [name for name in models.bundled() if (models.BUNDLED / name / "charset.json").exists()]
    return ([model] if model and model not in names else []) + names


@functools.cache
def loaded(name: str) -> Any:
    """A reader stays in memory, with its compiled programs."""
    from dig_jax.load import load_reader

    return load_reader(name)


def framed(image: np.ndarray, lines: Sequence[Any]) -> np.ndarray:
    """u8[h, w] -> u8[h, w, 3] RGB, each line framed and numbered, at most SHOWN_PX long."""
    factor = min(1.0, SHOWN_PX / max(image.shape))
    size = [max(1, round(side * factor)) for side in image.shape[::-1]]
    picture = cv2.cvtColor(cv2.resize(image, size), cv2.COLOR_GRAY2RGB)
    for number, line in enumerate(lines, 1):
        colour = COLOURS[line.block % len(COLOURS)]
        corners = np.round(line.polygon * factor).astype(np.int32)
        cv2.polylines(picture, [corners], True, colour, 2, cv2.LINE_AA)
        x, y = corners.min(axis=0).tolist()
        place = (max(x, 2), max(y - 4, 14))
        cv2.putText(
            picture, str(number), place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA
        )
    return picture


def drawn(picture: np.ndarray) -> str:
    """HTML of u8[h, w, 3]; a long line is scrolled on a phone, so that it can be read."""
    png = cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()
    least = min(round(40 * picture.shape[1] / picture.shape[0]), 900)
    style = f"width:100%;min-width:{least}px"
    return f"<div style='overflow-x:auto'><img alt='' style='{style}' src='{data_uri(png)}'></div>"


def aligned(lines: Sequence[Any]) -> str:
    """HTML of the lines as the reader was given them, each character where it saw it; one that it
    doubted on a ground of its own.
    """
    rows = []
    for number, line in enumerate(lines, 1):
        least = round(LINE_PX * line.image.shape[1] / line.image.shape[0])
        png = cv2.imencode(".png", line.image)[1].tobytes()
        spans = "".join(
            f"<span title='{100 * sure:.0f} %' style='left:{100 * left:.2f}%;"
            f"width:{100 * (right - left):.2f}%;{tint(sure)}'>{html.escape(char)}</span>"
            for char, sure, left, right in line.characters
        )
        rows.append(
            f"<div class=line><small>{number}</small><div class=strip><div style='"
            f"min-width:{least}px;max-width:{2 * least}px'><img alt='' src='{data_uri(png)}'>"
            f"<div class=chars>{spans}</div></div></div></div>"
        )
    return f"<style>{STYLE}</style><div id=characters>{''.join(rows)}</div>"


def tint(sure: float) -> str:
    ground = next((colour for below, colour in TINTS if sure < below), "")
    return f"background:{ground};color:#222" if ground else ""


def answer(file: str | None, name: str) -> tuple[str, str, str]:
    """(HTML of the picture with frames, text, HTML of the lines with their characters) of a file.
    Of a bad one, the reason stands in the last.
    """
    from dig_jax.data.sizes import BadRecord
    from dig_jax.pages import read

    if not file:
        return "", "", "Choose a picture first."
    _, image = next(read.pictures(file))
    if isinstance(image, BadRecord):
        return "", "", html.escape(str(image))
    (page,) = read.read([read.find(pathlib.Path(file).name, image)], loaded(name))
    if page.error:
        return drawn(framed(image, [])), "", html.escape(page.error)
    note = "".join(f"<p>One line could not be read: {html.escape(why)}</p>" for why in page.unread)
    text = "\n".join(line.text for line in page.lines)
    return drawn(framed(image, page.lines)), text, aligned(page.lines) + note


def built(gradio: Any, names: Sequence[str]) -> Any:
    """The page, to be launched."""
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.Markdown(f"# {TITLE}\nA line or a page: PNG, JPEG, WebP, TIFF, PDF (first page).")
        file = gradio.File(label="Picture", type="filepath", elem_id="picture")
        name = gradio.Dropdown(list(names), value=names[0], label="Reader", elem_id="reader")
        button = gradio.Button("Read", variant="primary", elem_id="read")
        picture = gradio.HTML(elem_id="lines")
        characters = gradio.HTML()
        gradio.Markdown(HINT)
        text = gradio.Textbox(label="Text", lines=3, elem_id="text")
        asked = {"fn": answer, "inputs": [file, name], "outputs": [picture, text, characters]}
        button.click(**asked)
        file.upload(**asked)
    return page


def main(argv: list[str]) -> int:
    if argv[1:]:
        raise ValueError(f"{argv[1]!r} is no flag: pictures are dropped on the page itself")
    gradio = need("gradio", "demo")
    names = readers(FLAGS.model)
    if not names:
        raise ValueError("no reader ships with this version: name one with --model")
    if FLAGS.model:
        loaded(FLAGS.model)  # a wrong name is told before the page opens
    page = built(gradio, names)
    page.launch(
        server_name=FLAGS.host, server_port=FLAGS.port or None, quiet=True, prevent_thread_lock=True
    )
    print(f"open {page.local_url}   (Ctrl-C ends it)", flush=True)
    sys.stdout.flush()
    page.block_thread()
    return 0


if __name__ == "__main__":
    command_line.define_path(
        "model", None, "A run or an export, beside the readers that ship.", buckets=True
    )
    flags.DEFINE_string("host", "127.0.0.1", "Address that it listens on.")
    flags.DEFINE_integer("port", 7860, "Port; 0: a free one.")
    program.run(main)
