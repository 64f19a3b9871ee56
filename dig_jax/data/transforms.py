"""What the host does to one line image: decode, resize to a height, cut or pad to a width. numpy,
OpenCV, Pillow.

Everything else (geometry, colour, masks) is batched code on the device. Importing this module sets
OpenCV to one thread for the process. A text line is far too small to share between threads, and the
reading threads or worker processes already fill the cores.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from dig_jax.data.sizes import (
    JPEG,
    MAX_PIXELS,
    PNG,
    BadRecord,
    check_effort,
    header_size,
    open_image,
    resized_width,
)

cv2.setNumThreads(1)

PAPER = 255  # the grey level that stands for "nothing written here"
CONTRAST_PERCENTILES = (2, 90)  # of a line's greys: its ink and its paper
GOOD_CONTRAST = 64  # grey levels that white ground must leave to what is written
MAX_SAMPLE_VALUE, PHOTOMETRIC = 281, 262  # tags of TIFF
LEAST_CONTRAST = 8  # grey levels between the two; with less the difference is noise
MAX_FOREIGN_BYTES = (
    4 << 20
)  # of an image that is neither JPEG nor PNG: Pillow parses those in Python, byte by byte at worst


def decode(data: bytes, channels: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Encoded image -> u8[h, w, channels], channels 1 (grey) or 3 (RGB).

    The size is read from the header before any pixel is, so that a small file that unpacks to
    gigabytes costs nothing. OpenCV decodes JPEG and plain PNG, which make_records writes. Pillow
    decodes the rest of sizes.FORMATS, because OpenCV might take another size for such a file than
    the one that was checked.

    Raises BadRecord for an empty string, something that is no image, more than max_pixels pixels, a
    truncated file, or one that is made to take minutes. Not found: bytes changed in the middle of a
    JPEG, which has no checksum and decodes to a damaged picture.
    """
    if channels not in (1, 3):
        raise ValueError(f"data.channels is {channels}; an image has 1 channel (grey) or 3 (RGB)")
    if not data:
        raise BadRecord("empty: the image has no bytes")
    native = data.startswith((JPEG, PNG))
    by_opencv = data.startswith(JPEG) or _is_plain_png(data)
    if not native and len(data) > MAX_FOREIGN_BYTES:
        raise BadRecord(
            f"too large: {len(data)} bytes that are neither JPEG nor PNG; at most "
            f"{MAX_FOREIGN_BYTES} are read"
        )
    width, height = header_size(data)
    if width * height > max_pixels:
        raise BadRecord(
            f"too large: {width} x {height} px is more than data.max_pixels={max_pixels}"
        )
    if (
        not native and 4 * width * height > max_pixels and open_image(data).format == "JPEG2000"
    ):  # OpenJPEG: 20+ bytes a pixel
        raise BadRecord(
            f"too large: a JPEG 2000 of {width} x {height} px, more than a quarter of "
            f"data.max_pixels={max_pixels}"
        )
    check_effort(data, max_pixels)
    # JPEG older than OpenCV 5 comes back half grey when it is cut short. FF D9 cannot stand inside
    # its coded pixels.
    if data.startswith(JPEG) and data.rfind(b"\xff\xd9") < 0:
        raise BadRecord("truncated: the JPEG has no end marker")
    image = (_by_opencv if by_opencv else _by_pillow)(data, channels)
    if image is None or image.shape[:2] != (height, width):
        raise BadRecord(
            f"truncated or damaged: the header says {width} x {height} px, the pixels cannot be "
            "decoded"
        )
    return image


ORIENTATION = 0x0112  # tag of EXIF and TIFF
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # of [h, w, C], by the tag
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def upright(image: np.ndarray, data: bytes) -> np.ndarray:
    """u8[h, w, C] decoded from `data` -> the same turned as the camera's tag says."""
    if data.startswith(PNG) and b"eXIf" not in data and b"XML:com.adobe.xmp" not in data:
        return image  # to look for a tag Pillow would decode it a second time
    try:
        stored = open_image(data)
        turn = TURNS.get(stored.getexif().get(ORIENTATION, 1))
    except Exception:  # whatever a parser makes of odd metadata: the pixels are good
        return image
    if turn is None or stored.format == "TIFF":  # those Pillow has turned by itself
        return image
    return np.ascontiguousarray(turn(image))


def _is_plain_png(data: bytes) -> bool:
    """A PNG of 8 bits or less without transparency: of others OpenCV drops half the bits, and the
    alpha channel."""
    if not data.startswith(PNG):
        return False
    bits, colours = data[24:26].ljust(2, b"\0")
    head = max(data.find(b"IDAT"), 0)
    return bits <= 8 and colours not in (4, 6) and data.find(b"tRNS", 0, head) < 0


def _by_opencv(data: bytes, channels: int) -> np.ndarray | None:
    try:
        # As stored, without the camera's rotation, so that the size is the header's, which the
        # index holds.
        how = (
            cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
        ) | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except cv2.error:
        return None
    if image is None:
        return None
    return image[:, :, None] if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _by_pillow(data: bytes, channels: int) -> np.ndarray | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = np.asarray(flatten(open_image(data), channels))
    except Exception:  # whatever a decoder makes of arbitrary bytes
        return None
    return image.reshape(*image.shape[:2], channels)


def flatten(image: Image.Image, channels: int) -> Image.Image:
    """Any pixel type of Pillow -> L (channels 1) or RGB (3): 8 bits by `eight_bits`, transparent
    parts on the ground that leaves contrast. Reads all pixels.
    """
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I") or image.mode == "F":
        tags = getattr(image, "tag_v2", {})
        image = Image.fromarray(eight_bits(np.asarray(image), tags.get(MAX_SAMPLE_VALUE)))
        if tags.get(PHOTOMETRIC) == 0:  # white is zero, which Pillow minds in 8 bits only
            image = ImageOps.invert(image)
    if "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBA", "RGBa"):
        image = _on_ground(image.convert("RGBA"))
    return image.convert(mode)


def grey_range(image: Image.Image) -> int:
    """Grey levels between the darkest and the lightest pixel."""
    low, high = image.convert("L").getextrema()
    return high - low


def _on_ground(image: Image.Image) -> Image.Image:
    """RGBA on white; on black where white swallows what is written, as it does white writing."""
    white, black = (
        Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
        for ground in ("white", "black")
    )
    if grey_range(white) >= GOOD_CONTRAST or grey_range(white) >= grey_range(black):
        return white
    return black


def eight_bits(values: np.ndarray, white: Any = None) -> np.ndarray:
    """Greys or colours [h, w, ...] of any number type -> u8, white becoming 255.

    white: as the file states it. Otherwise it is 1 for fractions, and for integers the largest
    number of as many bits (8 or more) as the lightest pixel has: cameras put 10 or 12 bits into 16.
    Fractions that reach below 0 run from the lowest to the highest. Row by row, because float
    copies of a large picture would be eight times its size.
    """
    low = high = 0.0
    for row in values:
        row = row[np.isfinite(row)]
        low, high = min(low, float(row.min(initial=0))), max(high, float(row.max(initial=0)))
    fractions = values.dtype.kind == "f" and high <= 1
    white = white[0] if isinstance(white, tuple) and white else white
    if not (isinstance(white, int | float) and white >= high > 0):
        bits = max(8, math.ceil(math.log2(high + 1)))
        white = max(high - low, 1.0) if fractions else 2.0**bits - 1
    black = low if fractions else 0.0
    out = np.empty(values.shape, np.uint8)
    for row, line in zip(out, values):
        greys = (np.nan_to_num(line.astype(np.float64)) - black) * (255 / white)
        row[:] = np.clip(greys + 0.5, 0, 255)
    return out


def resize_to_height(image: np.ndarray, height_px: int) -> np.ndarray:
    """u8[h, w, C] -> u8[height_px, resized_width, C], aspect ratio kept; the same array where h is
    height_px already.

    Area averaging when shrinking (no aliasing of thin strokes), linear when enlarging.
    """
    height, width = image.shape[:2]
    return _resize(image, height_px, int(resized_width(width, height, height_px)))


def crop(image: np.ndarray, width_px: int, u: float) -> tuple[np.ndarray, int]:
    """u8[H, w, C] -> (u8[H, width_px, C], real width in px). u in [0, 1) chooses among the w -
    width_px + 1 windows.

    A line narrower than the window is kept whole and padded with paper on the right.
    """
    start = _start(image.shape[1], width_px, u)
    return _pad(image[:, start : start + width_px], width_px)


def crop_to_height(
    image: np.ndarray, height_px: int, width_px: int, u: float
) -> tuple[np.ndarray, int]:
    """resize_to_height, then crop, in the cheaper order: only the pixels of the window are resized.

    The window starts on a pixel of the stored image (not of the resized one), and its width there
    is rounded to whole pixels. So the scale differs by less than half a stored pixel in a whole
    window.
    """
    height, width = image.shape[:2]
    if height == height_px or resized_width(width, height, height_px) <= width_px:
        return crop(resize_to_height(image, height_px), width_px, u)
    window = min(width, int(resized_width(width_px, height_px, height)))
    start = _start(width, window, u)
    return _resize(image[:, start : start + window], height_px, width_px), width_px


def squeeze(image: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """u8[h, w, C] -> u8[height_px, width_px, C], whatever that does to its aspect ratio: the habit
    of scene text.
    """
    return _resize(image, height_px, width_px)


def whole_line(
    image: np.ndarray, height_px: int, squeeze_px: int | None = None, contrast: str | None = None
) -> np.ndarray:
    """u8[h, w, C] of one decoded line -> u8[height_px, w', C] as networks take it.

    w' is `resized_width`, or squeeze_px. contrast "stretch": `stretch_contrast`; None, "none": as
    stored. Raises BadRecord where OpenCV cannot resize.
    """
    try:
        if squeeze_px:
            image = squeeze(image, height_px, squeeze_px)
        else:
            image = resize_to_height(image, height_px)
    except cv2.error as error:
        raise BadRecord(f"cannot be resized: {' '.join(str(error).split())}") from error
    return stretch_contrast(image) if contrast == "stretch" else image


def stretch_contrast(image: np.ndarray) -> np.ndarray:
    """u8[h, w, C] of one whole line -> the same, its 2nd percentile of grey at 0, its 90th at 255.

    What lies outside is clipped, colours share one map, and dark ink stays dark. A line with fewer
    than LEAST_CONTRAST levels between the two is returned as it is.
    """
    grey = image[:, :, 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    counts = np.cumsum(np.bincount(grey.reshape(-1), minlength=256))
    low, high = (int(np.searchsorted(100 * counts, p * grey.size)) for p in CONTRAST_PERCENTILES)
    if high - low < LEAST_CONTRAST:
        return image
    levels = (np.arange(256) - low) * (255 / (high - low))
    return np.clip(levels + 0.5, 0, 255).astype(np.uint8)[image]


def _start(width: int, window: int, u: float) -> int:
    return int(u * (width - window + 1)) if width > window else 0


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    channels = image.shape[2]
    # Each axis by its own direction: first averaged where it shrinks, so that nothing aliases.
    shrunk = min(height, image.shape[0]), min(width, image.shape[1])
    for size, how in ((shrunk, cv2.INTER_AREA), ((height, width), cv2.INTER_LINEAR)):
        if image.shape[:2] != size:
            image = cv2.resize(image, size[::-1], interpolation=how)
    return image.reshape(height, width, channels)  # OpenCV drops the axis of a single channel


def _pad(image: np.ndarray, width_px: int) -> tuple[np.ndarray, int]:
    height, width, channels = image.shape
    if width == width_px:
        return image, width
    out = np.full((height, width_px, channels), PAPER, np.uint8)
    out[:, :width] = image
    return out, width
