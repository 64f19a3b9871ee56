"""The frequent words of a language, as a text that `make_records --source=lines` draws from.

    pip install "dig_jax[words]"
    python -m dig_jax.tools.word_list --language=de --long_s --output=words.txt
    python -m dig_jax.tools.make_records --source=lines --input=words.txt --output=records/rendered

Words and frequencies are those of the package wordfreq (Speer, 10.5281/zenodo.7199437), about forty
languages. Its data are CC BY-SA 4.0. A word stands in the text as often as its frequency says, at
least once; a share of them begin with a capital letter. French words also stand behind l', d', qu'.
Where a language is not written in Latin letters, words in Latin letters are left out.

long_s: an s before a letter becomes ſ, as in print before 1900. At the end of a word it stays. So
it does in German at a joint, where two words of the list meet: Haushalt, ausgehen. A few joints
are missed or found wrongly. wordfreq writes ss for every ß. In German ß comes back where ss ends a
word or stands before a consonant, as it was spelt before 1996 (daß, mußte), but not between vowels
(Straße).

before_1830: the share of German words that are spelt as up to about that year: uͤ for ü and so on,
and bey, ſey, zwey. Few fonts have the small e; `python -m dig_jax.tools.small_e` adds it.
"""

import collections
import re
import unicodedata
import zlib
from collections.abc import Set

from absl import flags

from dig_jax.data import extras
from dig_jax.tools import program
from dig_jax.train import command_line

FLAGS = flags.FLAGS
OCCURRENCES = 300_000  # words of the text; frequencies below one in as many are raised to it
ELIDED = {"fr": (("l'", 0.15), ("d'", 0.15), ("qu'", 0.04))}  # before vowels: share of a word
VOWELS = frozenset("aeiouyh")
BARE = {"ä": "a", "ö": "o", "ü": "u"}
# Beginnings that look like words of their own: Ver-stand, Prä-sident, Fes-tung.
NO_WORDS = frozenset("bes ges vers ents präs mus dis subs juris fes vis chris kos jus".split())
LETTER_S = re.compile(r"s(?=[^\W\d_])")  # in front of a letter


def words(language: str, most: int) -> dict[str, int]:
    """{word: how often} of the most frequent words that consist of letters, with their marks.
    ValueError for a language that wordfreq lacks."""
    wordfreq = extras.need("wordfreq", "words")
    try:
        frequency = wordfreq.get_frequency_dict(language, wordlist="best")
    except LookupError:
        known = ", ".join(sorted(wordfreq.available_languages()))
        raise ValueError(f"--language is {language!r}: set it to one of {known}") from None
    chosen = [w for w in sorted(frequency, key=frequency.get, reverse=True)[:most] if spelt(w)]
    latin = {word for word in chosen if any("LATIN" in unicodedata.name(c, "") for c in word)}
    if 2 * sum(frequency[word] for word in latin) < sum(frequency[word] for word in chosen):
        chosen = [word for word in chosen if word not in latin]  # names of firms, mostly
    return {word: max(1, round(OCCURRENCES * frequency[word])) for word in chosen}


def spelt(word: str) -> bool:
    """Whether it consists of letters, the vowel signs and other marks on them, and the joiners
    that Persian and Indic words are spelt with."""
    return word[0].isalpha() and all(
        unicodedata.category(c)[0] in "LM" or c in "\u200c\u200d" for c in word
    )


def elided(counts: dict[str, int], language: str) -> dict[str, int]:
    """The words and, of those that begin with a vowel, the forms behind an apostrophe."""
    more = {}
    for word, count in counts.items():
        if unicodedata.normalize("NFD", word)[0] in VOWELS and len(word) > 2:
            for article, share in ELIDED.get(language, ()):
                more[article + word] = round(share * count)
    return counts | {word: count for word, count in more.items() if count}


def capitalized(counts: dict[str, int], share: float) -> dict[str, int]:
    """The same words, a share of the occurrences with a capital; rounded up, so every word has one
    where share is above 0 and its script has capitals."""
    if not share:
        return counts
    large = {w[:1].upper() + w[1:]: max(1, round(share * n)) for w, n in counts.items()}
    small = {w: max(1, n - round(share * n)) for w, n in counts.items()}
    return small | {w: counts.get(w, n) for w, n in large.items()}


def spelt_before_1830(word: str) -> str:
    """A small e above the vowel for an umlaut, and ey for ei where a stem ends."""
    word = re.sub("[äöü]", lambda found: BARE[found[0]] + "\u0364", word)
    ends = r"(?i)((?<![aeou])ei$)|^(bei(?![gjlnrtß]|ss|ſſ)|drei(?!st|ſt)|frei|zwei)"
    return re.sub(ends, lambda found: found[0][:-1] + "y", word)


def before_1830(counts: dict[str, int], share: float) -> dict[str, int]:
    """The same words, a share of the occurrences spelt as before 1830. A word that stands there
    once has one spelling or the other, as its letters draw lots."""
    if not share:
        return counts
    found = collections.Counter[str]()
    for word, count in counts.items():
        old, lot = spelt_before_1830(word), zlib.crc32(word.encode()) / 2**32
        moved = int(share * count + lot) if old != word else 0
        found[word] += count - moved
        found[old] += moved
    return {word: count for word, count in found.items() if count}


def is_joint(first: str, second: str, known: Set[str]) -> bool:
    """Whether a German compound is put together here, behind an s: both parts are known words, and
    with the s in the second one (da-sein) they are not. A short part that begins with a vowel is
    an ending (uns-eren). Of ss the first letter ends a word in front of a consonant (Rechts-staat)
    and in aus- alone (Mission, daſſelbe)."""
    return (
        len(first) > 2
        and (
            second[0] != "s"
            or first.endswith("aus")
            or (len(first) > 4 and second[1:2] in ("p", "t", "c"))
        )
        and len(second) > (4 if second[0] in "aeiouäöü" else 3)
        and not second.startswith("ch")
        and first not in NO_WORDS
        and {first, second} <= known
        and not {first[:-1], "s" + second} <= known
    )


def parts(word: str, known: Set[str]) -> list[str]:
    """The word cut at the joints behind an s, the last one first: Bundes-tags-wahlen. known: words
    in small letters."""
    small = word.lower()
    for at in range(len(word) - 1, 0, -1):
        if small[at - 1] == "s" and is_joint(small[:at], small[at:], known):
            return [*parts(word[:at], known), word[at:]]
    return [word]


def with_long_s(word: str, language: str, known: Set[str] = frozenset()) -> str:
    """The word as it was printed before 1900. known: words in small letters, by which the joints of
    German compounds are found."""
    if language != "de":
        return LETTER_S.sub("ſ", word)
    spelt = (re.sub(r"ss(?![aeiouyäöü])", "ß", part) for part in parts(word, known))
    return "".join(LETTER_S.sub("ſ", part) for part in spelt)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"{argv[1]!r} is no option: write --name=value")
    if FLAGS.before_1830 and FLAGS.language != "de":
        raise ValueError("--before_1830 spells German: leave it out, or set --language=de")
    known = words(FLAGS.language, FLAGS.most)
    counts = capitalized(elided(known, FLAGS.language), FLAGS.capitals)
    if FLAGS.long_s:
        spelt = collections.Counter[str]()
        for word, count in counts.items():
            spelt[with_long_s(word, FLAGS.language, known.keys())] += count
        counts = spelt
    counts = before_1830(counts, FLAGS.before_1830)
    output = program.path(FLAGS.output, "--output")
    output.parent.mkdir(parents=True, exist_ok=True)
    lines = (" ".join([word] * count) for word, count in counts.items())
    output.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{output}: {len(counts):,} words, {sum(counts.values()):,} occurrences")


if __name__ == "__main__":
    flags.DEFINE_string("language", "en", "Language, such as de.")
    flags.DEFINE_integer("most", 60_000, "How many of the most frequent words.", lower_bound=1)
    flags.DEFINE_float(
        "capitals", 0.25, "Share that begins with a capital.", lower_bound=0.0, upper_bound=1.0
    )
    flags.DEFINE_float(
        "before_1830", 0.0, "Share spelt uͤ for ü, bey for bei.", lower_bound=0.0, upper_bound=1.0
    )
    flags.DEFINE_bool("long_s", False, "s before a letter becomes ſ, as in old print.")
    command_line.define_path("output", None, "The text to write.")
    flags.mark_flag_as_required("output")
    program.run(main)
