"""The registry of public benchmarks, and the check that a converted set is the one it claims to be.

The facts stand in benchmarks.toml. None of the data comes with this package: most may not be passed
on, so each entry says where to ask for it.
"""

import dataclasses
import difflib
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dig_jax.data.manifest import read_manifest

FILE = Path(__file__).with_name("benchmarks.toml")
MAKE = "python -m dig_jax.tools.make_records "


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One set; `counts` are its records by split, see the head of benchmarks.toml for the rest."""

    name: str
    title: str
    what: str
    kind: str
    counts: Mapping[str, int]
    source: str
    licence: str
    home: str
    rule: str
    convert: str
    unsure: str = ""
    chars: str = ""
    unit: str = "records"
    before: str = ""
    family: str = ""

    @property
    def command(self) -> str:
        """The conversion command."""
        short = self.name.removeprefix(f"{self.family}_")
        return MAKE + self.convert.format(name=self.name, short=short)

    @property
    def converter(self) -> str:
        """The source of make_records that the command names."""
        return self.convert.split("--source=")[1].split()[0]


@functools.cache
def registry() -> dict[str, Benchmark]:
    """{name: benchmark} in the order of the file."""
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))
    families: dict[str, dict[str, Any]] = table.pop("family")
    return {
        name: Benchmark(name=name, **(families.get(entry.get("family"), {}) | entry))
        for name, entry in table.items()
    }


def find(name: str) -> Benchmark:
    """The benchmark of this name; ValueError with the nearest name for any other."""
    known = registry()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"there is no benchmark {name!r}: {hint}The names are {', '.join(known)}")
    return known[name]


def differences(benchmark: Benchmark, manifest: Mapping[str, Any]) -> list[str]:
    """What a converted set differs in from the benchmark, a sentence each; [] where in nothing.

    manifest: its records.json. Splits beyond those of the benchmark are the user's own business; a
    set of one split under another name is held against the test split.
    """
    found = dict(manifest["splits"])
    expected = dict(benchmark.counts) if benchmark.unit == "records" else {}
    if len(found) == 1 and "test" in expected and not found.keys() & expected.keys():
        found = {"test": found.popitem()[1]}
    wrong = []
    for split, count in expected.items():
        if split not in found:
            wrong.append(f"the split {split} of {count:,} records is missing")
        elif (off := found[split]["count"] - count) != 0:
            more = f"{abs(off):,} {'more' if off > 0 else 'fewer'}"
            wrong.append(f"{split} holds {count + off:,} records, {more} than {count:,}")
    for split in expected or found:
        if split in found and (bare := found[split]["count"] - found[split]["labelled"]):
            wrong.append(f"{bare:,} records of {split} have no label")
    skipped = manifest.get("skipped", {}).get("count", 0)
    if skipped:
        wrong.append(f"{skipped:,} inputs were left out or changed in the conversion")
    odd = sorted(set(manifest.get("charset", "")) - set(benchmark.chars))
    if benchmark.chars and odd:
        shown = ", ".join(repr(char) for char in odd[:10])
        wrong.append(f"labels hold characters that they should not: {shown}")
    return wrong


def check(name: str, records: str | Path) -> list[str]:
    """`differences` of the records folder from the benchmark of this name."""
    return differences(find(name), read_manifest(records))
