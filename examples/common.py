"""What the runners share: images in, text out. numpy and Pillow, no JAX and no dig_jax."""

import json
import pathlib

import numpy as np
from PIL import Image, ImageOps


def opened(folder):
    """(config.json, characters) of an export folder."""
    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    return config, json.loads((folder / "charset.json").read_text())["chars"]


def prepared(path, data):
    """u8[H, w, C] as in training: resized to the height, the contrast stretched."""
    image = ImageOps.exif_transpose(Image.open(path))  # as the camera was held
    image = image.convert("L" if data["channels"] == 1 else "RGB")
    height, width = data["height_px"], data.get("squeeze_px")
    width = width or max(1, (2 * image.width * height + image.height) // (2 * image.height))
    small = min(width, image.width), min(height, image.height)
    image = image.resize(small, Image.BOX).resize((width, height), Image.BILINEAR)
    pixels = np.asarray(image).reshape(height, width, data["channels"])
    if data.get("contrast") == "stretch":
        grey = np.asarray(image.convert("L"))
        counts = np.cumsum(np.bincount(grey.ravel(), minlength=256))
        low, high = (int(np.searchsorted(100 * counts, p * grey.size)) for p in (2, 90))
        if high - low >= 8:
            levels = (np.arange(256) - low) * (255 / (high - low))
            pixels = np.clip(levels + 0.5, 0, 255).astype(np.uint8)[pixels]
    return pixels


def padded(pixels, multiple_px):
    """The batch of one line: (u8[1, H, w, C] with paper on the right, i32[1] its real width)."""
    height, width, channels = pixels.shape
    image = np.full((1, height, -(-width // multiple_px) * multiple_px, channels), 255, np.uint8)
    image[0, :, :width] = pixels
    return image, np.array([width], np.int32)


def greedy(logits, chars):
    """Logits [frames, classes] -> (text, confidence): repeats are one, class 0 is the blank.

    Right-to-left scripts come out in the order of the picture.
    """
    best = logits.argmax(-1)
    sure = 1 / np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    runs = [r for r in np.split(np.arange(len(best)), starts[1:]) if best[r[0]]]
    confidence = np.mean([sure[r].max() for r in runs] or [sure.mean()])
    return "".join(chars[best[r[0]] - 1] for r in runs), float(confidence)
