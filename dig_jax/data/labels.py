"""The labels of a split in one array of code points, so that starting reads no image.

Labels stand one after the other in the order of the records; `chars` (i32[n], -1 = no label) says
where each one ends.
"""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def pack(texts: Iterable[str | None]) -> bytes:
    """labels-<split>.npz as bytes: utf8 u1[m], the labels in a row; None is no label."""
    utf8 = np.frombuffer("".join(text or "" for text in texts).encode(), np.uint8)
    out = io.BytesIO()
    np.savez_compressed(out, utf8=utf8)
    return out.getvalue()


def read(file: Path, chars: np.ndarray) -> np.ndarray:
    """u32[m], the code points of all labels, m = the sum of `chars`. ValueError where the file is
    damaged or holds another number of characters."""
    count = int(np.maximum(chars, 0).sum())
    try:
        # Before anything is unpacked: an archive of a few bytes may claim any size.
        with zipfile.ZipFile(file) as archive:
            if archive.getinfo("utf8.npy").file_size > 4 * count + 1024:
                raise ValueError(f"it has more bytes than {count} characters")
        with np.load(file, allow_pickle=False) as arrays:
            codes = codes_of(arrays["utf8"].tobytes().decode())
        if len(codes) != count:
            raise ValueError(f"it has {len(codes)} characters, not {count}")
    except Exception as error:  # of zipfile, zlib and numpy, whatever they make of any bytes
        words = ascii(str(error))[1:-1][:200]
        raise ValueError(
            f"{file} does not fit the index beside it; make the record set again ({words})."
        ) from error
    return codes


def codes_of(text: str) -> np.ndarray:
    """u32[len(text)], its code points."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def text_of(codes: np.ndarray) -> str:
    """Inverse of `codes_of`."""
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def starts_of(chars: np.ndarray) -> np.ndarray:
    """i64[n + 1]: label i is codes[starts[i] : starts[i] + max(chars[i], 0)]."""
    return np.concatenate([[0], np.cumsum(np.maximum(chars, 0), dtype=np.int64)])


def frames_needed(codes: np.ndarray, chars: np.ndarray) -> np.ndarray:
    """i32[n], the frames that CTC needs for each label (Graves et al., ICML 2006): one a character,
    one more between two equal neighbours, at least 1. -1 where there is no label.

    The rule of models/decoders/ctc.py for packed labels: data imports no network, so it stands
    here as well, and tests/data/test_limits.py holds the two equal."""
    starts, used = starts_of(chars)[:-1], np.maximum(chars, 0)
    equal = np.concatenate([[0, 0], np.cumsum(codes[1:] == codes[:-1], dtype=np.int64)])
    last = starts + used
    # equal[i]: pairs of equal neighbours among the first i code points
    repeats = np.where(used > 0, equal[last] - equal[np.minimum(starts + 1, last)], 0)
    return np.where(chars < 0, -1, np.maximum(used + repeats, 1)).astype(np.int32)
