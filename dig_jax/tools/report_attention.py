"""Attention in the report: where a reader looked for each character, over the picture of the line.

Every character has one of five colours. The columns that it looked at have its colour, and so has
the bar above the character itself. Each step on its own is behind a line to click.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

COLOURS = np.array(  # RGB: blue, orange, green, pink, violet
    [[96, 165, 250], [251, 146, 60], [74, 200, 120], [244, 114, 182], [150, 130, 240]], np.float64
)
STEP_PX = 13  # height of a row of the steps
STYLE = """
.looked { margin-top: 4px; background-repeat: no-repeat; background-blend-mode: multiply }
.steps { position: relative; background-repeat: no-repeat; image-rendering: pixelated;
         margin-bottom: .4rem }
.steps span { position: absolute; font: .7rem/13px monospace; white-space: pre; translate: -1.3em }
.look summary { font-size: .85rem; color: var(--soft); margin: .2rem 0; position: sticky; left: 0;
                width: max-content }
""" + "".join(
    f".tinted span:nth-child({len(COLOURS)}n+{i}) {{ box-shadow: inset 0 3px rgb({r:g} {g:g} {b:g})"
    " }\n"
    for i, (r, g, b) in enumerate(COLOURS, 1)
)


def attention(line: Mapping[str, Any], source: str) -> tuple[str, str]:
    """HTML of one line of a readings-SET.json: its picture with all that was looked at, and each
    step; "" where it tells no attention. source: the address of its picture.
    """
    try:
        weights = picture_of(line["attention"])
        frames, (high, wide) = float(line["frames"]), picture_of(line["png"]).shape[:2]
    except (KeyError, TypeError, ValueError):
        return "", ""
    share = f"{100 * weights.shape[1] / frames:.2f}%"  # the last frame may be cut
    looked = (
        f"aspect-ratio:{wide}/{high};background-size:{share} 100%,100% 100%;"
        f"background-image:url({png(tinted(weights))}),url(&quot;{html.escape(source)}&quot;)"
    )
    steps = (
        f"height:{STEP_PX * len(weights)}px;background-size:{share} 100%;"
        f"background-image:url({png(as_steps(weights))})"
    )
    labels = "".join(
        f"<span style='top:{STEP_PX * row}px;left:{100 * peak / frames:.2f}%'>"
        f"{html.escape(str(char))}</span>"
        for row, ((char, *_), peak) in enumerate(zip(line["characters"], weights.argmax(axis=1)))
    )
    return f"<div class=looked style='{looked}'></div>", (
        "<details class=look><summary>each step</summary>"
        f"<div class=steps style='{steps}'>{labels}</div></details>"
    )


def picture_of(text: str) -> np.ndarray:
    """The image in base64. ValueError where there is none."""
    data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if picture is None or not picture.size:
        raise ValueError("no picture")
    return picture


def tinted(weights: np.ndarray) -> np.ndarray:
    """u8[T, S] -> RGB u8[1, S, 3]: white, where a character looked its colour; colours of several
    are multiplied.
    """
    colours = COLOURS[np.arange(len(weights)) % len(COLOURS)] / 255  # (T, 3)
    share = weights.astype(np.float64)[..., None] / 255
    mixed = np.prod(1 - share * (1 - colours[:, None]), axis=0)
    return np.round(255 * mixed).astype(np.uint8)[None]


def as_steps(weights: np.ndarray) -> np.ndarray:
    """u8[T, S] -> RGBA u8[T, S, 4]: the colour of each character, as opaque as it looked."""
    colours = COLOURS[np.arange(len(weights)) % len(COLOURS)].astype(np.uint8)
    rows = np.broadcast_to(colours[:, None], (*weights.shape, 3))
    return np.concatenate([rows, weights[..., None]], axis=-1)


def png(picture: np.ndarray) -> str:
    """RGB or RGBA -> an address that holds it."""
    order = [2, 1, 0, *range(3, picture.shape[2])]
    data = cv2.imencode(".png", np.ascontiguousarray(picture[..., order]))[1].tobytes()
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
