"""launch/bench_gpu.sh: prints what it would run, runs a case anywhere, and reports one that
fails.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]


def run_script(*arguments, **environment):
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
    done = run_script("--dry_run")
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


def test_check_hands_its_time_and_its_exit_code_on(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *check_device*) echo "$@"; exit 1 ;; esac\n')
    python.chmod(0o755)
    limits = {"BUDGET_S": "500", "CASE_S": "100"}
    done = run_script("--check", PYTHON=str(python), OUT=str(tmp_path), **limits)
    assert done.returncode == 1
    assert done.stdout == "-m dig_jax.tools.perf.check_device --seconds=400\n"
    assert (tmp_path / "check_device.txt").read_text() == done.stdout


@pytest.mark.slow
def test_one_case_and_the_clock(tmp_path, python):
    limits = {"BUDGET_S": "3000", "CASE_S": "3000"}
    done = run_script("--tiny", OUT=str(tmp_path), PYTHON=python, **limits)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["case"] == "nano-8,objective=gen+depth=1" and figures["lines_per_s"] > 0
    assert json.loads((tmp_path / "bench_gpu.jsonl").read_text()) == figures
    # From here on a Python that has every package and takes its time.
    slow = tmp_path / "python"
    slow.write_text(
        '#!/bin/sh\ncase "$*" in *"import absl"*) exit ;; *bench_step*) exec sleep 60 ;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    slow.chmod(0o755)
    run = functools.partial(run_script, PYTHON=str(slow))
    assert json.loads(run("--tiny", BUDGET_S="5").stdout) == {
        "case": "nano-8,objective=gen+depth=1",
        "failed": "no time left",
    }
    late = json.loads(run("--tiny", CASE_S="1").stdout)
    assert late["case"] == "nano-8,objective=gen+depth=1" and late["failed"].startswith(
        "exit code 124"
    )
