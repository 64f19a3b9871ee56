"""A ViT as a state dict of PyTorch in model.safetensors, with timm's names: the way back.

examples/torch_encoder.py is the network. The proof is the importer: what it makes of the state dict
gives the features of the model; tests compare with networks in PyTorch.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save

from dig_jax.interop import import_vit, parity, stablehlo
from dig_jax.interop.model import Model
from dig_jax.models import vit
from dig_jax.models.transformer import of_block

FILE = "model.safetensors"
BOUND = 1e-5
WIDEST_PX = 4096  # a table of positions is written for lines up to this width


def write(
    folder: pathlib.Path, model: Model, batches: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, Any]:
    """Writes the state dict of an encoder and proves it. ValueError for what is no ViT."""
    model = stablehlo.of_dtype(model, "float32")
    (folder / FILE).write_bytes(save(state_dict(model), {"format": "pt"}))
    state = load_file(folder / FILE)
    back = import_vit.convert(state, None, heads=model.encoder().heads, channels=None)
    theirs = {"params": {"encoder": back.params}, "mutable": {}}
    options = {"encoder": back.encoder | {"dtype": "float32", "attention": "plain"}}
    run = jax.jit(model.function())
    other = jax.jit(Model("encoder", options, model.preparation, theirs, None, {}).function())
    found = parity.compare(
        lambda batch: jax.device_get(run(model.weights, dict(batch))),
        lambda batch: jax.device_get(other(theirs, dict(batch))),
        batches,
    )
    parity.check(found, BOUND)
    return {"float32": found | {"bound": BOUND}}


def state_dict(model: Model) -> dict[str, np.ndarray]:
    """{name: f32 array} of a Model whose encoder is a ViT."""
    encoder = model.encoder()
    if not isinstance(encoder, vit.Vit):
        raise ValueError(
            f"the encoder is a {type(encoder).__name__}, and a state dict is written of a ViT: "
            "choose --format=onnx or safetensors"
        )
    if encoder.stem:
        raise ValueError(
            "the encoder is a ViT with a stem of convolutions, which the PyTorch layout has no "
            "place for: choose --format=onnx or safetensors"
        )
    params = jax.tree.map(np.asarray, dict(model.weights["params"]["encoder"]))
    (high, wide), dim = encoder.patch, encoder.width
    kernel = params["patch_embed"]["kernel"].reshape(high, wide, -1, dim).transpose(3, 2, 0, 1)
    state = {"patch_embed.proj.weight": kernel}
    state["patch_embed.proj.bias"] = params["patch_embed"]["bias"]
    rows = model.preparation.height_px // high
    state["pos_embed"] = _table(encoder, params, rows)
    if encoder.class_token:
        state["cls_token"] = params["cls_token"][None, None]
    if encoder.final_norm:
        state |= _norm(params["norm"], "norm")
    for number in range(encoder.depth):
        state |= _block(of_block(params, number), f"blocks.{number}.")
    return {name: np.ascontiguousarray(x, np.float32) for name, x in state.items()}


def _table(encoder: vit.Vit, params: Mapping[str, Any], rows: int) -> np.ndarray:
    """[1, rows, columns, D]."""
    if encoder.position == "learned":
        codes, columns = params["position"], encoder.flat_columns
    else:
        free = encoder.position == "sincos_2d"
        columns = WIDEST_PX // encoder.patch[1] if free else encoder.flat_columns
        grid = (rows, columns)
        codes = vit.position_codes(encoder.position, grid, encoder.width, encoder.flat_columns)[0]
    return np.asarray(codes).reshape(columns, rows, -1).transpose(1, 0, 2)[None]


def _norm(weights: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    return {f"{name}.weight": weights["scale"], f"{name}.bias": weights["bias"]}


def _block(block: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    weights = block["attn"]
    bias = np.concatenate([weights["q_bias"], 0 * weights["q_bias"], weights["v_bias"]])
    state = {
        f"{name}attn.qkv.weight": weights["qkv"]["kernel"].T,
        f"{name}attn.qkv.bias": bias,
    }
    for ours, theirs in import_vit.DENSE.items():
        room, layer = ours.split("/")
        state[f"{name}{theirs}.weight"] = block[room][layer]["kernel"].T
        state[f"{name}{theirs}.bias"] = block[room][layer]["bias"]
    return state | _norm(block["norm1"], f"{name}norm1") | _norm(block["norm2"], f"{name}norm2")
