"""Meshes and shardings on eight simulated devices, and two real processes."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from dig_jax import partition


def test_mesh_axes_are_auto():
    """With Explicit axes the global contrast below raises a ShardingTypeError."""
    mesh = partition.make_mesh()
    assert mesh.axis_types == (AxisType.Auto,) and mesh.axis_names == ("data",) and mesh.size == 8
    z = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    split = partition.to_global({"z": z}, mesh)["z"]
    np.testing.assert_allclose(jax.jit(lambda z: z @ z.T)(split), z @ z.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [0, 9])
def test_impossible_mesh(count):
    with pytest.raises(ValueError, match=f"config.devices is {count} but there are 8 devices"):
        partition.make_mesh(count)


def test_rows_are_split_in_order():
    rows = np.arange(32, dtype=np.int32).reshape(16, 2)
    whole = partition.to_global({"rows": rows}, partition.make_mesh())["rows"]
    shards = sorted(whole.addressable_shards, key=lambda s: s.index[0].start)
    assert [s.data.shape for s in shards] == [(2, 2)] * 8
    assert np.array_equal(np.concatenate([s.data for s in shards]), rows)


def test_rows_that_do_not_divide():
    with pytest.raises(ValueError, match="batch size 12 does not divide over 8 devices.*8 or 16"):
        partition.to_global({"rows": np.zeros((12, 2))}, partition.make_mesh())
    with pytest.raises(ValueError, match="for instance 8"):
        partition.check_batch_size(3, partition.make_mesh())


def test_state_is_replicated():
    mesh = partition.make_mesh(4)
    shardings = partition.state_sharding({"a": jax.ShapeDtypeStruct((3, 2), jnp.float32)}, mesh)
    assert shardings["a"].is_fully_replicated and len(shardings["a"].device_set) == 4


def test_one_host_is_the_lead_and_sums_to_itself():
    assert partition.is_lead()
    partition.barrier("nothing to wait for")
    assert partition.sum_hosts({"a": 2.0, "b": 3}) == {"a": 2.0, "b": 3}
    assert partition.stop_requested(1, True) and not partition.stop_requested(1, False)


SCRIPT = """
import numpy as np, jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
from jax.experimental import multihost_utils
from dig_jax import partition
partition.initialize()
mesh = partition.make_mesh()
mine = np.arange(4, dtype=np.float32) + 4 * jax.process_index()
whole = partition.to_global({"x": mine}, mesh)["x"]
partition.barrier("here")
print("RESULT", whole.shape[0], float(jax.jit(lambda x: (x * x).sum())(whole)), partition.is_lead(),
      int(partition.sum_hosts({"n": jax.process_index() + 1})["n"]),
      multihost_utils.process_allgather(whole, tiled=True).tolist())
"""


@pytest.mark.slow
def test_two_processes_make_one_global_batch():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    outputs = []
    processes = []
    for index in range(2):
        environment = {
            **os.environ,
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "DIG_PROCESS_COUNT": "2",
            "DIG_PROCESS_INDEX": str(index),
        }
        processes.append(
            subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, text=True)
        )
    for process in processes:
        printed = process.communicate(timeout=120)[0]  # Gloo prints there too
        outputs.append(printed.split("RESULT ")[1].split(maxsplit=4))
        assert process.returncode == 0
    rows = str([float(i) for i in range(8)])
    assert outputs == [["8", "140.0", lead, "3", rows + "\n"] for lead in ("True", "False")]


def test_half_set_environment_is_a_sentence(monkeypatch):
    monkeypatch.setenv("DIG_PROCESS_COUNT", "2")
    monkeypatch.delenv("DIG_PROCESS_INDEX", raising=False)
    with pytest.raises(ValueError, match="DIG_PROCESS_INDEX"):
        partition.initialize()
