"""Our encoders and CTC readers as ONNX graphs, operator by operator; free rows and width.

Written by hand because no converter does it. jax2onnx 0.17 fails on symbolic widths, wants an Orbax
older than ours, and turns one form of attention into another silently; jax2tf is gone. The graphs
use operators of opset 20, among them LSTM with lengths. Each function mirrors one of models/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dig_jax.models import cnn, vit

OPSET = 20
IR_VERSION = 10  # of the file; onnxruntime from 1.18 on reads it
GATES = (0, 3, 1, 2)  # theirs are input, output, forget, cell; ours input, forget, cell, output


class Graph:
    """Collects operators: graph("Add", x, y) -> the name of the sum. Arrays become constants."""

    def __init__(self):
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, operator: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        made = [f"{operator}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, names, made, **attributes))
        return made[0] if outputs == 1 else made

    def constant(self, value: Any) -> str:
        """Integers are i64, as shapes and axes are."""
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def model(self, inputs: list[Any], outputs: Mapping[str, tuple[str, Any]]) -> onnx.ModelProto:
        """outputs: {name: (what the graph calls it, its description)}."""
        for name, (made, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [made], [name]))
        described = [info for _, info in outputs.values()]
        graph = helper.make_graph(self.nodes, "dig_jax", inputs, described, self.constants)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)


# ---- parts that networks share


def size(g: Graph, x: str, axis: int) -> str:
    """The length of an axis, i64[]."""
    return g("Squeeze", g("Shape", x, start=axis, end=axis + 1), [0])


def first(g: Graph, count: str, lengths: str) -> str:
    """bool[b, count]: which places lie before each line's length i64[b]."""
    places = g("Range", np.int64(0), count, np.int64(1))
    return g("Less", g("Unsqueeze", places, [0]), g("Unsqueeze", lengths, [1]))


def as_float(g: Graph, x: str) -> str:
    return g("Cast", x, to=TensorProto.FLOAT)


def dense(g: Graph, x: str, weights: Mapping[str, Any]) -> str:
    x = g("MatMul", x, weights["kernel"])
    return g("Add", x, weights["bias"]) if "bias" in weights else x


def layer_norm(g: Graph, x: str, weights: Mapping[str, Any]) -> str:
    return g("LayerNormalization", x, weights["scale"], weights["bias"], axis=-1, epsilon=1e-6)


def columns(g: Graph, width: str, column_px: int) -> str:
    """i64[b]: columns with real pixels, at least 1."""
    whole = g("Div", g("Add", width, np.int64(column_px - 1)), np.int64(column_px))
    return g("Max", whole, np.int64(1))


def pixels(g: Graph, image: str, width: str) -> str:
    """u8[b, H, w, C] -> f32[b, C, H, w] in [-1, 1], paper right of the line."""
    x = g("Sub", g("Mul", as_float(g, image), np.float32(1.0 / 127.5)), np.float32(1.0))
    inside = first(g, size(g, image, 2), width)
    x = g("Where", g("Unsqueeze", inside, [1, 3]), x, np.float32(vit.PAPER))
    return g("Transpose", x, perm=[0, 3, 1, 2])


def bilstm(g: Graph, x: str, lengths: str, weights: Mapping[str, Any], layers: int) -> str:
    """`heads.BiLstm`: f32[b, S, F] -> f32[b, S, 2 H], zeros behind the lengths."""
    lengths = g("Cast", lengths, to=TensorProto.INT32)
    x = g("Transpose", x, perm=[1, 0, 2])
    for number in range(layers):
        given = weights[f"input_{number}"]
        recurrent = np.asarray(weights[f"recurrent_{number}"])  # [2, H, 4 H]
        hidden = recurrent.shape[1]
        by_gate = lambda w: np.concatenate([np.split(w, 4, 0)[gate] for gate in GATES])
        kernels = np.split(np.asarray(given["kernel"]).T, 2)  # each direction [4 H, F]
        biases = np.split(np.asarray(given["bias"]), 2)
        # A fresh cell of ours remembers: 1 more to forget.
        more = np.repeat(np.float32([0, 1, 0, 0]), hidden)
        bias = [np.concatenate([by_gate(b + more), np.zeros_like(b)]) for b in biases]
        y = g(
            "LSTM",
            x,
            np.stack([by_gate(k) for k in kernels]),
            np.stack([by_gate(r.T) for r in recurrent]),
            np.stack(bias),
            lengths,
            direction="bidirectional",
            hidden_size=hidden,
        )  # [S, 2, b, H]
        y = g("Transpose", y, perm=[0, 2, 1, 3])
        x = g("Reshape", y, np.array([0, 0, 2 * hidden]))
    return g("Transpose", x, perm=[1, 0, 2])


# ---- encoders: (graph, module, parameters, image, width) -> tokens f32[b, N, D]


def of_vit(g: Graph, module: vit.Vit, params: Mapping[str, Any], image: str, width: str) -> str:
    patch, dim, rows = module.patch, module.width, params["rows"]
    channels = params["patch_embed"]["kernel"].shape[0] // (patch[0] * patch[1])
    kernel = np.asarray(params["patch_embed"]["kernel"]).reshape(*patch, channels, dim)
    x = g(
        "Conv",
        pixels(g, image, width),
        kernel.transpose(3, 2, 0, 1),
        np.asarray(params["patch_embed"]["bias"]),
        kernel_shape=list(patch),
        strides=list(patch),
    )  # [b, D, Gh, Gw]
    cols = size(g, x, 3)
    x = g("Reshape", g("Transpose", x, perm=[0, 3, 2, 1]), np.array([0, -1, dim]))
    x = g("Add", x, _codes(g, module, params, rows, cols))
    real = g("Mul", columns(g, width, patch[1]), np.int64(rows))
    own = int(module.class_token)
    if own:
        token = np.asarray(params["cls_token"]).reshape(1, 1, dim)
        shape = g("Concat", g("Shape", x, start=0, end=1), np.array([1, dim]), axis=0)
        x = g("Concat", g("Expand", token, shape), x, axis=1)
        real = g("Add", real, np.int64(1))
    seen = first(g, size(g, x, 1), real)
    for number in range(module.depth):
        x = _block(g, module, _of_block(params, number), x, seen)
    if module.final_norm:
        x = layer_norm(g, x, params["norm"])
    x = g("Where", g("Unsqueeze", seen, [2]), x, np.float32(0))
    return g("Slice", x, [own], [np.iinfo(np.int64).max], [1]) if own else x


def _of_block(params: Mapping[str, Any], number: int) -> Any:
    """Parameters of one block, stacked (scan) or not."""
    if "blocks" not in params:
        return params[f"block_{number}"]
    pick = lambda tree: {
        k: pick(v) if isinstance(v, Mapping) else np.asarray(v)[number] for k, v in tree.items()
    }
    return pick(params["blocks"])


def _codes(g: Graph, module: vit.Vit, params: Mapping[str, Any], rows: int, cols: str) -> str:
    """f32[N, D] of as many columns as the image has."""
    dim = module.width
    if module.position != "sincos_2d":
        if module.position == "learned":
            table = np.asarray(params["position"])
        else:
            grid = (rows, module.flat_columns)
            table = np.asarray(vit.position_codes(module.position, grid, dim, module.flat_columns))
            table = table[0]
        end = g("Unsqueeze", g("Mul", cols, np.int64(rows)), [0])
        return g("Slice", table, [0], end, [0])
    quarter = dim // 4
    column = as_float(g, g("Range", np.int64(0), cols, np.int64(1)))
    frequency = (10000.0 ** (-np.arange(quarter) / quarter)).astype(np.float32)
    angle = g("Mul", g("Unsqueeze", column, [1]), frequency[None])
    code = g("Concat", g("Sin", angle), g("Cos", angle), axis=1)
    code = g("Unsqueeze", code, [1])  # [cols, 1, D / 2]
    row = np.asarray(vit.position_codes("sincos_2d", (rows, 1), dim))[0][None, :, 2 * quarter :]
    shape = g("Concat", g("Unsqueeze", cols, [0]), np.array([rows, 2 * quarter]), axis=0)
    code = g("Concat", g("Expand", code, shape), g("Expand", row, shape), axis=2)
    return g("Reshape", code, np.array([-1, dim]))


def _block(g: Graph, module: vit.Vit, params: Mapping[str, Any], x: str, seen: str) -> str:
    heads, dim = module.heads, module.width
    each = dim // heads
    weights = params["attn"]
    bias = np.concatenate([weights["q_bias"], np.zeros(dim, np.float32), weights["v_bias"]])
    qkv = dense(g, layer_norm(g, x, params["norm1"]), {**weights["qkv"], "bias": bias})
    parts = g("Split", qkv, outputs=3, axis=2, num_outputs=3)
    query, key, value = (g("Reshape", part, np.array([0, 0, heads, each])) for part in parts)
    query, value = (g("Transpose", part, perm=[0, 2, 1, 3]) for part in (query, value))
    query = g("Mul", query, np.float32(each**-0.5))
    logits = g("MatMul", query, g("Transpose", key, perm=[0, 2, 3, 1]))
    logits = g("Where", g("Unsqueeze", seen, [1, 2]), logits, np.float32(-np.inf))
    out = g("MatMul", g("Softmax", logits, axis=-1), value)
    out = g("Reshape", g("Transpose", out, perm=[0, 2, 1, 3]), np.array([0, 0, dim]))
    x = g("Add", x, dense(g, out, weights["proj"]))
    hidden = dense(g, layer_norm(g, x, params["norm2"]), params["mlp"]["fc1"])
    hidden = g("Gelu", hidden, approximate="none" if module.gelu == "exact" else "tanh")
    return g("Add", x, dense(g, hidden, params["mlp"]["fc2"]))


def of_cnn(g: Graph, module: cnn.Cnn, params: Mapping[str, Any], image: str, width: str) -> str:
    column_px = module.patch[1]
    real = g("Mul", columns(g, width, column_px), np.int64(column_px))
    real = as_float(g, first(g, size(g, image, 2), real))  # [b, w]
    x = g("Mul", pixels(g, image, width), g("Unsqueeze", real, [1, 2]))
    height = module.height_px
    for number, pool in enumerate(module.pools):
        x = _convolution(g, params[f"conv_{number}"], x, real, height, pool)
        height //= pool[0]
        end = [np.iinfo(np.int64).max]
        real = g("Slice", real, [0], end, [1], [pool[1]]) if pool[1] > 1 else real
    x = g("Transpose", x, perm=[0, 3, 2, 1])
    tokens = g("Reshape", x, np.array([0, 0, height * module.channels[-1]]))
    if module.layers:
        lengths = columns(g, width, column_px)
        tokens = bilstm(g, tokens, lengths, params["lstm"], module.layers)
    if module.final_norm:
        tokens = layer_norm(g, tokens, params["norm"])
    return g("Mul", tokens, g("Unsqueeze", real, [2]))


def _convolution(g: Graph, params, x: str, real: str, height: int, pool, groups: int = 8) -> str:
    """`cnn.Convolution`: group norm by the real columns of each line, ReLU, maximum of each window.

    Where a scale is negative the lowest value of a window wins, so the sign goes into the kernel.
    """
    scale, bias = (np.asarray(params[name]) for name in ("scale", "bias"))
    sign, channels = np.where(scale < 0, -1.0, 1.0).astype(np.float32), len(scale)
    kernel = np.asarray(params["kernel"]).transpose(3, 2, 0, 1) * sign[:, None, None, None]
    x = g("Conv", x, kernel, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    seen = g("Mul", x, g("Unsqueeze", real, [1, 2]))
    count = g("Max", g("ReduceSum", real, [1], keepdims=1), np.float32(1))
    count = g("Mul", count, np.float32(height))  # [b, 1]
    sums = g("Mul", g("ReduceSum", seen, [2, 3], keepdims=0), sign)
    squares = g("ReduceSumSquare", seen, [2, 3], keepdims=0)
    mean, square = (_by_group(g, g("Div", s, count), channels, groups) for s in (sums, squares))
    spread = g("Max", g("Sub", square, g("Mul", mean, mean)), np.float32(0))
    spread = g("Reciprocal", g("Sqrt", g("Add", spread, np.float32(1e-5))))
    slope = g("Mul", spread, scale)  # [b, C]
    offset = g("Sub", bias, g("Mul", mean, slope))
    if tuple(pool) != (1, 1):
        x = g("MaxPool", x, kernel_shape=list(pool), strides=list(pool))
    if pool[1] > 1:
        real = g("Slice", real, [0], [np.iinfo(np.int64).max], [1], [pool[1]])
    slope, offset = (g("Unsqueeze", v, [2, 3]) for v in (g("Mul", slope, sign), offset))
    x = g("Relu", g("Add", g("Mul", x, slope), offset))
    return g("Mul", x, g("Unsqueeze", real, [1, 2]))


def _by_group(g: Graph, x: str, channels: int, groups: int) -> str:
    """[b, C] -> the mean over the channels of a group, back at each of its channels."""
    x = g("Reshape", x, np.array([0, groups, channels // groups]))
    mean = g("ReduceMean", x, [2], keepdims=1)
    return g("Reshape", g("Expand", mean, g("Shape", x)), np.array([0, channels]))
