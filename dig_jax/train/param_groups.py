"""How each parameter is trained: ordered path rules, weight decay by shape, layer decay."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dig_jax import trees

Rules = Sequence[tuple[str, Mapping[str, Any]]]
WHERE = "config.optim.rules"
# What a rule may set, and what it sets where it is silent; the decay is then the optimiser's.
RULE = {
    "lr_scale": 1.0,
    "freeze": False,
    "freeze_frac": 0.0,
    "weight_decay": None,
    "schedule": None,
}
# Which values it may have: in words, and the test.
VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "lr_scale": ("0 or more", lambda x: _number(x) and 0 <= x < math.inf),
    "freeze": ("True or False", lambda x: isinstance(x, bool)),
    "freeze_frac": ("a share of the steps, from 0 to 1", lambda x: _number(x) and 0 <= x <= 1),
    "weight_decay": ("0 or more, or None", lambda x: x is None or _number(x) and 0 <= x < math.inf),
    "schedule": ("the name of one, or None", lambda x: x is None or isinstance(x, str)),
}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class ParamGroup:
    """How one parameter is trained.

    lr_scale  a number or, for stacked blocks, an array that broadcasts to it
    schedule  the shape of its rate, None = everybody's
    start     the step before which it is held
    """

    lr_scale: Any = 1.0
    weight_decay: float = 0.0
    freeze: bool = False
    schedule: str | None = None
    start: int = 0


def param_groups(
    params: Any, weight_decay: float, rules: Rules, layer_decay: float | None, total_steps: int
) -> Any:
    """Tree of ParamGroup, one for every parameter."""
    named = trees.named_leaves(params)
    overrides = _match(list(named), rules)
    frozen = {path for path, rule in overrides.items() if rule.get("freeze")}
    moving = {path: leaf for path, leaf in named.items() if path not in frozen}
    scales = layer_scales(moving, layer_decay) if layer_decay else {}
    result = []
    for path, leaf in named.items():
        decay = weight_decay if _decays(path, leaf) else 0.0
        rule = RULE | dict(overrides.get(path, {}))
        group = ParamGroup(
            lr_scale=scales.get(path, 1.0) * rule["lr_scale"],
            weight_decay=decay if rule["weight_decay"] is None else rule["weight_decay"],
            freeze=rule["freeze"],
            schedule=rule["schedule"],
            start=math.ceil(rule["freeze_frac"] * total_steps),
        )
        result.append(group)
    return jax.tree.unflatten(jax.tree.structure(params), result)


def _decays(path: str, leaf: Any) -> bool:
    """Weights of two or more dimensions; stacked blocks (scan) give biases and norms a second one,
    hence the name. A table of positions is no weight.
    """
    return leaf.ndim >= 2 and not path.split("/")[-1].endswith(("bias", "scale", "position"))


def _match(names: list[str], rules: Rules) -> dict[str, Mapping[str, Any]]:
    """{path: the first rule that is found in it}. Raises ValueError for idle rules, bare
    parameters, unknown keys.
    """
    chosen: dict[str, Mapping[str, Any]] = {}
    for pattern, rule in trees.checked_rules(rules, WHERE, Mapping, "{'lr_scale': 0.1}"):
        unknown = set(rule) - set(RULE)
        if unknown:
            raise ValueError(
                f"rule {pattern!r} of config.optim.rules has {sorted(unknown)}: a rule may set "
                f"{tuple(RULE)}"
            )
        for name, value in rule.items():
            words, fits = VALUES[name]
            if not fits(value):
                raise ValueError(
                    f"rule {pattern!r} of {WHERE} has {name}={value!r}: set it to {words}"
                )
        hits = [n for n in names if n not in chosen and re.search(pattern, n)]
        if not hits:
            raise ValueError(
                f"rule {pattern!r} of config.optim.rules decides about no parameter (no path "
                "matches, or earlier rules took them all): correct or remove it. Paths look like "
                f"{names[0]!r} and {names[-1]!r}"
            )
        chosen.update(dict.fromkeys(hits, rule))
    bare = [n for n in names if n not in chosen]
    if rules and bare:
        raise ValueError(
            f"{len(bare)} parameters have no rule in config.optim.rules, the first is {bare[0]!r}: "
            f"add a rule for them, or ('.*', {{}}) as the last one"
        )
    return chosen


def layer_scales(named: Mapping[str, Any], decay: float) -> dict[str, Any]:
    """Learning-rate scale of every parameter under layer-wise decay (methods.md 15.2, as in BEiT
    and DiG).

    With n blocks: decay ** (n + 1) for the embedding (patches, mask token, positions), decay ** (n
    - i) for block i, 1 for the rest (final norm, heads). Blocks are "encoder/block_<i>/...", or
    "encoder/blocks/..." stacked on axis 0. named: the parameters that train, so the decay begins at
    the block that is read where those above it are frozen.
    """
    single = {n: int(m[1]) for n in named if (m := re.match(r"encoder/blocks?_(\d+)/", n))}
    stacked = [n for n in named if n.startswith("encoder/blocks/")]
    depth = 1 + max(single.values()) if single else (named[stacked[0]].shape[0] if stacked else 0)
    if not depth:
        raise ValueError(
            "config.optim.layer_decay is set but params['encoder'] has no block that trains: set "
            "it to None"
        )
    scales: dict[str, Any] = {}
    for path, leaf in named.items():
        if path in single:
            scales[path] = decay ** (depth - single[path])
        elif path in stacked:
            column = decay ** (depth - jnp.arange(depth, dtype=jnp.float32))
            scales[path] = column.reshape((depth,) + (1,) * (leaf.ndim - 1))
        elif re.match(r"encoder/(?!(final_|last_)?norm)", path):
            scales[path] = decay ** (depth + 1)
        else:
            scales[path] = 1.0
    return scales
