"""Exports: a folder that others open, proved on lines before it is there.

config.json      kind, format, options of the network, preparation of images, where it is from
charset.json     of a reader: its characters
ngram.npz        of a reader that brings an n-gram along: its counts
card.md          for people: what it is, how to load it, what it was measured at
parity.json      how far it is from the network, on which lines
weights...       safetensors: weights.safetensors; orbax: weights/; stablehlo: model*.stablehlo;
                 onnx: model.onnx; torch: model.safetensors
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import dig_jax
from dig_jax import trees
from dig_jax.data.line_images import LineImage
from dig_jax.interop import card, parity
from dig_jax.interop import model as models
from dig_jax.interop.model import WEIGHTS, Model

FORMATS = (*WEIGHTS, "stablehlo", "onnx", "torch")
# How weights are stored -> (largest difference, share of characters that may differ). As float32
# they come back: the same program reads the same numbers.
STORED = {"float32": (1e-6, 0.0), "float16": (0.05, 0.002)}
SEARCHED = (*WEIGHTS, "onnx")  # formats that give the frames, for a beam search
# What only training needs.
TRAINING = ("recipe", "max_shift_px", "drop_path", "frozen")


def write(
    model: Model,
    format: str,
    output: pathlib.Path,
    lines: Sequence[LineImage],
    about: str = "",
    dtype: str = "float32",
    text: str = "",
) -> dict[str, Any]:
    """Writes the export of a model, or nothing. -> what parity.json says.

    lines: to prove it on; about: where they are from. dtype: of stored safetensors, see STORED.
    text: Markdown that the card takes over. FileExistsError, ValueError; `parity.Differs` where the
    export is not what was trained.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}: choose one of {', '.join(FORMATS)}")
    if dtype not in STORED or (dtype != "float32" and format != "safetensors"):
        raise ValueError(
            f"dtype is {dtype!r}: choose one of {', '.join(STORED)} for safetensors; the other "
            "formats are float32"
        )
    if format == "torch" and model.kind == "reader":  # holds no more
        model = model.alone()
    if model.search and not (model.by_ctc and format in SEARCHED):
        raise ValueError(
            "an n-gram is read beside the frames of CTC: leave it out with --lm=0, or export a "
            f"reader with CTC to {', '.join(SEARCHED)}"
        )
    if model.program is not None:
        raise ValueError(
            "an export to onnx is a program, so there are no weights to export: name the run, or "
            "an export to safetensors or orbax"
        )
    if output.exists():
        raise FileExistsError(f"{output} exists: name another folder, or move it out of the way")
    model = for_use(model)
    batches = parity.batches(lines, model.multiple_px, model.widest_px)
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _json(partial / "config.json", models.described(model, format, dig_jax.__version__))
        if model.charset is not None:
            (partial / "charset.json").write_text(model.charset.to_json() + "\n", encoding="utf-8")
        if model.search:
            np.savez_compressed(partial / models.NGRAM, **model.search["lm"].arrays())
        store = importlib.import_module(f"dig_jax.interop.{format}")
        if format in WEIGHTS:
            store.write(partial, model.weights, *([dtype] * (format == "safetensors")))
            found = proved(model, partial, batches, dtype)
        else:
            found = store.write(partial, model, batches)
        shapes = [list(batch["image"].shape) for batch in batches]
        found |= {"lines": len(lines), "lines_from": about, "batches": shapes}
        found |= {"device": jax.local_devices()[0].platform}
        _json(partial / "parity.json", found)
        written = card.text(model, format, found, sizes(model.weights), text)
        (partial / "card.md").write_text(written, encoding="utf-8")
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return found


def for_use(model: Model) -> Model:
    """Without what only training needs."""
    kept = {name: value for name, value in model.options.items() if name not in TRAINING}
    return dataclasses.replace(model, options=kept)


def proved(
    model: Model, folder: pathlib.Path, batches: Sequence[Mapping], dtype: str = "float32"
) -> dict[str, Any]:
    """What comes back from the folder against the model. Raises `parity.Differs`."""
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    back = models.of_export(folder, described)
    if description(back) != description(model):
        raise parity.Differs("config.json and charset.json do not describe the network")
    run = jax.jit(model.function())  # described alike, so one program serves both
    ours, theirs = (
        lambda batch, weights=one.weights: jax.device_get(run(weights, dict(batch)))
        for one in (model, back)
    )
    found = parity.compare(ours, theirs, batches)
    bound, share = STORED[dtype]
    parity.check(found, bound, share)
    return {dtype: found | {"bound": bound, "share": share}}


def description(model: Model) -> str:
    """All of a model but its weights."""
    rest = (model.kind, dict(model.options), dataclasses.asdict(model.preparation))
    return json.dumps([*rest, model.charset and model.charset.to_json()], sort_keys=True)


def sizes(weights: Any) -> dict[str, int]:
    """{part: number of parameters}."""
    counts: dict[str, int] = {}
    for name, leaf in trees.named_leaves(weights["params"]).items():
        part = name.split("/")[0]
        counts[part] = counts.get(part, 0) + int(leaf.size)
    return counts


def _json(path: pathlib.Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
