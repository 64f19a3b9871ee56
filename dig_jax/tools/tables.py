"""Tables for the terminal, figures in them, and the flag that programs with intervals share."""

import math
from collections.abc import Sequence

from absl import flags

GROUP_BY = flags.DEFINE_string(
    "group_by",
    None,
    "Regular expression on the path of a line; what it matches is the group (work, writer, page) "
    "whose lines an interval takes together.",
)


def as_text(columns: Sequence, rows: Sequence[Sequence]) -> str:
    """A plain table: a column as wide as its widest cell, a rule below the header."""
    table = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(map(len, column)) for column in zip(*table)]
    table.insert(1, ["-" * width for width in widths])
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in table)
    return "\n".join(line.rstrip() for line in lines)


def as_markdown(columns: Sequence, rows: Sequence[Sequence]) -> str:
    """The same as a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def percent(value: float, sign: str = "") -> str:
    """A rate in percent with one decimal; `sign`: "+" writes the sign of a difference always."""
    return f"{100 * value:{sign}.1f}"


def bounds(low: float, high: float, sign: str = "") -> str:
    """An interval of rates in percent, "-" where there is none."""
    return "-" if math.isnan(low) else f"[{percent(low, sign)}, {percent(high, sign)}]"
