"""From what a recogniser predicts to texts: best classes, or a beam with a language model.

The language model and the list of words are made of the training texts, of the lines that labels=
chose for this run, and of the texts that are named beside them. Do not name those that it is judged
on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dig_jax.data import records
from dig_jax.evaluators.lines import Text
from dig_jax.models.decoders.lexicon import Lexicon
from dig_jax.models.decoders.search import Search


class Texts:
    """predict: to be jitted, (params, mutable, batch) -> {head: arrays}. `of`: one head's texts.

    lexicon: how many characters of a word may be changed to make it a word of the training texts,
    0 = none. texts: more texts for it and for lm, see `records.texts_of`. options: those of
    `models.decoders.search.Search`. ValueError for what does not go together.
    """

    def __init__(
        self, method, data: Mapping, *, lexicon: int = 0, texts: str | None = None, **options
    ):
        self.charset = method.charset
        if texts and not (options.get("lm") or lexicon):
            raise ValueError(
                f"config.evals.recognition.texts is {texts}, and nothing reads them: set lm to 4 "
                "and beam to 8, or lexicon to 1"
            )
        known: list[str] = []
        if options.get("lm") or lexicon:
            known = training_texts(data) + (records.texts_of(texts) if texts else [])
            if not known:
                raise ValueError(
                    "lm and lexicon are learnt of texts, and this run names none: set "
                    "config.evals.recognition.texts"
                )
        try:
            self.search = Search(self.charset, method.head.on_host, known, **options)
        except ValueError as error:
            raise ValueError(f"config.evals.recognition: {error}") from None
        self.predict = self.search.predict(method)
        self.lexicon = Lexicon(known, lexicon) if lexicon else None

    def of(self, reading: Mapping[str, np.ndarray]) -> list[Text]:
        """The texts of a batch and how sure each is; reading: arrays of one head on this host."""
        rows = (dict(zip(reading, row)) for row in zip(*reading.values()))
        return [self.text(self.search.reading(row)) for row in rows]

    def text(self, line: Mapping[str, np.ndarray]) -> Text:
        ids, sure, frames = (
            line[name][: int(line["length"])].tolist() for name in ("ids", "confidence", "frame")
        )
        text = self.charset.decode(ids)
        text = self.lexicon.correct(text) if self.lexicon else text
        seen = zip((self.charset.chars[i - 1] for i in ids), sure, frames)
        return Text(text, float(line["line"]), list(seen))


def training_texts(data: Mapping) -> list[str]:
    """Labels of the lines that a run with this config.data is trained on; [] of an import, which
    names none."""
    return list(records.training_lines(data).texts()) if data["train"] else []
