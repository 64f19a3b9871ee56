"""bench_reader: says how to install what it lacks; both readers see the same lines."""

import pytest

from dig_jax.configs.recognize import scratch
from dig_jax.tools.perf import bench_reader, bench_torch


def test_a_missing_extra_is_a_sentence(monkeypatch):
    monkeypatch.setattr(bench_torch, "torch", None)
    with pytest.raises(SystemExit, match=r"pip install 'dig_jax\[torch\]'"):
        bench_reader.main(["bench_reader"])


@pytest.mark.parametrize("size, high, wide", [("cnn", 32, 896), ("cnn48", 48, 1344)])
def test_lines_are_as_wide_on_paper(size, high, wide):
    config = scratch.get_config(f"size={size}")
    cfg = bench_reader.config_of(config, 896)
    assert cfg["data"]["buckets_px"] == [wide] and config.data.height_px == high


@pytest.mark.slow
def test_steps_and_readings_of_both_are_timed():
    pytest.importorskip("torch")
    result = bench_reader.measure(scratch.get_config("quick"), width_px=64, seconds=0.0)
    assert result["batch_size"] == 8 and result["step_speed_cpu"] > 0 < result["read_speed_cpu"]
    assert "times the speed of PyTorch" in bench_reader.report(result)
