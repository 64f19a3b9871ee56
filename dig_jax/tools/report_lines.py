"""Lines in the report: what was read in them, where each character stood, what was rebuilt."""

from __future__ import annotations

import base64
import html
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from dig_jax.evaluators import scoring
from dig_jax.evaluators.reconstruction import GAP_GREY, GAP_PX, ROWS
from dig_jax.tools.html_page import table
from dig_jax.tools.report_attention import attention
from dig_jax.tools.show_readings import marked
from dig_jax.tools.spreads import pairs
from dig_jax.workdir import bucket
from dig_jax.workdir import readings as tables
from dig_jax.workdir.read import Run

READINGS, ALL_READINGS = 48, 96  # sample lines a data set, and of all sets: the page stays light
NEIGHBOURS = "neighbours.png"  # of `show_neighbours`, in a work folder's pictures/
CONFUSIONS = 15  # pairs of characters a run and set
LIGHT, QUALITY = 1 << 14, 80  # pictures above so many bytes are embedded as WebP
UNSURE = 0.5  # confidence below which a character stands out
STYLE = """
.reading { margin: 1.3rem 0; padding-bottom: .6rem; border-bottom: 1px solid var(--line) }
.reading img { display: block; width: 100%; background: #fff }
.strip { overflow-x: auto }
.chars { position: relative; height: 1.5rem; font-size: .8rem }
.chars span { position: absolute; top: 0; height: 100%; border-left: 1px solid var(--line);
              text-align: center; white-space: pre; line-height: 1.5rem }
.chars .unsure { background: var(--warn-tint); color: var(--warn); font-weight: 700 }
.texts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem;
         margin-top: .3rem }
.texts span { color: var(--soft); font-size: .85rem; max-width: 14rem; overflow-wrap: anywhere }
.texts code { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .95rem }
.texts .right { color: var(--good) }
.texts mark { background: var(--bad-tint); color: var(--bad); font-weight: 700 }
.rebuilt { display: grid; gap: 1.2rem; margin: .6rem 0;
           grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)) }
.rebuilt figure { margin: 0; display: grid; grid-template-columns: max-content 1fr; gap: 2px .6rem;
                  align-items: center }
.rebuilt img { width: 100%; display: block } .rebuilt small { color: var(--soft) }
.sheet { width: 100%; min-width: 480px; max-width: 780px; display: block; background: #fff }
@media (max-width: 560px) { .texts { grid-template-columns: 1fr } }
"""


def data_uri(data: bytes) -> str:
    """An image as an address that the page itself holds: heavy ones smaller, others as they are."""
    if len(data) > LIGHT:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if picture is not None:
            ok, small = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
            if ok:
                return f"data:image/webp;base64,{base64.b64encode(small.tobytes()).decode()}"
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def reconstructions(run: Run) -> str:
    """The last picture of `evaluators/reconstruction.py`, cut into lines whose rows are named; as
    it is where its size is not that of this run's crops.
    """
    latest = sorted(run.path.glob("pictures/reconstruction*.png"), key=bucket.changed)
    if not latest:
        return ""
    sheet = cv2.imread(str(latest[-1]), cv2.IMREAD_UNCHANGED)
    lines = [] if sheet is None else cut(sheet, run.config.get("data") or {})
    if not lines:
        caption = "Masked input, output on the masked patches, original."
        image = f"<img alt='' src='{data_uri(latest[-1].read_bytes())}'>"
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    figures = []
    for line in lines:
        rows = []
        for name, row in zip(ROWS, line):
            png = cv2.imencode(".png", row)[1].tobytes()
            rows.append(f"<small>{name}</small><img alt='{name}' src='{data_uri(png)}'>")
        figures.append(f"<figure>{''.join(rows)}</figure>")
    return f"<div class=rebuilt>{''.join(figures)}</div>"


def neighbours(run: Run) -> str:
    """The sheet that `show_neighbours` left in the work folder."""
    sheet = run.path / "pictures" / NEIGHBOURS
    if not sheet.exists():
        return ""
    source = html.escape(data_uri(sheet.read_bytes()))
    alt = "windows of lines, each beside its nearest neighbours"
    return f"<div class=strip><img class=sheet alt='{alt}' src='{source}'></div>"


def cut(sheet: np.ndarray, data: Any) -> list[list[np.ndarray]]:
    """[[masked, output, original]] of each line on a sheet of reconstructions; [] where the sheet
    is no whole number of lines of data["height_px"] x data["width_px"].
    """
    high, wide = data.get("height_px"), data.get("width_px")
    if not isinstance(high, int) or not isinstance(wide, int) or min(high, wide) < 1:
        return []
    down, across = len(ROWS) * (high + 1) + GAP_PX, wide + GAP_PX
    if sheet.shape[0] % down or sheet.shape[1] % across:
        return []
    lines = (
        [sheet[y + i * (high + 1) :, x:][:high, :wide] for i in range(len(ROWS))]
        for y in range(0, sheet.shape[0], down)
        for x in range(0, sheet.shape[1], across)
    )
    return [line for line in lines if not np.all(np.stack(line) == GAP_GREY)]  # it filled the sheet


def readings(many: Sequence[Run]) -> str:
    """Sample lines, each once with what every run read in it: at most READINGS a data set."""
    files: dict[str, list[tuple[Run, pathlib.Path]]] = {}
    for run in many:
        for path in sorted(run.path.glob("pictures/readings-*.json")):
            files.setdefault(path.stem.removeprefix("readings-"), []).append((run, path))
    most = min(READINGS, max(4, ALL_READINGS // max(len(files), 1)))
    parts = []
    for name, sources in files.items():
        lines: dict[str, list[tuple[str, dict]]] = {}
        for run, path in sources:
            for row, line in enumerate(json.loads(path.read_text(encoding="utf-8"))["lines"]):
                key = json.dumps([line.get("index", row), line["truth"]])
                lines.setdefault(key, []).append((run.name, line))
        shown = list(lines.values())
        parts.append(f"<h3>{html.escape(name)}</h3>")
        if len(shown) > most:
            where = html.escape(", ".join(dict.fromkeys(f"pictures/{p.name}" for _, p in sources)))
            parts.append(f"<p>{most} of {len(shown)} lines; all of them are in {where}.</p>")
            # at even distances, as they were drawn from the set
            shown = [shown[i * len(shown) // most] for i in range(most)]
        several = len({run.path for run, _ in sources}) > 1
        parts += [reading(read, several) for read in shown]
    return "".join(parts)


def reading(read: Sequence[tuple[str, dict]], several: bool) -> str:
    """One line. read: [(run, line of a readings-SET.json)]."""
    first = read[0][1]
    truth = str(first["truth"])
    picture, px = str(first["png"]), None
    try:
        data = base64.b64decode(picture, validate=True)
        if data[12:16] == b"IHDR":
            px = int.from_bytes(data[16:20], "big") / max(int.from_bytes(data[20:24], "big"), 1)
        source = data_uri(data)
    except ValueError:  # whatever it is, the browser may try
        source = f"data:image/png;base64,{picture}"
    # A line is at least 34 px high, so that it can be read: a long one is scrolled on a phone. A
    # short one is not blown up.
    least = min(round(34 * (px or 1)), 4000)
    size = f" style='min-width:{least}px;max-width:{2 * least}px'" if px else ""
    parts = [f'<div class=reading><div class=strip><div{size}><img alt="" ']
    parts.append(f'loading=lazy src="{html.escape(source)}">')
    for _, line in read:
        looked, steps = attention(line, source)
        kind = "chars tinted" if looked else "chars"
        parts.append(looked + alignment(line.get("characters"), kind) + steps)
    parts.append(
        f"</div></div><div class=texts><span>truth</span><code>{html.escape(truth)}</code>"
    )
    for name, line in read:
        text = str(line["reading"])
        who = name if several else "reading"
        kind = " class=right" if text == truth else ""
        body = differing(truth, text) if text else "(nothing read)"
        parts.append(f"<span>{html.escape(who)}</span><code{kind}>{body}</code>")
    return "".join(parts) + "</div></div>"


def differing(truth: str, text: str) -> str:
    """The reading with what is wrong in it marked; a dot stands for what it leaves out."""
    return "".join(
        f"<mark>{html.escape(piece)}</mark>" if wrong else html.escape(piece)
        for piece, wrong in marked(truth, text)
    )


def alignment(characters: Any, kind: str = "chars") -> str:
    """Each character below the place in the picture where the reader saw it. characters: [[char,
    confidence, left, right]], the places as shares of the picture's width; "" for anything else.
    kind: its class in the page's style.
    """
    try:
        rows = [(str(c), float(p), float(a), float(b)) for c, p, a, b in characters or ()]
    except (TypeError, ValueError):
        return ""
    spans = "".join(
        f"<span{' class=unsure' if sure < UNSURE else ''} title='{100 * sure:.0f} %' "
        f"style='left:{100 * left:.2f}%;width:{100 * (right - left):.2f}%'>"
        f"{html.escape(char)}</span>"
        for char, sure, left, right in rows
    )
    return f"<div class='{kind}'>{spans}</div>" if spans else ""


def confusions(many: Sequence[Run]) -> str:
    """The most frequent errors of each recogniser on each set, from readings-SET.tsv."""
    parts = []
    for run in many:
        for name in tables.datasets(run.path) if run.is_recogniser else ():
            aligned = scoring.alignments(pairs(tables.read(tables.file_of(run.path, name))))
            shown = lambda char: "(space)" if char == " " else scoring.named(char) or "(nothing)"
            found = scoring.confusions(aligned, CONFUSIONS)
            if found:
                rows = [(shown(truth), shown(read), n) for (truth, read), n in found]
                body = table(("truth", "read as", "times"), rows, numbers=("times",))
                parts.append(f"<div><h3>{html.escape(f'{run.name} on {name}')}</h3>{body}</div>")
    return f"<div class=curves>{''.join(parts)}</div>" if parts else ""
