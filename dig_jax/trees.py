"""Names of the leaves of a tree: one spelling for rules, checkpoints, configs and messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax


def path_name(path: tuple[Any, ...]) -> str:
    """A JAX key path as "params/encoder/block_0/mlp/kernel".

    Dataclasses, named tuples, lists and dicts look the same, as Orbax stores the first two as
    dicts.
    """
    return "/".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)


def named_leaves(tree: Any) -> dict[str, Any]:
    """{path_name: leaf} of any tree, in tree order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings, such as a config, -> {"a.b": value}. Lists stay values."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    result: dict[str, Any] = {}
    for key, value in tree.items():
        result |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return result


def lies_under(key: str, roots: Any) -> bool:
    """Whether "a.b.c" is one of `roots`, or lies below one of them, such as "a" or "a.b"."""
    return any(key == root or key.startswith(root + ".") for root in roots)
