"""Corrupted sets of every layout through make_records, in worker processes.

    python -m tests.fuzz.sources --cases=1000                      # of each source
    python -m tests.fuzz.sources --sources=lmdb,svhn --cases=50
    python -m tests.fuzz.sources --sources=alto --only=7           # one case again

A sound set of a few lines is made once for each source. A case corrupts one to three of its files,
or puts a strange value into a text. It must end as those of tests.fuzz.records: everything read,
or counted and named, or refused in one sentence. Where only images are corrupted, records and
what is left out must add up to the lines of the sound set. Last line: one JSON object.
"""

import functools
import html
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from absl import app, flags

from tests.data import fakes, test_handwriting, test_pages, test_parquet
from tests.data.made import png
from tests.data.test_lmdb import database, pairs
from tests.data.test_pairs import put
from tests.fuzz import records
from tests.fuzz.folders import CANARY, CANARY_SIZE
from tests.fuzz.forked import forked
from tests.fuzz.images import Rng, corrupt, encode, image, picture
from tests.fuzz.judge import Broken, judge_conversion

IMAGES = {f"{name}.png": number for number, name in enumerate("abcd")}
TEXTS = (".xml", ".txt", ".csv", ".tsv", ".jsonl", ".json", ".lst", ".uttlist")
STRANGE = (
    "", "-1", "0", "nan", "1e308", "99999999999999999999", "-" * 9, "../outside/secret.png", "/etc/passwd", "a\0b",
    "\x1b[2J\u202e", "x" * 100_000, "1,2 " * 5000, "\ud800", "<a>" * 30_000, "&x;", '"', "'", "<", "{", "[" * 9000, "\n", "\t",
    "word", "pixel", "mm10",
)  # fmt: skip


def _table(root: Path) -> None:
    rows = "".join(f"{name},text {name},train\n" for name in IMAGES)
    put(root, {**IMAGES, "x.csv": f"image,text,split\n{rows}"})


def _json(root: Path) -> None:
    rows = [json.dumps({"file_name": name, "text": f"text {name}"}) for name in IMAGES]
    put(root, {**IMAGES, "x.jsonl": "\n".join(rows)})


def _alto(root: Path) -> None:
    test_pages.write(root, "p1.png")
    body = "".join(test_pages.box_line(n) for n in (0, 1))
    body += "".join(
        test_pages.shape_line(n, test_pages.corners(test_pages.LINES[n])) for n in (2, 3)
    )
    (root / "p1.xml").write_text(test_pages.alto(body))


def _tfds(root: Path) -> None:
    from tests.data.toy_builders import Words

    Words(data_dir=root, file_format="array_record").download_and_prepare()


def _iam(root: Path) -> None:
    names = ("a01-000u-00", "a01-000u-01", "b02-013-00")
    images = {f"lines/{name[:3]}/{name[:-3]}/{name}.png": i for i, name in enumerate(names)}
    rows = [line for line in test_handwriting.IAM_LINES.splitlines() if line.startswith(names)]
    lists = {"train.uttlist": "a01-000u", "test.uttlist": "b02-013"}
    put(root, {**images, "lines.txt": "\n".join(rows), **lists})


def _cvl(root: Path) -> None:
    files = {"trainset/lines/0001/0001-1-0.png": 1, "trainset/words/0001/0001-1-0-0-Imagine.png": 2}
    put(root, {**files, "trainset/xml/0001-1_attributes.xml": test_handwriting.CVL_XML})


def _rimes(root: Path) -> None:
    line = '<Line Top="10" Bottom="33" Left="10" Right="{}" Value="fin &amp;amp; {}"/>'
    lines = "".join(line.format(60 + i, i) for i in range(3))
    page = f'<SinglePage FileName="images/a.png"><Paragraph>{lines}</Paragraph></SinglePage>'
    put(
        root,
        {
            "training_2011.xml": f"<DocumentList>{page}</DocumentList>",
            "images/a.png": fakes.photograph([(9, 9, 60, 26)]),
        },
    )


def _bentham(root: Path) -> None:
    files = {f"Images/Lines/{name}.png": i for i, name in enumerate("abc")}
    texts = {f"Transcriptions/{name}.txt": f"text {name}" for name in "abc"}
    put(
        root,
        {
            **files,
            **texts,
            "Partitions/TrainLines.lst": "a\nb\n",
            "Partitions/TestLines.lst": "c\n",
        },
    )


def _parquet(root: Path) -> None:
    root.mkdir()
    table = test_parquet.hub([(png(i), f"text {i}") for i in range(4)])
    pyarrow.parquet.write_table(table, root / "train.parquet")


def _arrow(root: Path) -> None:
    root.mkdir()
    table = test_parquet.hub([(png(i), f"text {i}") for i in range(4)])
    with pyarrow.ipc.new_stream(str(root / "data.arrow"), table.schema) as out:
        out.write_table(table, max_chunksize=2)


PAIRS = {**IMAGES, **{f"{name[0]}.gt.txt": f"text {name}" for name in IMAGES}}
LIST = "".join(f"{name}\ttext {name}\n" for name in IMAGES)
PHOTO = fakes.photograph(fakes.SVT_BOXES)
# Kind of a case: (source, what makes a sound set in a new folder).
SETS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "lmdb": ("lmdb", lambda root: database(root, pairs(6), 6)),
    "pairs": ("pairs", lambda root: put(root, PAIRS)),
    "list": ("pairs", lambda root: put(root, {**IMAGES, "gt.txt": LIST})),
    "nested": ("pairs", lambda root: put(root / "p", {**IMAGES, "labels.tsv": LIST})),
    "table": ("pairs", _table),
    "json": ("pairs", _json),
    "transkribus": ("page_xml", test_pages.transkribus),
    "escriptorium": ("page_xml", test_pages.escriptorium),
    "ocrd": ("page_xml", test_pages.ocrd),
    "alto": ("alto", _alto),
    "tfds": ("tfds", _tfds),
    "iam": ("iam", _iam),
    "cvl": ("cvl", _cvl),
    "rimes": ("rimes", _rimes),
    "bentham": ("bentham", _bentham),
    "mnist": ("mnist", lambda root: fakes.mnist(root, pack=False)),
    "mnist gz": ("mnist", fakes.mnist),
    "svhn": ("svhn", lambda root: fakes.svhn(root / "train")),
    "svhn digits": ("svhn", fakes.svhn_cropped),
    "svt": ("svt", lambda root: put(root, {"test.xml": fakes.SVT.format("", ""), "img/14_03.png": PHOTO})),
    "kaist": ("kaist", lambda root: put(root, {"a.xml": fakes.KAIST.format(""), "a.jpg": PHOTO})),
    "characters": ("characters", lambda root: put(root, {f"Train/digit_{i}/{i}.png": i for i in range(4)})),
    "parquet": ("parquet", _parquet),
    "arrow": ("parquet", _arrow),
}  # fmt: skip


@functools.cache
def sound(kind: str) -> tuple[Path, int]:
    """(a sound set, how many lines make_records finds in it)."""
    place = Path(tempfile.mkdtemp(prefix="fuzz-sound-"))
    source, maker = SETS[kind]
    maker(place / "in")
    flags = [f"--source={source}", f"--input={place / 'in'}"]
    _, read, skipped = judge_conversion(flags, place / "made")
    assert read > 0, f"the sound set of {kind} is refused"
    return place / "in", read + dropped(skipped)


def dropped(skipped: dict[str, Any]) -> int:
    """How many lines are left out; reasons that say "kept" leave none out."""
    return sum(n for reason, n in skipped.get("reasons", {}).items() if "kept)" not in reason)


def build(kind: str, seed: int, number: int, scratch: Path) -> tuple[str, Path, bool]:
    """(what was done, the folder, whether only images were corrupted)."""
    rng = np.random.default_rng([seed, sorted(SETS).index(kind), number])
    root = scratch / "in"
    shutil.copytree(sound(kind)[0], root)
    (scratch / "outside").mkdir()
    (scratch / "outside" / "secret.png").write_bytes(encode(picture(*CANARY_SIZE), "PNG"))
    (scratch / "outside" / "secret.txt").write_text(f"a.png\t{CANARY}\n")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    pictures = [path for path in files if path.suffix in (".png", ".jpg")]
    others = [path for path in files if path not in pictures]
    only_images = bool(pictures) and (not others or rng.random() < 0.2)
    done = []
    for _ in range(int(rng.integers(1, 4))):
        chosen = pictures if only_images else others if rng.random() < 0.8 else files
        file = chosen[int(rng.integers(len(chosen)))]
        how, data = _spoil(rng, file, scratch)
        file.write_bytes(data)
        done.append(f"{file.relative_to(root)}: {how}")
    return "; ".join(done), root, only_images


def _spoil(rng: Rng, file: Path, scratch: Path) -> tuple[str, bytes]:
    data = file.read_bytes()
    if file.suffix in (".png", ".jpg") and rng.random() < 0.5:
        return image(rng, scratch)
    if file.suffix in TEXTS and rng.random() < 0.6:
        value = STRANGE[int(rng.integers(len(STRANGE)))]
        # A number, a quoted value, a name of a file or a word becomes something else.
        spots = list(re.finditer(rb'(?<=")[^"\n]*(?=")|\d+|[\w./-]+', data))
        if file.suffix == ".xml" and rng.random() < 0.7:  # which stays an XML
            spots = list(re.finditer(rb'(?<==")[^"<]*(?=")|(?<=>)[^<>]*[^\s<>][^<>]*(?=<)', data))
            value = html.escape("".join(c for c in value if c >= " " and c != "\ud800"))
        if spots:
            spot = spots[int(rng.integers(len(spots)))]
            new = value.encode("utf-8", "surrogatepass")
            return f"{spot[0][:30]!r} -> {value[:20]!r}", data[: spot.start()] + new + data[
                spot.end() :
            ]
    return corrupt(rng, data)


def run_case(kinds: list[str], seed: int, number: int, max_mb: float) -> dict[str, Any]:
    """Builds and judges one case: number // kinds of kind number % kinds. Never raises."""
    kind, count = kinds[number % len(kinds)], number // len(kinds)
    again = f"tests.fuzz.sources --sources='{kind}' --seed={seed} --only={count}"

    def case(result: dict[str, Any], scratch: Path) -> Callable[[], None]:
        what, root, only_images = build(kind, seed, count, scratch)
        result["what"] = f"{kind} {count}: {what}"

        def run() -> None:
            flags = [f"--source={SETS[kind][0]}", f"--input={root}"]
            own, apart_mb = records.peak_mb(), [0.0]
            with forked(apart_mb.append):
                result["outcome"], read, skipped = judge_conversion(flags, scratch / "made")
            if max(apart_mb) - own > max_mb:
                raise Broken(f"a process apart took {max(apart_mb) - own:.0f} MB more")
            lines = sound(kind)[1]
            if only_images and read >= 0 and read + dropped(skipped) != lines:
                raise Broken(f"of {lines} lines {read} are records, {dropped(skipped)} left out")

        return run

    result = {"number": number, "kind": kind, "what": "", "again": again}
    return records.measured(result, case, max_mb)


def work(kinds: list[str], connection: Any, seed: int, max_mb: float, stderr: str) -> None:
    """The worker process of these cases: see `records.serve`."""

    def warm() -> None:
        with forked():
            for kind in kinds:
                sound(kind)

    records.serve(connection, stderr, warm, lambda n: run_case(kinds, seed, n, max_mb))


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    if len(argv) > 1:
        raise SystemExit(f"fuzz_sources: '{argv[1]}' is no option; write --name=value.")
    kinds = [kind for kind in SETS if not f.sources or kind in f.sources]
    if f.only is not None:
        for kind in kinds:
            print(json.dumps(run_case([kind], f.seed, f.only, f.max_mb)))
        return
    numbers = list(range(f.cases * len(kinds)))
    result = records.fuzz(numbers, target=functools.partial(work, kinds), **records.limits(f))
    print(json.dumps(result))
    if result["failures"]:
        raise SystemExit(1)


if __name__ == "__main__":
    flags.DEFINE_integer("cases", 1000, "How many cases of each source.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Another seed makes other cases.", lower_bound=0)
    flags.DEFINE_integer("only", None, "Run this case of each source.", lower_bound=0)
    flags.DEFINE_list("sources", [], f"Kinds of sets: {', '.join(SETS)}; all.")
    flags.DEFINE_integer("workers", 1, "Processes.", lower_bound=1)
    flags.DEFINE_float("max_seconds", 10.0, "A case that takes more processor time fails.")
    flags.DEFINE_float("max_mb", 512.0, "A case that takes more memory than this fails.")
    flags.DEFINE_float("minutes", float("inf"), "Start no case after so long.")
    app.run(main)
