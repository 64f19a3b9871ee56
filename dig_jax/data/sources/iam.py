"""Source: the IAM Handwriting Database as it is distributed (registration at its authors').

    lines.txt, words.txt         anywhere below --input (ascii/ in the archive)
    lines/a01/a01-000u/...png    and words/..., wherever they were unpacked
    train.uttlist, ...           the Aachen splits: forms a01-000u, one a line; or the lists of the
                                 large writer-independent task: trainset.txt, validationset1.txt

    --level=line|word
    --segmentation=auto|all|ok   auto: of words only those segmented well ("ok"), of lines all,
                                 since "err" says nothing about a line's text

U. Marti and H. Bunke, The IAM-database, IJDAR 5 (2002). Its licence forbids redistribution.
"""

from collections.abc import Iterator

from dig_jax.data.disk_map import DiskList, DiskMap
from dig_jax.data.examples import Example, Report
from dig_jax.data.handwriting import by_stem, lists_of_splits, read_splits
from dig_jax.data.images import Store, stored
from dig_jax.data.lists import open_root, read_lines, read_source, walk

FIELDS = 9  # of a line of lines.txt and of words.txt; the last is the text


def examples(
    *,
    report: Report,
    input: str | None = None,
    level: str = "line",
    segmentation: str = "auto",
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text, "a01-000u-00") in the order of the list. The vertical bars
    between the words of a line become spaces. ValueError where the list is not there."""
    if level not in ("line", "word"):
        raise ValueError(f"--level is '{level}', but must be line or word.")
    if segmentation not in ("auto", "all", "ok"):
        raise ValueError(f"--segmentation is '{segmentation}', but must be auto, all or ok.")
    root = open_root(input)
    report.about.update(read_source(root))
    files = walk(root, report)
    wanted = f"{level}s.txt"
    texts = next((file for file in files if file.split("/")[-1] == wanted), None)
    if texts is None:
        raise ValueError(f"--input={input} holds no {wanted}, the transcriptions of IAM.")
    splits = read_splits(root, lists_of_splits(files, (".uttlist", ".lst", ".txt")), report)
    if not splits:
        report.notes.append("no list of a split (such as train.uttlist): all is 'train'")
    images = by_stem(root, files)
    only_ok = segmentation == "ok" or (segmentation == "auto" and level == "word")
    jobs, known = DiskList(), DiskMap()
    for number, line in read_lines(root, texts, report):
        if line.startswith(b"#"):
            continue
        where = f"{texts} line {number}"
        try:
            fields = line.decode("utf-8").split(" ", FIELDS - 1)
        except UnicodeDecodeError:
            report.skip(where, "transcription that is not UTF-8")
            continue
        id, form = fields[0], "-".join(fields[0].split("-")[:2])
        if len(fields) < FIELDS or fields[1] not in ("ok", "err", "er"):
            report.skip(where, f"line without the {FIELDS} fields of {wanted}")
        elif id in known:
            report.skip(f"{where}: {id}", "second transcription of one image (the first is kept)")
        elif id not in images:
            report.skip(f"{where}: {id}", "transcription without an image")
        elif only_ok and fields[1] != "ok":
            report.skip(id, "word segmented badly (--segmentation=all keeps it)")
        elif splits and not (split := splits.get(id) or splits.get(form) or _line(splits, id)):
            report.skip(id, "in no split")
        else:
            text = fields[-1].replace("|", " ") if level == "line" else fields[-1]
            split = split if splits else "train"
            jobs.append((split, root.path / images[id], text, id))
        known.setdefault(id)
    for id in images:
        if id not in known and id.count("-") == (2 if level == "line" else 3):
            report.skip(images[id], "image without a transcription")
    report.total = len(jobs)
    yield from stored(jobs, store or Store(), report, workers)


def _line(splits: dict[str, str], id: str) -> str | None:
    """The split of the line that a word belongs to."""
    return splits.get("-".join(id.split("-")[:3]))
