"""Reading with a beam: several readings of a line are followed at once, and the best one stays.

A decoder that writes one character after the other searches on the device. CTC gives its frames
to the host, where a language model of characters can choose between readings that look alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from dig_jax.models.decoders.beam import NGram, prefix_beam
from dig_jax.text import Charset


class Search:
    """What to ask a recogniser, and how its answer becomes a reading.

    by_ctc: how the recogniser reads. beam: readings that are followed at once, 1 = the best class
    each time. lm: a character n-gram that a CTC beam is scored with, or its order, to be learnt of
    `texts`; 0 = none. lm_weight, lm_bonus: `weight` and `bonus` of `beam.py`. ValueError for what
    does not go together.
    """

    def __init__(
        self,
        charset: Charset,
        by_ctc: bool,
        texts: Iterable[str] = (),
        *,
        beam: int = 1,
        lm: int | NGram = 0,
        lm_weight: float = 0.2,
        lm_bonus: float = 0.4,
    ):
        if beam < 1:
            raise ValueError(f"beam is {beam}: set it to 1 for the best classes, or to 8")
        if lm and not (by_ctc and beam > 1):
            why = "beam is 1" if beam == 1 else "only CTC can be read with one"
            order = lm.order if isinstance(lm, NGram) else lm
            raise ValueError(
                f"lm is {order} and {why}: set lm to 0, or beam to 8 on a recogniser with CTC"
            )
        self.beam, self.on_host = beam, by_ctc and beam > 1
        if lm and not isinstance(lm, NGram):
            lm = NGram((charset.encode(text)[0] for text in texts), charset.size, lm)
        self.options = {"beam": beam, "lm": lm or None, "weight": lm_weight, "bonus": lm_bonus}

    def predict(self, method: Any) -> Callable[..., dict[str, Any]]:
        """(params, mutable, batch) -> {head: arrays}, of which `reading` takes a line."""
        if self.beam == 1:
            return method.predict
        return method.logits if self.on_host else functools.partial(method.predict, beam=self.beam)

    def reading(self, row: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """One line of what `predict` or a program gives -> a line of a reading (`decoders`)."""
        if not self.on_host:
            return row
        frames = int(row.get("frame_length", row["length"]))
        found = prefix_beam(log_softmax(row["logits"][:frames]), **self.options)
        return {
            "ids": np.array(found.ids, np.int32),
            "length": np.int32(len(found.ids)),
            "confidence": np.array(found.confidence, np.float32),
            "frame": np.array(found.frames, np.int32),
            # 0 for no character, whose blanks a search does not keep.
            "line": np.float32(np.mean(found.confidence) if found.ids else 0.0),
        }


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """f[S, V] -> ln of the probabilities, f64[S, V]."""
    above = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True, initial=-np.inf)
    return above - np.log(np.exp(above).sum(axis=-1, keepdims=True))
