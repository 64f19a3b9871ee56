"""Writes the table of results from work folders: one row a start, one column a protocol with its
labels.

    python -m dig_jax.tools.results RUNS_DIR [--figures=FILE.jsonl] [--readme=README.md [--keep]]
    python -m dig_jax.tools.results RUNS_DIR --intervals [--group_by=REGEX]

Every work folder below RUNS_DIR that holds a recogniser is one figure. On a validation set it is
the lowest CER along the run, on a test set the CER where validation was lowest. Several runs of one
cell are its learning rates or its seeds. Of rates validation chooses one, in one sweep for every
row; of seeds the cell gives mean and half the range. Runs that differ in anything else, such as the
length or the recipe of their pre-training, are refused. Keep them in folders of their own. A cell
holds one figure a data set.

The lowest CER along a run is optimistic: the same lines chose the step, the rate and the head. The
cross-validated figure stands behind an arrow. Each half of the validation lines (records of even
and of odd number) is read where the other half was lowest. A sentence below the table gives the
mean difference of the two.

The log of a start says how long it was pre-trained. RUNS_DIR/bench/START.json, the last line of
`bench_step`, gives the cost of a step. That is its time, the memory of its arguments (parameters,
teacher, moments, batch) and of temporary buffers. Commits and machines are those that the runs
noted down (`provenance`). --readme replaces the table between the two marker lines of that file, so
no figure is typed.

Work folders are lost with their machine. --figures names a file to commit, with one line a start
and seed. What is found in RUNS_DIR is written there, and its lines of other seeds and protocols
count as well. --keep is for a table older than its file: starts found in neither keep their rows,
and the sentence about their commits.
"""

import collections
import json
import pathlib
import re
import statistics
import sys

from absl import app, flags

from dig_jax.tools import program
from dig_jax.tools.spreads import AGAINST, INTERVALS, against_best, interval_rows, spreads
from dig_jax.tools.tables import GROUP_BY, as_markdown
from dig_jax.workdir import bucket, whole
from dig_jax.workdir import read as runs

flags.declare_key_flag("group_by")
_README = flags.DEFINE_string(
    "readme", None, "File whose marked section the table replaces (default: only print)."
)
_FIGURES = flags.DEFINE_string(
    "figures", None, "File that keeps the figures of every start and seed: read, and written."
)
_KEEP = flags.DEFINE_bool(
    "keep", False, "Keep the rows of the marked section whose start has no figure otherwise."
)

_INTERVALS = flags.DEFINE_bool(
    "intervals",
    False,
    "Add the 95 % interval of every run and data set, by line and by group (--group_by), also of "
    "work folders that only evaluate, and their differences from the best one, line by line.",
)

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
ORIGINS = "Commit and machine of the runs"
# Rows in the order of the README's methods; a start that is not here follows at the end.
STARTS = (
    "random", "dig", "dis", "gen", "seqclr", "simclr", "moco", "mocov3", "simsiam", "vicreg",
    "simmim", "mae", "latent", "ibot", "linecontrast", "ccd", "ssm", "siman", "rotation", "jigsaw",
    "relative_position", "colorization", "denoising",
)  # fmt: skip


def by_seed(many) -> list[dict]:
    """One record a start and seed. What is not in the logs is None.

        start       name
        crops       seen in pre-training, or None
        pretrained  its commit and machine, or None
        figures     [[protocol, labels, dataset, CER, commit and machine, honest CER or None], ..]

    Raises ValueError where two runs of a cell differ in more than seed and learning rate, or where
    no validation set can choose between them."""
    records: dict[tuple, dict] = {}
    first: dict[tuple, runs.Run] = {}
    sweeps = collections.defaultdict(list)  # of each cell and seed: (run, its candidates)
    for run in many:
        key = run.start, run.config["seed"]
        record = records.setdefault(
            key, {"start": key[0], "seed": key[1], "crops": None, "pretrained": None, "figures": []}
        )
        if (path := run.config.get("init_from")) and runs.read_config(bucket.path(path)):
            source = runs.load(path)
            # Imported weights do not say what they have seen.
            rows = source.config.get("batch_size")
            record |= {"crops": rows and source.last_step * rows, "pretrained": source.origin}
        for dataset in run.datasets():
            cell = run.protocol, run.labels, dataset
            other = first.setdefault((*cell, run.start), run)
            if keys := runs.differences(other, run):
                raise ValueError(
                    f"{other.path} and {run.path} are both {run.protocol}, {run.labels}, "
                    f"from {run.start}, but differ in {', '.join(keys)}. Move one of them out of "
                    "this folder, or train it again with the same values"
                )
            sweeps[(*key, *cell)].append((run, run.candidates(dataset)))
    for (start, seed, *cell), sweep in sweeps.items():
        records[start, seed]["figures"].append([*cell, *_settled(sweep)])
    return list(records.values())


def _settled(sweep) -> tuple[float, str | None, float | None]:
    """(CER, commit and machine, honest CER) of the runs of one cell and seed: their sweep."""
    every = [candidate for _, candidates in sweep for candidate in candidates]
    if len(sweep) > 1 and all(candidate.by is None for candidate in every):
        raise ValueError(
            f"{sweep[0][0].path} and {sweep[1][0].path} were evaluated on a test set alone. "
            "It must not choose between them: evaluate a validation set along with it"
        )
    chosen = runs.choose(every)
    run = next(run for run, candidates in sweep if any(c is chosen for c in candidates))
    return chosen.cer, run.origin, runs.honest(every)


def merged(records, earlier) -> list[dict]:
    """`records` and what `earlier` ones hold beyond them: other starts and seeds, other cells of
    the same.
    """
    result = {(record["start"], record["seed"]): record for record in earlier}
    for record in records:
        old = result.get((record["start"], record["seed"]), record)
        figures = {tuple(line[:3]): line for line in [*old["figures"], *record["figures"]]}
        known = {name: value for name, value in record.items() if value is not None}
        result[record["start"], record["seed"]] = (
            old | known | {"figures": [figures[cell] for cell in sorted(figures)]}
        )
    return [result[key] for key in sorted(result)]


def cells(records) -> dict:
    """{(protocol, labels, dataset): {start: {seed: (CER, honest CER or None)}}} from records."""
    table = collections.defaultdict(lambda: collections.defaultdict(dict))
    for record in records:
        for protocol, labels, dataset, cer, _, *more in record["figures"]:
            honest = more[0] if more else None  # figures files from before there was one
            table[protocol, labels, dataset][record["start"]][record["seed"]] = cer, honest
    return table


def figure(seeds) -> str:
    """Of one seed `34.6`, of several `34.6 ± 0.8 (3)`: mean, half the range, how many; `-` of none.
    Behind an arrow the honest CER, where all seeds have one: `34.6 → 35.1`.
    """
    if not seeds:
        return "-"
    values, honest = zip(*seeds.values())
    text = f"{100 * statistics.mean(values):.1f}"
    if len(values) > 1:
        text += f" ± {50 * (max(values) - min(values)):.1f} ({len(values)})"
    return text if None in honest else f"{text} → {100 * statistics.mean(honest):.1f}"


def optimism(records) -> str:
    """One sentence: how much lower the lowest CERs are than the honest ones; "" without any."""
    gaps = [
        100 * (more[0] - cer)
        for record in records
        for _, _, _, cer, _, *more in record["figures"]
        if more and more[0] is not None
    ]
    if not gaps:
        return ""
    return (
        f"Behind an arrow: each half of the validation lines read where the other half chose. The "
        f"lowest CER of {len(gaps)} figure{'s' * (len(gaps) > 1)} is optimistic by "
        f"{statistics.mean(gaps):z.1f} points on average, {max(gaps):z.1f} at most."
    )


def markdown(table, costs=None, kept="") -> str:
    """The table as Markdown: a row a start, a column a (protocol, labels). A cell holds one figure
    a data set; the lowest of a column is bold. costs: {start: {column: text}} of further columns,
    put in front. kept: an earlier text of this function; its rows of starts that are not in `table`
    stay. Raises ValueError where it has other columns or data sets."""
    costs = costs or {}
    found = {start for by_start in table.values() for start in by_start}
    datasets = sorted({dataset for *_, dataset in table})
    columns = sorted({(protocol, labels) for protocol, labels, _ in table})
    extra = list(dict.fromkeys(name for start in costs if start in found for name in costs[start]))
    header = ["start", *extra, *(f"{protocol}, {labels}" for protocol, labels in columns)]
    rows = {}
    for start in found:
        cells_of = [
            [table.get((*column, dataset), {}).get(start, {}) for dataset in datasets]
            for column in columns
        ]
        texts = [" / ".join(map(figure, cells)) for cells in cells_of]
        rows[start] = [start, *(costs.get(start, {}).get(name, "") for name in extra), *texts]
    figures = f"Figures of a cell: {' / '.join(datasets)}.\n\n" if len(datasets) > 1 else ""
    if "| start " in kept:
        before, old_header, old_rows = _read(kept)
        if (before, old_header) != (figures, header):
            raise ValueError(
                f"rows of {before.strip() or 'one data set'} and columns {', '.join(old_header)} "
                f"cannot be kept beside {figures.strip() or 'one data set'} and "
                f"{', '.join(header)}: leave out --keep, or run what is missing"
            )
        rows = old_rows | rows
    ordered = [rows[start] for start in _in_order(rows)]
    marked = [
        _bold(column) if i > len(extra) else column
        for i, column in enumerate(zip(*ordered, strict=True))
    ]
    lines = [header, ["---"] * len(header), *zip(*marked, strict=True)]
    return figures + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _in_order(starts) -> list[str]:
    return [start for start in STARTS if start in starts] + sorted(set(starts) - set(STARTS))


def _read(text: str) -> tuple[str, list[str], dict[str, list[str]]]:
    """What `markdown` wrote: what stands before the table, its header, and {start: row} without
    bold.
    """
    before, table = text.split("| start ", 1)
    lines = ("| start " + table.split("\n\n", 1)[0]).replace("**", "").splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return before, header, {row[0]: row for row in rows}


def _bold(column) -> list[str]:
    """Cells of a column with the lowest figure of each data set in bold, as far as they tell
    figures apart.
    """
    by_dataset = []
    for texts in zip(*(cell.split(" / ") for cell in column), strict=True):
        best = min((text.split()[0] for text in texts if text != "-"), key=float, default=None)
        by_dataset.append([f"**{text}**" if text.split()[0] == best else text for text in texts])
    return [" / ".join(texts) for texts in zip(*by_dataset, strict=True)]


def origins(records) -> str:
    """One sentence: the commits and machines that trained the figures, and the encoders that they
    are of. "" where none of the runs noted it down."""
    count = collections.defaultdict(collections.Counter)
    for record in records:
        for _, _, _, _, origin, *_ in record["figures"]:
            count[origin or "not recorded"]["figure"] += 1
        if record["crops"] is not None:
            count[record["pretrained"] or "not recorded"]["pre-training"] += 1
    if set(count) <= {"not recorded"}:
        return ""
    counted = {
        origin: ", ".join(f"{n} {kind}{'s' * (n > 1)}" for kind, n in kinds.items())
        for origin, kinds in count.items()
    }
    phrases = (f"{origin} ({kinds})" for origin, kinds in sorted(counted.items()))
    starts = ", ".join(_in_order({record["start"] for record in records}))
    return f"{ORIGINS} of {starts}: {'; '.join(phrases)}."


def kept_origins(kept: str, found) -> list[str]:
    """The sentences of `origins` in an earlier text, without the starts that are in `found`, as
    their rows are not kept.
    """
    sentences = []
    for sentence in re.findall(rf"^{ORIGINS}.*$", kept, re.MULTILINE):
        before, runs_of = sentence.split(": ", 1)
        starts = [
            start
            for start in before.removeprefix(f"{ORIGINS} of ").split(", ")
            if start not in found
        ]
        sentences += [f"{ORIGINS} of {', '.join(starts)}: {runs_of}"] if starts else []
    return sentences


def costs(records, folder: pathlib.Path) -> dict:
    """{start: {column: text}}: crops seen in pre-training, and the cost of a step by
    `folder`/bench/START.json.
    """
    result = collections.defaultdict(dict)
    for record in records:
        if record["crops"] is not None:
            result[record["start"]]["crops"] = f"{record['crops'] / 1000:.0f} k"
    for path in sorted((folder / "bench").glob("*.json")):
        bench = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        result[path.stem]["ms a step"] = f"{bench['ms_a_step']:.0f}"
        result[path.stem]["memory"] = f"{bench['arguments_mb'] + bench['temporary_mb']:.0f} MB"
    return result


def _read_figures(path) -> list[dict]:
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} holds a line that is no JSON ({error}): mend it, or name another file"
        ) from None


def between_markers(text: str) -> tuple[str, str, str]:
    """What stands before, between and after the marker lines. Raises ValueError where a marker is
    missing.
    """
    if BEGIN not in text or END not in text.split(BEGIN, 1)[1]:
        raise ValueError(
            f"no section to replace: the file needs a line {BEGIN} and, below it, a line {END}"
        )
    head, rest = text.split(BEGIN, 1)
    return head, *rest.split(END, 1)


def main(argv):
    if len(argv) != 2:
        raise app.UsageError("name the one folder that holds the work folders")
    root = program.folder(argv[1], "RUNS_DIR")
    folders = sorted(path.parent for path in bucket.named(root, "config.json"))
    readers = [run for run in map(runs.load, folders) if run.is_recogniser and run.datasets()]
    many = [run for run in readers if run.trained]
    if not many and not (readers and _INTERVALS.value):
        raise SystemExit(
            f"no work folder of a recogniser below {root}: train one first, "
            "or name its parent folder"
        )
    for run in (run for run in many if not run.finished):
        print(
            f"left out: {run.path} stands at step {run.last_step} of {run.total}",
            file=sys.stderr,
        )
    many = [run for run in many if run.finished]
    readers = [run for run in readers if run.finished or not run.trained]
    readme = program.path(_README.value, "--readme") if _README.value else None
    try:
        head, old, rest = (
            between_markers(readme.read_text(encoding="utf-8")) if readme else ("", "", "")
        )
    except (OSError, ValueError) as error:
        raise SystemExit(f"{readme}: {error}") from None
    stored = program.path(_FIGURES.value, "--figures") if _FIGURES.value else None
    try:
        records = merged(by_seed(many), _read_figures(stored) if stored and stored.exists() else [])
        kept = old.strip() if _KEEP.value else ""
        price = costs(records, root)
        table = markdown(cells(records), price, kept) if records else ""
        told = runs.told_apart(readers)
        spread = spreads(told, GROUP_BY.value) if _INTERVALS.value else []
        gaps = against_best(spread, GROUP_BY.value)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    found = {record["start"] for record in records}
    notes = [optimism(records), origins(records), *kept_origins(kept, found)]
    spread = as_markdown(INTERVALS, interval_rows(spread)) if spread else ""
    gaps = as_markdown(AGAINST, gaps) if gaps else ""
    table = "\n\n".join(filter(None, [table, *notes, spread, gaps]))
    print(table)
    if stored:
        whole.write(stored, "".join(json.dumps(record) + "\n" for record in records))
    if readme:
        whole.write(readme, f"{head}{BEGIN}\n{table}\n{END}{rest}")


if __name__ == "__main__":
    program.run(main)
