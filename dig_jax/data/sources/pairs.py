"""Source: line images with their texts in the layouts that other programs write.

    x.png + x.gt.txt             kraken, tesstrain, ocropy, calamari; x.bin.png is taken too
    labels.tsv                   one folder down or deeper: several folders of --source=folder
    *.csv *.tsv                  with a header: image, text and perhaps split (pandas, Kaggle)
    *.jsonl                      {"file_name": ..., "text": ...}: Hugging Face, MMOCR
    gt.txt or any .txt           path TAB text, path text, or path, "text" (Clova, PARSeq, ICDAR)

Which of these a folder is, is recognised in this order and told; --layout says it. --input may be
one of the files as well. Images without a text are unlabelled; splits/*.txt hold as for folder.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from dig_jax.data.disk_map import DiskMap
from dig_jax.data.examples import Example, Report, shown
from dig_jax.data.images import Store
from dig_jax.data.lists import LABELS, Root, open_root, read_labels, read_source, walk
from dig_jax.data.sources.folder import Jobs, list_images, read_jobs
from dig_jax.data.tables import (
    LEFT_OUT,
    Labels,
    is_list,
    read_json_lines,
    read_list,
    read_pairs,
    read_table,
)

LAYOUTS = ("pairs", "folders", "table", "json", "list")
TOLD = {
    "pairs": "{} .gt.txt beside images",
    "folders": "{} labels.tsv",
    "table": "{} tables with a header",
    "json": "{} files of JSON lines",
    "list": "{} lists of images with their texts",
}


def examples(
    *,
    report: Report,
    input: str | None = None,
    layout: str = "auto",
    image_column: str | None = None,
    text_column: str | None = None,
    store: Store | None = None,
    follow_links: bool = False,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text or None, path) in the order of the sorted paths.

    layout: "auto" or one of LAYOUTS. image_column, text_column: names of the columns of a table
    or the keys of JSON lines. Raises FileNotFoundError where --input is not there, ValueError
    where no layout is recognised.
    """
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"--layout is '{layout}', but must be auto, {', '.join(LAYOUTS)}.")
    file = Path(input) if input and Path(input).is_file() else None
    root = open_root(str(file.parent) if file else input, follow_links)
    report.about.update(read_source(root))
    files = [file.name] if file else walk(root, report)
    kinds = recognise(root, files)
    counts = {kind: sum(1 for _ in kinds.starting(f"{kind}/")) for kind in LAYOUTS}
    if layout == "auto":
        layout = next((kind for kind in LAYOUTS if counts[kind]), "")
    if not layout or not counts[layout]:
        raise ValueError(
            f"--input={input} holds no labels of the layout {layout or ' or '.join(LAYOUTS)}; "
            "--source=folder reads images alone."
        )
    found = lambda: (key.partition("/")[2] for key in kinds.starting(f"{layout}/"))
    told = TOLD[layout].format(counts[layout])
    report.notes.append(f"read as {told}, such as {shown(next(found()))}")
    others = [TOLD[kind].format(counts[kind]) for kind in LAYOUTS if counts[kind]]
    if len(others) > 1:
        report.notes.append(f"of what the folder holds ({', '.join(others)}) only that is read")
    labels = Labels(DiskMap(), DiskMap())
    if layout == "pairs":
        read_pairs(root, files, found(), labels, report)
    else:
        _read(root, layout, list(found()), labels, report, (image_column, text_column))
    jobs = list_images(root, labels.texts, report)
    split = lambda path, given: labels.splits.get(path) or given
    every = lambda: ((split(path, given), path) for given, path in jobs)
    wanted = lambda: (job for job in every() if job[0] != LEFT_OUT)
    count = sum(1 for _ in wanted()) if labels.splits else len(jobs)
    yield from read_jobs(root, Jobs(count, wanted), labels.texts, report, store, workers)


def recognise(root: Root, files: Iterable[str]) -> DiskMap:
    """ "layout/path" of those paths, relative to the folder, that hold labels."""
    found = DiskMap()
    for file in files:
        if not file.startswith("splits/") and (kind := _layout(root, file)):
            found.setdefault(f"{kind}/{file}")
    return found


def _layout(root: Root, file: str) -> str:
    """The layout that a file of labels belongs to; "" of all others."""
    name = file.rpartition("/")[2]
    suffix = os.path.splitext(name)[1].lower()
    if name.lower().endswith(".gt.txt"):
        return "pairs" if name != ".gt.txt" else ""
    if name.lower() == LABELS:
        return "folders"
    if suffix == ".txt":
        return "list" if not root.reason(file) and is_list(root, file) else ""
    return {".csv": "table", ".tsv": "table", ".jsonl": "json"}.get(suffix, "")


def _read(
    root: Root,
    layout: str,
    files: list[str],
    labels: Labels,
    report: Report,
    columns: tuple[str | None, str | None],
) -> None:
    """Adds what the files of a layout say to the labels."""
    for file in files:
        if layout == "folders":
            folder = PurePosixPath(file).parent
            for path, text in read_labels(Root(root.path / folder, root.links), report).items():
                path = str(folder / path)
                if labels.texts.setdefault(path, text) is not text:
                    report.skip(f"{file}: {path}", "second label for one image (the first is kept)")
        elif layout == "list":
            read_list(root, file, labels, report)
        else:
            read = read_table if layout == "table" else read_json_lines
            try:
                read(root, file, labels, report, *columns)
            except ValueError as error:
                if len(files) == 1:
                    raise
                report.skip(file, "table without columns of images and texts")
                report.notes.append(str(error))
