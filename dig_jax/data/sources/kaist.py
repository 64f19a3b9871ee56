"""Source: the KAIST scene text database, words cut from photographs.

    DSC02585.xml    image: imageName, words/word x y width height with character char="A"
    DSC02585.JPG    beside it

The text of a word is that of its characters, in their order. --level=word, or --level=character,
which cuts those out.

S. Lee, M. S. Cho, K. Jung and J. H. Kim, Scene text extraction with edge constraint and text
collinearity, ICPR 2010.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import PurePosixPath

from dig_jax.data.boxes import Box, Picture, cut_boxes
from dig_jax.data.examples import Example, Report, Skipped, shown
from dig_jax.data.images import SUFFIXES, Store
from dig_jax.data.lists import Root, open_root, read_source, walk
from dig_jax.data.page_lines import BadPage, read_xml, sides
from dig_jax.data.split_names import split_of

SIDES = ("x", "y", "width", "height")


def examples(
    *,
    report: Report,
    input: str | None = None,
    level: str = "word",
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text or None, "folder/DSC02585#0") in the order of the files. A
    folder named train or test gives that split. ValueError where there is no XML."""
    if level not in ("word", "character"):
        raise ValueError(f"--level is '{level}', but must be word or character.")
    root = open_root(input)
    report.about.update(read_source(root))
    files = walk(root, report)
    lists = [file for file in files if file.lower().endswith(".xml")]
    if not lists:
        raise ValueError(f"--input={input} holds no XML, as KAIST has one beside each image.")
    places = {
        file.lower(): file for file in files if PurePosixPath(file).suffix.lower() in SUFFIXES
    }
    pictures = [one for file in lists for one in _photographs(root, file, places, level)]
    yield from cut_boxes(pictures, store or Store(), report, workers)


def _photographs(
    root: Root, file: str, places: dict[str, str], level: str
) -> Iterator[Picture | Skipped]:
    try:
        element = read_xml(root, file)
    except BadPage as error:
        yield Skipped(file, str(error))
        return
    images = list(element.iter("image"))
    if not images:
        yield Skipped(file, "XML without an image")
    for image in images:
        pure = PurePosixPath(file)
        name = PurePosixPath((image.findtext("imageName") or "").strip().replace("\\", "/")).name
        path = places.get((pure.parent / name).as_posix().lower())
        # The names in the XML and those of the files do not always agree.
        same = (p for s in SUFFIXES if (p := places.get(f"{pure.with_suffix('')}{s}".lower())))
        path = path or next(same, None)
        boxes = list(_boxes(image, pure.with_suffix("").as_posix(), level))
        if path and (reason := root.reason(path)):
            yield Skipped(path, reason, max(len(boxes), 1))
            continue
        yield from (box for box in boxes if isinstance(box, Skipped))
        kept = [box for box in boxes if isinstance(box, Box)]
        place = root.path / path if path else None
        yield Picture(split_of(pure.parts[:-1]), place, f"{file}: {shown(name)}", kept)


def _boxes(image: ET.Element, name: str, level: str) -> Iterator[Box | Skipped]:
    elements = image.iter(level)
    for number, found in enumerate(elements):
        id = f"{name}#{number}"
        place = sides(found, SIDES)
        if place is None:
            yield Skipped(id, "box without its four sides")
            continue
        x, y, width, height = place
        letters = [found] if level == "character" else list(found.iter("character"))
        text = "".join(letter.get("char") or "" for letter in letters)
        yield Box(id, text or None, x, y, x + width, y + height)
