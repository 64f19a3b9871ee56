"""Features of a frozen encoder, computed once a record and kept in the host's memory.

A frozen probe runs thousands of steps over the same lines, and its encoder says the same of them
every time: most of the time of a probe would go into saying it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from dig_jax import sharding

MAX_BYTES = 8 << 30  # beyond it the rest of the records is encoded anew at every step


class FeatureCache:
    """method: one with `frozen_features`. For a single process: several would have to send each
    other their rows.

    Rows are kept by record number, in the shape of the batch in which they were met first. `fill`
    meets every record in batches that depend on the data alone, so a resumed run has the same
    features, bit for bit.
    """

    def __init__(self, method: Any, mesh: Any, max_bytes: int = MAX_BYTES):
        self.mesh, self.room = mesh, max_bytes
        self.compute = jax.jit(method.frozen_features, out_shardings=sharding.batch_sharding(mesh))
        self.rows: dict[int, dict[str, np.ndarray]] = {}

    def fill(
        self, params: Any, batches: Iterable[tuple[dict[str, np.ndarray], dict[str, Any]]]
    ) -> None:
        for batch, host in batches:
            if self.room <= 0:
                return
            self._encode(params, batch, host)

    def __call__(
        self, params: Any, batch: dict[str, np.ndarray], host: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """Host batch -> the same with features in the place of "image"; rows that only fill the
        batch may hold anything.
        """
        if self.rows.keys() >= set(host["index"].tolist()) - {-1}:
            features = self._recall(params, batch, host)
        else:
            features = self._encode(params, batch, host)
        return {name: value for name, value in batch.items() if name != "image"} | features

    def _encode(
        self, params: Any, batch: dict[str, np.ndarray], host: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        made = self.compute(params, sharding.to_global(batch, self.mesh))
        features = {name: np.asarray(value) for name, value in made.items()}
        if self.room > 0:
            self.room -= sum(value.nbytes for value in features.values())
            for row, number in enumerate(host["index"].tolist()):
                if number >= 0:
                    self.rows.setdefault(
                        number, {name: value[row] for name, value in features.items()}
                    )
        return features

    def _recall(
        self, params: Any, batch: dict[str, np.ndarray], host: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        shapes = self.compute.eval_shape(params, batch)
        features = {name: np.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
        for row, number in enumerate(host["index"].tolist()):
            for name, kept in self.rows[number].items() if number >= 0 else ():
                # The same line in a wider or narrower batch: what is added or cut off is padding.
                within = tuple(
                    slice(min(a, b))
                    for a, b in zip(kept.shape, features[name].shape[1:], strict=True)
                )
                features[name][(row, *within)] = kept[within]
        return features
