"""CER over labelled lines: which run is which point, what is drawn, what a user may do wrong."""

import json
import subprocess

import matplotlib.pyplot as plt
import pytest
from absl import app

from dig_jax.data import records as record_sets
from dig_jax.data.manifest import TRUE_LABELS
from dig_jax.tools import label_curves
from dig_jax.workdir import read as runs
from dig_jax.workdir import readings
from tests import readers


def save(folder, wrong, *, train="/gone", subset=None, labels=None, name="val", **config):
    """A finished recogniser that reads `wrong` of 6 lines of 4 characters as nothing."""
    folder.mkdir(parents=True)
    told = {
        "method": {"heads": {"ctc": {}}},
        "data": {"train": str(train), "subset": subset},
        "total": {"steps": 10},
        **config,
    }
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 10}) + "\n")
    if labels:
        start = {"step": 0, "total": 10, "labels": labels}
        (folder / "starts.jsonl").write_text(json.dumps(start) + "\n")
    lines = [
        readings.Reading(f"{'ab'[i % 2]}/{i}", "tint", "" if i < wrong else "tint", 4 * (i < wrong))
        for i in range(6)
    ]
    readings.write(readings.file_of(folder, name), lines)
    return folder


@pytest.fixture
def tree(tmp_path):
    """From scratch with 34 and 100 lines, with 100 twice; a student of 34 lines."""
    save(tmp_path / "a/34/random-0", 6, subset=34)
    save(tmp_path / "a/100/random-0", 3, subset=100)
    save(tmp_path / "a/100/random-1", 2, subset=100)
    save(tmp_path / "b/self-0", 1, labels={"true": 34, "read": 2000})
    return tmp_path


def test_a_point_a_run_and_a_curve_through_the_mean(tree):
    curves = dict(label_curves.points(f"{name}={tree / name}", None, None) for name in ("a", "b"))
    assert [(p.lines, p.cer) for p in curves["a"]] == [(34, 1), (100, 2 / 6), (100, 3 / 6)]
    assert [(p.lines, p.cer) for p in curves["b"]] == [(34, 1 / 6)]
    assert all(p.low < p.cer < p.high for p in curves["a"][1:])
    assert label_curves.means(curves["a"]) == {34: 1, 100: pytest.approx(2.5 / 6)}
    (axes,) = label_curves.draw(curves, "t").axes
    through = {line.get_label(): line for line in axes.get_lines()}
    assert list(through["a"].get_ydata()) == pytest.approx([100, 250 / 6])
    at = through["a"].get_xdata()
    assert at == pytest.approx([34 / label_curves.SHIFT**0.5, 100 / label_curves.SHIFT**0.5])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["34", "100"]
    table = label_curves.table(curves).splitlines()
    assert table[2].startswith("| 34 | 100.0 (100.0 to 100.0) | 16.7 (")
    assert table[3].startswith("| 100 | 33.3 (") and ", 50.0 (" in table[3]
    assert table[3].endswith("| - |")
    plt.close("all")


def test_intervals_are_by_group_where_groups_are_named(tree):
    (_, by_line), (_, by_group) = (
        label_curves.points(f"a={tree / 'b'}", None, pattern) for pattern in (None, r"^\w")
    )
    assert by_line[0].cer == by_group[0].cer
    assert by_group[0].high == pytest.approx(1 / 3)  # of two groups, the worse one twice
    assert by_line[0].high > by_group[0].high


def test_the_records_of_a_student_say_which_labels_are_true(tmp_path):
    """Old runs noted nothing: the records tell, or who calls. A share is of the labelled lines."""
    readers.records(whole := tmp_path / "whole")
    train = f"{whole}@validation"
    n = len(readers.TEXTS)
    share = runs.load(save(tmp_path / "share", 1, train=train, subset=0.5))
    assert share.label_count == {"true": round(n / 2), "read": 0} and share.labels == "50 %"
    manifest = whole / "records.json"
    told = json.loads(manifest.read_text()) | {TRUE_LABELS: 3}
    manifest.write_text(json.dumps(told))
    student = runs.load(save(tmp_path / "self", 1, train=train))
    assert student.label_count == {"true": 3, "read": n - 3}
    assert student.labels == "3 lines and own readings"
    only = runs.load(save(tmp_path / "only", 1, total={"steps": 0}, init_from=str(student.path)))
    assert only.label_count == student.label_count  # as the run whose weights it judges
    manifest.write_text(json.dumps(told | {TRUE_LABELS: "x"}))
    with pytest.raises(ValueError, match="'true_labels' must be a number of lines"):
        record_sets.read_manifest(whole)
    gone = save(tmp_path / "gone", 1)
    with pytest.raises(ValueError, match=f"write NAME@LINES={gone}"):
        label_curves.points(f"a={gone}", None, None)
    assert label_curves.points(f"a@7={gone}", None, None)[1][0].lines == 7


def test_what_is_wrong_is_said(tree, tmp_path):
    with pytest.raises(ValueError, match="names no curve: write NAME=FOLDER"):
        label_curves.points(str(tree), None, None)
    with pytest.raises(ValueError, match="no finished recogniser below .* has read other"):
        label_curves.points(f"a={tree / 'a'}", "other", None)
    save(tree / "a/two", 1, subset=9, name="more")
    with pytest.raises(ValueError, match="has read more, val: choose one with --set"):
        label_curves.points(f"a={tree / 'a'}", None, None)
    assert len(label_curves.points(f"a={tree / 'a'}", "more", None)[1]) == 1
    save(tree / "none", 1, labels={"true": 0, "read": 9})
    with pytest.raises(ValueError, match="a run without a labelled line"):
        label_curves.joined([label_curves.points(f"a={tree / 'none'}", None, None)])
    with pytest.raises(app.UsageError, match="one or more curves"):
        label_curves.main(["label_curves"])


def test_the_program(tree, python):
    """The command of its own help; one name twice is one curve."""
    command = [python, "-m", "dig_jax.tools.label_curves", f"a={tree / 'a/34'}"]
    done = subprocess.run(
        [*command, f"a={tree / 'a/100'}", "--log", f"--output={tree}/a.svg"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[0] == "| labelled lines | a |"
    assert done.stdout.splitlines()[-1] == f"{tree}/a.svg"
    assert ">a</text>" in (tree / "a.svg").read_text()
