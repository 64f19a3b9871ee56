"""Our networks as ONNX graphs, operator by operator: the collector and the parts they share.

Written by hand because no converter does it. jax2onnx 0.17 fails on symbolic widths, wants an Orbax
older than ours, and turns one form of attention into another silently; jax2tf is gone. The graphs
use operators of opset 20, among them LSTM with lengths and Loop; rows and width are free. Encoders
are in onnx_encoders.py, readers that write one character after the other in onnx_readers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dig_jax.models import vit

OPSET = 20
IR_VERSION = 10  # of the file; onnxruntime from 1.18 on reads it
GATES = (0, 3, 1, 2)  # theirs are input, output, forget, cell; ours input, forget, cell, output


class Graph:
    """Collects operators: graph("Add", x, y) -> the name of the sum. Arrays become constants.

    around: the graph that this one is the body of a loop in; it keeps the constants of both.
    """

    def __init__(self, around: Graph | None = None):
        self.nodes: list[Any] = []
        self.constants: list[Any] = [] if around is None else around.constants
        self.prefix = "" if around is None else f"{around.prefix}loop_{len(around.nodes)}_"

    def __call__(self, operator: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        made = [f"{self.prefix}{operator}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, names, made, **attributes))
        return made[0] if outputs == 1 else made

    def constant(self, value: Any) -> str:
        """Integers are i64, as shapes and axes are."""
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def loop(
        self,
        count: str,
        state: Mapping[str, str],
        step: Callable[[Graph, str, Mapping[str, str]], tuple[str, Mapping, Mapping]],
        results: Sequence[str],
        kinds: Mapping[str, int],
    ) -> list[str]:
        """Results of all steps, each [steps, ...], of a loop of at least 1 and at most count i64[].

        step: (inner graph, number i64[], state) -> (whether to go on bool[], state, {result: one
        step's}). kinds: types of states and results that are not f32. States may change shape.
        """
        inner = Graph(self)
        info = lambda name, kind, shape=None: helper.make_tensor_value_info(name, kind, shape)
        of = lambda prefix, name: info(prefix + name, kinds.get(name, TensorProto.FLOAT))
        number, before = inner.prefix + "number", inner.prefix + "before_"
        going, state_after, made = step(inner, number, {name: before + name for name in state})
        inputs = [info(number, TensorProto.INT64, []), info(before + "on", TensorProto.BOOL, [])]
        inputs += [of(before, name) for name in state]
        after = inner.prefix + "after_"
        outputs = [info(after + "on", TensorProto.BOOL, [])]
        outputs += [of(after, name) for name in (*state, *results)]
        values = [going, *(state_after[name] for name in state), *(made[name] for name in results)]
        for value, output in zip(values, outputs, strict=True):
            inner.nodes.append(helper.make_node("Identity", [value], [output.name]))
        body = helper.make_graph(inner.nodes, inner.prefix + "body", inputs, outputs)
        given = (count, "", *state.values())
        return self("Loop", *given, outputs=len(values) - 1, body=body)[len(state) :]

    def model(self, inputs: list[Any], outputs: Mapping[str, tuple[str, Any]]) -> onnx.ModelProto:
        """outputs: {name: (what the graph calls it, its description)}."""
        for name, (made, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [made], [name]))
        described = [info for _, info in outputs.values()]
        graph = helper.make_graph(self.nodes, "dig_jax", inputs, described, self.constants)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)


# ---- parts


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


def waves(g: Graph, places: str, count: int) -> str:
    """Sines, then cosines of places [..] at `count` frequencies: f32[.., 2 count]."""
    frequency = (10000.0 ** (-np.arange(count) / count)).astype(np.float32)
    angle = g("Mul", g("Unsqueeze", as_float(g, places), [-1]), frequency)
    return g("Concat", g("Sin", angle), g("Cos", angle), axis=-1)


def by_head(g: Graph, x: str, heads: int, each: int, turned: bool = False) -> str:
    """f32[b, N, heads * each] -> f32[b, heads, N, each]; turned, as keys are: the last two axes."""
    x = g("Reshape", x, np.array([0, 0, heads, each]))
    return g("Transpose", x, perm=[0, 2, 3, 1] if turned else [0, 2, 1, 3])


def attend(
    g: Graph, query: str, key: str, value: str, each: int, seen: str | None = None
) -> tuple[str, str]:
    """Softmax attention, of what `by_head` gives (keys turned), to the places seen bool[b, S].

    each: width of a head. -> f32[b, T, heads * each], weights f32[b, heads, T, S].
    """
    logits = g("MatMul", g("Mul", query, np.float32(each**-0.5)), key)
    if seen is not None:
        # Added, since a choice over all weights takes a tenth of the time of a small ViT.
        hidden = g("Where", seen, np.float32(0), np.float32(-np.inf))
        logits = g("Add", logits, g("Unsqueeze", hidden, [1, 2]))
    weights = g("Softmax", logits, axis=-1)
    out = g("Transpose", g("MatMul", weights, value), perm=[0, 2, 1, 3])
    return g("Reshape", out, np.array([0, 0, -1])), weights


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
