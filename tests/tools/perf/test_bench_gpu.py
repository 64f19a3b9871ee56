"""launch/bench_gpu.sh: prints what it would run, runs a case anywhere, and reports one that
fails.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]


def run(*arguments, **environment):
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        **environment,
    }
    command = ["bash", str(ROOT / "launch/bench_gpu.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_dry_run_names_every_case():
    done = run("--dry_run")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == len(set(lines)) >= 12
    assert all(
        "dig_jax.tools.perf.bench_step " in line and "configs/pretrain/dig.py:preset=words" in line
        for line in lines
    )
    for size in (
        "size=T",
        "size=S",
        "size=B",
        "remat=True",
        "scan=True",
        "attention=xla",
        "XLA_FLAGS=",
    ):
        assert any(size in line for line in lines), size


@pytest.mark.slow
def test_one_case_and_the_clock(tmp_path):
    done = run("--tiny", OUT=str(tmp_path), BUDGET_S="3000", CASE_S="3000")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["case"] == "nano-8,objective=gen+depth=1" and figures["lines_per_s"] > 0
    assert json.loads((tmp_path / "bench_gpu.jsonl").read_text()) == figures
    assert json.loads(run("--tiny", BUDGET_S="5").stdout) == {
        "case": "nano-8,objective=gen+depth=1",
        "failed": "no time left",
    }
    slow = json.loads(run("--tiny", CASE_S="1").stdout)
    assert slow["case"] == "nano-8,objective=gen+depth=1" and slow["failed"].startswith(
        "exit code 124"
    )
