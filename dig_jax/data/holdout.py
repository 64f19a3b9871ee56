"""Holding lines back for validation, where a source has no such split."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np

from dig_jax.data.examples import Example, Report

NAMES = ("validation", "val", "valid", "dev")


def hold_back(
    examples: Iterable[Example], share: float, seed: int, report: Report
) -> Iterator[Example]:
    """The same examples, `share` of the labelled ones of "train" in "validation" instead.

    One of each 1 / share lines is drawn, so that the share is exact and the same lines are drawn
    whatever follows. Unlabelled lines stay. ValueError where the source has a validation split.
    """
    step = 1 / Fraction(str(share))
    first = lambda block: math.ceil(block * step)  # number of a block's first line
    number = block = held = 0
    chosen = _draw(seed, 0, first(0), first(1))
    for split, image, text, id in examples:
        if split in NAMES:
            raise ValueError(
                f"--validation={share:g} holds lines back, but the source has a split {split!r}: "
                "leave the option out"
            )
        if split == "train" and text is not None and text.strip():
            if number == first(block + 1):
                block += 1
                chosen = _draw(seed, block, first(block), first(block + 1))
            split = "validation" if number == chosen else split
            held += number == chosen
            number += 1
        yield split, image, text, id
    report.notes.append(
        f"{held} of {number} labelled lines are held back at random as the split validation; to "
        "keep the lines of a page or writer together, write splits/*.txt instead"
    )


def _draw(seed: int, block: int, start: int, stop: int) -> int:
    return int(np.random.default_rng([seed, block]).integers(start, stop))
