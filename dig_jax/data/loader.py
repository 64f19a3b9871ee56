"""What one host reads for one step: pixels and labels of the rows that data/plan.py names."""

import functools
from typing import Any

import cv2
import numpy as np

from dig_jax.data import transforms
from dig_jax.data.plan import Rows
from dig_jax.data.records import BadRecord, Mixture, Record, resized_width, shown
from dig_jax.text import Charset


class Loader:
    """Rows -> (batch, host): one read for all rows, then decode, resize, crop or pad, encode."""

    def __init__(
        self,
        mixture: Mixture,
        height_px: int,
        channels: int,
        max_pixels: int,
        squeeze_px: int | None = None,
        contrast: str | None = None,
        charset: Charset | None = None,
        label_length: int = 0,
    ):
        if contrast not in (None, "none", "stretch"):
            raise ValueError(f"data.contrast is {contrast!r}: set it to 'none' or 'stretch'")
        self.contrast = contrast
        self.mixture, self.charset, self.label_length = mixture, charset, label_length
        self.height_px, self.channels, self.max_pixels, self.squeeze_px = (
            height_px,
            channels,
            max_pixels,
            squeeze_px,
        )

    def __call__(self, rows: Rows) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        size = len(rows.index)
        batch = {
            "image": np.full(
                (size, self.height_px, rows.width_px, self.channels), transforms.PAPER, np.uint8
            ),
            "width": np.ones(size, np.int32),
            "valid": np.zeros(size, bool),
        }
        if self.charset is not None:
            batch["label"] = np.zeros((size, self.label_length), np.int32)
            batch["label_length"] = np.zeros(size, np.int32)
        host = {
            "index": rows.index,
            "text": [None] * size,
            "id": [""] * size,
            "errors": [],
            "bad": [],
            "unknown_chars": 0,
            "epoch": rows.epoch,
        }
        real = np.flatnonzero(rows.index >= 0)
        for row, record in zip(real.tolist(), self.mixture.read(rows.index[real])):
            host["text"][row], host["id"][row] = record.text, record.id
            try:
                image, width = self._image(
                    record, rows.width_px, None if rows.u is None else rows.u[row]
                )
                if self.charset is not None:
                    host["unknown_chars"] += self._label(
                        record, batch["label"][row], batch["label_length"], row
                    )
            except BadRecord as error:
                number = int(rows.index[row])
                host["bad"].append(number)
                host["errors"].append(
                    f"{self.mixture.where(number)} ({shown(record.id, 200) or 'no id'}): {error}"
                )
                continue
            batch["image"][row, :, :width] = image[:, :width]
            batch["width"][row], batch["valid"][row] = width, True
        return batch, host

    def _image(self, record: Record, width_px: int, u: float | None) -> tuple[np.ndarray, int]:
        if record.error:
            raise BadRecord(record.error)
        image = transforms.decode(record.image, self.channels, self.max_pixels)
        whole = functools.partial(
            transforms.whole_line, image, self.height_px, self.squeeze_px, self.contrast
        )
        if self.squeeze_px:
            return whole(), self.squeeze_px
        if u is not None and self.contrast == "stretch":  # of the whole line
            return transforms.crop(whole(), width_px, u)
        try:
            if u is not None:
                return transforms.crop_to_height(image, self.height_px, width_px, u)
        except cv2.error as error:
            raise BadRecord(f"cannot be resized: {' '.join(str(error).split())}") from error
        height, width = image.shape[:2]
        # Before resizing: a stale index must not make one line unpack to a gigabyte.
        if resized_width(width, height, self.height_px) > width_px:
            raise BadRecord(
                f"{width} x {height} px does not fit the widest bucket of {width_px} px: "
                "raise data.max_width_px, or the index is stale"
            )
        image = whole()
        return image, image.shape[1]

    def _label(self, record: Record, label: np.ndarray, lengths: np.ndarray, row: int) -> int:
        """Writes the label of one row in place; returns how many of its characters the character
        set lacks.
        """
        if record.text is None:
            raise BadRecord("the index counts a label, the record has none: the index is stale")
        ids, unknown = self.charset.encode(record.text)
        if len(ids) > len(label):
            raise BadRecord(
                f"a label of {len(ids)} characters where the index counts at most {len(label)}"
            )
        label[: len(ids)] = ids
        lengths[row] = len(ids)
        return len(unknown)
