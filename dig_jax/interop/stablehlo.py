"""Programs as StableHLO (jax.export): weights inside, any number of lines, any width.

model.stablehlo computes as the network does (float32 on every device), model-bf16.stablehlo in
bfloat16. Call: (image u8[b, H, w, C], width i32[b]) -> {name: array}; w a multiple of
Model.multiple_px.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from dig_jax.interop import parity
from dig_jax.interop.model import Model

PLATFORMS = ("cpu", "cuda", "tpu")
# dtype -> (file, largest difference of a number, share of characters that may differ)
PROGRAMS = {
    "float32": ("model.stablehlo", 1e-4, 0.001),
    "bfloat16": ("model-bf16.stablehlo", 0.25, 0.05),
}


def write(
    folder: pathlib.Path, model: Model, batches: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, Any]:
    """Writes both programs and proves them. -> what parity.json says. Raises `parity.Differs`."""
    plain = of_dtype(model, "float32")
    run = jax.jit(plain.function())
    ours = lambda batch: jax.device_get(run(plain.weights, dict(batch)))
    found: dict[str, Any] = {"platforms": list(PLATFORMS)}
    for dtype, (file, bound, share) in PROGRAMS.items():
        data = exported(of_dtype(model, dtype)).serialize()
        (folder / file).write_bytes(data)
        program = export.deserialize(bytearray((folder / file).read_bytes()))
        theirs = lambda batch, call=program.call: call(batch["image"], batch["width"])
        result = parity.compare(ours, theirs, batches)
        parity.check(result, bound, share)
        found[dtype] = result | {"bound": bound, "share": share}
    return found


def of_dtype(model: Model, dtype: str) -> Model:
    """The model as it computes in `dtype` on any device: nothing is left to this machine."""
    encoder = dict(model.options["encoder"]) | {"dtype": dtype}
    if encoder.get("kind", "vit") == "vit":
        encoder["attention"] = "plain"  # the only one that every platform has
    return dataclasses.replace(model, options={**model.options, "encoder": encoder})


def exported(model: Model) -> export.Exported:
    """The program of a model's `function`."""
    prepared, run = model.preparation, model.function()
    weights = jax.tree.map(jnp.asarray, model.weights)

    def program(image, width):
        return run(weights, {"image": image, "width": width})

    width = str(prepared.squeeze_px or f"{model.multiple_px}*w")
    ends = [f"{width} <= {model.widest_px}"] if model.widest_px else []
    rows, columns = export.symbolic_shape(f"b, {width}", constraints=ends)
    shape = (rows, prepared.height_px, columns, prepared.channels)
    image = jax.ShapeDtypeStruct(shape, jnp.uint8)
    return export.export(jax.jit(program), platforms=PLATFORMS)(
        image, jax.ShapeDtypeStruct((rows,), jnp.int32)
    )
