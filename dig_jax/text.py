"""Text of a line: normal form, characters <-> ids for CTC, and the alphanumeric form that word
benchmarks compare.

Ids: 0 is the CTC blank and the padding of label arrays; characters are 1 .. len(chars). A character
is one Unicode code point after NFC, so a combining mark without a composed form (the small e above
of Fraktur print) is a character of its own.
"""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterable

import numpy as np

BLANK = 0


def normalize(text: str) -> str:
    """NFC, every run of white space (no-break spaces and line ends too) one space, no outer
    space.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def alphanumeric(text: str) -> str:
    """What the word benchmarks compare: only 0-9 and A-Z, in lower case ("It's" -> "its", "No. 5"
    -> "no5", "?" -> "").

    Accented letters are dropped whole, not reduced to their base letter: that is the usual rule of
    the field, and NFC first makes it independent of how the accent was typed.
    """
    return re.sub(r"[^0-9A-Za-z]+", "", unicodedata.normalize("NFC", text)).lower()


@dataclasses.dataclass(frozen=True)
class Charset:
    """The characters that a recogniser can write. `chars[i]` has id i + 1; id 0 is the blank.

    Raises ValueError where `chars` is empty or holds a character twice (two ids for one character
    could not be decoded back).
    """

    chars: str
    _ids: dict[str, int] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        if not self.chars:
            raise ValueError(
                "A character set needs at least one character; got none (are there labels at all?)."
            )
        ids = {char: i for i, char in enumerate(self.chars, start=1)}
        if len(ids) != len(self.chars):
            twice = sorted({char for char in self.chars if self.chars.count(char) > 1})
            raise ValueError(
                f"A character set holds each character once; found more than once: {twice}."
            )
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "Charset":
        """All characters of the normalised texts, sorted by code point: the same for any order of
        the texts.
        """
        seen: set[str] = set()
        for text in texts:
            seen.update(normalize(text))
        return cls("".join(sorted(seen)))

    @property
    def size(self) -> int:
        """Number of classes with the blank."""
        return len(self.chars) + 1

    def encode(self, text: str) -> tuple[list[int], list[str]]:
        """Ids of the normalised text, and the characters that this set lacks (left out of the ids,
        in order, with repeats)."""
        ids, unknown = [], []
        for char in normalize(text):
            found = self._ids.get(char)
            if found is None:
                unknown.append(char)
            else:
                ids.append(found)
        return ids, unknown

    def decode(self, ids: Iterable[int]) -> str:
        """Plain look-up; blanks (0) are left out and repeats kept. An id outside [0, size) is a
        ValueError.
        """
        chars = []
        for value in ids:
            index = int(value)
            if not 0 <= index < self.size:
                raise ValueError(
                    f"Id {index} is outside this character set of {self.size} classes (0 is the blank)."
                )
            if index != BLANK:
                chars.append(self.chars[index - 1])
        return "".join(chars)

    def ctc_collapse(self, ids: np.ndarray, length: int) -> list[int]:
        """Best path -> label (Graves et al. 2006): of the first `length` frames, merge repeats,
        then drop blanks.

        ids i32[S]; a blank between two equal ids keeps them apart, so the order of the two steps
        matters.
        """
        frames = np.asarray(ids)[: max(0, int(length))]
        first = np.ones(len(frames), bool)
        first[1:] = frames[1:] != frames[:-1]
        return [int(i) for i in frames[first] if i != BLANK]

    def to_json(self) -> str:
        """One JSON object, ASCII only, so that lone combining marks survive any editor."""
        return json.dumps({"chars": self.chars})

    @classmethod
    def from_json(cls, value: str) -> "Charset":
        """Inverse of `to_json`; ValueError where the text is not such an object."""
        try:
            chars = json.loads(value)["chars"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"Not a character set: no JSON object with 'chars' in {value[:60]!r}."
            ) from error
        return cls(chars)
