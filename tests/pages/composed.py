"""Pages of rendered lines whose places are known, and a reader that needs no network."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import matplotlib
import numpy as np

from dig_jax.data import typeset
from dig_jax.load import Character, Reading
from dig_jax.pages import compose

FONT = str(pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSerif.ttf"))
TEXTS = [
    "in the beginning of this book",
    "lines were drawn one by one,",
    "each with its own height;",
    "some were short,",
    "others went on to the edge of it",
    "and a few held numbers: 1748.",
    "nobody knew why they stood here",
    "but all of them could be found",
    "by looking for dark bands",
    "between the light ones",
]


def lines(size_px: int = 34) -> list[np.ndarray]:
    """u8[h, w] each: TEXTS in black on white."""
    rng, font = np.random.default_rng(0), typeset.load_font(FONT, size_px)
    drawn = [255 - typeset.draw(rng, text, font, size_px) for text in TEXTS]
    return [line[np.ptp(line, axis=1) > 0] for line in drawn]


def page(**options) -> compose.Composed:
    return compose.compose(np.random.default_rng(5), lines(), **options)


class Stub(NamedTuple):
    """Reads "word 1", "word 2", ... with the confidence that `sure` gives an image."""

    sure: object = lambda image: 0.9

    def stream(self, images, batch_size=32):
        for number, (name, image) in enumerate(images, 1):
            text, width = f"word {number}", image.shape[1]
            step, sure = width / len(text), self.sure(image)
            characters = [
                Character(char, sure, i * step, (i + 1) * step) for i, char in enumerate(text)
            ]
            yield Reading(name, text, sure, characters)
