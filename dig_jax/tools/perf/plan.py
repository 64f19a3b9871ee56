"""Says before any machine is rented what a step of a config needs on a mesh of devices, and whether
it fits.

    python -m dig_jax.tools.perf.plan --config=dig:preset=lines,size=B --mesh=data=64,fsdp=4 \\
      --device=v5e
    python -m dig_jax.tools.perf.plan --config=dig:preset=cpu --device=here [--check]
    ... --device=v5e --compiler=tpu --fit     asks XLA's compiler for TPUs, and tries remedies
    ... --device=h100 --compiler=gpu          asks XLA's compiler for GPUs
    ... --records=15e6 --epochs=10            hours of a whole run, too

The training step is compiled ahead of time for as many simulated CPU devices, with the trainer's
own shardings. No array is allocated and no record is read. A table follows, and one JSON object as
the last line.

    memory      of one device. State and batch are exact. Temporary buffers (activations, gradients)
                are the CPU compiler's: it writes attention out up to 512 tokens, so what a kernel
                that never stores the N x N weights saves stands beside it. It keeps what remat
                would compute again unless the blocks are scanned, so with remat they are. With
                --compiler=tpu all of it is the real compiler's word.
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

import dataclasses
import functools
import json
import math
import sys

import jax
import numpy as np
from absl import app, flags, logging

from dig_jax import sharding
from dig_jax.models import encoders, layers
from dig_jax.tools import program
from dig_jax.tools.perf import bench_step, compilers, here, hlo, targets, workload
from dig_jax.tools.perf.devices import DEVICES
from dig_jax.tools.perf.remedies import STATE, advice, fit, gb
from dig_jax.train import command_line

FLAGS = flags.FLAGS
RESERVE = 0.1  # of the memory: the runtime's own, and gaps between buffers


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


def make(cfg, sizes, device, check=False, compiler="cpu", name="v5e", cache=None):
    """The figures as a dict (see the module). cfg: expanded config; sizes: {axis: devices}; device:
    a Device, or None for this machine's. name: of the device; cache: see `compilers.compile_step`.

    ValueError for a mesh or config that contradicts itself. For compiler="cpu" there must be as
    many CPU devices (jax_num_cpu_devices).
    """
    cfg = {**cfg, "mesh": sizes}
    encoder = cfg["method"].get("encoder") or {}
    how, place = {}, {"devices": compilers.devices(compiler, name, math.prod(sizes.values()))}
    if compiler != "cpu":
        place["device"] = (compiler, targets.capability(name) if compiler == "gpu" else None)
    else:
        # A CPU has no cuDNN, and XLA's CPU compiler computes nothing again in blocks that stand
        # side by side.
        how = {"attention": "blocks"} | ({"scan": True} if encoder.get("remat") else {})
    if device and encoder.get("dtype", "auto") == "auto":
        vit = encoders.kind_of(encoder) == "vit"
        how["dtype"] = device.dtype if vit else device.dtype.removesuffix("_stored")
    work = workload.open_workload(cfg, how, **place)
    checked = {}
    if check:
        compiled = work.step.lower(work.abstract, work.data.raw, mesh=work.mesh).compile()
        program, checked = compilers.describe(compiled), here.run(work, compiled)
    else:
        program = compilers.compile_step(work, cache)
    if device is None:
        dtype = work.method.encoder.dtype
        device, seconds = here.ceilings(dtype, **({"step": checked.pop("step")} if check else {}))
        checked |= {f"ms_{name}": 1e3 * value for name, value in seconds.items()}
    figures = figures_of(work, program, device) | {"compiler": compiler}
    if compiler != "tpu":  # that one has said whether it fits
        over = figures["bytes"]["total"] - figures["memory_bytes"] * (1 - RESERVE)
        figures["over_bytes"] = max(math.ceil(over), 0)
    figures["fits"] = not figures["over_bytes"]
    if check:
        checked["time_over_plan"] = checked["ms_step"] / sum(figures["ms"].values())
        checked["memory_over_plan"] = checked["bytes"] / figures["bytes"]["total"]
        figures["checked"] = checked
    return figures | {"try": advice(figures, work.config)}


def figures_of(work, program, device):
    """What a compiled step needs, does and sends on a device, and how long that takes at least."""
    cfg, state, shardings, mesh = work.config, work.abstract, work.shardings, work.mesh
    summary = program.summary
    held = {part: _held(getattr(state, part), getattr(shardings, part)) for part in STATE}
    held["batch"] = _held(
        work.data.raw, jax.tree.map(lambda _: sharding.batch_sharding(mesh), work.data.raw)
    )
    held["temporary"] = program.temporary
    seconds, needed = roofline(summary, device), workload.model_flops(cfg)[0]
    attention = _attention_bytes(work, state, mesh)
    figures = {
        "config": cfg["method"]["name"],
        "batch_size": cfg["batch_size"],
        "image_px": list(work.data.raw["image"].shape[1:3]),
        "mesh": {name: int(size) for name, size in mesh.shape.items()},
        "devices": mesh.size,
        "device": dataclasses.asdict(device),
        "dtype": layers.compute_dtype(work.method.encoder.dtype).name,
        "accumulates": work.method.loss_is_mean,
        "compile_s": program.seconds,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "bytes": held | {"total": sum(held.values()), "attention_weights": attention},
        "peak_bytes": program.peak,
        "over_bytes": program.over,
        "memory_bytes": device.memory_gb * 1e9,
        "gflop_analytical": needed / 1e9,
        "gflop_a_device": summary.flops / 1e9,
        "gflop_compiler_a_device": program.compiler_flops / 1e9,
        "traffic_bytes": summary.traffic,
        "fusions": program.fusions,
        "kernels": program.kernels,
        "rematerialized": program.rematerialized,
        "collectives": {
            kind: {"arrays": n, "bytes": sent}
            for kind, (n, sent) in hlo.by_kind(summary.collectives).items()
        },
        "loops_of_unknown_length": summary.loops_of_unknown_length,
        "ms": {name: 1e3 * value for name, value in seconds.items()},
        "binds": max(seconds, key=seconds.get),
    }
    if not program.over:  # else there is no program
        figures["lines_per_s_at_most"] = cfg["batch_size"] / max(seconds.values())
        figures["lines_per_s"] = cfg["batch_size"] / sum(seconds.values())
        figures["mfu"] = needed / mesh.size / sum(seconds.values()) / (device.tflops * 1e12)
    return figures


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


def report(figures, name):
    """The table."""
    held, mesh = figures["bytes"], figures["mesh"]
    axes = ",".join(f"{axis}={size}" for axis, size in mesh.items() if size > 1) or "data=1"
    high, wide = figures["image_px"]
    lines = f"{figures['batch_size']:,} lines of {high}x{wide} px"
    rows = [
        (f"{figures['config']}, {figures['parameters']:,} parameters, {figures['dtype']}", ""),
        (f"{lines} on {figures['devices']} x {name} ({axes})", ""),
        (f"compiled for {figures['compiler'].upper()}s in {figures['compile_s']:.0f} s", ""),
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
    said = ", so the compiler" if figures["compiler"] == "tpu" else ", a tenth kept free"
    rows.append((f"  of {gb(figures['memory_bytes'])}{said}", fits))
    if figures["compiler"] == "cpu":
        rows.append(("  (attention weights, which a fused kernel does not store)", weights))
    else:
        rows += [
            ("  at the fullest moment", gb(figures["peak_bytes"] or held["total"])),
            ("fusions", f"{figures['fusions']:,}"),
            ("fused kernels, whose operations are not counted", f"{figures['kernels']:,}"),
            ("instructions computed again to save memory", f"{figures['rematerialized']:,}"),
        ]
    rows += [
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
    if "lines_per_s" in figures:
        most, least = figures["lines_per_s_at_most"], figures["lines_per_s"]
        rows.append(("lines/s, nothing overlapping / everything", f"{least:,.0f} / {most:,.0f}"))
    if run := figures.get("run"):
        rows += [
            (f"{run['lines']:,.0f} lines, nothing overlapping / everything",
             f"{run['hours']:,.1f} / {run['hours_at_least']:,.1f} hours"),
            ("  of all devices together",
             f"{run['device_hours']:,.0f} / {run['device_hours_at_least']:,.0f} hours"),
        ]  # fmt: skip
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
        lines.append(f"does not fit: {gb(figures['over_bytes'])} too many on a device; try")
        lines += [f"  {number}. {what}" for number, what in enumerate(figures["try"], 1)]
    return "\n".join(lines)


def whole_run(figures, records, epochs):
    """Hours of a run over so many records, of the job and of all its devices; a roofline's, so a
    real run takes longer."""
    lines, devices = records * epochs, figures["devices"]
    slow, fast = (lines / figures[name] / 3600 for name in ("lines_per_s", "lines_per_s_at_most"))
    return {
        "lines": lines, "hours": slow, "hours_at_least": fast,
        "device_hours": slow * devices, "device_hours_at_least": fast * devices,
    }  # fmt: skip


def check_length(records: flags.Flag, epochs: flags.Flag) -> None:
    """ValueError for the length of a run that is none."""
    for flag in (records, epochs):
        if flag.present and not 0 < flag.value < math.inf:
            raise ValueError(f"--{flag.name} is {flag.value:g}: give a number above 0")
    if epochs.present and not records.present:
        raise ValueError("--epochs says how often --records=LINES are seen: give both")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    try:
        check_length(FLAGS["records"], FLAGS["epochs"])
        sizes = parse_mesh(FLAGS.mesh)
        ahead = FLAGS.compiler != "cpu"
        # Before JAX starts: its CPU devices are counted once. Other accelerators of this machine
        # are left alone.
        jax.config.update("jax_num_cpu_devices", 1 if ahead else int(np.prod(list(sizes.values()))))
        if FLAGS.device != "here" or FLAGS.check or ahead:
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
        cache = None if FLAGS.cache == "none" else FLAGS.cache or compilers.default_cache()
        plan = functools.partial(
            make, device=DEVICES.get(FLAGS.device), check=FLAGS.check, compiler=FLAGS.compiler,
            name=FLAGS.device, cache=cache if ahead else None,
        )  # fmt: skip
        cfg = command_line.config().to_dict()
        figures, tried = fit(cfg, sizes, plan) if FLAGS.fit else (plan(cfg, sizes), {})
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    if FLAGS.records and "lines_per_s" in figures:
        figures["run"] = whole_run(figures, FLAGS.records, FLAGS.epochs)
    print(report(figures, FLAGS.device))
    for name, of in tried.items():
        print(f"tried {name}: " + ("fits" if of["fits"] else f"{gb(of['over_bytes'])} too many"))
    figures["tried"] = {name: of["over_bytes"] for name, of in tried.items()}
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
    flags.DEFINE_enum(
        "compiler",
        "cpu",
        compilers.COMPILERS,
        "cpu: in seconds, memory estimated; tpu, gpu: the real ones, in minutes.",
    )
    flags.DEFINE_bool(
        "fit", False, "Where it does not fit, try fsdp, remat and accumulate until it does."
    )
    flags.DEFINE_float("records", 0, "Also say how long a run over so many lines takes.")
    flags.DEFINE_float("epochs", 1, "With --records: how often.")
    flags.DEFINE_string("cache", "", "Folder of what the TPU compiler said before, or none.")
    flags.DEFINE_bool("check", False, "Also run the step here and compare.")
    flags.mark_flag_as_required("config")
    logging.set_verbosity(logging.WARNING)
    program.run(main)
