"""SVHN's two kinds of .mat files, for a process apart (see dig_jax.data.apart)."""

from collections.abc import Iterator
from typing import Any

import numpy as np

MAX_DIGITS = 50  # of one number; SVHN has at most 6
SIDES = ("left", "top", "width", "height")


def digit_struct(path: str) -> Iterator[Any]:
    """First the count of images, then (name, [(label, left, top, width, height)]) of each, or the
    message of what is wrong with one. The file is HDF5 (MATLAB 7.3)."""
    from dig_jax.data.extras import need

    h5py = need("h5py", "hdf5")
    with h5py.File(path, "r") as file:
        struct = file["digitStruct"]
        names, boxes = struct["name"], struct["bbox"]
        yield int(min(len(names), len(boxes)))
        for row in range(min(len(names), len(boxes))):
            try:
                codes = np.asarray(file[names[row, 0]][:1000]).reshape(-1)
                name = "".join(chr(int(code)) for code in codes)
                box = file[boxes[row, 0]]
                columns = [_values(file, box[key]) for key in ("label", *SIDES)]
                yield name, list(zip(*columns))
            except Exception as error:
                yield f"{type(error).__name__}"


def _values(file: Any, data: Any) -> list[float]:
    """A number stands in the dataset itself, several stand behind references."""
    if data.shape[0] > MAX_DIGITS:
        raise ValueError("too many digits")
    if data.shape[0] == 1 and data.dtype.kind != "O":
        return [float(data[0, 0])]
    return [float(file[data[i, 0]][0, 0]) for i in range(data.shape[0])]


def cropped(path: str) -> Iterator[Any]:
    """First the count, then (u8[32,32,3], label) of each: X u8[32,32,3,n] and y[n,1]."""
    from scipy.io import loadmat  # JAX needs SciPy, so it is there

    found = loadmat(path, variable_names=["X", "y"])
    images, labels = found["X"], np.asarray(found["y"]).reshape(-1)
    if images.ndim != 4 or images.shape[2] != 3 or images.dtype != np.uint8:
        raise ValueError("X is no array u8[h,w,3,n]")
    yield int(images.shape[3])
    for i in range(images.shape[3]):
        label = int(labels[i]) if i < len(labels) else -1
        yield np.ascontiguousarray(images[..., i]), label
