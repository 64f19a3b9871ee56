"""Hostile image folders for `fuzz_records`: names, links, labels.tsv, splits and SOURCE.md that
lie, lead out or never end.
"""

import os
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import images
from tests.fuzz.images import Rng, encode, picture

CANARY = "CANARY"  # stands in files outside the folder: must never get into a record set
CANARY_SIZE = (77, 33)  # so does a picture of this size

IMAGES = tuple(f"images/{name}.png" for name in "abcdef")
_PATHS = (
    b"/etc/passwd",
    b"../outside/secret.png", b"images/../../outside/secret.png", b"./../outside/secret.png", b"C:\\x.png",
    b"images/" + b"x" * 5000 + b".png", b"\xff\xfe.png", b"images/a.png/b.png", b".", b"", b"images", b"a\0b.png",
    b"\x1b[2J.png",
    b"images/leads_out.png", b"link_out/secret.png", b"images//a.png", b"./images/b.png",
)  # fmt: skip

LABELS: dict[str, Callable[[Rng], bytes]] = {
    "plain": lambda rng: b"line",
    "no UTF-8": lambda rng: b"\xff\xfe" + rng.bytes(9),
    "surrogates": lambda rng: b"\xed\xa0\x80\xed\xb0\x80",
    "NUL and control characters": lambda rng: bytes(range(32)) + b"\x7f\xc2\x85",
    "terminal escapes": lambda rng: b"\x1b]0;owned\x07\x1b[2J",
    "bidi": lambda rng: "abc\u202e\u2066def\u2069\u200f".encode(),
    "combining": lambda rng: ("a" + "\u0301" * 5000).encode(),
    "expands under NFC": lambda rng: "\U0001d160".encode() * 100_000,
    "a megabyte": lambda rng: b"x" * (1 << 20),
    "white": lambda rng: " \t\u00a0\u2003\n\u2028".encode(),
    "tag characters": lambda rng: "\U000e0041\ufeff\ufffe\uffff\U0010ffff".encode(),
}


def folder(rng: Rng, scratch: Path) -> tuple[str, Path]:
    """Six labelled images in two splits, then one to three acts of malice. A secret lies in a
    folder beside it.
    """
    root, outside = scratch / "in", scratch / "outside"
    for place in (root / "images", root / "splits", outside):
        place.mkdir(parents=True)
    for i, name in enumerate(IMAGES):
        (root / name).write_bytes(encode(picture(50 + i, 30), "PNG"))
    (outside / "secret.png").write_bytes(encode(picture(*CANARY_SIZE), "PNG"))
    (outside / "secret.txt").write_text(f"images/a.png\t{CANARY}\n{CANARY}\n")
    (root / "labels.tsv").write_text("".join(f"{name}\tline {name[-5]}\n" for name in IMAGES))
    if rng.random() < 0.5:
        (root / "splits" / "train.txt").write_text("\n".join(IMAGES[:4]))
        (root / "splits" / "test.txt").write_text("\n".join(IMAGES[4:]))
    acts = [str(name) for name in rng.choice(sorted(ACTS), int(rng.integers(1, 4)), replace=False)]
    for act in acts:
        ACTS[act](rng, root)
    return " + ".join(acts), root


def _labels(rng: Rng, root: Path) -> None:
    """Some lines of labels.tsv: any path, any label."""
    _append(rng, root / "labels.tsv", [
        (IMAGES[int(rng.integers(0, 6))].encode() if rng.random() < 0.5 else _PATHS[int(rng.integers(0, len(_PATHS)))])
        + b"\t" + LABELS[str(rng.choice(sorted(LABELS)))](rng) for _ in range(6)])  # fmt: skip


def _columns(rng: Rng, root: Path) -> None:
    wrong = (
        b"images/a.png\tline\tmore",
        b"images/b.png,line",
        b"images/c.png",
        b"\t",
        b"\tline",
        b"images/d.png\t",
        b"\t\t",
    )
    _append(rng, root / "labels.tsv", [wrong[int(i)] for i in rng.integers(0, len(wrong), 5)])


def _append(rng: Rng, file: Path, lines: list[bytes]) -> None:
    """The lines before or after those that stand there."""
    old = (
        file.read_bytes()
        if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 24
        else b""
    )
    new = b"\n".join(lines)
    _put(file, new + b"\n" + old if rng.random() < 0.5 else old + b"\n" + new)


def _put(file: Path, data: bytes) -> None:
    if file.is_symlink() or not file.is_dir():
        if file.is_symlink() or (file.exists() and not file.is_file()):
            file.unlink()
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)


def _encoding(rng: Rng, root: Path) -> None:
    text = "".join(f"{name}\tläne\n" for name in IMAGES)
    forms = [
        text.encode(kind)
        for kind in ("utf-16", "utf-16-be", "utf-32", "latin-1", "utf-8-sig", "cp037")
    ]
    forms += [text.replace("\n", end).encode() for end in ("\r\n", "\r", "\u2028", "\0")] + [
        rng.bytes(3000),
        b"x" * (3 << 20),
    ]
    _put(root / "labels.tsv", forms[int(rng.integers(0, len(forms)))])


def _splits(rng: Rng, root: Path) -> None:
    names = (
        "train",
        "a@b",
        "a*2",
        "..",
        ".",
        "x\n",
        "\udcff",
        "-",
        "train.x",
        "ü",
        "x" * 200,
        ".hidden",
        " ",
        "records.json",
    )
    file = root / "splits" / f"{names[int(rng.integers(0, len(names)))]}.txt"
    lines = [os.fsencode(IMAGES[int(i)]) for i in rng.integers(0, 6, 3)] + [
        _PATHS[int(i)] for i in rng.integers(0, len(_PATHS), 3)
    ]
    _append(rng, file, lines)


def _links(rng: Rng, root: Path) -> None:
    made = (("images/loop", "."), ("images/up", ".."), ("up", "../.."), ("images/broken.png", "nowhere"),
            ("images/leads_out.png", "../../outside/secret.png"), ("link_out", "../outside"), ("images/self.png", "self.png"),
            ("images/z.png", "a.png"))  # fmt: skip
    for i in rng.choice(len(made), 4, replace=False):
        if not os.path.lexists(root / made[i][0]):
            (root / made[i][0]).symlink_to(made[i][1])


def _special(rng: Rng, root: Path) -> None:
    """A file where there should be a list, a pipe that nobody writes to, a file of 20 GB without a
    block on disk.
    """
    target = root / str(
        rng.choice(
            ["labels.tsv", "SOURCE.md", "splits/train.txt", "images/g.png", "splits/extra.txt"]
        )
    )
    if os.path.lexists(target):
        target.unlink()
    how = str(rng.choice(["folder", "pipe", "huge", "link"]))
    if how == "folder":
        target.mkdir()
    elif how == "pipe":
        os.mkfifo(target)
    elif how == "huge":
        with target.open("wb") as file:
            file.truncate(20 << 30)
    else:
        target.symlink_to(os.path.relpath(root.parent / "outside" / "secret.txt", target.parent))


def _names(rng: Rng, root: Path) -> None:
    names = (b"new\nline.png", b"\x1b]0;x\x07.png", b"caf\xe9.png", b"x" * 251 + b".png", "a\u202egnp.png".encode(), b" .png",
             b"-rf.png", b"tab\t.png", b"ICON.PNG", b"none", "\u00e9.png".encode(), "e\u0301.png".encode())  # fmt: skip
    for i in rng.choice(len(names), 3, replace=False):
        with open(os.fsencode(root / "images") + b"/" + names[i], "wb") as file:
            file.write(encode(picture(), "PNG"))


def _images(rng: Rng, root: Path) -> None:
    for name in rng.choice(IMAGES, 2, replace=False):
        (root / name).write_bytes(images.image(rng, root)[1])


def _source(rng: Rng, root: Path) -> None:
    texts = (b"- Source: \x1b[2J\x00\xff\n- Licence: \xe2\x80\xae", b"- Source:" * 100_000, b"- Licence: " + b"x" * (3 << 20),
             b"\xff\xfe-\0", b"- Source: " + b" " * 200_000, b"\n*" * 300_000)  # fmt: skip
    _put(root / "SOURCE.md", texts[int(rng.integers(0, len(texts)))])


def _many(rng: Rng, root: Path) -> None:
    lines = [b"images/a.png\tagain", b"nowhere.png\tx", b"../x\ty", b"\xff\t\xff"] * 5000
    _append(rng, root / "labels.tsv", lines)


ACTS: dict[str, Callable[[Rng, Path], None]] = {
    "labels": _labels, "columns": _columns, "encoding": _encoding, "splits": _splits, "links": _links, "special": _special,
    "names": _names, "images": _images, "source": _source, "many lines": _many,
}  # fmt: skip
