"""Readers and encoders as model.onnx, any number of lines of any width.

Call: image u8[b, H, w, C], width i32[b] px, w a multiple of Model.multiple_px. A reader decodes
inside and gives the reading (`decoders`). By CTC it also gives logits f32[b, S, V] (class 0 is the
blank) and frame_length i64[b], for a beam search of one's own. An encoder gives tokens, frames and
frame_length.
"""

from __future__ import annotations

import importlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dig_jax.interop import parity, stablehlo
from dig_jax.interop.model import Model

FILE = "model.onnx"
# float32, summed in another order; the norms of a CNN subtract two large numbers. Attention that a
# converter got wrong was off by 2.9.
BOUND = 1e-3  # of features and confidences
LOGITS_BOUND = 1e-3  # of logits, as a share of the largest
SHARE = 0.001  # of characters that may differ
INSTALL = 'pip install "dig_jax[onnx]"'


def write(
    folder: pathlib.Path, model: Model, batches: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, Any]:
    """Writes the graph and proves it. -> what parity.json says. Raises `parity.Differs`."""
    _installed("onnx")
    model = stablehlo.of_dtype(model, "float32")
    (folder / FILE).write_bytes(built(model).SerializeToString())
    run = outputs(folder / FILE)
    theirs = [run(batch) for batch in batches]
    both = jax.jit(_both(model))  # one program for the reading and its logits
    ours = [jax.device_get(both(model.weights, dict(batch))) for batch in batches]
    compare = lambda mine, yours: parity.compare(mine, yours, range(len(batches)))
    found = compare(lambda i: ours[i][0], lambda i: {name: theirs[i][name] for name in ours[i][0]})
    reader = model.kind == "reader"
    parity.check(found, BOUND, SHARE)
    bounds = {"bound": BOUND} | ({"share": SHARE} if reader else {})
    if not model.by_ctc:
        return {"float32": found | bounds}
    largest = max(float(np.abs(logits["logits"]).max()) for _, logits in ours)
    as_frames = lambda logits, length: {
        "frames": logits / max(largest, 1.0),
        "frame_length": length,
    }
    of_logits = compare(
        lambda i: as_frames(ours[i][1]["logits"], ours[i][1]["length"]),
        lambda i: as_frames(theirs[i]["logits"], theirs[i]["frame_length"]),
    )
    parity.check(of_logits, LOGITS_BOUND)
    worst = found["difference"] | {"logits": of_logits["difference"]["frames"]}
    return {"float32": found | {"difference": worst} | bounds | {"logits_bound": LOGITS_BOUND}}


def _installed(name: str) -> Any:
    """The module of that name. ValueError, with the command, where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"an export to onnx needs {name}, which is not installed: {INSTALL}"
        ) from None


def outputs(file: pathlib.Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """batch -> {output: array} of a graph, by onnxruntime on the CPU."""
    runtime = _installed("onnxruntime")
    options = runtime.SessionOptions()
    # As many threads as the process may use, which onnxruntime would not ask for.
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    # A thread that waits by turning round takes as much of a core as one that works.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = runtime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an exception for each way to be damaged
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{file} cannot be read ({reason}): export it again") from error
    names = [output.name for output in session.get_outputs()]
    return lambda batch: dict(
        zip(names, session.run(names, {name: batch[name] for name in ("image", "width")}))
    )


def program(folder: pathlib.Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """What `Model.function` computes, by the graph of an export."""
    return outputs(folder / FILE)


def _both(model: Model) -> Any:
    """(weights, batch) -> (what the model says, its logits where it reads by CTC)."""
    says, logits = model.function(), model.logits() if model.by_ctc else None
    return lambda weights, batch: (
        says(weights, batch),
        logits(weights, batch) if logits else {},
    )


def built(model: Model) -> Any:
    """The graph. ValueError for what has none."""
    from onnx import TensorProto, helper

    from dig_jax.interop import onnx_encoders, onnx_readers
    from dig_jax.interop import onnx_graph as graph

    encoder, reader = model.encoder(), model.kind == "reader"
    head = model.options["heads"][model.head] if reader else {}
    block = model.options.get("block", "last") if reader else "last"
    g, prepared = graph.Graph(), model.preparation
    params = jax.tree.map(np.asarray, dict(model.weights["params"]))
    rows = prepared.height_px // encoder.patch[0]
    width = g("Cast", "width", to=TensorProto.INT64)
    given = params["encoder"] | {"rows": rows}
    if block == "last":
        blocks = [onnx_encoders.OF[type(encoder)](g, encoder, given, "image", width)]
    else:
        blocks = onnx_encoders.each_block(g, encoder, given, "image", width)
        blocks = blocks if block == "mix" else [blocks[int(block) - 1]]
    if "norm" in params:
        blocks = [graph.layer_norm(g, tokens, params["norm"]) for tokens in blocks]
    tokens = g("Concat", *blocks, axis=2) if len(blocks) > 1 else blocks[0]
    length = graph.columns(g, width, encoder.patch[1])
    pool = model.options.get("frames", "concat") if reader else "concat"
    frames, size = tokens, len(blocks) * encoder.width
    if rows > 1 and pool == "mean":
        frames = g("Reshape", tokens, np.array([0, -1, rows, size]))
        frames = g("ReduceMean", frames, [2], keepdims=0)
    elif rows > 1:
        size = rows * size
        frames = g("Reshape", tokens, np.array([0, -1, size]))
    shape = ["b", prepared.height_px, prepared.squeeze_px or "w", prepared.channels]
    info = helper.make_tensor_value_info
    inputs = [info("image", TensorProto.UINT8, shape), info("width", TensorProto.INT32, ["b"])]
    if not reader:
        described = {
            "tokens": (tokens, info("tokens", TensorProto.FLOAT, ["b", "n", encoder.width])),
            "frames": (frames, info("frames", TensorProto.FLOAT, ["b", "s", size])),
            "frame_length": (length, info("frame_length", TensorProto.INT64, ["b"])),
        }
        return g.model(inputs, described)
    if scale := model.weights["mutable"].get("scale"):
        frames = g("Div", g("Sub", frames, np.asarray(scale["mean"])), np.asarray(scale["std"]))
    weights = params["heads"][model.head]
    if block == "mix":
        left = 1 if pool == "mean" else rows
        frames = onnx_encoders.mixed(g, frames, weights["mix"], left, encoder.width)
    if not model.by_ctc:
        method: Any = model.method()  # of recognisers alone
        read = onnx_readers.reading(g, method.head, weights, frames, length)
        return g.model(inputs, _described(read))
    if head.get("kind") == "bilstm":
        frames = graph.bilstm(g, frames, length, weights["lstm"], head.get("layers", 1))
    logits = graph.dense(g, frames, weights["classify"])
    shape = ["b", "s", model.charset.size]
    described = _described(onnx_readers.collapsed(g, logits, length)) | {
        "logits": (logits, info("logits", TensorProto.FLOAT, shape)),
        "frame_length": (length, info("frame_length", TensorProto.INT64, ["b"])),
    }
    return g.model(inputs, described)


def _described(read: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """The outputs of a reader, as `Graph.model` takes them."""
    from onnx import helper

    from dig_jax.interop.onnx_readers import OUTPUTS

    info = helper.make_tensor_value_info
    return {name: (read[name], info(name, *kind)) for name, kind in OUTPUTS.items()}
