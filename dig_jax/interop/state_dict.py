"""State dicts of PyTorch as numpy arrays: .safetensors files, and .pth files where torch is there.

Only numbers are read. A .pth file is a pickle, of which torch opens tensors and plain containers
(weights_only=True); what would run code is refused.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

INSTALL = 'pip install "dig_jax[torch]"'
PICKLES = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".pkl")  # names of checkpoints of torch


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """{name: f32 array}, names of nested containers joined by dots ("model.norm.weight").

    FileNotFoundError or ValueError in one sentence.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: name a .safetensors or .pth file")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix not in PICKLES:
        raise ValueError(
            f"{path} is no state dict by its name: name a .safetensors file, or a checkpoint of "
            "PyTorch (.pth, .pt)"
        )
    try:
        import torch
    except ImportError:
        raise ValueError(
            f"{path} needs PyTorch to be opened: install it with {INSTALL}, or save the state dict "
            "as a .safetensors file"
        ) from None
    try:
        # Official checkpoints keep the options of their command line, which is no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises of damaged files and forbidden names
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"{path} holds more than weights, or is damaged ({reason}): save its state dict alone"
        ) from error
    found = {
        name: leaf.detach().float().numpy()
        for name, leaf in _leaves(content)
        if isinstance(leaf, torch.Tensor)
    }
    if not found:
        raise ValueError(f"{path} holds no tensor: name a checkpoint or a state dict")
    return found


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, "numpy") as file:
            return {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}
    except (SafetensorError, OSError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error})") from error


def _leaves(content: Any, name: str = ""):
    """(name, leaf) of nested dictionaries."""
    if not isinstance(content, Mapping):
        yield name, content
        return
    for key, value in content.items():
        yield from _leaves(value, f"{name}.{key}" if name else str(key))
