"""Source: RIMES 2011 (ICDAR 2011 competition), its lines, as it is distributed.

    training_2011.xml            SinglePage FileName="images/train2011-0.png", Paragraph,
                                 Line Top= Bottom= Left= Right= Value="..."
    eval_2011_annotated.xml      the test set
    training_2011/images/...png  the pages, wherever they were unpacked

The word set (lot_1/..., groundtruth_training_icdar2011.txt) is a list: --source=pairs reads it.

E. Grosicki and H. El Abed, ICDAR 2011 French handwriting recognition competition. Not for
redistribution.
"""

import html
from collections.abc import Iterator
from pathlib import PurePosixPath

from dig_jax.data.boxes import Box, Picture, cut_boxes
from dig_jax.data.examples import Example, Report, Skipped
from dig_jax.data.images import SUFFIXES, Store
from dig_jax.data.lists import Root, open_root, read_source, walk
from dig_jax.data.page_lines import BadPage, read_xml, sides

SIDES = ("Left", "Top", "Right", "Bottom")


def examples(
    *,
    report: Report,
    input: str | None = None,
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text, "train2011-0#3") in the order of the XML. Files with "eval"
    or "test" in their name are the split test. ValueError where there is no such XML."""
    root = open_root(input)
    report.about.update(read_source(root))
    files = walk(root, report)
    lists = [file for file in files if file.lower().endswith(".xml")]
    if not lists:
        raise ValueError(f"--input={input} holds no XML, such as training_2011.xml.")
    places = {
        PurePosixPath(file).name: file
        for file in files
        if PurePosixPath(file).suffix.lower() in SUFFIXES and not root.reason(file)
    }
    pictures = [picture for file in lists for picture in _pages(root, file, places)]
    yield from cut_boxes(pictures, store or Store(), report, workers)


def _pages(root: Root, file: str, places: dict[str, str]) -> Iterator[Picture | Skipped]:
    try:
        element = read_xml(root, file)
    except BadPage as error:
        yield Skipped(file, str(error))
        return
    name = PurePosixPath(file).name.lower()
    split = "test" if "eval" in name or "test" in name else "train"
    if "valid" in name:
        split = "validation"
    pages = list(element.iter("SinglePage"))
    if not pages:
        yield Skipped(file, "XML without a SinglePage")
    for page in pages:
        image = PurePosixPath((page.get("FileName") or "").replace("\\", "/")).name
        boxes = []
        for number, line in enumerate(page.iter("Line")):
            id = f"{PurePosixPath(image).stem or file}#{number}"
            place = sides(line, SIDES)
            if place is None:
                yield Skipped(id, "line without its four sides")
                continue
            left, top, right, bottom = place
            text = line.get("Value")
            # The values are escaped twice: &amp;quot; stands for a quotation mark.
            text = None if text is None else html.unescape(text)
            boxes.append(Box(id, text, left, top, right + 1, bottom + 1))
        path = places.get(image)
        yield Picture(split, root.path / path if path else None, f"{file}: {image}", boxes)
