"""Several real processes on this machine (gloo collectives): the same run as one, elastic restarts,
and ends in company.

The toy method and the real command, pipeline and checkpoints. Every process writes which records it
read at which step.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dig_jax import hosts
from dig_jax.data import pipeline
from dig_jax.train import run as train
from dig_jax.workdir import checkpoint
from tests import toy
from tests.toy import make_config, rows_of

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("toys")]

SCRIPT = """
import contextlib, json, os, sys, time, types, jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(os.environ["DEVICES"]))
from tests import toy
sys.modules["dig_jax.methods.toy"] = types.SimpleNamespace(Method=toy.Toy)
from dig_jax import main, hosts
from dig_jax.train import progress
if "STOP" in os.environ:
    hosts.stop_requested = lambda count, local: count == int(os.environ["STOP"])
if "STALE" in os.environ and os.environ["DIG_PROCESS_INDEX"] == "1":  # an old view of a folder
    from dig_jax.workdir import checkpoint
    steps, calls = checkpoint.steps, []
    def stale(workdir):
        calls.append(workdir)
        return steps(workdir)[:-1] if len(calls) <= int(os.environ["STALE"]) else steps(workdir)
    checkpoint.steps = stale
seen = open(os.environ["SEEN"], "a")
add = progress.Log.add
if "STUCK" in os.environ and os.environ["DIG_PROCESS_INDEX"] == "1":  # on a disk that hangs
    from dig_jax.data import pipeline
    iterate = pipeline.iterate
    def waits_for_ever():
        time.sleep(1000)
    @contextlib.contextmanager
    def slow(*given):
        with iterate(*given) as batches:
            def read():
                for step, batch in enumerate(batches, 1):
                    if step == int(os.environ["STUCK"]):
                        waits_for_ever()
                    yield batch
            yield read()
    pipeline.iterate = slow
def spy(self, step, values, host):
    seen.write(json.dumps([step, host["index"].tolist()]) + "\\n")
    seen.flush()
    add(self, step, values, host)
progress.Log.add = spy
main.cli()
"""


class Job:
    """`count` processes with `devices` devices each that run the real command in folder/run."""

    python = sys.executable

    def __init__(self, folder, spec, steps, count, devices, *flags, **environment):
        (folder / "config.py").write_text(
            f"from tests import toy\ndef get_config(steps):\n    return toy.make_config({spec!r}, "
            "int(steps))\n"
        )
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        command = [
            Job.python,
            "-c",
            SCRIPT,
            f"--config={folder / 'config.py'}:{steps}",
            f"--workdir={folder / 'run'}",
        ]
        shared = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_COORDINATOR_ADDRESS": address,
            "DEVICES": str(devices),
        }
        shared |= {"DIG_PROCESS_COUNT": str(count), **environment}
        self.logs = [folder / f"seen-{time.monotonic_ns()}-{i}.jsonl" for i in range(count)]
        self.words = [folder / f"said-{time.monotonic_ns()}-{i}.txt" for i in range(count)]
        self.processes = [
            subprocess.Popen(
                [*command, *flags],
                env={**shared, "SEEN": str(self.logs[i]), "DIG_PROCESS_INDEX": str(i)},
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=open(self.words[i], "w"),
            )
            for i in range(count)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self, seconds=240):
        """Exit codes of all."""
        return [process.wait(seconds) for process in self.processes]

    def said(self, index):
        return self.words[index].read_text()

    def until(self, step, seconds=240):
        """Waits until process 0 has come to this step."""
        end = time.monotonic() + seconds
        while not self.logs[0].exists() or len(self.logs[0].read_text().splitlines()) < step:
            assert time.monotonic() < end and self.processes[0].poll() is None, self.said(0)
            time.sleep(0.05)

    def until_said(self, words, seconds=240):
        """Waits until process 0 has said so."""
        end = time.monotonic() + seconds
        while words not in self.said(0):
            assert time.monotonic() < end and self.processes[0].poll() is None, self.said(0)
            time.sleep(0.01)

    def read(self):
        """{step: [record numbers of each process]}."""
        steps: dict[int, list] = {}
        for log in self.logs:
            for line in log.read_text().splitlines():
                step, index = json.loads(line)
                steps.setdefault(step, []).append(index)
        return steps


@pytest.fixture(scope="module", autouse=True)
def forked(python):
    Job.python = python


def run_here(monkeypatch, config, workdir, stop=None):
    """The run in this process on its eight devices, up to step `stop`: (state, {step: record
    numbers}).
    """
    seen: dict[int, list] = {}
    add = pipeline.ErrorBudget.add
    start = (checkpoint.steps(str(workdir)) or [0])[-1]
    with monkeypatch.context() as patch:
        patch.setattr(
            pipeline.ErrorBudget,
            "add",
            lambda self, host: (
                seen.update({start + len(seen) + 1: host["index"].tolist()}),
                add(self, host),
            ),
        )
        if stop is None:
            return train.run(config, str(workdir)), seen
        patch.setattr(train.hosts, "stop_requested", lambda count, local: count == stop)
        with pytest.raises(SystemExit):
            train.run(config, str(workdir))
        return None, seen


def close(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def figures(workdir):
    names = (
        "step",
        "train/loss",
        "train/grad_norm",
        "train/features",
        "train/lr",
        "train/bad_records",
    )
    return [[row[name] for name in names] for row in rows_of(workdir)]


def test_a_run_goes_on_with_other_meshes_and_process_counts(lines, tmp_path, monkeypatch):
    """2 steps on 8 devices of one process, 2 on two processes of two devices, 2 on four of one
    device whose rows are shared by pairs, 2 on one device: records, figures and state of an
    undisturbed run."""
    whole, order = run_here(monkeypatch, make_config(lines, 8), tmp_path / "whole")
    run = tmp_path / "run"
    _, seen = run_here(
        monkeypatch, make_config(lines, 8, **{"mesh.data": 1, "mesh.fsdp": -1}), run, stop=2
    )
    assert seen == {step: order[step] for step in (1, 2)}
    # total is not what the schedule may see change
    with Job(tmp_path, lines, 8, 2, 2, "--config.mesh.fsdp=2", STOP="2") as job:
        assert job.wait() == [143, 143], job.said(0) + job.said(1)
        two = job.read()
    assert {step: sum(parts, []) for step, parts in two.items()} == {
        step: order[step] for step in (3, 4)
    }
    assert all(
        len(part) == 4 for parts in two.values() for part in parts
    )  # its own rows and no others
    assert "2 hosts" in job.said(0) and job.said(1).count("\n") <= 2  # one log, one progress line
    with Job(tmp_path, lines, 8, 4, 1, "--config.mesh.tensor=2", STOP="2") as job:
        assert job.wait() == [143] * 4, job.said(0)
        four = job.read()
    for step, parts in four.items():
        assert parts[0] == parts[1] and parts[2] == parts[3] and parts[0] + parts[2] == order[step]
    assert checkpoint.steps(str(run)) == [6]
    last, seen = run_here(monkeypatch, make_config(lines, 8, **{"mesh.data": 1}), run)
    assert seen == {step: order[step] for step in (7, 8)}
    np.testing.assert_allclose(figures(run), figures(tmp_path / "whole"), rtol=1e-5, atol=1e-7)
    close(last, whole)


def test_sigterm_to_one_saves_on_all_at_the_same_step_and_a_dead_host_ends_the_other(
    lines, tmp_path
):
    times = {"DIG_HOST_TIMEOUT_S": "10"}
    with Job(tmp_path, lines, 1000000, 2, 1, **times) as job:
        job.until(5)
        job.processes[1].send_signal(signal.SIGTERM)
        assert job.wait() == [143, 143], job.said(0) + job.said(1)
        last = [len(log.read_text().splitlines()) for log in job.logs]
    (step,) = checkpoint.steps(str(tmp_path / "run"))
    assert (
        last == [step, step] and f"saved step {step}" in job.said(0) and "error" not in job.said(0)
    )
    with Job(
        tmp_path, lines, 1000000, 2, 1, **times
    ) as job:  # before the first step of a resumed run
        job.until_said(f"starting at {step}")
        job.processes[1].send_signal(signal.SIGTERM)
        assert job.wait() == [143, 143], job.said(0) + job.said(1)
    (step,) = checkpoint.steps(str(tmp_path / "run"))
    for dead in (1, 0):
        with Job(tmp_path, lines, 1000000, 2, 1, **times) as job:
            job.until(3)
            start = time.monotonic()
            job.processes[dead].kill()
            code = job.processes[1 - dead].wait(120)
            assert time.monotonic() - start < 60  # the bound is 10 s; the rest is a busy machine
            assert code not in (0, 143, None)
            end_of(job, 1 - dead)
        assert checkpoint.steps(str(tmp_path / "run")) == [step]
    state = checkpoint.load_subtree(str(tmp_path / "run"), "params", toy_params())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_local_sh_starts_a_real_pair_again_after_a_preemption_and_a_killed_worker(
    lines, tmp_path, monkeypatch
):
    """The launcher, two processes, the real command: one is asked to stop, later one is killed;
    figures and state of an undisturbed run."""
    (tmp_path / "config.py").write_text(
        "from tests import toy\ndef get_config():\n"
        f"    return toy.make_config({lines!r}, 60, **{{'checkpoint.every_steps': 10}})\n"
    )
    python = tmp_path / "python"  # called as python -m dig_jax.main FLAGS
    python.write_text(
        f"#!/bin/sh\nshift 2\necho $$ >> {tmp_path}/pids-$DIG_PROCESS_INDEX\n"
        f'SEEN={tmp_path}/seen-$DIG_PROCESS_INDEX exec {Job.python} -c "$SCRIPT" "$@"\n'
    )
    python.chmod(0o755)
    slow = "import time\n" + SCRIPT.replace(
        "    seen.flush()", "    seen.flush(); time.sleep(0.05)"
    )
    own = {
        "PYTHON": str(python),
        "SCRIPT": slow,
        "DEVICES": "1",
        "QUICK_S": "0",
        "DIG_HOST_TIMEOUT_S": "10",
    }
    flags = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    command = [ROOT / "launch/local.sh", "--processes=2", *flags]
    with open(tmp_path / "said", "w") as said:
        launcher = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), **own},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )

    def until(attempt, step):
        """Waits until this attempt has come to this step; the processes' numbers."""
        pids, seen = tmp_path / "pids-1", tmp_path / "seen-1"
        end = time.monotonic() + 120
        while True:
            assert time.monotonic() < end and launcher.poll() is None, (
                tmp_path / "said"
            ).read_text()
            began = len(pids.read_text().splitlines()) == attempt if pids.exists() else False
            steps = (
                [json.loads(line)[0] for line in seen.read_text().splitlines()]
                if seen.exists()
                else []
            )
            if began and steps and steps[-1] >= step:
                return [int((tmp_path / f"pids-{i}").read_text().split()[-1]) for i in range(2)]
            time.sleep(0.05)

    try:
        os.kill(until(1, 5)[1], signal.SIGTERM)
        os.kill(until(2, 25)[0], signal.SIGKILL)
        assert launcher.wait(240) == 0, (tmp_path / "said").read_text()
    finally:
        launcher.kill()
    told = (tmp_path / "said").read_text()
    assert "local.sh: exit code 143" in told and "local.sh: exit code 137" in told
    whole, _ = run_here(
        monkeypatch, make_config(lines, 60, **{"checkpoint.every_steps": 10}), tmp_path / "whole"
    )
    np.testing.assert_allclose(
        figures(tmp_path / "run"), figures(tmp_path / "whole"), rtol=1e-4, atol=1e-6
    )
    last = checkpoint.load_subtree(str(tmp_path / "run"), "params", toy_params())
    for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_host_that_never_comes_ends_the_others(lines, tmp_path):
    times = {"DIG_START_TIMEOUT_S": "3", "DIG_PROCESS_COUNT": "2"}
    with Job(tmp_path, lines, 4, 1, 1, **times) as job:
        assert job.wait(120)[0] not in (0, 143)
        end_of(job, 0)


def test_a_host_that_is_alive_but_stuck_ends_the_job_and_is_named(lines, tmp_path):
    """Its heartbeat goes on, so JAX sees nothing; without the watch both would wait for ever."""
    with Job(tmp_path, lines, 40, 2, 1, STUCK="3", DIG_STUCK_S="15") as job:
        assert 0 not in job.wait()
        assert re.search(r"stuck: host 1 \(\S+\) since it reads step 3\.", job.said(1))
        assert "in waits_for_ever" in job.said(1)
        assert "host 0 (" not in job.said(1)


def test_a_host_that_is_stopped_ends_the_others_and_is_named(lines, tmp_path, monkeypatch):
    """As a paused virtual machine: it says nothing any more, and its connections stay open."""
    monkeypatch.setattr(Job, "python", sys.executable)  # a fork's parent would be stopped alone
    with Job(tmp_path, lines, 4000, 2, 1, DIG_STUCK_S="15") as job:
        job.until(3)
        job.processes[1].send_signal(signal.SIGSTOP)
        assert job.processes[0].wait(240) not in (0, None)
        assert re.search(
            r"stuck: host 1 \(\S+\), which says nothing any more, since it", job.said(0)
        )


def end_of(job, index):
    """It said what happened and what to do: itself, or the shell where JAX aborted it first, or
    both.
    """
    time.sleep(0.5)  # the shell that speaks last
    sentences = re.findall(r"^error: .*$", job.said(index), re.M)
    assert 1 <= len(sentences) <= 2
    assert all(
        "another host" in said and "run the same command on all hosts again" in said.lower()
        for said in sentences
    )
    assert "Traceback" not in job.said(index)


def toy_params():
    made = toy.Toy().init(jax.random.key(0), None)["params"]
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), made)


def test_hosts_go_on_from_the_step_that_the_lead_sees(lines, tmp_path):
    """Process 1 lists the folder without its last step for a while, as NFS may."""
    kept = {"checkpoint.every_steps": 2, "checkpoint.keep_last": 2}
    train.run(make_config(lines, 4, **kept), str(tmp_path / "run"))
    assert checkpoint.steps(str(tmp_path / "run")) == [2, 4]
    with Job(tmp_path, lines, 6, 2, 1, STALE="4") as job:
        assert job.wait() == [0, 0], job.said(0) + job.said(1)
        assert sorted(job.read()) == [5, 6] and all(
            len(parts) == 2 for parts in job.read().values()
        )
    assert checkpoint.steps(str(tmp_path / "run"))[-1] == 6


def test_a_bad_step_names_the_records_of_all_hosts(lines, tmp_path):
    with Job(tmp_path, lines, 6, 2, 1, "--config.method.nan_at=1") as job:
        assert job.wait() == [1, 1], job.said(0) + job.said(1)
    named = (tmp_path / "run" / "bad_step_2.txt").read_text().splitlines()
    assert len(named) == 8 == len(set(named)) and "and 4 more" in job.said(0)


def test_one_process_stays_alone_in_a_cluster(monkeypatch):
    """A pod with the kubernetes client: JAX would look for the other pods of a job."""
    monkeypatch.setenv("DIG_PROCESS_COUNT", "1")
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("looked for others"))
    hosts.initialize()
