"""bench_input prints figures that add up, and JSON last."""

import json
import subprocess

import cv2
import numpy as np
import pytest

from dig_jax.data import records
from dig_jax.tools.perf import bench_input


@pytest.fixture
def folder(tmp_path):
    image = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (48, 500), np.uint8))[
        1
    ].tobytes()
    records.write(
        tmp_path / "set", (("train", image if i else b"broken", None, str(i)) for i in range(40))
    )
    return tmp_path / "set"


def test_measures_every_stage(folder):
    options = dict(height_px=32, width_px=128, channels=1, batch_size=40, workers=0)
    result = bench_input.measure(records.open_sets(str(folder)), seconds=1.0, **options)
    assert result["stored_px"] == [48, 500] and result["lines"] == 40
    rates = result["lines_per_s_core"]
    assert set(rates) == {"read", "decode", "resize + crop", "whole"}
    assert 0 < rates["whole"] < min(rates["read"], rates["decode"], rates["resize + crop"])
    assert (
        result["limit"] == max(result["share"], key=result["share"].get)
        and result["lines_per_s_wall"] > 0
    )
    with pytest.raises(ValueError, match="--seconds is 0"):
        bench_input.measure(records.open_sets(str(folder)), seconds=0, **options)


@pytest.mark.parametrize(("consume", "wall", "core", "workers", "available", "feeds", "needed", "advice"), [
    (1000, 1500, 800, 2, 4, True, 2, "yes: 1500 lines/s are 1.50 times"),
    (1500, 1500, 800, 2, 4, True, 2, "yes"),                                          # exactly enough is enough
    (3000, 1500, 800, 2, 4, False, 4, "try --workers=4"),
    (700, 600, 800, 0, 2, False, 1, "busy with something else"),                      # a thread is one core's worth
    (1700, 700, 800, 0, 8, False, 3, "try --workers=3"),
    (8000, 1500, 800, 2, 4, False, 10, "cannot: it needs 10 cores of this kind, there are 4"),
    (1500, 900, 800, 2, 4, False, 2, "the disk is the limit"),
])  # fmt: skip
def test_verdict(consume, wall, core, workers, available, feeds, needed, advice):
    found = bench_input.verdict(consume, wall, core, workers, available)
    assert (found["feeds"], found["cores_needed"]) == (feeds, needed) and advice in found["advice"]
    assert found["headroom"] == round(wall / consume, 3)


def test_more_workers_are_tried_where_auto_is_too_few(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(bench_input, "cores", lambda: 8)
    monkeypatch.setattr(bench_input, "_rate", lambda work, seconds: 1000.0)
    monkeypatch.setattr(bench_input.pipeline, "default_workers", lambda: 2)
    monkeypatch.setattr(
        bench_input,
        "_wall",
        lambda _, seconds, workers, size: (asked.append(workers) or 900.0 * workers, 0),
    )
    options = dict(height_px=32, width_px=128, channels=1, batch_size=40, seconds=1.0)
    measure = lambda **more: bench_input.measure(records.open_sets(str(folder)), **options, **more)
    result = measure(workers="auto", consume=4000)
    assert (
        asked == [2, 5]
        and result["feeds"]
        and result["workers"] == 5
        and result["lines_per_s_wall"] == 4500
    )
    result = measure(workers=2, consume=4000)  # what was asked for is what is timed
    assert asked[2:] == [2] and result["feeds"] is False and "--workers=4" in result["advice"]
    assert "feeds" not in measure(workers=2)
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="--consume is"):
            measure(workers=0, consume=wrong)


@pytest.mark.slow
def test_command_line(folder, python):
    command = [
        python,
        "-m",
        "dig_jax.tools.perf.bench_input",
        "--batch_size=16",
        "--seconds=0.5",
        "--workers=1",
    ]
    done = subprocess.run(
        [*command, f"--records={folder}", "--consume=1e9"], capture_output=True, text=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["workers"] == 1
    assert done.returncode == 2 and result["feeds"] is False and result["cores_needed"] > 1000, (
        done.stderr
    )
    assert "can it feed 1e+09 lines/s: no, and this machine cannot" in done.stdout
