"""Draws one metric of several runs over their steps into one picture.

    python -m dig_jax.tools.curves WORKDIR [NAME=WORKDIR ...] --output=curves.svg \\
      [--metric=eval/cer] [--title=TEXT] [--log]

NAME is what the legend calls the run; without it, its folder does. Error rates are drawn in
percent. --output may be .svg, .png or .pdf. The report draws every metric of its runs; this is one
of them for a page or a paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from absl import app, flags
from matplotlib import ticker

from dig_jax.tools import program
from dig_jax.tools.html_page import SVG, plain
from dig_jax.workdir import read as runs

FLAGS = flags.FLAGS
# No date inside, so that the same runs give the same file.
FORMATS = {".svg": {"Date": None}, ".png": {}, ".pdf": {"CreationDate": None}}
ROOM = 3  # names of curves that hide none
RATES = {"cer", "wer", "accuracy", "ned"}  # parts of names of shares that people read in percent


def load(named: str) -> tuple[str, runs.Run]:
    """ "NAME=WORKDIR" or "WORKDIR" -> what to call the run, and the run."""
    name, folder = program.named_folder(named, "a work folder")
    run = runs.load(folder)
    return name or run.name, run


def points(run: runs.Run, metric: str) -> tuple[list[int], list[float]]:
    """(steps, values) of a metric; ValueError, with the names that there are, where it has none."""
    steps, values = run.series(metric)
    if not steps:
        if not run.names():
            raise ValueError(f"{run.path} has logged nothing: name a run that has")
        raise ValueError(f"{run.path} has logged no {metric}: name one of {', '.join(run.names())}")
    return steps, values


def draw(named: Sequence[str], metric: str, title: str, log: bool = False) -> plt.Figure:
    """The picture of `metric`, a line for every "NAME=WORKDIR"."""
    name = metric.rpartition("/")[2].partition("@")[0]  # of eval/SET/cer_alnum or eval/SET/cer@HEAD
    percent = not RATES.isdisjoint(name.split("_"))
    lines = [(name, *points(run, metric)) for name, run in map(load, named)]
    with plt.rc_context({**SVG, "font.size": 11}):
        figure, axes = plt.subplots(figsize=(7.6, 4.0), layout="constrained")
        for name, steps, values in lines:
            values = [100 * value for value in values] if percent else values
            axes.plot(steps, values, lw=1.8, marker="o", ms=3.5, label=plain(name))
        axes.set_title(plain(title), fontsize=12, loc="left")
        axes.set(xlabel="step", xlim=(0, None))
        if log:
            log_axis(axes)
        if percent:
            axes.set_ylabel("%", rotation=0, labelpad=10)
        axes.grid(alpha=0.25, which="both")
        legend(figure, axes)
    return figure


def legend(figure: plt.Figure, axes: plt.Axes) -> None:
    """Names the curves: inside, or below the picture where there are too many to leave it free."""
    if len(axes.get_legend_handles_labels()[1]) > ROOM:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    else:
        axes.legend(frameon=False)


def log_axis(axes: plt.Axes) -> None:
    """Makes the vertical axis logarithmic, with plain numbers at it."""
    axes.set_yscale("log", subs=(2, 3, 5))
    for which in ("major", "minor"):
        getattr(axes.yaxis, f"set_{which}_formatter")(ticker.StrMethodFormatter("{x:g}"))


def save(figure: plt.Figure, output: str) -> Path:
    """Writes a picture into the file `output`, whose folder is made, and closes it. ValueError for
    an ending that is none of FORMATS."""
    file = program.path(output, "--output")
    if file.suffix not in FORMATS:
        raise ValueError(f"--output={file} cannot be drawn: end it in {', '.join(FORMATS)}")
    file.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dig_jax"}):
        figure.savefig(file, dpi=160, metadata=FORMATS[file.suffix])
    plt.close(figure)
    return file


def main(argv):
    if len(argv) < 2:
        raise app.UsageError("name one or more work folders")
    figure = draw(argv[1:], FLAGS.metric, FLAGS.title or FLAGS.metric, FLAGS.log)
    print(save(figure, FLAGS.output))


if __name__ == "__main__":
    flags.DEFINE_string("output", "curves.svg", "The picture: .svg, .png or .pdf.")
    flags.DEFINE_string("metric", "eval/cer", "Name of the metric, as in metrics.jsonl.")
    flags.DEFINE_string("title", None, "What stands above it (default: the metric).")
    flags.DEFINE_bool("log", False, "A logarithmic axis for the metric.")
    program.run(main)
