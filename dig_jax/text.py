"""Text of a line: normal form, characters <-> ids for CTC, and the alphanumeric form that word
benchmarks compare.

Ids: 0 is the CTC blank and the padding of label arrays; characters are 1 .. len(chars). A character
is one Unicode code point after NFC. A combining mark without a composed form (the small e above of
Fraktur print) is therefore a character of its own.

Right to left. Frames run from left to right, but Hebrew and Arabic are stored in the order of
speech. A character set with a `base` direction has its ids in the order of the picture. `encode`
brings a label into that order, `decode` turns a reading back. Lines without such letters are not
touched.
"""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterable

import numpy as np
from bidi import algorithm as bidi

BLANK = 0
# Zero-width space, word joiner, byte order mark, and the marks of writing direction: nobody sees
# them. (The joiners U+200C and U+200D stay, which change how letters look.)
DIRECTED = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
INVISIBLE = dict.fromkeys((0x200B, 0x2060, 0xFEFF, *DIRECTED))


def in_utf8(name: str) -> str:
    """A name of a file, whose bytes need not be UTF-8: those that are not, as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def normalize(text: str) -> str:
    """NFC, every run of white space (no-break spaces and line ends too) one space, no outer
    space, no INVISIBLE character.

    Labels are stored so, and both sides of every error rate are brought into this form.
    """
    return " ".join(unicodedata.normalize("NFC", text.translate(INVISIBLE)).split())


def alphanumeric(text: str) -> str:
    """What the word benchmarks compare: only 0-9 and A-Z, in lower case ("It's" -> "its", "No. 5"
    -> "no5", "?" -> "").

    Accented letters are dropped whole, not reduced to their base letter, as is usual in the field.
    NFC first makes the result independent of how the accent was typed.
    """
    return re.sub(r"[^0-9A-Za-z]+", "", unicodedata.normalize("NFC", text)).lower()


# ---- right to left


RIGHT_TO_LEFT = ("R", "AL")  # bidirectional classes of Hebrew, Arabic and their relatives
STRONG = ("L", *RIGHT_TO_LEFT)
# Marks, joiners and soft hyphens, embeddings and isolates: what belongs to the letter before it.
BEHIND = frozenset("NSM BN LRE RLE LRO RLO PDF LRI RLI FSI PDI".split())


def has_right_to_left(text: str) -> bool:
    return any(
        char > "\u058f" and unicodedata.bidirectional(char) in RIGHT_TO_LEFT for char in text
    )


def direction_of(text: str) -> str:
    """Where a line begins, by its first letter with a direction (UAX #9, P2): "L" or "R"."""
    kinds = (unicodedata.bidirectional(char) for char in text)
    first = next((kind for kind in kinds if kind in STRONG), "L")
    return "R" if first in RIGHT_TO_LEFT else "L"


def base_direction(texts: Iterable[str]) -> str:
    """The direction in which most lines with right-to-left letters begin; "" without such a
    line."""
    texts = map(normalize, texts)
    begins = [direction_of(text) for text in texts if has_right_to_left(text)]
    return max("RL", key=begins.count) if begins else ""


def to_visual(text: str, base: str | None = None) -> str:
    """A line in the order of its picture, left to right (Unicode bidi, UAX #9); brackets as drawn.

    base: "L" or "R", where the line begins; None = by its first letter. Combining marks, joiners
    and soft hyphens stay behind their letter.
    """
    return "".join(char for _, char in _drawn(text, base))


def to_logical(visual: str, base: str) -> str:
    """The line whose picture reads `visual` from left to right: inverse of `to_visual`.

    Some pictures have two answers (a Latin and a Hebrew word side by side). The line then begins
    in the direction `base`.
    """
    if not has_right_to_left(visual):
        return visual
    sides = (base, "L" if base == "R" else "R")
    lines = [to_visual(visual, side) for side in sides]
    return next((line for line in lines if to_visual(line) == visual), lines[0])


def logical_order(visual: str, text: str) -> list[int]:
    """Numbers of the characters of `visual` in the order of `text`, which `to_logical` made of it.

    From left to right where the text was not made so.
    """
    for side in "RL":
        line = _drawn(visual, side)
        if text == "".join(char for _, char in line):
            return [number for number, _ in line]
    return list(range(len(visual)))


def _drawn(text: str, base: str | None) -> list[tuple[int, str]]:
    """(its number in the text, character as drawn) from left to right."""
    if not has_right_to_left(text):
        return list(enumerate(text))
    # The algorithm sees letters only: rule X9 would drop joiners, and reversing would put marks
    # before their letters (L3). behind[0] has no letter before it.
    letters: list[int] = []
    behind: list[list[int]] = [[]]
    for number, char in enumerate(text):
        if unicodedata.bidirectional(char) in BEHIND:
            behind[-1].append(number)
        else:
            letters.append(number)
            behind.append([])
    line = [(number, text[number]) for number in behind[0]]
    for place, char in _reordered([text[number] for number in letters], base or direction_of(text)):
        line.append((letters[place], char))
        line += [(number, text[number]) for number in behind[place + 1]]
    return line


def _reordered(letters: Iterable[str], base: str) -> list[tuple[int, str]]:
    """The steps of `bidi.algorithm.get_display`, which keep the number of each letter."""
    level = bidi.PARAGRAPH_LEVELS[base]
    line = bidi.get_empty_storage() | {"base_level": level, "base_dir": base}
    bidi.get_embedding_levels(letters, line)
    for number, char in enumerate(line["chars"]):
        char["number"] = number
        char["type"] = char["type"] or "L"  # not yet in Python's tables
    bidi.calc_level_runs(line)
    bidi.resolve_weak_types(line)
    bidi.resolve_neutral_types(line, False)
    bidi.resolve_implicit_levels(line, False)
    bidi.reorder_resolved_levels(line, False)
    bidi.apply_mirroring(line, False)
    return [(char["number"], char["ch"]) for char in line["chars"]]


# ---- characters and ids


@dataclasses.dataclass(frozen=True)
class Charset:
    """The characters that a recogniser can write. `chars[i]` has id i + 1; id 0 is the blank.

    base: "" = ids are in the order of the text; "L" or "R" = in the order of the picture. A reading
    that could begin at either side begins at the side that `base` names.

    Raises ValueError where `chars` is empty or holds a character twice (two ids for one character
    could not be decoded back).
    """

    chars: str
    base: str = ""
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
    def from_texts(cls, texts: Iterable[str], base: str = "") -> "Charset":
        """All characters of the normalised texts, sorted by code point: the same for any order of
        the texts. base: see the class; `base_direction` of the same texts chooses it.
        """
        return cls("".join(sorted(_characters(texts, base))), base)

    def extended(self, texts: Iterable[str]) -> "Charset":
        """This character set and, behind it, the characters of the texts that it lacks: every id
        stays what it was. One without right-to-left letters takes the direction of the texts.
        """
        texts = list(texts)
        base = self.base
        if not base and not has_right_to_left(self.chars):
            base = base_direction(texts)
        new = _characters(texts, base) - set(self.chars)
        return Charset(self.chars + "".join(sorted(new)), base)

    @property
    def size(self) -> int:
        """Number of classes with the blank."""
        return len(self.chars) + 1

    def encode(self, text: str) -> tuple[list[int], list[str]]:
        """Ids of the normalised text, and the characters that this set lacks (left out of the ids,
        in order, with repeats)."""
        ids, unknown = [], []
        text = normalize(text)
        for char in to_visual(text) if self.base else text:
            found = self._ids.get(char)
            if found is None:
                unknown.append(char)
            else:
                ids.append(found)
        return ids, unknown

    def decode(self, ids: Iterable[int]) -> str:
        """Plain look-up; blanks (0) are left out and repeats kept. With a `base` the order of the
        picture is turned into that of the text. An id outside [0, size) is a ValueError.
        """
        chars = []
        for value in ids:
            index = int(value)
            if not 0 <= index < self.size:
                raise ValueError(
                    f"Id {index} is outside this character set of {self.size} classes (0 is the "
                    "blank)."
                )
            if index != BLANK:
                chars.append(self.chars[index - 1])
        text = "".join(chars)
        return to_logical(text, self.base) if self.base else text

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
        return json.dumps({"chars": self.chars} | ({"base": self.base} if self.base else {}))

    @classmethod
    def from_json(cls, value: str) -> "Charset":
        """Inverse of `to_json`; ValueError where the text is not such an object."""
        try:
            content = json.loads(value)
            return cls(content["chars"], content.get("base", ""))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"Not a character set: no JSON object with 'chars' in {value[:60]!r}."
            ) from error


def _characters(texts: Iterable[str], base: str) -> set[str]:
    """What a character set with this base needs for the texts: brackets may turn round."""
    seen: set[str] = set()
    for text in map(normalize, texts):
        seen.update(to_visual(text) if base else text)
    return seen
