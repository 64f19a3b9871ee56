"""Source: rendered text lines: words of a vocabulary set in the machine's fonts, on paper, with
wear.

Line i of a split is a function of (seed, split, i), the vocabulary and the fonts alone: not of the
number of lines or processes. Fonts differ between machines; fonts="bundled" takes those that come
with matplotlib, the same everywhere. `dig_jax.data.typeset` draws how a line looks; this module
chooses its text and its font.
"""

import collections
import dataclasses
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import features

from dig_jax.data.examples import Example, Report
from dig_jax.data.split_names import USUAL, sizes_of
from dig_jax.data.typeset import AS_DRAWN, SHAPED, Page, bundled_fonts, load_font, render
from dig_jax.data.writer import encode_image
from dig_jax.text import normalize

WORDS = Path(__file__).with_name("words.txt")
SHARES = {"en": 0.4, "de": 0.3, "fr": 0.3}  # of the lines, for our own vocabulary
PUNCTUATION = ".,;:!?-()'\"“”«»&/"
PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
SYSTEM_FONTS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts",
    "/Library/Fonts", "/System/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
# Fonts whose letters are symbols, or which have a box for every character.
SYMBOL_FONTS = re.compile(
    "cmex|cmmi|cmsy|STIXSiz|STIXNonUni|LastResort|symbol|dingbat|emoji|icons|opens___",
    re.IGNORECASE,
)
TEX_FONTS = re.compile(
    r"cm(b|r|ss|ti|tt)10\.ttf"
)  # in TeX's encoding: only these are where Unicode has them
TEX_CHARS = PLAIN | set(".,;:!?-()'&/")
MOST_FONTS = 400
JOINERS = frozenset("\u200c\u200d")
FAVOURED = 0.5  # of the lines, beside the share that all families have of the rest
OTHER_SHARE = 0.8  # of the letters of another script, for a font without Latin ones
BOOKS = zlib.crc32(b"books")  # stream of randomness beside those of the splits


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Words with their frequencies, by language. frequency sums to 1 within a language, share over
    the languages.
    """

    words: dict[str, tuple[str, ...]]
    frequency: dict[str, tuple[float, ...]]
    share: dict[str, float]

    @property
    def chars(self) -> frozenset[str]:
        """All characters of the words, and their capitals."""
        chars = "".join("".join(words) for words in self.words.values())
        return frozenset(chars + chars.upper())


@dataclasses.dataclass(frozen=True)
class Font:
    """A usable font: its file and the characters of interest that it has."""

    file: str
    family: str
    covers: frozenset[str]

    def called(self, start: str) -> bool:
        return Path(self.file).name.startswith(start)


def examples(
    *,
    report: Report,
    input: str | None = None,
    splits: str = USUAL,
    count: int | None = None,
    seed: int = 0,
    min_words: int = 1,
    max_words: int = 8,
    fonts: str = "auto",
    favour: str = "",
    books: int = 0,
    tight: float = 0.0,
    crowded: float = 0.0,
    heavy: float = 0.0,
    bitonal: float = 0.0,
    ruled: float = 0.0,
    uneven: float = 0.0,
    clean: float = 0.0,
    height_px: int = 48,
    channels: int = 1,
    codec: str = "jpeg",
    quality: int = 95,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text, "split/number font"). All images are height_px high.

    splits: "train=4000,validation=400"; count: short for "train=COUNT". input: a UTF-8 text whose
    words (as often as they stand there) replace our own English, German and French list. fonts:
    "auto", "bundled" or a folder. favour: fonts whose file name begins so get half of the lines,
    and their part of the rest. books: lines come from so many books, as in a scanned collection.
    Each has one language, font, size, paper, ink and wear of its own; 0: every line looks its own
    way. tight, crowded, heavy, bitonal, ruled, uneven, clean: shares of lines, see `typeset.Page`.
    ValueError or FileNotFoundError for what a user can mend.
    """
    if not 1 <= min_words <= max_words:
        raise ValueError(f"min_words is {min_words}: set it from 1 to max_words, {max_words}.")
    if books < 0:
        raise ValueError(f"books is {books}; give a number of books, or 0 for lines of no book.")
    page = Page(tight, crowded, heavy, bitonal, ruled, uneven, clean)
    for name, value in page._asdict().items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; give a share of the lines, from 0 to 1.")
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, but must be 1 (grey) or 3 (colour).")
    sizes = sizes_of(splits, count)
    vocabulary = read_vocabulary(input)
    found = find_fonts(fonts, vocabulary.chars | set(PUNCTUATION) | PLAIN)
    if not any(font.called(favour) for font in found):
        raise ValueError(f"--favour={favour}: begin the name of a font's file: {found[0].file}")
    usable = _usable(vocabulary, found, report)
    families = len({font.family for font in found})
    report.total = sum(sizes.values())
    report.about.update(
        source=f"rendered lines, seed {seed}, words of {input or WORDS.name}, {len(found)} fonts, "
        f"{families} families",
        licence="generated; words in the public domain"
        if input is None
        else f"generated; words from {input}",
    )
    report.notes.append("fonts: " + ", ".join(sorted({Path(font.file).name for font in found})))
    make = LineMaker(
        usable, found, seed=seed, words=(min_words, max_words), books=books, page=page,
        height_px=height_px, channels=channels, codec=codec, quality=quality, favour=favour,
    )  # fmt: skip
    jobs = ((split, index) for split, size in sizes.items() for index in range(size))
    yield from report.work(make, jobs, workers)


def read_vocabulary(input: str | None) -> Vocabulary:
    """Our own list (rarer towards its end: Zipf's law, flattened at the head), or a text's words
    with their counts."""
    if input is None:
        sections = re.split(r"^\[(\w+)\]\n", WORDS.read_text("utf-8"), flags=re.MULTILINE)[1:]
        words = {
            name: tuple(dict.fromkeys(text.split()))
            for name, text in zip(sections[::2], sections[1::2])
        }
        weights = {name: 1 / (np.arange(len(w)) + 30.0) for name, w in words.items()}
        share = SHARES
    else:
        try:
            counts = collections.Counter(normalize(Path(input).read_text("utf-8")).split())
        except OSError as error:
            told = f"--input={input} cannot be read ({error.strerror}): name a text file in UTF-8."
            raise FileNotFoundError(told) from error
        except UnicodeDecodeError as error:
            raise ValueError(
                f"--input={input} is not UTF-8 ({error.reason} at byte {error.start})."
            ) from error
        if not counts:
            raise ValueError(f"--input={input} holds no word.")
        words, share = {"own": tuple(counts)}, {"own": 1.0}
        weights = {"own": np.array(list(counts.values()), np.float64)}
    return Vocabulary(
        words, {name: tuple((w / w.sum()).tolist()) for name, w in weights.items()}, share
    )


def find_fonts(where: str, chars: frozenset[str]) -> list[Font]:
    """Usable fonts, sorted by file name: those with distinct glyphs for all of A-Z, a-z, 0-9. See
    `examples` for `where`."""
    bundled = bundled_fonts()[0].parent
    if where == "bundled":
        folders = [bundled]
    elif where == "auto":
        folders = [bundled, *(Path(folder).expanduser() for folder in SYSTEM_FONTS)]
    elif Path(where).is_dir():
        folders = [Path(where)]
    else:
        raise FileNotFoundError(
            f"--fonts is '{where}', but must be auto, bundled, or a folder with font files."
        )
    files: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if file.suffix.lower() in (".ttf", ".otf", ".ttc") and not SYMBOL_FONTS.search(
                file.name
            ):
                files.setdefault(file.name, file)
    fonts = [font for _, file in sorted(files.items()) if (font := _inspect(file, chars))]
    if not fonts:
        raise ValueError(
            f"--fonts={where}: no font with Latin letters found; --fonts=bundled always works."
        )
    if len(fonts) > MOST_FONTS:  # evenly over the alphabet, so that no maker is left out as a whole
        fonts = [fonts[i * len(fonts) // MOST_FONTS] for i in range(MOST_FONTS)]
    return fonts


def _inspect(file: Path, chars: frozenset[str]) -> Font | None:
    """What a font covers. A missing glyph is drawn as the font's box, so a character with the box's
    picture is missing. Joiners are no ink in any font."""
    try:
        font = load_font(str(file), 24)
        box = bytes(font.getmask("\uffff"))
        glyphs = {char: bytes(font.getmask(char)) for char in sorted(chars)}
    except (OSError, ValueError):
        return None
    drawn = {char for char, glyph in glyphs.items() if glyph and any(glyph) and glyph != box}
    covers = drawn | (JOINERS & chars)
    if TEX_FONTS.fullmatch(file.name):
        covers &= TEX_CHARS
    # I l 1, O 0 may look alike. Fonts of other scripts need no Latin letters.
    latin = covers >= PLAIN and len({glyphs[char] for char in PLAIN}) >= len(PLAIN) - 4
    others = {char for char in chars - PLAIN if char.isalpha() and ord(char) > 0x24F}
    if not latin and not (others and len(drawn & others) >= OTHER_SHARE * len(others)):
        return None
    return Font(str(file), font.getname()[0] or file.stem, frozenset(covers))


def _usable(vocabulary: Vocabulary, fonts: Sequence[Font], report: Report) -> Vocabulary:
    """The vocabulary without the words that no font can write; they are reported."""
    words, frequency = {}, {}
    for language, every in vocabulary.words.items():
        kept = [any(font.covers.issuperset(word) for font in fonts) for word in every]
        for word, keep in zip(every, kept):
            if not keep:
                report.skip(word, "word with a character that no font has")
        mass = sum(f for f, keep in zip(vocabulary.frequency[language], kept) if keep)
        if mass > 0:
            words[language] = tuple(w for w, keep in zip(every, kept) if keep)
            frequency[language] = tuple(
                f / mass for f, keep in zip(vocabulary.frequency[language], kept) if keep
            )
    if not words:
        letter = next((c for c in sorted(vocabulary.chars, reverse=True) if c.isalpha()), "?")
        script = unicodedata.name(letter, "unknown").split()[0].capitalize()
        raise ValueError(
            f"No font here can write any word of the vocabulary ({script}, such as {letter}); pass "
            "--fonts=FOLDER with a font that can."
        )
    if any(SHAPED.search(word) for every in words.values() for word in every):
        if not features.check("raqm"):
            raise ValueError(
                "These words need shaping, which this Pillow cannot do (no raqm): install the "
                "wheel of Pillow from PyPI and, on Linux, the system's libfribidi."
            )
    total = sum(vocabulary.share[name] for name in words)
    return Vocabulary(words, frequency, {name: vocabulary.share[name] / total for name in words})


class LineMaker:
    """Makes line `index` of `split`: a pure function of that pair and of what it was made with.
    Pickles.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        fonts: Sequence[Font],
        *,
        seed: int,
        words: tuple[int, int],
        height_px: int,
        channels: int,
        codec: str,
        quality: int,
        books: int = 0,
        page: Page = AS_DRAWN,
        favour: str = "",
    ):
        self.vocabulary, self.seed, self.words, self.books = vocabulary, seed, words, books
        self.page = page
        self.height_px, self.channels = height_px, channels
        self.codec, self.quality, self.favour = codec, quality, favour
        names = sorted({font.family for font in fonts})
        self.families = [[font for font in fonts if font.family == name] for name in names]
        self._able: dict[str, list[list[Font]]] = {}  # caches, by language
        self._writable: dict[tuple[str, frozenset[str]], tuple[list[str], np.ndarray]] = {}

    def __call__(self, job: tuple[str, int]) -> list[Example]:
        """One (split, encoded image, text, id)."""
        split, index = job
        rng = np.random.default_rng([self.seed, zlib.crc32(split.encode()), index])
        # The looks of a book come from a stream of its own, which starts anew for each of its
        # lines.
        looks = (
            np.random.default_rng([self.seed, BOOKS, int(rng.integers(self.books))])
            if self.books
            else rng
        )
        share = self.vocabulary.share
        language = str(looks.choice(list(share), p=list(share.values())))
        font = self._choose_font(looks, language)
        known, cumulative = self.writable(language, font.covers)
        text = compose(
            rng, known, cumulative, font.covers, int(rng.integers(self.words[0], self.words[1] + 1))
        )
        image = render(looks, rng, text, font.file, self.height_px, self.channels, self.page)
        id = f"{split}/{index:07d} {Path(font.file).name}"
        return [(split, encode_image(image, self.codec, self.quality), text, id)]

    def _choose_font(self, rng: np.random.Generator, language: str) -> Font:
        """First a family, then a font of it: a family of twenty weights is no more frequent than
        one with a single file."""
        if language not in self._able:
            able = [
                [font for font in family if self.writable(language, font.covers)[0]]
                for family in self.families
            ]
            self._able[language] = [family for family in able if family]
        families = self._able[language]
        if self.favour and rng.random() < FAVOURED:
            called = [[font for font in family if font.called(self.favour)] for family in families]
            families = list(filter(None, called)) or families
        family = families[int(rng.integers(len(families)))]
        return family[int(rng.integers(len(family)))]

    def writable(self, language: str, covers: frozenset[str]) -> tuple[list[str], np.ndarray]:
        """The words of a language that these characters can write, and their cumulative
        frequency.
        """
        key = (language, covers)
        if key not in self._writable:
            every = zip(self.vocabulary.words[language], self.vocabulary.frequency[language])
            kept = [(word, share) for word, share in every if covers.issuperset(word)]
            total = np.cumsum([share for _, share in kept])
            self._writable[key] = [word for word, _ in kept], total / total[-1] if kept else total
        return self._writable[key]


def compose(
    rng: np.random.Generator,
    known: Sequence[str],
    cumulative: np.ndarray,
    covers: frozenset[str],
    count: int,
) -> str:
    """A line of `count` words with numbers, capitals and punctuation; a change that the font cannot
    write is left out."""
    words = [
        known[i]
        for i in np.searchsorted(cumulative, rng.random(count), side="right").clip(
            max=len(known) - 1
        )
    ]
    style = rng.random()
    for i, chance in enumerate(rng.random(count)):
        word = words[i]
        if chance < 0.06:
            word = _number(rng)
        elif style < 0.08:
            word = word.upper()
        elif style < 0.2 or (i == 0 and style < 0.6):
            word = word[:1].upper() + word[1:]
        words[i] = word if covers.issuperset(word) else words[i]
    last = rng.random()
    for i, chance in enumerate(rng.random(count)):
        word = words[i]
        if i == count - 1 and last < 0.4:
            word += "-" if last < 0.05 else "....!?"[int(rng.integers(6))]
        elif chance < 0.16:
            word += ",,,,,;:"[int(rng.integers(7))]
        elif chance < 0.22:
            word = ("({})", "“{}”", "«{}»", '"{}"', "'{}'")[int(rng.integers(5))].format(word)
        words[i] = word if covers.issuperset(word) else words[i]
    return normalize(" ".join(words))


def _number(rng: np.random.Generator) -> str:
    kind, a, b = int(rng.integers(5)), int(rng.integers(1, 32)), int(rng.integers(10, 100))
    year = int(rng.integers(1500, 2030))
    return (str(year), str(a), f"{a}.{b}", f"{a}/{b}", f"{a}. {1 + b % 12}. {year}")[kind]
