"""Read line images with an export to StableHLO: JAX, numpy and Pillow, no dig_jax.

    python examples/read_stablehlo.py EXPORT line.png more.jpg

The program decodes, too: greedily, by CTC or one character after the other.
"""

import pathlib

import numpy as np
from common import arguments, batches, opened
from jax import export


def main(folder, paths):
    config, chars = opened(folder, "stablehlo", "model.stablehlo")
    program = export.deserialize(bytearray(pathlib.Path(folder, "model.stablehlo").read_bytes()))
    for path, image, width in batches(paths, config):
        reading = {name: np.asarray(value)[0] for name, value in program.call(image, width).items()}
        text = "".join(chars[i - 1] for i in reading["ids"][: reading["length"]])
        print(f"{path}\t{text}\t{reading['line']:.4f}")


if __name__ == "__main__":
    main(*arguments(__doc__))
