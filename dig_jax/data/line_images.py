"""Line images of any kind as a network takes them: paths, bytes and arrays, treated as in training.

The training pipeline (`data/loader.py`) prepares its images with the same functions. Needs neither
records nor Grain.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import MutableMapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from dig_jax.data import transforms
from dig_jax.data.sizes import MAX_ASPECT, BadRecord, resized_width


class LineImage(NamedTuple):
    """One line as the network takes it. pixels: u8[H, w, C]. width_px: of the image as given."""

    pixels: np.ndarray
    width_px: int


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What happens to a line image before the network; the options are those of config.data.

    Decode to `channels`, resize to `height_px` (or squeeze to `squeeze_px` too), stretch the
    contrast where `contrast` is "stretch". The network itself scales u8 to [-1, 1].
    """

    height_px: int
    channels: int
    squeeze_px: int | None = None
    contrast: str | None = None
    max_pixels: int = transforms.MAX_PIXELS
    max_width_px: int | None = None

    @classmethod
    def of(cls, data: dict[str, Any]) -> Preparation:
        """Of a run's config.data, or of what an export says."""
        names = (field.name for field in dataclasses.fields(cls))
        return cls(**{name: data[name] for name in names if data.get(name) is not None})

    def __call__(self, image: Any, seconds: MutableMapping[str, float] | None = None) -> LineImage:
        """A path, encoded bytes, an array or a picture of Pillow -> LineImage.

        seconds: to which the times of "decode" and "prepare" are added. Raises BadRecord, with the
        reason, for what is no usable image.
        """
        start = time.perf_counter()
        pixels = self.decoded(image)
        middle = time.perf_counter()
        height, width = pixels.shape[:2]
        most = self.max_width_px or MAX_ASPECT * self.height_px
        if not self.squeeze_px and resized_width(width, height, self.height_px) > most:
            raise BadRecord(
                f"{width} x {height} px is wider than {most} px at height {self.height_px}: "
                "cut it into lines"
            )
        line = transforms.whole_line(pixels, self.height_px, self.squeeze_px, self.contrast)
        if seconds is not None:
            seconds["decode"] += middle - start
            seconds["prepare"] += time.perf_counter() - middle
        return LineImage(line, width)

    def decoded(self, image: Any) -> np.ndarray:
        """u8[h, w, channels], as `transforms.decode` gives it for a stored image, turned upright as
        the camera says (EXIF). make_records turns what it stores, so records carry no such tag."""
        if isinstance(image, str | os.PathLike):
            try:
                with open(image, "rb") as file:
                    image = file.read()
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise BadRecord(f"cannot be read: {reason}") from error
        if isinstance(image, bytes | bytearray | memoryview):
            data = bytes(image)
            pixels = transforms.decode(data, self.channels, self.max_pixels)
            return transforms.upright(pixels, data)
        if isinstance(image, Image.Image):
            image = transforms.flatten(ImageOps.exif_transpose(image), self.channels)
        return self.of_array(np.asarray(image))

    def of_array(self, image: np.ndarray) -> np.ndarray:
        """The same of an array [h, w], or [h, w, C] with C 1 (grey), 2 (grey, alpha), 3 (RGB) or 4
        (RGBA).

        bool, integers from 0 and fractions from 0 to 1 are brought to 8 bits as those of a file.
        """
        if image.ndim == 2:
            image = image[:, :, None]
        if image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4) or not image.size:
            raise BadRecord(
                f"an array of shape {image.shape} is no image: give [h, w] or [h, w, C] with C "
                "1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA)"
            )
        if image.dtype == bool:
            image = image.astype(np.uint8) * 255
        if image.dtype.kind not in "uif":
            raise BadRecord(f"an array of {image.dtype} is no image: give numbers, such as uint8")
        if image.shape[0] * image.shape[1] > self.max_pixels:
            raise BadRecord(f"too large: more than data.max_pixels={self.max_pixels} pixels")
        if image.dtype != np.uint8:
            image = transforms.eight_bits(image)
        if image.shape[2] == 2:
            image = image[:, :, [0, 0, 0, 1]]
        if image.shape[2] == self.channels:
            return np.ascontiguousarray(image)
        # Through a file, so that colours become greys as those of stored images do.
        order = {1: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[image.shape[2]]
        image = image if order is None else cv2.cvtColor(image, order)
        stored = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
        return transforms.decode(stored, self.channels, self.max_pixels)
