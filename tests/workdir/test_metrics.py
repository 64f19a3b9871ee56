"""The log file and its one story after a restart."""

import json
import math

import numpy as np
import pytest

from dig_jax.workdir import metrics


def test_lines_and_nan(tmp_path):
    writer = metrics.Writer(str(tmp_path))
    writer.write(3, {"train/loss": np.float32(0.5), "eval/x/cer": math.nan})
    writer.write(4, {})
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text.count("\n") == 1 and json.loads(text, parse_constant=pytest.fail)["step"] == 3
    assert metrics.read_jsonl(str(tmp_path / "metrics.jsonl")) == [
        {"step": 3, "train/loss": 0.5, "eval/x/cer": None}
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_resumed_run_tells_one_story(tmp_path):
    path = str(tmp_path / "metrics.jsonl")
    writer = metrics.Writer(str(tmp_path))
    for step in (1, 2, 3, 4):
        writer.write(step, {"a": step})
    writer.close()
    with open(path, "a") as file:
        file.write('{"step": 5, "a"')  # killed while writing
    assert [row["step"] for row in metrics.read_jsonl(path)] == [1, 2, 3, 4]
    writer = metrics.Writer(str(tmp_path), resume_step=2)
    writer.write(3, {"a": 30})
    writer.close()
    assert [(row["step"], row["a"]) for row in metrics.read_jsonl(path)] == [
        (1, 1),
        (2, 2),
        (3, 30),
    ]


def test_the_later_of_two_evaluations_of_a_step_replaces_the_earlier(tmp_path):
    for value in (0.5, 0.4):
        writer = metrics.Writer(str(tmp_path), resume_step=2)
        writer.write(2, {"eval/a/cer": value})
        if value == 0.5:
            writer.write(2, {"train/loss": 1.0, "eval/b/cer": 0.1})
        else:
            writer.write(3, {"train/loss": 2.0})
        writer.close()
    rows = metrics.read_jsonl(str(tmp_path / "metrics.jsonl"))
    assert rows == [
        {"step": 2, "train/loss": 1.0, "eval/b/cer": 0.1},
        {"step": 2, "eval/a/cer": 0.4},
        {"step": 3, "train/loss": 2.0},
    ]


def test_damage_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        metrics.read_jsonl(str(path))


def test_other_hosts_write_nothing(tmp_path):
    writer = metrics.Writer(str(tmp_path), active=False)
    writer.write(1, {"a": 1.0})
    writer.close()
    assert not list(tmp_path.iterdir())
