"""Source: Street View Text (SVT), words cut from photographs, lexicons kept.

    train.xml, test.xml    image: imageName, lex, taggedRectangle x y width height with a tag
    img/14_03.jpg          the photographs

The lexicon of each photograph goes into records.json under "lexicons" ({image name: words}); the
id of a record, such as "img/14_03.jpg#0", names its photograph.

K. Wang, B. Babenko and S. Belongie, End-to-end scene text recognition, ICCV 2011.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import PurePosixPath

from dig_jax.data.boxes import Box, Picture, cut_boxes
from dig_jax.data.examples import Example, Report, Skipped, shown
from dig_jax.data.images import Store
from dig_jax.data.lists import Root, open_root, read_source, walk
from dig_jax.data.page_lines import BadPage, read_xml, sides
from dig_jax.data.split_names import split_named

SIDES = ("x", "y", "width", "height")
MAX_LEXICON_CHARS = 100_000


def examples(
    *,
    report: Report,
    input: str | None = None,
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text, "img/14_03.jpg#0") in the order of the XML. ValueError
    where there is no XML."""
    root = open_root(input)
    report.about.update(read_source(root))
    lists = [file for file in walk(root, report) if file.lower().endswith(".xml")]
    if not lists:
        raise ValueError(f"--input={input} holds no XML, such as train.xml and test.xml of SVT.")
    lexicons: dict[str, list[str]] = {}
    pictures = [one for file in lists for one in _photographs(root, file, lexicons)]
    if lexicons:
        report.about["lexicons"] = lexicons
    yield from cut_boxes(pictures, store or Store(), report, workers)


def _photographs(
    root: Root, file: str, lexicons: dict[str, list[str]]
) -> Iterator[Picture | Skipped]:
    try:
        element = read_xml(root, file)
    except BadPage as error:
        yield Skipped(file, str(error))
        return
    split = split_named(PurePosixPath(file).stem)
    images = list(element.iter("image"))
    if not images:
        yield Skipped(file, "XML without an image")
    for image in images:
        name = (image.findtext("imageName") or "").strip().replace("\\", "/")
        path = (PurePosixPath(file).parent / name).as_posix()
        reason = root.reason(path)
        boxes = [*_boxes(image, shown(path))]
        if lexicon := (image.findtext("lex") or "")[:MAX_LEXICON_CHARS]:
            words = [shown(word.strip()) for word in lexicon.split(",") if word.strip()]
            lexicons[shown(path)] = words
        if reason not in ("", "missing"):
            yield Skipped(f"{file}: {shown(path)}", reason, max(len(boxes), 1))
            continue
        yield from (box for box in boxes if isinstance(box, Skipped))
        kept = [box for box in boxes if isinstance(box, Box)]
        yield Picture(split, None if reason else root.path / path, f"{file}: {shown(path)}", kept)


def _boxes(image: ET.Element, path: str) -> Iterator[Box | Skipped]:
    for number, found in enumerate(image.iter("taggedRectangle")):
        place = sides(found, SIDES)
        if place is None:
            yield Skipped(f"{path}#{number}", "rectangle without its four sides")
            continue
        x, y, width, height = place
        yield Box(f"{path}#{number}", found.findtext("tag"), x, y, x + width, y + height)
