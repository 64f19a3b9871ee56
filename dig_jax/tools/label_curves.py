"""Draws how the error rate falls with the number of labelled lines, one curve for each start; or
which block of the encoder is read best.

    python -m dig_jax.tools.label_curves "from scratch=runs/random" "after gen=runs/gen" \\
      --group_by='^images/(.+)_' --output=labels.svg [--log] [--title=TEXT] [--set=NAME]
    python -m dig_jax.tools.label_curves --over=block "gen=runs/blocks/gen" --output=blocks.svg

Each recogniser that left its readings at or below the folder behind "=" is one point. Runs with as
many labels, such as seeds, are points of their own, and the curve goes through their mean. The bars
are 95 % intervals: by group with --group_by, else by line. The same figures are printed as a table.

A run says how many labelled lines it learnt from, or its records do: those of tools.pseudo_label
count true labels alone. Where neither can tell, write NAME@34=FOLDER. --over=block: probes of one
encoder by the block that they read (probe:block=2), the last one by the encoder's depth.
"""

from __future__ import annotations

import collections
import math
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags
from matplotlib import ticker

from dig_jax.tools import curves, program
from dig_jax.tools.compare import ONLY
from dig_jax.tools.html_page import SVG, plain
from dig_jax.tools.spreads import spreads
from dig_jax.tools.tables import GROUP_BY, as_markdown, percent
from dig_jax.workdir import bucket
from dig_jax.workdir import read as runs

FLAGS = flags.FLAGS
for _name in ("set", "group_by"):  # of tools.compare and tools.tables: in this --help, too
    flags.declare_key_flag(_name)
# Between the bars of two curves above one number of lines, and of all of them at most.
SHIFT, SPREAD = 1.035, 1.15


class Point(NamedTuple):
    """One recogniser: its place on the axis, CER and its interval (rates; NaN where there is
    none)."""

    at: int
    cer: float
    low: float = math.nan
    high: float = math.nan


def labelled_lines(run: runs.Run) -> int:
    """How many lines with true labels a recogniser learnt from. ValueError where that is lost, and
    where it learnt from none, which has no place on the axis."""
    count = run.label_count
    if count and count["true"]:
        return count["true"]
    raise ValueError(
        f"{run.path} learnt from no labelled line, and the axis begins at one: leave it out"
        if count
        else f"{run.path} does not say how many labelled lines it learnt from, and its records "
        f"are not there: write NAME@LINES={run.path}"
    )


def block_read(run: runs.Run) -> int:
    """Which block of its encoder a recogniser reads, from 1. ValueError for a mix, and an encoder
    without blocks."""
    block, encoder = run.config["method"].get("block"), run.config["method"]["encoder"]
    at = encoder.get("depth") if block in (None, "last") else block
    if not str(at).isdigit():
        raise ValueError(f"{run.path} reads no block of its encoder alone: leave it out")
    return int(at)


class Axis(NamedTuple):
    """What the points stand over: its name, a run's place on it, whether it is logarithmic."""

    title: str
    of: Callable[[runs.Run], int]
    log: bool


AXES = {
    "labels": Axis("labelled lines", labelled_lines, True),
    "block": Axis("block of the encoder", block_read, False),
}


def points(
    named: str, only: str | None, group_by: str | None, axis: Axis = AXES["labels"]
) -> tuple[str, list[Point]]:
    """ "NAME=FOLDER" or "NAME@LINES=FOLDER" -> what to call the curve, and its points in order.
    Runs that are not finished, and imports, are named on the terminal. One that only evaluates
    counts where no other does."""
    name, root = program.named_folder(named, "a folder of runs")
    lines = re.fullmatch(r"(.+)@(\d+)", name)
    if not name:
        raise ValueError(f"{named!r} names no curve: write NAME=FOLDER or NAME@LINES=FOLDER")
    many = [runs.load(file.parent) for file in sorted(bucket.named(root, "config.json"))]
    many = [run for run in many if run.is_recogniser]
    for run in many:
        if "imported" in run.config:
            print(f"left out: {run.path} is an import, which has no readings", file=sys.stderr)
        elif not run.finished:
            print(f"left out: {run.path} is {run.state}", file=sys.stderr)
    many = [run for run in many if run.finished and "imported" not in run.config]
    found = spreads([run for run in many if run.trained] or many, group_by)
    if only:
        found = [one for one in found if one.dataset == only]
    if not found:
        raise ValueError(
            f"no finished recogniser below {root} has read {only or 'a data set'}: "
            "name a folder of runs with readings-SET.tsv"
        )
    if len(sets := {one.dataset for one in found}) > 1 and not only:
        raise ValueError(f"{root} has read {', '.join(sorted(sets))}: choose one with --set")
    return lines[1] if lines else name, sorted(
        Point(int(lines[2]) if lines else axis.of(one.run), one.cer, *one.interval) for one in found
    )


def joined(many: Sequence[tuple[str, list[Point]]]) -> dict[str, list[Point]]:
    """{name: points in order}: what was named twice is one curve."""
    result = collections.defaultdict(list)
    for name, found in many:
        result[name] += found
    return {name: sorted(found) for name, found in result.items()}


def means(found: Sequence[Point]) -> dict[int, float]:
    """{place on the axis: mean CER}"""
    by_place = collections.defaultdict(list)
    for point in found:
        by_place[point.at].append(point.cer)
    return {at: statistics.mean(cers) for at, cers in sorted(by_place.items())}


def cell(point: Point) -> str:
    """CER and interval in percent."""
    rate = percent(point.cer)
    known = not math.isnan(point.low)
    return f"{rate} ({percent(point.low)} to {percent(point.high)})" if known else rate


def table(lines: dict[str, list[Point]], axis: Axis = AXES["labels"]) -> str:
    """Markdown: a row a place on the axis, a column a curve; several runs with commas."""
    rows = []
    for number in sorted({point.at for found in lines.values() for point in found}):
        here = [[point for point in found if point.at == number] for found in lines.values()]
        rows.append([f"{number:,}", *(", ".join(map(cell, found)) or "-" for found in here)])
    return as_markdown([axis.title, *lines], rows)


def draw(
    lines: dict[str, list[Point]],
    title: str,
    log: bool = False,
    size: tuple[float, float] = (7.6, 4.0),
    font: int = 11,
    axis: Axis = AXES["labels"],
) -> plt.Figure:
    """The picture: CER in percent over the axis. size: inches; font: pt."""
    numbers = sorted({point.at for found in lines.values() for point in found})
    with plt.rc_context({**SVG, "font.size": font}):
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        bars = any(not math.isnan(point.low) for found in lines.values() for point in found)
        apart = bars and axis.log
        step = min(SHIFT, SPREAD ** (1 / max(len(lines) - 1, 1))) if apart else 1.0
        for i, (name, found) in enumerate(lines.items()):
            shift = step ** (i - (len(lines) - 1) / 2)
            at, cer, low, high = np.transpose(found) * [[shift], [100], [100], [100]]
            marks = {"fmt": "o", "ms": 0.4 * font, "lw": 1.2, "capsize": 2.5}
            drawn = axes.errorbar(at, cer, [cer - low, high - cer], **marks)
            mean = means(found)
            axes.plot(
                [shift * number for number in mean],
                [100 * value for value in mean.values()],
                color=drawn[0].get_color(),
                lw=1.8,
                label=plain(name),
            )
        axes.set_title(plain(title), fontsize=font + 1, loc="left")
        axes.set(xlabel=axis.title, xscale="log" if axis.log else "linear")
        axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.set_ylabel("%", rotation=0, labelpad=font)
        curves.log_axis(axes) if log else axes.set_ylim(0, None)
        axes.grid(alpha=0.25, which="both")
        curves.legend(figure, axes)
    return figure


def main(argv):
    if len(argv) < 2:
        raise app.UsageError("name one or more curves: NAME=FOLDER")
    axis = AXES[FLAGS.over]
    lines = joined([points(named, ONLY.value, GROUP_BY.value, axis) for named in argv[1:]])
    title = FLAGS.title or f"CER by {axis.title}"
    file = curves.save(draw(lines, title, FLAGS.log, axis=axis), FLAGS.output)
    print(f"{table(lines, axis)}\n\n{file}")


if __name__ == "__main__":
    flags.DEFINE_string("output", "labels.svg", "The picture: .svg, .png or .pdf.")
    flags.DEFINE_string("title", None, "What stands above it.")
    flags.DEFINE_enum("over", "labels", list(AXES), "What the curves run over.")
    flags.DEFINE_bool("log", False, "A logarithmic axis for the error rate, too.")
    program.run(main)
