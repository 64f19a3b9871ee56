"""Lines and words that a list gives as boxes of larger images: RIMES, SVT, KAIST, SVHN."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dig_jax.data.examples import Example, Report, Skipped
from dig_jax.data.images import BadImage, Store


class Box(NamedTuple):
    """left, top, right, bottom in px; right and bottom lie outside. id, text of its record."""

    id: str
    text: str | None
    left: float
    top: float
    right: float
    bottom: float


class Picture(NamedTuple):
    """An image, given as its path or what is wrong with it, and the boxes on it."""

    split: str
    path: Path | None
    name: str
    boxes: list[Box]


@dataclasses.dataclass(frozen=True)
class Cutter:
    """Makes the examples of one picture: each box is a record or a reason. Pickles."""

    store: Store

    def __call__(self, picture: Picture | Skipped) -> list[Example | Skipped]:
        if isinstance(picture, Skipped):
            return [picture]
        count = max(len(picture.boxes), 1)
        if picture.path is None:
            return [Skipped(picture.name, "image is missing (its boxes)", count)]
        try:
            found = self.store.page(picture.path)
        except BadImage as error:
            return [Skipped(picture.name, f"{error} (its boxes)", count)]
        return list(self._boxes(np.asarray(found), picture))

    def _boxes(self, image: np.ndarray, picture: Picture) -> Iterator[Example | Skipped]:
        height, width = image.shape[:2]
        for box in picture.boxes:
            left, top = max(0, round(box.left)), max(0, round(box.top))
            right, bottom = min(width, round(box.right)), min(height, round(box.bottom))
            if right <= left or bottom <= top:
                yield Skipped(box.id, "box without an area in the image")
                continue
            kept, reason = self.store(image[top:bottom, left:right])
            if reason:
                yield Skipped(box.id, reason)
            if kept:
                yield picture.split, kept, box.text, box.id


def cut_boxes(
    pictures: list[Picture | Skipped], store: Store, report: Report, workers: int | None
) -> Iterator[Example]:
    """The examples of all boxes, picture after picture."""
    report.total = len(pictures)
    name = lambda one: f"{one.name} {len(one.boxes) if isinstance(one, Picture) else ''}"
    return report.work(Cutter(store), pictures, workers, name)
