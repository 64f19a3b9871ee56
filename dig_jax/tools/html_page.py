"""Parts of the pages that programs write: one style, tables, plots; nothing beside the page is
needed. What comes from data is escaped."""

import html
import io
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend has to be chosen first

STYLE = """
:root { --ink: #1d2733; --soft: #5d6b7a; --line: #dde3ea; --paper: #fff; --tint: #f5f7fa; }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 1080px; margin: 2.5rem auto; padding: 0 1.25rem }
h1 { font-size: 1.7rem; margin: 0 0 .2rem }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem } p, figcaption { color: var(--soft) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--line) }
th { background: var(--tint); font-weight: 600 }
td.number, th.number { text-align: right }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: .8rem }
.curves svg { width: 100%; height: auto }
figure { margin: 1rem 0 } figure img { max-width: 100%; border: 1px solid var(--line) }
.reading { margin: .9rem 0 }
.reading img { max-width: 100%; display: block; border: 1px solid var(--line); background: #fff }
.reading code { display: block; white-space: pre-wrap; font-size: .95rem }
.reading .wrong { color: #b42318 }
.reading .right { color: #1a7f37 }
"""

SVG = {  # of matplotlib: text stays text
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def as_svg(figure: Any) -> str:
    """The figure, closed, as an <svg> element."""
    text = io.StringIO()
    figure.savefig(text, format="svg")
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Collection[str] = ()
) -> str:
    """One table. numbers: columns that are set to the right, as percentages are."""

    def cells(tag: str, row: Sequence[Any]) -> str:
        right = [str(cell).endswith("%") or name in numbers for name, cell in zip(columns, row)]
        return "".join(
            f"<{tag}{' class=number' if n else ''}>{html.escape(str(cell))}</{tag}>"
            for cell, n in zip(row, right)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = f"<tr>{cells('th', columns)}</tr>" if any(columns) else ""
    return f"<div class=scroll><table>{head}{body}</table></div>"


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """The whole page. parts: HTML below the title."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style>"
        f"<h1>{html.escape(title)}</h1>{''.join(parts)}</html>"
    )
