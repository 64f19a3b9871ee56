"""Record sets whose images spell out what a made-up reader will read, so every rate is known
beforehand.

A character is two blocks of BLOCK px: its class times SHADE in grey, then black (the blank).
Nothing is learnt.
"""

import types

import jax.numpy as jnp
import numpy as np

from dig_jax.data import writer
from dig_jax.methods.shared import base
from dig_jax.models.decoders import ctc
from dig_jax.text import Charset

CHARSET = Charset(" 5NTeilnostu.?")
BLOCK, SHADE, HEIGHT = 4, 10, 8
DATA = {"height_px": HEIGHT, "channels": 1, "workers": 0}


def draw(reading: str) -> bytes:
    """PNG that `Reader` reads as `reading`."""
    ids = np.array([(i, 0) for i in CHARSET.encode(reading)[0]] or [(0, 0)]).reshape(-1)
    image = np.repeat(np.repeat(ids[None] * SHADE, BLOCK, axis=1), HEIGHT, axis=0).astype(np.uint8)
    return writer.encode_image(image, "png")


def write(folder, pairs, split="validation"):
    """pairs: (truth or None, what the reader will read, or None for an image that cannot be
    decoded).
    """
    examples = (
        (split, b"no image" if reading is None else draw(reading), truth, f"line {i}")
        for i, (truth, reading) in enumerate(pairs)
    )
    writer.write(folder, examples)
    return folder


def frames_of(image):
    """The class of every block, i32[B, S]; paper reads as the blank."""
    ids = image[:, HEIGHT // 2, BLOCK // 2 :: BLOCK, 0].astype(jnp.int32) // SHADE
    return jnp.where(ids < CHARSET.size, ids, 0)


class Reader(base.Method):
    """Reads the blocks. `heads`: names, each with the number of characters at the start that it
    misses.
    """

    head = types.SimpleNamespace(on_host=False)

    def __init__(self, heads=None):
        self.charset = CHARSET
        self.encoder = types.SimpleNamespace(patch=(HEIGHT, BLOCK))
        self.heads = heads or {"ctc": 0}

    def predict(self, params, mutable, batch):
        ids = frames_of(batch["image"])
        length = -(-batch["width"] // BLOCK)
        place = jnp.arange(ids.shape[1])[None]
        sure = jnp.full(ids.shape, 0.5)
        return {
            name: ctc.collapse(jnp.where(place < 2 * missed, 0, ids), sure, length)
            for name, missed in self.heads.items()
        }
