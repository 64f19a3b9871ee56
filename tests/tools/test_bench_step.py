"""bench_step: its figures belong together."""

import pytest

from configs.pretrain import dig
from dig_jax.data import records, writer
from dig_jax.data.sources import lines
from dig_jax.tools import bench_step


@pytest.mark.slow
def test_shares_add_up_and_every_figure_is_there(tmp_path):
    options = {"splits": "train=16", "fonts": "bundled", "max_words": 1, "height_px": 32, "workers": 0}
    records.write(tmp_path / "lines", lines.examples(report=writer.Report(), **options))
    config = dig.get_config(f"preset=cpu,records={tmp_path / 'lines'},quick")
    config.devices, config.data.width_px = 1, 64
    figures = bench_step.measure(config.to_dict(), 1.0)
    shares = [figures[f"share_{name}"] for name in ("augment", "encoder", "heads", "rest")]
    assert sum(shares) == pytest.approx(1)
    assert min(shares[:2]) > 0 and figures["gflop_a_step"] > figures["gflop_encoder"] > 0
    assert figures["lines_per_s"] == pytest.approx(8 / figures["ms_a_step"] * 1e3)
    assert figures["matmul_float32_gflops_per_s"] > 0 and figures["temporary_mb"] > 0
