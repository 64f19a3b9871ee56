"""Our encoders as parts of an ONNX graph; each function mirrors one of models/.

    (graph, module, parameters, image, width) -> tokens f32[b, N, D]

image u8[b, H, w, C], width i64[b] px.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dig_jax.interop.onnx_graph import (
    Graph,
    as_float,
    attend,
    bilstm,
    by_head,
    columns,
    dense,
    first,
    layer_norm,
    pixels,
    size,
    waves,
)
from dig_jax.models import cnn, crnn, tps, vit
from dig_jax.models.transformer import of_block


def of_vit(g: Graph, module: vit.Vit, params: Mapping[str, Any], image: str, width: str) -> str:
    blocks, seen = _blocks(g, module, params, image, width)
    x = layer_norm(g, blocks[-1], params["norm"]) if module.final_norm else blocks[-1]
    return _leaving(g, module, x, seen)


def each_block(g: Graph, module: vit.Vit, params: Mapping[str, Any], image: str, width: str):
    """The output of every block of a ViT, each f32[b, N, D]."""
    blocks, seen = _blocks(g, module, params, image, width)
    return [_leaving(g, module, x, seen) for x in blocks[1:]]


def mixed(g: Graph, frames: str, numbers: np.ndarray, rows: int, dim: int) -> str:
    """`Method._mixed`: the sum of blocks, weighted by the softmax of a number for each."""
    weights = np.exp(numbers - numbers.max())
    weights = (weights / weights.sum()).astype(np.float32)[:, None]
    x = g("Reshape", frames, np.array([0, 0, rows, len(weights), dim]))
    x = g("ReduceSum", g("Mul", x, weights), [3], keepdims=0)
    return g("Reshape", x, np.array([0, 0, rows * dim]))


def _leaving(g: Graph, module: vit.Vit, x: str, seen: str) -> str:
    """Tokens as they leave: zeros behind the line, no class token."""
    x = g("Where", g("Unsqueeze", seen, [2]), x, np.float32(0))
    return g("Slice", x, [1], [np.iinfo(np.int64).max], [1]) if module.class_token else x


def _blocks(
    g: Graph, module: vit.Vit, params: Mapping[str, Any], image: str, width: str
) -> tuple[list[str], str]:
    """What goes into the first block and what leaves each, and which tokens are real."""
    patch, dim, rows = module.patch, module.width, params["rows"]
    if module.stem:
        pools = vit.STEM_POOLS[tuple(patch)]
        x, real = _convolutions(g, module, pools, params, image, width)
        cols, x = size(g, real, 1), dense(g, x, params["patch_embed"])
    else:
        x = _patches(g, patch, dim, params["patch_embed"], pixels(g, image, width))
        cols = size(g, x, 3)
        x = g("Reshape", g("Transpose", x, perm=[0, 3, 2, 1]), np.array([0, -1, dim]))
    x = g("Add", x, _codes(g, module, params, rows, cols))
    real = g("Mul", columns(g, width, patch[1]), np.int64(rows))
    if module.class_token:
        token = np.asarray(params["cls_token"]).reshape(1, 1, dim)
        shape = g("Concat", g("Shape", x, start=0, end=1), np.array([1, dim]), axis=0)
        x = g("Concat", g("Expand", token, shape), x, axis=1)
        real = g("Add", real, np.int64(1))
    seen = first(g, size(g, x, 1), real)
    blocks = [x]
    for number in range(module.depth):
        blocks.append(_block(g, module, of_block(params, number), blocks[-1], seen))
    return blocks, seen


def _patches(g: Graph, patch, dim: int, params: Mapping[str, Any], image: str) -> str:
    """Embedded patches, [b, D, Gh, Gw]."""
    channels = params["kernel"].shape[0] // (patch[0] * patch[1])
    kernel = np.asarray(params["kernel"]).reshape(*patch, channels, dim).transpose(3, 2, 0, 1)
    bias = np.asarray(params["bias"])
    return g("Conv", image, kernel, bias, kernel_shape=list(patch), strides=list(patch))


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
    code = waves(g, g("Range", np.int64(0), cols, np.int64(1)), quarter)
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
    query, value = (by_head(g, part, heads, each) for part in (parts[0], parts[2]))
    out, _ = attend(g, query, by_head(g, parts[1], heads, each, turned=True), value, each, seen)
    x = g("Add", x, dense(g, out, weights["proj"]))
    hidden = dense(g, layer_norm(g, x, params["norm2"]), params["mlp"]["fc1"])
    hidden = g("Gelu", hidden, approximate="none" if module.gelu == "exact" else "tanh")
    return g("Add", x, dense(g, hidden, params["mlp"]["fc2"]))


def of_cnn(g: Graph, module: cnn.Cnn, params: Mapping[str, Any], image: str, width: str) -> str:
    tokens, real = _convolutions(g, module, module.pools, params, image, width)
    if module.layers:
        lengths = columns(g, width, module.patch[1])
        tokens = bilstm(g, tokens, lengths, params["lstm"], module.layers)
    if module.final_norm:
        tokens = layer_norm(g, tokens, params["norm"])
    return g("Mul", tokens, g("Unsqueeze", real, [2]))


def _convolutions(g: Graph, module, pools, params, image: str, width: str) -> tuple[str, str]:
    """`convolution.convolutions`: the columns of a line, and which of them are real."""
    height, column_px = module.patch
    real = g("Mul", columns(g, width, column_px), np.int64(column_px))
    real = as_float(g, first(g, size(g, image, 2), real))  # [b, w]
    x = g("Mul", pixels(g, image, width), g("Unsqueeze", real, [1, 2]))
    for number, pool in enumerate(pools):
        weights = params[f"conv_{number}"]
        x = _convolution(g, weights, x, real, height, pool)
        height //= pool[0]
        end = [np.iinfo(np.int64).max]
        real = g("Slice", real, [0], end, [1], [pool[1]]) if pool[1] > 1 else real
    x = g("Transpose", x, perm=[0, 3, 2, 1])
    return g("Reshape", x, np.array([0, 0, height * len(weights["scale"])])), real


def _convolution(g: Graph, params, x: str, real: str, height: int, pool, groups: int = 8) -> str:
    """`convolution.Convolution`: group norm by the real columns, ReLU, maximum of each window.

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


def of_crnn(g: Graph, module: crnn.Crnn, params: Mapping[str, Any], image: str, width: str) -> str:
    lengths = columns(g, width, crnn.COLUMN_PX)
    real = first(g, size(g, image, 2), g("Mul", lengths, np.int64(crnn.COLUMN_PX)))
    real, height = as_float(g, real), module.height_px
    x = pixels(g, image, width)
    if module.fiducials:
        x = _rectified(g, module, params["rectifier"], x, width, real)
    for name in ("stem_0", "stem_1"):
        x = g("Relu", _normed(g, params[name], x, real, height))
    for stage, count in enumerate(module.blocks):
        down, across = pool = crnn.POOLS[stage]
        x = g("MaxPool", x, kernel_shape=list(pool), strides=list(pool))
        real = g("Slice", real, [0], [np.iinfo(np.int64).max], [1], [across])
        height //= down
        for block in range(count):
            weights = params[f"stage_{stage}_{block}"]
            out = g("Relu", _normed(g, weights["first"], x, real, height))
            out = _normed(g, weights["second"], out, real, height)
            if "shortcut" in weights:
                x = _normed(g, weights["shortcut"], x, real, height)
            x = g("Relu", g("Add", x, out))
    frames = g("Transpose", g("ReduceMean", x, [2], keepdims=0), perm=[0, 2, 1])
    for layer in range(module.layers):
        frames = bilstm(g, frames, lengths, params[f"lstm_{layer}"], 1)
        frames = dense(g, frames, params[f"dense_{layer}"])
    if module.final_norm:
        frames = layer_norm(g, frames, params["norm"])
    return g("Mul", frames, g("Unsqueeze", real, [2]))


def _rectified(g: Graph, module: crnn.Crnn, params, image: str, width: str, real: str) -> str:
    """`crnn.Rectifier`: image f32[b, C, H, w] -> the same, its real part warped by a spline."""
    x, kept, left = image, real, module.height_px
    for number, pool in enumerate(((2, 2), (2, 2), (2, 1), None)):
        x = g("Relu", _normed(g, params[f"conv_{number}"], x, kept, left))
        if pool:
            x, left = g("MaxPool", x, kernel_shape=list(pool), strides=list(pool)), left // pool[0]
            kept = g("Slice", kept, [0], [np.iinfo(np.int64).max], [1], [pool[1]])
    x = g("Mul", g("ReduceMean", x, [2], keepdims=0), g("Unsqueeze", kept, [1]))
    count = g("Max", g("ReduceSum", kept, [1], keepdims=1), np.float32(1))
    x = g("Div", g("ReduceSum", x, [2], keepdims=0), count)
    x = dense(g, g("Relu", dense(g, x, params["dense"])), params["offsets"])
    return _warped(g, image, width, g("Reshape", x, np.array([0, module.fiducials, 2])), module)


def _warped(g: Graph, image: str, width: str, offsets: str, module: crnn.Crnn) -> str:
    """`tps.warp`, by GridSample; offsets f32[b, K, 2]."""
    height, points = module.height_px, tps.fiducial_points(module.fiducials)
    canvas_px, wide = size(g, image, 3), g("Unsqueeze", as_float(g, width), [1, 2])  # [b, 1, 1]
    place = as_float(g, g("Range", np.int64(0), canvas_px, np.int64(1)))
    rows = np.arange(height)[None, :, None]
    x = g("Div", g("Add", g("Mul", place, np.float32(2)), np.float32(1)), wide)
    x = g("Unsqueeze", g("Sub", x, np.float32(1)), [3])  # [b, 1, w, 1]
    y = ((2.0 * rows + 1.0) / height - 1.0)[..., None]  # [1, H, 1, 1]
    across, down = g("Sub", x, np.float32(points[:, 0])), np.float32((y - points[:, 1]) ** 2)
    square = g("Add", g("Mul", across, across), down)
    positive = g("Greater", square, np.float32(0))
    bumps = g("Mul", square, g("Log", g("Where", positive, square, np.float32(1))))
    weights = g("MatMul", np.float32(tps.coefficients(module.fiducials)), offsets)
    weights = g("Unsqueeze", weights, [1])  # [b, 1, 3 + K, 2]
    part = lambda begin, end: g("Slice", weights, [begin], [end], [2])
    moved = g("Add", g("Mul", x, part(1, 2)), g("Mul", np.float32(y), part(2, 3)))
    moved = g("Add", g("Add", moved, part(0, 1)), g("MatMul", bumps, part(3, 3 + len(points))))
    by_x, by_y = g("Split", moved, outputs=2, axis=3, num_outputs=2)
    by_x, by_y = (g("Squeeze", axis, [3]) for axis in (by_x, by_y))  # [b, H, w]
    half = np.float32(0.5)
    last = g("Sub", as_float(g, canvas_px), np.float32(1))

    def position(start: Any, by: str, extent: Any, whole: Any) -> str:
        """Where a pixel is read, in [-1, 1] of the whole image, within the extent of the line."""
        at = g("Add", start, g("Mul", by, g("Mul", extent, half)))
        at = g("Max", g("Min", at, g("Sub", extent, np.float32(1))), np.float32(0))
        return g("Unsqueeze", g("Sub", g("Div", at, g("Mul", whole, half)), np.float32(1)), [3])

    x = position(place, by_x, wide, last)
    y = position(np.float32(rows), by_y, np.float32(height), np.float32(height - 1))
    options = {"mode": "linear", "padding_mode": "border", "align_corners": 1}
    warped = g("GridSample", image, g("Concat", x, y, axis=3), **options)
    inside = g("Unsqueeze", g("Less", place, wide), [1])  # [b, 1, 1, w]
    return g("Where", inside, warped, image)


def _normed(g: Graph, params: Mapping[str, Any], x: str, real: str, height: int) -> str:
    """`crnn.Convolution`: of what is real, then `crnn.LineNorm`."""
    kernel = np.asarray(params["conv"]["kernel"]).transpose(3, 2, 0, 1)
    channels, side = len(kernel), kernel.shape[-1]
    groups = min(crnn.LineNorm.groups, channels)
    real = g("Unsqueeze", real, [1, 2])
    x = g("Conv", g("Mul", x, real), kernel, kernel_shape=[side, side], pads=[side // 2] * 4)
    count = g("Max", g("ReduceSum", real, [2, 3], keepdims=0), np.float32(1))
    count = g("Mul", count, np.float32(height))  # [b, 1]
    mean = lambda kind, x: g(
        "Unsqueeze",
        _by_group(
            g, g("Div", g(kind, g("Mul", x, real), [2, 3], keepdims=0), count), channels, groups
        ),
        [2, 3],
    )
    x = g("Sub", x, mean("ReduceSum", x))
    spread = g("Sqrt", g("Add", mean("ReduceSumSquare", x), np.float32(crnn.LineNorm.epsilon)))
    scale, bias = (np.asarray(params["norm"][name])[:, None, None] for name in ("scale", "bias"))
    return g("Add", g("Mul", g("Div", x, spread), scale), bias)


def _by_group(g: Graph, x: str, channels: int, groups: int) -> str:
    """[b, C] -> the mean over the channels of a group, back at each of its channels."""
    x = g("Reshape", x, np.array([0, groups, channels // groups]))
    mean = g("ReduceMean", x, [2], keepdims=1)
    return g("Reshape", g("Expand", mean, g("Shape", x)), np.array([0, channels]))


OF = {vit.Vit: of_vit, cnn.Cnn: of_cnn, crnn.Crnn: of_crnn}
