"""Writes one self-contained `report.html` about one or several work folders.

    python -m dig_jax.tools.report WORKDIR [WORKDIR ...] [--output=FILE] [--group_by=REGEX]

The page begins with one sentence that says the result. Then: the comparison, bars with intervals,
CER over labels, lines with what was read in them, reconstructions, confusions, and the curves.
The comparison is printed, too. The page needs nothing beside itself: pictures are embedded.
"""

from __future__ import annotations

import datetime
import functools
import html
import math
from collections import defaultdict
from collections.abc import Sequence

from absl import app, flags

from dig_jax.tools import program, report_attention, report_charts, report_lines
from dig_jax.tools.html_page import document, table
from dig_jax.tools.spreads import AGAINST, INTERVALS, Spread, against_best, interval_rows, spreads
from dig_jax.tools.tables import GROUP_BY, as_text
from dig_jax.workdir import bucket
from dig_jax.workdir import read as runs
from dig_jax.workdir.read import Run

flags.declare_key_flag("group_by")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where to write the page (default: report.html in the first work folder)."
)

SPLITS = ("train", "test")  # of which a data set is named, behind its folder
SAYS_NOTHING = ("records", "data", "lines", "images", "val")  # names of folders
PLATEAU = 0.9  # CER from which on a recogniser reads nothing: CTC begins with blanks alone
OPEN_RUNS = 3  # from more runs on, their facts and confusions are folded up
STYLE = """
.lead { font-size: 1.2rem; line-height: 1.45; color: var(--ink); margin: .8rem 0 1.6rem }
.wide td:first-child, .wide th:first-child { position: sticky; left: 0; background: var(--paper);
       min-width: 8rem; max-width: 15rem; overflow-wrap: anywhere }
.wide th:first-child { background: var(--tint) } .wide td + td, .wide th { white-space: nowrap }
.wide td:nth-child(2) { font-weight: 700 } .wide table { font-size: .92rem }
.wide td, .wide th { padding: .4rem .5rem }
.facts td:first-child { color: var(--soft); width: 14rem } .facts td { overflow-wrap: anywhere }
summary { cursor: pointer; margin: .6rem 0 } dt { font-weight: 600 }
dd { margin: 0 0 .5rem; color: var(--soft) }
@media (max-width: 560px) { body { padding: 0 .8rem; margin-top: 1.2rem }
  th, td { padding: .35rem .45rem; font-size: .92rem } .facts td:first-child { width: 7rem } }
"""


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
        f"The lowest CER is optimistic by {average:z.1f} points on average, {max(gaps):z.1f} at "
        "most."
    )


as_html = functools.partial(table, numbers=(*COLUMNS[5:], *INTERVALS[4:]))
ORDER = ("run", "CER", "data", "labels", "start", "protocol", "honest CER", "WER", "word accuracy")


def wide(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A table whose first column stays in sight where the others are scrolled."""
    return f"<div class=wide>{as_html(columns, rows)}</div>"


def comparison_table(rows: Sequence[Sequence]) -> str:
    """Rows of `comparison`, the CER beside the name: both are in sight on a phone."""
    places = [COLUMNS.index(name) for name in ORDER]
    return wide(ORDER, [[row[i] for i in places] for row in rows])


def headline(many: Sequence[Run], found: Sequence[Spread]) -> str:
    """The result in one sentence, as text."""
    readers = [run for run in many if run.is_recogniser and run.datasets()]
    if words := gain(readers):
        return words
    if readers:
        return best(readers, found)
    run = many[0]
    if len(many) > 1:
        return f"{len(many)} runs; none of them has read an evaluation set yet."
    if "imported" in run.config:
        return (
            f"{run.name} was imported and has read no evaluation set: evaluate it with "
            f"--config=evaluate:records=RECORDS --config.init_from={run.path}, and report on that."
            if run.is_recogniser
            else f"{run.name} is an imported encoder, which has no figures of its own."
        )
    losses = run.series("train/loss")[1]
    if run.is_recogniser or not losses:
        return f"{run.name} has not been evaluated yet."
    return (
        f"{run.name} pre-trained an encoder for {run.last_step:,} steps; its loss went from "
        f"{losses[0]:.3g} to {losses[-1]:.3g}."
    )


def gain(readers: Sequence[Run]) -> str:
    """What pre-training gained over random weights, where both were trained alike: with the fewest
    labels that both had, on the first such set. The mean over seeds; "" without such a pair.
    """
    cells: dict[tuple, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in readers:
        for name in run.datasets():
            cells[name, run.labels, run.protocol][run.start].append(run)
    pairs = []
    for (name, labels, protocol), starts in cells.items():
        means = {
            start: sum(run.at_best(name, "cer") for run in group) / len(group)
            for start, group in starts.items()
        }
        others = sorted((cer, start) for start, cer in means.items() if start != "random")
        if others and means.get("random"):
            counted = starts["random"][0].label_count
            count = counted["true"] if counted else math.inf
            group = [*starts["random"], *starts[others[0][1]]]
            pairs.append((count, name, labels, protocol, means["random"], *others[0], group))
    if not pairs:
        return ""
    _, name, labels, _, random, cer, start, group = min(pairs, key=lambda pair: pair[:4])
    change = 100 * (cer / random - 1)
    verb, more = ("falls", "fewer") if change < 0 else ("rises", "more")
    found = f"{abs(change):.0f} % {more} errors"
    if max(cer, random) >= PLATEAU:
        unable = "that from random weights" if cer < PLATEAU else "the pre-trained one"
        found = "neither reads" if min(cer, random) >= PLATEAU else f"{unable} does not read"
        found += " yet"
    return (
        f"With {labels_in_words(labels)}, the character error rate on {lines_of(group[0], name)} "
        f"{verb} from {percent(random)} (random weights) to {percent(cer)} (pre-trained: {start}): "
        f"{found}.{not_done(group)}"
    )


def lines_of(run: Run, dataset: str) -> str:
    """A data set in a sentence: how many lines of what."""
    name, _, split = dataset.rpartition("-") if "-" in dataset else (dataset, "", "")
    if split not in SPLITS:
        name, split = dataset, "validation" if dataset in run.validation else ""
    count = run.last(dataset, "lines")
    words = [f"{count:,.0f}" if count else "the", *([split] if split else []), "lines"]
    return " ".join(words) + ("" if name in SAYS_NOTHING else f" of {name}")


def labels_in_words(labels: str) -> str:
    """`Run.labels` in a sentence."""
    if labels == "100 %":
        return "all labels"
    if "line" in labels:
        return labels.replace(" lines", " labelled lines", 1)
    return f"{labels} of the labels"


def not_done(group: Sequence[Run]) -> str:
    open_runs = [run.name for run in group if run.state]
    return f" Not finished yet: {', '.join(open_runs)}." if open_runs else ""


def best(readers: Sequence[Run], found: Sequence[Spread]) -> str:
    """The recogniser with the lowest CER, in one sentence."""
    rates = [
        (run.at_best(name, "cer"), i, name)
        for i, run in enumerate(readers)
        for name in run.datasets()
    ]
    cer, i, name = min(rates)
    run = readers[i]
    between = ""
    for one in found:
        low, high = one.interval
        if one.run.path == run.path and one.dataset == name and not math.isnan(low):
            between = f" (95 % interval: {100 * low:.1f} to {100 * high:.1f} %)"
    often = f": about one character in {round(1 / cer)} is wrong" if 0 < cer < 0.4 else ""
    which = "" if len(rates) == 1 else "The lowest error rate here: "
    if cer >= PLATEAU:
        return (
            f"{which}{run.name} does not read {lines_of(run, name)} yet; its character error rate "
            f"is {percent(cer)}.{not_done([run])}"
        )
    return (
        f"{which}{run.name} reads {lines_of(run, name)} with a character error rate of "
        f"{percent(cer)}{between}{often}.{not_done([run])}"
    )


def summary(run) -> str:
    """One table of what the run was and where it ended."""
    method, data = run.config["method"], run.config["data"]
    facts = [
        ("method", method.get("objective", method["name"])),
        ("training data", data.get("train")),
        ("start", run.start),
        ("steps", f"{run.last_step} ({run.state})" if run.state else run.last_step),
        ("batch", f"{run.config['batch_size']} lines" if "batch_size" in run.config else None),
        ("seed", run.config.get("seed")),
    ]
    if run.is_recogniser:
        facts[3:3] = [("protocol", run.protocol), ("labels", run.labels)]
        facts += [(f"characters of {name} that it cannot write", n) for name, n in unknown(run)]
    return as_html(("", ""), [fact for fact in facts if fact[1] is not None])  # an import has few


def unknown(run) -> list[tuple[str, int]]:
    """(data set, how many characters of its truth the charset lacks), where there are any."""
    counts = [(name, run.last(name, "unknown_chars")) for name in run.datasets()]
    return [(name, int(count)) for name, count in counts if count]


SPREAD = (
    "95 % intervals of the CER, from a bootstrap over lines and over groups of lines that belong "
    "together (a work, a writer, a page), which --group_by names. Where there are groups, theirs "
    "is the one to go by."
)
GAPS = (
    "Each run against the one with the lowest CER of a data set, on the same lines: a paired "
    "bootstrap, over groups where --group_by names them. A difference is real where its interval "
    "leaves out zero. dig_jax.tools.compare compares any two."
)
BARS = (
    "Shorter is better. The thin line is the 95 % interval. Grey: from random weights. Pale: the "
    "run has not ended yet."
)
LABELS = "Each dot is a run; a line joins the means. Lower is better."
READ = (
    "Lines at even distances through the set, not picked. Red: wrong; a dot in red: a character "
    "was left out. Where characters stand right below the picture, each is where the reader saw "
    "it, a row a run; yellow: it was less than half sure. Coloured columns: where a reader with "
    "attention looked for the character below the bar of that colour."
)
NEIGHBOURS = (
    "On the left a window of a line, not picked. Beside it the windows of other lines that the "
    "encoder finds most alike. Same letters in a row: it learnt their shapes without any text."
)
REBUILT = (
    "What the network saw (hidden parts grey), what it filled in, and the line as it was. The "
    "same lines and masks at every evaluation; this is the last one."
)
GLOSSARY = {
    "CER": "Character error rate: insertions, deletions and substitutions that turn the reading "
    "into the truth, over the characters of the truth. It can pass 100 %.",
    "WER": "Word error rate: the same, counted in words.",
    "Word accuracy": "Share of the records that are read without an error. Where a record is a "
    "line, it is the share of lines.",
    "Honest CER": "The CER without the luck of choosing the best step on the lines that it is "
    "reported on.",
    "95 % interval": "Where the CER would lie, in 95 of 100 cases, on other lines of the same "
    "kind. It says nothing of other seeds.",
    "Start": "What the encoder began with: random weights, or the method that pre-trained it.",
    "Labels": "How many lines with a text the recogniser was trained on.",
    "Frozen, fine-tuned": "Frozen: only the head learns. Fine-tuned: the encoder learns along.",
    "CTC": "Connectionist temporal classification: a class or a blank for each frame, summed over "
    "all alignments with the text.",
    "Effective rank": "How many directions the features really use. A rank near 1 is collapse.",
}


def chapter(title: str, body: str, words: str = "") -> str:
    """A heading, a sentence and what they belong to; "" without it."""
    words = f"<p>{html.escape(words)}</p>" if words else ""
    return f"<h2>{html.escape(title)}</h2>{words}{body}" if body else ""


def folded(title: str, body: str, shut: bool) -> str:
    """The body, behind a line to click where `shut`."""
    if not body or not shut:
        return body
    return f"<details><summary>{html.escape(title)}</summary>{body}</details>"


def named(many: Sequence[Run], body) -> str:
    """body(run) of each run that has one, below the name where there are several runs."""
    found = [(run.name, body(run)) for run in many]
    title = lambda name: f"<h3>{html.escape(name)}</h3>" if len(many) > 1 else ""
    return "".join(title(name) + text for name, text in found if text)


def origins(many: Sequence[Run]) -> str:
    """Commit, machine and dates of each run."""
    rows = []
    for run in many:
        times = [str(start.get("time", ""))[:16].replace("T", " ") for start in run.starts]
        log = run.path / "metrics.jsonl"
        last = ""
        if log.exists():
            moment = datetime.datetime.fromtimestamp(bucket.changed(log), datetime.UTC)
            last = f"{moment:%Y-%m-%d %H:%M}"
        rows.append((run.name, run.origin or "not recorded", times[0] if times else "-", last))
    columns = ("run", "commit and machine", "first start (UTC)", "last figure (UTC)")
    return f"<div class=facts>{as_html(columns, rows)}</div>"


def page(many, group_by=None) -> str:
    """The whole report as one HTML document."""
    many = runs.told_apart(many)
    found, rows = spreads(many, group_by), comparison(many)
    shut = len(many) > OPEN_RUNS
    figures = ""
    if rows:
        figures = f"<p>{html.escape(f'{CHOICE} {optimism(many)}')}</p>{comparison_table(rows)}"
    spread = wide(INTERVALS, interval_rows(found)) if found else ""
    gaps = against_best(found, group_by)
    facts = named(many, lambda run: f"<div class=facts>{summary(run)}</div>")
    glossary = "".join(f"<dt>{term}</dt><dd>{words}</dd>" for term, words in GLOSSARY.items())
    lead = html.escape(headline(many, found)).replace(" %", "&nbsp;%")
    parts = [
        f"<p class=lead>{lead}</p>",
        chapter("Character error rates", report_charts.bars(found), BARS),
        chapter("Comparison" if len(many) > 1 else "Figures", figures),
        chapter("Error rate over labels", report_charts.label_curves(many), LABELS),
        chapter("Readings", report_lines.readings(many), READ),
        chapter("Reconstructions", named(many, report_lines.reconstructions), REBUILT),
        chapter("Nearest neighbours", named(many, report_lines.neighbours), NEIGHBOURS),
        chapter("Confusions", folded("Show them", report_lines.confusions(many), shut)),
        chapter("Intervals", spread, SPREAD),
        chapter("Differences", wide(AGAINST, gaps) if gaps else "", GAPS),
        chapter("Runs", folded("Show their settings", facts, shut)),
        chapter("Curves", report_charts.curves(many)),
        chapter("Glossary", f"<dl>{glossary}</dl>"),
        chapter("Where the figures come from", origins(many)),
    ]
    title = "dig_jax: " + (many[0].name if len(many) == 1 else f"{len(many)} runs")
    style = STYLE + report_charts.STYLE + report_lines.STYLE + report_attention.STYLE
    return document(title, parts, style)


def main(argv):
    if len(argv) < 2:
        raise app.UsageError("name at least one work folder")
    many = [runs.load(program.folder(workdir, "WORKDIR")) for workdir in argv[1:]]
    many = runs.told_apart({run.path: run for run in many}.values())
    rows = comparison(many)
    if rows:
        print(as_text(COLUMNS, rows))
        if words := optimism(many):
            print(words)
    try:
        found = spreads(many, GROUP_BY.value)
        text = page(many, GROUP_BY.value)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if found:
        print(f"\n{as_text(INTERVALS, interval_rows(found))}\n")
    if gaps := against_best(found, GROUP_BY.value):
        print(f"{as_text(AGAINST, gaps)}\n")
    print(headline(many, found))
    output = many[0].path / "report.html"
    if _OUTPUT.value:
        output = program.path(_OUTPUT.value, "--output")
        output.parent.mkdir(parents=True, exist_ok=True)
    with program.naming(output):
        output.write_text(text, encoding="utf-8")
    print(f"report: {output}")


if __name__ == "__main__":
    program.run(main)
