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
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dig_jax import trees
from dig_jax.methods.shared import base
from dig_jax.text import Charset

# Keys that change no number of a step: where it runs, what it writes down.
NEUTRAL_KEYS = (
    "log",
    "checkpoint",
    "mesh",
    "sharding",
    "profile",
    "compile_cache",
    "data.workers",
    "data.max_bad_share",
)
# May change when a run is resumed. `total` says how far it goes, which its schedules follow.
FREE_KEYS = (*NEUTRAL_KEYS, "total", "evals")


# None is a value of these, too.
OPEN_KEYS = ("data.squeeze_px", "data.contrast", "data.max_width_px")
OPEN_KEYS += ("data.subset", "data.subset_seed", "data.subset_order")


def call(function: Callable[..., Any], where: str, options: dict[str, Any], **given: Any) -> Any:
    """function(**given, **options), with an unknown or missing option turned into a sentence about
    the config.
    """
    parameters = inspect.signature(function).parameters
    known = [name for name in parameters if name not in ("self", *given)]
    for name in options:
        if name not in known and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise ValueError(
                f"{where} has the key {name!r}, which {_title(function)} does not take: "
                f"{hint(name, known)}It takes {known}"
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


def hint(name: str, names: Iterable[str]) -> str:
    """ "did you mean 'lr'? " where a name is near, or has these initials (learning_rate)."""
    names = list(names)
    initials = "".join(word[:1] for word in name.split("_"))
    near = difflib.get_close_matches(name, names, n=1) or [n for n in names if n == initials]
    return f"did you mean {near[0]!r}? " if near else ""


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


def method(
    options: Mapping[str, Any], charset: Charset | None, encoder: Mapping[str, Any] | None
) -> base.Method:
    """The method of config.method; `encoder` stands for the one there."""
    options = {**options, **({"encoder": encoder} if encoder else {})}
    module = load_module("methods", options.pop("name"), "config.method.name")
    given = {"charset": charset} if charset is not None else {}
    return call(module.Method, "config.method", options, **given)


def evaluator(name: str, options: Mapping[str, Any], **given: Any) -> tuple[str, int, Any]:
    """(name, every_steps, evaluator) of config.evals.<name>.

    Options: every_steps (0: only at the end), evaluator (module, if it is not the name: two of one
    kind), the rest are the evaluator's own.
    """
    options = dict(options)
    every, kind = options.pop("every_steps"), options.pop("evaluator", None) or name
    module = load_module("evaluators", kind, f"the name of config.evals.{name}")
    return name, every, call(module.Evaluator, f"config.evals.{name}", options, **given)


def inherit(cfg: dict[str, Any]) -> None:
    """Fill what config.inherit names and the config leaves None from the run in config.init_from or
    config.shape_from.

    So sizes and records are stated once, where they were chosen. `shape_from` takes the config
    only, `init_from` the weights too. What that run leaves to its method's default is left to it
    here. Raises ValueError where a value is missing.
    """
    source = cfg["init_from"] or cfg["shape_from"]
    theirs = {}
    others = bool(cfg["data"].get("train"))  # records of one's own: a choice of theirs is no choice
    if source and cfg["inherit"]:
        from dig_jax.workdir import checkpoint  # needs Orbax, which a config alone does not

        theirs = checkpoint.read_config(source)
    for key in cfg["inherit"]:
        *folders, name = key.split(".")
        mine, other = cfg, theirs
        for folder in folders:
            if not isinstance(mine.get(folder), dict):
                raise ValueError(
                    f"config.inherit names {key!r}, and the config has no {folder!r}: correct it"
                )
            mine, other = mine[folder], other.get(folder, {})
        if others and key.startswith("data.subset"):
            continue
        if mine.get(name) is None:
            if theirs and key == "method.heads" and not other.get(name):
                raise ValueError(
                    f"config.init_from={source} is a pre-training or an imported encoder, so it "
                    "has no recogniser: train one first, as in --config=probe "
                    f"--config.init_from={source}"
                )
            if theirs and folders == ["method"] and other.get(name) is None:
                mine.pop(name, None)
                continue
            mine[name] = other.get(name)
            if key == "method.encoder" and mine[name] and checkpoint.steps(source):
                # A method may drop the encoder's final norm by itself, so the checkpoint is asked.
                mine[name]["final_norm"] = checkpoint.has_subtree(source, "params/encoder/norm")
        if mine.get(name) is None and key not in OPEN_KEYS and not unread(cfg, key):
            where = f" and {source} has none" if source else ""
            how = (
                ""
                if source
                else (
                    ", or name the run to take it from with --config.init_from=DIR (config and "
                    "weights) or --config.shape_from=DIR (config only)"
                )
            )
            raise ValueError(f"config.{key} is not set{where}: give it{how}")
    if cfg["method"].get("channels", 0) is None:  # linked to those of the data in every config
        cfg["method"]["channels"] = cfg["data"]["channels"]


def unread(cfg: Mapping[str, Any], key: str) -> bool:
    """Whether it is the training records of an evaluation that names its own sets."""
    named = any(options.get("datasets") for options in (cfg.get("evals") or {}).values())
    return key == "data.train" and cfg["total"].get("steps") == 0 and named


# Numbers whose lowest and highest value no constructor checks before the first program is compiled.
BOUNDS = (
    (r"seed", 0, 2**32 - 1),
    (r"data\.subset_seed", 0, 2**32 - 1),
    (r"log\.every_steps", 1, None),
    (r"evals\.\w+\.(every_steps|pictures)", 0, None),
    (r"evals\.\w+\.batch_size", 1, None),
    (r"calibrate_batches", 0, None),
    (r"data\.(height_px|width_px|multiple_px|max_pixels|max_label_length|max_width_px)", 1, None),
    (r"data\.max_bad_share", 0, 1),
    (r"optim\.(lr|min_lr|warmup_steps|weight_decay|clip_norm|average)", 0, None),
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
    if data["channels"] not in (None, 1, 3):
        raise ValueError(
            f"config.data.channels is {data['channels']}: set it to 1 (grey) or 3 (colour)"
        )
    if (workers := str(data["workers"])) != "auto" and not workers.isdecimal():
        raise ValueError(
            f"config.data.workers is {workers}: set it to 'auto', 0 (a thread) or a number of "
            "processes"
        )


def check_records(cfg: Mapping[str, Any]) -> None:
    """ValueError where the config names no records."""
    if not cfg["data"].get("train") and not unread(cfg, "data.train"):
        raise ValueError(
            "config.data.train is not set: name records, as in --config.data.train=records/lines"
        )


PATH_KEYS = ("init_from", "shape_from", "compile_cache")
# PATH[@SPLIT][*WEIGHT],...
SPEC_KEYS = r"data\.(train|rehearse)$|evals\.\w+\.(datasets|sets|spec|texts)"


def absolute(cfg: dict[str, Any], cut: Callable[[str], Iterable[str]]) -> dict[str, Any]:
    """The same config with whole paths, "~" expanded: config.json must hold from any folder.

    cut: the parts of a records spec (`records.cut`)."""

    def whole(path: str) -> str:
        return path if "://" in path else os.path.abspath(os.path.expanduser(path))

    def walk(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: walk(v, f"{key}.{name}" if key else name) for name, v in value.items()}
        if key in PATH_KEYS and value not in ("", "auto", "none"):
            return whole(value)
        if re.match(SPEC_KEYS, key) and isinstance(value, str) and value:
            return ",".join(whole(part.strip()) for part in cut(value))
        return value

    return walk(cfg, "")
