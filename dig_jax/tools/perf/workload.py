"""A config as a workload: its Experiment on one synthetic batch, without data and without disk.

What bench_step times and plan compiles. Pixels are noise: no shape and so no time depends on them.
A recogniser's charset and label length, which its records would tell, are stated here.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dig_jax import prng
from dig_jax.text import Charset
from dig_jax.train.experiment import Data, Experiment, completed
from dig_jax.train.step import make_train_step

CHARSET = Charset(string.digits + string.ascii_letters + string.punctuation)
LINE_PX = 1024  # width of a recogniser's lines where its config leaves the buckets to the records
PX_A_CHARACTER = 16
TOTAL_STEPS = 1000  # only the schedules depend on it, and no time on them
SCHEDULE = {"warmup_steps": 0, "min_lr": 0.0}  # right for any number of steps and batch


def open_workload(
    config: Mapping[str, Any], encoder: Mapping[str, Any] | None = None, **place: Any
) -> Experiment:
    """The Experiment of a config on synthetic data, with options of its encoder overridden.

    place: `devices` and `device` of Experiment.from_config. ValueError for what contradicts itself.
    """
    unread = {**config["data"], "train": config["data"].get("train") or "none is read"}
    cfg = completed({**config, "data": unread})
    if known := cfg["method"].get("encoder"):
        own = {name: value for name, value in (encoder or {}).items() if name in known}
        cfg["method"] = {**cfg["method"], "encoder": {**known, **own}}
    cfg["optim"] = {**cfg["optim"], **SCHEDULE}
    cfg["total"] = {"steps": TOTAL_STEPS, "epochs": None}
    raw = shapes(cfg)
    data = Data(raw, CHARSET if "label" in raw else None)
    return Experiment.from_config(cfg, data=data, **place)


def gradient(experiment: Experiment) -> Callable[..., Any]:
    """(state, augmented batch) -> loss and gradient: encoder and heads alone."""
    key = lambda: prng.stream(experiment.seed, "loss", 0)

    def call(state: Any, views: Any) -> Any:
        # Read from the state, as in training: with a constant XLA could drop a later phase.
        progress = state.step / experiment.total
        loss = lambda params: experiment.method.loss(params, state, views, key(), progress)
        return jax.value_and_grad(loss, has_aux=True)(state.params)

    return call


def shapes(cfg: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """A global raw batch as the pipeline would deliver it (data/pipeline.py), in shapes."""
    data, rows = cfg["data"], cfg["batch_size"]
    if rows < 1:
        raise ValueError(f"config.batch_size is {rows}: set it to 1 or more")
    of = jax.ShapeDtypeStruct
    labelled = data["kind"] == "lines"
    width = line_px(data) if labelled else data["width_px"]
    batch = {
        "image": of((rows, data["height_px"], width, data["channels"]), jnp.uint8),
        "width": of((rows,), jnp.int32),
        "valid": of((rows,), jnp.bool_),
    }
    if labelled:
        length = data["max_label_length"] or max(width // PX_A_CHARACTER, 1)
        batch |= {"label": of((rows, length), jnp.int32), "label_length": of((rows,), jnp.int32)}
    return batch


def line_px(data: dict[str, Any]) -> int:
    """Width of the widest batch of whole lines: what the images are squeezed to, the last bucket,
    or LINE_PX.
    """
    if data["squeeze_px"]:
        return data["squeeze_px"]
    buckets = data["buckets_px"]
    return LINE_PX if isinstance(buckets, str) or not buckets else int(np.max(buckets))


def fill(raw: dict[str, jax.ShapeDtypeStruct], seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of these shapes: noise of full width, labels that CTC can learn (no repeats)."""
    rows, _, width, _ = raw["image"].shape
    batch = {
        "image": np.random.default_rng(seed).integers(0, 256, raw["image"].shape, np.uint8),
        "width": np.full(rows, width, np.int32),
        "valid": np.ones(rows, np.bool_),
    }
    if "label" in raw:
        length = raw["label"].shape[1]
        batch["label"] = np.tile(
            np.arange(length, dtype=np.int32) % (CHARSET.size - 1) + 1, (rows, 1)
        )
        batch["label_length"] = np.full(rows, length, np.int32)
    return batch


# ---- floating-point operations of matrix products, from shapes


def model_flops(cfg: dict[str, Any]) -> tuple[float, float]:
    """Operations of a step that the model needs, counted by `matmul_flops` and by the compiler (all
    operations, in XLA's program before it optimises).

    Blocks unrolled, nothing computed twice, attention written out, so that the figures are the same
    for every way of running the same step.
    """
    alone = {**cfg, "mesh": {"data": 1}, "accumulate": 1}
    how = {"remat": False, "scan": False, "attention": "xla"}
    exp = open_workload(alone, how)
    step = make_train_step(exp.method, exp.optimizer, exp.seed)
    traced = jax.jit(step).trace(exp.abstract, exp.data.raw)
    return matmul_flops(traced.jaxpr), (traced.lower().cost_analysis() or {}).get("flops", 0.0)


def matmul_flops(closed: Any) -> float:
    """Operations of the matrix products and convolutions that the results of a ClosedJaxpr need; a
    multiply-add is two.

    Counted from the shapes in the trace: no compiler is asked. Products whose result nobody reads
    are left out (gradients of what is frozen). Loops count their turns where the trace knows them,
    else (lax.while_loop) one turn.
    """
    return _count(closed.jaxpr, [True] * len(closed.jaxpr.outvars))


def _count(jaxpr: Any, wanted: list[bool]) -> float:
    read = {id(var) for var, want in zip(jaxpr.outvars, wanted) if want}
    total = 0.0
    for eqn in reversed(jaxpr.eqns):
        out = [id(var) in read for var in eqn.outvars]
        if any(out) or eqn.effects:
            read |= {id(var) for var in eqn.invars}
            total += _operations(eqn, out)
    return total


def _operations(eqn: Any, wanted: list[bool]) -> float:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lhs = eqn.invars[0].aval.shape
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[d] for d in contracted)
    if name == "conv_general_dilated":
        kernel, numbers = eqn.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / kernel[numbers[0]]
    turns = params["length"] if name == "scan" else 1
    inner = list(_inner(params))
    if name == "cond" and params.get("branches_platforms"):  # one program, in other words
        return _count(inner[-1], wanted)  # for all platforms without words of their own
    if name == "cond":
        return max((_count(jaxpr, wanted) for jaxpr in inner), default=0.0)
    # What one turn hands to the next may be read there, so inside loops everything counts as
    # wanted.
    same = (
        len(inner) == 1 and name not in ("scan", "while") and len(inner[0].outvars) == len(wanted)
    )
    return turns * sum(
        _count(jaxpr, wanted if same else [True] * len(jaxpr.outvars)) for jaxpr in inner
    )


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs in the parameters of an equation."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item
