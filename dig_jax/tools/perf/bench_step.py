"""Times one training step on a synthetic batch and says where the time goes and how much of the
machine it reaches.

    python -m dig_jax.tools.perf.bench_step --config=dig:preset=cpu [--config.key=value ...]
    python -m dig_jax.tools.perf.bench_step --config=dig:preset=words,batch=512 --split=false

Needs jax, flax, optax, numpy, absl and ml_collections, no data and no other package. Prints a few
lines and, last, one JSON object. Times are medians of repetitions in which everything measured
takes turns; `*_spread` is the distance of their quartiles over the median. The step runs as in
training: compiled, with its state donated, one step handed to the device while the last one runs.

    share_*              of the step's time: augmentation, encoder, heads (with the losses), and the
                         rest (teacher average, optimiser); what XLA fuses across these borders can
                         make the rest negative. Not with --split=false
    gflop_analytical     operations of the matrix products that the model needs, from their shapes
                         (workload.model_flops)
    gflop_compiler       the compiler's count for the same program; it counts elementwise
                         operations, too
    matmul_*             what plain matrix products reach on one device of this machine, measured in
                         the same turns
    mfu                  gflop_analytical / time / what such products reach in the dtype of the
                         encoder, on all devices
    *_mb                 of one device: what the step is given (state, batch) and its temporary
                         buffers, by the compiler; peak_mb by the device, None where it keeps no
                         account (CPU). rss_mb: most this process ever held

The input pipeline is not part of it (bench_input).
"""

import collections
import functools
import json
import platform
import resource
import statistics
import sys
import time

import jax
import jax.numpy as jnp
from absl import app, flags, logging

from dig_jax import sharding
from dig_jax.models import layers
from dig_jax.tools import program
from dig_jax.tools.perf import workload
from dig_jax.train import command_line

FLAGS = flags.FLAGS
MATMUL = {"cpu": 2048}  # side of the matrices, by platform
MATMUL_ELSEWHERE = 8192
SHORTEST_S = 0.02  # a repetition lasts at least so long: several calls of what is shorter

Timing = collections.namedtuple("Timing", "median spread repetitions")


def encoder_pass(method):
    """The encoder's share of a step as a function of (params, teacher, views). It runs forward and
    backward over the rows of all views together, and the teacher's forward pass where it has an
    encoder."""

    def both(params, teacher, views):
        names = [name for name in views if name.startswith("view")] or ["image"]
        image = jnp.concatenate([views[name] for name in names])
        width = jnp.concatenate([views["width"]] * len(names))
        mask = views.get("mask")  # bool[B,V,N], or bool[B,N] of the first view alone
        if mask is not None and mask.ndim == 3:
            mask = jnp.concatenate([mask[:, view] for view in range(len(names))])
        elif mask is not None:
            mask = jnp.concatenate([mask] + [jnp.zeros_like(mask)] * (len(names) - 1))

        def features(params):
            return jnp.square(
                method.encoder.apply({"params": params["encoder"]}, image, width, mask)
            ).mean()

        taught = teacher is not None and "encoder" in teacher
        return jax.value_and_grad(features)(params), features(teacher) if taught else None

    return both


def matmul(dtype):
    """A call that multiplies two matrices of `dtype` with sums in float32: the form that the models
    use. (call, operations).
    """
    side = MATMUL.get(jax.default_backend(), MATMUL_ELSEWHERE)
    left, right = jax.random.normal(jax.random.key(0), (2, side, side)).astype(dtype)
    product = jax.jit(
        lambda left, right: jnp.matmul(left, right, preferred_element_type=jnp.float32)
    )
    # As arguments: XLA would compute a product of constants once, while compiling.
    return functools.partial(product, left, right), 2.0 * side**3


def timed(calls, seconds, clock=time.perf_counter):
    """{name: Timing} of calls without arguments, in seconds a call, over about `seconds`, at least
    three repetitions of each.

    The calls take turns, so that a drifting machine slows all of them alike. Waits for the device
    once a repetition. clock: time.process_time gives CPU time instead, which other programs on the
    machine disturb little.
    """
    turns = {}
    for name, call in calls.items():
        jax.block_until_ready(call())  # compiles
        start = clock()
        jax.block_until_ready(call())
        turns[name] = max(1, round(SHORTEST_S / max(clock() - start, 1e-6)))
    times = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 3:
        for name, call in calls.items():
            start = clock()
            for _ in range(turns[name]):
                result = call()
            jax.block_until_ready(result)
            times[name].append((clock() - start) / turns[name])
    return {name: Timing(statistics.median(t), spread(t), len(t)) for name, t in times.items()}


def spread(times):
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / statistics.median(times)


def measure(cfg, seconds, split=True):
    """The figures as a dict (see the module). ValueError for a config that contradicts itself."""
    work = workload.open_workload(cfg)
    mesh = work.mesh
    raw = sharding.to_global(workload.fill(work.data.raw), mesh)
    state = jax.jit(work.create, out_shardings=work.shardings)(raw)
    start = time.perf_counter()
    step = work.step.lower(state, raw, mesh=work.mesh).compile()
    compile_s = time.perf_counter() - start
    memory = step.memory_analysis()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    box = [state]  # the last state; a step takes its buffers
    del state

    def train():
        box[0], figures = step(*work.step.args, box[0], raw)
        return figures

    for _ in range(2):
        jax.block_until_ready(train())
    peak = (jax.local_devices()[0].memory_stats() or {}).get(
        "peak_bytes_in_use"
    )  # before anything else is run
    dtype = layers.compute_dtype(work.method.encoder.dtype)
    dtypes = ("float32", "bfloat16") if jax.default_backend() == "cpu" else (dtype.name,)
    products = {name: matmul(name) for name in dtypes}
    calls = {"step": train, **{name: product for name, (product, _) in products.items()}}
    if split:
        views = jax.jit(work.augment)(raw)
        given = {
            "augment": (work.augment, raw),
            "gradient": (workload.gradient(work), box[0], views),
            "encoder": (encoder_pass(work.method), box[0].params, box[0].teacher, views),
        }
        with jax.set_mesh(mesh):  # a fused kernel has to know it
            parts = {n: jax.jit(f).lower(*of).compile() for n, (f, *of) in given.items()}
        calls["augment"] = lambda: parts["augment"](raw)
        calls["gradient"] = lambda: parts["gradient"](box[0], views)
        calls["encoder"] = lambda: parts["encoder"](box[0].params, box[0].teacher, views)
    times = timed(calls, seconds)
    whole = times["step"].median
    rates = {
        name: operations / times[name].median / 1e9 for name, (_, operations) in products.items()
    }
    analytical, compiler = workload.model_flops(work.config)
    figures = {
        "config": work.config["method"]["name"],
        "device": jax.devices()[0].device_kind,
        "devices": mesh.size,
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "batch_size": work.batch_size,
        "image_px": list(raw["image"].shape[1:3]),
        "dtype": dtype.name,
        "parameters": parameters,
        "compile_s": compile_s,
        "ms_a_step": 1e3 * whole,
        "ms_a_step_spread": times["step"].spread,
        "repetitions": times["step"].repetitions,
        "lines_per_s": work.batch_size / whole,
        "gflop_analytical": analytical / 1e9,
        "gflop_compiler": compiler / 1e9,
        "gflops_per_s": analytical / whole / 1e9,
        **{f"matmul_{name}_gflops_per_s": rate for name, rate in rates.items()},
        **{f"matmul_{name}_spread": times[name].spread for name in rates},
        "mfu": analytical / whole / 1e9 / (rates[dtype.name] * mesh.size),
        "arguments_mb": memory.argument_size_in_bytes / 2**20,
        "temporary_mb": memory.temp_size_in_bytes / 2**20,
        "peak_mb": peak and peak / 2**20,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / 2 ** (20 if sys.platform == "darwin" else 10),
    }
    if split:
        shares = {name: times[name].median / whole for name in ("augment", "encoder")}
        shares["heads"] = (times["gradient"].median - times["encoder"].median) / whole
        figures |= {f"share_{name}": share for name, share in shares.items()} | {
            "share_rest": 1 - sum(shares.values())
        }
    return figures


def report(figures):
    """The figures in lines for people."""
    lines = [
        f"{figures['lines_per_s']:,.0f} lines/s, {figures['ms_a_step']:,.1f} ms a step of "
        f"{figures['batch_size']} lines (median of {figures['repetitions']}, quartiles "
        f"{figures['ms_a_step_spread']:.1%} apart), compiled in {figures['compile_s']:.0f} s",
        f"{figures['gflops_per_s']:,.0f} GFLOP/s, {figures['mfu']:.1%} of what {figures['dtype']} "
        f"matrix products reach ({figures['matmul_' + figures['dtype'] + '_gflops_per_s']:,.0f}) "
        f"on {figures['devices']} x {figures['device']}",
    ]
    if "share_rest" in figures:
        shares = (
            f"{name} {figures[f'share_{name}']:.0%}"
            for name in ("encoder", "heads", "augment", "rest")
        )
        lines.append("time: " + ", ".join(shares))
    peak, rss = figures["peak_mb"], figures["rss_mb"]
    measured = f"the device's peak {peak:,.0f} MB" if peak else f"process {rss:,.0f} MB"
    lines.append(
        f"memory: state and batch {figures['arguments_mb']:,.0f} MB, temporary "
        f"{figures['temporary_mb']:,.0f} MB; {measured}"
    )
    return "\n".join(lines)


def rounded(figures):
    """The figures with four significant digits, for JSON."""
    return json.loads(json.dumps(figures), parse_float=lambda digits: float(f"{float(digits):.4g}"))


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    try:
        figures = measure(command_line.config().to_dict(), FLAGS.seconds, FLAGS.split)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise SystemExit(
            "error: the step does not fit into the device's memory "
            f"({str(error).splitlines()[0]}): try a smaller config.batch_size or "
            "config.method.encoder.remat=True"
        ) from None
    print(report(figures))
    print(json.dumps(rounded(figures)))


if __name__ == "__main__":  # flags are global: programs can be imported side by side
    command_line.define_config("Config of a training run; its records are not read.")
    flags.DEFINE_float(
        "seconds", 20.0, "How long to time, compilation not counted.", lower_bound=0.0
    )
    flags.DEFINE_bool("split", True, "Also time the parts of the step, each compiled by itself.")
    flags.mark_flag_as_required("config")
    logging.set_verbosity(logging.WARNING)
    program.run(main)
