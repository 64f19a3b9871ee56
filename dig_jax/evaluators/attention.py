"""Where readers that look around looked, for each character of the lines that a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from dig_jax import sharding
from dig_jax.data import buckets
from dig_jax.evaluators.lines import Line

Sample = tuple[Line, np.ndarray]  # the line, its picture u8[H, w, C] without padding


class Attention:
    """Of a recogniser whose decoder has `attention`; of any other it says nothing.

    One program for all lines, as wide as the widest. On several hosts it says nothing, either:
    each holds other lines, and a program over all devices must be called by all at once.
    """

    def __init__(self, method, mesh, data: Mapping):
        self.method, self.mesh = method, mesh
        self.multiple_px = data.get("multiple_px") or buckets.MULTIPLE_PX
        decoder = getattr(method, "head", None)
        self.on = hasattr(decoder, "attention") and jax.process_count() == 1
        self.program = jax.jit(method.attention, static_argnums=3) if self.on else None

    def __call__(self, state, head: str, samples: Sequence[Sample]) -> list[np.ndarray | None]:
        """u8[T, S] for each line: T characters by S frames, a row's largest weight being 255."""
        if not self.on or not samples:
            return [None] * len(samples)
        from dig_jax.data import transforms  # here: it wants OpenCV, and bench_step runs without

        widths = np.array([image.shape[1] for _, image in samples])
        wide = -(-int(widths.max()) // self.multiple_px) * self.multiple_px
        rows = len(samples) + -len(samples) % self.mesh.size
        patch_px = self.method.encoder.patch[1]
        columns = -(-wide // patch_px)
        high, _, channels = samples[0][1].shape
        batch = {
            "image": np.full((rows, high, wide, channels), transforms.PAPER, np.uint8),
            "width": np.ones(rows, np.int32),
            "valid": np.arange(rows) < len(samples),
            "ids": np.zeros((rows, columns), np.int32),
        }
        number = {char: i for i, char in enumerate(self.method.charset.chars, 1)}
        for row, (line, image) in enumerate(samples):
            batch["image"][row, :, : image.shape[1]] = image
            batch["width"][row] = image.shape[1]
            read = [number[char] for char, *_ in line.texts[head].characters or ()]
            batch["ids"][row, : len(read)] = read
        placed = sharding.to_global(batch, self.mesh)
        ids = placed.pop("ids")
        weights = jax.device_get(self.program(state.params, state.mutable, placed, head, ids))
        looked = []
        for row, (line, image) in enumerate(samples):
            count = len(line.texts[head].characters or ())
            own = weights[row, :count, : -(-image.shape[1] // patch_px)]
            looked.append(np.round(255 * own / own.max(1, keepdims=True)).astype(np.uint8))
        return looked
