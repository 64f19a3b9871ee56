"""CER over labelled lines: which run is which point, what is drawn, what a user may do wrong."""

import json
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pytest
from absl import app

from dig_jax.data import records as record_sets
from dig_jax.data import writer
from dig_jax.data.manifest import TRUE_LABELS
from dig_jax.tools import label_curves
from dig_jax.workdir import read as runs
from dig_jax.workdir import readings
from tests.evaluators import lines


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
    found = [
        readings.Reading(f"{'ab'[i % 2]}/{i}", "tint", "" if i < wrong else "tint", 4 * (i < wrong))
        for i in range(6)
    ]
    readings.write(readings.file_of(folder, name), found)
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
    assert [(p.at, p.cer) for p in curves["a"]] == [(34, 1), (100, 2 / 6), (100, 3 / 6)]
    assert [(p.at, p.cer) for p in curves["b"]] == [(34, 1 / 6)]
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


def test_a_folder_may_be_named_with_an_equals_sign(tmp_path):
    save(tmp_path / "lr=0.1/run", 3, subset=34)
    name, (point,) = label_curves.points(f"a@50={tmp_path / 'lr=0.1'}", None, None)
    assert (name, point.at, point.cer) == ("a", 50, 0.5)


def test_a_set_without_a_labelled_line_is_no_point(tree):
    readings.write(readings.file_of(tree / "b/self-0", "empty"), [])
    _, (point,) = label_curves.points(f"b={tree / 'b'}", None, None)
    assert point.cer == 1 / 6


def test_intervals_are_by_group_where_groups_are_named(tree):
    (_, by_line), (_, by_group) = (
        label_curves.points(f"a={tree / 'b'}", None, pattern) for pattern in (None, r"^\w")
    )
    assert by_line[0].cer == by_group[0].cer
    assert by_group[0].high == pytest.approx(1 / 3)  # of two groups, the worse one twice
    assert by_line[0].high > by_group[0].high


def test_the_records_of_a_student_say_which_labels_are_true(tmp_path):
    """Old runs noted nothing: the records tell, or who calls. A share is of the labelled lines."""
    texts = ["tin", "toe", "see", "lens", "unit", "note", "solo", "list"]
    rows = [("train", lines.draw(text), text, str(i)) for i, text in enumerate(texts)]
    rows += [("validation", lines.draw(text), text, f"v{text}") for text in texts[:4]]
    writer.write(tmp_path / "whole", rows)
    run = lambda name, **data: runs.load(save(tmp_path / name, 1, **data))
    share = run("share", train=tmp_path / "whole", subset=0.5)
    assert share.label_count == {"true": 4, "read": 0} and share.labels == "50 %"
    writer.write(tmp_path / "own", rows, about={TRUE_LABELS: 3})
    student = run("self", train=tmp_path / "own")
    assert student.label_count == {"true": 3, "read": 5}
    assert student.labels == "3 lines and own readings"
    both = run("both", train=f"{tmp_path / 'own'},{tmp_path / 'own'}@validation")
    assert both.label_count == {"true": 7, "read": 5}  # none of validation was read
    subset = run("subset", train=tmp_path / "own", subset=4)
    chosen = record_sets.open_sets(str(tmp_path / "own"), subset=4, labelled=True).chosen
    assert (
        subset.label_count["true"] == np.sum(chosen < 3) and sum(subset.label_count.values()) == 4
    )
    only = run("only", total={"steps": 0}, init_from=str(student.path))
    assert only.label_count == student.label_count  # as the run whose weights it judges
    report = record_sets.Report()
    report.notes.append("6 lines carry labels of a reader, which is sure of them by 0.9 or more")
    writer.write(tmp_path / "old", rows, report=report)  # of before there was the key
    assert run("old run", train=tmp_path / "old").label_count == {"true": 2, "read": 6}
    manifest = tmp_path / "own" / "records.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {TRUE_LABELS: "x"}))
    with pytest.raises(ValueError, match="'true_labels' is 'x', but must be a number of lines"):
        record_sets.read_manifest(tmp_path / "own")
    gone = save(tmp_path / "gone", 1)
    with pytest.raises(ValueError, match=f"write NAME@LINES={gone}"):
        label_curves.points(f"a={gone}", None, None)
    assert label_curves.points(f"a@7={gone}", None, None)[1][0].at == 7


def test_blocks_of_an_encoder_are_an_axis_too(tmp_path):
    axis = label_curves.AXES["block"]
    heads = {"heads": {"ctc": {}}, "encoder": {"depth": 4}}
    for block, wrong in ((2, 1), ("3", 2), ("last", 3)):
        save(tmp_path / f"gen/{block}", wrong, subset=34, method={**heads, "block": block})
    _, found = label_curves.points(f"gen={tmp_path / 'gen'}", None, None, axis)
    assert [(point.at, point.cer) for point in found] == [(2, 1 / 6), (3, 2 / 6), (4, 3 / 6)]
    (axes,) = label_curves.draw({"gen": found}, "t", axis=axis).axes
    assert axes.get_xscale() == "linear" and axes.get_xlabel() == "block of the encoder"
    assert label_curves.table({"gen": found}, axis).startswith("| block of the encoder | gen |")
    plt.close("all")
    for block, encoder in (("mix", {"depth": 4}), ("last", {"kind": "cnn"})):
        save(tmp_path / block, 1, subset=34, method={**heads, "encoder": encoder, "block": block})
        with pytest.raises(ValueError, match=f"{block} reads no block .*: leave it out"):
            label_curves.points(f"gen={tmp_path / block}", None, None, axis)


def test_exports_unfinished_runs_and_evaluations_are_no_points(tree, capsys):
    """An export lies below the folder, a run is not finished, and one judges the first again."""
    (tree / "a/export").mkdir()
    (tree / "a/export/config.json").write_text(json.dumps({"method": {"name": "recognize"}}))
    save(tree / "a/open", 1, subset=50, total={"steps": 20})
    save(tree / "a/judged", 1, total={"steps": 0}, init_from=str(tree / "a/34/random-0"))
    _, found = label_curves.points(f"a={tree / 'a'}", None, None)
    assert [point.at for point in found] == [34, 100, 100]
    assert f"left out: {tree / 'a/open'} is unfinished: step 10 of 20" in capsys.readouterr().err
    alone = label_curves.points(f"a={tree / 'a/judged'}", None, None)[1]
    assert [point.at for point in alone] == [34]


def test_an_import_is_named_and_left_out(tree, capsys):
    """It lies among the runs, has no steps, and does not hide an evaluation beside it."""
    (tree / "a/print").mkdir()
    told = {"imported": "print", "method": {"heads": {"ctc": {}}}, "data": {}}
    (tree / "a/print/config.json").write_text(json.dumps(told))
    assert len(label_curves.points(f"a={tree / 'a'}", None, None)[1]) == 3
    assert f"left out: {tree / 'a/print'} is an import" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no finished recogniser below"):
        label_curves.points(f"a={tree / 'a/print'}", None, None)
    save(tree / "c/judged", 1, total={"steps": 0}, init_from=str(tree / "a/34/random-0"))
    (tree / "a/print").rename(tree / "c/print")
    assert [point.at for point in label_curves.points(f"c={tree / 'c'}", None, None)[1]] == [34]


def test_many_curves_stay_at_their_numbers(tree):
    point = lambda **more: label_curves.Point(100, 0.1, **more)
    for more, most in (({}, 1.0), ({"low": 0.05, "high": 0.2}, label_curves.SPREAD)):
        (axes,) = label_curves.draw({str(i): [point(**more)] for i in range(18)}, "t").axes
        at = [float(line.get_xdata()[0]) for line in axes.get_lines() if line.get_label() != "_"]
        assert max(at) / min(at) == pytest.approx(most)
    assert "| 100 | 10.0 |" in label_curves.table({"a": [point()]})
    plt.close("all")


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
    with pytest.raises(ValueError, match="none learnt from no labelled line, .*leave it out"):
        label_curves.points(f"a={tree / 'none'}", None, None)
    assert label_curves.points(f"34={tree / 'b'}", None, None)[0] == "34"
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
