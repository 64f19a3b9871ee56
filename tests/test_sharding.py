"""Meshes and shardings on eight simulated devices."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from dig_jax import hosts, sharding


def test_mesh_axes_are_auto():
    """With Explicit axes the global contrast below raises a ShardingTypeError."""
    mesh = sharding.make_mesh()
    assert set(mesh.axis_types) == {AxisType.Auto} and dict(mesh.shape) == {
        "data": 8,
        "fsdp": 1,
        "tensor": 1,
    }
    z = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    split = sharding.to_global({"z": z}, mesh)["z"]
    np.testing.assert_allclose(jax.jit(lambda z: z @ z.T)(split), z @ z.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "sizes, shape",
    [
        ({}, (8, 1, 1)),
        ({"data": -1, "fsdp": 2}, (4, 2, 1)),
        ({"tensor": 2, "fsdp": -1, "data": 1}, (1, 4, 2)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
        ({"data": 3, "fsdp": 1, "tensor": 1}, (3, 1, 1)),
    ],
)
def test_mesh_of_named_axes(sizes, shape):
    mesh = sharding.make_mesh(sizes)
    assert mesh.devices.shape == shape and mesh.axis_names == ("data", "fsdp", "tensor")
    assert (
        mesh.devices.flatten().tolist() == jax.devices()[: mesh.size]
    )  # in their own order, data outermost


@pytest.mark.parametrize(
    "sizes, sentence",
    [
        (
            {"data": 9},
            r"config.mesh is data=9, fsdp=1, tensor=1, which takes 9 devices, but there are 8 devices",
        ),
        (
            {"fsdp": 3},
            r"data=-1, fsdp=3, tensor=1, which takes 3 devices, does not divide 8 devices",
        ),
        ({"data": -1, "tensor": -1}, r"more than one -1"),
        ({"fsdp": 0}, r"config.mesh.fsdp is 0: set it to a number of devices"),
        ({"fsdp": -2}, r"config.mesh.fsdp is -2"),
        ({"fsdp": 2.0}, r"config.mesh.fsdp is 2.0"),
        ({"model": 2}, r"no axis 'model': its axes are data, fsdp, tensor"),
    ],
)
def test_impossible_mesh(sizes, sentence):
    with pytest.raises(ValueError, match=sentence):
        sharding.make_mesh(sizes)


class Device:
    """Stands for a device of a host elsewhere."""

    def __init__(self, number, process):
        self.id, self.process_index, self.platform = number, process, "cpu"


@pytest.mark.parametrize(
    "hosts, sizes, parts",
    [
        (4, {}, [(0, 4, True), (1, 4, True), (2, 4, True), (3, 4, True)]),
        (4, {"fsdp": 4, "tensor": 2}, [(0, 4, True), (1, 4, True), (2, 4, True), (3, 4, True)]),
        (4, {"tensor": 4}, [(0, 2, True), (0, 2, False), (1, 2, True), (1, 2, False)]),
        (2, {"tensor": 8}, [(0, 1, True), (0, 1, False)]),
    ],
)
def test_every_host_reads_a_run_of_the_batch(monkeypatch, hosts, sizes, parts):
    devices = [Device(i, i // (8 // hosts)) for i in range(8)]
    mesh = types.SimpleNamespace(
        devices=np.array(devices).reshape(sharding.make_mesh(sizes).devices.shape)
    )
    mesh.shape, mesh.size = sharding.make_mesh(sizes).shape, 8
    found = []
    for host in range(hosts):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        part = sharding.host_shard(mesh)
        found.append((part.index, part.count, part.counts))
    assert found == parts
    assert part.of_data() == {"process_index": parts[-1][0], "process_count": parts[-1][1]}


def test_hosts_that_share_some_rows_are_refused():
    devices = np.array([Device(i, i // 3) for i in range(6)]).reshape(3, 1, 2)
    mesh = types.SimpleNamespace(devices=devices, shape={"data": 3, "fsdp": 1, "tensor": 2}, size=6)
    with pytest.raises(
        ValueError, match="config.mesh.tensor=2 cuts across hosts of 3 devices unevenly"
    ):
        sharding.host_shard(mesh)


def test_rows_are_split_in_order():
    rows = np.arange(32, dtype=np.int32).reshape(16, 2)
    whole = sharding.to_global({"rows": rows}, sharding.make_mesh())["rows"]
    shards = sorted(whole.addressable_shards, key=lambda s: s.index[0].start)
    assert [s.data.shape for s in shards] == [(2, 2)] * 8
    assert np.array_equal(np.concatenate([s.data for s in shards]), rows)
    mixed = sharding.to_global(
        {"rows": rows}, sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    )["rows"]
    assert [s.index[0].start for s in mixed.addressable_shards] == [0, 0, 4, 4, 8, 8, 12, 12]


def test_rows_that_do_not_divide():
    with pytest.raises(ValueError, match="batch size 12 does not divide over 8 devices.*8 or 16"):
        sharding.to_global({"rows": np.zeros((12, 2))}, sharding.make_mesh())
    with pytest.raises(ValueError, match="for instance 8"):
        sharding.check_batch_size(3, sharding.make_mesh())
    sharding.check_batch_size(
        12, sharding.make_mesh({"fsdp": 2, "tensor": 2})
    )  # rows are split over four
    with pytest.raises(
        ValueError, match=r"12 does not divide over 4 devices in 2 parts .*multiple of 8"
    ):
        sharding.check_batch_size(12, sharding.make_mesh({"fsdp": 2, "tensor": 2}), accumulate=2)


# ---- rules


def shapes_of(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


MLP = {"fc1": shapes_of(kernel=(3, 8, 32), bias=(3, 32)), "fc2": shapes_of(kernel=(3, 32, 8))}
BLOCK = {
    "params": {
        "encoder": {"blocks": {"mlp": MLP}},
        "heads": {"classify": shapes_of(kernel=(8, 97), bias=(97,))},
    },
    "step": jax.ShapeDtypeStruct((), jnp.int32),
}


def test_rules_cut_the_last_dimensions():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    made = sharding.state_sharding(BLOCK, mesh)
    mlp = made["params"]["encoder"]["blocks"]["mlp"]
    assert mlp["fc1"]["kernel"].spec == P(None, "fsdp", "tensor") and mlp["fc2"][
        "kernel"
    ].spec == P(None, "tensor", "fsdp")
    assert mlp["fc1"]["bias"].is_fully_replicated and made["step"].is_fully_replicated
    assert made["params"]["heads"]["classify"]["kernel"].spec == P("fsdp", None)  # 97 classes
    said = sharding.describe(BLOCK, mesh)
    assert (
        "1 arrays have a dimension that tensor=2 does not divide" in said
        and "params/heads/classify/kernel (97)" in said
    )
    whole, here = (
        4 * (3 * 32 + 97 + 1 + n)
        for n in (2 * 3 * 8 * 32 + 8 * 97, 2 * 3 * 8 * 32 // 4 + 8 * 97 // 2)
    )
    assert f"state {whole / 2**20:.1f} MiB, {here / 2**20:.1f} MiB a device" in said
    alone = sharding.state_sharding(BLOCK, sharding.make_mesh(4))
    assert all(s.is_fully_replicated and len(s.device_set) == 4 for s in jax.tree.leaves(alone))


def test_what_rules_refuse():
    mesh = sharding.make_mesh({"fsdp": 4, "tensor": 2})
    odd = {"mutable": shapes_of(table=(8, 8)), "params": shapes_of(bias=(3,))}
    with pytest.raises(
        ValueError, match=r"no rule says how mutable/table \(8, 8\).*config.sharding"
    ):
        sharding.state_sharding(odd, mesh)
    cut = sharding.state_sharding(odd, mesh, ((r"^mutable/table$", (None, "fsdp")),))
    assert cut["mutable"]["table"].spec == P(None, "fsdp")
    narrow = {"encoder": {"attn": {"qkv": shapes_of(kernel=(6, 18))}}}
    with pytest.raises(
        ValueError,
        match=r"encoder/attn/qkv/kernel \(6, 18\) cannot be cut: 6 does not divide.*fsdp=4",
    ):
        sharding.state_sharding(narrow, mesh)
    for axes, words in (
        (("rows",), "names the axis 'rows'"),
        (("fsdp", None, None), "names 3 dimensions"),
    ):
        with pytest.raises(ValueError, match=words):
            sharding.state_sharding(odd, mesh, ((r"^mutable/", axes),))


def test_one_host_is_the_lead_and_sums_to_itself():
    assert hosts.is_lead()
    hosts.barrier("nothing to wait for")
    assert hosts.sum_hosts({"a": 2.0, "b": 3}) == {"a": 2.0, "b": 3}
    assert hosts.stop_requested(1, True) and not hosts.stop_requested(1, False)


@pytest.mark.parametrize("counts", [True, False])
def test_rows_that_hosts_share_are_summed_once(monkeypatch, counts):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    stack = lambda tree: jax.tree.map(lambda x: np.stack([x]), tree)  # of one host, as that of all
    monkeypatch.setattr(hosts.multihost_utils, "process_allgather", stack)
    assert hosts.sum_hosts({"n": 3}, counts) == {"n": 3 * counts}
    assert hosts.sum_hosts({"n": 3}) == {"n": 3}


def test_hosts_that_restored_different_steps_end_with_a_sentence(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    other = 4
    gather = lambda number: np.array([number, other])
    monkeypatch.setattr(hosts.multihost_utils, "process_allgather", gather)
    hosts.check_same("the step that a host restored", 4)
    with pytest.raises(ValueError, match=r"step that a host restored differs: \[6, 4\], by host"):
        hosts.check_same("the step that a host restored", 6)


@pytest.mark.parametrize(
    ("count", "index", "address"),
    [
        ("2", None, "host:1"),
        (None, "0", "host:1"),
        ("2", "0", None),
        ("2", "0", "host"),  # no port
        ("2", "0", "host:"),
        ("2", "2", "host:1"),
        ("0", "0", "host:1"),
        ("2", "-1", "host:1"),
        ("two", "0", "host:1"),
        (None, None, "host:1"),  # and no cluster that would say the rest
    ],
)
def test_half_set_environment_is_a_sentence(monkeypatch, count, index, address):
    given = {"DIG_PROCESS_COUNT": count, "DIG_PROCESS_INDEX": index, hosts.ADDRESS: address}
    for name, value in given.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)

    def none_found(*given, **_):
        assert not given, "it was passed on to JAX"
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", none_found)
    monkeypatch.setattr(hosts.atexit, "register", lambda _: None)
    with pytest.raises(ValueError, match="Set all three on every process: DIG_PROCESS_COUNT"):
        hosts.initialize()


def test_a_complete_environment_is_taken(monkeypatch):
    for name, value in (("COUNT", "2"), ("INDEX", "1")):
        monkeypatch.setenv(f"DIG_PROCESS_{name}", value)
    monkeypatch.setenv(hosts.ADDRESS, "[::1]:8476")
    assert hosts._partners() == ("[::1]:8476", 2, 1)


def test_a_timeout_that_is_no_number_is_a_sentence(monkeypatch):
    monkeypatch.setenv("DIG_HOST_TIMEOUT_S", "soon")
    with pytest.raises(
        ValueError, match="DIG_HOST_TIMEOUT_S is 'soon': set it to a whole number of seconds"
    ):
        hosts.initialize()
