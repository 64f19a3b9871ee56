"""Weights as an Orbax checkpoint in weights/, which plain Orbax opens:

from orbax.checkpoint import v1 as ocp
weights = ocp.load("EXPORT/weights")
weights["params"]["encoder"]
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

FOLDER = "weights"


def write(folder: pathlib.Path, weights: Any) -> None:
    # As numpy: arrays of JAX would ask for the devices that they were saved on.
    ocp.save((folder / FOLDER).resolve(), jax.tree.map(np.asarray, weights))


def read(folder: pathlib.Path, shapes: Any) -> Any:
    """The tree that was written. ValueError for a folder that is broken."""
    try:
        return {"mutable": {}} | ocp.load((folder / FOLDER).resolve())
    except Exception as error:  # whatever Orbax raises of damaged files
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{folder / FOLDER} cannot be read ({reason}): export again") from error
