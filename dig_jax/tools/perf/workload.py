"""A config as a workload: one synthetic batch, the method, the optimiser and the step, without data
and without disk.

What bench_step times and plan compiles. Pixels are noise: no shape and so no time depends on them.
A recogniser's charset and label length, which its records would tell, are stated here.
"""

from __future__ import annotations

import dataclasses
import math
import string
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dig_jax import config as build
from dig_jax import prng, sharding
from dig_jax.text import Charset
from dig_jax.train import accumulate, optim
from dig_jax.train import state as states
from dig_jax.train.step import jit_train_step, make_train_step

CHARSET = Charset(string.digits + string.ascii_letters + string.punctuation)
LINE_PX = 1024  # width of a recogniser's lines where its config leaves the buckets to the records
PX_A_CHARACTER = 16
TOTAL_STEPS = 1000  # only the schedules depend on it, and no time on them
SCHEDULE = {"warmup_steps": 0, "min_lr": 0.0}  # right for any number of steps and batch


@dataclasses.dataclass(frozen=True)
class Workload:
    """One step of a config. raw: {name: ShapeDtypeStruct} of a global batch. create(raw) is the
    first state, step(state, raw) -> (state, metrics) the step on one device with the whole batch at
    once; both pure, to be jitted."""

    cfg: dict[str, Any]
    method: Any
    optimizer: optim.Optimizer
    raw: dict[str, jax.ShapeDtypeStruct]
    step: Callable[..., Any]

    def augment(self, raw: Any) -> Any:
        return self.method.augment(prng.stream(0, "augment", 0), raw)

    def create(self, raw: Any) -> states.TrainState:
        return states.create(
            self.method, self.optimizer.tx, self.augment(raw), prng.stream(0, "init")
        )

    def abstract(self) -> states.TrainState:
        """Shapes of the state; nothing is computed."""
        return jax.eval_shape(self.create, self.raw)

    def jitted(self, mesh: Any) -> Any:
        """The step as the trainer jits it for a mesh, the state donated."""
        return jit_train_step(
            self.method, self.optimizer, TOTAL_STEPS, self.cfg, mesh, self.abstract()
        )

    def shardings(self, mesh: Any) -> states.TrainState:
        """Of the state."""
        return sharding.state_sharding(self.abstract(), mesh, self.cfg.get("sharding", ()))

    def gradient(self, state: states.TrainState, views: Any) -> Any:
        """Loss and gradient of augmented views: encoder and heads, without augmentation and
        optimiser.
        """
        # Read from the state, as in training: a constant would let XLA drop what a phase of the
        # training leaves out.
        progress = state.step / 1000
        loss = lambda params: self.method.loss(
            params, state, views, prng.stream(0, "loss", 0), progress
        )
        return jax.value_and_grad(loss, has_aux=True)(state.params)


def open_workload(cfg: dict[str, Any], **encoder: Any) -> Workload:
    """The workload of an expanded config, with options of its encoder overridden. ValueError for
    what contradicts itself.
    """
    cfg = {
        **cfg,
        "method": dict(cfg["method"]),
        "data": {**cfg["data"], "train": cfg["data"].get("train") or "none is read"},
    }
    build.inherit(cfg)
    if encoder and cfg["method"].get("encoder"):
        known = cfg["method"]["encoder"]
        cfg["method"]["encoder"] = {
            **known,
            **{name: value for name, value in encoder.items() if name in known},
        }
    raw = shapes(cfg)
    method = build.method(cfg, CHARSET if "label" in raw else None)
    accumulate.check(accumulate.parts(cfg), method)
    views = lambda batch: method.augment(prng.stream(0, "augment", 0), batch)
    params = jax.eval_shape(
        lambda batch: method.init(prng.stream(0, "init"), views(batch))["params"], raw
    )
    optimizer = build.call(
        optim.create, "config.optim", {**cfg["optim"], **SCHEDULE}, params=params, total_steps=TOTAL_STEPS,
        batch_size=cfg["batch_size"],
    )  # fmt: skip
    return Workload(
        cfg, method, optimizer, raw, make_train_step(method, optimizer, TOTAL_STEPS, cfg["seed"])
    )


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
        length = data.get("max_label_length") or max(width // PX_A_CHARACTER, 1)
        batch |= {"label": of((rows, length), jnp.int32), "label_length": of((rows,), jnp.int32)}
    return batch


def line_px(data: dict[str, Any]) -> int:
    """Width of the widest batch of whole lines: what the images are squeezed to, the last bucket,
    or LINE_PX.
    """
    if data.get("squeeze_px"):
        return data["squeeze_px"]
    buckets = data.get("buckets_px")
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


# ---- floating-point operations of matrix products, from shapes ------------------------------------------------------------


def model_flops(cfg: dict[str, Any]) -> tuple[float, float]:
    """Operations of a step that the model needs, counted by `matmul_flops` and by the compiler (all
    operations, in XLA's program before it optimises).

    Blocks unrolled, nothing computed twice, attention written out, so that the figures are the same
    for every way of running the same step.
    """
    work = open_workload(cfg, remat=False, scan=False, attention="xla")
    traced = jax.jit(work.step).trace(work.abstract(), work.raw)
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
