"""Writes the table of results from work folders: one row a start, one column a protocol, label count and data set.

    python -m dig_jax.tools.results RUNS_DIR [--readme=README.md]

Every work folder below RUNS_DIR that holds a recogniser is one figure: the lowest validation CER along its run (that is,
chosen on that same validation set; no test split is touched). Several runs of one cell are its rates (the lowest is taken:
one sweep for every row) or its seeds (mean and half the range); runs that differ in anything else, such as the length or the
recipe of their pre-training, are refused: keep them in folders of their own. With --readme the table replaces what stands
between the two marker lines of that file, so no figure is typed.
"""

import collections
import pathlib
import statistics

from absl import app, flags

from dig_jax.tools import runs

_README = flags.DEFINE_string("readme", None, "File whose marked section the table replaces (default: only print).")

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
STARTS = ("random", "gen", "dis", "dig")


def cells(many) -> dict:
    """{(protocol, labels, dataset): {start: {seed: lowest CER over that seed's runs}}}. Raises ValueError where two runs of
    a cell differ in more than seed and learning rate."""
    table = collections.defaultdict(lambda: collections.defaultdict(dict))
    first = {}
    for run in many:
        for dataset in run.datasets():
            other = first.setdefault((run.protocol, run.labels, dataset, run.start), run)
            if keys := runs.differences(other, run):
                raise ValueError(
                    f"{other.path} and {run.path} are both {run.protocol}, {run.labels}, from {run.start}, but differ in "
                    f"{', '.join(keys)}: move one of them out of this folder, or train it again with the same values"
                )
            cer = run.best(f"eval/{dataset}/{runs.METRIC}")
            seeds = table[run.protocol, run.labels, dataset][run.start]
            seed = run.config["seed"]
            seeds[seed] = min(cer, seeds.get(seed, cer))
    return table


def figure(seeds) -> str:
    """`34.6` from one seed, `34.6 ± 0.8 (3)` from several: mean, half the range, how many."""
    values = [100 * value for value in seeds.values()]
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {(max(values) - min(values)) / 2:.1f} ({len(values)})"


def markdown(table) -> str:
    """The table as Markdown, a row a (protocol, labels, data set) and a column a start, the lowest figure in bold."""
    found = {start for by_start in table.values() for start in by_start}
    starts = [start for start in STARTS if start in found] + sorted(found - set(STARTS))
    lines = ["| protocol | labels | data | " + " | ".join(starts) + " |", "|---|---|---|" + "---|" * len(starts)]
    for protocol, labels, dataset in sorted(table):
        by_start = table[protocol, labels, dataset]
        means = {start: statistics.mean(seeds.values()) for start, seeds in by_start.items()}
        texts = [figure(by_start.get(start, {})) for start in starts]
        texts = [
            f"**{text}**" if means.get(start) == min(means.values()) else text for start, text in zip(starts, texts)
        ]
        lines.append(f"| {protocol} | {labels} | {dataset} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def put_between_markers(text: str, table: str) -> str:
    """`text` with the section between the markers replaced. Raises ValueError where a marker is missing."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"no section to replace: the file needs a line {BEGIN} and, below it, a line {END}")
    head, rest = text.split(BEGIN, 1)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"


def main(argv):
    if len(argv) != 2:
        raise app.UsageError("name the one folder that holds the work folders")
    folders = sorted(path.parent for path in pathlib.Path(argv[1]).glob("**/config.json"))
    many = [run for run in map(runs.load, folders) if run.is_recogniser and run.trained and run.datasets()]
    if not many:
        raise SystemExit(f"no work folder of a recogniser below {argv[1]}: train one first, or name its parent folder")
    try:
        table = markdown(cells(many))
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(table)
    if _README.value:
        path = pathlib.Path(_README.value)
        try:
            path.write_text(put_between_markers(path.read_text(encoding="utf-8"), table), encoding="utf-8")
        except ValueError as error:
            raise SystemExit(f"{path}: {error}") from None


if __name__ == "__main__":
    app.run(main)
