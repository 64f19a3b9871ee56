"""Source: a folder of line images, with `labels.tsv` and `splits/*.txt` where they exist.

    images anywhere below the folder, in any format that Pillow reads (of several frames the first)
    labels.tsv       path relative to the folder, tab, transcription; UTF-8; others are unlabelled
    splits/NAME.txt  one path a line; without any, all images are the split "train"
    SOURCE.md        its '- Source:', '- Licence:' and '- Attribution:' lines go into the record set

Nothing found in the folder can stop the walk: what is broken is counted and named in the report.
Nothing outside the folder is read: paths that are absolute or hold "..", and links that lead out,
are named and left (--follow_links takes the links).
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from dig_jax.data.disk_map import DiskMap
from dig_jax.data.examples import Example, Report
from dig_jax.data.images import SUFFIXES, UNREAD, Store, stored
from dig_jax.data.lists import (
    Root,
    is_folder,
    open_root,
    other_source,
    read_labels,
    read_lines,
    read_source,
)


class Jobs:
    """(split, path) of each image, as often as they are asked for: `pairs()` gives them anew."""

    def __init__(self, count: int, pairs: Callable[[], Iterator[tuple[str, str]]]):
        self.count, self.pairs = count, pairs

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return self.pairs()


def examples(
    *,
    report: Report,
    input: str | None = None,
    store: Store | None = None,
    follow_links: bool = False,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text or None, path) in the order of the splits' lists (sorted
    paths without splits).

    Refused and reported: what `store` refuses, and what leads out of the folder through a link,
    unless follow_links. Raises FileNotFoundError where `input` is no folder.
    """
    root = open_root(input, follow_links)
    report.about.update(read_source(root))
    labels = read_labels(root, report)
    yield from read_jobs(root, list_images(root, labels, report), labels, report, store, workers)


def read_jobs(
    root: Root,
    jobs: Jobs,
    labels: Mapping[str, str],
    report: Report,
    store: Store | None,
    workers: int | None,
) -> Iterator[Example]:
    """The examples of these images."""
    report.total = len(jobs)
    if not jobs and (other := other_source(root)):
        raise ValueError(f"{root.path} holds no image{other}.")
    for what, count in root.mended.items():
        report.notes.append(f"{count} {what} in the lists are taken for what they mean")
    found = ((split, root.path / path, labels.get(path), path) for split, path in jobs)
    yield from stored(found, store or Store(), report, workers)


def list_images(root: Root, labelled: Iterable[str], report: Report) -> Jobs:
    """(split, path) of what the splits list, or else of every image below the folder and every
    labelled file, sorted, as "train". Lists of any length lie on the disk."""
    found = DiskMap()
    for path in itertools.chain(_walk(root, report), labelled):
        found.setdefault(path)
    lists = sorted(
        p.relative_to(root.path).as_posix() for p in (root.path / "splits").glob("*.txt")
    )
    if not lists:
        return Jobs(len(found), lambda: (("train", path) for path in found))
    listed, splits_of = DiskMap(), DiskMap()
    for file in lists:
        split = PurePosixPath(file).stem
        for number, line in read_lines(root, file, report):
            path = root.find(os.fsdecode(line))
            name, reason = f"{file} line {number}: {path}", root.reason(path)
            others = (splits_of.get(path) or "").split("/")
            if reason:
                report.skip(name, "split names a missing image" if reason == "missing" else reason)
            elif split in others:
                report.skip(name, "listed twice in one split")
            else:
                splits_of[path] = "/".join(filter(None, [*others, split]))
                listed[f"{len(listed):012d}"] = f"{split}/{path}"
    for path in found:
        if path not in splits_of:
            report.skip(path, "image in no split")
    shared, count = "", 0
    names: set[str] = set()
    for path, splits in splits_of.items():
        if "/" in splits:
            shared, count = shared or path, count + 1
            names.add(splits.replace("/", " and "))
    if shared:
        report.notes.append(
            f"{count} images stand in more than one split ({'; '.join(sorted(names))}), such as "
            f"{shared}"
        )
    return Jobs(len(listed), lambda: (tuple(job.split("/", 1)) for job in listed.values()))


def _walk(root: Root, report: Report) -> Iterator[str]:
    """Image files below root by their suffix, hidden ones left out, as paths relative to it, in any
    order. A linked folder is walked only with root.links and only once, so that links in a circle
    end."""
    walked, folders, left = {root.real}, [""], DiskMap()
    while folders:
        inner = []
        here = folders.pop()
        try:
            entries = os.scandir(f"{root.path}/{here}")
        except OSError as error:
            left[here] = f"folder cannot be read ({error.strerror})"
            continue
        with entries:
            for entry in entries:
                path = f"{here}{entry.name}"
                if entry.name.startswith("."):
                    continue
                if is_folder(entry):
                    inner.append((f"{path}/", entry.is_symlink()))
                elif reason := _reason(root, path, entry):
                    left[path] = reason
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                    yield path
        for path, linked in sorted(inner):
            real = os.path.realpath(f"{root.path}/{path}") if linked else ""
            # The files of a folder inside are met where they stand.
            inside = linked and os.path.commonpath([root.real, real]) == root.real
            if linked and not inside and real not in walked and not root.links:
                left[path.rstrip("/")] = "link leads out of the folder"
            if not linked or (root.links and not inside and real not in walked):
                folders.append(path)
            walked.add(real)
    for path, reason in left.items():
        report.skip(path, reason)


def _reason(root: Root, path: str, entry: os.DirEntry[str]) -> str:
    """Why a file that somebody may miss in the records is left out; "" where it is not."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in UNREAD:
        return f"{suffix} is not read: convert it to PNG or JPEG"
    if suffix not in SUFFIXES or entry.is_file(follow_symlinks=False):
        return ""
    reason = root.reason(path)
    return "file cannot be read (a broken link)" if reason == "missing" else reason
