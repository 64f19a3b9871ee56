"""From what a recogniser predicts to texts: best classes, or a beam with a language model.

The language model and the list of words are made of the training texts, of the lines that labels=
chose for this run, and of the texts that are named beside them. Do not name those that it is judged
on.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping

import numpy as np

from dig_jax.data import records
from dig_jax.evaluators.lines import Text
from dig_jax.models.decoders.beam import Found, NGram, prefix_beam
from dig_jax.models.decoders.lexicon import Lexicon
from dig_jax.text import normalize


class Search:
    """predict: to be jitted, (params, mutable, batch) -> {head: arrays}. texts: of one head's.

    beam: readings of a line that are followed at once, 1 = the best class each time. lm: order of a
    character n-gram that a CTC beam is scored with, 0 = none; lm_weight, lm_bonus: see
    `decoders/beam.py`. lexicon: how many characters of a word may be changed to make it a word of
    the training texts, 0 = none. texts: more texts for both, a records spec or a UTF-8 file of
    lines whose name ends in .txt. ValueError for what does not go together.
    """

    def __init__(
        self,
        method,
        data: Mapping,
        *,
        beam: int = 1,
        lm: int = 0,
        lm_weight: float = 0.2,
        lm_bonus: float = 0.4,
        lexicon: int = 0,
        texts: str | None = None,
    ):
        self.charset = method.charset
        self.on_host = beam > 1 and method.head.on_host
        if lm and not self.on_host:
            why = "beam is 1" if beam <= 1 else "only CTC can be read with one"
            raise ValueError(
                f"config.evals.recognition.lm is {lm} and {why}: set lm to 0, or beam to 16 on a "
                "recogniser with CTC"
            )
        if texts and not (lm or lexicon):
            raise ValueError(
                f"config.evals.recognition.texts is {texts}, and nothing reads them: set lm to 4 "
                "and beam to 8, or lexicon to 1"
            )
        self.predict = method.predict
        if self.on_host:
            self.predict = method.log_probs
        elif beam > 1:
            self.predict = functools.partial(method.predict, beam=beam)
        known = [*training_texts(data), *named_texts(texts)] if lm or lexicon else []
        ids = (self.charset.encode(text)[0] for text in known)
        self.options = {"beam": beam, "weight": lm_weight, "bonus": lm_bonus}
        self.options["lm"] = NGram(ids, self.charset.size, lm) if lm else None
        self.lexicon = Lexicon(known, lexicon) if lexicon else None

    def texts(self, reading: Mapping[str, np.ndarray]) -> list[Text]:
        """The texts of a batch and how sure each is; reading: arrays of one head on this host."""
        if self.on_host:
            found = [
                prefix_beam(log_probs[: int(length)], **self.options)
                for log_probs, length in zip(reading["log_probs"], reading["length"])
            ]
            return [
                Text(
                    self.text(each.ids),
                    sureness(each),
                    self.seen(each.ids, each.confidence, each.frames),
                )
                for each in found
            ]
        result = []
        for row, length in enumerate(reading["length"].tolist()):
            ids, sure, frames = (
                reading[name][row][:length] for name in ("ids", "confidence", "frame")
            )
            line = float(reading["line"][row])
            result.append(Text(self.text(ids), line, self.seen(ids, sure, frames)))
        return result

    def seen(self, ids, confidence, frames) -> list[tuple[str, float, int]]:
        """[(char, confidence, frame)] of one line."""
        chars = self.charset.chars
        return [
            (chars[int(i) - 1], float(sure), int(frame))
            for i, sure, frame in zip(ids, confidence, frames)
        ]

    def text(self, ids) -> str:
        text = self.charset.decode(ids)
        return self.lexicon.correct(text) if self.lexicon else text


def sureness(found: Found) -> float:
    """Mean over the characters; 0 for none, whose blanks a search does not keep."""
    return float(np.mean(found.confidence)) if found.confidence else 0.0


def named_texts(spec: str | None) -> list[str]:
    """The texts of `Search`'s `texts`; FileNotFoundError where nothing lies there."""
    if spec is None:
        return []
    if not spec.endswith(".txt"):
        return list(records.open_sets(spec, labelled=True).texts())
    lines = pathlib.Path(spec).read_text(encoding="utf-8").splitlines()
    return [normalize(line) for line in lines if line.strip()]


def training_texts(data: Mapping) -> list[str]:
    """Labels of the lines that a run with this config.data is trained on."""
    return list(records.training_lines(data).texts())
