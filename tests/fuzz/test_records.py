"""The fuzzer: a hundred cases find nothing, and what it must find is found, a dying and a hanging
decoder included.
"""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.fuzz import cases, judge
from tests.fuzz import records as fuzz_records


def test_cases_depend_on_seed_and_number_only(tmp_path):
    for number in range(20):
        made = []
        for turn in "ab":
            scratch = tmp_path / f"{number}{turn}"
            scratch.mkdir()
            kind, what, value = fuzz_records.build(3, number, scratch)
            files = sorted(
                p
                for p in scratch.rglob("*")
                if p.is_file() and p.suffix != ".npz" and p.stat().st_size < 1e7
            )
            same = {
                str(p.relative_to(scratch)): p.read_bytes().replace(bytes(scratch), b"")
                for p in files
            }
            made.append(
                (
                    kind,
                    what.replace(str(scratch), ""),
                    value if isinstance(value, bytes) else None,
                    same,
                )
            )
        assert made[0] == made[1]


@pytest.mark.slow
def test_a_hundred_cases_end_as_they_must(tmp_path):
    """In this process: a crash here would be a crash of the test run, so nothing is hidden."""
    results = [fuzz_records.run_case(11, number, 512.0) for number in range(100)]
    failed = [result for result in results if "failure" in result]
    assert not failed, failed[0]
    counts = fuzz_records.summarise(results, 11, None)
    assert (
        counts["fine"] + counts["counted_bad"] + counts["refused"] == 100
        and counts["counted_bad"] > 30
    )
    assert set(counts["kinds"]) == set(cases.KINDS)


@pytest.mark.slow
def test_as_a_program(tmp_path, python):
    command = [
        python,
        "-m",
        "tests.fuzz.records",
        "--cases=40",
        "--workers=1",
        f"--save={tmp_path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (
        result["cases"] == 40
        and result["failures"] == 0
        and result["peak_rss_mb"] > 50
        and not list(tmp_path.iterdir())
    )


def dies(pipe, seed, max_mb, stderr):
    pipe.send("ready")
    for number in iter(pipe.recv, None):
        if number == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 2:
            time.sleep(600)
        pipe.send(
            {"number": number, "seconds": 99.0 if number == 3 else 0.0, "mb": 0.0, "outcome": []}
        )


@pytest.mark.slow
def test_a_worker_that_dies_or_hangs_is_blamed_on_its_case_and_replaced():
    worker = fuzz_records.Worker(0, 5.0, 512.0, target=dies)
    worker.patience_s = 20
    try:
        assert "failure" not in worker.ask(0)
        assert "exit code -11" in worker.ask(1)["failure"]
        worker.ask(0)
        worker.patience_s = 0.5
        assert "still running" in worker.ask(2)["failure"]
        worker.patience_s = 20
        assert "--max_seconds is 5" in worker.ask(3)["failure"]
        assert "failure" not in worker.ask(0)
    finally:
        worker.stop()


def test_an_exception_and_a_spike_of_memory_are_failures_with_a_way_to_repeat_them(
    monkeypatch, tmp_path, capsys
):
    def broken(kind, made, scratch):
        raise IndexError("deep inside")

    monkeypatch.setattr(fuzz_records, "judge", broken)
    result = fuzz_records.run_case(0, 5, 512.0)
    assert "IndexError: deep inside" in result["failure"]
    counts = fuzz_records.summarise([result], 0, str(tmp_path))
    assert counts["failures"] == 1 and counts["failed"] == [5]
    assert (
        "--seed=0 --only=5" in capsys.readouterr().out
        and (tmp_path / "seed0-case5" / "case.json").exists()
    )
    monkeypatch.setattr(fuzz_records, "judge", lambda *_: [str(np.ones(40_000_000).sum())])
    assert "MB more, --max_mb is 200" in fuzz_records.run_case(0, 5, 200.0)["failure"]


@pytest.mark.parametrize(
    "text", ["", "two\nlines", "\x1b[2J", "x" * 2000, "Traceback (most recent call last)"]
)
def test_what_is_no_sentence_is_a_failure(text):
    with pytest.raises(judge.Broken):
        judge.sentence(ValueError(text))
