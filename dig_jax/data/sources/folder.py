"""Source: a folder of line images, with `labels.tsv` and `splits/*.txt` where they exist.

    images anywhere below the folder, in any format that Pillow reads (of several frames the first)
    labels.tsv       path relative to the folder, tab, transcription; UTF-8; others are unlabelled
    splits/NAME.txt  one path a line; without any, all images are the split "train"
    SOURCE.md        its '- Source:', '- Licence:' and '- Attribution:' lines go into the record set

Nothing found in the folder can stop the walk: what is broken is counted and named in the report.
Nothing outside the folder is read: paths that are absolute or hold "..", and links that lead out,
are named and left (--follow_links takes the links).
"""

import contextlib
import functools
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from PIL import Image, ImageOps

from dig_jax.data.lists import Root, read_labels, read_lines, read_source
from dig_jax.data.parallel import ordered_map
from dig_jax.data.sizes import BadRecord, check_effort, open_image, resized_width
from dig_jax.data.transforms import LEAST_CONTRAST, flatten
from dig_jax.data.writer import Example, Report, encode_image

SUFFIXES = frozenset(
    (
        ".avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .ppm .pnm .tga .tif "
        ".tiff .webp"
    ).split()
)
# Pictures, pages and unfinished downloads that somebody may miss in the records.
UNREAD = frozenset(
    ".heic .heif .jxl .jxr .pdf .svg .psd .xcf .djvu .djv .eps .ps .exr .hdr .dng .cr2 .nef .arw "
    ".raw .ico .zip .tar .gz .part .crdownload".split()
)
KINDS = {
    "too large": "more than {max_pixels} pixels",
    "too slow": "made to be slow to decode",
    "not an image": "not an image",
}
MAX_SECONDS = 60  # for one image; only one that is made to be slow comes near


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
    follow_links: bool = False,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text or None, path) in the order of the splits' lists (sorted
    paths without splits).

    Images higher than height_px are reduced to it (Pillow LANCZOS, aspect kept; none is enlarged),
    made grey (channels 1) or RGB (3), and stored as JPEG of this quality or PNG. A JPEG that needs
    no change is stored byte for byte. Refused and reported: more than max_pixels (by the header;
    JPEG 2000: a quarter), all that cannot be decoded to the last row, and what leads out of the
    folder through a link, unless follow_links. Raises FileNotFoundError where `input` is no folder.
    """
    if not input or not Path(input).is_dir():
        raise FileNotFoundError(f"--input is '{input or ''}', but must be a folder with images.")
    root = Root(input, follow_links)
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, but must be 1 (grey) or 3 (colour).")
    report.about.update(read_source(root))
    labels = read_labels(root, report)
    jobs = list_images(root, labels, report)
    report.total = len(jobs)
    for what, count in root.mended.items():
        report.notes.append(f"{count} {what} in the lists are taken for what they mean")
    make = functools.partial(
        read_image, root=root, height_px=height_px, channels=channels, codec=codec, quality=quality,
        max_pixels=max_pixels,
    )  # fmt: skip
    for (split, path), (image, reason) in zip(
        jobs, ordered_map(make, [path for _, path in jobs], workers)
    ):
        if reason:
            report.skip(path, reason)
        if image:
            yield split, image, labels.get(path), path


def list_images(root: Root, labels: dict[str, str], report: Report) -> list[tuple[str, str]]:
    """[(split, path)]: what the splits list, or else every image below the folder and every
    labelled file as "train"."""
    found = dict.fromkeys(_walk(root, report))
    found.update(dict.fromkeys(labels))
    lists = sorted(
        p.relative_to(root.path).as_posix() for p in (root.path / "splits").glob("*.txt")
    )
    if not lists:
        return [("train", path) for path in sorted(found)]
    jobs: list[tuple[str, str]] = []
    splits_of: dict[str, list[str]] = {}
    for file in lists:
        split = PurePosixPath(file).stem
        for number, line in read_lines(root, file, report):
            path = root.find(os.fsdecode(line))
            name, reason = f"{file} line {number}: {path}", root.reason(path)
            if reason:
                report.skip(name, "split names a missing image" if reason == "missing" else reason)
            elif split in splits_of.get(path, ()):
                report.skip(name, "listed twice in one split")
            else:
                splits_of.setdefault(path, []).append(split)
                jobs.append((split, path))
    for path in sorted(found.keys() - splits_of.keys()):
        report.skip(path, "image in no split")
    shared = sorted(path for path, splits in splits_of.items() if len(splits) > 1)
    if shared:
        names = sorted({" and ".join(splits_of[path]) for path in shared})
        names = "; ".join(names)
        report.notes.append(
            f"{len(shared)} images stand in more than one split ({names}), such as {shared[0]}"
        )
    return jobs


def _walk(root: Root, report: Report) -> Iterator[str]:
    """Image files below root by their suffix, hidden ones left out, as paths relative to it. A
    linked folder is walked only with root.links and only once, so that links in a circle end."""
    walked = {root.real}
    for folder, folders, files in os.walk(root.path, followlinks=root.links):
        here = Path(folder).relative_to(root.path)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in [f for f in folders if (Path(folder) / f).is_symlink()]:
            real = os.path.realpath(Path(folder) / name)
            inside = (
                os.path.commonpath([root.real, real]) == root.real
            )  # its files are met where they stand
            if inside or real in walked:
                folders.remove(name)
            elif not root.links:
                report.skip((here / name).as_posix(), "link leads out of the folder")
            walked.add(real)
        for file in sorted(files):
            if file.startswith("."):
                continue
            path, suffix = (here / file).as_posix(), os.path.splitext(file)[1].lower()
            if suffix in UNREAD:
                report.skip(path, f"{suffix} is not read: convert it to PNG or JPEG")
            elif suffix in SUFFIXES:
                if reason := root.reason(path):
                    report.skip(
                        path,
                        "file cannot be read (a broken link)" if reason == "missing" else reason,
                    )
                else:
                    yield path


def read_image(
    path: str,
    *,
    root: Root,
    height_px: int,
    channels: int,
    codec: str,
    quality: int,
    max_pixels: int,
) -> tuple[bytes, str]:
    """(encoded image as stored, "") or (b"", kind of reason why not), or an image that is kept and
    what is odd about it. Never raises for what is in the file.
    """
    most = 8 * max_pixels + (64 << 20)  # bytes of the largest pixel type, and of its metadata
    try:
        with (root.path / path).open("rb") as file:
            data = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
    except OSError as error:
        return b"", f"file cannot be read ({error.strerror})"
    if data is None or len(data) > most:
        return b"", f"file of more than {most} bytes"
    try:
        with _time_limit(MAX_SECONDS):
            image, untouched = decode(data, height_px, channels, max_pixels)
    except BadImage as error:
        return b"", str(error)
    kept = data if untouched and codec == "jpeg" else encode_image(image, codec, quality)
    flat = int(image.max()) - int(image.min()) < LEAST_CONTRAST
    return kept, "no contrast: nothing can be seen on it (image kept)" if flat else ""


class _TooSlow(BaseException):
    """Not an Exception, so that no handler inside a decoder takes it for damage."""


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """BadImage where the body takes longer. A parser in Python is stopped; a decoder in C ends
    first, and what those may take is bounded by max_pixels and `check_effort`. Only in a main
    thread (each worker process has one), and not on Windows."""
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def stop(*_: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _TooSlow:
        raise BadImage(f"takes longer than {seconds} s to decode") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def decode(data: bytes, height_px: int, channels: int, max_pixels: int) -> tuple[np.ndarray, bool]:
    """Image file -> (u8[h,w] or u8[h,w,3], True where the file is a JPEG of just this image).
    Raises BadImage.
    """
    if not data:
        raise BadImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow's, of sizes and odd metadata; the limit that counts is max_pixels
            check_effort(data, max_pixels)
            with open_image(data) as image:
                # OpenJPEG takes 20 bytes a pixel, four times what the others take.
                limit = max_pixels // 4 if image.format == "JPEG2000" else max_pixels
                if image.width * image.height > limit:
                    raise BadImage(f"more than {limit} pixels")
                flat = flatten(ImageOps.exif_transpose(image), channels)  # both read all pixels
                untouched = (
                    image.format == "JPEG" and image.mode == flat.mode and image.size == flat.size
                )
    except BadRecord as error:
        kind = str(error).split(":")[0]
        raise BadImage(
            KINDS.get(kind, "truncated or damaged image").format(max_pixels=max_pixels)
        ) from error
    except Exception as error:  # of arbitrary bytes: struct.error, SyntaxError, IndexError ...
        if isinstance(error, BadImage):
            raise
        raise BadImage("truncated or damaged image") from error
    if flat.height > height_px:
        width = int(resized_width(flat.width, flat.height, height_px))
        return np.asarray(flat.resize((width, height_px), Image.Resampling.LANCZOS)), False
    return np.asarray(flat), untouched and image.getexif().get(0x0112, 1) == 1


cv2.setNumThreads(1)  # the processes fill the cores
