"""Weights as weights.safetensors: one array a leaf, named by its path ("params/encoder/...").

As float32, or parameters as float16: half the size; statistics of features stay float32.
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dig_jax import trees

FILE = "weights.safetensors"


def write(folder: pathlib.Path, weights: Any, dtype: str = "float32") -> None:
    leaves = trees.named_leaves(weights)
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in leaves.items()}
    if dtype == "float16":
        small = lambda name, x: x.astype(np.float16) if name.startswith("params/") else x
        arrays = {name: small(name, x) for name, x in arrays.items()}
    # Not save_file: nobody but its owner may read what that writes.
    (folder / FILE).write_bytes(save(arrays, {"format": "dig_jax"}))


def read(folder: pathlib.Path, shapes: Any) -> Any:
    """The tree of `shapes`, with what the file holds. ValueError for a file that is broken."""
    try:
        arrays = load_file(folder / FILE)
        arrays = {
            name: x.astype(np.float32) if x.dtype == np.float16 else x for name, x in arrays.items()
        }
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / FILE} cannot be read ({error}): export it again") from error
    nothing = np.zeros((0, 0, 0))  # of a leaf that is missing: `model.checked` names it
    fill = lambda path, leaf: arrays.pop(trees.path_name(path), nothing)
    tree = jax.tree_util.tree_map_with_path(fill, shapes)
    return tree | arrays  # what is left fits nowhere, which is named, too
