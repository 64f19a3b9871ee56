"""Memory and time of the contrastive losses, all keys at once ("plain") and by chunks of keys
("chunked").

    python -m dig_jax.tools.perf.bench_loss [--instances=2048,4096,8192] [--loss=info_nce]
    python -m dig_jax.tools.perf.bench_loss --instances=16384,65536 --time=false

The second only compiles, so it needs no such memory.

Prints a table and, last, one JSON object. Memory is the compiler's own figure for the temporary
buffers of one value_and_grad for both sides of the pair. Time is the median of such calls, the two
forms in turn. nt_xent of M instances compares 2M rows. A form that would need more than --memory_gb
is compiled but not run.
"""

import functools
import json

import jax
import jax.numpy as jnp
from absl import app, flags, logging

from dig_jax import losses
from dig_jax.tools import program
from dig_jax.tools.perf import bench_step

FLAGS = flags.FLAGS
LOSSES = {"info_nce": losses.info_nce, "nt_xent": losses.nt_xent}
TEMPERATURE = 0.2


def measure(loss, instances, chunk, dim, seconds, memory_gb=8.0):
    """[{"instances", "plain": figures, "chunked": figures}], figures {"temporary_mb"} and, unless
    `seconds` is None or the form needs more than `memory_gb`, {"ms"}."""
    return [
        {"instances": count, **_measure_one(loss, count, chunk, dim, seconds, memory_gb)}
        for count in instances
    ]


def _measure_one(loss, count, chunk, dim, seconds, memory_gb):
    shape = jax.ShapeDtypeStruct((count, dim), jnp.float32)
    figures, calls = {}, {}
    for name, keys_a_step in {"plain": None, "chunked": chunk}.items():
        value = functools.partial(LOSSES[loss], temperature=TEMPERATURE, chunk=keys_a_step)
        calls[name] = (
            jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True)).lower(shape, shape).compile()
        )
        figures[name] = {"temporary_mb": calls[name].memory_analysis().temp_size_in_bytes / 2**20}
    if seconds is not None:
        pair = jax.random.normal(jax.random.key(0), (2, count, dim))
        fits = {name for name in calls if figures[name]["temporary_mb"] <= 1024 * memory_gb}
        ready = {
            name: functools.partial(call, *pair) for name, call in calls.items() if name in fits
        }
        for name, timing in bench_step.timed(ready, seconds).items() if ready else ():
            figures[name]["ms"] = 1e3 * timing.median
    return figures


def table(sizes):
    """The figures as lines of text."""
    lines = [f"{'instances':>10}{'plain':>12}{'chunked':>12}{'plain':>12}{'chunked':>12}"]
    for size in sizes:
        cells = [f"{size[form]['temporary_mb']:,.0f} MB" for form in ("plain", "chunked")]
        cells += [
            f"{size[form]['ms']:,.0f} ms" if "ms" in size[form] else "-"
            for form in ("plain", "chunked")
        ]
        lines.append(f"{size['instances']:>10}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def _counts(words):
    """Whole numbers from 1 on from the words of a flag."""
    counts = [int(word) if word.isdecimal() else 0 for word in words]
    if not counts or min(counts) < 1:
        raise ValueError(
            f"--instances is {','.join(words)!r}; it must be whole numbers from 1 on, such as "
            "4096,8192"
        )
    return counts


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    try:
        instances = _counts(FLAGS.instances)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    sizes = measure(
        FLAGS.loss,
        instances,
        FLAGS.chunk,
        FLAGS.dim,
        FLAGS.seconds if FLAGS.time else None,
        FLAGS.memory_gb,
    )
    print(table(sizes))
    about = {
        "loss": FLAGS.loss,
        "device": jax.devices()[0].device_kind,
        "dim": FLAGS.dim,
        "chunk": FLAGS.chunk,
    }
    rounded = json.loads(
        json.dumps({**about, "sizes": sizes}), parse_float=lambda digits: round(float(digits), 3)
    )
    print(json.dumps(rounded))


if __name__ == "__main__":  # flags are global: programs can be imported side by side
    flags.DEFINE_list(
        "instances", ["2048", "4096", "8192"], "Sizes M of the global batch of instances."
    )
    flags.DEFINE_integer("chunk", 1024, "Keys a step of the chunked form.", lower_bound=1)
    flags.DEFINE_integer("dim", 128, "Length of a row.", lower_bound=1)
    flags.DEFINE_enum("loss", "info_nce", list(LOSSES), "Which loss.")
    flags.DEFINE_boolean(
        "time", True, "Run what was compiled; false: memory figures only, of any size."
    )
    flags.DEFINE_float(
        "seconds",
        5.0,
        "How long to time each size, at least three calls of each form.",
        lower_bound=0.0,
    )
    flags.DEFINE_float("memory_gb", 8.0, "Forms that need more are not timed.", lower_bound=0.0)
    logging.set_verbosity(logging.WARNING)
    program.run(main)
