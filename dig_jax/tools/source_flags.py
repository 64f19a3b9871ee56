"""Flags of make_records that mean something to some sources only; those of all stand there."""

import functools

from absl import flags


def define_source_flags(own: flags.FlagValues) -> None:
    """Adds them to `own`. Each is a parameter of the sources that its text names."""
    text, number, yes = (
        functools.partial(define, flag_values=own)
        for define in (flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_bool)
    )
    number(
        "max_pixels", 50_000_000, "images that are read: larger ones are refused.", lower_bound=1
    )
    yes("follow_links", False, "folder: take what symbolic links name outside the folder too.")
    text("layout", "auto", "pairs: auto, or one of pairs, folders, table, json, list.")
    text("image_column", None, "pairs, parquet, tfds: the column or feature of the images.")
    text("text_column", None, "pairs, parquet, tfds: that of the texts or classes.")
    text(
        "level",
        None,
        "what becomes a record, line or word; svhn: word, digit; kaist: word, character.",
    )
    text("text_from", "auto", "page_xml, alto: whose text it gets: auto, line, word or glyph.")
    yes("mask", True, "page_xml, alto: paper outside the polygon; no: the whole box.")
    yes("straighten", False, "page_xml, alto: make the baseline a level straight line.")
    text("builder", None, "tfds: a registered builder, or module:Class; else --input is prepared.")
    text("segmentation", "auto", "iam: auto, all, or ok, which leaves out what is flagged err.")
    text("texts", "", "cvl: numbers of the texts to take, such as 12345 (6 is German); all.")
    text("classes", None, "characters: a list of folder, tab, text (default: the folders' names).")
    text("characters", None, "captcha: those to draw from (default: a to z, A to Z, 0 to 9).")
    number("min_chars", 4, "captcha, digits: fewest characters.", lower_bound=1)
    number("max_chars", 6, "captcha, digits: most characters.", lower_bound=1)
    text("styles", "plain,dense,tilted,bare,dark", "captcha: the looks to draw from.")
    text(
        "splits",
        "train=4000,validation=400",
        "lines, captcha, digits: how many lines each split gets.",
    )
    number("count", None, "lines, captcha, digits: short for --splits=train=COUNT.", lower_bound=1)
    number("min_words", 1, "lines: fewest words a line.", lower_bound=1)
    number("max_words", 8, "lines: most words a line.", lower_bound=1)
    number(
        "books",
        0,
        "lines: from so many books of one look each; 0 = every line looks its own way.",
        lower_bound=0,
    )
    text(
        "fonts",
        "auto",
        "lines: auto (all that are usable), bundled (matplotlib's, alike everywhere), or a folder.",
    )
    text("favour", "", "lines: fonts whose file name begins so get half of the lines.")
    shares = {
        "tight": "cut close to their ink, as layout programs do; others have margins.",
        "crowded": "with bits of the lines above and below.",
        "heavy": "in letters thicker than drawn, as ink spreads.",
        "bitonal": "in black and white, as many books are scanned.",
        "ruled": "on ruled paper: a thin line runs where the letters stand.",
        "uneven": "in letters that differ in size, place and slant, as those of a hand do.",
        "clean": "without stains, wear or noise, as scanners that even out a page leave it.",
    }
    for name, what in shares.items():
        told = f"lines: share of the lines (with --books: of the books) {what}"
        flags.DEFINE_float(name, 0.0, told, lower_bound=0.0, upper_bound=1.0, flag_values=own)
