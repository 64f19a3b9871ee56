"""Makes a records folder from a source of lines.

    python -m dig_jax.tools.make_records --source=folder --input=DATA --output=records/data
    python -m dig_jax.tools.make_records --source=lines --output=records/lines \\
      --splits=train=4000,validation=400

Sources are the modules of dig_jax/data/sources; each has a function `examples` and takes the flags
that this has parameters for. What cannot be used is counted, named in records.json ("skipped") and
summed up at the end; the last line says what was made.
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import os
import pathlib
import pkgutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from absl import flags
from tqdm import tqdm

from dig_jax.data import sources
from dig_jax.data.beam import RUNNERS, Listing, Pipeline
from dig_jax.data.divide import Division
from dig_jax.data.examples import Example, Report, shown
from dig_jax.data.images import Store
from dig_jax.data.writer import write
from dig_jax.tools import program
from dig_jax.tools.source_flags import define_source_flags

DIVISION = ("validation", "test", "group_by", "dedupe")
PIPELINE = ("runner", "runner_option")
WITHOUT_EFFECT = {"help", "h", "output", "overwrite", "workers", "runner_option"}  # on records


def define_flags() -> flags.FlagValues:
    """The flags of this program, apart from absl's global ones, so that programs can be imported
    side by side.
    """
    own = flags.FlagValues()
    text, number, yes = (
        functools.partial(define, flag_values=own)
        for define in (flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_bool)
    )
    yes("help", False, "show this text.", short_name="h")
    text("source", "folder", f"where the lines come from, one of: {', '.join(source_names())}.")
    text("input", None, "what the source reads: a folder, a file (see the sources).")
    text("output", None, "the records folder to make.")
    number("shards", 0, "files a split; 0 = one for each 256 MiB.", lower_bound=0)
    text("name", None, "name of the record set (default: the last part of --output).")
    yes("overwrite", False, "replace a records folder that exists.")
    number(
        "height_px",
        48,
        "higher images are reduced to this height, lower ones stay as they are.",
        lower_bound=8,
    )
    number("channels", 1, "1 = grey, 3 = colour.")
    flags.DEFINE_enum(
        "codec",
        "jpeg",
        ["jpeg", "png"],
        "jpeg, or png (lossless, larger, slower).",
        flag_values=own,
    )
    number(
        "quality",
        95,
        "of the jpegs; 90 is a quarter smaller and decodes faster.",
        lower_bound=1,
        upper_bound=100,
    )
    number(
        "workers", None, "processes; 0 = none but this one (default: one a core).", lower_bound=0
    )
    share = functools.partial(flags.DEFINE_float, lower_bound=0.0, upper_bound=0.9, flag_values=own)
    share(
        "validation",
        0.0,
        "share of the labelled lines to hold back as the split validation, such as 0.1, where the "
        "source has none.",
    )
    share("test", 0.0, "the same for the split test.")
    text(
        "group_by",
        None,
        "with --validation or --test: a regular expression; lines whose names agree in what it "
        "matches stay together, such as '^[^/]+' for those of one folder.",
    )
    yes("dedupe", False, "leave out lines that stand there twice, nearly the same images too.")
    number(
        "seed",
        0,
        "of generated lines, and of what --validation and --test hold back.",
        lower_bound=0,
    )
    flags.DEFINE_enum(
        "runner",
        None,
        list(RUNNERS),
        "spread the work over machines as an Apache Beam pipeline of this runner "
        "(pip install 'dig_jax[beam]').",
        flag_values=own,
    )
    flags.DEFINE_multi_string(
        "runner_option",
        [],
        "with --runner: an option of it, such as --runner_option=--project=mine; may be repeated.",
        flag_values=own,
    )
    define_source_flags(own)
    return own


def source_names() -> list[str]:
    """The modules of dig_jax/data/sources."""
    return sorted(module.name for module in pkgutil.iter_modules(sources.__path__))


def sources_told(chosen: str = "") -> str:
    """What one source reads, or a line on each. Nothing is imported for it."""
    told = {}
    for name in source_names():
        text = (pathlib.Path(sources.__path__[0]) / f"{name}.py").read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(text)) or ""
        told[name] = docstring.removeprefix("Source: ")
    if chosen in told:
        return f"--source={chosen}: {told[chosen]}\n"
    heads = {name: " ".join(text.split("\n\n")[0].split()) for name, text in told.items()}
    lines = [
        textwrap.fill(f"  {name:<11} {head}", 100, subsequent_indent=" " * 14)
        for name, head in heads.items()
    ]
    return "\n".join(["Sources (--source=NAME --help tells all of one):", *lines, ""])


def load(name: str) -> Callable[..., Iterator[Example]]:
    """The `examples` function of a source. ValueError, naming the sources that exist, for any other
    name.
    """
    if name not in source_names():
        raise ValueError(f"--source is '{name}', but must be one of: {', '.join(source_names())}.")
    return importlib.import_module(f"{sources.__name__}.{name}").examples


def arguments(name: str, examples: Callable[..., Any], given: flags.FlagValues) -> dict[str, Any]:
    """The flags that are parameters of this source. ValueError for a flag set by the user that
    would have no effect.
    """
    general = {"help", "h", "source", "output", "shards", "name", "overwrite", *PIPELINE, *DIVISION}
    general |= {"seed"} if given.validation or given.test else set()
    parameters = set(inspect.signature(examples).parameters)
    images = {field.name for field in dataclasses.fields(Store)} if "store" in parameters else set()
    takes = {name for name in parameters | images if name in given}
    for flag in set(given) - takes - general:
        if given[flag].present:
            raise ValueError(
                f"--{flag} means nothing to --source={name}, which takes: "
                f"{', '.join(sorted(takes))}."
            )
    values = {flag: given[flag].value for flag in takes if given[flag].value is not None}
    if images:
        values["store"] = Store(**{flag: values.pop(flag) for flag in images & set(values)})
    return values


def make(given: flags.FlagValues) -> dict[str, Any]:
    """Runs the program with these flags and returns the manifest."""
    if not given.output:
        raise ValueError("--output is missing: name the records folder to make.")
    source, report, fill = load(given.source), Report(), None
    if given.runner:
        report, fill = Listing(), Pipeline(given.runner, given.runner_option)
    options = arguments(given.source, source, given)
    if given.input:
        options["input"] = str(program.path(given.input, "--input"))
    division = {name: given[name].value for name in DIVISION}
    arrange = Division(seed=given.seed, workers=given.workers, **division)
    examples = source(report=report, **options)
    manifest = write(
        program.path(given.output, "--output"),
        progress(examples, report),
        name=given.name,
        height_px=given.height_px,
        shards=given.shards,
        overwrite=given.overwrite,
        report=report,
        about={"channels": given.channels, "codec": given.codec, "quality": given.quality},
        asked=asked(given, options),
        arrange=arrange,
        fill=fill,
    )
    return manifest


def asked(given: flags.FlagValues, options: dict[str, Any]) -> dict[str, Any]:
    """What decides the content of the records, JSON: an unfinished conversion goes on only with
    the same."""
    values = {name: given[name].value for name in given if name not in WITHOUT_EFFECT}
    return values | {"input": os.path.abspath(options["input"]) if given.input else None}


def progress(examples: Iterable[Example], report: Report) -> Iterator[Example]:
    """Passes the examples on with a progress bar, on terminals only."""
    with tqdm(unit=" lines", disable=not sys.stderr.isatty()) as bar:
        for example in examples:
            if bar.n == 0 and report.before.get("jobs"):
                bar.initial = bar.n = report.before["jobs"]
                bar.write(f"going on after {bar.n} of {report.total}", sys.stderr)
            bar.total = report.total
            bar.update()
            yield example


def summary(manifest: dict[str, Any], output: str, seconds: float) -> str:
    """Lines for the terminal: notes, what was left out, and at last what was made."""
    lines = [f"note: {shown(note, 1000)}" for note in manifest["notes"]]
    skipped = manifest["skipped"]
    if skipped["count"]:
        lines.append(
            f"left out or changed: {skipped['count']} (names in {output}/records.json under "
            "'skipped')"
        )
        for reason, count in skipped["reasons"].items():
            names = [entry["name"] for entry in skipped["first"] if entry["reason"] == reason]
            lines.append(f"  {count} x {reason}{f', such as {names[0]}' if names else ''}")
    splits = ", ".join(
        f"{name} {s['count']} ({s['labelled']} labelled)" for name, s in manifest["splits"].items()
    )
    rate = manifest["count"] / max(seconds, 1e-9)
    lines.append(
        f"{output}: {manifest['count']} records: {splits}; {len(manifest['charset'])} characters; "
        f"{skipped['count']} left out or changed; {seconds:.1f} s, {rate:.0f} records/s."
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 something that the user can mend (one sentence on stderr)."""
    given = define_flags()
    start = time.perf_counter()
    try:
        rest = given(sys.argv if argv is None else ["make_records", *argv])
        if given.help:
            chosen = given.source if given["source"].present else ""
            print(f"{__doc__}\n{sources_told(chosen)}\n{given.get_help()}")
            return 0
        if len(rest) > 1:
            raise ValueError(f"'{rest[1]}' is no option; write --name=value.")
        manifest = make(given)
    except (ValueError, OSError, RuntimeError, flags.Error) as error:
        print(f"make_records: {shown(program.sentence(error), 1000)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make_records: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(summary(manifest, given.output, time.perf_counter() - start))
    return 0


if __name__ == "__main__":
    sys.exit(main())
