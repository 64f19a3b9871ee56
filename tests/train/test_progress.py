"""What a run says: a bar on a terminal, lines in a log, and how long it compiled."""

import io
import re
import sys
import types

import jax.numpy as jnp
import pytest

from dig_jax import hosts
from dig_jax.train import experiment, progress
from dig_jax.train.progress import Log

SHAPE, WIDE = (8, 32, 128, 1), (8, 32, 256, 1)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def said(monkeypatch, stream):
    """What six steps of two widths say on this stream, and the rows that were written."""
    monkeypatch.setattr(sys, "stderr", stream)
    rows = []
    writer = types.SimpleNamespace(write=lambda step, values: rows.append((step, values)))
    log = Log(
        **{"start": 0, "total": 6, "batch_size": 8, "every_steps": 2},
        **{"mixture": None, "writer": writer, "checkpoints": None},
    )
    for step in range(1, 7):
        with log.compiling(WIDE if step == 4 else SHAPE):
            values = {"loss": jnp.float32(step), "lr": jnp.float32(0.5), "finite": True}
        log.add(step, values, {"index": [], "errors": []})
    log.flush()
    hosts.report("a word between")
    log.close()
    return stream.getvalue(), rows


def test_a_log_has_a_line_a_log_step_and_says_what_compiles(monkeypatch):
    text, rows = said(monkeypatch, io.StringIO())
    assert [(step, values["train/loss"]) for step, values in rows] == [(2, 1.5), (4, 3.5), (6, 5.5)]
    lines = text.splitlines()
    assert "\r" not in text and [line.split()[0] for line in lines if "loss" in line] == [
        *("2/6", "4/6", "6/6")
    ]
    assert lines[0] == "compiling the training step for 8 images of 32 x 128 px"
    assert re.fullmatch(r"compiled for 8 images of 32 x 128 px in \d+\.\d s", lines[1])
    assert text.count("compiled for") == 2 and "32 x 256 px in" in text


def test_a_terminal_has_a_bar_and_one_last_line(monkeypatch):
    text, rows = said(monkeypatch, Terminal())
    assert len(rows) == 3 and "6/6" in text and "steps" in text and "loss 5.5000" in text
    assert "2/6  loss" not in text and "6/6  loss 5.5000" in text  # the last one as a line
    assert re.search(r"(^|[\r\n])a word between\n", text)  # not at the end of the bar


@pytest.mark.parametrize("unlabelled, words", [(0, ""), (7, " (7 without a label are left out)")])
def test_the_data_are_told_in_one_line(unlabelled, words):
    summary = {"records": 3358, "unlabelled": unlabelled, "padding": 0.152}
    assert experiment.in_words(summary | {"buckets": {1044: 5, 1260: 3}}) == (
        f"training data: 3,358 lines{words} in batches 1044 to 1260 px wide, 15 % padding"
    )
    assert "in batches 64 px wide" in experiment.in_words(summary | {"buckets": {64: 8}})


def test_the_bar_does_not_count_compilation_as_steps(monkeypatch):
    """An hour of compilation is no part of the time that the bar expects."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", Terminal())
    writer = types.SimpleNamespace(write=lambda step, values: None)
    numbers = {"start": 0, "total": 6, "batch_size": 8, "every_steps": 2}
    log = Log(**numbers, mixture=None, writer=writer, checkpoints=None)
    begun = log.bar.start_t
    with log.compiling(SHAPE):
        now[0] += 3600.0
    assert log.bar.start_t == begun + 3600.0
    log.close()
