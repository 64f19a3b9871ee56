"""Memory and time of transformer blocks by their form of attention (models/transformer.py).

    python -m dig_jax.tools.perf.bench_attention --tokens=256,512,1024
    python -m dig_jax.tools.perf.bench_attention --size=S --lines=8 --tokens=3584 --depth=12 \\
      --compiler=tpu --device=v5e           for a chip that is not here: memory alone

One call is the value and the gradients of `--depth` scanned blocks, by inputs and parameters.
Memory is the compiler's own figure for temporary buffers. Time is the median of such calls, the
forms in turn, on this machine; CPU time where the process is pinned to one core. Prints a table
and, last, one JSON object.
"""

import functools
import json
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import app, flags, logging

from dig_jax.models import transformer, vit
from dig_jax.tools import program
from dig_jax.tools.perf import bench_step, compilers, here
from dig_jax.tools.perf.remedies import gb

FLAGS = flags.FLAGS


class Blocks(nn.Module):
    """(x f32[B, N, D], lengths i32[B]) -> f32[B, N, D]."""

    size: str
    depth: int
    form: str
    dtype: str

    @nn.compact
    def __call__(self, x, lengths):
        size = vit.SIZES[self.size]
        return transformer.blocks(
            x, lengths, depth=self.depth, heads=size["heads"], hidden=4 * size["width"],
            dtype=self.dtype, attention=self.form, scan=True,
        )  # fmt: skip


def compiled(module, lines, tokens, device):
    """(the program, abstract arguments), or (a refused Program, None). See the module."""
    place = jax.sharding.SingleDeviceSharding(device)
    of = functools.partial(jax.ShapeDtypeStruct, sharding=place)
    x = of((lines, tokens, vit.SIZES[module.size]["width"]), jnp.float32)
    lengths = of((lines,), jnp.int32)
    params = jax.eval_shape(module.init, jax.random.key(0), x, lengths)
    params = jax.tree.map(lambda leaf: of(leaf.shape, leaf.dtype), params)
    loss = lambda params, x, lengths: jnp.sum(module.apply(params, x, lengths) ** 2)
    call = jax.jit(jax.value_and_grad(loss, (0, 1)))
    try:
        return call.lower(params, x, lengths).compile(), (params, x, lengths)
    except jax.errors.JaxRuntimeError as error:
        if refused := compilers.refused(str(error)):
            return refused, None
        raise


def measure(forms, tokens, lines, size, depth, dtype, device, seconds):
    """{form: {"temporary", "over"} in bytes, "gflop" and, with seconds, "ms"}."""
    figures, calls = {}, {}
    for form in forms:
        start = time.perf_counter()
        what, arguments = compiled(Blocks(size, depth, form, dtype), lines, tokens, device)
        if arguments:
            call, what = what, compilers.describe(what, time.perf_counter() - start)
            filled = jax.tree.map(
                lambda x: jnp.full(x.shape, tokens if x.dtype == jnp.int32 else 0.01, x.dtype),
                arguments,
            ) if seconds else None  # fmt: skip
            calls[form] = functools.partial(call, *filled) if seconds else None
        figures[form] = {
            "temporary": what.temporary, "over": what.over, "gflop": what.summary.flops / 1e9,
        }  # fmt: skip
    if seconds:
        pinned = len(here.cores()) == 1
        clock = time.process_time if pinned else time.perf_counter
        for form, timing in bench_step.timed(calls, seconds, clock).items():
            figures[form]["ms"] = 1e3 * timing.median
    return figures


def row(tokens, figures):
    cells = [
        f"refused, {gb(of['temporary'])}" if of["over"]
        else gb(of["temporary"]) + (f", {of['ms']:,.1f} ms" if "ms" in of else "")
        for of in figures.values()
    ]  # fmt: skip
    return f"{tokens:>7}" + "".join(f"{cell:>24}" for cell in cells)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if FLAGS.compiler != "cpu":
        jax.config.update("jax_platforms", "cpu")
    if wrong := set(FLAGS.forms) - set(transformer.ATTENTION):
        names = ", ".join(transformer.ATTENTION)
        raise ValueError(f"--forms={','.join(sorted(wrong))}: the forms are {names}")
    if not all(word.isdecimal() and int(word) for word in FLAGS.tokens):
        raise ValueError(f"--tokens={','.join(FLAGS.tokens)}: give whole numbers from 1 on")
    here_ = FLAGS.compiler == "cpu"
    device = jax.devices()[0] if here_ else compilers.devices(FLAGS.compiler, FLAGS.device, 1)[0]
    print(f"{FLAGS.lines} lines, {FLAGS.depth} blocks of {FLAGS.size}, {device.device_kind}")
    print(f"{'tokens':>7}" + "".join(f"{form:>24}" for form in FLAGS.forms), flush=True)
    found = {}
    for tokens in map(int, FLAGS.tokens):
        found[tokens] = measure(
            FLAGS.forms, tokens, FLAGS.lines, FLAGS.size, FLAGS.depth, FLAGS.dtype, device,
            FLAGS.seconds if here_ else 0.0,
        )  # fmt: skip
        print(row(tokens, found[tokens]), flush=True)
    print(json.dumps({"device": device.device_kind, "tokens": bench_step.rounded(found)}))


if __name__ == "__main__":
    flags.DEFINE_list("tokens", ["256", "512", "1024"], "Tokens of a line.")
    flags.DEFINE_list("forms", ["xla", "plain", "blocks"], "Forms of attention.")
    flags.DEFINE_integer("lines", 4, "Lines of a batch.", lower_bound=1)
    flags.DEFINE_enum("size", "micro", list(vit.SIZES), "Width and heads of a block.")
    flags.DEFINE_integer("depth", 1, "Blocks, scanned.", lower_bound=1)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of products.")
    flags.DEFINE_enum("compiler", "cpu", compilers.COMPILERS, "cpu: this machine, whatever it is.")
    flags.DEFINE_string("device", "v5e", "With another compiler: what it compiles for.")
    flags.DEFINE_float("seconds", 5.0, "How long to time each number of tokens.", lower_bound=0.0)
    logging.set_verbosity(logging.WARNING)
    program.run(main)
