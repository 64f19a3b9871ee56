"""Whether an export says what the network says: both run on the same lines, of several widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rapidfuzz.distance import Levenshtein

from dig_jax.data import transforms
from dig_jax.data.line_images import LineImage

Function = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]
BATCHES = 3  # of different width and number of lines


class Differs(ValueError):
    """An export is not what was trained; the message is one sentence for the user."""


def batches(
    lines: Sequence[LineImage], multiple_px: int, widest_px: int | None = None
) -> list[dict[str, np.ndarray]]:
    """Raw batches of the lines, from narrow to wide; no two have the same shape.

    widest_px: a batch that cannot be wider than the one before holds the lines of that one, too.
    ValueError for fewer than BATCHES lines.
    """
    if len(lines) < BATCHES:
        raise ValueError(f"{len(lines)} lines cannot prove an export: give at least {BATCHES}")
    lines = sorted(lines, key=lambda line: line.pixels.shape[1])
    result: list[dict[str, np.ndarray]] = []
    group: list[np.ndarray] = []
    before = 0
    for part in np.array_split(np.arange(len(lines)), BATCHES):
        mine = [lines[i].pixels for i in part]
        needed = -(-mine[-1].shape[1] // multiple_px) * multiple_px
        widest = max(before + multiple_px, needed)
        widest = min(widest, widest_px or widest)
        group, before = (group + mine if widest == before else mine), widest
        widths = np.array([line.shape[1] for line in group], np.int32)
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

    Of readers ids_differ is the edit distance between what both read, and numbers are compared in
    lines that both read alike. Of encoders nothing behind the length of a line counts.
    """
    largest: dict[str, float] = {}
    wrong = total = 0
    for batch in given:
        one, other = (jax.tree.map(np.asarray, dict(run(batch))) for run in (ours, theirs))
        shapes = [{name: value.shape for name, value in each.items()} for each in (one, other)]
        if shapes[0] != shapes[1]:
            raise Differs(f"the export gives {shapes[1]} and the network {shapes[0]}")
        count = "length" if "ids" in one else "frame_length"
        lines = [
            [
                {name: _real(name, each, row, count) for name in each}
                for row in range(len(each[count]))
            ]
            for each in (one, other)
        ]
        for mine, yours in zip(*lines):
            if "ids" in mine:
                apart = Levenshtein.distance(mine["ids"].tolist(), yours["ids"].tolist())
                wrong, total = wrong + apart, total + len(mine["ids"])
                if apart:
                    continue
            elif mine[count] != yours[count]:
                raise Differs(
                    f"the export says {count} {yours[count]} and the network {mine[count]}"
                )
            for name, want in mine.items():
                apart = np.abs(want.astype(np.float64) - yours[name].astype(np.float64))
                worst = float(apart.max(initial=0.0)) if np.isfinite(apart).all() else math.inf
                largest[name] = max(largest.get(name, 0.0), worst)
    return {"difference": largest, "ids_differ": wrong, "ids": total}


def _real(name: str, outputs: Mapping[str, np.ndarray], row: int, count: str) -> np.ndarray:
    """One output of one line, without what lies behind the line."""
    value, length = outputs[name][row], int(outputs[count][row])
    if not value.ndim:
        return value
    each = 1 if "ids" in outputs else value.shape[0] // outputs["frames"].shape[1]  # tokens a frame
    return value[: each * length]


def check(found: Mapping[str, Any], bound: float, share: float = 0.0) -> None:
    """Raises Differs above the bound, or where more than `share` of the characters differ. Where a
    character was seen may move by a frame."""
    bounds = {name: 1.0 if name == "frame" else bound for name in found["difference"]}
    over = {name: x for name, x in found["difference"].items() if not x <= bounds[name]}
    if over:
        worst = ", ".join(f"{name} by {value:.2g}" for name, value in sorted(over.items()))
        raise Differs(f"the export differs from the network: {worst}, and {bound:g} is allowed")
    if found["ids_differ"] > share * found["ids"]:
        raise Differs(
            f"the export reads {found['ids_differ']} of {found['ids']} characters otherwise than "
            f"the network, and {share:.0%} are allowed"
        )
