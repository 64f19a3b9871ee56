"""Read line images with an export to ONNX: onnxruntime, numpy and Pillow, no JAX and no dig_jax.

python examples/read_onnx.py EXPORT line.png more.jpg
"""

import sys

import onnxruntime
from common import opened, padded, prepared


def main(folder, paths, multiple_px=96):  # widths: multiples of the patch's width
    config, chars = opened(folder)
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
    for path in paths:
        pixels = prepared(path, config["data"])
        multiple_px = config["data"].get("squeeze_px") or multiple_px
        image, width = padded(pixels, multiple_px)
        found = session.run(None, {"image": image, "width": width})
        found = {output.name: x[0] for output, x in zip(session.get_outputs(), found)}
        text = "".join(chars[i - 1] for i in found["ids"][: found["length"]])
        print(f"{path}\t{text}\t{found['line']:.4f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
