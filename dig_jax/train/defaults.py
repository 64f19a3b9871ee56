"""The defaults of a config: what it leaves out, as the code that takes it has it.

A config states an experiment. `filled` adds every other option at the default of the constructor
that takes it. So config.json is complete and the command line knows all keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dig_jax.config import load_module
from dig_jax.data import limits, pipeline, records
from dig_jax.models import encoders
from dig_jax.train import optim
from dig_jax.workdir.checkpoint import Checkpoints

# What the trainer itself reads.
RUN: dict[str, Any] = {
    "seed": 0,
    "batch_size": 256,  # over all devices
    "total": {"steps": None, "epochs": None},  # one of the two
    "init_from": "",  # a work folder whose parts are taken over before step 0
    "init_parts": ("params/encoder",),  # "teacher/encoder->params/encoder": under another name
    "init_checkpoint": "last",  # or "best", by that run's own best_metric
    "shape_from": "",  # a work folder of which only the config serves, see config.inherit
    "inherit": (),  # keys such as "method.encoder": None there = the value of that run
    "calibrate_batches": 0,  # training batches that the method looks at before step 0
    "evals": {},  # {evaluator: {"every_steps": n, ...}}; each one also runs at the end
    "log": {"every_steps": 50},
    "checkpoint": {},  # see dig_jax/workdir/checkpoint.py
    # Devices along each axis; -1: the rest of them. Rows are split over data and fsdp, parameters
    # over fsdp and tensor.
    "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
    "sharding": (),  # rules before those of dig_jax/sharding.py
    "accumulate": 1,  # parts of a batch, one after the other (dig_jax/train/accumulate.py)
    "profile": "",  # "10-20": a profiler trace of these steps in WORKDIR/profile
    "compile_cache": "auto",  # a folder, none, or auto (dig_jax/train/compile_cache.py)
}
READING = {"workers": "auto", "max_bad_share": 0.01}  # config.data, read by the loop
DATA = {"crops": pipeline.pretrain, "lines": pipeline.recognition}  # by config.data.kind


def filled(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The config with all that it leaves out. ValueError for a method or evaluator that is not."""
    cfg = _over(RUN, cfg)
    data = dict(cfg["data"])
    if data.get("kind") not in DATA:
        raise ValueError(
            f"config.data.kind is {data.get('kind')!r}: set it to 'crops' (pre-training) or "
            "'lines' (recognition)"
        )
    sets = options(records.open_sets, "spec", "labelled")
    given = ("mixture", "batch_size", "charset", "seed", "process_index", "process_count")
    limited = options(limits.learnable, "frame_px", "ctc") if data["kind"] == "lines" else {}
    cfg["data"] = {**READING, **sets, **options(DATA[data["kind"]], *given), **limited, **data}
    module = load_module("methods", cfg["method"]["name"], "config.method.name")
    cfg["method"] = options(module.Method, "charset", "encoder") | dict(cfg["method"])
    if encoder := cfg["method"].get("encoder"):
        cfg["method"]["encoder"] = encoders.defaults(encoder) | dict(encoder)
    given = ("params", "total_steps", "batch_size")
    cfg["optim"] = options(optim.create, *given) | dict(cfg["optim"])
    cfg["checkpoint"] = options(Checkpoints, "workdir") | dict(cfg["checkpoint"])
    for name, own in cfg["evals"].items():
        kind = own.get("evaluator") or name
        module = load_module("evaluators", kind, f"the name of config.evals.{name}")
        given = ("method", "mesh", "workdir", "data")
        cfg["evals"][name] = {"every_steps": 0, **options(module.Evaluator, *given), **own}
    return cfg


def options(function: Callable[..., Any], *given: str) -> dict[str, Any]:
    """{name: default} of the arguments that have one, without those that the trainer gives."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty and name not in given
    }


def _over(defaults: Mapping[str, Any], cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The config over the defaults, folder by folder; its evaluations are its own."""
    result = dict(defaults)
    for name, value in cfg.items():
        inside = isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping)
        result[name] = _over(defaults[name], value) if inside else value
    return result
