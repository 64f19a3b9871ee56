"""Images as the records store them: decoded once, reduced to the height, encoded.

Whatever the bytes are, the result is a stored image or the kind of reason why there is none. What
every source of images shares.
"""

import contextlib
import dataclasses
import os
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from dig_jax.data.examples import Example, Report, Skipped
from dig_jax.data.sizes import BadRecord, check_effort, open_image, resized_width
from dig_jax.data.transforms import LEAST_CONTRAST, flatten
from dig_jax.data.writer import encode_image

SUFFIXES = frozenset(
    (
        ".avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .ppm .pnm .tga .tif "
        ".tiff .webp"
    ).split()
)
# Pictures, pages and unfinished downloads that somebody may miss.
UNREAD = frozenset(
    ".heic .heif .jxl .jxr .pdf .svg .psd .xcf .djvu .djv .eps .ps .exr .hdr .dng .cr2 .nef .arw "
    ".raw .ico .zip .tar .gz .part .crdownload".split()
)
KINDS = {
    "too large": "more than {max_pixels} pixels",
    "too slow": "made to be slow to decode",
    "not an image": "not an image",
}
NEW_SUBFILE_TYPE = 254  # tag of a TIFF; bit 0: a copy of less resolution
MAX_SECONDS = 60  # for one image; only one that is made to be slow comes near

# An image as a source finds it: a file, its bytes, or its pixels u8[h,w] or u8[h,w,3] (RGB).
Found = Path | bytes | np.ndarray
Item = tuple[str, Found, str | None, str]  # as Example, its image as it is found


def left_out(files: Iterable[str], read: Collection[str] = ()) -> str:
    """How many of these files are of UNREAD, and what to do with them; "" of none. read: suffixes
    that are read here."""
    found = Counter(Path(file).suffix.lower() for file in files)
    counts = [f"{found[kind]} {kind}" for kind in sorted(UNREAD & found.keys() - set(read))]
    if not counts:
        return ""
    pages = "tools.read reads PDFs, " * (".pdf" in found and ".pdf" not in read)
    return f"{', '.join(counts)} left out: {pages}other kinds are read once they are PNG or JPEG"


def several_pages(data: bytes) -> bool:
    """Whether it is a TIFF with more than one page. Further frames of others are thumbnails, or
    move; some of a TIFF are smaller copies of the first, which their tag says."""
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return False
    try:
        with warnings.catch_warnings(), time_limit(MAX_SECONDS), open_image(data) as image:
            warnings.simplefilter("ignore")
            for frame in range(1, getattr(image, "n_frames", 1)):
                image.seek(frame)
                if not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & 1:
                    return True
    except Exception:  # the list of pages is damaged behind the first
        pass
    return False


class BadImage(Exception):
    """A file that cannot become a record; the message is the kind of reason."""


@dataclasses.dataclass(frozen=True)
class Store:
    """How images are stored. Higher ones are reduced to height_px (Pillow LANCZOS, aspect kept;
    none is enlarged). They are made grey (channels 1) or RGB (3), and encoded as JPEG of this
    quality or as PNG. A file of this codec that needs no change is kept byte for byte.

    Refused: more than max_pixels by the header (JPEG 2000: a quarter), and all that cannot be
    decoded to the last row. ValueError for other channels than 1 and 3.
    """

    height_px: int = 48
    channels: int = 1
    codec: str = "jpeg"
    quality: int = 95
    max_pixels: int = 50_000_000

    def __post_init__(self):
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}, but must be 1 (grey) or 3 (colour).")

    def __call__(self, found: Found) -> tuple[bytes, str]:
        """(encoded image as stored, "") or (b"", kind of reason why not), or an image that is kept
        and what is odd about it. Never raises for what is in the file.
        """
        try:
            if isinstance(found, np.ndarray):
                image, kept = self.fitted(Image.fromarray(found)), None
            else:
                data = found if isinstance(found, bytes) else self.read(found)
                with time_limit(MAX_SECONDS):
                    image, untouched = self.decode(data)
                kept = data if untouched else None
        except BadImage as error:
            return b"", str(error)
        kept = encode_image(image, self.codec, self.quality) if kept is None else kept
        if int(image.max()) - int(image.min()) < LEAST_CONTRAST:
            return kept, "no contrast: nothing can be seen on it (image kept)"
        more = not isinstance(found, np.ndarray) and several_pages(data)
        return kept, "file of several pages: all but the first (image kept)" if more else ""

    def read(self, path: Path) -> bytes:
        """The bytes of a file. Raises BadImage."""
        most = 8 * self.max_pixels + (64 << 20)  # of the largest pixel type, and of its metadata
        try:
            with path.open("rb") as file:
                data = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or "its name is no path"
            raise BadImage(f"file cannot be read ({what})") from error
        if data is None or len(data) > most:
            raise BadImage(f"file of more than {most} bytes")
        return data

    def pixels(self, data: bytes, frame: int = 0) -> tuple[Image.Image, bool]:
        """Image file -> (its frame upright, mode L or RGB, at full size; True where the file is one
        of our codec and holds this image alone). Raises BadImage.
        """
        if not data:
            raise BadImage("empty file")
        try:
            with warnings.catch_warnings():
                # Pillow's, of sizes and odd metadata; the limit that counts is max_pixels.
                warnings.simplefilter("ignore")
                check_effort(data, self.max_pixels)
                with open_image(data) as image:
                    if frame:
                        if frame >= getattr(image, "n_frames", 1):
                            raise BadImage("image of fewer frames than its file has pages")
                        image.seek(frame)
                    # OpenJPEG takes 20 bytes a pixel, four times what the others take.
                    limit = self.max_pixels // (4 if image.format == "JPEG2000" else 1)
                    if image.width * image.height > limit:
                        raise BadImage(f"more than {limit} pixels")
                    # Both read all pixels.
                    flat = flatten(ImageOps.exif_transpose(image), self.channels)
                    same = image.mode == flat.mode and image.size == flat.size
                    # A file of our codec, but for what a reader must apply: frames, transparency,
                    # orientation.
                    untouched = (
                        image.format == self.codec.upper()
                        and same
                        and getattr(image, "n_frames", 1) == 1
                        and "transparency" not in image.info
                        and image.getexif().get(0x0112, 1) == 1
                    )
        except BadRecord as error:
            kind = str(error).split(":")[0]
            raise BadImage(
                KINDS.get(kind, "truncated or damaged image").format(max_pixels=self.max_pixels)
            ) from error
        except Exception as error:  # of arbitrary bytes: struct.error, SyntaxError, IndexError ...
            if isinstance(error, BadImage):
                raise
            raise BadImage("truncated or damaged image") from error
        return flat, untouched

    def page(self, path: Path, frame: int = 0) -> Image.Image:
        """A frame of a file, at full size, to cut lines from. Raises BadImage."""
        data = self.read(path)
        with time_limit(MAX_SECONDS):
            return self.pixels(data, frame)[0]

    def decode(self, data: bytes) -> tuple[np.ndarray, bool]:
        """Image file -> (u8[h,w] or u8[h,w,3] at most height_px high, True where the file itself
        can be stored). Raises BadImage."""
        flat, untouched = self.pixels(data)
        return self.fitted(flat), untouched and flat.height <= self.height_px

    def fitted(self, image: Image.Image) -> np.ndarray:
        """u8[h,w] or u8[h,w,3], h at most height_px, of this number of channels."""
        if image.mode != ("L" if self.channels == 1 else "RGB"):
            image = flatten(image, self.channels)
        if image.height > self.height_px:
            width = int(resized_width(image.width, image.height, self.height_px))
            image = image.resize((width, self.height_px), Image.Resampling.LANCZOS)
        return np.asarray(image)


@dataclasses.dataclass(frozen=True)
class _Keep:
    """Stores the image of an example and leaves the rest as it is. Pickles."""

    store: Store

    def __call__(self, found: Item | Skipped) -> list[Example | Skipped]:
        if isinstance(found, Skipped):
            return [found]
        split, image, text, id = found
        kept, reason = self.store(image)
        skipped = [Skipped(id, reason)] if reason else []
        return [(split, kept, text, id), *skipped] if kept else skipped


def stored(
    found: Iterable[Item | Skipped],
    store: Store,
    report: Report,
    workers: int | None = None,
) -> Iterator[Example]:
    """The examples of a source with their images as they are stored, in order.

    What cannot be stored is reported under its id. A source that leaves something out while it is
    read gives a Skipped in its place: a conversion that goes on later counts it once.
    """
    name = lambda one: one.name if isinstance(one, Skipped) else f"{one[0]} {one[3]}"
    return report.work(_Keep(store), found, workers, name)


class _TooSlow(BaseException):
    """Not an Exception, so that no handler inside a decoder takes it for damage."""


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
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


cv2.setNumThreads(1)  # the processes fill the cores
