"""Hosts, devices and shardings: the one file that knows there may be more than one.

Data parallel: parameters and the rest of the state are replicated, the rows of a batch are split over the mesh axis
"data". Axis types are `Auto`, stated, because jax.make_mesh defaults to `Explicit`, under which the all-gather of a
global contrast is a type error instead of something XLA inserts.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def initialize() -> None:
    """Join the other hosts of this job, if there are any. Call once, before anything touches a device.

    Finds TPU pods, SLURM, Open MPI and Kubernetes by itself. Anywhere else set JAX_COORDINATOR_ADDRESS (host:port),
    DIG_PROCESS_COUNT and DIG_PROCESS_INDEX. A lone process stays alone, without opening a port.
    """
    if "DIG_PROCESS_COUNT" in os.environ:
        try:
            count, index = int(os.environ["DIG_PROCESS_COUNT"]), int(os.environ["DIG_PROCESS_INDEX"])
            address = os.environ["JAX_COORDINATOR_ADDRESS"]
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"DIG_PROCESS_COUNT is set, so DIG_PROCESS_INDEX (0..count-1) and JAX_COORDINATOR_ADDRESS (host:port "
                f"of process 0) must be set too; this one is missing or wrong: {error}"
            ) from error
        jax.distributed.initialize(address, count, index)
        return
    try:
        jax.distributed.initialize()
    except ValueError:  # JAX's word for "no cluster found here"
        pass


def make_mesh(shape: int | None = None) -> Mesh:
    """Mesh with the one axis "data" over `shape` devices (None: all of them), axis type Auto."""
    devices = jax.devices()
    count = len(devices) if shape is None else shape
    if not 1 <= count <= len(devices):
        raise ValueError(f"config.devices is {count} but there are {len(devices)} devices: set it to 1..{len(devices)}")
    if count < len(devices) and jax.process_count() > 1:
        raise ValueError("config.devices must be None (all devices) when there is more than one host")
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:count])


def state_sharding(state_shape: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of the state: replicated."""
    return jax.tree.map(lambda _: NamedSharding(mesh, P()), state_shape)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over the devices; the sharding of every leaf of a batch."""
    return NamedSharding(mesh, P("data"))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError where the global batch does not divide over the devices."""
    if batch_size < 1 or batch_size % mesh.size:
        lower, upper = batch_size // mesh.size * mesh.size, (batch_size // mesh.size + 1) * mesh.size
        near = f"{lower} or {upper}" if lower else f"{upper}"
        raise ValueError(
            f"batch size {batch_size} does not divide over {mesh.size} devices: set config.batch_size to a multiple of "
            f"{mesh.size}, for instance {near}"
        )


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This host's rows {name: [B_local, ...]} -> global arrays {name: [B, ...]}, split by row, hosts concatenated."""
    rows = len(next(iter(batch.values()))) * jax.process_count()
    check_batch_size(rows, mesh)
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, np.asarray(rows)) for name, rows in batch.items()}


def is_lead() -> bool:
    """True on the one process that prints and writes files."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every host has arrived at the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def sum_hosts(tree: Any) -> Any:
    """Sum of a tree of Python numbers or numpy arrays over all hosts; the same result everywhere."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda stacked: np.sum(stacked, axis=0), multihost_utils.process_allgather(tree))


def stop_requested(step: int, local_signal: bool) -> bool:
    """True when the job must save and leave after `step`. With several hosts all of them say so at the same step."""
    if jax.process_count() == 1:
        return local_signal
    return multihost_utils.reached_preemption_sync_point(step)
