"""What the report draws: bars with intervals, CER over labels, curves over steps."""

from __future__ import annotations

import html
import math
import pathlib
from collections import defaultdict
from collections.abc import Sequence

import matplotlib.pyplot as plt

from dig_jax.tools.html_page import SVG, as_svg, plain
from dig_jax.tools.label_curves import Point, draw
from dig_jax.tools.spreads import Spread
from dig_jax.workdir.read import OWN_READINGS, Run

POINTS = 400  # of a curve; more would only make the page heavier
STYLE = """
.bars { display: grid; grid-template-columns: minmax(7rem, 16rem) 1fr 4.2rem; gap: .45rem .8rem;
        align-items: center; margin: .6rem 0 1.4rem }
.bars .who { overflow-wrap: anywhere; line-height: 1.25 } .bars small { color: var(--soft) }
.bars .track { position: relative; height: 1.3rem; background: var(--tint) }
.bars .bar { position: absolute; inset: 0 auto 0 0; background: var(--accent) }
.bars .random .bar { background: var(--soft) } .bars .open .bar { opacity: .45 }
.bars .whisker { position: absolute; top: 50%; border-top: 2px solid var(--ink) }
.bars .whisker::before, .bars .whisker::after { content: ""; position: absolute; top: -5px;
        height: 8px; border-left: 2px solid var(--ink) }
.bars .whisker::before { left: 0 } .bars .whisker::after { right: 0 }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; font-weight: 600 }
@media (max-width: 560px) { .bars { grid-template-columns: 1fr 4.4rem; gap: .15rem .6rem }
  .bars .who { grid-column: 1 / -1; margin-top: .45rem } }
"""

# What is drawn over steps, in this order: a title and the metrics that share its axes (a trailing *
# matches any ending).
CURVES = (
    ("Loss", ("train/loss*",)),
    ("Pixel loss: mean square error on masked patches", ("train/pixel",)),
    ("Loss against a teacher's answers", ("train/latent", "train/tokens", "train/windows")),
    ("Contrast loss", ("train/contrast",)),
    ("Contrast: share of queries whose positive ranks first", ("train/top1*",)),
    ("Character error rate", ("eval/*/cer", "probe/*/cer")),
    ("Word error rate", ("eval/*/wer",)),
    (
        "Spread of the queries (0 = collapse, healthy: 1 / sqrt of their dimension)",
        ("train/q_std",),
    ),
    ("Spread of the teacher's answers (0 = collapse)", ("train/t_std",)),
    ("Spread of the features (0 = collapse)", ("collapse/*std",)),
    ("Effective rank of the features", ("collapse/*effective_rank",)),
    ("Share of the features' variance that position explains", ("collapse/*position_share",)),
    ("How far neighbouring frames differ, any two being 1", ("collapse/*neighbour_share",)),
    ("Share of lines with too few frames for CTC", ("train/infeasible_frac",)),
    ("Momentum of the teacher", ("train/teacher_momentum",)),
    ("Gradient norm", ("train/grad_norm",)),
    ("Learning rate", ("train/lr",)),
    ("Lines a second", ("train/lines_per_s",)),
)


def matching(names, patterns):
    """Names that match one of the patterns, in order of name; `*` stands for any text."""
    return [
        name
        for name in names
        if any(pathlib.PurePosixPath(name).match(pattern) for pattern in patterns)
    ]


def curve(title, patterns, many) -> str:
    """One SVG plot of the named metrics of all runs; an empty string where no run has logged any of
    them.
    """
    lines = [
        (run, name, *run.series(name)) for run in many for name in matching(run.names(), patterns)
    ]
    lines = [line for line in lines if line[2]]
    if not lines:
        return ""
    one_name = len({line[1] for line in lines}) == 1
    with plt.rc_context(SVG):
        figure, axes = plt.subplots(figsize=(4.6, 2.9), layout="constrained")
        for run, name, steps, values in lines:
            short = name.split("/", 1)[1]
            label = short if len(many) == 1 else run.name if one_name else f"{run.name}: {short}"
            every = -(-len(steps) // POINTS)
            steps, values = steps[::-1][::every][::-1], values[::-1][::every][::-1]
            marker = "." if len(steps) < 30 else None
            axes.plot(steps, values, lw=1.3, label=plain(label), marker=marker)
        axes.set_title(title, fontsize=9)
        axes.set(xlabel="step")
        axes.grid(alpha=0.25)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=7)
        return as_svg(figure)


def curves(many: Sequence[Run]) -> str:
    """All curves, those of several runs on common axes."""
    plots = "".join(curve(title, patterns, many) for title, patterns in CURVES)
    return f"<div class=curves>{plots}</div>" if plots else ""


def bars(found: Sequence[Spread]) -> str:
    """A bar a recogniser with its 95 % interval, by data set; random starts in grey, unfinished
    runs pale. The interval is by groups where there are any.
    """
    parts = []
    for dataset in sorted({one.dataset for one in found}):
        rows = sorted((one for one in found if one.dataset == dataset), key=lambda one: one.cer)
        ends = [x for one in rows for x in (one.cer, one.interval[1]) if not math.isnan(x)]
        scale = 100 / (1.04 * max(ends, default=0) or 1)
        parts.append(f"<h3>{html.escape(dataset)}</h3><div class=bars>")
        parts += [bar(one, scale) for one in rows if not math.isnan(one.cer)]
        parts.append("</div>")
    return "".join(parts)


def bar(one: Spread, scale: float) -> str:
    low, high = one.interval
    name = f"{html.escape(one.run.name)}<br><small>{html.escape(start_and_labels(one.run))}</small>"
    kind = f"{' random' if one.run.start == 'random' else ''}{' open' if one.run.state else ''}"
    whisker = ""
    if not math.isnan(low):
        whisker = (
            f"<span class=whisker title='95 %: {100 * low:.1f} to {100 * high:.1f}' style='"
            f"left:{low * scale:.2f}%;width:{(high - low) * scale:.2f}%'></span>"
        )
    return (
        f"<div class=who>{name}</div><div class='track{kind}'><div class=bar style='"
        f"width:{one.cer * scale:.2f}%'></div>{whisker}</div>"
        f"<div class=value>{100 * one.cer:.1f} %</div>"
    )


def start_and_labels(run: Run) -> str:
    """What a run began with, in one phrase."""
    labels = run.labels if "line" in run.labels else f"{run.labels} of the labels"
    return ", ".join([f"from {run.start}", labels, *([run.state] if run.state else [])])


def label_curves(many: Sequence[Run]) -> str:
    """CER over the number of labelled lines: a plot a data set, a curve a start and protocol; ""
    where no start was tried with several. Each seed is a point of the curve."""
    many = [run for run in many if run.is_recogniser and run.label_count]
    plots = []
    for dataset in sorted({name for run in many for name in run.datasets()}):
        found = defaultdict(list)
        for run in many:
            if (cer := run.at_best(dataset, "cer")) is not None and run.label_count["true"]:
                own = OWN_READINGS if run.label_count["read"] else ""
                found[run.start + own, run.protocol].append(Point(run.label_count["true"], cer))
        if any(len({point.at for point in curve}) > 1 for curve in found.values()):
            alike = len({protocol for _, protocol in found}) == 1
            named = {
                start if alike else f"{start}, {protocol}": curve
                for (start, protocol), curve in sorted(found.items())
            }
            title = f"{dataset}: CER in percent"
            plots.append(as_svg(draw(named, title, size=(4.6, 2.9), font=9)))
    return f"<div class=curves>{''.join(plots)}</div>" if plots else ""
