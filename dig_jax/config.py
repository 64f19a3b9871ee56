"""From a config to objects: calls by name whose mistakes become sentences, and the files that
describe a run.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import os
import re
from collections.abc import Callable
from typing import Any

from dig_jax import trees
from dig_jax.methods.shared import base
from dig_jax.text import Charset

# Keys that change no number of a step: where it runs, what it writes down.
NEUTRAL_KEYS = (
    "log",
    "checkpoint",
    "mesh",
    "devices",  # what mesh.data was called
    "sharding",
    "profile",
    "compile_cache",
    "data.workers",
    "data.max_bad_share",
)
# May change when a run is resumed. `total` says how far it goes, which its schedules follow.
FREE_KEYS = (*NEUTRAL_KEYS, "total", "evals")


OPEN_KEYS = ("data.squeeze_px", "data.contrast")  # None is a value of these, too


def call(function: Callable[..., Any], where: str, options: dict[str, Any], **given: Any) -> Any:
    """function(**given, **options), with an unknown or missing option turned into a sentence about
    the config.
    """
    parameters = inspect.signature(function).parameters
    known = [name for name in parameters if name not in ("self", *given)]
    for name in options:
        if name not in known and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"{where} has the key {name!r}, which {_title(function)} does not take: {hint}It takes {known}"
            )
    absent = [
        n for n in known if n not in options and parameters[n].default is inspect.Parameter.empty
    ]
    absent = [
        n
        for n in absent
        if parameters[n].kind
        not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]
    if absent:
        raise ValueError(
            f"{where} lacks {absent}, which {_title(function)} needs: add it to the config"
        )
    return function(**given, **options)


def _title(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def load_module(package: str, name: str, where: str) -> Any:
    """The module dig_jax.<package>.<name>; ValueError that lists the existing ones where there is
    none.
    """
    path = f"dig_jax.{package}.{name}"
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise  # the module exists, something that it imports does not
        folder = os.path.join(os.path.dirname(__file__), package)
        names = sorted(
            f[:-3] for f in os.listdir(folder) if f.endswith(".py") and f != "__init__.py"
        )
        raise ValueError(
            f"{where} is {name!r}, but there is no {path}: choose one of {names}"
        ) from error


def method(cfg: dict[str, Any], charset: Charset | None) -> base.Method:
    options = dict(cfg["method"])
    name = options.pop("name")
    given = {"charset": charset} if charset is not None else {}
    return call(
        load_module("methods", name, "config.method.name").Method, "config.method", options, **given
    )


def evaluator(
    name: str,
    options: dict[str, Any],
    method: base.Method,
    mesh: Any,
    workdir: str,
    cfg: dict[str, Any],
) -> tuple[str, int, Any]:
    """(name, every_steps, evaluator). Options: every_steps (0 or absent: only at the end),
    evaluator (module, if it is not the name: two of one kind), the rest are the evaluator's own."""
    options = dict(options)
    every = options.pop("every_steps", 0) or 0
    module = load_module(
        "evaluators", options.pop("evaluator", None) or name, f"the name of config.evals.{name}"
    )
    given = {"method": method, "mesh": mesh, "workdir": workdir, "data": cfg["data"]}
    return name, every, call(module.Evaluator, f"config.evals.{name}", options, **given)


def inherit(cfg: dict[str, Any]) -> None:
    """Fill what config.inherit names and the config leaves None from the run in config.init_from or
    config.like.

    So sizes and records are stated once, where they were chosen. `like` takes the config only,
    `init_from` the weights too. What that run leaves to its method's default is left to it here.
    Raises ValueError where a value is missing.
    """
    source = cfg.get("init_from") or cfg.get("like")
    theirs = {}
    if source and cfg.get("inherit"):
        from dig_jax.workdir import (
            checkpoint,
        )  # needs Orbax, and who builds from a config alone does not

        theirs = checkpoint.read_config(source)
    for key in cfg.get("inherit", ()):
        *folders, name = key.split(".")
        mine, other = cfg, theirs
        for folder in folders:
            mine, other = mine[folder], other.get(folder, {})
        if mine.get(name) is None:
            if theirs and folders == ["method"] and name not in other:
                mine.pop(name, None)
                continue
            mine[name] = other.get(name)
            if key == "method.encoder" and mine[name] and checkpoint.steps(source):
                # A method may drop the encoder's final norm by itself, so the checkpoint is asked,
                # not the config.
                mine[name]["final_norm"] = checkpoint.has_subtree(source, "params/encoder/norm")
        if mine.get(name) is None and key not in OPEN_KEYS:
            where = f" and {source} has none" if source else ""
            how = ", or name the run to take it from with --config.init_from=DIR (config and weights) or "
            how = "" if source else how + "--config.like=DIR (config only)"
            raise ValueError(f"config.{key} is not set{where}: give it{how}")


# Numbers whose lowest and highest value no constructor checks before the first program is compiled.
BOUNDS = (
    (r"seed", 0, 2**32 - 1),
    (r"data\.subset_seed", 0, 2**32 - 1),
    (r"log\.every_steps", 1, None),
    (r"evals\.\w+\.every_steps", 0, None),
    (r"calibrate_batches", 0, None),
    (r"data\.(height_px|width_px|multiple_px|max_pixels|max_label_length|max_width_px)", 1, None),
    (r"data\.max_bad_share", 0, 1),
    (r"optim\.(lr|min_lr|warmup_steps|weight_decay|clip_norm)", 0, None),
    (r"optim\.(momentum|drop)", 0, 1),
)


def check(cfg: dict[str, Any]) -> None:
    """ValueError for a value of the expanded config that would be met too late, after minutes of
    compilation.
    """
    for key, value in trees.flatten(cfg).items():
        for pattern, least, most in BOUNDS:
            if not re.fullmatch(pattern, key) or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"config.{key} is {value!r}: set it to a number")
            if not least <= value <= (math.inf if most is None else most) or value == math.inf:
                span = f"{least} or more" if most is None else f"a number from {least} to {most}"
                raise ValueError(f"config.{key} is {value}: set it to {span}")
    data = cfg["data"]
    if not data.get("train"):
        raise ValueError(
            "config.data.train is not set: name records, as in --config.data.train=records/lines"
        )
    if data.get("channels") not in (None, 1, 3):
        raise ValueError(
            f"config.data.channels is {data['channels']}: set it to 1 (grey) or 3 (colour)"
        )
    if (workers := str(data.get("workers", "auto"))) != "auto" and not workers.isdecimal():
        raise ValueError(
            f"config.data.workers is {workers}: set it to 'auto', 0 (a thread) or a number of processes"
        )


def absolute(cfg: dict[str, Any]) -> dict[str, Any]:
    """The same config with whole paths to other runs: what config.json says must hold from any
    folder.
    """
    paths = {
        key: os.path.abspath(cfg[key])
        for key in ("init_from", "like")
        if cfg.get(key) and "://" not in cfg[key]
    }
    return cfg | paths
