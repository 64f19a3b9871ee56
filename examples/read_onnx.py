"""Read line images with an export to ONNX: onnxruntime, numpy and Pillow, no JAX and no dig_jax.

python examples/read_onnx.py EXPORT line.png more.jpg
"""

import onnxruntime
from common import arguments, batches, opened


def main(folder, paths):
    config, chars = opened(folder, "onnx", "model.onnx")
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
    for path, image, width in batches(paths, config):
        found = session.run(None, {"image": image, "width": width})
        found = {output.name: x[0] for output, x in zip(session.get_outputs(), found)}
        text = "".join(chars[i - 1] for i in found["ids"][: found["length"]])
        print(f"{path}\t{text}\t{found['line']:.4f}")


if __name__ == "__main__":
    main(*arguments(__doc__))
