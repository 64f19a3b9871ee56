"""Read whole pages: python -m dig_jax.tools.read --model=RUN PAGE...

    python -m dig_jax.tools.read --model=runs/reader page.png
    python -m dig_jax.tools.read --model=runs/reader scans/ book.pdf --format=alto --output=read/

PAGE: images, TIFFs of several pages, PDFs (extra "pdf"), folders of them, or pictures of one line.
A page is cleaned, its lines are found and put into reading order, and the reader reads them.
--output: a folder, one file a page; without it, text and JSON go to the terminal.

--beam=8 --lm=4 --texts=FILE lets an n-gram of characters choose between readings that look alike;
--words=FILE turns unknown words into the only near one of a text.
--debug=DIR draws each stage and the lines. --skip=deskew,rules leaves stages out; they are
polarity, illumination, border, despeckle, orientation, deskew and rules.
A bad file is named and stops nothing; the exit code is 1 only where no page could be read.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from absl import flags
from tqdm import tqdm

from dig_jax.tools import program, reader_flags
from dig_jax.train import command_line

FLAGS = flags.FLAGS


def found_pages(
    names: Sequence[str], skip: Sequence[str], dpi: int, right_to_left: bool, debug: str
) -> Iterator[Any]:
    """The lines of each page of the named files; drawn into the folder `debug` where given."""
    from dig_jax.pages import draw, read

    taken: set[str] = set()
    for file in read.files_of(names):
        for name, image in read.pictures(file, dpi):
            found = read.find(name, image, skip, right_to_left, keep_steps=bool(debug))
            if debug and not found.error:
                draw.debug(found, program.path(debug, "--debug") / page_name(name, taken))
            yield found


def page_name(page: str, taken: set[str]) -> str:
    """A name not taken yet, which then is: book.pdf#2 -> book-2, the next one book-2-2."""
    numbered = re.fullmatch(r"(.*)#(\d+)", page, re.DOTALL)  # a "#" may stand in any path
    file, number = numbered.groups() if numbered else (page, "")
    stem = pathlib.Path(file).stem + (f"-{number}" if number else "")
    free = (f"{stem}-{n}" if n > 1 else stem for n in itertools.count(1))
    name = next(name for name in free if name not in taken)
    taken.add(name)
    return name


def write_all(pages: Iterable[Any], kind: str, output: str) -> tuple[int, int, int]:
    """-> (pages read, pages not readable, lines read). Says at once what is wrong with a page."""
    from dig_jax.pages import write

    good = bad = lines = 0
    folder, taken = program.path(output, "--output") if output else None, set()
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    for page in tqdm(pages, unit=" pages", disable=not sys.stderr.isatty()):
        good, bad, lines = good + (not page.error), bad + bool(page.error), lines + len(page.lines)
        for reason in filter(None, (page.error, unread(page))):
            tqdm.write(f"{page.name}: {reason}", file=sys.stderr)
        if page.error and kind != "json":
            continue
        document = write.FORMATS[kind](page)
        if folder:
            file = folder / f"{page_name(page.name, taken)}{write.SUFFIX[kind]}"
            file.write_text(document, encoding="utf-8")
        else:
            print("\f" * (kind == "text" and good > 1) + document.rstrip("\n"))
    return good, bad, lines


def unread(page: Any) -> str:
    """A sentence on the lines that the reader refused; "" where there is none."""
    if not page.unread:
        return ""
    return f"{len(page.unread)} of its lines could not be read, such as: {page.unread[0]}"


def say_left_out(names: Iterable[str]) -> None:
    """A line on the terminal for each folder with files that somebody may miss, and for what bears
    the name of an image and is no file."""
    from dig_jax.data import images

    for folder in filter(os.path.isdir, names):
        below = [path for path in pathlib.Path(folder).rglob("*") if not path.is_dir()]
        for path in below:
            if path.suffix.lower() in images.SUFFIXES and path.exists() and not path.is_file():
                print(f"{path}: not a file", file=sys.stderr)
        if words := images.left_out(map(str, below), [".pdf"]):
            print(f"{folder}: {words}", file=sys.stderr)


def check(names: Sequence[str]) -> None:
    """ValueError for what the flags cannot mean together."""
    from dig_jax.pages.clean import STAGES

    if not names:
        raise ValueError("name pages to read: images, PDFs, or folders of them")
    if wrong := set(FLAGS.skip) - set(STAGES):
        raise ValueError(f"--skip={','.join(sorted(wrong))}: stages are {', '.join(STAGES)}")
    if FLAGS.format in ("hocr", "alto") and not FLAGS.output:
        raise ValueError(
            f"--format={FLAGS.format} writes a file for each page: give --output=FOLDER"
        )
    if FLAGS.dpi < 30:
        raise ValueError(f"--dpi is {FLAGS.dpi}: give 30 or more")


def main(argv: list[str]) -> int:
    check(argv[1:])
    start = time.perf_counter()
    correct = reader_flags.spelling()
    from dig_jax.pages import read

    reader = reader_flags.reader()
    found = found_pages(argv[1:], FLAGS.skip, FLAGS.dpi, FLAGS.right_to_left, FLAGS.debug)
    pages = read.read(
        found,
        reader,
        batch_size=FLAGS.batch_size,
        correct=correct,
        right_to_left=FLAGS.right_to_left,
        both_ways="orientation" not in FLAGS.skip,
    )
    good, bad, lines = write_all(pages, FLAGS.format, FLAGS.output)
    seconds = time.perf_counter() - start
    say_left_out(argv[1:])
    not_read = f", {bad} could not be" * bool(bad)
    print(f"pages: {good} read{not_read}; {lines} lines in {seconds:.1f} s", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    reader_flags.define_reader_flags()
    reader_flags.define_spelling_flags()
    command_line.define_path("output", "", "Folder for one file a page. Default: the terminal.")
    flags.DEFINE_enum("format", "text", ["text", "json", "hocr", "alto"], "What is written.")
    flags.DEFINE_list("skip", [], "Stages of the clean-up that are left out.")
    command_line.define_path("debug", "", "Folder for pictures of each stage.")
    flags.DEFINE_boolean("right_to_left", False, "Columns are read from right to left.")
    flags.DEFINE_integer("dpi", 300, "Resolution at which PDFs are drawn.")
    program.run(main)
