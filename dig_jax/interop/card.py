"""card.md of an export: what it is, how images are prepared, how it is loaded, how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dig_jax.interop.model import Model, set_names

LOAD = {
    "safetensors": """Every array has its path as its name. With dig_jax:

```python
import dig_jax
{call}
```

Without it, the weights alone:

```python
from safetensors.numpy import load_file
weights = load_file("weights.safetensors")
print(sorted(weights)[0])
```
""",
    "orbax": """With dig_jax:

```python
import dig_jax
{call}
```

With plain Orbax, from another folder, the weights alone:

```python
from orbax.checkpoint import v1 as ocp
weights = ocp.load("/path/to/EXPORT/weights")
params = weights["params"]
print(params.keys())
```
""",
    "onnx": """A graph for onnxruntime and others, opset 20. {shape}:

```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
image = np.full((1, {height_px}, {multiple_px}, {channels}), 255, np.uint8)
outputs = session.run(None, {"image": image, "width": np.array([{multiple_px}], np.int32)})
print([(output.name, value.shape) for output, value in zip(session.get_outputs(), outputs)])
```

A reader decodes inside and gives the outputs above; by CTC also logits f32[rows, frames, classes],
class 0 the blank, and frame_length. `read_onnx.py` of dig_jax's examples reads images with it,
without JAX.
""",
    "torch": """The state dict of a ViT, with the names of timm's; `qkv.bias` is 0 for the keys and
`pos_embed` is [1, rows, columns, width], of which an image takes the first columns.
`torch_encoder.py` of dig_jax's examples is the network: tokens row by row.

```python
from safetensors.numpy import load_file
state = load_file("model.safetensors")
print(sorted(state)[0], state["patch_embed.proj.weight"].shape)
```
""",
    "stablehlo": """A program for cpu, cuda and tpu, its weights inside. It needs JAX, not dig_jax:

```python
import numpy as np
from jax import export
program = export.deserialize(open("model.stablehlo", "rb").read())
image = np.full((1, {height_px}, {multiple_px}, {channels}), 255, np.uint8)
print(program.call(image, np.array([{multiple_px}], np.int32)))
```

{shape}. StableHLO programs can be read for six months by
later versions: keep an export to safetensors beside it.
""",
}
CALLS = {
    "reader": 'reader = dig_jax.load_reader("EXPORT")\nprint(reader.read(["line.png"])[0].text)',
    "encoder": 'encoder = dig_jax.load_encoder("EXPORT")\n'
    'print(encoder(["line.png"])[0].frames.shape)',
}
OUTPUTS = {
    "reader": "ids (the characters of each line, 0 behind them; n is character n - 1 of "
    "charset.json), length (how many), confidence and frame of each, line (confidence of all)",
    "encoder": "tokens, frames (one a column of tokens) and frame_length",
    "torch": "tokens f32[B, rows * columns, D], row by row",
}


def text(
    model: Model, format: str, found: Mapping[str, Any], sizes: Mapping[str, int], about: str = ""
) -> str:
    """The card, Markdown. found: what parity.json says; sizes: {part: parameters}; about: what the
    exporter says of data, licence, limits."""
    prepared = model.preparation
    origin = model.origin
    fill = {
        "height_px": prepared.height_px,
        "channels": prepared.channels,
        "multiple_px": model.multiple_px,
        "shape": _shape(model),
    }
    load = LOAD[format].replace("{call}", CALLS[model.kind])
    for name, value in fill.items():
        load = load.replace(f"{{{name}}}", str(value))
    title = "Reader of text lines" if model.kind == "reader" else "Encoder of text lines"
    parts = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
    lines = [f"# {title}", "", f"From step {origin.get('step')} of the run {origin.get('run')}."]
    lines += [f"{sum(sizes.values()):,} parameters ({parts}).", ""]
    lines += [about.strip(), ""] if about.strip() else []
    lines += _recipe(origin)
    lines += ["## Input", "", *_preparation(model, format), ""]
    outputs = OUTPUTS["torch" if format == "torch" else model.kind]
    lines += ["## Output", "", outputs, ""]
    if model.charset is not None:
        chars = model.charset.chars
        lines += [f"{len(chars)} characters: `{chars[:60].replace('`', '')}`"]
        lines[-1] += " and more" if len(chars) > 60 else ""
        lines += ["Any other character is read as one of these, or left out.", ""]
    if search := model.search:
        weights = f"lm_weight {search['lm_weight']:g}, lm_bonus {search['lm_bonus']:g}"
        lines += [
            f"`ngram.npz` is an n-gram of characters, of order {search['lm'].order}: `load_reader` "
            f"reads with it (beam {search['beam']}, {weights}), and faster without (`beam=1`).",
            "",
        ]
    lines += ["## How to load it", "", load]
    if figures := origin.get("figures"):
        lines += ["## Measured in training", "", "| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in sorted(figures.items())] + [""]
    lines += ["## Proof", "", _proof(found), ""]
    return "\n".join(lines)


def _recipe(origin: Mapping[str, Any]) -> list[str]:
    """How it was trained, as far as the run says it."""
    said = {"records": set_names(origin.get("trained_on")), "steps": origin.get("step")}
    said |= origin.get("trained_with") or {}
    rows = [f"| {name} | {value} |" for name, value in said.items() if value]
    return ["## Training", "", "| what | value |", "|---|---|", *rows, ""] if rows else []


def _shape(model: Model) -> str:
    """Which images the program takes."""
    if model.preparation.squeeze_px:
        return f"The number of rows is free; the width is {model.preparation.squeeze_px} px"
    most = f", up to {model.widest_px} px" if model.widest_px else ""
    return f"Rows and width are free; the width is a multiple of {model.multiple_px} px{most}"


def _preparation(model: Model, format: str) -> list[str]:
    prepared = model.preparation
    colour = "grey" if prepared.channels == 1 else "RGB"
    if prepared.squeeze_px:
        size = f"Squeezed to {prepared.height_px} x {prepared.squeeze_px} px."
    else:
        size = f"Resized to a height of {prepared.height_px} px, aspect ratio kept."
    steps = [f"One line of text, {colour}, 8 bits. {size}"]
    if prepared.contrast == "stretch":
        steps.append("Greys are stretched: the 2nd percentile becomes 0, the 90th 255, the rest")
        steps.append("is clipped.")
    if format == "torch":  # a network that is told neither bytes nor a width
        steps.append("Scaled from 0..255 to -1..1 by `pixels / 127.5 - 1`, f32[B, C, H, W]: the")
        steps.append("network does not do it. It reads padding, too, so put lines of one width")
        steps.append("into a batch; widths are whole patches.")
        return steps
    steps.append("Padded with white (255) on the right; `width` says how many columns are real.")
    steps.append("The network scales pixels from 0..255 to -1..1 itself. dig_jax does all of it.")
    return steps


def _proof(found: Mapping[str, Any]) -> str:
    worst = {
        f"{name} {output}": value
        for name, result in found.items()
        if isinstance(result, Mapping) and "difference" in result
        for output, value in result["difference"].items()
    }
    shown = ", ".join(f"{name} {value:.1e}" for name, value in sorted(worst.items()))
    return (
        f"Compared with the network on {found['lines']} lines ({found['lines_from']}) in batches "
        f"of {len(found['batches'])} widths. Largest difference: {shown}. See parity.json."
    )
