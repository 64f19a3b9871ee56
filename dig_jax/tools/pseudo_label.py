"""Self-training: label the lines that a reader was not trained on by what it reads.

    python -m dig_jax.tools.pseudo_label --model=runs/one --output=records/self
    python -m dig_jax.main --config=scratch --config.data.train=records/self --workdir=runs/two

A reader trained on few labels labels the rest, and a second one learns from both (Lee, ICML
workshop 2013; with augmentation: Xie et al., arXiv 1911.04252). Of the run's training records, the
lines that it learnt from keep their labels. Every other line gets the reader's text, and the least
confident ones are left out. True labels of those lines are not read. The validation split is copied
as it is, unless it is trained on. --texts lets an n-gram help to read; labels of the lines to be
read are refused. A further round reads with the student, and --first names the run that had true
labels:

    python -m dig_jax.tools.pseudo_label --model=runs/two --first=runs/one --output=records/2

Without any true label: a reader of rendered lines, say, labels the training lines of other records.

    python -m dig_jax.tools.pseudo_label --model=runs/print --lines=records/mine --output=records/2
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from dig_jax.data import records, writer
from dig_jax.data.manifest import TRUE_LABELS
from dig_jax.data.sizes import BadRecord
from dig_jax.tools import program, reader_flags
from dig_jax.train import command_line
from dig_jax.workdir import checkpoint

FLAGS = flags.FLAGS


def data_of(run: str) -> dict[str, Any]:
    """config.data of a run at its best step. ValueError for an import or an export, which names no
    lines."""
    if not checkpoint.steps(run):
        raise ValueError(f"{run} is no run that learnt from lines: name some to read with --lines")
    data = checkpoint.read_meta(run, checkpoint.choose_step(run, "best"))["config"]["data"]
    if not data.get("train"):
        raise ValueError(f"{run} names no lines that it was trained on: name some with --lines")
    return data


def split_lines(data: dict[str, Any]) -> tuple[records.Mixture, records.Mixture]:
    """config.data of a reader's run -> (lines that it learnt from, all other training lines)."""
    learnt = records.training_lines(data)
    everything = records.open_sets(data["train"])
    rest = np.ones(len(everything), bool)
    rest[learnt.chosen] = False
    if not rest.any():
        raise ValueError(
            f"the reader learnt from all {len(rest)} records of {data['train']}: there is no line "
            "left to label. For a further round, --first names the run that had the true labels"
        )
    return learnt, everything.keep(rest)


def check_texts(texts: str | None, rest: records.Mixture) -> None:
    """ValueError where the n-gram would be learnt from the labels that are not to be read."""
    if not texts or texts.endswith(".txt"):
        return
    named = {os.path.realpath(path) for path, _, _ in records.parse_spec(texts)}
    if wrong := named & {os.path.realpath(one.path) for one in rest.sets}:
        raise ValueError(
            f"--texts has {', '.join(sorted(wrong))}, whose lines are to be labelled, and the "
            "n-gram would learn their labels: name other texts, such as those of an earlier round"
        )


def own_labels(
    reader: Any, rest: records.Mixture, keep: float, batch_size: int, report: writer.Report
) -> dict[int, str]:
    """{number in `rest`: text} of the share `keep` that is read most confidently. What is left out
    is counted in the report."""
    images = (
        (str(number), BadRecord(record.error) if record.error else record.image)
        for number, record in enumerate(rest.stream())
    )
    found = []
    bar = tqdm(total=len(rest), unit=" lines", disable=not sys.stderr.isatty())
    for reading in reader.stream(images, batch_size):
        bar.update()
        if reading.error or not reading.text.strip():
            report.skip(reading.name, reading.error or "nothing read")
        else:
            found.append((reading.confidence, int(reading.name), reading.text))
    bar.close()
    found.sort(reverse=True)
    kept = found[: round(keep * len(found))]
    for _sure, number, _text in found[len(kept) :]:
        report.skip(str(number), "read with too little confidence")
    if kept:
        report.notes.append(
            f"{len(kept)} lines carry labels of a reader, which is sure of them by "
            f"{kept[-1][0]:.3f} or more"
        )
    return {number: text for _, number, text in kept}


def examples(
    learnt: records.Mixture | None,
    rest: records.Mixture,
    own: dict[int, str],
    validation: Sequence[records.Mixture],
    report: writer.Report,
) -> Iterator[writer.Example]:
    """What `writer.write` takes: training lines with true and own labels, then validation. Damaged
    records are left out and counted in the report."""
    parts = [("train", learnt)] if learnt else []
    for split, mixture in (*parts, *(("validation", one) for one in validation)):
        for record in mixture.stream():
            if record.error:
                report.skip(record.id, record.error)
            else:
                yield split, record.image, record.text, record.id
    for number, record in enumerate(rest.stream()):
        if number in own:
            yield "train", record.image, own[number], record.id


def make(
    reader: Any,
    learnt: records.Mixture | None,
    rest: records.Mixture,
    output: Any,
    *,
    keep: float,
    batch_size: int,
    **options: Any,
) -> str:
    """Writes the records folder, under the name of the records that it was made of, so that
    `compare` knows the validation lines again. Returns what is to be said. learnt: lines whose
    labels are true; rest: lines to be read; options: of `writer.write`."""
    report = writer.Report()
    own = own_labels(reader, rest, keep, batch_size, report)
    validation = []
    taught = {os.path.realpath(one.path) for one in rest.sets if one.split == "validation"}
    for path in {os.path.realpath(one.path): str(one.path) for one in rest.sets}.values():
        if os.path.realpath(path) in taught:
            report.notes.append(f"{path}@validation is trained on, so no line validates there")
            continue
        try:
            validation.append(records.open_sets(f"{path}@validation"))
        except ValueError:
            report.notes.append(f"{path} has no validation split")
    if not validation:
        report.notes.append("no line is there to validate on: name a set to evaluate")
    about = rest.sets[0].manifest
    report.about = {name: about[name] for name in ("source", "licence") if about.get(name)}
    report.about[TRUE_LABELS] = records.true_labels(learnt) if learnt else 0
    lines = examples(learnt, rest, own, validation, report)
    made = writer.write(output, lines, name=about["name"], report=report, **options)
    for note in made["notes"]:
        print(f"note: {note}", file=sys.stderr)
    return (
        f"{output}: {len(learnt or ())} lines with true labels, {len(own)} with the reader's own; "
        f"{made['skipped']['count']} left out: {made['skipped']['reasons']}"
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"{argv[1]!r} is no option: write --name=value")
    if not 0 < FLAGS.keep <= 1:
        raise ValueError(f"--keep is {FLAGS.keep}: give a share above 0 and up to 1")
    folder = FLAGS.model
    if FLAGS.lines and FLAGS.first:
        raise ValueError(
            "--first says which lines have true labels, --lines that none has: give one of them"
        )
    if FLAGS.lines:
        learnt, rest = None, records.open_sets(FLAGS.lines)
    else:
        learnt, rest = split_lines(data_of(FLAGS.first or folder))
    check_texts(FLAGS.texts, rest)
    output = program.path(FLAGS.output, "--output")
    options = {"keep": FLAGS.keep, "batch_size": FLAGS.batch_size, "overwrite": FLAGS.overwrite}
    print(make(reader_flags.reader(), learnt, rest, output, **options))


if __name__ == "__main__":
    reader_flags.define_reader_flags()
    command_line.define_path(
        "first", None, "Run that had the true labels (default: the model).", buckets=True
    )
    flags.DEFINE_string(
        "lines", None, "Records to label, none of which counts as labelled (default: the model's)."
    )
    command_line.define_path("output", None, "The records folder to make.")
    flags.DEFINE_float("keep", 0.8, "Share of the readings to keep, the most confident ones.")
    flags.DEFINE_bool("overwrite", False, "Replace a records folder that exists.")
    flags.mark_flag_as_required("output")
    program.run(main)
