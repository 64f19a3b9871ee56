"""Watch: a stuck process ends with a sentence and its stack, a stopped one goes on."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from dig_jax import hosts
from dig_jax.train import watch

ROOT = pathlib.Path(__file__).parents[2]

SCRIPT = """
import sys, time
from dig_jax.train.watch import Watch

def waits_for_ever():
    time.sleep(60)

with Watch({limit}) as watch:
    for step in range({steps}):
        watch.beat(f"reads step {{step}}")
        time.sleep(0.05)
        print(step, flush=True)
    {then}
print("well")
"""


def start(limit, steps, then="pass"):
    text = SCRIPT.format(limit=limit, steps=steps, then=then)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", text]
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def test_a_stuck_process_says_where_it_is_and_ends():
    process = start(1, 3, "waits_for_ever()")
    out, said = process.communicate(timeout=60)
    assert process.returncode == hosts.LOST and "well" not in out
    assert "no step ended for 1 s; stuck: host 0 (" in said and "since it reads step 2." in said
    assert "in waits_for_ever" in said


@pytest.mark.slow
def test_a_process_that_was_stopped_goes_on():
    process = start(1, 30)
    while process.stdout.readline() != "3\n":
        pass
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    process.send_signal(signal.SIGCONT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0 and out.endswith("well\n") and "stuck" not in said


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_host_that_goes_on_at_the_last_moment_is_left_alone(goes_on, monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(watch.hosts, "end_now", lambda: ended.append(True))
    slow = watch.Watch(0.5)
    slow.beat("reads step 7")
    wait = lambda seconds: slow.beat("computes step 7") if goes_on else None
    monkeypatch.setattr(slow._done, "wait", wait)
    slow._end()
    assert ended == [] if goes_on else ended == [True]
    assert ("since it reads step 7." in capsys.readouterr().err) is not goes_on


@pytest.mark.parametrize("silent", [True, False])
def test_who_says_nothing_is_named_before_who_is_behind(silent, monkeypatch, capsys):
    """Host 1 has come further than this one, which waits for it, and was stopped there."""
    told = {0: "", 1: "5 9 b computes step 4", 2: "5 8 c computes step 4"}
    slow = watch.Watch(0.5)
    slow.beat("computes step 4")
    monkeypatch.setattr(slow._done, "wait", lambda seconds: None)
    monkeypatch.setattr(watch.hosts, "end_now", lambda: None)
    monkeypatch.setattr(watch.hosts, "published", lambda: dict(told))

    def publish(text):
        told[0] = text
        others = (2,) if silent else (1, 2)
        told.update({i: f"{slow._ticks + 9} {told[i].split(' ', 1)[1]}" for i in others})

    monkeypatch.setattr(watch.hosts, "publish", publish)
    slow._end()
    said = capsys.readouterr().err
    assert ("host 1 (b), which says nothing any more, since it computes" in said) is silent
    assert ("host 0 (" in said) is not silent and "host 2" not in said


def test_zero_seconds_is_off(monkeypatch):
    monkeypatch.setenv("DIG_STUCK_S", "0")
    with watch.Watch(watch.limit()) as off:
        off.beat("waits")
        assert not off._thread.is_alive()
    monkeypatch.setenv("DIG_STUCK_S", "soon")
    with pytest.raises(ValueError, match="DIG_STUCK_S is 'soon'"):
        watch.limit()
