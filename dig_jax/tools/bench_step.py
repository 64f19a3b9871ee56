"""Times one training step and says where the time goes and how much of the machine's arithmetic it reaches.

    python -m dig_jax.tools.bench_step --config=configs/pretrain/dig.py:preset=cpu --config.data.train=RECORDS [--seconds=20]

Prints a few lines and, last, one JSON object: lines/s, ms a step, share of time in augmentation, encoder, heads (with the
losses) and the rest (teacher average, optimiser; what XLA fuses across these borders can make it negative), GFLOP/s of the
step, and GFLOP/s of plain 2048 x 2048 matrix products measured in the same run, in turn with the step. Operations are those
of XLA's unoptimised program (a multiply-add is two); memory is the compiler's own figure for temporary buffers. Medians; the
input pipeline is not part of it (bench_input).
"""

import itertools
import json
import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import config_flags

from dig_jax import build, optim, partition, prng, train
from dig_jax import state as states

FLAGS = flags.FLAGS
MATMUL = 2048


def encoder_pass(method):
    """The encoder's share of a step as a function of (params, teacher, views): forward and backward over the rows of all
    views together, and the teacher's forward pass where it has an encoder."""

    def both(params, teacher, views):
        names = [name for name in views if name.startswith("view")] or ["image"]
        image = jnp.concatenate([views[name] for name in names])
        width = jnp.concatenate([views["width"]] * len(names))
        mask = None
        if "mask" in views:
            mask = jnp.concatenate([views["mask"]] + [jnp.zeros_like(views["mask"])] * (len(names) - 1))

        def features(params):
            return jnp.square(method.encoder.apply({"params": params["encoder"]}, image, width, mask)).mean()

        taught = teacher is not None and "encoder" in teacher
        return jax.value_and_grad(features)(params), features(teacher) if taught else None

    return both


def gradient(method):
    """Loss and gradient of augmented views: encoder and heads, without augmentation and optimiser."""

    def both(state, views):
        loss = lambda params: method.loss(params, state, views, prng.stream(0, "loss", 0))  # noqa: E731
        return jax.value_and_grad(loss, has_aux=True)(state.params)

    return both


def cost(function, *args):
    """(compiled function, floating-point operations a call, bytes of temporary memory)."""
    lowered = jax.jit(function).lower(*args)
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    return compiled, (lowered.cost_analysis() or {}).get("flops", 0.0), getattr(memory, "temp_size_in_bytes", 0)


def matmul(dtype):
    """A matrix product of `dtype` operands summed in float32: the form that the models use."""
    left, right = jax.random.normal(jax.random.key(0), (2, MATMUL, MATMUL)).astype(dtype)
    product = jax.jit(lambda left, right: jnp.matmul(left, right, preferred_element_type=jnp.float32))
    return lambda: product(left, right)  # as arguments: XLA would compute a product of constants once, while compiling


def timed(calls, seconds):
    """Median seconds of each named call; the calls take turns, so that a drifting machine slows all of them alike."""
    times = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    end = time.perf_counter() + seconds
    for count in itertools.count():
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
        if time.perf_counter() > end and count >= 2:
            return {name: statistics.median(values) for name, values in times.items()}


def measure(cfg, seconds):
    """The figures as a dict (see the module)."""
    data = train.open_data(cfg)
    method = build.method(cfg, data.charset)
    mesh = partition.make_mesh(cfg.get("mesh"))
    raw = partition.to_global(data.dataset[0][0], mesh)
    augment = jax.jit(lambda batch: method.augment(prng.stream(0, "augment", 0), batch))
    views = augment(raw)
    params = jax.eval_shape(lambda: method.init(prng.stream(0, "init"), views)["params"])
    total = 1000  # only the schedule depends on it
    optimizer = build.call(
        optim.create,
        "config.optim",
        {**cfg["optim"], "warmup_steps": 0},
        params=params,
        total_steps=total,
        batch_size=cfg["batch_size"],
    )
    state = jax.jit(lambda: states.create(method, optimizer.tx, views, prng.stream(0, "init")))()
    step, flops, memory = cost(train.make_train_step(method, optimizer, total, cfg["seed"]), state, raw)
    encode, encoder_flops, _ = cost(encoder_pass(method), state.params, state.teacher, views)
    differentiate = jax.jit(gradient(method))
    products = {"float32": matmul(jnp.float32), "bfloat16": matmul(jnp.bfloat16)}
    seconds = timed(
        {
            "step": lambda: step(state, raw),
            "augment": lambda: augment(raw),
            "gradient": lambda: differentiate(state, views),
            "encoder": lambda: encode(state.params, state.teacher, views),
            **products,
        },
        seconds,
    )
    whole = seconds["step"]
    rates = {name: 2 * MATMUL**3 / seconds[name] / 1e9 for name in products}
    shares = {name: seconds[name] / whole for name in ("augment", "encoder")}
    shares["heads"] = (seconds["gradient"] - seconds["encoder"]) / whole
    return {
        "config": cfg["method"]["name"],
        "device": jax.devices()[0].device_kind,
        "devices": mesh.size,
        "batch_size": cfg["batch_size"],
        "image_px": list(raw["image"].shape[1:3]),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "ms_a_step": 1e3 * whole,
        "lines_per_s": cfg["batch_size"] / whole,
        **{f"share_{name}": share for name, share in shares.items()},
        "share_rest": 1 - sum(shares.values()),
        "gflop_a_step": flops / 1e9,
        "gflop_encoder": encoder_flops / 1e9,
        "gflops_per_s": flops / whole / 1e9,
        **{f"matmul_{name}_gflops_per_s": rate for name, rate in rates.items()},
        "of_matmul_float32": flops / whole / 1e9 / rates["float32"],
        "temporary_mb": memory / 2**20,
    }


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    try:
        figures = measure(FLAGS.config.to_dict(), FLAGS.seconds)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    shares = ", ".join(f"{name} {figures[f'share_{name}']:.0%}" for name in ("encoder", "heads", "augment", "rest"))
    print(
        f"{figures['lines_per_s']:.0f} lines/s, {figures['ms_a_step']:.0f} ms a step: {shares}; {figures['gflops_per_s']:.0f} "
        f"GFLOP/s where a float32 matrix product reaches {figures['matmul_float32_gflops_per_s']:.0f}"
    )
    print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}))


if __name__ == "__main__":  # flags are global: defined here, so that programs can be imported side by side
    config_flags.DEFINE_config_file("config", None, "Config of a training run; config.data.train must name records.")
    flags.DEFINE_float("seconds", 20.0, "How long to time, compilation not counted.", lower_bound=1.0)
    flags.mark_flag_as_required("config")
    app.run(main)
