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


class Search:
    """What to ask a recogniser, and how its answer becomes a reading.

    charset: a `text.Charset`. by_ctc: whether the recogniser reads by CTC. beam: readings that are
    followed at once, 1 = the best class each time. lm: a character n-gram that a CTC beam is scored
    with, or its order, to be learnt of `texts`; 0 = none. lm_weight, lm_bonus: `weight` and `bonus`
    of `beam.py`. ValueError for what does not go together.
    """

    def __init__(
        self,
        charset: Any,
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
        for name, value in (("lm_weight", lm_weight), ("lm_bonus", lm_bonus)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}: give a number from 0 on, such as 0.5")
        if lm and not isinstance(lm, NGram):
            lm = NGram(known_ids(charset, texts), charset.size, lm)
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


def known_ids(charset: Any, texts: Iterable[str]) -> list[list[int]]:
    """Ids of the lines to learn from. ValueError where there are none, or where the charset lacks
    more than half of their characters; fewer are left out."""
    found = [charset.encode(text) for text in texts]
    lacking = sum(len(unknown) for _, unknown in found)
    ids = [line for line, _ in found if line]
    if not ids or lacking > sum(map(len, ids)):
        raise ValueError(
            f"{len(found)} texts are for an n-gram, and the reader knows {sum(map(len, ids))} of "
            f"their characters and {lacking} not: name texts of its script"
        )
    return ids


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """f[S, V] -> ln of the probabilities, f64[S, V]."""
    above = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True, initial=-np.inf)
    return above - np.log(np.exp(above).sum(axis=-1, keepdims=True))
