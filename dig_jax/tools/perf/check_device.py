"""Does an accelerator compute what a CPU computes? Run it before a long run on new hardware.

    python -m dig_jax.tools.perf.check_device                        all cases
    python -m dig_jax.tools.perf.check_device --only=dig,attention   those whose name has a word
    python -m dig_jax.tools.perf.check_device --dtypes=float32       one of the dtypes below
    python -m dig_jax.tools.perf.check_device --jobs=1               one case after the other
    python -m dig_jax.tools.perf.check_device --seconds=300          begins no case after that time

Attention comes first: every form that the device has, for lines of 64 to 600 tokens of which some
are padding, value and gradients. The pooled convolutions of the CNNs follow, in float32, by
channels and pool. Then each config at `quick`, with the same weights, batch and random numbers: its
augmented views, its loss and its gradient. The first device of this machine computes them in each
of --dtypes, the CPU in float32.

    views      the largest share of numbers of a view that are more than 1 % of its range apart
    loss       the distance over the CPU's loss
    gradient   the length of the difference over the length of the CPU's gradient
    value      as `gradient`, of what attention returns

BOUNDS and OWN_BOUNDS say how far apart the two may be. A number that is not finite is too
far. A case that does not compile or run is named, and the next begins. Where the first device is a
CPU, float32 must agree and bfloat16 shows how much that dtype changes by itself. A table and one
JSON object follow; exit code 1 names the cases that are too far. Needs what bench_step needs, and
no data.
"""

from __future__ import annotations

import concurrent.futures
import functools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from dig_jax import sharding
from dig_jax.models import convolution, encoders, transformer
from dig_jax.tools import program
from dig_jax.tools.perf import workload
from dig_jax.train import command_line

FLAGS = flags.FLAGS
# From CPU to CPU bfloat16 moves the losses of these networks by up to 2 % (SimSiam's is near 0) and
# their gradients by up to 15 %.
BOUNDS = {
    "float32": {"views": 0.01, "loss": 1e-4, "gradient": 1e-3},
    "bfloat16": {"views": 0.01, "loss": 0.05, "gradient": 0.25},
    "bfloat16_stored": {"views": 0.01, "loss": 0.05, "gradient": 0.25},
}
ATTENTION_BOUNDS = {  # from CPU to CPU 0.2 and 0.3 % in bfloat16
    "float32": {"value": 1e-5, "gradient": 1e-5},
    "bfloat16": {"value": 0.01, "gradient": 0.02},
}
HALF = {**BOUNDS["bfloat16"], "gradient": 0.5}
OWN_BOUNDS = {  # by the beginning of a name
    "attention": ATTENTION_BOUNDS,
    # A rounding may turn a winner of a pool, one of some 100,000.
    "convolution": {"float32": {"value": 1e-5, "gradient": 1e-2}},
    # Its gradient begins near 0: in bfloat16 an H200 moved it by 40 %.
    "simsiam": {**BOUNDS, "bfloat16": HALF, "bfloat16_stored": HALF},
}
DECODERS = ("ctc", "attention", "transformer", "glimpse")
TOKENS = (64, 65, 192, 320, 600)
HEADS, HEAD_DIM, LINES = 6, 64, 4  # of ViT-S
LAYERS = ((8, (2, 2)), (16, (2, 2)), (48, (2, 2)), (48, (2, 3)), (96, (2, 1)))  # channels, pool

Figures = dict[str, float]


def cases() -> dict[str, str]:
    """{name: config} of every method and every decoder."""
    found = sorted((command_line.CONFIGS / "pretrain").glob("[!_]*.py"))
    methods = {path.stem: f"{path.stem}:quick" for path in found}
    return methods | {f"reader {name}": f"scratch:quick,decoder={name}" for name in DECODERS}


# ---- one config on two devices


def experiment(text: str, dtype: str, device: jax.Device) -> Any:
    """The Experiment of a config on one device, its encoder in a dtype."""
    cfg = command_line.load(text).to_dict()
    cfg["mesh"] = {"data": 1}
    where = {"devices": [device], "device": encoders.described(device)}
    return workload.open_workload(cfg, {"dtype": dtype}, **where)


def compiled(work: Any, call: Callable[..., Any], *given: Any) -> Any:
    """A program for the mesh of an Experiment; `given` says shapes."""
    with jax.set_mesh(work.mesh):
        return jax.jit(call).lower(*given).compile()


def on(work: Any, tree: Any) -> Any:
    """The arrays of a tree, on the device of an Experiment."""
    return jax.device_put(jax.tree.map(np.asarray, tree), sharding.everywhere(work.mesh))


def config_figures(text: str, dtypes: list[str], device: jax.Device) -> dict[str, Figures]:
    """{dtype: {"views", "loss", "gradient"}} of a config. See the module."""
    cpu = jax.devices("cpu")[0]
    base = experiment(text, "float32", cpu)
    raw = on(base, workload.fill(base.data.raw))
    state = compiled(base, base.create, raw)(raw)
    views = compiled(base, base.augment, raw)(raw)
    works = [base, *(experiment(text, dtype, device) for dtype in dtypes)]
    # Compiled side by side: a chip's compiler is the slow part.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        gradients = [
            pool.submit(compiled, work, workload.gradient(work), on(work, state), on(work, views))
            for work in works
        ]
        augment = pool.submit(compiled, works[1], works[1].augment, on(works[1], raw))
    apart = unlike(augment.result()(on(works[1], raw)), views)
    (own, _), expected = gradients[0].result()(state, views)
    found = {}
    for dtype, work, gradient in zip(dtypes, works[1:], gradients[1:]):
        (loss, _), grads = gradient.result()(on(work, state), on(work, views))
        found[dtype] = {
            "views": apart,
            "loss": abs(float(loss) - float(own)) / max(abs(float(own)), 1e-6),
            "gradient": distance(grads, expected),
        }
    return found


def distance(tree: Any, expected: Any) -> float:
    """The length of the difference of two trees of arrays over the length of the second one."""
    square = lambda x: float(np.sum(np.square(np.asarray(x, np.float64))))
    apart = jax.tree.map(lambda a, b: square(np.float64(a) - np.float64(b)), tree, expected)
    length = sum(jax.tree.leaves(jax.tree.map(square, expected)))
    return math.sqrt(sum(jax.tree.leaves(apart)) / max(length, 1e-30))


def unlike(views: Any, expected: Any) -> float:
    """The largest share of numbers of an array that are more than 1 % of its range apart."""

    def share(got: Any, right: Any) -> float:
        got, right = np.asarray(got, np.float64), np.asarray(right, np.float64)
        return float(np.mean(~(np.abs(got - right) <= 0.01 * np.ptp(right)))) if right.size else 0.0

    return max(jax.tree.leaves(jax.tree.map(share, views, expected)))


# ---- attention by itself


def attention_figures(tokens: int, device: jax.Device) -> dict[str, Figures]:
    """{"FORM DTYPE": {"value", "gradient"}} of every form that the device has."""
    rng = np.random.default_rng(0)
    shape = (LINES, tokens, HEADS, HEAD_DIM)
    *qkv, weights = (rng.normal(size=shape).astype(np.float32) for _ in range(4))
    lengths = np.array([tokens, tokens - 1, tokens // 2, 1], np.int32)

    def results(form: str, dtype: str, where: jax.Device) -> Any:
        def call(qkv: Any, lengths: Any, weights: Any) -> Any:
            out = transformer.attend(*qkv, lengths, jnp.dtype(dtype), form)
            return jnp.sum(out * weights), out

        given = jax.device_put((qkv, lengths, weights), where)
        with jax.set_mesh(sharding.make_mesh({"data": 1}, [where])):
            (_, out), grads = jax.jit(jax.value_and_grad(call, has_aux=True))(*given)
        return out, grads

    value, gradient = results("plain", "float32", jax.devices("cpu")[0])
    own = {"width": HEADS * HEAD_DIM, "heads": HEADS, "dtype": "bfloat16"}
    kernel = encoders.resolve(own, *encoders.described(device))["attention"]
    found = {}
    for form in dict.fromkeys(("plain", "blocks", "xla", kernel)):
        for dtype in ATTENTION_BOUNDS:
            if form in encoders.KERNELS and dtype == "float32":
                continue  # kernels of half-wide numbers
            out, grads = results(form, dtype, device)
            found[f"{form} {dtype}"] = {
                "value": distance(out, value), "gradient": distance(grads, gradient),
            }  # fmt: skip
    return found


# ---- a pooled convolution by itself


def convolution_figures(
    channels: int, pool: tuple[int, int], device: jax.Device
) -> dict[str, Figures]:
    """{"float32": {"value", "gradient"}} of a convolution, norm, ReLU and pooling in one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(LINES, 16, 512 // pool[1] * pool[1], channels)).astype(np.float32)
    layer = convolution.Convolution(channels, pool, "float32")
    real = (np.arange(x.shape[2]) < pool[1] * np.array([[170], [160], [100], [5]])).astype(
        "float32"
    )
    params = layer.init(jax.random.key(0), x, real)

    def results(where: jax.Device) -> Any:
        def call(params: Any, x: Any, real: Any, weights: Any) -> Any:
            out = layer.apply(params, x, real)
            return jnp.sum(out * weights), out

        weights = np.random.default_rng(1).normal(size=layer.apply(params, x, real).shape)
        given = jax.device_put((params, x, real, weights.astype(np.float32)), where)
        (_, out), grads = jax.jit(jax.value_and_grad(call, (0, 1), has_aux=True))(*given)
        return out, grads

    (out, grads), (value, gradient) = results(device), results(jax.devices("cpu")[0])
    return {"float32": {"value": distance(out, value), "gradient": distance(grads, gradient)}}


# ---- the table


def rows(
    only: list[str], dtypes: list[str], device: jax.Device
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, the figures' maker) of the cases whose name has one of the words; parts first, since
    the kernels of attention are what a device has of its own."""
    makers: dict[str, Callable[[], Any]] = {
        f"attention {tokens}": functools.partial(attention_figures, tokens, device)
        for tokens in TOKENS
    }
    for channels, pool in LAYERS:
        name = f"convolution {channels} {pool[0]}x{pool[1]}"
        makers[name] = functools.partial(convolution_figures, channels, pool, device)
    for name, text in cases().items():
        makers[name] = functools.partial(config_figures, text, dtypes, device)
    if unknown := [word for word in only if not any(word in name for name in makers)]:
        raise ValueError(f"--only={','.join(unknown)}: the cases are {', '.join(makers)}")
    for name, make in makers.items():
        # A word that is a name means that case alone: moco is not mocov3.
        if not only or name in only or any(w in name for w in only if w not in makers):
            yield name, make


def too_far(name: str, kind: str, figures: Figures) -> list[str]:
    """The names of the figures that pass the bounds of their dtype, or are not finite."""
    of = next((bounds for start, bounds in OWN_BOUNDS.items() if name.startswith(start)), BOUNDS)
    bounds = of[kind.split()[-1]]
    return [key for key, figure in figures.items() if not figure <= bounds[key]]


def line(name: str, kind: str, figures: Figures) -> str:
    cells = "".join(f"{key} {figure:<10.1e}" for key, figure in figures.items())
    wrong = too_far(name, kind, figures)
    return f"{name:<22}{kind:<17}{cells}{'TOO FAR: ' + ', '.join(wrong) if wrong else 'ok'}"


# ---- the cases, one after another or side by side

Outcome = dict[str, Figures] | Exception | None  # None: there was no time for it


def in_turn(wanted: dict[str, Callable[[], Any]], end: float) -> Iterator[Outcome]:
    """The figures of each case, in this process."""
    for make in wanted.values():
        if time.perf_counter() > end:
            yield None
            continue
        try:
            yield make()
        except (RuntimeError, ValueError) as error:  # a compiler's refusal, too
            yield error


def side_by_side(names: list[str], jobs: int, end: float) -> Iterator[Outcome]:
    """The same, each in a process of its own: one that crashes takes no other with it."""
    command = [sys.executable, "-m", "dig_jax.tools.perf.check_device", "--jobs=1"]
    command += [f"--dtypes={dtype}" for dtype in FLAGS.dtypes]

    def outcome(name: str) -> Outcome:
        if time.perf_counter() > end:
            return None
        done = subprocess.run([*command, f"--only={name}"], capture_output=True, text=True)
        try:
            cases = json.loads(done.stdout.splitlines()[-1])["cases"]
        except (IndexError, ValueError):
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return RuntimeError(said[-1])
        if name in cases:
            return {
                kind: {key: float(figure) for key, figure in figures.items()}
                for kind, figures in cases[name].items()
            }
        failed = next(line for line in done.stdout.splitlines() if "FAILED: " in line)
        return RuntimeError(failed.split("FAILED: ", 1)[1])

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(outcome, names)


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    platforms = jax.config.jax_platforms
    if platforms and "cpu" not in platforms.split(","):
        raise ValueError(f"JAX_PLATFORMS is {platforms}: set it to {platforms},cpu to compare")
    # Several processes share the card's memory, and none needs much of it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device, end = jax.devices()[0], time.perf_counter() + FLAGS.seconds
    wanted = dict(rows(FLAGS.only, FLAGS.dtypes, device))
    print(f"{device.device_kind} beside the CPU, float32", flush=True)
    if device.platform == "cpu":
        print("note: JAX finds no accelerator here, so a CPU is compared", file=sys.stderr)
    jobs = FLAGS.jobs or (1 if device.platform == "cpu" else min(12, os.cpu_count() or 1))
    if jobs > 1:
        outcomes = side_by_side(list(wanted), jobs, end)
    else:
        outcomes = in_turn(wanted, end)
    found, wrong, left = {}, [], []
    for name, outcome in zip(wanted, outcomes):
        if outcome is None:
            left.append(name)
        elif isinstance(outcome, Exception):
            print(f"{name:<22}FAILED: {str(outcome).splitlines()[0]}", flush=True)
            wrong.append(name)
        else:
            found[name] = {}
            for kind, figures in outcome.items():
                print(line(name, kind, figures), flush=True)
                wrong += [f"{name} {kind}"] * bool(too_far(name, kind, figures))
                finite = {k: v if math.isfinite(v) else str(v) for k, v in figures.items()}
                found[name][kind] = finite
    print(json.dumps({"device": device.device_kind, "cases": found, "failed": wrong, "left": left}))
    if left:
        print(f"not checked, no time left: {', '.join(left)}", file=sys.stderr)
    if wrong:
        print(f"error: failed or too far apart: {', '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    flags.DEFINE_list("only", [], "Words of the names of cases; nothing: all of them.")
    flags.DEFINE_multi_enum("dtypes", list(BOUNDS), list(BOUNDS), "Of the encoder; again for more.")
    text = (
        "Cases side by side, each a process. Default: 1 beside a CPU, else a core each, up to 12."
    )
    flags.DEFINE_integer("jobs", None, text, lower_bound=1)
    flags.DEFINE_float("seconds", math.inf, "No case begins later.", lower_bound=0.0)
    logging.set_verbosity(logging.ERROR)
    program.run(main)
