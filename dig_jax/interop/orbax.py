"""Weights as an Orbax checkpoint in weights/, which plain Orbax opens:

from orbax.checkpoint import v1 as ocp
weights = ocp.load("EXPORT/weights")
weights["params"]["encoder"]
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

FOLDER = "weights"


def write(folder: pathlib.Path, weights: Any) -> None:
    ocp.save((folder / FOLDER).resolve(), jax.tree.map(jax.numpy.asarray, weights))


def read(folder: pathlib.Path, shapes: Any) -> Any:
    """The tree that was written, on one device. ValueError for a folder that is broken."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
    wanted = {name: jax.tree.map(place, part) for name, part in shapes.items()}
    try:
        return ocp.load((folder / FOLDER).resolve(), wanted)
    except Exception as error:  # whatever Orbax raises of damaged files
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{folder / FOLDER} cannot be read ({reason}): export again") from error
