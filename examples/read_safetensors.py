"""Read line images with an export to safetensors: numpy and Pillow alone, no JAX and no dig_jax.

    python examples/read_safetensors.py EXPORT line.png more.jpg

The whole reader in numpy, to be read: a CNN or ViT and CTC, linear or behind BiLSTMs. One line at a
time, so there is no padding to think of. For speed take an export to ONNX.
"""

import math

import numpy as np
from common import arguments, batches, column_px, greedy, opened
from safetensors.numpy import load_file

erf = np.vectorize(math.erf, otypes=[np.float32])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Weights:
    """Arrays of one part: w["norm"]["scale"]."""

    def __init__(self, arrays, path):
        self.arrays, self.path = arrays, path

    def __getitem__(self, name):
        path = f"{self.path}/{name}"
        return self.arrays[path] if path in self.arrays else Weights(self.arrays, path)

    def __contains__(self, name):
        return any(key.startswith(f"{self.path}/{name}/") for key in self.arrays)


def dense(x, w):
    return x @ w["kernel"] + w["bias"]


def layer_norm(x, w):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w["scale"] + w["bias"]


def bilstm(x, w, layers):
    """[S, F] -> [S, 2 H]."""
    for layer in range(layers):
        gates, recurrent = dense(x, w[f"input_{layer}"]), w[f"recurrent_{layer}"]
        ways = []
        for way, sums in enumerate(np.split(gates, 2, 1)):
            sums = sums[::-1] if way else sums
            hidden = cell = np.zeros(recurrent.shape[1], np.float32)
            states = []
            for now in sums:
                write, forget, new, show = np.split(now + hidden @ recurrent[way], 4)
                cell = sigmoid(forget + 1) * cell + sigmoid(write) * np.tanh(new)
                hidden = sigmoid(show) * np.tanh(cell)
                states.append(hidden)
            ways.append(np.stack(states[::-1] if way else states))
        x = np.concatenate(ways, 1)
    return x


def cnn(x, w, pools, groups=8):
    """[H, w, C] -> [w', h * C']."""
    for number, (down, across) in enumerate(pools):
        part = w[f"conv_{number}"]
        kernel, (height, width, _) = part["kernel"], x.shape
        x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        taps = [(i, j) for i in range(3) for j in range(3)]
        x = sum(x[i : i + height, j : j + width] @ kernel[i, j] for i, j in taps)
        grouped = x.reshape(height, width, groups, -1)
        mean = grouped.mean((0, 1, 3), keepdims=True)
        spread = 1 / np.sqrt(grouped.var((0, 1, 3), keepdims=True) + 1e-5)
        x = ((grouped - mean) * spread).reshape(x.shape) * part["scale"] + part["bias"]
        x = np.maximum(x, 0).reshape(height // down, down, width // across, across, -1)
        x = x.max((1, 3))
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


def vit(x, w, options):
    """[H, w, C] -> [N, D], tokens column by column."""
    (high, wide), dim, heads = options["patch"], options["width"], options["heads"]
    rows, columns = x.shape[0] // high, x.shape[1] // wide
    x = x.reshape(rows, high, columns, wide, -1).transpose(2, 0, 1, 3, 4)
    x = dense(x.reshape(rows * columns, -1), w["patch_embed"])
    frequency = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
    column, row = (a.ravel()[:, None] * frequency for a in np.mgrid[:columns, :rows])
    x = x + np.concatenate([np.sin(column), np.cos(column), np.sin(row), np.cos(row)], 1)
    for number in range(options["depth"]):
        part = w[f"block_{number}"]
        attention, mlp = part["attn"], part["mlp"]
        query, key, value = np.split(
            layer_norm(x, part["norm1"]) @ attention["qkv"]["kernel"], 3, 1
        )
        split = lambda y: y.reshape(len(y), heads, -1).transpose(1, 0, 2)
        query, value = query + attention["q_bias"], value + attention["v_bias"]
        logits = split(query) @ split(key).transpose(0, 2, 1) / math.sqrt(dim // heads)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        seen = weights / weights.sum(-1, keepdims=True) @ split(value)
        x = x + dense(seen.transpose(1, 0, 2).reshape(len(x), dim), attention["proj"])
        hidden = dense(layer_norm(x, part["norm2"]), mlp["fc1"])
        x = x + dense(hidden * (1 + erf(hidden / math.sqrt(2))) / 2, mlp["fc2"])
    return x


def main(folder, paths):
    config, chars = opened(folder, "safetensors", "weights.safetensors")
    arrays = {
        k: v.astype(np.float32) for k, v in load_file(f"{folder}/weights.safetensors").items()
    }
    options = config["method"]["encoder"]
    (name, head), encoder = *config["method"]["heads"].items(), Weights(arrays, "params/encoder")
    if options.get("position", "sincos_2d") != "sincos_2d" or "blocks" in encoder:
        raise SystemExit("this example computes sincos_2d and blocks one by one: use ONNX")
    if options.get("kind") != "cnn" and "conv_0" in encoder:
        raise SystemExit("this example has no stem of convolutions before a ViT: use ONNX")
    ctc = head.get("kind", "linear") in ("linear", "bilstm")
    if not ctc or config["method"].get("block", "last") != "last":
        raise SystemExit("this example reads by CTC, from the last block of the encoder: use ONNX")
    if options.get("kind", "vit") not in ("vit", "cnn"):
        raise SystemExit(f"this example has no encoder of the kind {options['kind']}: use ONNX")
    pools = options.get("pools", ((2, 2), (2, 2), (2, 1), (2, 1), (1, 1)))
    wide = column_px(options)
    for path, image, _ in batches(paths, config, wide):
        x = image[0].astype(np.float32) / 127.5 - 1
        if options.get("kind") == "cnn":
            x = cnn(x, encoder, pools)
            if options.get("layers"):
                x = bilstm(x, encoder["lstm"], options["layers"])
        else:
            x = vit(x, encoder, options)
        x = layer_norm(x, encoder["norm"]) if "norm" in encoder else x
        top = Weights(arrays, "params")
        x = layer_norm(x, top["norm"]) if "norm" in top else x
        x = x.reshape(image.shape[2] // wide, -1)  # the tokens of a column side by side
        if "mutable/scale/mean" in arrays:
            x = (x - arrays["mutable/scale/mean"]) / arrays["mutable/scale/std"]
        weights = Weights(arrays, f"params/heads/{name}")
        if head.get("kind") == "bilstm":
            x = bilstm(x, weights["lstm"], head.get("layers", 1))
        text, confidence = greedy(dense(x, weights["classify"]), chars)
        print(f"{path}\t{text}\t{confidence:.4f}")


if __name__ == "__main__":
    main(*arguments(__doc__))
