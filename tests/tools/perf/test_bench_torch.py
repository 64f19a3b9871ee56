"""bench_torch: says how to install what it lacks; where PyTorch is installed, the two networks
agree.
"""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from dig_jax.configs.pretrain import dig, mae
from dig_jax.tools.perf import bench_torch

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.slow
def test_a_missing_extra_is_a_sentence():
    code = "import sys; sys.modules['torch'] = None; import runpy; sys.argv = ['x']; "
    code += "runpy.run_module('dig_jax.tools.perf.bench_torch', run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith(
        "pip install 'dig_jax[torch]'"
    )


def test_another_network_is_refused():
    with pytest.raises(ValueError, match="config.method.name is 'mae'.*has 'dig'"):
        bench_torch.check(mae.get_config("preset=cpu").to_dict())
    with pytest.raises(ValueError, match="config.method.objective is 'dis'.*has 'gen'"):
        bench_torch.check(dig.get_config("preset=cpu,objective=dis").to_dict())


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["gen", "dig"])
def test_the_networks_agree_and_a_changed_one_is_refused(objective, monkeypatch):
    pytest.importorskip("torch", reason="the extra torch")
    cfg = dig.get_config(f"preset=cpu,objective={objective},quick,dtype=float32").to_dict()
    result = bench_torch.measure(cfg, seconds=0.0)
    np.testing.assert_allclose(result["losses"]["float32"], result["losses"]["torch"], rtol=1e-5)
    assert result["torch"]["speed_cpu"] == 1 and result["jax_float32"]["ms_cpu"] > 0
    monkeypatch.setattr(bench_torch, "_norm", lambda x, weights, name: x * weights[f"{name}/scale"])
    with pytest.raises(ValueError, match="the networks differ"):
        bench_torch.measure(cfg, seconds=0.0)
