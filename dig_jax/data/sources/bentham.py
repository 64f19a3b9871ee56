"""Source: the Bentham collection (ICFHR 2014) and sets laid out like it.

    Images/Lines/002_080_001_02_01.png    a line; the folder may have another name
    Transcriptions/002_080_001_02_01.txt  its text
    Partitions/TrainLines.lst             names of lines; ValidationLines.lst, TestLines.lst

J. A. Sanchez et al., ICFHR2014 competition on handwritten text recognition on tranScriptorium
datasets. Pages with PAGE-XML of the same set: --source=page_xml.
"""

import html
import itertools
from collections.abc import Iterator
from pathlib import PurePosixPath

from dig_jax.data.disk_map import DiskList, DiskMap
from dig_jax.data.examples import Example, Report
from dig_jax.data.handwriting import by_stem, lists_of_splits, read_splits
from dig_jax.data.images import Store, stored
from dig_jax.data.lists import Root, open_root, read_lines, read_source, walk


def examples(
    *,
    report: Report,
    input: str | None = None,
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text or None, name of the line) in the order of the names.
    ValueError where there are no transcriptions."""
    root = open_root(input)
    report.about.update(read_source(root))
    files, texts = walk(root, report), DiskMap()
    for file in files:
        pure = PurePosixPath(file)
        if pure.suffix == ".txt" and "transcription" in str(pure.parent).lower():
            texts[pure.stem] = file
    if not texts:
        raise ValueError(f"--input={input} holds no folder Transcriptions with texts.")
    lists = lists_of_splits(files, (".lst",))
    # Lists of pages stand beside those of lines.
    lists = [file for file in lists if "line" in file.split("/")[-1].lower()] or lists
    splits = read_splits(root, lists, report)
    images = by_stem(root, (file for file in files if "page" not in file.lower()))
    names, jobs = DiskMap(), DiskList()
    for name in itertools.chain(images, texts):
        names.setdefault(name)
    for name in names:
        if name not in images:
            report.skip(texts[name], "transcription without an image")
        elif splits and name not in splits:
            report.skip(images[name], "in no split")
        else:
            text = _text(root, texts[name], report) if name in texts else None
            if name not in texts:
                report.skip(images[name], "no transcription (image kept, unlabelled)")
            split = splits[name] if splits else "train"
            jobs.append((split, root.path / images[name], text, name))
    for name in sorted(splits):
        if name not in names:
            report.skip(name, "split names a missing line")
    report.total = len(jobs)
    yield from stored(jobs, store or Store(), report, workers)


def _text(root: Root, file: str, report: Report) -> str | None:
    """The text of a line; entities of XML are resolved, as the set has them."""
    rows = [line for _, line in read_lines(root, file, report)]
    try:
        return html.unescape(" ".join(row.decode("utf-8") for row in rows))
    except UnicodeDecodeError:
        report.skip(file, "label is not UTF-8 (image kept, unlabelled)")
        return None
