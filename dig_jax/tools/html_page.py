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
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5d6b7a; --line: #dde3ea; --paper: #fff;
        --tint: #f5f7fa; --good: #1a7f37; --bad: #b42318; --bad-tint: #fde8e6; --accent: #2f6fc4;
        --warn: #9a6700; --warn-tint: #fff4e5 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ef; --soft: #9aa7b5; --line: #333d49; --paper: #14191f; --tint: #1d242c;
          --good: #4ac26b; --bad: #ff8b80; --bad-tint: #4a2020; --accent: #6ea8f0;
          --warn: #d8a03c; --warn-tint: #3d3118 }
}
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 1080px; margin: 2.5rem auto; padding: 0 1.25rem }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem } p, figcaption { color: var(--soft) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--line) }
th { background: var(--tint); font-weight: 600 }
td.number, th.number { text-align: right }
.curves { display: grid; gap: .8rem;
          grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)) }
.curves svg { width: 100%; height: auto }
figure { margin: 1rem 0 } figure img { max-width: 100%; border: 1px solid var(--line) }
"""

INK = "#0a0b0c"  # drawn in the colour of the page's text, in either theme
SVG = {  # of matplotlib: text stays text
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(
        color=(
            "#3b82d6",
            "#e07b1a",
            "#2f9e5b",
            "#d6455d",
            "#8f6bd1",
            "#8a7a5c",
            "#d062ac",
            "#26a3ad",
        )
    ),
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


def as_svg(figure: Any) -> str:
    """The figure, closed, as an <svg> element that takes the page's colours."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True)
    plt.close(figure)
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    return svg.replace(INK, "currentColor")


def _percentages(cells: Sequence[str]) -> bool:
    """Whether a column holds percentages, and "-" or nothing where there is none."""
    known = [cell for cell in cells if cell not in ("-", "")]
    return bool(known) and all(cell.endswith("%") for cell in known)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Collection[str] = ()
) -> str:
    """One table. numbers: columns that are set to the right, as columns of percentages are."""
    rows = [[str(cell) for cell in row] for row in rows]
    each = list(zip(*rows)) or [()] * len(columns)
    right = [name in numbers or _percentages(found) for name, found in zip(columns, each)]

    def cells(tag: str, row: Sequence[Any]) -> str:
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
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style>"
        f"<h1>{html.escape(title)}</h1>{''.join(parts)}</html>"
    )


def plain(label: str) -> str:
    """A label in which matplotlib finds no formula."""
    return label.replace("$", r"\$")
