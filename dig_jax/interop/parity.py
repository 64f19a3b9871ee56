"""Whether an export says what the network says: both run on the same lines, of several widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dig_jax.data import transforms
from dig_jax.data.line_images import LineImage

Function = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]
BATCHES = 3  # of different width and number of lines


class Differs(ValueError):
    """An export is not what was trained; the message is one sentence for the user."""


def batches(lines: Sequence[LineImage], multiple_px: int) -> list[dict[str, np.ndarray]]:
    """Raw batches of the lines, from narrow to wide; no two have the same shape.

    ValueError for fewer than BATCHES lines.
    """
    if len(lines) < BATCHES:
        raise ValueError(f"{len(lines)} lines cannot prove an export: give at least {BATCHES}")
    lines = sorted(lines, key=lambda line: line.pixels.shape[1])
    result, widest = [], 0
    for part in np.array_split(np.arange(len(lines)), BATCHES):
        group = [lines[i].pixels for i in part]
        widths = np.array([line.shape[1] for line in group], np.int32)
        widest = max(widest + multiple_px, -(-int(widths.max()) // multiple_px) * multiple_px)
        height, _, channels = group[0].shape
        image = np.full((len(group), height, widest, channels), transforms.PAPER, np.uint8)
        for row, line in enumerate(group):
            image[row, :, : line.shape[1]] = line
        result.append({"image": image, "width": widths})
    return result


def compare(
    ours: Function, theirs: Function, given: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, Any]:
    """{"difference": {output: largest absolute one}, "ids_differ": n, "ids": n} over all batches.

    Integers are counted, numbers are subtracted. Frames behind a line's own length do not count.
    """
    largest: dict[str, float] = {}
    wrong = total = 0
    for batch in given:
        one, other = (jax.tree.map(np.asarray, dict(run(batch))) for run in (ours, theirs))
        if one.keys() != other.keys():
            raise Differs(f"the export gives {sorted(other)} and the network {sorted(one)}")
        for name, want in one.items():
            have = other[name]
            if want.shape != have.shape:
                raise Differs(f"{name} is {have.shape} in the export, {want.shape} in the network")
            real = _real(one, want)
            if want.dtype.kind in "iub":
                wrong += int((want != have)[real].sum())
                total += int(real.sum())
                continue
            apart = np.abs(want.astype(np.float64) - have.astype(np.float64))[real]
            worst = float(apart.max(initial=0.0)) if np.isfinite(have[real]).all() else np.inf
            largest[name] = max(largest.get(name, 0.0), worst)
    return {"difference": largest, "ids_differ": wrong, "ids": total}


def _real(outputs: Mapping[str, np.ndarray], value: np.ndarray) -> np.ndarray:
    """bool of value's shape: False behind the length of a line, where there is one."""
    length = outputs.get("length", outputs.get("frame_length"))
    real = np.ones(value.shape, bool)
    frames = outputs.get("frames", outputs.get("ids"))
    if value.ndim < 2 or length is None or frames is None or value.shape[1] % frames.shape[1]:
        return real
    each = value.shape[1] // frames.shape[1]  # tokens of a frame
    inside = np.arange(value.shape[1])[None] < each * np.asarray(length)[:, None]
    return real & inside.reshape(inside.shape + (1,) * (value.ndim - 2))


def check(found: Mapping[str, Any], bound: float, share: float = 0.0) -> None:
    """Raises Differs above the bound, or where more than `share` of the integers differ."""
    over = {name: worst for name, worst in found["difference"].items() if not worst <= bound}
    if over:
        worst = ", ".join(f"{name} by {value:.2g}" for name, value in sorted(over.items()))
        raise Differs(f"the export differs from the network: {worst}, and {bound:g} is allowed")
    if found["ids_differ"] > share * found["ids"]:
        raise Differs(
            f"the export differs from the network in {found['ids_differ']} of {found['ids']} "
            f"classes, and {share:.0%} are allowed"
        )
