"""Hostile images for `fuzz_records`: sound files of exotic formats, files made to lie, explode or
never end, and corruption.
"""

import functools
import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BOMB_BYTES = 1 << 30  # more than --max_mb
SIZES = (
    0,
    1,
    2,
    7,
    255,
    4097,
    16383,
    32768,
    65500,
    65535,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
)

Rng = np.random.Generator


def picture(width: int = 90, height: int = 40, mode: str = "L") -> Image.Image:
    """Some strokes on paper."""
    values = np.full((height, width), 240, np.uint8)
    values[height // 3 : height // 2 + 1, ::3] = 20
    image = Image.fromarray(values)
    if mode in ("I;16", "F"):
        return Image.fromarray(
            values.astype(np.uint16) * 257 if mode == "I;16" else values.astype(np.float32)
        )
    return image.convert(mode)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@functools.cache
def samples() -> dict[str, bytes]:
    """Sound files of every format and pixel type that Pillow writes here, the exotic ones too."""
    wanted: list[tuple[str, str, dict[str, Any]]] = []
    wanted += [("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")] + [
        ("JPEG", "RGB", {"progressive": True})
    ]
    wanted += [("JPEG", "L", {"exif": _orientation(value)}) for value in (3, 6, 8, 9, 65535)]
    wanted += [("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    wanted += [
        ("PNG", "P", {"transparency": 0}),
        ("GIF", "P", {}),
        ("GIF", "P", {"transparency": 0}),
    ]
    wanted += [("TIFF", mode, {}) for mode in ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "F")]
    wanted += [
        ("TIFF", mode, {"compression": how})
        for mode, how in (
            ("L", "tiff_lzw"),
            ("RGB", "tiff_deflate"),
            ("RGB", "jpeg"),
            ("1", "group4"),
            ("L", "packbits"),
        )
    ]
    wanted += [
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("AVIF", "RGB", {}),
        ("JPEG2000", "RGB", {}),
    ]
    wanted += [
        ("JPEG2000", "L", {"no_jp2": True}),
        *((kind, "RGB", {}) for kind in ("BMP", "PPM", "TGA", "PCX", "SGI")),
    ]
    wanted += [(kind, "RGB", {}) for kind in ("EPS", "ICO", "IM", "DDS", "PDF", "QOI")]
    wanted += [("PPM", mode, {}) for mode in ("1", "L", "I;16")]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        pages = [
            picture(60 + 9 * i) if kind == "TIFF" else picture(mode="RGB").rotate(9 * i)
            for i in range(1, 4)
        ]
        wanted.append((kind, "RGB", {"save_all": True, "append_images": pages}))
    wanted += [
        (kind, "L", {"size": size})
        for kind in ("PNG", "JPEG")
        for size in ((1, 1), (65500, 1), (1, 65500), (20_000, 3), (3000, 40))
    ]
    found = {}
    for number, (kind, mode, options) in enumerate(wanted):
        size = options.pop("size", (90, 40))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = encode(picture(*size, mode), kind, **options)
        except (OSError, ValueError, KeyError):  # a Pillow built without this format
            continue
        found[f"{kind} {mode} {size[0]}x{size[1]} {' '.join(sorted(options))} #{number}"] = data
    return found


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int,
    height: int,
    idat: bytes,
    *before: bytes,
    bits: int = 8,
    colour: int = 0,
    lace: int = 0,
) -> bytes:
    """A PNG of these chunks; idat is compressed data."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, lace)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(before)
        + chunk(b"IDAT", idat)
        + chunk(b"IEND", b"")
    )


@functools.cache
def zeros(count: int) -> bytes:
    """`count` zero bytes, compressed: a bomb."""
    packer, block = zlib.compressobj(1), bytes(min(count, 1 << 20))
    parts = [
        packer.compress(block[: min(len(block), count - at)])
        for at in range(0, count, max(1, len(block)))
    ]
    return b"".join(parts) + packer.flush()


def tiff(tags: dict[int, tuple[int, int, int]], following: int = 0, tail: bytes = b"") -> bytes:
    """A little-endian TIFF with one directory {tag: (type, count, value)}; `following` = offset of
    the next one.
    """
    entries = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    return (
        b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following) + tail
    )


def _tiff(rng: Rng) -> bytes:
    width, height, strip, samples_px = (int(rng.choice(SIZES)) for _ in range(4))
    compression = int(rng.choice([1, 5, 7, 8, 32773, 34712, 50001, 3, 4]))
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, int(rng.choice([1, 8, 16, 32, 65535]))),
            259: (3, 1, compression), 262: (3, 1, int(rng.integers(0, 9))), 277: (3, 1, samples_px & 0xFFFF),
            273: (4, 1, 200), 278: (4, 1, strip), 279: (4, 1, int(rng.choice(SIZES)))}  # fmt: skip
    if rng.random() < 0.5:
        tile = {
            322: (4, 1, int(rng.choice(SIZES))),
            323: (4, 1, strip),
            324: (4, 1, 200),
            325: (4, 1, 4096),
        }
        tags = {tag: value for tag, value in tags.items() if tag not in (273, 278, 279)} | tile
        if rng.random() < 0.7:
            tags |= {256: (4, 1, 50), 257: (4, 1, 50), 258: (3, 1, 8), 277: (3, 1, 1)}
    if rng.random() < 0.3:
        tags[int(rng.choice([34665, 34853, 700, 270, 33432]))] = (
            int(rng.integers(1, 14)),
            int(rng.choice(SIZES)),
            8,
        )
    return tiff(tags, int(rng.choice([0, 8, 9, 1 << 31])), rng.bytes(4096))


def scans(count: int, width: int, height: int) -> bytes:
    """A progressive JPEG with `count` more scans of a few bytes, each of which walks the whole
    picture.
    """
    data = bytearray(encode(Image.new("L", (64, 64), 90), "JPEG", progressive=True))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    last = data.rindex(b"\xff\xda")
    more = bytes(data[last:-2])
    return bytes(data[:-2]) + more * count + b"\xff\xd9"


def _jpeg_with(rng: Rng, *segments: bytes) -> bytes:
    data = samples()["JPEG L 90x40  #0"]
    return data[:2] + b"".join(segments) + data[2:]


def exif_loop(rng: Rng) -> bytes:
    """An EXIF block whose directories name themselves and each other as the next, with absurd
    counts.
    """
    tags = {0x8769: (4, 1, 8), 0x8825: (4, 1, 8), 0x0112: (3, 1, int(rng.integers(0, 12))),
            0xA005: (4, int(rng.choice(SIZES)), 8), 0x927C: (7, int(rng.choice(SIZES)), 8)}  # fmt: skip
    return b"Exif\0\0" + tiff(tags, 8)


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def _gif(rng: Rng) -> bytes:
    width, height = (int(rng.choice(SIZES)) & 0xFFFF for _ in range(2))
    frame = (
        b","
        + struct.pack("<HHHHB", *(int(rng.choice(SIZES)) & 0xFFFF for _ in range(4)), 0)
        + b"\x02\x02\x44\x01\0"
    )
    comments = (b"!\xfe" + b"\xff" + b"c" * 255 + b"\0") * int(rng.choice([0, 1, 4000]))
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + bytes(6)
        + comments
        + frame * 50
        + b";"
    )


def _webp(rng: Rng) -> bytes:
    size = int(rng.choice(SIZES)) & 0x3FFF
    if rng.random() < 0.5:
        body = b"VP8L" + struct.pack("<IBI", 9, 0x2F, size | size << 14) + rng.bytes(4) + b"\0"
    else:
        extent = struct.pack("<I", int(rng.choice(SIZES)) & 0xFFFFFF)[:3]
        body = (
            b"VP8X"
            + struct.pack("<II", 10, int(rng.integers(0, 63)))
            + extent
            + extent
            + rng.bytes(60)
        )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _jp2(rng: Rng) -> bytes:
    sizes = [int(rng.choice(SIZES)) for _ in range(2)]
    tile = [int(rng.choice(SIZES)) for _ in range(2)]
    parts = int(rng.choice([1, 3, 4, 16384]))
    siz = struct.pack(">HIIIIIIIIH", 0, *sizes, 0, 0, *tile, 0, 0, parts) + bytes([7, 1, 1]) * min(
        parts, 16384
    )
    head = b"\xff\x4f\xff\x51" + struct.pack(">H", len(siz) + 2) + siz
    style = (
        b"\xff\x52\x00\x0c\x00\x00\x00\x01\x00\x05\x04\x04\x00\x01" + b"\xff\x5c\x00\x04\x40\x40"
    )
    return (
        head
        + style
        + b"\xff\x90\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x01\xff\x93"
        + rng.bytes(200)
        + b"\xff\xd9"
    )


def _bmp(rng: Rng) -> bytes:
    width, height = (int(np.int64(rng.choice(SIZES)).astype(np.int32)) for _ in range(2))
    bits, packing = int(rng.choice([1, 4, 8, 16, 24, 32, 99])), int(rng.integers(0, 6))
    header = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, packing, 0, 0, 0, int(rng.choice(SIZES)), 0
    )
    return b"BM" + struct.pack("<IHHI", 99, 0, 0, 54) + header + rng.bytes(900)


def _pnm(rng: Rng) -> bytes:
    width, height, most = (int(rng.choice(SIZES)) for _ in range(3))
    kind = rng.choice(["P1", "P2", "P3", "P4", "P5", "P6", "Pf", "PF", "Py", "P7"])
    return (
        f"{kind}\n{'# c' * int(rng.choice([0, 1, 10**5]))}\n{width} {height}\n{most}\n".encode()
        + rng.bytes(300)
    )


HOSTILE_IMAGES: dict[str, Callable[[Rng], bytes]] = {
    "empty": lambda rng: b"",
    "noise": lambda rng: rng.bytes(int(rng.integers(1, 5000))),
    "signature and noise": lambda rng: rng.choice(sorted(samples().values()))[: int(rng.integers(1, 24))] + rng.bytes(300),
    "PNG header lies": lambda rng: png(int(rng.choice(SIZES)), int(rng.choice(SIZES)), zeros(9999),
                                       bits=int(rng.choice([1, 8, 16, 99])), colour=int(rng.choice([0, 2, 3, 4, 6, 9])),
                                       lace=int(rng.integers(0, 2))),
    "PNG 64 Mpx of zeros": lambda rng: png(8000, 8000, zeros(8001 * 8000)),
    "PNG 16 Mpx, 16-bit RGBA": lambda rng: png(4096, 4096, zeros((4096 * 8 + 1) * 4096), bits=16, colour=6,
                                               lace=int(rng.integers(0, 2))),
    "PNG pixels inflate to 1 GB": lambda rng: png(50, 50, zeros(BOMB_BYTES)),
    "PNG zTXt bomb": lambda rng: png(50, 50, zeros(2550), chunk(b"zTXt", b"a\0\0" + zeros(BOMB_BYTES))),
    "PNG iCCP bomb": lambda rng: png(50, 50, zeros(2550), chunk(b"iCCP", b"a\0\0" + zeros(BOMB_BYTES))),
    "PNG iTXt bomb": lambda rng: png(50, 50, zeros(2550), chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(BOMB_BYTES))),
    "PNG text of 8 MB": lambda rng: png(50, 50, zeros(2550), chunk(b"tEXt", b"a\0" + bytes(8 << 20))),
    "PNG 20,000 texts": lambda rng: png(50, 50, zeros(2550), chunk(b"tEXt", b"key\0text") * 20_000),
    "PNG EXIF loop": lambda rng: png(50, 50, zeros(2550), chunk(b"eXIf", exif_loop(rng)[6:])),
    "APNG control lies": lambda rng: png(50, 50, zeros(2550), chunk(b"acTL", struct.pack(">II", int(rng.choice(SIZES)), 0)),
                                         chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, *(int(rng.choice(SIZES)) for _ in
                                                                                       range(4)), 1, 1, 0, 0))),
    "JPEG frame lies": lambda rng: _jpeg_with(rng).replace(
        struct.pack(">HH", 40, 90), struct.pack(">HH", *(int(rng.choice(SIZES)) & 0xFFFF for _ in range(2)))),
    "JPEG 2,000 scans": lambda rng: scans(2000, int(rng.choice([64, 4000])), int(rng.choice([64, 4000]))),
    "JPEG 32 MB of metadata": lambda rng: _jpeg_with(rng, segment(0xE1, bytes(65_000)) * 500),
    "JPEG 4 MB of fill bytes": lambda rng: _jpeg_with(rng, b"\xff" * (4 << 20)),
    "JPEG a million segments": lambda rng: _jpeg_with(rng, segment(0xFE, b"") * 1_000_000),
    "JPEG segment of length 0": lambda rng: _jpeg_with(rng, b"\xff\xfe\0\0" * 200_000),
    "JPEG EXIF loop": lambda rng: _jpeg_with(rng, segment(0xE1, exif_loop(rng))),
    "JPEG MPO loop": lambda rng: _jpeg_with(rng, segment(0xE2, b"MPF\0" + tiff({0xB001: (4, 1, 99), 0xB002: (7, 32, 8)}, 8))),
    "JPEG ICC parts": lambda rng: _jpeg_with(rng, segment(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(60_000)) * 255),
    "TIFF lies": _tiff, "GIF lies": _gif, "WebP lies": _webp, "JPEG 2000 lies": _jp2, "BMP lies": _bmp, "PNM lies": _pnm,
    "PostScript": lambda rng: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 40\n%%EndComments\n(x) run quit\n%%EOF\n",
    "SVG": lambda rng: b'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="40"><image href="file:///etc/passwd"/></svg>',
    "two formats in one": lambda rng: rng.choice(sorted(samples().values()))[:200] + rng.choice(sorted(samples().values())),
}  # fmt: skip

LARGE = {
    name
    for name in HOSTILE_IMAGES
    if re.search(r"\d [GM]|million|fill bytes|scans|parts|bomb", name)
}


def corrupt(rng: Rng, data: bytes) -> tuple[str, bytes]:
    """One to three of: bits flipped, cut, a run zeroed, inserted, repeated, removed, or a number
    made extreme.
    """
    done, out = [], bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        how = str(rng.choice(["flip", "cut", "zero", "insert", "repeat", "remove", "number"]))
        # Mostly near the start: that is where the headers are.
        at = int(min(rng.integers(0, len(out) + 1), rng.integers(0, len(out) + 1))) if out else 0
        run = int(rng.integers(1, 64))
        if how == "flip":
            for place in rng.integers(0, max(1, len(out)), int(rng.integers(1, 9))) if out else ():
                out[place] ^= 1 << int(rng.integers(0, 8))
        elif how == "cut":
            del out[at:]
        elif how == "zero":
            out[at : at + run] = bytes(len(out[at : at + run]))
        elif how == "insert":
            out[at:at] = rng.bytes(run)
        elif how == "repeat":
            out[at:at] = out[at : at + run] * int(rng.integers(1, 50))
        elif how == "remove":
            del out[at : at + run]
        else:
            form = str(rng.choice([">I", "<I", ">H", "<H", "B"]))
            value = int(rng.choice(SIZES)) & ((1 << 8 * struct.calcsize(form)) - 1)
            out[at : at + struct.calcsize(form)] = struct.pack(form, value)
        done.append(how)
    return " + ".join(done), bytes(out)


def image(rng: Rng, scratch: Path) -> tuple[str, bytes]:
    """Any image: sound but exotic (1 in 10), made to be hostile (4 in 10, few of them large), or a
    corrupted one.
    """
    chance = rng.random()
    if chance < 0.4:
        names = sorted(name for name in HOSTILE_IMAGES if (name in LARGE) == (chance < 0.01))
        name = str(rng.choice(names))
        return name, HOSTILE_IMAGES[name](rng)
    name = str(rng.choice(sorted(samples())))
    if chance < 0.5:
        return name, samples()[name]
    how, data = corrupt(rng, samples()[name])
    return f"{name}: {how}", data
