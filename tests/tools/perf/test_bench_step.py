"""bench_step: figures that add up, operations against closed formulas, and no package but the few
of a bare JAX machine.
"""

import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from dig_jax.configs.pretrain import dig
from dig_jax.configs.recognize import probe, scratch
from dig_jax.models import encoders
from dig_jax.tools.perf import bench_step, workload
from dig_jax.train import command_line

ROOT = pathlib.Path(__file__).parents[3]


def complete(config):
    """With all its options, as the command line has it."""
    return command_line.complete(config).to_dict()


def micro(arg="", **changes):
    config = dig.get_config(f"preset=cpu,objective=gen,quick,dtype=float32{arg}")
    config.update_from_flattened_dict({"data.width_px": 64, **changes})
    return config.to_dict()


@pytest.mark.slow
def test_figures_add_up(monkeypatch):
    monkeypatch.setitem(bench_step.MATMUL, "cpu", 64)
    cfg = command_line.complete(dig.get_config("preset=cpu,objective=gen,quick"))
    cfg.update_from_flattened_dict({"data.width_px": 64, "method.encoder.depth": 1, "mesh.data": 1})
    figures = bench_step.measure(cfg.to_dict(), seconds=0.2)
    assert json.loads(json.dumps(figures)) == figures and "lines/s" in bench_step.report(figures)
    numbers = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
    assert all(math.isfinite(value) for value in numbers.values()) and figures["repetitions"] >= 3
    assert (figures["config"], figures["batch_size"], figures["image_px"]) == ("dig", 8, [32, 64])
    assert sum(
        figures[f"share_{name}"] for name in ("augment", "encoder", "heads", "rest")
    ) == pytest.approx(1)
    assert figures["lines_per_s"] == pytest.approx(8 / figures["ms_a_step"] * 1e3)
    assert figures["gflops_per_s"] == pytest.approx(
        figures["gflop_analytical"] / figures["ms_a_step"] * 1e3
    )
    ceiling = figures[f"matmul_{figures['dtype']}_gflops_per_s"]
    assert figures["mfu"] == pytest.approx(figures["gflops_per_s"] / ceiling)
    # The compiler also counts what is no matrix product: more, and at this size not much more.
    assert 1 < figures["gflop_compiler"] / figures["gflop_analytical"] < 1.5
    assert 0 < figures["temporary_mb"] < figures["rss_mb"] and figures["peak_mb"] is None


@pytest.mark.slow
def test_operations_follow_the_formula_of_a_transformer():
    """Forward: 24 N D^2 + 4 N^2 D a block and row, 2 N values D for the patches, and the decoder;
    three times that with the backward pass, less the gradient of the pixels."""
    cfg = micro(**{"batch_size": 3})
    encoder = encoders.sized(cfg["method"]["encoder"])
    rows, tokens, width, depth, values = 3, 64 // 4, encoder["width"], encoder["depth"], 32 * 4
    hidden = cfg["method"]["decoder_width"]
    blocks = depth * (24 * tokens * width**2 + 4 * tokens**2 * width)
    decoder = 2 * tokens * (width * hidden + hidden * hidden + hidden * values)
    embed = 2 * tokens * values * width
    analytical, compiler = workload.model_flops(cfg)
    assert analytical == rows * (3 * (blocks + decoder) + 2 * embed)
    assert analytical < compiler < 1.5 * analytical
    again, _ = workload.model_flops(
        micro(**{"batch_size": 3, "method.encoder.scan": True, "method.encoder.remat": True})
    )
    assert again == analytical  # the model needs no more when it is run another way


def test_operations_of_loops_branches_and_dead_code():
    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    count = lambda f: workload.matmul_flops(jax.make_jaxpr(f)(x)) / (2 * 8**3)
    assert count(lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, None, length=5)[0]) == 5
    assert count(lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)) == 2
    assert count(lambda x: (jax.jit(lambda x: (x @ x, x + 1))(x)[1], (x @ x)[:0])[0]) == 0
    loss = lambda x: jnp.sum(jax.checkpoint(lambda x: jnp.sin(x @ x) @ x)(x))
    assert count(jax.value_and_grad(loss)) == 2 + 1 + 4  # forwards, the first one again, backwards
    assert count(jax.grad(loss)) == 1 + 4


@pytest.mark.slow
def test_workload_of_a_recogniser():
    """A frozen probe needs the forward pass alone of its encoder; fine-tuning three times as
    much.
    """
    cfg = complete(scratch.get_config("preset=plain,size=nano,quick"))
    raw = workload.shapes(cfg)
    assert raw["image"].shape == (8, 32, workload.LINE_PX, 1) and raw["label"].shape == (
        8,
        workload.LINE_PX // 16,
    )
    batch = workload.fill(raw)
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in raw.items()
    }
    assert (batch["label"] > 0).all() and (batch["label"] < workload.CHARSET.size).all()
    frozen = complete(probe.get_config("quick"))
    frozen["method"]["encoder"], frozen["data"] = cfg["method"]["encoder"], cfg["data"]
    frozen["method"]["heads"] = dict(list(frozen["method"]["heads"].items())[:1])
    frozen["optim"]["rules"] = [("^heads/", {}), ("", {"freeze": True})]
    whole, part = workload.model_flops(cfg)[0], workload.model_flops(frozen)[0]
    assert 2.5 < whole / part < 3


BARE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"grain", "tensorflow_datasets", "cv2", "array_record", "orbax", "etils", "PIL",
                                  "rapidfuzz", "tensorboardX", "tqdm", "matplotlib", "torch", "importlib_resources"}:
            raise ImportError(name + " is not on this machine")
sys.meta_path.insert(0, Block())
for name in list(sys.modules):
    assert name.split(".")[0] not in ("grain", "cv2", "orbax"), name
import json, os, runpy
import flax, jax, ml_collections, optax
for command in json.loads(sys.argv[1]):  # each in a fork: their flags are global
    child = os.fork()
    if not child:
        sys.argv = command
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        sys.exit()
    print("ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_runs_on_a_bare_jax_machine():
    """With no data library, no checkpoint library and no records; orbax and etils come with flax
    and are not needed either.
    """
    program = "dig_jax.tools.perf.bench_step"
    config = "--config=configs/pretrain/dig.py:preset=cpu,objective=gen,quick"
    timed = [program, "--seconds=0", "--split=false", config, "--config.method.encoder.depth=1"]
    # A recogniser, whose evaluators score text and write pictures: its config is read as well.
    config = "--config=configs/recognize/scratch.py:size=nano,quick"
    wrong = [program, config, "--config.batch_size=0"]
    command = [sys.executable, "-c", BARE, json.dumps([timed, wrong])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    *_, line, first, second = done.stdout.splitlines()
    assert (first, second) == ("ended with 0", "ended with 1"), done.stderr
    figures = json.loads(line)
    assert figures["lines_per_s"] > 0 and "share_rest" not in figures
    assert done.stderr.splitlines()[-1].startswith("error: config.batch_size is 0"), done.stderr
