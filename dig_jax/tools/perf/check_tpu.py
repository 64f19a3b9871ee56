"""Does every preset compile for a TPU, and fit? XLA's own compiler answers, without a TPU.

    python -m dig_jax.tools.perf.check_tpu                  all cases, for 4 x v5e
    python -m dig_jax.tools.perf.check_tpu --only=mae,long  those whose name has one of these words
    python -m dig_jax.tools.perf.check_tpu --device=h100 --chips=1      the same for a GPU
    make check-tpu

The cases are the presets `lines` and `words` of every pre-training config, and training on long
lines. `plan --compiler=tpu` compiles each in a process of its own, with its blocks scanned and with
the least effort of optimisation, which is faster and takes a little more memory on the chip
(docs/performance.md). JAX_EXEC_TIME_OPTIMIZATION_EFFORT=0 is the usual effort, and the only one of
JAX 0.11 and newer. An unchanged program is not compiled again (plan's cache). The batch of a chip
is small, 16 lines: it changes the memory, and hardly the time of compiling.

A table and one JSON object follow. Exit code 1 names what did not compile, or did not fit.
"""

import importlib
import json
import os
import subprocess
import sys

from absl import app, flags

from dig_jax.models import encoders
from dig_jax.tools import program
from dig_jax.tools.perf import targets
from dig_jax.tools.perf.remedies import gb
from dig_jax.train import command_line

FLAGS = flags.FLAGS
# Lines of 1,792 px, archiscribe's longest, are 3,584 tokens at patch 4.
LONG = ["--config=scratch:size=S,patch=4x4,batch=8", "--config.data.buckets_px=1792"]
# cuDNN is a library apart, and makes its kernels on the card alone.
WITHOUT_CUDNN = "--config.method.encoder.attention=blocks"
SCANNED = "--config.method.encoder.scan=True"
LEAST_EFFORT = {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1"}  # of JAX, from -1 to 1


def cases(batch: int) -> dict[str, list[str]]:
    """{name: flags of plan}: of each config the first preset of each family."""
    found = {}
    for path in sorted((command_line.CONFIGS / "pretrain").glob("[!_]*.py")):
        names = importlib.import_module(f"dig_jax.configs.pretrain.{path.stem}").PRESETS
        for family in ("lines", "words"):
            if preset := next((name for name in names if name.startswith(family)), None):
                text = f"{path.stem}:preset={preset},batch={batch}"
                given = [f"--config={text}"]
                found[f"{path.stem} {preset}"] = given + [SCANNED] * vit(given)
    return found | {"long lines": [*LONG, SCANNED]}


def vit(given: list[str]) -> bool:
    """Whether the encoder of a case is one, whose blocks can be scanned."""
    config = command_line.load(given[0].removeprefix("--config="))
    return encoders.kind_of(config.method.encoder) == "vit"


def compiled(given: list[str], device: str, chips: int, limit_s: float) -> dict:
    """What plan says of a case: its figures, or {"error": a sentence}."""
    compiler = "gpu" if device in targets.CARDS else "tpu"
    command = [sys.executable, "-m", "dig_jax.tools.perf.plan", *given, f"--device={device}"]
    command += [f"--mesh=data={chips}", f"--compiler={compiler}"]
    if compiler == "gpu" and vit(given):
        command.append(WITHOUT_CUDNN)
    asked = LEAST_EFFORT | os.environ
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=limit_s, env=asked
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not compiled within {limit_s:.0f} s"}
    last = done.stdout.strip().rpartition("\n")[2]
    if done.returncode or not last.startswith("{"):
        return {"error": f"the compiler ended with exit code {done.returncode}: see above"}
    return json.loads(last)


def row(name: str, figures: dict) -> str:
    """A line of the table."""
    if "error" in figures:
        return f"{name:<26}{figures['error']}"
    if not figures["fits"]:
        return f"{name:<26}does not fit: {gb(figures['over_bytes'])} too many on a chip"
    sent = gb(sum(kind["bytes"] for kind in figures["collectives"].values()))
    held, rows = figures["bytes"], figures["batch_size"] // figures["devices"]
    peak = gb(figures["peak_bytes"] or held["total"])
    return (
        f"{name:<26}{rows:>6}{peak:>10}{gb(held['temporary']):>12}{sent:>10}"
        f"{figures['gflop_a_device']:>12,.0f}{figures['compile_s']:>8.0f} s"
    )


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    wanted = {
        name: given
        for name, given in cases(16 * FLAGS.chips).items()
        if not FLAGS.only or any(word in name for word in FLAGS.only)
    }
    if not wanted:
        raise ValueError(f"--only={','.join(FLAGS.only)}: no case is called so")
    header = f"{FLAGS.chips} x {FLAGS.device}, *compiled*"
    columns = f"{'lines':>6}{'peak':>10}{'temporary':>12}{'sent':>10}{'GFLOP':>12}{'compiled':>10}"
    print(f"{header:<26}{columns}", flush=True)
    found = {}
    for name, given in wanted.items():
        found[name] = compiled(given, FLAGS.device, FLAGS.chips, FLAGS.limit_s)
        print(row(name, found[name]), flush=True)
    wrong = [name for name, figures in found.items() if not figures.get("fits")]
    print(json.dumps({"cases": found, "failed": wrong}))
    if wrong:
        print(f"error: {len(wrong)} of {len(found)} cases: {', '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    flags.DEFINE_list("only", [], "Words of the names of cases; nothing: all of them.")
    flags.DEFINE_enum("device", "v5e", ["v5e", "v5p", "v6e", *targets.CARDS], "Chip or card.")
    flags.DEFINE_integer("chips", 4, "Chips, along the axis data.", lower_bound=1)
    flags.DEFINE_float("limit_s", 3600.0, "Seconds for one case.")
    program.run(main)
