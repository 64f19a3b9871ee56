"""bench_loss gives a figure for every size and form, plain memory grows with the square, and JSON
comes last.
"""

import json
import subprocess

import pytest

from dig_jax.tools.perf import bench_loss
from tests.tiers import tiers


@pytest.mark.parametrize("loss", tiers(["nt_xent", "info_nce"]))
def test_measures_both_forms_of_every_size(loss):
    sizes = bench_loss.measure(
        loss, [512, 2048], chunk=32, dim=8, seconds=0.0 if loss == "info_nce" else None
    )
    assert [size["instances"] for size in sizes] == [512, 2048]
    small, large = sizes
    assert large["plain"]["temporary_mb"] > 12 * small["plain"]["temporary_mb"]
    assert large["chunked"]["temporary_mb"] < 4.5 * small["chunked"]["temporary_mb"]
    for form in ("plain", "chunked"):
        assert ("ms" in large[form]) == (loss == "info_nce") and large[form].get("ms", 1) > 0
    lines = bench_loss.table(sizes).splitlines()
    assert (
        len(lines) == 3
        and lines[2].split()[0] == "2048"
        and ("-" in lines[2]) == (loss == "nt_xent")
    )


@pytest.mark.slow
def test_what_needs_too_much_memory_is_not_run():
    gb = 8 / 1024  # the plain form of 2,048 instances needs twice that
    (size,) = bench_loss.measure("info_nce", [2048], chunk=32, dim=8, seconds=0.0, memory_gb=gb)
    assert size["chunked"]["temporary_mb"] < 8 < size["plain"]["temporary_mb"]
    assert "ms" in size["chunked"] and "ms" not in size["plain"]
    (size,) = bench_loss.measure("info_nce", [2048], chunk=32, dim=8, seconds=0.0, memory_gb=0.0)
    assert "ms" not in size["chunked"] and "ms" not in size["plain"]


@pytest.mark.slow
def test_command_line(python):
    command = [python, "-m", "dig_jax.tools.perf.bench_loss"]
    done = subprocess.run(
        [*command, "--instances=64,128", "--chunk=16", "--time=false"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["chunk"] == 16 and [size["instances"] for size in figures["sizes"]] == [64, 128]
