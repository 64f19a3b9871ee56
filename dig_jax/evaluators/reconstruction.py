"""Pictures of what a generative method fills in: masked input, output, original, one below the
other for each line.

Writes WORKDIR/pictures/reconstruction-<step>.png at every evaluation. A method whose `reconstruct`
gives nothing has no pictures.
"""

from __future__ import annotations

import pathlib

import jax
import numpy as np

from dig_jax import hosts, sharding
from dig_jax.data import pipeline, records

ROWS = ("masked", "output", "original")
GAP_PX, GAP_GREY = 4, 128


def sheet(pictures: dict[str, np.ndarray], columns: int = 1) -> np.ndarray:
    """{"masked", "output", "original"} f32[B,H,W,C] in [0, 1] -> u8[h,w,C]: lines below each other,
    `columns` abreast.
    """
    stacks = []
    for line in zip(*(pictures[name] for name in ROWS)):
        stack = [
            np.pad(row, ((0, 1), (0, 0), (0, 0)), constant_values=GAP_GREY / 255) for row in line
        ]
        stack = np.concatenate(stack, axis=0)
        stacks.append(
            np.pad(stack, ((0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=GAP_GREY / 255)
        )
    stacks += [np.full_like(stacks[0], GAP_GREY / 255)] * (-len(stacks) % columns)
    rows = [np.concatenate(stacks[i : i + columns], axis=1) for i in range(0, len(stacks), columns)]
    return np.rint(np.clip(np.concatenate(rows, axis=0), 0, 1) * 255).astype(np.uint8)


def write_png(path: pathlib.Path, image: np.ndarray) -> None:
    """image u8[h,w,1] or u8[h,w,3] (RGB). The file appears whole or not at all."""
    import cv2  # here: bench_step runs without it

    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)
    if not ok:
        raise OSError(f"could not encode a picture of shape {image.shape} for {path}")
    partial = path.with_suffix(".partial")
    partial.write_bytes(data.tobytes())
    partial.replace(path)


class Evaluator:
    """spec: records to show (default: the training records). lines: how many. Masks are the same at
    every evaluation.
    """

    def __init__(
        self, *, method, mesh, workdir, data, spec: str | None = None, lines: int = 8, seed: int = 0
    ):
        self.folder = pathlib.Path(workdir) / "pictures"
        self.lines = lines
        crops = pipeline.pretrain(
            records.open_sets(spec or data["train"]),
            batch_size=lines + -lines % mesh.size,  # every device needs as many rows
            seed=seed,
            **sharding.host_shard(mesh).of_data(),
            **pipeline.options(data, pipeline.CROPS),
        )
        self.batch = sharding.to_global(crops[0][0], mesh)
        self.seed = seed
        self.reconstruct = jax.jit(method.reconstruct, out_shardings=sharding.everywhere(mesh))

    def run(self, state, step) -> dict[str, float]:
        pictures = {
            name: np.asarray(image)[: self.lines]
            for name, image in self.reconstruct(
                state.params, self.batch, jax.random.key(self.seed)
            ).items()
        }
        if pictures and hosts.is_lead():  # a method may find, when asked, that it draws nothing
            columns = 2 if pictures["original"].shape[2] <= 256 else 1
            write_png(self.folder / f"reconstruction-{int(step):08d}.png", sheet(pictures, columns))
        return {}
