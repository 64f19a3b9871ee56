"""bench_attention: a figure for every form and length, by the program's own table."""

import jax
import pytest

from dig_jax.tools.perf import bench_attention, compilers


@pytest.mark.slow
def test_forms_are_measured_and_blocks_hold_less():
    given = dict(lines=1, size="nano", depth=1, dtype="float32", device=jax.devices("cpu")[0])
    figures = bench_attention.measure(["plain", "blocks"], 1024, seconds=0.01, **given)
    plain, blocks = figures.values()
    assert blocks["temporary"] < plain["temporary"] / 2 and min(plain["ms"], blocks["ms"]) > 0
    assert bench_attention.row(1024, figures).count(" ms") == 2


def test_what_is_refused_says_what_it_would_need(monkeypatch):
    said = compilers.refused("Used 59.42G of 15.75G hbm")
    monkeypatch.setattr(bench_attention, "compiled", lambda *_: (said, None))
    figures = bench_attention.measure(["xla"], 8, 1, "nano", 1, "bfloat16", None, 0.0)
    assert bench_attention.row(8, figures).split() == ["8", "refused,", "63.8", "GB"]
