"""What the runners share: images in, text out. numpy and Pillow, no JAX and no dig_jax."""

import json
import math
import pathlib
import sys

import numpy as np
from PIL import Image, ImageOps

GOOD_CONTRAST = 64  # grey levels between ink and ground


def arguments(usage):
    """(export folder, image paths) of the command line; without them, or with --help, the usage."""
    given = sys.argv[1:]
    if {"-h", "--help"} & set(given):
        print(usage.strip())
        raise SystemExit(0)
    if len(given) < 2:
        raise SystemExit(usage.strip())
    return given[0], given[1:]


def opened(folder, format, file):
    """(config.json, characters) of an export folder of a reader, which also holds `file`."""
    folder = pathlib.Path(folder)
    if not (folder / "config.json").is_file():
        raise SystemExit(f"there is no {folder / 'config.json'}: name the folder of an export")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    export = config.get("export", {})
    if (export.get("kind"), export.get("format")) != ("reader", format):
        found = f"an export of kind {export.get('kind')} to {export.get('format')}"
        raise SystemExit(f"{folder} is {found}: name a reader that was exported to {format}")
    for name in ("charset.json", file):
        if not (folder / name).is_file():
            raise SystemExit(f"there is no {folder / name}: export the reader again")
    return config, json.loads((folder / "charset.json").read_text(encoding="utf-8"))["chars"]


def batches(paths, config, multiple_px=None):
    """(path, image u8[1, H, w, C], width i32[1]) of each image, by default as the export says.

    One that cannot be read is named and left out; then the exit code is 1 in the end.
    """
    widths, bad = (multiple_px, None) if multiple_px else usual_widths(config), 0
    for path in paths:
        try:
            image, width = padded(prepared(path, config["data"]), *widths)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            bad += 1
            reason = getattr(error, "strerror", None) or error
            print(f"{path} is left out: {reason}", file=sys.stderr)
            continue
        yield path, image, width
    if bad:
        raise SystemExit(f"{bad} of {len(paths)} images could not be read")


def column_px(encoder):
    """How wide a column of an encoder is, of the options in config.json."""
    pools = encoder.get("pools", ((2, 2), (2, 2), (2, 1), (2, 1), (1, 1)))
    return encoder["patch"][1] if "patch" in encoder else math.prod(p[1] for p in pools)


def usual_widths(config):
    """(what widths are multiples of, the widest or None). Few widths, so few programs to compile.

    An export that lacks multiple_px is older, and its widths are whole columns of 32 px or more.
    """
    export, column = config["export"], column_px(config["method"]["encoder"])
    squeeze_px = config["data"].get("squeeze_px")
    multiple_px = export.get("multiple_px") or squeeze_px or -(-32 // column) * column
    widest_px = export.get("widest_px") or squeeze_px
    return -(-96 // multiple_px) * multiple_px, widest_px


def prepared(path, data):
    """u8[H, w, C] as in training: resized to the height, the contrast stretched."""
    image = ImageOps.exif_transpose(Image.open(path))  # as the camera was held
    image = eight_bits(image).convert("L" if data["channels"] == 1 else "RGB")
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


def eight_bits(image):
    """The same in 8 bits and without transparency: on white, or on black where that shows more.

    16 bits are reduced by the lightest pixel: cameras put 10 or 12 bits into them. ValueError for
    other kinds of numbers, which dig_jax reads.
    """
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of kind {image.mode} are not read here: give 8 or 16 bits")
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        bits = max(int(values.max()).bit_length(), 8)
        return Image.fromarray((values * (255 / (2**bits - 1)) + 0.5).astype(np.uint8))
    if "transparency" not in image.info and image.mode not in ("LA", "PA", "La", "RGBA", "RGBa"):
        return image
    image = image.convert("RGBA")
    on = lambda ground: Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    ranges = {g: np.ptp(np.asarray(on(g).convert("L")).astype(int)) for g in ("white", "black")}
    enough = ranges["white"] >= GOOD_CONTRAST or ranges["white"] >= ranges["black"]
    return on("white" if enough else "black")


def padded(pixels, multiple_px, widest_px=None):
    """The batch of one line: (u8[1, H, w, C] with paper on the right, i32[1] its real width)."""
    height, width, channels = pixels.shape
    wide = -(-width // multiple_px) * multiple_px
    if widest_px:
        wide = min(wide, widest_px)
        if width > wide:
            raise ValueError(f"it is {width} px wide at height {height}, and {wide} is the most")
    image = np.full((1, height, wide, channels), 255, np.uint8)
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
