"""Scores the readings of one recogniser, or says whether two differ on the same lines.

    python -m dig_jax.tools.compare RUN                          rates with intervals, and errors
    python -m dig_jax.tools.compare RUN_A RUN_B --group_by='^images/(.+)_'
    python -m dig_jax.tools.compare a.tsv b.tsv --rule=waics,parseq94
    python -m dig_jax.tools.compare predicted.tsv --truth=records/mine@validation

RUN is a work folder in which an evaluation left readings-SET.tsv, or such a file. It may be what
tools.predict wrote about records, too: --truth names them, as they were named to predict.

With two, each data set that both have read is compared line by line. The table gives the difference
of each rate, and its 95 % interval from a paired bootstrap. A difference counts as shown where the
interval leaves out zero. --set names one where a run has read several and the other is a file.

RUN may be several with commas, such as the seeds of one recipe: their lines are counted together,
and the readings of one line are one in the interval by line. With two sides, the first run of A is
compared with the first of B, and so on: RUN_A1,RUN_A2 RUN_B1,RUN_B2.

With one that has read several sets, their means stand at the end: of the sets, as most papers print
them, and of the lines. --set=a-test,b-test says over which.

Lines of one work, writer or page are wrong together, so an interval over lines alone is too
narrow. --group_by names what belongs together: a regular expression on the path of a line, whose
capture groups (or whole match) are the group. The verdict then goes by groups.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags

from dig_jax.data import records
from dig_jax.evaluators import intervals, scoring
from dig_jax.text import Charset, normalize
from dig_jax.tools import predict, program
from dig_jax.tools.spreads import Runs, by_key, groupings, pairs, paths, together
from dig_jax.tools.tables import GROUP_BY, as_text, bounds, percent
from dig_jax.workdir import bucket, readings
from dig_jax.workdir.readings import Reading

NAMED = 10  # lines that were not read, on the terminal
TITLES = {"cer": "CER", "wer": "WER", "word_accuracy": "word accuracy", "one_minus_ned": "1 - NED"}

flags.declare_key_flag("group_by")
ONLY = flags.DEFINE_string(
    "set", None, "The data sets to score, with commas (default: each that was read)."
)
_TRUTH = flags.DEFINE_string(
    "truth", None, "RECORDS[@SPLIT] whose lines tools.predict has read: their labels."
)
_RULE = flags.DEFINE_string(
    "rule", "raw,waics", f"Scoring rules, with commas: {', '.join(scoring.RULES)}; or all."
)
_NEW_TO = flags.DEFINE_string(
    "new_to",
    None,
    "RECORDS or .txt: only lines of new text, at most a tenth of which stands in these.",
)
_ERRORS = flags.DEFINE_integer("errors", 15, "Rows of error tables; 0: none.", lower_bound=0)


def load(source: str, only: str | None = None) -> dict[str, list[Reading]]:
    """{data set: lines} of a work folder, or of one file of readings; with --new_to some lines."""
    sets = _all_lines(source, only)
    if empty := [name for name, lines in sets.items() if not lines]:
        raise ValueError(f"{source} holds no line of {', '.join(empty)}: name others with --set")
    if _NEW_TO.value:
        known = scoring.pieces(records.texts_of(_NEW_TO.value))
        new = lambda line: scoring.is_new(line.truth, known)
        sets = {name: list(filter(new, lines)) for name, lines in sets.items()}
        if not all(sets.values()):
            raise ValueError(f"{source} has no line of new text: name other records in --new_to")
    return sets


def load_all(many: Sequence[str], only: str | None = None) -> dict[str, list[list[Reading]]]:
    """{data set: lines of each run} of the sets that all of these runs have read. Files of readings
    are of one set, whatever their names. ValueError where there is none."""
    if len(many) > 1 and all(bucket.path(source).is_file() for source in many):
        only = only or "readings"
    found = [load(source, only) for source in many]
    common = [name for name in found[0] if all(name in sets for sets in found)]
    if not common:
        names = "; ".join(f"{source} {', '.join(sets)}" for source, sets in zip(many, found))
        raise ValueError(f"no set was read by all of these runs: {names}: evaluate them on one set")
    return {name: [sets[name] for sets in found] for name in common}


def _all_lines(source: str, only: str | None) -> dict[str, list[Reading]]:
    path = bucket.path(source)
    if path.is_file():
        name = path.stem.removeprefix(readings.PREFIX)
        if readings.is_table(path):
            return {only or name: readings.read(path)}
        if not _TRUTH.value:
            raise ValueError(
                f"{source} names no truth: give a readings-SET.tsv, or with a file of "
                "tools.predict --truth=RECORDS, the labelled records that it read"
            )
        return {only or name: judged(path, _TRUTH.value)}
    names = readings.datasets(path)
    if not names:
        raise ValueError(
            f"{source} holds no {readings.PREFIX}SET{readings.ENDING}: name a work folder in which "
            f"configs/recognize/*.py have evaluated, or such a file"
        )
    chosen = names if only is None else only.split(",")
    for name in chosen:
        if name not in names:
            raise ValueError(f"{source} has no readings of {name!r}; it has: {', '.join(names)}")
    return {name: readings.read(readings.file_of(path, name)) for name in chosen}


def judged(path: Any, truth: str) -> list[Reading]:
    """The labelled lines of the records `truth`, as a file of tools.predict reads them. An image
    that could not be read counts as read as nothing, as in a run. Lines that the file lacks are
    named on the terminal. ValueError where it has none of them, or is no such file."""
    found, rows = collections.defaultdict(collections.deque), 0
    text = path.read_text(encoding="utf-8").removesuffix("\n")
    for number, line in enumerate(text.split("\n")):
        try:
            row = predict.parsed(line, number, path.suffix in (".jsonl", ".json"))
        except ValueError:
            raise ValueError(
                f"{path} line {number + 1} is no reading of tools.predict, which --truth is for"
            ) from None
        if row:
            found[row[0]].append(row[1:])
            rows += 1
    lines, missing, met = [], [], 0
    for name, record in _records(truth):
        # Records of one name stand in the file in their own order, without a label, too.
        reading, sure = found[name].popleft() if found[name] else (None, None)
        met += reading is not None
        if record.text is None:
            continue
        if reading is None:
            missing.append(name)
            continue
        label = normalize(record.text)
        edits = scoring.count([(label, reading)])[0, scoring.COLUMNS.index("edits")]
        lines.append(Reading(name, label, reading, int(edits), sure))
    if not lines:
        raise ValueError(
            f"{path} has read none of the {len(missing)} labelled lines of {truth}"
            f"{f', such as {missing[0]!r}' if missing else ''}: name the records that were read"
        )
    if missing:
        more = ", .." * (len(missing) > NAMED)
        print(
            f"{len(missing)} labelled lines of {truth} are not in {path} and left out: "
            f"{', '.join(missing[:NAMED])}{more}",
            file=sys.stderr,
        )
    if rows > met:
        print(f"{rows - met} lines of {path} are not of {truth} and left out", file=sys.stderr)
    return lines


def _records(truth: str) -> Iterator[tuple[str, Any]]:
    """(name, record) of RECORDS[@SPLIT],.., as tools.predict reads them: without a split, all."""
    for part in records.cut(truth):
        folder, split = predict.place(part)
        if not (folder / predict.MANIFEST).is_file():
            raise FileNotFoundError(f"--truth={part} holds no records: name those that were read")
        yield from predict.records_of(folder, split)


def paired(a: Sequence[Reading], b: Sequence[Reading]) -> tuple[list[Reading], list[Reading], int]:
    """The lines of both in the order of `a`, and how many stand on one side only.

    Equal paths pair in order of appearance. ValueError where nothing pairs, or truths differ.
    """
    left, right = by_key(a), by_key(b)
    keys = [key for key in left if key in right]
    if not keys:
        raise ValueError(
            f"the two have no line in common; paths are such as {a[0].path if a else 'none'!r} and "
            f"{b[0].path if b else 'none'!r}: compare readings of the same records"
        )
    for key in keys:
        if normalize(left[key].truth) != normalize(right[key].truth):
            raise ValueError(
                f"{key[0]} is labelled {left[key].truth!r} on one side and {right[key].truth!r} on "
                f"the other: compare readings of the same records"
            )
    alone = len(left) + len(right) - 2 * len(keys)
    return [left[key] for key in keys], [right[key] for key in keys], alone


def rates(many: Runs, rules: Sequence[str], group_by: str | None) -> str:
    """Table of one recogniser on one set: a row for each rule and rate, with both intervals."""
    lines, groups = together(many), groupings(many, group_by)
    rows = []
    for rule in rules:
        counts = scoring.count(pairs(lines), rule)
        values = scoring.rates(counts.sum(axis=0))
        if not counts[:, 0].any():  # the rule drops every line
            rows.append([rule, 0, "all", *"-" * (1 + len(groups))])
            continue
        for rate, title in TITLES.items():
            found = [bounds(*intervals.interval(counts, ids, rate)) for ids in groups.values()]
            rows.append([rule, int(counts[:, 0].sum()), title, percent(values[rate]), *found])
    return as_text(["rule", "lines", "rate", "%", *groups], rows)


def means(sets: dict[str, list[Reading]], rules: Sequence[str]) -> str:
    """Table of one recogniser over several sets: a row for each rule and rate, with every set alike
    and with every line alike."""
    rows = []
    for rule in rules:
        counts = {name: scoring.count(pairs(lines), rule) for name, lines in sets.items()}
        sizes = {name: float(count[:, 0].sum()) for name, count in counts.items()}
        sizes = {name: size for name, size in sizes.items() if size}  # a rule may drop every line
        each = {name: scoring.rates(counts[name].sum(axis=0)) for name in sizes}
        if not sizes:
            continue
        for rate, title in TITLES.items():
            both = scoring.averages({name: found[rate] for name, found in each.items()}, sizes)
            means = percent(both["plain"]), percent(both["weighted"])
            rows.append([rule, len(sizes), title, *means])
    table = as_text(["rule", "sets", "rate", "mean %", "weighted by lines %"], rows)
    return f"Means over {len(sets)} sets ({', '.join(sets)}):\n\n{table}"


def differences(a: Runs, b: Runs, rules: Sequence[str], group_by: str | None) -> str:
    """Table of two recognisers on the same lines: a row for each rule and rate."""
    groups = groupings(a, group_by)
    rows = []
    for rule in rules:
        counts = [scoring.count(pairs(together(many)), rule) for many in (a, b)]
        if not counts[0][:, 0].any():  # the rule drops every line
            rows.append([rule, 0, "all", *"-" * (5 + len(groups))])
            continue
        for rate, title in TITLES.items():
            found = [intervals.compare(*counts, ids, rate) for ids in groups.values()]
            last = found[-1]
            rows.append(
                [
                    *(rule, int(counts[0][:, 0].sum()), title),
                    *(percent(last.a), percent(last.b), percent(last.value, "+")),
                    *(bounds(one.low, one.high, "+") for one in found),
                    *(f"{last.p:.3f}".replace("nan", "-"), "yes" if last.is_real else "not shown"),
                ]
            )
    return as_text(["rule", "lines", "rate", "A %", "B %", "A - B", *groups, "p", "real?"], rows)


def errors(lines: Sequence[Reading], rule: str, most: int) -> str:
    """The most frequent confusions, and the errors of each character."""
    aligned = scoring.alignments(pairs(lines), rule)
    name = lambda char: scoring.named(char) or "(nothing)"
    confused = [(name(t), name(r), n) for (t, r), n in scoring.confusions(aligned, most)]
    chars = [
        (
            *(name(row["char"]), row["count"], row["mistaken"], row["missed"], row["inserted"]),
            scoring.named(row["read_as"]),
        )
        for row in scoring.by_character(aligned)[:most]
    ]
    if not confused:
        return f"No error under the rule {rule}."
    return "\n".join(
        [
            f"Most frequent errors under the rule {rule}:",
            as_text(["truth", "read as", "times"], confused),
            "",
            "Errors by character of the truth:",
            as_text(["char", "in truth", "mistaken", "missed", "inserted", "mostly as"], chars),
        ]
    )


def lacking(source: str, lines: Sequence[Reading]) -> str:
    """Sentence on characters that the charset of a work folder lacks; "" where there is none."""
    path = bucket.path(source) / "charset.json"
    if not path.is_file():
        return ""
    charset = Charset.from_json(path.read_text(encoding="utf-8"))
    found = scoring.lacking([line.truth for line in lines], charset)
    if not found:
        return ""
    named = ", ".join(f"{scoring.named(char)} ({n})" for char, n in found.most_common())
    return f"The charset lacks {len(found)} characters of the truth, so they are errors: {named}."


def heading(name: str, many: Runs, group_by: str | None) -> str:
    """Which set, how many lines, how many groups, and how far those carry."""
    lines = together(many)
    by = f" of {len(many)} runs" if len(many) > 1 else ""
    if not group_by:
        return f"{name}: {len(lines)} lines{by} (--group_by names what belongs together)"
    number = len(set(intervals.group_ids(paths(lines), group_by).tolist()))
    few = ", too few for a sound interval" if number < intervals.FEW_GROUPS else ""
    return f"{name}: {len(lines)} lines{by} in {number} groups{few}"


def one(sources: Sequence[str], rules: Sequence[str]) -> str:
    """Scores, lacking characters and errors of one recogniser, or of runs of it, set by set."""
    parts, sets = [], load_all(sources, ONLY.value)
    for name, many in sets.items():
        parts += [heading(name, many, GROUP_BY.value), rates(many, rules, GROUP_BY.value)]
        said = [lacking(source, lines) for source, lines in zip(sources, many)]
        parts += dict.fromkeys(filter(None, said))
        if _ERRORS.value:
            parts.append(errors(together(many), rules[0], _ERRORS.value))
    if len(sets) > 1:
        parts.append(means({name: together(many) for name, many in sets.items()}, rules))
    return "\n\n".join(parts)


def two(first: Sequence[str], second: Sequence[str], rules: Sequence[str]) -> str:
    """Differences of two recognisers, set by set. Two files, or the only sets of two runs, need not
    bear one name: the validation lines of a student lie in a folder of their own."""
    if len(first) != len(second):
        raise ValueError(
            f"A names {len(first)} runs and B {len(second)}: name as many on both sides; one may "
            "be named twice"
        )
    files = all(bucket.path(source).is_file() for source in (*first, *second))
    only = ONLY.value or ("readings" if files else None)
    a, b = (load_all(sources, only) for sources in (first, second))
    if len(a) == len(b) == 1:
        b = dict(zip(a, b.values()))
    common = [name for name in a if name in b]
    if not common:
        raise ValueError(
            f"{first[0]} has read {', '.join(a)} and {second[0]} {', '.join(b)}: "
            f"evaluate both on one set"
        )
    parts = [f"A: {', '.join(first)}\nB: {', '.join(second)}"]
    for name in common:
        left, right, alone = zip(*(paired(*both) for both in zip(a[name], b[name])))
        alone = sum(alone)
        note = f"; {alone} lines that only one of them has read are left out" if alone else ""
        parts.append(heading(name, left, GROUP_BY.value) + note)
        parts.append(differences(left, right, rules, GROUP_BY.value))
    return "\n\n".join(parts)


def named(text: str) -> list[str]:
    """The runs that one argument names; a comma may stand in the name of one that is there."""
    folder = lambda name: program.folder(name.strip(), "a work folder")
    many = [text] if folder(text).exists() else text.split(",")
    return [str(folder(name)) for name in many]


def check(sources: Sequence[str]) -> None:
    """ValueError for a flag that no source needs."""
    files = [path for path in map(bucket.path, sources) if path.is_file()]
    if ONLY.value and len(files) == len(sources):
        raise ValueError(f"--set={ONLY.value} is for work folders; none is named: leave it out")
    if _TRUTH.value and all(map(readings.is_table, files)):
        raise ValueError(
            f"--truth={_TRUTH.value} is for files of tools.predict, and none is named: leave it out"
        )


def main(argv):
    if not 2 <= len(argv) <= 3:
        raise app.UsageError("name one or two work folders or files of readings")
    rules = list(scoring.RULES) if _RULE.value == "all" else _RULE.value.split(",")
    for rule in rules:
        scoring.find_rule(rule)
    sides = [named(text) for text in argv[1:]]
    check([source for side in sides for source in side])
    print(one(sides[0], rules) if len(sides) == 1 else two(*sides, rules))


if __name__ == "__main__":
    program.run(main)
