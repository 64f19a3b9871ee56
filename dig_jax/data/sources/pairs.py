"""Source: line images with their texts in the layouts that other programs write.

    x.png + x.gt.txt             kraken, tesstrain, ocropy, calamari; x.bin.png is taken too
    labels.tsv                   one folder down or deeper: several folders of --source=folder
    *.csv *.tsv                  with a header: image, text and perhaps split (pandas, Kaggle)
    *.jsonl                      {"file_name": ..., "text": ...}: Hugging Face, MMOCR
    gt.txt or any .txt           path TAB text, path text, or path, "text" (Clova, PARSeq, ICDAR)

Which of these a folder is, is recognised in this order and told; --layout says it. --input may be
one of the files as well. Images without a text are unlabelled; splits/*.txt hold as for folder.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dig_jax.data.examples import Example, Report, shown
from dig_jax.data.images import SUFFIXES, Store
from dig_jax.data.lists import SHEETS, Root, open_root, read_labels, read_source, walk
from dig_jax.data.sources.folder import list_images, read_jobs
from dig_jax.data.tables import (
    Labels,
    is_list,
    read_json_lines,
    read_list,
    read_pairs,
    read_table,
)

LAYOUTS = ("pairs", "folders", "table", "json", "list")
TOLD = {
    "pairs": "{} pairs of an image and a .gt.txt",
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
    files = [file.name] if file else list(walk(root))
    kinds = recognise(root, files)
    if layout == "auto":
        layout = next((kind for kind in LAYOUTS if kinds[kind]), "")
    if not layout or not kinds[layout]:
        raise ValueError(
            f"--input={input} holds no labels of the layout {layout or ' or '.join(LAYOUTS)}; "
            "--source=folder reads images alone."
        )
    found = kinds[layout]
    report.notes.append(f"read as {TOLD[layout].format(len(found))}, such as {shown(found[0])}")
    others = [TOLD[kind].format(len(kinds[kind])) for kind in LAYOUTS if kinds[kind]]
    if len(others) > 1:
        report.notes.append(f"of what the folder holds ({', '.join(others)}) only that is read")
    images = [path for path in files if PurePosixPath(path).suffix.lower() in SUFFIXES]
    labels = _read(root, layout, found, images, report, image_column, text_column)
    jobs = list_images(root, labels.texts | dict.fromkeys(labels.splits, ""), report)
    split = lambda path, given: labels.splits.get(path) or given
    jobs = [(split(path, given), path) for given, path in jobs if split(path, given) != "-"]
    yield from read_jobs(root, jobs, labels.texts, report, store, workers)


def recognise(root: Root, files: list[str]) -> dict[str, list[str]]:
    """{layout: its files} of paths relative to the folder."""
    inside = [file for file in files if not file.startswith("splits/")]
    named = lambda *ends: [file for file in inside if file.lower().endswith(ends)]
    texts = [file for file in named(".txt") if not file.endswith(".gt.txt")]
    labels = [file for file in inside if PurePosixPath(file).name == "labels.tsv"]
    usable = [file for file in texts if not root.reason(file)]
    return {
        "pairs": [file for file in named(".gt.txt") if PurePosixPath(file).name != ".gt.txt"],
        "folders": labels,
        "table": [file for file in named(".csv", ".tsv") if file not in labels],
        "json": named(*SHEETS[2:]),
        "list": [file for file in usable if is_list(root, file)],
    }


def _read(
    root: Root,
    layout: str,
    files: list[str],
    images: list[str],
    report: Report,
    image_column: str | None,
    text_column: str | None,
) -> Labels:
    if layout == "pairs":
        return read_pairs(root, files, images, report)
    labels = Labels({}, {})
    for file in files:
        if layout == "folders":
            deeper = Root(root.path / PurePosixPath(file).parent, root.links)
            texts = read_labels(deeper, report)
            folder = PurePosixPath(file).parent
            found = Labels({str(folder / path): text for path, text in texts.items()}, {})
        elif layout == "list":
            found = read_list(root, file, report)
        else:
            read = read_table if layout == "table" else read_json_lines
            try:
                found = read(root, file, report, image_column, text_column)
            except ValueError as error:
                if len(files) == 1:
                    raise
                report.skip(file, "table without columns of images and texts")
                report.notes.append(str(error))
                continue
        for path in sorted(found.texts.keys() & labels.texts.keys()):
            report.skip(f"{file}: {path}", "second label for one image (the first is kept)")
        labels.texts.update({p: t for p, t in found.texts.items() if p not in labels.texts})
        labels.splits.update({p: s for p, s in found.splits.items() if p not in labels.splits})
    return labels
