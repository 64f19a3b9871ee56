"""Source: characters in one folder a class, such as the Devanagari Handwritten Character Dataset.

    Train/character_1_ka/1.png    the split train, the text of the class
    Test/digit_9/2.png            the split test

The text of a class is the name of its folder; those of the Devanagari set are known by theirs.
--classes=FILE gives others: folder, tab, text, one a line.

S. Acharya, A. K. Pant and P. K. Gyawali, Deep learning based large scale handwritten Devanagari
character recognition, SKIMA 2015.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dig_jax.data.disk_map import DiskList
from dig_jax.data.examples import Example, Report
from dig_jax.data.images import SUFFIXES, Store, stored
from dig_jax.data.lists import Root, open_root, read_lines, read_source, walk
from dig_jax.data.split_names import split_named, split_of

# Of character_1_ka to character_36_gya: the consonants from U+0915, and three conjuncts.
CONSONANTS = [*"कखगघङचछजझञटठडढणतथदधनपफबभमयरलवशषसह", "क्ष", "त्र", "ज्ञ"]


def examples(
    *,
    report: Report,
    input: str | None = None,
    classes: str | None = None,
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text, path) in the order of the paths. ValueError where no folder
    holds an image, FileNotFoundError for --classes."""
    root = open_root(input)
    report.about.update(read_source(root))
    texts = _classes(classes, report) if classes else {}
    jobs = DiskList()
    names: set[str] = set()
    for path in walk(root, report):
        pure = PurePosixPath(path)
        if pure.suffix.lower() not in SUFFIXES:
            continue
        name = pure.parent.name
        if reason := root.reason(path):
            report.skip(path, reason)
        elif not name or (len(pure.parts) == 2 and split_named(name, "")):
            report.skip(path, "image in no folder of a class")
        elif classes and name not in texts:
            report.skip(path, "class that --classes does not name")
        else:
            names.add(name)
            jobs.append((split_of(pure.parts), root.path / path, texts.get(name) or of(name), path))
    if not jobs and not report.reasons:
        raise ValueError(f"--input={input} holds no folder with images, one a class.")
    report.notes.append(f"{len(names)} classes")
    report.total = len(jobs)
    yield from stored(jobs, store or Store(), report, workers)


def of(folder: str) -> str:
    """The text of a class by the name of its folder."""
    if (match := re.fullmatch(r"character_(\d{1,2})_\w+", folder)) and 0 < int(match[1]) < 37:
        return CONSONANTS[int(match[1]) - 1]
    if match := re.fullmatch(r"digit_(\d)", folder):
        return chr(0x0966 + int(match[1]))
    return folder


def _classes(file: str, report: Report) -> dict[str, str]:
    """{folder: text} of a list."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"--classes is '{file}', but must be a file: folder, tab, text.")
    found = {}
    for number, line in read_lines(Root(path.parent), path.name, report):
        name, tab, text = line.decode("utf-8", "replace").partition("\t")
        if not tab or not text.strip():
            report.skip(f"{path.name} line {number}", "line without folder, tab, text")
        else:
            found[name] = text
    return found
