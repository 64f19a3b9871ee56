"""Writes one self-contained `report.html` about one or several work folders.

    python -m dig_jax.tools.report WORKDIR [WORKDIR ...] [--output=FILE] [--group_by=REGEX]

Curves, collapse figures, reconstructions (masked input, output, original), sample lines with truth
and reading; for several work folders a comparison table, also printed. The page needs nothing
beside itself: pictures are embedded.
"""

import base64
import functools
import html
import json
import pathlib

import matplotlib.pyplot as plt
from absl import app, flags

from dig_jax.tools import program
from dig_jax.tools.compare import INTERVALS, interval_rows
from dig_jax.tools.html_page import SVG, as_svg, document, table
from dig_jax.tools.tables import GROUP_BY, as_text
from dig_jax.workdir import read as runs

flags.declare_key_flag("group_by")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where to write the page (default: report.html in the first work folder)."
)

READINGS = 48  # sample lines a data set; a page of all of them would weigh as much as the records

# What is drawn, in this order: a title and the metrics that share its axes (a trailing * matches
# any ending).
CURVES = (
    ("Loss", ("train/loss*",)),
    ("Pixel loss: mean square error on masked patches", ("train/pixel",)),
    ("Contrast loss", ("train/contrast",)),
    ("Contrast: share of queries whose positive ranks first", ("train/top1*",)),
    ("Character error rate", ("eval/*/cer", "probe/*/cer")),
    ("Word error rate", ("eval/*/wer",)),
    (
        "Spread of the queries (0 = collapse, healthy: 1 / sqrt of their dimension)",
        ("train/q_std",),
    ),
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
    with plt.rc_context(SVG):
        figure, axes = plt.subplots(figsize=(4.6, 2.9), layout="constrained")
        for run, name, steps, values in lines:
            short = name.split("/", 1)[1]
            label = (
                short
                if len(many) == 1
                else run.name
                if len({line[1] for line in lines}) == 1
                else f"{run.name}: {short}"
            )
            label = label.replace("$", r"\$")  # of a name, no formula
            axes.plot(steps, values, lw=1.3, label=label, marker="." if len(steps) < 30 else None)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.25)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=7)
        return as_svg(figure)


def embedded(path: pathlib.Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def percent(value) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


COLUMNS = (
    "run", "start", "protocol", "labels", "data", "CER", "honest CER", "WER", "word accuracy"
)  # fmt: skip
CHOICE = (
    "Figures of a validation set are those of the evaluation with its lowest CER; figures of a "
    "test set those of the evaluation that validation chose. The honest CER leaves out the luck of "
    "that choice: each half of the validation lines, read where the other half was lowest."
)


def comparison(many) -> list[tuple]:
    """Rows of the comparison, one a recogniser and data set; unfinished runs say so."""
    rows = []
    for run in many:
        name = f"{run.name} ({run.state})" if run.state else run.name
        for dataset in run.datasets() if run.is_recogniser else ():
            cer, wer, words = (run.at_best(dataset, key) for key in ("cer", "wer", "word_accuracy"))
            chosen = dataset in run.validation
            honest = runs.honest(run.candidates(dataset)) if chosen and run.trained else cer
            figures = map(percent, (cer, honest, wer, words))
            rows.append((name, run.start, run.protocol, run.labels, dataset, *figures))
    return rows


def optimism(many) -> str:
    """One sentence: how far the lowest CERs of these runs lie below the honest ones; "" where none
    was chosen.
    """
    gaps = []
    for run in many:
        for dataset in run.validation if run.is_recogniser and run.trained else ():
            honest = runs.honest(run.candidates(dataset))
            if honest is not None:
                gaps.append(100 * (honest - run.at_best(dataset, "cer")))
    if not gaps:
        return ""
    average = sum(gaps) / len(gaps)
    return (
        f"The lowest CER is optimistic by {average:.1f} points on average, {max(gaps):.1f} at most."
    )


as_html = functools.partial(table, numbers=(*COLUMNS[5:], *INTERVALS[4:]))


def summary(run) -> str:
    """One table of what the run was and where it ended."""
    method, data = run.config["method"], run.config["data"]
    facts = [
        ("method", method.get("objective", method["name"])),
        ("training data", data.get("train")),
        ("start", run.start),
        ("steps", f"{run.last_step} ({run.state})" if run.state else run.last_step),
        ("batch", f"{run.config.get('batch_size')} lines"),
        ("seed", run.config.get("seed")),
    ]
    if run.is_recogniser:
        facts[3:3] = [("protocol", run.protocol), ("labels", run.labels)]
        facts += [(f"characters of {name} that it cannot write", n) for name, n in unknown(run)]
    return as_html(("", ""), facts)


def unknown(run) -> list[tuple[str, int]]:
    """(data set, how many characters of its truth the charset lacks), where there are any."""
    counts = [(name, run.last(name, "unknown_chars")) for name in run.datasets()]
    return [(name, int(count)) for name, count in counts if count]


def reconstructions(run) -> str:
    """The last reconstruction pictures: one a data set."""
    latest = sorted(
        run.path.glob("pictures/reconstruction*.png"), key=lambda path: path.stat().st_mtime
    )[-1:]
    caption = "Masked input, output on the masked patches, original."
    return "".join(
        f"<figure><img src='{embedded(path)}'><figcaption>{caption}</figcaption></figure>"
        for path in latest
    )


def readings(run) -> str:
    """Sample lines with truth and reading: at most READINGS a data set."""
    parts = []
    for path in sorted(run.path.glob("pictures/readings-*.json")):
        parts.append(f"<h3>{html.escape(path.stem.removeprefix('readings-'))}</h3>")
        lines = json.loads(path.read_text(encoding="utf-8"))["lines"]
        if len(lines) > READINGS:
            where = html.escape(f"pictures/{path.name}")
            parts.append(f"<p>{READINGS} of {len(lines)} lines; all of them are in {where}.</p>")
            # at even distances, as they were drawn from the set
            lines = [lines[i * len(lines) // READINGS] for i in range(READINGS)]
        for line in lines:
            truth, reading = str(line["truth"]), str(line["reading"])
            verdict = "right" if truth == reading else "wrong"
            picture = html.escape(f"data:image/png;base64,{line['png']}")
            parts.append(
                f'<div class=reading><img src="{picture}"><code>{html.escape(truth)}</code>'
                f"<code class={verdict}>{html.escape(reading) or '(nothing read)'}</code></div>"
            )
    return "".join(parts)


def section(run) -> str:
    """Everything about one run."""
    parts = [f"<h2>{html.escape(run.name)}</h2>", summary(run)]
    plots = [curve(title, patterns, [run]) for title, patterns in CURVES]
    parts.append(f"<div class=curves>{''.join(plots)}</div>")
    for title, body in (
        ("Reconstructions", reconstructions(run)),
        ("Readings: truth above, reading below", readings(run)),
    ):
        if body:
            parts.append(f"<h3>{title}</h3>{body}")
    return "".join(parts)


SPREAD = (
    "95 % intervals of the CER, from a bootstrap over lines and over groups of lines that belong "
    "together (a work, a writer, a page), which --group_by names. Where there are groups, theirs "
    "is the one to go by; two recognisers are compared by dig_jax.tools.compare."
)


def page(many, group_by=None) -> str:
    """The whole report as one HTML document."""
    parts = []
    if rows := comparison(many):
        parts.append(f"<h2>{'Comparison' if len(many) > 1 else 'Figures'}</h2>")
        parts.append(f"<p>{html.escape(f'{CHOICE} {optimism(many)}')}</p>")
        parts.append(as_html(COLUMNS, rows))
    if rows := interval_rows(many, group_by):
        parts.append(f"<h2>Intervals</h2><p>{SPREAD}</p>{as_html(INTERVALS, rows)}")
    recognisers = [run for run in many if run.is_recogniser]
    if recognisers and len(many) > 1:
        plot = curve("Character error rate", ("eval/*/cer",), recognisers)
        parts.append(f"<div class=curves>{plot}</div>")
    parts.extend(section(run) for run in many)
    title = "dig_jax: " + (many[0].name if len(many) == 1 else f"{len(many)} runs")
    return document(title, parts)


def main(argv):
    if len(argv) < 2:
        raise app.UsageError("name at least one work folder")
    many = [runs.load(program.path(workdir, "WORKDIR")) for workdir in argv[1:]]
    rows = comparison(many)
    if rows:
        print(as_text(COLUMNS, rows))
        if words := optimism(many):
            print(words)
    try:
        spread = interval_rows(many, GROUP_BY.value)
        text = page(many, GROUP_BY.value)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if spread:
        print(f"\n{as_text(INTERVALS, spread)}\n")
    output = many[0].path / "report.html"
    if _OUTPUT.value:
        output = program.path(_OUTPUT.value, "--output")
        output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(f"report: {output}")


if __name__ == "__main__":
    program.run(main)
