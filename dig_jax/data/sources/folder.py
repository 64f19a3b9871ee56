"""Source: a folder of line images, with `labels.tsv` and `splits/*.txt` where they exist.

    images anywhere below the folder, in any format that Pillow reads (of several frames the first)
    labels.tsv       path relative to the folder, tab, transcription; UTF-8; others are unlabelled
    splits/NAME.txt  one path a line; without any, all images are the split "train"
    SOURCE.md        its '- Source:', '- Licence:' and '- Attribution:' lines go into the record set

Nothing found in the folder can stop the walk: what is broken is counted and named in the report.
Nothing outside the folder is read: paths that are absolute or hold "..", and links that lead out,
are named and left (--follow_links takes the links).
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dig_jax.data.examples import Example, Report
from dig_jax.data.images import SUFFIXES, Store, stored
from dig_jax.data.lists import Root, other_source, read_labels, read_lines, read_source

# Pictures, pages and unfinished downloads that somebody may miss in the records.
UNREAD = frozenset(
    ".heic .heif .jxl .jxr .pdf .svg .psd .xcf .djvu .djv .eps .ps .exr .hdr .dng .cr2 .nef .arw "
    ".raw .ico .zip .tar .gz .part .crdownload".split()
)


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
    yield from read_images(root, read_labels(root, report), report, store, workers)


def open_root(input: str | None, follow_links: bool = False) -> Root:
    """The input folder. FileNotFoundError where there is none."""
    if not input or not Path(input).is_dir():
        raise FileNotFoundError(f"--input is '{input or ''}', but must be a folder with images.")
    return Root(input, follow_links)


def read_images(
    root: Root, labels: dict[str, str], report: Report, store: Store | None, workers: int | None
) -> Iterator[Example]:
    """The examples of a folder whose labels are {path: text}."""
    yield from read_jobs(root, list_images(root, labels, report), labels, report, store, workers)


def read_jobs(
    root: Root,
    jobs: list[tuple[str, str]],
    labels: dict[str, str],
    report: Report,
    store: Store | None,
    workers: int | None,
) -> Iterator[Example]:
    """The examples of [(split, path)]."""
    report.total = len(jobs)
    if not jobs and (other := other_source(root)):
        raise ValueError(f"{root.path} holds no image{other}.")
    for what, count in root.mended.items():
        report.notes.append(f"{count} {what} in the lists are taken for what they mean")
    found = ((split, root.path / path, labels.get(path), path) for split, path in jobs)
    yield from stored(found, store or Store(), report, workers)


def list_images(root: Root, labels: dict[str, str], report: Report) -> list[tuple[str, str]]:
    """[(split, path)]: what the splits list, or else every image below the folder and every
    labelled file as "train"."""
    found = dict.fromkeys(_walk(root, report))
    found.update(dict.fromkeys(labels))
    lists = sorted(
        p.relative_to(root.path).as_posix() for p in (root.path / "splits").glob("*.txt")
    )
    if not lists:
        return [("train", path) for path in sorted(found)]
    jobs: list[tuple[str, str]] = []
    splits_of: dict[str, list[str]] = {}
    for file in lists:
        split = PurePosixPath(file).stem
        for number, line in read_lines(root, file, report):
            path = root.find(os.fsdecode(line))
            name, reason = f"{file} line {number}: {path}", root.reason(path)
            if reason:
                report.skip(name, "split names a missing image" if reason == "missing" else reason)
            elif split in splits_of.get(path, ()):
                report.skip(name, "listed twice in one split")
            else:
                splits_of.setdefault(path, []).append(split)
                jobs.append((split, path))
    for path in sorted(found.keys() - splits_of.keys()):
        report.skip(path, "image in no split")
    shared = sorted(path for path, splits in splits_of.items() if len(splits) > 1)
    if shared:
        names = sorted({" and ".join(splits_of[path]) for path in shared})
        names = "; ".join(names)
        report.notes.append(
            f"{len(shared)} images stand in more than one split ({names}), such as {shared[0]}"
        )
    return jobs


def _walk(root: Root, report: Report) -> Iterator[str]:
    """Image files below root by their suffix, hidden ones left out, as paths relative to it. A
    linked folder is walked only with root.links and only once, so that links in a circle end."""
    walked = {root.real}
    for folder, folders, files in os.walk(root.path, followlinks=root.links):
        here = Path(folder).relative_to(root.path)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in [f for f in folders if (Path(folder) / f).is_symlink()]:
            real = os.path.realpath(Path(folder) / name)
            inside = (
                os.path.commonpath([root.real, real]) == root.real
            )  # its files are met where they stand
            if inside or real in walked:
                folders.remove(name)
            elif not root.links:
                report.skip((here / name).as_posix(), "link leads out of the folder")
            walked.add(real)
        for file in sorted(files):
            if file.startswith("."):
                continue
            path, suffix = (here / file).as_posix(), os.path.splitext(file)[1].lower()
            if suffix in UNREAD:
                report.skip(path, f"{suffix} is not read: convert it to PNG or JPEG")
            elif suffix in SUFFIXES:
                if reason := root.reason(path):
                    report.skip(
                        path,
                        "file cannot be read (a broken link)" if reason == "missing" else reason,
                    )
                else:
                    yield path
