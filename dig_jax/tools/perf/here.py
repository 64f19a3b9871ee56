"""What this machine can do at most, and what a step takes on it: `plan --device=here --check`."""

import ctypes
import os
import time

import jax
import jax.numpy as jnp

from dig_jax import sharding
from dig_jax.models import encoders, layers
from dig_jax.tools.perf import bench_step, workload
from dig_jax.tools.perf.devices import Device

COPY_BYTES = 1 << 28


def ceilings(dtype, seconds=3.0, **calls):
    """(the ceilings of this machine's first device, its neighbours taken to share its memory;
    seconds of each of `calls`, timed in turns with them)."""
    product, operations = bench_step.matmul(layers.compute_dtype(dtype))
    box = [jnp.zeros(COPY_BYTES // 4, jnp.float32)]
    add = jax.jit(
        lambda x: x + 1, donate_argnums=0
    )  # in place: fresh pages would cost more than the way through memory

    def copy():
        box[0] = add(box[0])
        return box[0]

    clock = (
        time.process_time
        if jax.default_backend() == "cpu" and len(cores()) == 1
        else time.perf_counter
    )
    times = bench_step.timed({"product": product, "copy": copy, **calls}, seconds, clock)
    stats = jax.local_devices()[0].memory_stats() or {}
    bandwidth = 2 * COPY_BYTES / times["copy"].median / 1e9
    memory = stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    tflops, dtype = (
        operations / times["product"].median / 1e12,
        encoders.best_dtype(*encoders.here()),
    )
    device = Device(tflops, memory / 1e9, bandwidth, bandwidth / 2, 1 << 30, bandwidth / 2, dtype)
    return device, {name: times[name].median for name in calls}


def cores():
    """The cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())


def run(work, compiled):
    """{"step": a call of a workload's compiled step, "bytes": what the process grew by at most
    while it ran}; on Linux."""
    raw = sharding.to_global(workload.fill(work.data.raw), work.mesh)
    box = [jax.jit(work.create, out_shardings=work.shardings)(raw)]
    jax.block_until_ready(box)
    ctypes.CDLL(None).malloc_trim(0)  # what building the state has left over is no part of the step
    before = _resident("VmRSS") - sum(leaf.nbytes for leaf in jax.tree.leaves((box, raw)))
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # from here on the peak counts anew

    def step():
        box[0], figures = compiled(*work.step.args, box[0], raw)
        return figures

    for _ in range(3):
        jax.block_until_ready(step())
    return {"step": step, "bytes": _resident("VmHWM") - before}


def _resident(name):
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))
