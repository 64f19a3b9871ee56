"""Says before any machine is rented what a step of a config needs on a mesh of devices, and whether
it fits.

    python -m dig_jax.tools.perf.plan --config=dig:preset=lines,size=B --mesh=data=64,fsdp=4 \\
      --device=v5e
    python -m dig_jax.tools.perf.plan --config=dig:preset=cpu --device=here [--check]

The training step is compiled ahead of time for as many simulated CPU devices, with the trainer's
own shardings. No array is allocated and no record is read. A table follows, and one JSON object as
the last line.

    memory      of one device. State and batch are exact. Temporary buffers (activations, gradients)
                are the CPU compiler's: it writes attention out, so what a kernel that never stores
                the N x N weights saves stands beside it, and it keeps what remat would compute
                again unless the blocks are scanned, so with remat they are.
    operations  of matrix products: what the model needs, by its shapes, and what the compiled
                program of a device does.
    collectives bytes that a device sends, by kind, ring algorithms assumed; loops count their turns
                (hlo.py).
    time        the roofline: operations, memory traffic and sent bytes, each over the device's peak
                (devices.py). The largest binds. A step takes at least that, and about the sum of
                the three if nothing overlaps; kernels that do not reach their peak come on top.
                --device=here measures this machine's ceilings instead.

--check (with --device=here, on one device) then runs the step and says how far off the plan was.
Pinned to one core it measures CPU time instead of wall time.
"""

import ctypes
import dataclasses
import json
import math
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from dig_jax import sharding
from dig_jax.models import encoders, layers
from dig_jax.tools import program
from dig_jax.tools.perf import bench_step, hlo, workload
from dig_jax.tools.perf.devices import DEVICES, Device
from dig_jax.train import command_line

FLAGS = flags.FLAGS
RESERVE = 0.1  # of the memory: the runtime's own, and gaps between buffers
COPY_BYTES = 1 << 28
STATE = ("params", "teacher", "opt_state", "mutable")  # what of the state takes room


def parse_mesh(text):
    """ "data=64,fsdp=4" -> {"data": 64, "fsdp": 4}; ValueError for anything else. How many devices:
    the product.
    """
    sizes = {}
    for item in filter(None, text.split(",")):
        name, _, size = item.partition("=")
        if not size.isdecimal() or int(size) < 1 or name in sizes:
            raise ValueError(
                f"--mesh={text}: write each axis once with a number of devices, such as "
                "data=64,fsdp=4"
            )
        sizes[name] = int(size)
    return sizes or {"data": 1}


def measure_here(dtype, seconds=3.0, **calls):
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


def make(cfg, sizes, device, check=False):
    """The figures as a dict (see the module). cfg: expanded config; sizes: {axis: devices}; device:
    a Device, or None for this machine's.

    ValueError for a mesh or config that contradicts itself. There must be as many CPU devices
    (jax_num_cpu_devices).
    """
    cfg = {**cfg, "mesh": sizes}
    encoder = cfg["method"].get("encoder") or {}
    # A CPU compiles no other attention, and XLA's CPU compiler computes nothing again in blocks
    # that stand side by side.
    how = {"attention": "plain"} | ({"scan": True} if encoder.get("remat") else {})
    if device and encoder.get("dtype", "auto") == "auto":
        how["dtype"] = device.dtype
    work = workload.open_workload(cfg, how, devices=jax.devices("cpu"))
    cfg, mesh, dtype = work.config, work.mesh, work.method.encoder.dtype
    state, shardings = work.abstract, work.shardings
    start = time.perf_counter()
    compiled = work.step.lower(state, work.data.raw).compile()
    compile_s = time.perf_counter() - start
    checked = run(work, compiled, shardings, mesh) if check else {}
    if device is None:
        device, seconds = measure_here(dtype, **({"step": checked.pop("step")} if check else {}))
        checked |= {f"ms_{name}": 1e3 * value for name, value in seconds.items()}
    summary, memory = hlo.summarize(compiled.as_text()), compiled.memory_analysis()
    held = {part: _held(getattr(state, part), getattr(shardings, part)) for part in STATE}
    held["batch"] = _held(
        work.data.raw, jax.tree.map(lambda _: sharding.batch_sharding(mesh), work.data.raw)
    )
    # Results that take no argument's place stand beside the temporary buffers.
    held["temporary"] = memory.temp_size_in_bytes + max(
        memory.output_size_in_bytes - memory.alias_size_in_bytes, 0
    )
    seconds, total, needed = (
        roofline(summary, device),
        sum(held.values()),
        workload.model_flops(work.config)[0],
    )
    figures = {
        "config": cfg["method"]["name"],
        "batch_size": cfg["batch_size"],
        "image_px": list(work.data.raw["image"].shape[1:3]),
        "mesh": {name: int(size) for name, size in mesh.shape.items()},
        "devices": mesh.size,
        "device": dataclasses.asdict(device),
        "dtype": layers.compute_dtype(dtype).name,
        "compile_s": compile_s,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "bytes": held | {"total": total, "attention_weights": _attention_bytes(work, state, mesh)},
        "memory_bytes": device.memory_gb * 1e9,
        "fits": total <= device.memory_gb * 1e9 * (1 - RESERVE),
        "gflop_analytical": needed / 1e9,
        "gflop_a_device": summary.flops / 1e9,
        "gflop_compiler_a_device": (compiled.cost_analysis() or {}).get("flops", 0.0) / 1e9,
        "traffic_bytes": summary.traffic,
        "collectives": {
            kind: {"arrays": n, "bytes": sent}
            for kind, (n, sent) in hlo.by_kind(summary.collectives).items()
        },
        "loops_of_unknown_length": summary.loops_of_unknown_length,
        "ms": {name: 1e3 * value for name, value in seconds.items()},
        "binds": max(seconds, key=seconds.get),
        "lines_per_s_at_most": cfg["batch_size"] / max(seconds.values()),
        "lines_per_s": cfg["batch_size"] / sum(seconds.values()),
        "mfu": needed / mesh.size / sum(seconds.values()) / (device.tflops * 1e12),
    }
    if check:
        checked["time_over_plan"] = checked["ms_step"] / sum(figures["ms"].values())
        checked["memory_over_plan"] = checked["bytes"] / total
        figures["checked"] = checked
    figures["try"] = advice(figures, cfg, accumulates=work.method.loss_is_mean)
    return figures


def run(work, compiled, shardings, mesh):
    """{"step": a call of the compiled step, "bytes": what the process grew by at most while it
    ran}; on Linux.
    """
    raw = sharding.to_global(workload.fill(work.data.raw), mesh)
    box = [jax.jit(work.create, out_shardings=shardings)(raw)]
    jax.block_until_ready(box)
    ctypes.CDLL(None).malloc_trim(0)  # what building the state has left over is no part of the step
    before = _resident("VmRSS") - sum(leaf.nbytes for leaf in jax.tree.leaves((box, raw)))
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # from here on the peak counts anew

    def step():
        box[0], figures = compiled(box[0], raw)
        return figures

    for _ in range(3):
        jax.block_until_ready(step())
    return {"step": step, "bytes": _resident("VmHWM") - before}


def _resident(name):
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


def _held(tree, shardings):
    """Bytes of one device."""
    sizes = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings
    )
    return sum(jax.tree.leaves(sizes))


def _attention_bytes(work, state, mesh):
    """Bytes of the encoder's N x N attention weights for a device's rows, all views and blocks, in
    float32. A kernel that never stores them saves about this much. 0 for an encoder without
    attention."""
    encoder = work.method.encoder
    if not hasattr(encoder, "heads"):
        return 0
    tokens = jax.eval_shape(work.method.encode, state.params, work.data.raw)["tokens"].shape[1]
    views = (
        sum(name.startswith("view") for name in jax.eval_shape(work.augment, work.data.raw)) or 1
    )
    return 4 * encoder.depth * encoder.heads * tokens**2 * views * work.batch_size // mesh.size


def roofline(summary, device):
    """{"compute", "memory", "network"}: seconds of a step, each by itself, at the device's
    peaks.
    """
    links = [
        c.sent / (device.link_gb_s if _near(c.group, device.node) else device.network_gb_s)
        for c in summary.collectives
    ]
    return {
        "compute": summary.flops / (device.tflops * 1e12),
        "memory": summary.traffic / (device.memory_gb_s * 1e9),
        "network": sum(links) / 1e9,
    }


def _near(group, node):
    """Whether all devices of a group are linked directly: they lie in one run of `node` devices."""
    return len({member // node for member in group}) <= 1


def advice(figures, cfg, accumulates=False):
    """What to change where it does not fit, the gentlest first; [] where it fits. Sizes are
    proportions, not compilations.
    """
    if figures["fits"]:
        return []
    held, room = figures["bytes"], figures["memory_bytes"] * (1 - RESERVE)
    state = sum(held[name] for name in STATE)
    rows = held["temporary"] + held["batch"]
    encoder, found = cfg["method"]["encoder"], []
    if state > room / 4 and figures["mesh"].get("fsdp", 1) < figures["devices"]:
        ways = figures["devices"] // figures["mesh"].get("fsdp", 1)
        found.append(
            f"--mesh=fsdp={figures['devices']}: state of about {gb(state / ways)} a device, now "
            f"{gb(state)}"
        )
    if "remat" in encoder and not encoder["remat"]:
        found.append(
            "--config.method.encoder.remat=True (and scan=True): blocks keep their inputs alone"
        )
    parts = math.ceil(rows / max(room - state, 1)) if room > state else 0
    if parts > 1 and accumulates:
        parts = next(
            (n for n in range(parts, cfg["batch_size"] + 1) if cfg["batch_size"] % n == 0), 0
        )
        found.append(
            f"--config.accumulate={parts * 1}: temporary buffers of about {gb(rows / parts)}"
        )
    if room > state:
        unit = math.prod(figures["mesh"].get(axis, 1) for axis in sharding.ROWS)
        fitting = int(cfg["batch_size"] * (room - state) / rows) // unit * unit
        if fitting:
            devices = math.ceil(figures["devices"] * cfg["batch_size"] / fitting)
            found.append(f"--config.batch_size={fitting}, or {devices} devices along data")
    else:
        found.append(
            f"more devices along fsdp, or larger ones: the state alone is {gb(state)} a device"
        )
    return found


def gb(count):
    """Bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} B"


def report(figures, name):
    """The table."""
    held, mesh = figures["bytes"], figures["mesh"]
    axes = ",".join(f"{axis}={size}" for axis, size in mesh.items() if size > 1) or "data=1"
    high, wide = figures["image_px"]
    lines = f"{figures['batch_size']:,} lines of {high}x{wide} px"
    rows = [
        (f"{figures['config']}, {figures['parameters']:,} parameters, {figures['dtype']}", ""),
        (f"{lines} on {figures['devices']} x {name} ({axes})", ""),
        ("", ""),
        ("memory of a device", ""),
    ]
    for part, what in (
        ("params", "parameters"), ("teacher", "teacher"), ("opt_state", "optimiser"),
        ("mutable", "statistics, queue"), ("batch", "batch"),
        ("temporary", "activations, gradients"), ("total", "all"),
    ):  # fmt: skip
        rows.append((f"  {what}", gb(held[part])))
    fits, weights = "fits" if figures["fits"] else "DOES NOT FIT", gb(held["attention_weights"])
    rows += [
        (f"  of {gb(figures['memory_bytes'])}, a tenth kept free", fits),
        ("  (attention weights, which a fused kernel does not store)", weights),
        ("operations of a step", ""),
        ("  the model needs", f"{figures['gflop_analytical']:,.1f} GFLOP"),
        ("  a device does", f"{figures['gflop_a_device']:,.1f} GFLOP"),
        ("a device sends", gb(sum(c["bytes"] for c in figures["collectives"].values()))),
    ]
    rows += [
        (f"  {kind} of {c['arrays']} arrays", gb(c["bytes"]))
        for kind, c in figures["collectives"].items()
    ]
    rows.append(("roofline", ""))
    rows += [
        (f"  {part}" + (" (binds)" if part == figures["binds"] else ""), f"{ms:,.2f} ms")
        for part, ms in figures["ms"].items()
    ]
    most, least = figures["lines_per_s_at_most"], figures["lines_per_s"]
    rows.append(("lines/s, nothing overlapping / everything", f"{least:,.0f} / {most:,.0f}"))
    lines = [f"{left:<60}{right:>20}".rstrip() for left, right in rows]
    if figures["loops_of_unknown_length"]:
        lines.append(
            f"{figures['loops_of_unknown_length']} loops of unknown length are counted as one turn "
            "each"
        )
    if checked := figures.get("checked"):
        lines.append(
            f"checked: {checked['ms_step']:,.1f} ms a step, {checked['time_over_plan']:.2f} of the "
            f"plan's sum; {gb(checked['bytes'])}, {checked['memory_over_plan']:.2f} of the plan's"
        )
    if not figures["fits"]:
        over = held["total"] - figures["memory_bytes"] * (1 - RESERVE)
        lines.append(f"does not fit: {gb(over)} too many on a device; try")
        lines += [f"  {number}. {what}" for number, what in enumerate(figures["try"], 1)]
    return "\n".join(lines)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    try:
        sizes = parse_mesh(FLAGS.mesh)
        # Before JAX starts: its CPU devices are counted once. Other accelerators of this machine
        # are left alone.
        jax.config.update("jax_num_cpu_devices", int(np.prod(list(sizes.values()))))
        if FLAGS.device != "here" or FLAGS.check:
            jax.config.update("jax_platforms", "cpu")
        if FLAGS.check and (
            FLAGS.device != "here"
            or max(sizes.values()) > 1
            or not sys.platform.startswith("linux")
        ):
            raise ValueError(
                "--check compares with a run here: it needs --device=here, a mesh of one device "
                "and Linux"
            )
        figures = make(
            command_line.config().to_dict(), sizes, DEVICES.get(FLAGS.device), FLAGS.check
        )
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    print(report(figures, FLAGS.device))
    print(json.dumps(bench_step.rounded({"device_name": FLAGS.device, **figures})))


if __name__ == "__main__":
    command_line.define_config("Config of a training run; its records are not read.")
    flags.DEFINE_string(
        "mesh", "data=1", "Devices along each axis of the mesh, such as data=64,fsdp=4."
    )
    flags.DEFINE_enum(
        "device",
        "here",
        [*DEVICES, "here"],
        "What the devices are; here: ceilings measured on this machine.",
    )
    flags.DEFINE_bool("check", False, "Also run the step here and compare.")
    flags.mark_flag_as_required("config")
    logging.set_verbosity(logging.WARNING)
    program.run(main)
