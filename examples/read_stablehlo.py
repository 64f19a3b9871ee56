"""Read line images with an export to StableHLO: JAX, numpy and Pillow, no dig_jax.

    python examples/read_stablehlo.py EXPORT line.png more.jpg

The program decodes, too: greedily, by CTC or one character after the other.
"""

import pathlib
import sys

import numpy as np
from common import opened, padded, prepared
from jax import export


def main(folder, paths, multiple_px=96):
    config, chars = opened(folder)
    program = export.deserialize(bytearray(pathlib.Path(folder, "model.stablehlo").read_bytes()))
    for path in paths:
        pixels = prepared(path, config["data"])
        image, width = padded(pixels, config["data"].get("squeeze_px") or multiple_px)
        reading = {name: np.asarray(value)[0] for name, value in program.call(image, width).items()}
        text = "".join(chars[i - 1] for i in reading["ids"][: reading["length"]])
        print(f"{path}\t{text}\t{reading['line']:.4f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
