"""Devices and shardings: how a state and a batch lie over a mesh.

A mesh has three named axes, and a config says how many devices lie along each:

    data    rows of the batch; parameters are copied
    fsdp    rows of the batch as well, and every matrix of the state is cut along one dimension
             (ZeRO, arXiv 1910.02054)
    tensor  all rows; the matrices of a block are cut along their other dimension
             (Megatron, arXiv 1909.08053)

Methods do not see any of it. They are written for the global batch, and XLA inserts the gathers and
sums that the shardings of state and batch need. So batch norm, contrast and metrics are over the
global batch on every mesh. RULES says which dimension of which array is cut. Axis types are `Auto`,
stated, because jax.make_mesh defaults to `Explicit`. There the all-gather of a global contrast is a
type error instead of something that XLA inserts.

At rest "fsdp" cuts parameters, teacher and moments. A step first gathers parameters and teacher
(`gather`), and its gradients come out cut again. Left to itself, XLA leaves the matrices where they
are and sends activations of all rows to all devices. Those are far larger than the parameters of
any network here.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dig_jax import trees

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the axes over which a batch is split

# Ordered (regex, axes of the last dimensions): the first regex found (re.search) in the path of an
# array decides, such as "params/encoder/block_0/mlp/fc1/kernel" or
# "opt_state/inner_states/train/inner_state/1/mu/encoder/...". Teacher and moments end like the
# parameters that they mirror, so one rule serves them all. Dimensions in front, such as that of
# stacked blocks or the sides of a convolution, stay whole. "fsdp" must divide its dimension;
# "fsdp?" cuts where it does, and where it does not the dimension stays whole, which `describe`
# reports. () = every device holds all of it. Scalars need no rule.
RULES = (
    (
        r"/(bias|scale|[qv]_bias|mask_token|cls_token|position|mix)$",
        (),
    ),  # vectors and a small table: not worth a gather
    # Written or read as a whole at every step.
    (r"^mutable/(queue|center(/tokens|/windows)?|scale/(mean|std))$", ()),
    (r"/(attn/qkv|mlp/fc1)/kernel$", ("fsdp", "tensor")),
    (r"/(attn/proj|mlp/fc2)/kernel$", ("tensor", "fsdp")),
    (
        r"/(kernel|characters|prototypes|recurrent_\d+|directions)$",
        ("fsdp?", "tensor?"),
    ),  # the rest: heads, embeddings, CNN, LSTM
)
Rules = Sequence[tuple[str, Sequence[str | None]]]


# ---- mesh


def make_mesh(
    sizes: Mapping[str, int] | int | None = None, devices: Sequence[Any] | None = None
) -> Mesh:
    """The mesh of config.mesh: {"data": 4, "fsdp": 2, "tensor": 1}, axis types Auto. An absent axis
    has 1 device; -1, the default of "data", takes what the others leave over; an int is the size of
    "data". devices: default all of the job.

    Devices are laid out in their own order, "data" outermost. Neighbours along "tensor" and "fsdp"
    share a host where they can, and the rows of one host's devices are consecutive. A mesh smaller
    than the job's devices uses the first ones, on one host only. Raises ValueError.
    """
    devices = list(jax.devices() if devices is None else devices)
    given = {"data": sizes} if isinstance(sizes, int) else dict(sizes or {})
    for name, size in given.items():
        if name not in AXES:
            raise ValueError(f"config.mesh has no axis {name!r}: its axes are {', '.join(AXES)}")
        if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
            raise ValueError(
                f"config.mesh.{name} is {size!r}: set it to a number of devices, or to -1 for the "
                "rest of them"
            )
    shape = {"data": -1, "fsdp": 1, "tensor": 1} | given
    said = ", ".join(f"{name}={size}" for name, size in shape.items())
    rest = [name for name, size in shape.items() if size == -1]
    if len(rest) > 1:
        raise ValueError(
            f"config.mesh is {said}, with more than one -1: say how many devices all axes but one "
            "have"
        )
    fixed = math.prod(size for size in shape.values() if size != -1)
    if fixed > len(devices) or (rest and len(devices) % fixed):
        what = (
            f"does not divide {len(devices)} devices"
            if fixed <= len(devices)
            else f"but there are {len(devices)} devices"
        )
        raise ValueError(
            f"config.mesh is {said}, which takes {fixed} devices, {what}: set its axes to divisors "
            "of them"
        )
    if rest:
        shape[rest[0]] = len(devices) // fixed
    count = math.prod(shape.values())
    if count < len(devices) and len({device.process_index for device in devices}) > 1:
        raise ValueError(
            f"config.mesh is {said}, {count} devices, but must use all {len(devices)} of the "
            "hosts: set one axis to -1 (the rest)"
        )
    laid_out = np.asarray(devices[:count], object).reshape([shape[name] for name in AXES])
    mesh = Mesh(laid_out, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    host_shard(mesh)
    return mesh


@dataclasses.dataclass(frozen=True)
class HostShard:
    """What this host reads of the global batch: the run number `index` of `count` equal ones. Hosts
    that share rows, because "tensor" crosses them, read the same part, and `counts` is True on one
    of them."""

    index: int
    count: int
    counts: bool

    def of_data(self) -> dict[str, int]:
        """Keyword arguments of the data sets in `data.pipeline`."""
        return {"process_index": self.index, "process_count": self.count}


def host_shard(mesh: Mesh) -> HostShard:
    """The part of this host. Raises ValueError where hosts would share some of their rows only."""
    blocks = mesh.devices.reshape(
        -1, mesh.shape["tensor"]
    )  # (parts of the batch, devices that hold the same rows)
    rows: dict[int, set[int]] = {}
    for number, block in enumerate(blocks):
        for device in block:
            rows.setdefault(device.process_index, set()).add(number)
    runs = sorted({tuple(sorted(numbers)) for numbers in rows.values()})
    if [number for run in runs for number in run] != list(range(len(blocks))) or len(
        {len(run) for run in runs}
    ) > 1:
        raise ValueError(
            f"config.mesh.tensor={mesh.shape['tensor']} cuts across hosts of "
            f"{mesh.size // len(rows)} devices unevenly: set it to a divisor or a multiple of the "
            "devices of a host"
        )
    mine = jax.process_index()
    if mine not in rows:  # a mesh of other machines, which is compiled for and never run
        return HostShard(0, 1, True)
    run = tuple(sorted(rows[mine]))
    return HostShard(
        runs.index(run),
        len(runs),
        mine == min(p for p, numbers in rows.items() if tuple(sorted(numbers)) == run),
    )


# ---- shardings


def state_sharding(state: Any, mesh: Mesh, rules: Rules = ()) -> Any:
    """The sharding of every leaf of a state (arrays or shapes), by `rules` (config.sharding) and
    then RULES. ValueError names the path of a leaf that no rule covers or whose dimension its axis
    does not divide."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _spec(path, leaf, mesh, rules)[0]), state
    )


def describe(state: Any, mesh: Mesh, rules: Rules = ()) -> str:
    """For the user: the mesh, the bytes of state per device, and the dimensions that a rule would
    cut but that stay whole."""
    shape = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
    hosts = len({device.process_index for device in mesh.devices.flat})
    total = here = 0
    whole: dict[str, list[str]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        spec, uneven = _spec(path, leaf, mesh, rules)
        size = math.prod(leaf.shape) * jax.dtypes.canonicalize_dtype(leaf.dtype).itemsize
        total += size
        here += size // math.prod(mesh.shape[axis] for axis in spec if axis)
        for axis, dimension in uneven:
            whole.setdefault(f"{axis}={mesh.shape[axis]}", []).append(
                f"{trees.path_name(path)} ({dimension})"
            )
    lines = [f"mesh {shape}: {mesh.size} devices, {hosts} host{'s' if hosts > 1 else ''}"]
    lines[0] += f"; state {total / 2**20:.1f} MiB, {here / 2**20:.1f} MiB a device"
    for axis, names in whole.items():
        lines.append(
            f"{len(names)} arrays have a dimension that {axis} does not divide and stay whole "
            f"there: {names[0]}, ..."
        )
    return "\n".join(lines)


def _spec(path: Any, leaf: Any, mesh: Mesh, rules: Rules) -> tuple[P, list[tuple[str, int]]]:
    """(PartitionSpec, [(axis, dimension it would have cut)]) of one leaf."""
    if not leaf.ndim:
        return P(), []
    name = trees.path_name(path)
    axes = next((axes for pattern, axes in (*rules, *RULES) if re.search(pattern, name)), None)
    if axes is None:
        raise ValueError(
            f"no rule says how {name} {leaf.shape} is laid out over the mesh: add one to "
            f"config.sharding, such as (({'^' + re.escape(name) + '$'!r}, ()),) for a copy on "
            "every device"
        )
    if len(axes) > leaf.ndim:
        raise ValueError(
            f"the rule of {name} {leaf.shape} names {len(axes)} dimensions {tuple(axes)}: give it "
            f"at most {leaf.ndim}"
        )
    chosen: list[str | None] = [None] * (leaf.ndim - len(axes))
    uneven = []
    for dimension, wanted in zip(leaf.shape[leaf.ndim - len(axes) :], axes):
        if not isinstance(wanted, str | None):
            raise ValueError(
                f"the rule of {name} has {wanted!r} for an axis: write one of "
                f"{', '.join(mesh.shape)}, or None"
            )
        axis = wanted.rstrip("?") if wanted else None
        if axis and axis not in mesh.shape:
            raise ValueError(
                f"the rule of {name} names the axis {axis!r}: the mesh has {', '.join(mesh.shape)}"
            )
        if axis and dimension % mesh.shape[axis]:
            if not wanted.endswith("?"):
                raise ValueError(
                    f"{name} {leaf.shape} cannot be cut: {dimension} does not divide by "
                    f"config.mesh.{axis}={mesh.shape[axis]}. Set it to a divisor of {dimension}, "
                    f"or give the rule {axis + '?'!r} to leave it whole"
                )
            uneven.append((axis, dimension))
            axis = None
        chosen.append(axis)
    return P(*chosen), uneven


def gather(tree: Any, shardings: Any) -> Any:
    """The tree put together along "fsdp", inside of jit or outside; `shardings` are those that it
    has at rest.
    """

    def along(sharding: NamedSharding) -> NamedSharding:
        return NamedSharding(
            sharding.mesh, P(*(None if axis == "fsdp" else axis for axis in sharding.spec))
        )

    if jax.tree.leaves(shardings)[0].mesh.shape["fsdp"] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, jax.tree.map(along, shardings))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over "data" and "fsdp" together; the sharding of every leaf of a batch."""
    return NamedSharding(mesh, P(ROWS))


def everywhere(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, P())


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises ValueError where the global batch does not divide over the devices that split it, in
    `accumulate` parts.
    """
    if accumulate < 1:
        raise ValueError(
            f"config.accumulate is {accumulate}: set it to the number of parts of a batch, 1 or "
            "more"
        )
    split = math.prod(mesh.shape[axis] for axis in ROWS)
    unit = split * accumulate
    if batch_size < 1 or batch_size % unit:
        lower, upper = batch_size // unit * unit, (batch_size // unit + 1) * unit
        near = f"{lower} or {upper}" if lower > 0 else f"{upper}"
        parts = f" in {accumulate} parts (config.accumulate)" if accumulate > 1 else ""
        raise ValueError(
            f"batch size {batch_size} does not divide over {split} devices{parts}: set "
            f"config.batch_size to a multiple of {unit}, for instance {near}"
        )


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This host's rows {name: [B_local, ...]} -> global arrays {name: [B, ...]}, split by row,
    parts concatenated.
    """
    count, sharding = host_shard(mesh).count, batch_sharding(mesh)
    check_batch_size(len(next(iter(batch.values()))) * count, mesh)

    def place(rows: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(
            sharding, rows, (len(rows) * count, *rows.shape[1:])
        )

    return {name: place(np.asarray(rows)) for name, rows in batch.items()}
