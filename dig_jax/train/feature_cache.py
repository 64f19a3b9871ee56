"""Features of a frozen encoder, computed once a record and kept in the host's memory.

A frozen probe reads the same lines for thousands of steps, and a frozen encoder gives the same
features at every step. All caches of a process share one budget of memory. What does not fit is
encoded anew at every step, those rows alone.
"""

from __future__ import annotations

import math
import pathlib
import re
import weakref
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from dig_jax import sharding

MAX_BYTES = 8 << 30  # of all caches of this process together
MAX_SHARE = 0.5  # and of the memory that is free without them

Batch = dict[str, np.ndarray]
Host = dict[str, Any]


class FeatureCache:
    """method: one with `frozen_features`. For a single process: several would have to send each
    other their rows.

    Rows are kept by record number, in the shape of the batch in which they were met first. `fill`
    meets every record in batches that depend on the data alone. So a resumed run has the same
    features, bit for bit, as long as all of them fit; else to rounding.
    """

    def __init__(self, method: Any, mesh: Any):
        self.mesh = mesh
        self.compute = jax.jit(method.frozen_features, out_shardings=sharding.batch_sharding(mesh))
        self.rows: dict[int, Batch] = {}
        self.nbytes = 0
        _caches.add(self)

    def fill(self, params: Any, batches: Iterable[tuple[Batch, Host]]) -> None:
        """Keeps the features of these batches, as far as there is room."""
        for batch, host in batches:
            if room() <= 0:
                return
            self._encode(params, batch, _real_rows(host))

    def __call__(self, params: Any, batch: Batch, host: Host) -> Batch:
        """Host batch -> the same with features in the place of "image"; rows that only fill the
        batch may hold anything.
        """
        real = _real_rows(host)
        missing = {row: number for row, number in real.items() if number not in self.rows}
        fresh = self._encode(params, batch, missing) if missing else {}
        shapes = self.compute.eval_shape(params, batch)
        features = {name: np.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
        for row, number in real.items():
            for name, kept in (fresh.get(row) or self.rows[number]).items():
                # The same line in a wider or narrower batch: what is added or cut off is padding.
                within = tuple(map(slice, np.minimum(kept.shape, features[name].shape[1:])))
                features[name][(row, *within)] = kept[within]
        return {name: value for name, value in batch.items() if name != "image"} | features

    def _encode(self, params: Any, batch: Batch, rows: dict[int, int]) -> dict[int, Batch]:
        """{row: its features} of the {row: record number} asked for; kept, if there is room."""
        chosen = list(rows)
        size = _size(len(chosen), len(batch["valid"]), self.mesh.size)
        if size < len(batch["valid"]):  # the last row once more, up to a size that is compiled
            order = chosen + chosen[-1:] * (size - len(chosen))
            batch, places = {name: value[order] for name, value in batch.items()}, range(size)
        else:
            places = chosen
        made = self.compute(params, sharding.to_global(batch, self.mesh))
        made = {name: np.asarray(value) for name, value in made.items()}
        result = {
            row: {name: value[place].copy() for name, value in made.items()}
            for row, place in zip(chosen, places)
        }
        if room() > 0:
            self.rows |= {rows[row]: features for row, features in result.items()}
            self.nbytes += sum(x.nbytes for features in result.values() for x in features.values())
        return result


_caches: weakref.WeakSet[FeatureCache] = weakref.WeakSet()


def room() -> float:
    """Bytes that the caches of this process may still take."""
    kept = sum(cache.nbytes for cache in _caches)
    return min(MAX_BYTES, MAX_SHARE * (free_bytes() + kept)) - kept


def free_bytes(root: str = "/") -> float:
    """Memory that this process can still get: of the machine, and of its container where that has
    a limit. Infinite where the system does not tell.
    """
    files = {
        name: pathlib.Path(root, path)
        for name, path in (
            ("machine", "proc/meminfo"),
            ("limit", "sys/fs/cgroup/memory.max"),
            ("used", "sys/fs/cgroup/memory.current"),
            ("parts", "sys/fs/cgroup/memory.stat"),
        )
    }
    texts = {name: path.read_text() if path.is_file() else "" for name, path in files.items()}
    free = [math.inf]
    if found := re.search(r"MemAvailable: *(\d+) kB", texts["machine"]):
        free.append(int(found[1]) * 1024)
    if texts["limit"].strip().isdigit() and texts["used"].strip().isdigit():
        cached = re.search(r"^inactive_file (\d+)", texts["parts"], re.MULTILINE)
        given_back = int(cached[1]) if cached else 0  # files that the system would drop
        free.append(int(texts["limit"]) - int(texts["used"]) + given_back)
    return max(0, min(free))


def _real_rows(host: Host) -> dict[int, int]:
    """{row: record number} of the rows that hold a record."""
    return {row: number for row, number in enumerate(host["index"].tolist()) if number >= 0}


def _size(count: int, whole: int, devices: int) -> int:
    """Rows to encode for `count` of a batch: few sizes, as each is compiled once a width."""
    size = devices
    while size < count:
        size *= 2
    return min(size, whole)
