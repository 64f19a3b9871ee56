"""Source: a folder of line images, with `labels.tsv` and `splits/*.txt` where they exist.

    images anywhere below the folder, in any format that Pillow reads (animations and multi-page files: the first frame)
    labels.tsv        path relative to the folder, tab, transcription; UTF-8; images without a line are unlabelled
    splits/NAME.txt   one path a line; without any, all images are the split "train"
    SOURCE.md         its '- Source:', '- Licence:' and '- Attribution:' lines go into the record set

Nothing found in the folder can stop the walk: what is broken is counted and named in the report.
"""

import functools
import io
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import cv2
import numpy as np
from PIL import Image, ImageOps

from dig_jax.data.parallel import ordered_map
from dig_jax.data.sizes import resized_width
from dig_jax.data.writer import Example, Report, encode_image

SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .ppm .pnm .tga .tif .tiff .webp".split()
)


class BadImage(Exception):
    """A file that cannot become a record; the message is the kind of reason."""


def examples(
    *,
    report: Report,
    input: str | None = None,
    height_px: int = 48,
    channels: int = 1,
    codec: str = "jpeg",
    quality: int = 95,
    max_pixels: int = 50_000_000,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text or None, path) in the order of the splits' lists (sorted paths without splits).

    Images higher than height_px are reduced to it (Pillow LANCZOS, aspect kept; none is enlarged), made grey
    (channels 1) or RGB (3), and stored as JPEG of this quality or PNG. A JPEG that needs no change is stored byte for
    byte. Refused and reported: more than max_pixels (read from the header), and all that cannot be decoded to the
    last row. Raises FileNotFoundError where `input` is no folder.
    """
    if not input or not Path(input).is_dir():
        raise FileNotFoundError(f"--input is '{input or ''}', but must be a folder with images.")
    root = Path(input)
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, but must be 1 (grey) or 3 (colour).")
    report.about.update(read_source(root))
    labels = read_labels(root, report)
    jobs = list_images(root, labels, report)
    report.total = len(jobs)
    make = functools.partial(
        read_image, root=str(root), height_px=height_px, channels=channels, codec=codec, quality=quality,
        max_pixels=max_pixels,
    )  # fmt: skip
    for (split, path), (image, reason) in zip(jobs, ordered_map(make, [path for _, path in jobs], workers)):
        if reason:
            report.skip(path, reason)
        else:
            yield split, image, labels.get(path), path


def read_source(root: Path) -> dict[str, str]:
    """{"source", "licence", "attribution"} as far as SOURCE.md tells them."""
    file = root / "SOURCE.md"
    text = file.read_text("utf-8", "replace") if file.is_file() else ""
    found = {"source": str(root)}
    for key, pattern in (("source", "source"), ("licence", "licen[cs]e"), ("attribution", "attribution")):
        if match := re.search(rf"^\W*{pattern}\W*:\W*?(\S.*)$", text, re.IGNORECASE | re.MULTILINE):
            found[key] = match[1].strip()
    return found


def read_labels(root: Path, report: Report) -> dict[str, str]:
    """labels.tsv -> {path: text}. A line that cannot be used is reported, and its image stays unlabelled."""
    file = root / "labels.tsv"
    labels: dict[str, str] = {}
    if not file.is_file():
        report.notes.append("no labels.tsv: all images are unlabelled")
        return labels
    for number, line in _lines(file):
        name = f"labels.tsv line {number}"
        path, tab, text = line.partition(b"\t")
        try:
            path, text = os.fsdecode(path), text.decode("utf-8")
        except UnicodeDecodeError:
            report.skip(name, "label is not UTF-8 (image kept, unlabelled)")
            continue
        path, reason = _inside(path)
        if not tab:
            report.skip(name, "label line without a tab")
        elif reason:
            report.skip(f"{name}: {path}", reason)
        elif path in labels:
            report.skip(f"{name}: {path}", "second label for one image (the first is kept)")
        elif not (root / path).is_file():
            report.skip(f"{name}: {path}", "label names a missing image")
        else:
            labels[path] = text
    return labels


def list_images(root: Path, labels: dict[str, str], report: Report) -> list[tuple[str, str]]:
    """[(split, path)]: what the splits list, or else every image below the folder and every labelled file as
    "train"."""
    found = dict.fromkeys(_walk(root))
    found.update(dict.fromkeys(labels))
    lists = sorted((root / "splits").glob("*.txt"))
    if not lists:
        return [("train", path) for path in sorted(found)]
    jobs: list[tuple[str, str]] = []
    splits_of: dict[str, list[str]] = {}
    for file in lists:
        for number, line in _lines(file):
            path, reason = _inside(os.fsdecode(line))
            name = f"splits/{file.name} line {number}: {path}"
            if reason:
                report.skip(name, reason)
            elif file.stem in splits_of.get(path, ()):
                report.skip(name, "listed twice in one split")
            elif not (root / path).is_file():
                report.skip(name, "split names a missing image")
            else:
                splits_of.setdefault(path, []).append(file.stem)
                jobs.append((file.stem, path))
    for path in sorted(found.keys() - splits_of.keys()):
        report.skip(path, "image in no split")
    shared = sorted(path for path, splits in splits_of.items() if len(splits) > 1)
    if shared:
        names = sorted({" and ".join(splits_of[path]) for path in shared})
        names = "; ".join(names)
        report.notes.append(f"{len(shared)} images stand in more than one split ({names}), such as {shared[0]}")
    return jobs


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its end) of the lines that are not blank, read as bytes: they need not be UTF-8."""
    for number, line in enumerate(file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, line.rstrip(b"\r")


def _inside(path: str) -> tuple[str, str]:
    """(path in its shortest form, reason against it or "")."""
    pure = PurePosixPath(path)
    if "\0" in path:
        return path, "path holds a NUL character"
    if pure.is_absolute() or PureWindowsPath(path).is_absolute() or ".." in pure.parts:
        return path, "path leads out of the folder"
    return str(pure), ""


def _walk(root: Path) -> Iterator[str]:
    """Image files below root by their suffix, hidden ones left out, as paths relative to it."""
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in sorted(files):
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in SUFFIXES:
                yield Path(folder, file).relative_to(root).as_posix()


def read_image(
    path: str, *, root: str, height_px: int, channels: int, codec: str, quality: int, max_pixels: int
) -> tuple[bytes, str]:
    """(encoded image as stored, "") or (b"", kind of reason why not). Never raises for what is in the file."""
    try:
        data = Path(root, path).read_bytes()
    except OSError as error:
        return b"", f"file cannot be read ({error.strerror})"
    try:
        image, untouched = decode(data, height_px, channels, max_pixels)
    except BadImage as error:
        return b"", str(error)
    return (data if untouched and codec == "jpeg" else encode_image(image, codec, quality)), ""


def decode(data: bytes, height_px: int, channels: int, max_pixels: int) -> tuple[np.ndarray, bool]:
    """Image file -> (u8[h,w] or u8[h,w,3], True where the file is a JPEG of just this image). Raises BadImage."""
    if not data:
        raise BadImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of sizes and odd metadata; the limit that counts is max_pixels
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > max_pixels:
                    raise BadImage(f"more than {max_pixels} pixels")
                flat = _flatten(ImageOps.exif_transpose(image), channels)  # both read all pixels
                untouched = image.format == "JPEG" and image.mode == flat.mode and image.size == flat.size
    except Image.UnidentifiedImageError as error:
        raise BadImage("not an image") from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"more than {max_pixels} pixels") from error
    except Exception as error:  # whatever a decoder makes of arbitrary bytes: struct.error, SyntaxError, IndexError ...
        if isinstance(error, BadImage):
            raise
        raise BadImage("truncated or damaged image") from error
    if flat.height > height_px:
        width = int(resized_width(flat.width, flat.height, height_px))
        return np.asarray(flat.resize((width, height_px), Image.Resampling.LANCZOS)), False
    return np.asarray(flat), untouched and image.getexif().get(0x0112, 1) == 1


def _flatten(image: Image.Image, channels: int) -> Image.Image:
    """Any pixel type -> L or RGB: transparent parts on white, 16 bits to 8."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if values.max(initial=0) > 255:
            values = values / 257  # 16-bit greys; plain `convert` would clip them to white
        image = Image.fromarray(np.clip(np.nan_to_num(values) + 0.5, 0, 255).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


cv2.setNumThreads(1)  # the processes fill the cores
