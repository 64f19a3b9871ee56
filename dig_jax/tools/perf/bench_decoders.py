"""Training and reading time of every decoder on random frames, without an encoder.

    python -m dig_jax.tools.perf.bench_decoders [--rows=8] [--frames=64]
    [--decoders=linear,transformer]

Prints a table and, last, one JSON object: ms of the loss with its gradient, lines read a second, by
a beam of four too. Every line has as many characters as frames, half of them in training. The
Transformer is read a second time without its cache ("uncached"): each step computes the whole
prefix again; both readings must agree. CTC's beam runs on the host, with a language model of order
5. Times are CPU seconds of this process where the device is a CPU.
"""

import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from dig_jax.models import decoders
from dig_jax.models.decoders.beam import NGram, prefix_beam
from dig_jax.tools import program
from dig_jax.tools.perf import bench_step

FLAGS = flags.FLAGS
KINDS = (*decoders.CTC, *decoders.READERS)
BEAM = 4


def measure(kinds, rows, frames, width=256, classes=100, seconds=1.0):
    """{decoder: {"train_ms", "read_lines_per_s", ...}}."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    result = {}
    for kind in kinds:
        calls = prepare(kind, rows, frames, width, classes)
        times = {
            name: timing.median for name, timing in bench_step.timed(calls, seconds, clock).items()
        }
        result[kind] = {"train_ms": 1e3 * times.pop("train")}
        result[kind] |= {f"{name}_lines_per_s": rows / time for name, time in times.items()}
    return result


def prepare(kind, rows, frames, width, classes):
    """{what is timed: call}."""
    decoder = decoders.create(classes, kind)
    keys = jax.random.split(jax.random.key(0), 3)
    values = jax.random.normal(keys[0], (rows, frames, width))
    length = jnp.full(rows, frames, jnp.int32)
    count = jnp.full(rows, frames // 2, jnp.int32)
    label = jax.random.randint(keys[1], (rows, frames // 2), 1, classes)
    params = never_ending(decoder.init(keys[2], values, length))

    def loss(params):
        return decoder.loss(params, values, length, label, count)[0].mean()

    reading = {"read": decoder.read}
    if not decoder.on_host:
        reading["beam"] = functools.partial(decoder.read, beam=BEAM)
    if kind == "transformer":
        reading["uncached"] = functools.partial(read_uncached, decoder)
    ready = {name: jax.jit(read) for name, read in reading.items()}
    if kind == "transformer":
        ids = ready["read"](params, values, length)["ids"]
        np.testing.assert_array_equal(ids, ready["uncached"](params, values, length))
    calls = {name: functools.partial(read, params, values, length) for name, read in ready.items()}
    if decoder.on_host:
        logits = 3.0 * decoder.logits(params, values, length)  # about as sure as a trained reader
        log_probs = np.asarray(jax.nn.log_softmax(logits))
        lm = NGram(np.asarray(label), classes, order=5)
        calls["beam"] = lambda: [prefix_beam(line, BEAM, lm) for line in log_probs]
    return {"train": functools.partial(jax.jit(jax.grad(loss)), params)} | calls


def never_ending(params):
    """The parameters with an end of line, or blank, that is never the best class."""
    bias = params["classify"]["bias"].at[0].set(-1e4)
    return params | {"classify": params["classify"] | {"bias": bias}}


def read_uncached(decoder, params, frames, length):
    """Ids i32[B, S] of lines with a character a frame: all places anew for each of them."""
    apply = functools.partial(decoder.network.apply, {"params": params})
    memory = apply(frames, length, None, method="memory")
    rows, places = frames.shape[:2]

    def advance(place, ids):
        hidden = apply(memory, ids, method="parallel")[0][:, place]
        best = jnp.argmax(apply(hidden, method="logits"), -1).astype(jnp.int32)
        return ids.at[:, place + 1].set(best)

    start = jnp.zeros((rows, places + 1), jnp.int32)
    return jax.lax.fori_loop(0, places, advance, start)[:, 1:]


def table(figures):
    """The figures as lines of text."""
    names = ("train_ms", "read_lines_per_s", "uncached_lines_per_s", "beam_lines_per_s")
    lines = ["decoder".ljust(12) + "".join(f"{name.replace('_', ' '):>24}" for name in names)]
    for kind, values in figures.items():
        cells = [f"{values[name]:,.1f}" if name in values else "-" for name in names]
        lines.append(kind.ljust(12) + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    unknown = sorted(set(FLAGS.decoders) - set(KINDS))
    if unknown:
        raise SystemExit(f"error: --decoders has {', '.join(unknown)}: give {', '.join(KINDS)}")
    figures = measure(FLAGS.decoders, FLAGS.rows, FLAGS.frames, seconds=FLAGS.seconds)
    print(table(figures))
    about = {"device": jax.devices()[0].device_kind, "rows": FLAGS.rows, "frames": FLAGS.frames}
    text = json.dumps(about | {"decoders": figures})
    print(json.dumps(json.loads(text, parse_float=lambda digits: round(float(digits), 3))))


if __name__ == "__main__":  # flags are global: programs can be imported side by side
    flags.DEFINE_integer("rows", 8, "Lines of a batch.", lower_bound=1)
    flags.DEFINE_integer("frames", 64, "Frames of a line.", lower_bound=2)
    flags.DEFINE_list("decoders", list(KINDS), "Which.")
    flags.DEFINE_float("seconds", 5.0, "How long to time each decoder.", lower_bound=0.0)
    logging.set_verbosity(logging.WARNING)
    program.run(main)
