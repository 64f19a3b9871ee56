"""The picture of one metric: what is drawn, and what a user may do wrong."""

import json
import subprocess

import matplotlib.pyplot as plt
import pytest
from absl import app

from dig_jax.tools import curves


def save(folder, values):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    rows = [{"step": 10 * (i + 1), "eval/cer": v, "train/loss": 9 * v} for i, v in values]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def runs(tmp_path):
    """One run of three evaluations, one of two."""
    return [
        save(tmp_path / "a", enumerate([0.9, 0.2, 0.05])),
        save(tmp_path / "b", enumerate([0.5, 0.1])),
    ]


def test_a_line_a_run_in_percent(runs):
    figure = curves.draw([f"from scratch={runs[0]}", str(runs[1])], "eval/cer", "CER", log=True)
    (axes,) = figure.axes
    first, second = axes.get_lines()
    assert list(first.get_xdata()) == [10, 20, 30]
    assert list(first.get_ydata()) == pytest.approx([90, 20, 5])
    assert [first.get_label(), second.get_label()] == ["from scratch", "b"]
    (loss,) = curves.draw([str(runs[1])], "train/loss", "loss").axes[0].get_lines()
    assert list(loss.get_ydata()) == pytest.approx([4.5, 0.9])  # no share, so no percent
    plt.close("all")


@pytest.mark.parametrize(
    "metric, percent",
    [
        ("eval/cer", True),
        ("eval/cer_weighted", True),
        ("eval/a/cer_alnum", True),
        ("eval/a/word_accuracy_alnum", True),
        ("eval/a/cer@h1", True),
        ("eval/a/cer_even@lr=0.1", True),
        ("probe/a/cer", True),
        ("eval/a/one_minus_ned", True),
        ("eval/a/lines", False),
        ("eval/cer/lines", False),
        ("train/power", False),
    ],
)
def test_rates_of_any_name_are_drawn_in_percent(tmp_path, metric, percent):
    folder = save(tmp_path / "lr=0.1", [])
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 10, metric: 0.5}) + "\n")
    (axes,) = curves.draw([str(folder)], metric, "").axes
    assert list(axes.get_lines()[0].get_ydata()) == [50 if percent else 0.5]
    assert axes.get_ylabel() == ("%" if percent else "")
    assert axes.get_lines()[0].get_label() == "lr=0.1"  # a name with "=" is that of a folder
    plt.close("all")


@pytest.mark.parametrize(
    "suffix, begins", [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")]
)
def test_the_same_runs_give_the_same_file(tmp_path, runs, suffix, begins):
    for name in ("x/one", "x/two"):
        figure = curves.draw([str(r) for r in runs], "eval/cer", "a $ b")
        curves.save(figure, f"{tmp_path / name}.{suffix}")
    one, two = ((tmp_path / "x" / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
    assert one == two and one.startswith(begins)
    assert suffix != "svg" or b">a $ b<" in one


def test_what_is_wrong_is_said(tmp_path, runs):
    one = [str(runs[0])]
    with pytest.raises(
        ValueError, match="has logged no eval/wer: name one of eval/cer, train/loss"
    ):
        curves.draw(one, "eval/wer", "")
    with pytest.raises(ValueError, match=r"a.bmp cannot be drawn: end it in .svg, .png, .pdf"):
        curves.save(curves.draw(one, "eval/cer", ""), f"{tmp_path}/a.bmp")
    with pytest.raises(FileNotFoundError, match="no config.json"):
        curves.draw([str(tmp_path)], "eval/cer", "")
    with pytest.raises(ValueError, match="c has logged nothing: name a run that has"):
        curves.draw([str(save(tmp_path / "c", []))], "eval/cer", "")
    with pytest.raises(app.UsageError, match="one or more work folders"):
        curves.main(["curves"])


def test_the_program(tmp_path, runs, python):
    """The command of its own help."""
    command = [python, "-m", "dig_jax.tools.curves", f"a run={runs[0]}", runs[1], "--log"]
    done = subprocess.run(
        [*command, f"--output={tmp_path}/a.svg"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [f"{tmp_path}/a.svg"]
    drawn = (tmp_path / "a.svg").read_text()
    assert ">a run<" in drawn and ">eval/cer<" in drawn
