"""Source: the CVL database as it is distributed (https://zenodo.org/records/1492267).

    trainset/lines/0001/0001-1-0.tif          writer-text-line
    trainset/words/0001/0001-1-0-0-Imagine.tif   ... -word-text
    trainset/xml/0001-1_attributes.xml        AttrRegion of lines (2) and words (1) with their text
    testset/...

The text of a line is that of its words, from the XML, or from the names of its words' images where
there is none. --level=line|word. Text 6 is German: --texts=12345 leaves it out.

F. Kleber, S. Fiel, M. Diem and R. Sablatnig, CVL-DataBase, ICDAR 2013.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from dig_jax.data.disk_map import DiskList
from dig_jax.data.examples import Example, Report
from dig_jax.data.images import SUFFIXES, Store, stored
from dig_jax.data.lists import Root, open_root, read_source, walk
from dig_jax.data.page_lines import BadPage, read_xml
from dig_jax.data.split_names import split_of


def examples(
    *,
    report: Report,
    input: str | None = None,
    level: str = "line",
    texts: str = "",
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text or None, "0001-1-0") in the order of the paths. ValueError
    where there is no folder lines or words."""
    if level not in ("line", "word"):
        raise ValueError(f"--level is '{level}', but must be line or word.")
    root = open_root(input)
    report.about.update(read_source(root))
    found = walk(root, report)
    within = lambda folder: (file for file in map(PurePosixPath, found) if folder in file.parts)
    images = lambda kind: (file for file in within(kind) if file.suffix.lower() in SUFFIXES)
    if next(images(f"{level}s"), None) is None:
        raise ValueError(f"--input={input} holds no folder '{level}s' with images, as CVL does.")
    known = _from_names(images("words"))
    for file in within("xml"):
        if file.suffix.lower() == ".xml":
            known.update(_from_xml(root, str(file), report))
    jobs = DiskList()
    for file in images(f"{level}s"):
        parts = file.stem.split("-", 4)
        id = "-".join(parts[: 3 if level == "line" else 4])
        if reason := root.reason(str(file)):
            report.skip(str(file), reason)
        elif len(parts) < (3 if level == "line" else 4):
            report.skip(str(file), "name that is no writer-text-line")
        elif texts and parts[1] not in texts:
            report.skip(str(file), "of a text that --texts leaves out")
        else:
            if id not in known:
                report.skip(str(file), "no transcription (image kept, unlabelled)")
            jobs.append((split_of(file.parts), root.path / file, known.get(id), id))
    report.total = len(jobs)
    yield from stored(jobs, store or Store(), report, workers)


def _from_names(words: Iterable[PurePosixPath]) -> dict[str, str]:
    """{id of a word, or of a line: text} from names such as 0001-1-0-3-the.tif."""
    found: dict[str, str] = {}
    lines: dict[str, list[tuple[int, str]]] = {}
    for file in words:
        parts = file.stem.split("-", 4)
        if len(parts) == 5 and parts[3].isdigit():
            found["-".join(parts[:4])] = parts[4]
            lines.setdefault("-".join(parts[:3]), []).append((int(parts[3]), parts[4]))
    return found | {id: " ".join(text for _, text in sorted(line)) for id, line in lines.items()}


def _from_xml(root: Root, file: str, report: Report) -> dict[str, str]:
    """{id: text} of the handwritten words (fontType 2, attrType 1) and of the lines (2) of them."""
    try:
        element = read_xml(root, file)
    except BadPage as error:
        report.skip(file, str(error))
        return {}
    found = {}
    for region in element.iter("AttrRegion"):
        if region.get("fontType", "2") != "2" or not (id := region.get("id")):
            continue
        if region.get("attrType") == "2":
            words = [word for word in region.iter("AttrRegion") if word.get("attrType") == "1"]
            texts = [text for word in sorted(words, key=_left) if (text := word.get("text"))]
            if texts:
                found[id] = " ".join(texts)
        elif region.get("attrType") == "1" and region.get("text"):
            found[id] = region.get("text", "")
    return found


def _left(word: ET.Element) -> float:
    """Where a word begins; words without a box stay in the order of the file."""
    xs = [point.get("x", "") for point in word.iter("Point")]
    return min((float(x) for x in xs if x.lstrip("-").isdigit() and len(x) < 9), default=0.0)
