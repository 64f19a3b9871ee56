"""Flags of the programs that read with a recogniser: which one, and how it searches."""

from __future__ import annotations

from typing import Any

from absl import flags

from dig_jax.text import normalize
from dig_jax.tools import program
from dig_jax.train import command_line

flags.disclaim_key_flags()  # what is defined here is listed by the --help of the program
FLAGS = flags.FLAGS
SEARCH = ("beam", "lm", "lm_weight", "lm_bonus", "texts")


def define_reader_flags() -> None:
    command_line.define_path(
        "model", None, "Recogniser: work folder, export or bundled name.", buckets=True
    )
    flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which one of a run.")
    flags.DEFINE_string("head", None, "Head of a sweep; by default the best on validation.")
    flags.DEFINE_integer("batch_size", 32, "Lines that are read at once.")
    define_search_flags()
    command_line.define_path(
        "compile_cache", "auto", "Folder that keeps compiled programs: auto (~/.cache), or none."
    )
    flags.mark_flag_as_required("model")


def define_search_flags() -> None:
    number = flags.DEFINE_integer
    number("beam", None, "Readings that are followed at once; 1 = the best class. With texts 8.")
    number("lm", None, "Order of a character n-gram of --texts, by CTC; 4 if nothing is said.")
    flags.DEFINE_float("lm_weight", None, "How much the n-gram counts; default 0.2.")
    flags.DEFINE_float("lm_bonus", None, "What a character adds to a reading; default 0.4.")
    flags.DEFINE_string("texts", None, "Labelled records, or a .txt file of lines, for the n-gram.")


def search() -> dict[str, Any]:
    """What the flags say of the search, as `load_reader` takes it."""
    return {name: FLAGS[name].value for name in SEARCH}


def define_spelling_flags() -> None:
    command_line.define_path("words", "", "Text whose words unknown words become, where near.")
    flags.DEFINE_integer("edits", 1, "With --words: characters of a word that may change.")


def reader() -> Any:
    """The reader that the flags describe."""
    from dig_jax import load  # late: --help needs no JAX
    from dig_jax.train import compile_cache

    if FLAGS.batch_size < 1:
        raise ValueError(f"--batch_size is {FLAGS.batch_size}: give 1 or more")
    compile_cache.keep(FLAGS.compile_cache)
    chosen = {"checkpoint": FLAGS.checkpoint, "head": FLAGS.head}
    return load.load_reader(FLAGS.model, **chosen, **search())


def spelling() -> Any:
    """text -> text by the words of --words, or None without them."""
    from dig_jax.models.decoders.lexicon import Lexicon

    if FLAGS.edits < 1:
        raise ValueError(f"--edits is {FLAGS.edits}: give 1 or more")
    if not FLAGS.words:
        return None
    words = program.path(FLAGS.words, "--words")
    if not words.is_file():
        raise FileNotFoundError(
            f"--words={FLAGS.words} is no file: name a text that holds the words"
        )
    text = normalize(words.read_text(encoding="utf-8", errors="replace"))  # as readings are
    return Lexicon([text], FLAGS.edits).correct
