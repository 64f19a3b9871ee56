"""Names of the leaves of a tree: one spelling for rules, checkpoints, configs and messages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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


def checked_rules(rules: Any, where: str, kind: type | tuple[type, ...], such: str) -> Sequence:
    """Rules (pattern, value), each of which decides about the paths that its pattern is found in.

    where: what a message calls them. kind, such: types of a value, and what one looks like.
    ValueError for another thing, and for a pattern that is no regular expression.
    """
    if not isinstance(rules, list | tuple):
        raise ValueError(f"{where} is {rules!r}: write (('PATTERN', {such}), ..)")
    for rule in rules:
        two = isinstance(rule, list | tuple) and len(rule) == 2
        if not (two and isinstance(rule[0], str) and isinstance(rule[1], kind)):
            raise ValueError(f"{where} has the rule {rule!r}: write ('PATTERN', {such})")
        try:
            re.compile(rule[0])
        except re.error as error:
            raise ValueError(
                f"pattern {rule[0]!r} of {where} is no regular expression: {error}"
            ) from None
    return rules


def lies_under(key: str, roots: Any) -> bool:
    """Whether "a.b.c" is one of `roots`, or lies below one of them, such as "a" or "a.b"."""
    return any(key == root or key.startswith(root + ".") for root in roots)
