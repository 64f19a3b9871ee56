"""bench_input prints figures that add up, and JSON last."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from dig_jax.data import records
from dig_jax.tools import bench_input


@pytest.fixture
def folder(tmp_path):
    image = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (48, 500), np.uint8))[1].tobytes()
    records.write(tmp_path / "set", (("train", image if i else b"broken", None, str(i)) for i in range(40)))
    return tmp_path / "set"


def test_measures_every_stage(folder):
    options = dict(height_px=32, width_px=128, channels=1, batch_size=40, workers=0)
    result = bench_input.measure(records.open_sets(str(folder)), seconds=1.0, **options)
    assert result["stored_px"] == [48, 500] and result["lines"] == 40
    rates = result["lines_per_s_core"]
    assert set(rates) == {"read", "decode", "resize + crop", "whole"}
    assert 0 < rates["whole"] < min(rates["read"], rates["decode"], rates["resize + crop"])
    assert result["limit"] == max(result["share"], key=result["share"].get) and result["lines_per_s_wall"] > 0
    with pytest.raises(ValueError, match="--seconds is 0"):
        bench_input.measure(records.open_sets(str(folder)), seconds=0, **options)


@pytest.mark.slow
def test_command_line(folder):
    command = [sys.executable, "-m", "dig_jax.tools.bench_input", "--batch_size=16", "--seconds=0.5", "--workers=1"]
    done = subprocess.run([*command, f"--records={folder}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["workers"] == 1
    done = subprocess.run([*command, "--records=nowhere"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("bench_input: No record set at nowhere")
