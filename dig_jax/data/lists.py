"""The lists of a folder of images: labels.tsv, splits/*.txt, SOURCE.md. Whatever stands in them is
read right, or counted and named."""

import contextlib
import functools
import itertools
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from dig_jax.data.disk_map import DiskMap
from dig_jax.data.examples import Report, shown

LABELS = "labels.tsv"
MAX_LINE_BYTES = 1 << 20  # of a line of labels.tsv or of a list
QUOTED = re.compile(r'"(?:[^"]|"")*"')


class Root:
    """The input folder, and what in it may be opened. links: symbolic links may lead out of it.
    mended: how often a list named a file in another way than the folder does."""

    def __init__(self, path: str | Path, links: bool = False):
        self.path, self.links = Path(path), links
        self.real, self.absolute = os.path.realpath(path), os.path.abspath(path)
        self.mended: Counter[str] = Counter()

    def find(self, path: str) -> str:
        """The path that a list means, relative to the folder. Taken too: an absolute one that lies
        inside the folder, back-slashes, another Unicode form of the same name."""
        for root in (self.absolute, self.real):
            if path.startswith(f"{root}/"):
                self.mended["absolute paths inside the folder"] += 1
                path = path[len(root) + 1 :]
        if not {"", "."}.isdisjoint(path.split("/")):
            path = str(PurePosixPath(path))
        if self.reason(path) != "missing":
            return path
        if "\\" in path and not self.reason(slashed := path.replace("\\", "/")):
            self.mended["paths with back-slashes"] += 1
            return slashed
        if not path.isascii() and (name := self._by_form.get(unicodedata.normalize("NFC", path))):
            self.mended["names in another Unicode form (NFC, NFD) than the file's"] += 1
            return name
        return path

    @functools.cached_property
    def _by_form(self) -> DiskMap:
        """{NFC of a path: path} of all files below the folder whose names are not plain ASCII."""
        found = DiskMap()
        for path in walk(self):
            if not path.isascii():
                found[unicodedata.normalize("NFC", path)] = path
        return found

    def reason(self, path: str) -> str:
        """Why a path relative to the folder may not be opened; "" where it may: a file, inside the
        folder.
        """
        if "\0" in path:
            return "path holds a NUL character"
        windows = path[1:2] == ":" or path.startswith("\\")
        absolute = path.startswith("/") or (windows and PureWindowsPath(path).is_absolute())
        if absolute or ".." in path.split("/"):
            return "path leads out of the folder"
        try:
            mode = os.lstat(f"{self.path}/{path}").st_mode
            linked = stat.S_ISLNK(mode)
            mode = os.stat(f"{self.path}/{path}").st_mode if linked else mode
        except OSError:  # missing, a name that is too long, links in a circle
            return "missing"
        if not stat.S_ISREG(mode):
            return "not a file"
        if not self.links and not self._inside(path if linked else os.path.dirname(path)):
            return "link leads out of the folder"
        return ""

    @functools.lru_cache(maxsize=4096)  # noqa: B019  a Root lives as long as the conversion
    def _inside(self, path: str) -> bool:
        """Whether a path, links followed, lies in the folder: asked once for the files of one."""
        real = os.path.realpath(self.path / path)
        return os.path.commonpath([self.real, real]) == self.real


def open_root(input: str | None, follow_links: bool = False) -> Root:
    """The input folder. FileNotFoundError where there is none."""
    if not input or not Path(input).is_dir():
        raise FileNotFoundError(f"--input is '{input or ''}', but must be a folder with images.")
    return Root(input, follow_links)


def walk(root: Root, report: Report | None = None) -> DiskMap:
    """Files below the folder that are not hidden, as sorted paths relative to it, on the disk.
    Linked folders are not walked; one that cannot be read is reported."""
    found, folders = DiskMap(), [""]
    while folders:
        here = folders.pop()
        try:
            entries = os.scandir(root.path / here)
        except OSError as error:
            if report:
                report.skip(here, f"folder cannot be read ({error.strerror})")
            continue
        with entries:
            for entry in entries:
                path = f"{here}{entry.name}"
                if entry.name.startswith("."):
                    continue
                if not is_folder(entry):
                    found.setdefault(path)
                elif not entry.is_symlink():
                    folders.append(f"{path}/")
    return found


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one. Links in a circle are none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def read_source(root: Root) -> dict[str, str]:
    """{"source", "licence", "attribution"} as far as SOURCE.md tells them."""
    found = {"source": str(root.path)}
    if root.reason("SOURCE.md"):
        return found
    with (root.path / "SOURCE.md").open("rb") as file:
        lines = file.read(1 << 16).decode("utf-8", "replace").splitlines()
    for key, pattern in (
        ("source", "source"),
        ("licence", "licen[cs]e"),
        ("attribution", "attribution"),
    ):
        matches = (
            re.match(rf"\W{{0,9}}{pattern}\W{{0,9}}:\W*?(\S.*)$", line[:2000], re.IGNORECASE)
            for line in lines
        )
        if match := next(filter(None, matches), None):
            found[key] = shown(match[1].strip())
    return found


def labels_file(root: Root) -> str:
    """labels.tsv, or a file whose name differs from it in case alone."""
    if root.reason(LABELS) != "missing":
        return LABELS
    same = (name for name in sorted(os.listdir(root.path)) if name.lower() == LABELS)
    return next(same, LABELS)


def read_labels(root: Root, report: Report) -> MutableMapping[str, str]:
    """labels.tsv -> {path: text}, on the disk. A line that cannot be used is reported, and its
    image stays unlabelled.
    """
    labels: MutableMapping[str, str] = DiskMap()
    file = labels_file(root)
    if root.reason(file) == "missing":
        report.notes.append(f"no {LABELS}: all images are unlabelled{other_source(root)}")
        return labels
    texts = (text for *_, text in _rows(root, file, Report()))
    quoted = is_quoted(texts)
    if quoted:
        count = sum(text.startswith('"') for *_, text in _rows(root, file, Report()))
        report.notes.append(
            f"{file} is quoted as spreadsheets do it: quotation marks around {count} labels "
            "are taken off, doubled ones inside made single"
        )
    for number, path, tab, text in _rows(root, file, report):
        name = f"{file} line {number}"
        if quoted:
            path, text = unquoted(path), unquoted(text)
        path = root.find(path)
        reason = root.reason(path)
        if not tab:
            report.skip(name, "label line without a tab")
        elif "\t" in text:
            report.skip(
                f"{name}: {path}", "label line with more than one tab (image kept, unlabelled)"
            )
        elif reason:
            report.skip(
                f"{name}: {path}", "label names a missing image" if reason == "missing" else reason
            )
        elif labels.setdefault(path, text) is not text:
            report.skip(f"{name}: {path}", "second label for one image (the first is kept)")
    return labels


def _rows(root: Root, file: str, report: Report) -> Iterator[tuple[int, str, bytes, str]]:
    """(number, path, tab or b"", text) of the lines of labels.tsv that are UTF-8."""
    for number, line in read_lines(root, file, report):
        path, tab, text = line.partition(b"\t")
        try:
            yield number, os.fsdecode(path), tab, text.decode("utf-8")
        except UnicodeDecodeError:
            report.skip(f"{file} line {number}", "label is not UTF-8 (image kept, unlabelled)")


def read_lines(root: Root, path: str, report: Report) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its end) of the lines that are not blank, read as bytes: they
    need not be UTF-8.
    """
    if reason := root.reason(path):
        report.skip(path, f"list cannot be read: {reason}")
        return
    with (root.path / path).open("rb") as file:
        head = file.read(3)
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            report.skip(path, "list is UTF-16, not UTF-8 (none of it is read)")
            return
        file.seek(3 if head == b"\xef\xbb\xbf" else 0)
        for number, line in enumerate(
            iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1
        ):
            if len(line) > MAX_LINE_BYTES:
                report.skip(
                    f"{path} line {number}",
                    f"line of more than {MAX_LINE_BYTES} bytes (what follows is not read)",
                )
                return
            if line.strip():
                yield number, line.rstrip(b"\r\n")


def is_quoted(fields: Iterable[str]) -> bool:
    """Whether these fields come from a spreadsheet, or csv in Python. Then each field that holds a
    quotation mark is quoted, with a doubled mark in one of them, or every field is quoted."""
    count = marked = doubled = 0
    for field in fields:
        count += 1
        if '"' in field:
            if not QUOTED.fullmatch(field):
                return False
            marked += 1
            doubled += '""' in field[1:-1]
    return bool(marked) and (bool(doubled) or 1 < count == marked)


def unquoted(field: str) -> str:
    """The field without its quotation marks, where it has them."""
    return field[1:-1].replace('""', '"') if QUOTED.fullmatch(field) else field


SHEETS = (".csv", ".tsv", ".jsonl")
LISTS = 20  # .txt files that are looked into: there may be one an image


def other_source(root: Root) -> str:
    """Which source reads what else lies in the folder, as the end of a sentence, or ""."""
    from dig_jax.data.tables import is_list  # which reads lists, too

    files = walk(root)
    named = lambda *ends: (f for f in files if f.lower().endswith(ends) and f.lower() != LABELS)
    first = lambda *ends: next(named(*ends), "")
    if base := first(".mdb", ".lmdb"):
        return f"; {shown(base)} is an LMDB: --source=lmdb reads it"
    if texts := sum(1 for _ in named(".gt.txt")):
        return f"; it looks like {texts} pairs x.png + x.gt.txt: --source=pairs reads them"
    if nested := first(LABELS):
        return f"; labels lie deeper, in {shown(nested)}: --source=pairs reads them"
    texts = (f for f in itertools.islice(named(".txt"), LISTS) if not root.reason(f))
    if sheet := first("gt.txt", *SHEETS) or next((f for f in texts if is_list(root, f)), ""):
        return f"; {shown(sheet)} looks like labels: --source=pairs reads them"
    if table := first(".parquet", ".arrow"):
        return f"; {shown(table)} is a table: --source=parquet reads it"
    if file := first(".xml"):
        with contextlib.suppress(OSError), (root.path / file).open("rb") as opened:
            head = opened.read(4096).lower()
            for mark, name in ((b"<pcgts", "page_xml"), (b"<alto", "alto")):
                if mark in head and not root.reason(file):
                    return f"; {shown(file)} describes a page: --source={name} reads it"
    for file in named(""):  # any
        if PurePosixPath(file).stem.lower() == "labels":
            return f"; {shown(file)} is not read: save it as {LABELS}, a path, a tab and its text"
    return ""
