"""What readers write, as part of an ONNX graph.

`collapsed` is the greedy reading of CTC. `reading` is that of the readers that write one character
after the other. It is the loop of `decoders/autoregressive.py`, by the operator Loop: it ends as
soon as every line has ended, at the latest one place behind the last frame. The networks mirror
those of `models/decoders/`. Each is a function

    (graph, module, parameters, frames, length, number or None) -> state, step
    step(inner graph, state, ids i64[b], place i64[]) -> state, logits f32[b, V], weights f32[b, S]

frames f32[b, S, F], length i64[b]; number: call that counts the characters that a shortcut reads in
front of each frame, f32[b, S]. state: {name: f32[b, ...]} before the first character. Nothing has a
fixed number of rows or frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from onnx import TensorProto

from dig_jax.interop.onnx_graph import (
    Graph,
    as_float,
    attend,
    by_head,
    dense,
    first,
    layer_norm,
    size,
    waves,
)
from dig_jax.models import decoders
from dig_jax.models.decoders.autoregressive import END

Number = Callable[[], str] | None
KINDS = {"last": TensorProto.INT64, "ids": TensorProto.INT64, "frame": TensorProto.INT64}
OUTPUTS = {  # name -> (type, shape)
    "ids": (TensorProto.INT32, ["b", "s"]),
    "length": (TensorProto.INT32, ["b"]),
    "confidence": (TensorProto.FLOAT, ["b", "s"]),
    "frame": (TensorProto.INT32, ["b", "s"]),
    "line": (TensorProto.FLOAT, ["b"]),
}


def collapsed(g: Graph, logits: str, length: str) -> dict[str, str]:
    """{name of OUTPUTS: what the graph calls it}: runs of one class are one character, class 0 is
    none, a character's confidence is the largest of its run. logits f32[b, S, V], length i64[b]."""
    places = size(g, logits, 1)
    real = first(g, places, length)
    best = g("Where", real, g("ArgMax", logits, axis=2, keepdims=0), np.int64(0))
    sure = g("ReduceMax", g("Softmax", logits, axis=2), [2], keepdims=0)
    sure = g("Where", real, sure, np.float32(0))
    before = g("Slice", g("Pad", best, np.array([0, 1, 0, 0]), np.int64(-1)), [0], [-1], [1])
    starts = g("And", real, g("Not", g("Equal", best, before)))
    number = lambda mask: g("Cast", mask, to=TensorProto.INT64)
    rank = lambda mask: g("Sub", g("CumSum", number(mask), np.int64(1)), np.int64(1))
    run, nothing = rank(starts), g("Sub", sure, sure)
    peaks = g("ScatterElements", nothing, run, sure, axis=1, reduction="max")
    peaks = g("GatherElements", peaks, run, axis=1)
    kept = g("And", starts, g("Greater", best, np.int64(0)))
    # All else goes to a place behind the last, which is cut off.
    goal = g("Where", kept, rank(kept), places)
    wide = g("Unsqueeze", places, [0])

    def packed(value: str) -> str:
        room = g("Pad", g("Sub", value, value), np.array([0, 0, 0, 1]))
        return g("Slice", g("ScatterElements", room, goal, value, axis=1), [0], wide, [1])

    place = g("Add", g("Mul", best, np.int64(0)), g("Range", np.int64(0), places, np.int64(1)))
    real_places = g("Where", kept, place, np.int64(0))
    count = g("ReduceSum", number(kept), [1], keepdims=0)
    mean = lambda value, by: g("Div", g("ReduceSum", value, [1], keepdims=0), as_float(g, by))
    confidence = packed(g("Where", kept, peaks, np.float32(0)))
    read = mean(confidence, g("Max", count, np.int64(1)))
    line = g("Where", g("Greater", count, np.int64(0)), read, mean(sure, length))
    made = {"ids": packed(g("Where", kept, best, np.int64(0))), "length": count}
    made |= {"confidence": confidence, "frame": packed(real_places), "line": line}
    return {name: g("Cast", value, to=OUTPUTS[name][0]) for name, value in made.items()}


def _told(g: Graph, weights: Mapping[str, Any], frames: str) -> tuple[str, Callable[[], str]]:
    """Frames f32[b, S, F] with what a shortcut reads in each; and a call that counts how many
    characters it reads in front of each, f32[b, S]."""
    read = g("Softmax", dense(g, frames, weights["shortcut"]), axis=2)

    def number() -> str:
        chars = g("Slice", read, [1], [2**31], [2])
        before = g("Slice", g("Pad", chars, np.array([0, 1, 0, 0, 0, 0])), [0], [-1], [1])
        begins = g("Mul", chars, g("Sub", np.float32(1), before))
        begins = g("ReduceSum", begins, [2], keepdims=0)
        return g("CumSum", begins, np.int64(1), exclusive=1)

    return g("Add", frames, dense(g, read, weights["told"])), number


def reading(g: Graph, decoder: Any, params: Mapping, frames: str, length: str) -> dict[str, str]:
    """{name of OUTPUTS: what the graph calls it}, the reading of each line as `decoders` has it."""
    number = None
    if decoder.front:
        frames, number = _told(g, params, frames)
    network = NETWORKS[type(decoder.network)]
    state, step = network(g, decoder.network, params, frames, length, number)
    places = size(g, frames, 1)
    last = g("Expand", np.int64(END), g("Shape", frames, start=0, end=1))

    def advance(b: Graph, place: str, state: Mapping[str, str]):
        carried, logits, weights = step(b, state, state["last"], place)
        ended = b("And", b("Equal", state["last"], np.int64(END)), b("Greater", place, np.int64(0)))
        over = b("Or", ended, b("LessOrEqual", length, place))
        ids = b("Where", over, np.int64(END), b("ArgMax", logits, axis=1, keepdims=0))
        sure = _at(b, b("Softmax", logits, axis=1), ids)
        found = {"ids": ids, "sure": sure, "frame": b("ArgMax", weights, axis=1, keepdims=0)}
        going = b("Greater", b("ReduceMax", ids, keepdims=0), np.int64(END))
        return going, {**carried, "last": ids}, found

    most = g("Add", places, np.int64(1))
    found = g.loop(most, {**state, "last": last}, advance, ("ids", "sure", "frame"), KINDS)
    ids, sure, frame = (g("Transpose", each, perm=[1, 0]) for each in found)
    real = g("Cast", g("Greater", ids, np.int64(END)), to=TensorProto.INT64)
    count = g("ReduceSum", real, [1], keepdims=0)
    confidence = g("Mul", sure, as_float(g, real))
    mean = g("ReduceSum", confidence, [1], keepdims=0)
    mean = g("Div", mean, as_float(g, g("Max", count, np.int64(1))))
    line = g("Where", g("Greater", count, np.int64(0)), mean, _at(g, sure, count))
    # As wide as there are frames, however many steps there were.
    wide = g("Unsqueeze", places, [0])
    pads = g("Concat", np.array([0, 0, 0]), wide, axis=0)
    fit = lambda x: g("Slice", g("Pad", x, pads), [0], wide, [1])
    made = {"ids": fit(ids), "length": count, "confidence": fit(confidence)}
    made |= {"frame": fit(g("Mul", frame, real)), "line": line}
    return {name: g("Cast", value, to=OUTPUTS[name][0]) for name, value in made.items()}


def _at(g: Graph, x: str, place: str) -> str:
    """x f32[b, N] at i64[b] -> f32[b]."""
    return g("Squeeze", g("GatherElements", x, g("Unsqueeze", place, [1]), axis=1), [1])


def _zeros(g: Graph, frames: str, *shape: int) -> str:
    """f32[b, *shape]."""
    rows = g("Shape", frames, start=0, end=1)
    return g("ConstantOfShape", g("Concat", rows, np.array(shape, np.int64), axis=0))


def _looked_at(g: Graph, weights: str, values: str) -> str:
    """Weights f32[b, S] over frames, values f32[b, S, H] -> their mean, f32[b, H]."""
    return g("Squeeze", g("MatMul", g("Unsqueeze", weights, [1]), values), [1])


def _softmax(g: Graph, logits: str, real: str) -> str:
    return g("Softmax", g("Where", real, logits, np.float32(-np.inf)), axis=-1)


def _gru(g: Graph, weights: Mapping[str, Any], x: str, hidden: str) -> str:
    given = g("Split", dense(g, x, weights["input"]), outputs=3, axis=1, num_outputs=3)
    kept = g("Split", dense(g, hidden, weights["recurrent"]), outputs=3, axis=1, num_outputs=3)
    reset, update = (g("Sigmoid", g("Add", a, b)) for a, b in zip(given[:2], kept[:2]))
    new = g("Tanh", g("Add", given[2], g("Mul", reset, kept[2])))
    # u h + (1 - u) n, with one product less.
    return g("Add", new, g("Mul", update, g("Sub", hidden, new)))


def _attention(g: Graph, module: Any, params: Mapping, frames: str, length: str, number: Number):
    values, keys = dense(g, frames, params["value"]), dense(g, frames, params["key"])
    real = first(g, size(g, frames, 1), length)
    seen = g("ConstantOfShape", g("Shape", frames, start=0, end=2))
    # The windows of the last weights and the product behind them are one convolution.
    kernel = np.asarray(params["place"]["kernel"]).T[:, None]  # [H, 1, 2 reach + 1]
    around = {"kernel_shape": [kernel.shape[2]], "pads": [module.reach] * 2}

    def step(b: Graph, state: Mapping[str, str], ids: str, place: str):
        query = b("Unsqueeze", dense(b, state["hidden"], params["query"]), [1])
        shown = b("Conv", b("Unsqueeze", state["seen"], [1]), kernel, **around)
        shown = b("Transpose", shown, perm=[0, 2, 1])
        energy = b("Tanh", b("Add", b("Add", keys, query), shown))
        energy = b("Squeeze", dense(b, energy, params["energy"]), [2])
        weights = _softmax(b, energy, real)
        context = _looked_at(b, weights, values)
        read = b("Concat", b("Gather", params["characters"], ids), context, axis=1)
        hidden = _gru(b, params["gru"], read, state["hidden"])
        logits = dense(b, b("Concat", hidden, context, axis=1), params["classify"])
        return {"hidden": hidden, "seen": weights}, logits, weights

    return {"hidden": _zeros(g, frames, module.hidden), "seen": seen}, step


def _transformer(g: Graph, module: Any, params: Mapping, frames: str, length: str, number: Number):
    """Keys and values of earlier places are kept: they grow by one a step, so none is hidden."""
    heads, each = module.heads, module.width // module.heads
    count = size(g, frames, 1)
    real = first(g, count, length)
    split = lambda g, x, parts: g("Split", x, outputs=parts, axis=2, num_outputs=parts)
    x = layer_norm(g, dense(g, frames, params["frame"]), params["frame_norm"])
    places = number() if number else g("Range", np.int64(0), count, np.int64(1))
    x = g("Add", x, waves(g, places, module.width // 2))
    layers = [params[f"layers_{level}"] for level in range(module.depth)]
    shown = [split(g, dense(g, x, layer["shown"]), 2) for layer in layers]
    shown = [
        (by_head(g, key, heads, each, turned=True), by_head(g, v, heads, each)) for key, v in shown
    ]
    state = {}
    for level in range(module.depth):
        state[f"key_{level}"] = _zeros(g, frames, heads, each, 0)
        state[f"value_{level}"] = _zeros(g, frames, heads, 0, each)

    def step(b: Graph, state: Mapping[str, str], ids: str, place: str):
        x = b("Mul", b("Gather", params["characters"], ids), np.float32(module.width**0.5))
        x = b("Add", x, waves(b, b("Unsqueeze", place, [0]), module.width // 2))
        x, kept = b("Unsqueeze", x, [1]), {}
        for level, (layer, of_frames) in enumerate(zip(layers, shown)):
            query, key, value = split(
                b, dense(b, layer_norm(b, x, layer["norm1"]), layer["own"]), 3
            )
            key, value = by_head(b, key, heads, each, turned=True), by_head(b, value, heads, each)
            key = b("Concat", state[f"key_{level}"], key, axis=3)
            value = b("Concat", state[f"value_{level}"], value, axis=2)
            kept |= {f"key_{level}": key, f"value_{level}": value}
            out, _ = attend(b, by_head(b, query, heads, each), key, value, each)
            x = b("Add", x, dense(b, out, layer["own_out"]))
            query = by_head(
                b, dense(b, layer_norm(b, x, layer["norm2"]), layer["query"]), heads, each
            )
            out, weights = attend(b, query, *of_frames, each, real)
            x = b("Add", x, dense(b, out, layer["out"]))
            hidden = b("Gelu", dense(b, layer_norm(b, x, layer["norm3"]), layer["fc1"]))
            x = b("Add", x, dense(b, hidden, layer["fc2"]))
        hidden = b("Squeeze", layer_norm(b, x, params["norm"]), [1])
        weights = b("Squeeze", b("ReduceMean", weights, [1], keepdims=0), [1])
        return kept, dense(b, hidden, params["classify"]), weights

    return state, step


def _glimpse(g: Graph, module: Any, params: Mapping, frames: str, length: str, number: Number):
    params = jax.tree.map(g.constant, params)  # once, for all looks
    values = dense(g, frames, params["value"])
    count = size(g, frames, 1)
    real = g("Unsqueeze", first(g, count, length), [1])  # [b, 1, S]
    numbers = as_float(g, g("Range", np.int64(0), count, np.int64(1)))
    last = as_float(g, g("Sub", length, np.int64(1)))
    seen = as_float(g, g("Squeeze", real, [1]))
    mean = g("Div", _looked_at(g, seen, values), g("ReduceSum", seen, [1], keepdims=1))
    first_step = module.stride / (module.reach * module.glimpses)

    def filters(b: Graph, place: str, scale: float, taps: int) -> str:
        offset = np.float32(scale * (np.arange(taps) - (taps - 1) / 2))
        centre = b("Unsqueeze", b("Add", b("Unsqueeze", place, [1]), offset[None]), [2])
        distance = b("Mul", b("Sub", numbers, centre), np.float32(2.0 / scale))
        return _softmax(b, b("Mul", b("Mul", distance, distance), np.float32(-0.5)), real)

    def glimpse(b: Graph, place: str) -> str:
        parts = [filters(b, place, scale, module.taps) for scale in module.scales]
        what = b("MatMul", b("Concat", *parts, axis=1), values)
        what = b("Reshape", what, np.array([0, len(parts) * module.taps * module.hidden]))
        what = b("Relu", dense(b, what, params["what"]))
        share = b("Div", place, b("Max", last, np.float32(1)))
        near_end = b("Exp", b("Mul", b("Sub", place, last), np.float32(0.25)))
        where = b("Concat", *(b("Unsqueeze", x, [1]) for x in (share, near_end)), axis=1)
        return b("Mul", what, dense(b, where, params["where"]))

    def look(b: Graph, state: Mapping[str, str], ids: str) -> dict[str, str]:
        ahead = b("Squeeze", dense(b, state["choosing"], params["emission"]), [1])
        ahead = b("Tanh", b("Add", ahead, np.float32(first_step)))
        place = b("Add", state["place"], b("Mul", ahead, np.float32(module.reach)))
        place = b("Max", b("Min", place, last), np.float32(0))
        read = b("Concat", glimpse(b, place), b("Gather", params["characters"], ids), axis=1)
        reading = _gru(b, params["reader"], read, state["reading"])
        choosing = _gru(b, params["chooser"], reading, state["choosing"])
        return {"reading": reading, "choosing": choosing, "place": place}

    def step(b: Graph, state: Mapping[str, str], ids: str, place: str):
        for _ in range(module.glimpses):
            state = look(b, state, ids)
        weights = b("Squeeze", filters(b, state["place"], 1.0, 1), [1])
        return state, dense(b, state["reading"], params["classify"]), weights

    state = {"reading": _zeros(g, frames, module.hidden), "place": _zeros(g, frames)}
    return state | {"choosing": g("Tanh", dense(g, mean, params["context"]))}, step


NETWORKS = {
    decoders.AttentionReader: _attention,
    decoders.TransformerReader: _transformer,
    decoders.GlimpseReader: _glimpse,
}
