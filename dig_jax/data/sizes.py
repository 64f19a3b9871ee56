"""Sizes of line images: as the header of an encoded image states it, and after resizing to a
height. And BadRecord, which every reader raises."""

from __future__ import annotations

import io
import logging
import struct
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"

# All that Pillow is asked to read. It knows forty more formats, one of which (PostScript) it hands
# to an interpreter.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")

# Of a JPEG with as many pixels as are allowed (a usual progressive one has 10); smaller ones may
# have more.
MAX_SCANS = 16
MAX_METADATA_BYTES = 16 << 20  # of a PNG or JPEG, beside 16 bytes a pixel
MAX_PIXELS = 1 << 24  # 16 Mpx: 100 times a long line at 300 dpi
MAX_ASPECT = 500  # ten times a long line; a batch is as wide as its widest line
MAX_PARTS = 1 << 16  # chunks of a PNG, segments before the first scan of a JPEG

# It logs why it refuses a TIFF and raises as well: who reads the file counts and names it.
logging.getLogger("PIL.TiffImagePlugin").disabled = True


class BadRecord(Exception):
    """A record that cannot be used; the message is the reason."""


def resized_width(width_px: Any, height_px: Any, target_px: int) -> Any:
    """Width (int or i64 array) of an image of (width_px, height_px) after resizing to height
    target_px: rounded half up, >= 1."""
    height = np.maximum(np.asarray(height_px, np.int64), 1)
    width = (2 * np.asarray(width_px, np.int64) * target_px + height) // (2 * height)
    return np.maximum(width, 1)


def header_size(data: bytes) -> tuple[int, int]:
    """(width, height) in px as the header states them, without decoding. Raises BadRecord where
    there is no header.

    PNG and JPEG are parsed here (2 us); Pillow, seven times slower, serves every other format.
    """
    if data.startswith(PNG) and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if data.startswith(JPEG):
        return _jpeg_size(data)
    return open_image(data).size


def open_image(data: bytes) -> Image.Image:
    """Pillow's image of these bytes, its header read and no pixel. Raises BadRecord where it is
    none of FORMATS.
    """
    from PIL import Image  # here: bench_step runs without it

    try:
        # Pillow warns of odd metadata, and warns and then raises on sizes it thinks dangerous; the
        # limit that counts is the caller's.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadRecord(f"too large: {error}") from error
    except (
        Exception
    ) as error:  # whatever a parser makes of arbitrary bytes: OSError, SyntaxError ...
        raise BadRecord(f"not an image: {len(data)} bytes starting {data[:8]!r}") from error


def check_effort(data: bytes, max_pixels: int) -> None:
    """Raises BadRecord for a PNG or JPEG of modest size that would take minutes to decode.

    A JPEG may bring any number of scans of a few bytes, each of which walks the whole picture. Both
    may bring millions of empty parts, and data without end that a decoder unpacks and drops.
    """
    if not data.startswith((JPEG, PNG)):
        return
    width, height = header_size(data)
    if len(data) > 16 * width * height + MAX_METADATA_BYTES:
        raise BadRecord(f"too slow: {len(data)} bytes for {width} x {height} px")
    if data.startswith(JPEG):
        scans = data.count(
            b"\xff\xda"
        )  # FF stands in coded pixels only before 00, so all others are markers (or metadata)
        if scans * width * height > MAX_SCANS * max_pixels:
            raise BadRecord(f"too slow: a JPEG of {scans} scans of {width} x {height} px")
    else:
        at, parts = len(PNG), 0
        while at + 8 <= len(data):
            at, parts = at + 12 + int.from_bytes(data[at : at + 4], "big"), parts + 1
            if parts > MAX_PARTS:
                raise BadRecord(f"too slow: a PNG of more than {MAX_PARTS} chunks")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walks the marker segments up to the frame header (ITU T.81, B.1.1.3 and B.2.2) and on to the
    first scan.
    """
    at, parts, size = 2, 0, None
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, parts = data[at + 1], parts + 1
        if parts > MAX_PARTS:
            raise BadRecord(f"too slow: a JPEG of more than {MAX_PARTS} segments")
        if marker == 0xDA:
            break
        if marker == 0xFF:  # fill byte before a marker
            at += 1
            continue
        if size is None and 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = struct.unpack(">HH", data[at + 5 : at + 9])[::-1]
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    if size is None:
        raise BadRecord(f"truncated: the JPEG of {len(data)} bytes ends before its size is told")
    return size
