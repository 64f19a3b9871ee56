"""Spelling: words that a list does not hold become the nearest word that it does.

It mends readings of known text and harms names, numbers and old spelling, so it is off by default.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Iterable


@functools.cache
def word_pattern() -> re.Pattern[str]:
    """Letters with the marks on them, such as vowel signs; digits and punctuation are no part."""
    marks = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c))[0] == "M"]
    return re.compile(f"[^\\W\\d_](?:[^\\W\\d_]|[{''.join(marks)}])*")


class Lexicon:
    """words: the list. edits: how many characters of a word may be changed; at most one in
    three."""

    def __init__(self, words: Iterable[str], edits: int = 1):
        self.words = sorted({found for text in words for found in word_pattern().findall(text)})
        self.known, self.edits = set(self.words), edits
        self.by_length: dict[int, list[str]] = {}
        for word in self.words:
            self.by_length.setdefault(len(word), []).append(word)
        self.mended: dict[str, str] = {}

    def correct(self, text: str) -> str:
        """The text with every unknown word replaced, where exactly one word is nearest."""
        return word_pattern().sub(lambda found: self._nearest(found.group()), text)

    def _nearest(self, word: str) -> str:
        if word not in self.mended:
            self.mended[word] = word if word in self.known else self._search(word)
        return self.mended[word]

    def _search(self, word: str) -> str:
        from rapidfuzz import process  # here: bench_step runs without it
        from rapidfuzz.distance import Levenshtein

        edits = min(self.edits, len(word) // 3)
        if not edits:
            return word
        lengths = range(len(word) - edits, len(word) + edits + 1)
        near = [other for n in lengths for other in self.by_length.get(n, ())]
        found = process.extract(
            word, near, scorer=Levenshtein.distance, score_cutoff=edits, limit=2
        )
        tied = len(found) == 2 and found[0][1] == found[1][1]
        return found[0][0] if found and not tied else word
