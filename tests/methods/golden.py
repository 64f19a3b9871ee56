"""Packs and unpacks the reference numbers that the golden tests need (tests/data/*.npz).

The numbers come from one step of the official PyTorch network in float64
(../shared/golden/README.md). What goes into a step (images, weights) is kept to the last bit of
float32: a few of the network's ReLUs stand so near zero that rounding weights to 6e-8 of their
largest value throws one to the other side and moves its gradients by 1 %. What comes out
(gradients, features) is kept as 16-bit whole numbers * (largest value / 32767), so to 1.5e-5 of the
largest value, well under the 1e-4 they are held to. All travel as byte planes, which compress
better.

    python tests/methods/golden.py ../shared/golden/dig.npz tests/data/dig_golden.npz
"""

from __future__ import annotations

import sys

import numpy as np

TEACHER_SAMPLES = (
    512  # the teacher's update is elementwise, so of large arrays every n-th value is enough
)


def teacher_sample(array: np.ndarray) -> np.ndarray:
    """The values of a teacher array that are kept: all of a small one, evenly spaced ones of a
    large one.
    """
    flat = array.reshape(-1)
    return flat[:: max(1, flat.size // TEACHER_SAMPLES)]


def pack(source: str, target: str) -> None:
    arrays: dict[str, np.ndarray] = {}
    with np.load(source) as golden:
        for name in golden.files:
            value = golden[name]
            if name.startswith("teacher_after/"):
                value = teacher_sample(value)
            if value.dtype.kind in "Ub" or value.ndim == 0:
                arrays[name] = value
            elif name.startswith(("grad/", "features")):
                unit = max(float(np.abs(value).max()), 1e-30) / 32767
                arrays["unit/" + name] = np.float64(unit)
                arrays[name] = _planes(np.round(value.astype(np.float64) / unit).astype("<i2"))
            else:
                arrays[name] = _planes(value.astype("<f4"))
    np.savez_compressed(target, **arrays)


def unpack(path: str) -> dict[str, np.ndarray]:
    """{name: float32 array, or the stored value for scalars, masks and the config text}."""
    out: dict[str, np.ndarray] = {}
    with np.load(path, allow_pickle=False) as packed:
        for name in packed.files:
            value = packed[name]
            if name.startswith("unit/"):
                continue
            if "unit/" + name in packed.files:
                value = (_whole(value, "<i2") * packed["unit/" + name]).astype(np.float32)
            elif value.dtype == np.uint8:
                value = _whole(value, "<f4")
            out[name] = value
    return out


def _planes(array: np.ndarray) -> np.ndarray:
    """[...] of k-byte numbers -> u8[k, ...], all first bytes before all second bytes."""
    planes = array.reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T
    return np.ascontiguousarray(planes).reshape(array.itemsize, *array.shape)


def _whole(planes: np.ndarray, dtype: str) -> np.ndarray:
    """The inverse of `_planes`."""
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1)).view(dtype)[..., 0]


if __name__ == "__main__":
    pack(*sys.argv[1:])
