"""Public benchmarks: what each is, where to ask for it, and whether a converted set is complete.

    python -m dig_jax.tools.benchmarks                                all of them, one a line
    python -m dig_jax.tools.benchmarks iiit5k                         one: terms, counts, command
    python -m dig_jax.tools.benchmarks iiit5k --check=records/iiit5k  what a set differs in

No data is downloaded: most sets may not be passed on. With --check the exit code is 1 where
anything differs.
"""

from __future__ import annotations

import textwrap

from absl import app, flags

from dig_jax.data import benchmarks
from dig_jax.data.benchmarks import Benchmark
from dig_jax.tools import program
from dig_jax.tools.make_records import source_names
from dig_jax.tools.tables import as_text

_CHECK = flags.DEFINE_string(
    "check", None, "A records folder, to be held against the benchmark that is named."
)


def counts(benchmark: Benchmark) -> str:
    unit = "" if benchmark.unit == "records" else f" {benchmark.unit}"
    return ", ".join(f"{split} {count:,}{unit}" for split, count in benchmark.counts.items())


def overview() -> str:
    rows = [
        (one.name, one.kind, counts(one), one.rule, one.licence)
        for one in benchmarks.registry().values()
    ]
    return as_text(("name", "kind", "records", "rule", "licence"), rows)


def details(benchmark: Benchmark) -> str:
    """Everything about one benchmark."""
    command = benchmark.command
    if benchmark.converter not in source_names():
        command += f"\n(this copy of dig_jax has no source {benchmark.converter!r} yet)"
    facts = [
        ("what", benchmark.what),
        ("kind", benchmark.kind),
        ("records", f"{counts(benchmark)} (from {benchmark.source})"),
        ("licence", benchmark.licence),
        ("ask at", benchmark.home),
        ("unsure", benchmark.unsure),
        ("score by", benchmark.rule),
        ("before", benchmark.before),
        ("convert", command),
        ("check", f"python -m dig_jax.tools.benchmarks {benchmark.name} --check=RECORDS"),
    ]
    lines = [benchmark.title]
    for name, fact in facts:
        if fact:
            wide = name in ("convert", "check", "ask at")
            parts = fact.splitlines() if wide else textwrap.wrap(fact, 84)
            lines += [f"  {label:<9}{part}" for label, part in zip([name, *" " * 9], parts)]
    return "\n".join(lines)


def agreement(benchmark: Benchmark) -> str:
    """What a set without a difference was found to be."""
    if benchmark.unit != "records":
        return (
            f"has a text for every record; whether it is {benchmark.name} cannot be told, since "
            f"only the number of its {benchmark.unit} is known: {counts(benchmark)}"
        )
    return f"is {benchmark.name} as published: {counts(benchmark)}"


def main(argv):
    names = argv[1:]
    if _CHECK.value is None:
        print("\n\n".join(details(benchmarks.find(name)) for name in names) or overview())
        return 0
    if len(names) != 1:
        raise app.UsageError("--check holds a records folder against one benchmark: name it")
    folder = program.path(_CHECK.value, "--check")
    wrong = benchmarks.check(names[0], folder)
    for sentence in wrong:
        print(f"{folder}: {sentence}.")
    if not wrong:
        print(f"{folder} {agreement(benchmarks.find(names[0]))}.")
    return int(bool(wrong))


if __name__ == "__main__":
    program.run(main)
