"""The registry is whole and says what the reference says; the check names every kind of fault."""

import json

import pytest
from absl import app, flags
from absl.testing import flagsaver

from dig_jax.data import benchmarks, writer
from dig_jax.evaluators import scoring
from dig_jax.tools import benchmarks as program
from tests.evaluators.lines import draw

# Counts of the side-by-side tables of test sets, typed again.
TEST_SETS = {
    "iiit5k": 3000, "svt": 647, "ic13_857": 857, "ic13_1015": 1015, "ic15_1811": 1811,
    "ic15_2077": 2077, "svtp": 645, "cute80": 288, "union14m_artistic": 900,
    "union14m_curve": 2426, "union14m_multi_oriented": 1369, "union14m_contextless": 779,
    "union14m_multi_words": 829, "union14m_salient": 1585, "union14m_incomplete": 1495,
    "union14m_general": 400_000, "iam_words": 13_752, "cvl_words": 12_012, "rimes_words": 7776,
    "mnist": 10_000, "svhn": 26_032,
}  # fmt: skip


def test_every_entry_is_whole():
    known = benchmarks.registry()
    assert {name: known[name].counts["test"] for name in TEST_SETS} == TEST_SETS
    assert {"kaist", "devanagari", "iam_lines", "rimes_lines"} <= known.keys()
    for name, one in known.items():
        assert one.rule in scoring.RULES and one.home.startswith("http"), name
        assert one.licence and one.source and sum(one.counts.values()) > 0, name
        assert f"--output=records/{name}" in one.command and "{" not in one.command, name
    assert "--input=Union14M-Benchmarks/curve " in known["union14m_curve"].command


def manifest(**counts):
    splits = {name: {"count": n, "labelled": n} for name, n in counts.items()}
    return {"splits": splits, "charset": "01", "skipped": {"count": 0}}


@pytest.mark.parametrize(
    "made, words",
    [
        (manifest(train=60_000, test=10_000), []),
        (manifest(train=60_000, test=10_000, mine=5), []),
        (manifest(train=60_000, test=9_990), ["test holds 9,990 records, 10 fewer than 10,000"]),
        (manifest(train=60_001), ["1 more than 60,000", "split test of 10,000 records is missing"]),
        (manifest(all=10_000), ["split train of 60,000 records is missing"]),
        (manifest(train=60_000, test=10_000) | {"charset": "01a"}, ["should not: 'a'"]),
        (manifest(train=60_000, test=10_000) | {"skipped": {"count": 3}}, ["3 inputs"]),
    ],
)
def test_what_differs_is_named(made, words):
    found = benchmarks.differences(benchmarks.find("mnist"), made)
    assert len(found) == len(words)
    for sentence, word in zip(found, words):
        assert word in sentence


def test_unlabelled_records_and_sets_that_are_counted_otherwise():
    made = manifest(test=288)
    made["splits"]["test"]["labelled"] = 280
    assert benchmarks.differences(benchmarks.find("cute80"), made) == [
        "8 records of test have no label"
    ]
    assert benchmarks.differences(benchmarks.find("kaist"), manifest(train=7)) == []


def run(*argv):
    with flagsaver.flagsaver():
        return program.main(flags.FLAGS(["benchmarks", *argv]))


def test_a_set_whose_records_nobody_counted_is_not_called_complete(tmp_path, capsys):
    writer.write(tmp_path / "any", [("train", draw("one"), "one", "0")])
    assert run("kaist", f"--check={tmp_path}/any") == 0
    said = capsys.readouterr().out
    assert "cannot be told" in said and "as published" not in said


def test_the_program(tmp_path, capsys):
    assert run() == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in benchmarks.registry())
    assert run("kaist", "mnist") == 0
    shown = capsys.readouterr().out
    assert "CC BY-SA 3.0" in shown and "--source=mnist --input=mnist" in shown
    writer.write(tmp_path / "svt", [("train", draw("tin"), "tin", "a")])
    assert run("svt", f"--check={tmp_path / 'svt'}") == 1
    assert "test holds 1 records, 646 fewer than 647" in capsys.readouterr().out
    record = json.loads((tmp_path / "svt/records.json").read_text())
    whole = record | {
        "splits": {"train": record["splits"]["train"] | {"count": 647, "labelled": 647}}
    }
    assert benchmarks.differences(benchmarks.find("svt"), whole) == []


@pytest.mark.parametrize(
    "argv, error, words",
    [
        (["iiit5"], ValueError, "did you mean iiit5k?"),
        (["--check=records/x"], app.UsageError, "name it"),
        (["mnist", "--check=/nowhere"], FileNotFoundError, "No record set at /nowhere"),
    ],
)
def test_mistakes_are_one_sentence(argv, error, words):
    with pytest.raises(error, match=words):
        run(*argv)
