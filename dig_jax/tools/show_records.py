"""Writes one self-contained page about record sets: what the lines look like, and what is odd.

    python -m dig_jax.tools.show_records DIR[@SPLIT] [DIR ...] [--output=records.html] [--lines=24]

For each set the page shows its source and licence, what was left out, and sizes. Then lines with
their texts, the characters with their counts, and the rare ones. Last the longest and shortest
labels, and labels that look wrong. The page needs no other file.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags

from dig_jax.data.examples import shown
from dig_jax.data.record_set import Record, RecordSet
from dig_jax.data.records import parse_spec, read_manifest
from dig_jax.data.sizes import JPEG, PNG, BadRecord, header_size
from dig_jax.tools import program, record_stats
from dig_jax.tools.html_page import SVG, as_svg, document, table
from dig_jax.tools.record_stats import Stats

FLAGS = flags.FLAGS
SUSPECTS, ENDS, IDS = 4, 4, 100_000  # lines shown of each kind; ids that folders are counted from
STYLE = """
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr));
         gap: 1rem 1.4rem }
.line { min-width: 0 } .image { overflow-x: auto }
.image img { display: block; max-width: max(100%, 16px * var(--ratio)); max-height: 72px;
             border: 1px solid var(--line) }
.line code { display: block; font: inherit; white-space: pre-wrap; overflow-wrap: anywhere }
.line small { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
small, summary { color: var(--soft) } summary { cursor: pointer; margin: .6rem 0 }
.chars { display: flex; flex-wrap: wrap; gap: .3rem }
.char { border: 1px solid var(--line); border-radius: 4px; padding: .05rem .45rem;
        white-space: nowrap } .char b { font-weight: 500; margin-right: .3rem }
.char.rare { background: var(--warn-tint); border-color: var(--warn) }
td { overflow-wrap: anywhere } td:first-child { overflow-wrap: normal; min-width: 6rem }
.curves { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)) }
@media (min-width: 600px) { td.number, th { white-space: nowrap } }
@media (max-width: 599px) { th, td { padding: .3rem .2rem; font-size: .8rem }
  td:first-child { min-width: 4rem } }
"""
ONLY = ("", "")


def picture(record: Record) -> str:
    """The stored image as an <img>; what browsers do not show, by its reason."""
    kind = "jpeg" if record.image.startswith(JPEG) else "png"
    if record.error or not record.image.startswith((JPEG, PNG)):
        reason = record.error or "of a format that browsers do not show"
        return f"<small>(image {html.escape(shown(reason))})</small>"
    data = base64.b64encode(record.image).decode()
    try:
        width, height = header_size(record.image)
    except BadRecord:
        width = height = 1
    # A long line is shrunk until it is 16 px high; what is longer is scrolled.
    ratio = f"style='--ratio: {width / height:.1f}'"
    image = f"<img alt='' loading=lazy {ratio} src='data:image/{kind};base64,{data}'>"
    return f"<div class=image>{image}</div>"


def line(record: Record, row: int, note: str = "") -> str:
    """One line: its picture, its text in reading direction, its name."""
    text = "<small>(no label)</small>"
    if record.text is not None:
        text = html.escape(shown(record.text))
    where = html.escape((f"{note} · " if note else "") + shown(f"{row}: {record.id}", 120))
    name = f"<small title='{where}'>{where}</small>"
    return f"<div class=line>{picture(record)}<code dir=auto>{text}</code>{name}</div>"


def sheet(records: RecordSet, rows: Sequence[int], notes: Sequence[str] = ()) -> str:
    notes = list(notes) or [""] * len(rows)
    found = records.read(rows)
    lines = (line(record, row, note) for record, row, note in zip(found, rows, notes))
    return f"<div class=sheet>{''.join(lines)}</div>"


def histogram(title: str, values: np.ndarray, unit: str) -> str:
    """An SVG of the values up to their 99.5th percentile; what lies above is told."""
    if not len(values):
        return ""
    top = max(float(np.percentile(values, 99.5)), float(values.min()) + 1)
    above = int((values > top).sum())
    with plt.rc_context(SVG):
        figure, axes = plt.subplots(figsize=(4.6, 2.5), layout="constrained")
        bins = np.arange(int(values.min()), int(top) + 2)
        if values.dtype.kind in "iu":  # a bar stands over its number
            bins = np.append(bins, bins[-1] + 1) - 0.5
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.hist(np.minimum(values, top), bins=bins if len(bins) < 50 else 40, color="#4a78b5")
        label = f"{unit}" + (f" ({above} above {top:.0f}, up to {values.max()})" if above else "")
        axes.set(title=title, xlabel=label, ylabel="lines")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        return as_svg(figure)


def plots(stats: Stats) -> str:
    seen = stats.height_px > 0
    shape = (stats.width_px[seen] / stats.height_px[seen]).round(1)
    parts = (
        histogram("Width", stats.width_px[seen], "px"),
        histogram("Height", stats.height_px[seen], "px"),
        histogram("Width of a line in heights", shape, "width / height"),
        histogram("Length of the labels", stats.chars[stats.chars >= 0], "characters"),
    )
    return f"<div class=curves>{''.join(parts)}</div>"


def chips(stats: Stats) -> str:
    """All characters, the most frequent first, rare ones tinted."""
    made = []
    for char, count in sorted(stats.counts.items(), key=lambda pair: (-pair[1], pair[0])):
        rare = " rare" if stats.lines[char] < record_stats.RARE else ""
        name, title = (html.escape(f(char)) for f in (record_stats.named, record_stats.title))
        made.append(
            f"<span class='char{rare}' title='{title}'><b>{name}</b><small>{count}</small></span>"
        )
    return f"<div class=chars>{' '.join(made)}</div>"


def rare(records: RecordSet, stats: Stats) -> str:
    """A table of the characters that stand in few lines, each with one of them."""
    chars = sorted(char for char, count in stats.lines.items() if count < record_stats.RARE)
    where: dict[str, int] = {}
    for row in np.flatnonzero(stats.chars > 0).tolist() if chars else ():
        for char in set(records.text(row)).intersection(chars):
            where.setdefault(char, row)
    such = lambda char: shown(records.text(where[char]), 90)
    rows = [
        (record_stats.named(char), record_stats.title(char), stats.lines[char], such(char))
        for char in chars
    ]
    if not rows:
        return ""
    listed = table(("character", "name", "lines", "such as"), rows, numbers=("lines",))
    few = f"{len(rows)} characters stand in fewer than {record_stats.RARE} lines"
    return f"<details><summary>{few}</summary>{listed}</details>"


def ends(records: RecordSet, stats: Stats) -> str:
    """The longest and the shortest labels, the widest and the narrowest lines."""
    labelled, seen = np.flatnonzero(stats.chars > 0), np.flatnonzero(stats.height_px > 0)
    shape = stats.width_px / np.maximum(stats.height_px, 1)
    parts = []
    for name, rows, values, unit in (
        ("labels", labelled, stats.chars, "characters"),
        ("lines", seen, shape.round(1), "heights wide"),
    ):
        order = rows[np.argsort(values[rows], kind="stable")]
        for word, chosen in (("Longest", order[::-1][:ENDS]), ("Shortest", order[:ENDS])):
            if len(chosen):
                notes = [f"{values[row]} {unit}" for row in chosen.tolist()]
                notes = ["1 character" if note == "1 characters" else note for note in notes]
                parts.append(f"<h3>{word} {name}</h3>{sheet(records, chosen.tolist(), notes)}")
    return "".join(parts)


def suspects(records: RecordSet, stats: Stats) -> str:
    """Labels that look wrong: how many of each kind, and some of them."""
    if not stats.suspects:
        return "<p>No label looks wrong.</p>"
    share = lambda found: f"{len(found) / len(stats.chars):.1%}"
    rows = [(why, len(found), share(found)) for why, found in stats.suspects.items()]
    parts = [table(("what", "lines", "share"), rows, numbers=("lines", "share"))]
    for why, found in stats.suspects.items():
        chosen = np.random.default_rng(0).permutation(found)[:SUSPECTS]
        parts.append(f"<h3>{why[0].upper()}{why[1:]}</h3>{sheet(records, sorted(chosen.tolist()))}")
    if stats.repeated:
        head = ("text", "lines")
        few = [(shown(text, 90), count) for text, count in stats.repeated]
        parts.append(f"<h3>Most frequent texts</h3>{table(head, few, numbers=('lines',))}")
    return "".join(parts)


def unknown(counts: dict[str, set[str]]) -> str:
    """Characters of other splits that train lacks: a reader trained on it cannot write them."""
    train, lines = counts.get("train"), []
    for split, chars in counts.items():
        if train is not None and (missing := sorted(chars - train)):
            names = " ".join(map(record_stats.named, missing[:60]))
            lines.append((split, len(missing), names + (" ..." if len(missing) > 60 else "")))
    if not lines:
        return ""
    head = ("split", "characters", "that train lacks")
    return f"<h3>Characters that train lacks</h3>{table(head, lines, numbers=('characters',))}"


def overview(path: str, manifest: dict[str, Any], all_stats: dict[str, Stats]) -> str:
    """Where the set comes from, its splits, what was left out."""
    about = [
        (key, manifest[key]) for key in ("source", "licence", "attribution") if manifest.get(key)
    ]
    about += [("characters", len(manifest.get("charset", ""))), ("folder", path)]
    middle = lambda values: f"{values.min()} / {int(np.median(values))} / {values.max()}"
    splits = [
        (split, len(s.chars), int((s.chars >= 0).sum()), middle(s.width_px), middle(s.height_px),
         middle(s.chars[s.chars >= 0]) if (s.chars >= 0).any() else "-")
        for split, s in all_stats.items()
    ]  # fmt: skip
    head = ("split", "lines", "labelled", "width px", "height px", "label length")
    parts = [table(ONLY, [(key, shown(str(value), 500)) for key, value in about])]
    parts.append("<h3>Splits</h3>" + table(head, splits, numbers=head[1:]))
    parts.append("<p>Smallest / median / largest.</p>")
    if notes := manifest.get("notes"):
        items = "".join(f"<li>{html.escape(shown(str(note), 600))}</li>" for note in notes)
        parts.append(f"<h3>Notes of the conversion</h3><ul>{items}</ul>")
    reasons = manifest.get("skipped", {}).get("reasons", {})
    if reasons:
        rows = [(shown(str(why)), count) for why, count in reasons.items()]
        parts.append("<h3>Left out or changed</h3>")
        parts.append(table(("why", "how many"), rows, numbers=("how many",)))
    return "".join(parts)


def split_section(records: RecordSet, stats: Stats, lines: int) -> str:
    """All about one split."""
    count = len(records)
    rows = sorted(np.random.default_rng(0).permutation(count)[:lines].tolist())
    parts = [f"<h3>{len(rows)} of {count} lines</h3>{sheet(records, rows)}"]
    few = records.read(np.linspace(0, count - 1, min(count, IDS)).astype(np.int64))
    if found := record_stats.folders([record.id for record in few]):
        title = "Lines of each folder" + (f" (of {IDS} looked at)" if count > IDS else "")
        names = [(shown(name, 90), number) for name, number in found]
        parts.append(f"<h3>{title}</h3>{table(('folder', 'lines'), names, numbers=('lines',))}")
    parts.append(f"<h3>Sizes</h3>{plots(stats)}")
    if stats.counts:
        tinted = f"those in fewer than {record_stats.RARE} lines are tinted"
        parts.append(f"<h3>{len(stats.counts)} characters</h3><p>With counts; {tinted}.</p>")
        parts.append(chips(stats) + rare(records, stats))
    parts.append(ends(records, stats))
    parts.append(f"<h3>Labels that look wrong</h3>{suspects(records, stats)}")
    return "".join(parts)


def section(path: str, splits: Sequence[str], lines: int) -> str:
    """All about one record set."""
    manifest = read_manifest(path)
    sets = {split: RecordSet(path, split) for split in splits or manifest["splits"]}
    all_stats = {split: record_stats.of(records) for split, records in sets.items()}
    name = html.escape(shown(str(manifest.get("name", path)), 90))
    parts = [f"<h2>{name}</h2>", overview(path, manifest, all_stats)]
    parts.append(unknown({s: set(stats.counts) for s, stats in all_stats.items()}))
    for split, records in sets.items():
        parts.append(f"<h2>{name}: {html.escape(split)}</h2>")
        parts.append(split_section(records, all_stats[split], lines))
    return "".join(parts)


def page(specs: Iterable[tuple[str, str]], lines: int) -> str:
    """The whole page as one HTML document, of [(folder, split or "" for all)]."""
    specs = list(specs)
    title = Path(specs[0][0]).name if len(specs) == 1 else f"{len(specs)} record sets"
    parts = (section(path, [split] if split else [], lines) for path, split in specs)
    return document(f"Records: {shown(title, 90)}", parts, STYLE)


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise app.UsageError("name at least one records folder")
    specs = [(path, split) for name in argv[1:] for path, split, _ in parse_spec(name, split="")]
    output = program.path(FLAGS.output, "--output")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page(specs, FLAGS.lines), encoding="utf-8")
    print(f"{output}: {len(specs)} record sets")


if __name__ == "__main__":
    flags.DEFINE_string("output", "records.html", "The page to write.")
    flags.DEFINE_integer("lines", 24, "Lines to show of each split.", lower_bound=0)
    program.run(main)
