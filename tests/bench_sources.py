"""Images a second of `make_records` by source, and what listing a folder of many files takes.

    python -m tests.bench_sources --count=1000 --output=/dev/shm/bench
    python -m tests.bench_sources --count=200000 --listing --only=pairs --output=/dev/shm/bench

The images are JPEG lines of 400 x 48 px in the layout of each source, or pages with 20 lines of
900 x 60 px. Processor time, user and system, of this process and its children, after imports.
--listing: empty files, memory of this process; one source a run, for memory is its peak. One JSON
object a line.
"""

import argparse
import contextlib
import importlib
import io
import json
import resource
import shutil
import time
from pathlib import Path
from unittest import mock

import cv2
import lmdb
import numpy as np
import pyarrow.parquet

from dig_jax.data.examples import Report
from dig_jax.data.writer import encode_image
from dig_jax.tools import make_records
from tests.data import fakes, test_handwriting, test_pages, test_parquet, toy_builders
from tests.data.made import picture
from tests.data.test_pairs import put

A_PAGE, BOX = 20, (50, 20, 900, 60)  # lines of a page; x and y of the first, width, height
STEP = 78  # of y from line to line


def jpegs(count):
    return [encode_image(picture(i, 400, 48), "jpeg") for i in range(count)]


def page():
    """(picture of a page, boxes of its lines)."""
    x, y, wide, high = BOX
    image = np.full((1600, 1000), 230, np.uint8)
    boxes = [(x, y + k * STEP, wide, high) for k in range(A_PAGE)]
    for k, (x, y, wide, high) in enumerate(boxes):
        image[y : y + high, x : x + wide] = picture(k, wide, high)
    return image, boxes


def page_xml(root, count):
    image, boxes = page()
    line = '<TextLine id="l{}"><Coords points="{}"/><TextEquiv><Unicode>x</Unicode></TextEquiv></TextLine>'
    body = "".join(line.format(k, test_pages.corners(box)) for k, box in enumerate(boxes))
    for p in range(count // A_PAGE):
        test_pages.write(root, f"p{p}.png", image)
        text = test_pages.page_xml(body, f"p{p}.png", size=(1000, 1600))
        (root / f"p{p}.xml").write_text(text)


def alto(root, count):
    image, boxes = page()
    line = '<TextLine ID="l{}" HPOS="{}" VPOS="{}" WIDTH="{}" HEIGHT="{}"><String CONTENT="x"/></TextLine>'
    body = "".join(line.format(k, *box) for k, box in enumerate(boxes))
    for p in range(count // A_PAGE):
        test_pages.write(root, f"p{p}.png", image)
        (root / f"p{p}.xml").write_text(test_pages.alto(body, f"p{p}.png", size=(1000, 1600)))


def rimes(root, count):
    image, boxes = page()
    line = '<Line Top="{}" Bottom="{}" Left="{}" Right="{}" Value="x"/>'
    body = "".join(line.format(y, y + h - 1, x, x + w - 1) for x, y, w, h in boxes)
    pages = []
    for p in range(count // A_PAGE):
        test_pages.write(root, f"p{p}.png", image)
        pages.append(f'<SinglePage FileName="images/p{p}.png">{body}</SinglePage>')
    (root / "training_2011.xml").write_text(f"<DocumentList>{''.join(pages)}</DocumentList>")


def pairs(root, count):
    files = {f"{i:05d}.jpg": data for i, data in enumerate(jpegs(count))}
    put(root, files | {f"{i:05d}.gt.txt": "text" for i in range(count)})


def table(root, count):
    files = {f"{i:05d}.jpg": data for i, data in enumerate(jpegs(count))}
    put(root, files | {"x.csv": "image,text\n" + "".join(f"{name},text\n" for name in files)})


def folder(root, count):
    files = {f"{i:05d}.jpg": data for i, data in enumerate(jpegs(count))}
    put(root, files | {"labels.tsv": "".join(f"{name}\ttext\n" for name in files)})


def database(root, count):
    root.mkdir(parents=True)
    with lmdb.open(str(root), map_size=1 << 30, lock=False) as env, env.begin(write=True) as base:
        for i, data in enumerate(jpegs(count), 1):
            base.put(b"image-%09d" % i, data)
            base.put(b"label-%09d" % i, b"text")
        base.put(b"num-samples", b"%d" % count)


def tfds(root, count):
    with mock.patch.object(toy_builders, "COUNTS", {"train": count}):
        toy_builders.Words(data_dir=root, file_format="array_record").download_and_prepare()


def iam(root, count):
    ids = [f"a01-{i // 10:03d}-{i % 10:02d}" for i in range(count)]
    files = {f"lines/a01/{id[:-3]}/{id}.jpg": data for id, data in zip(ids, jpegs(count))}
    put(root, files | {"lines.txt": "".join(f"{id} ok 154 19 1 2 3 4 some|text\n" for id in ids)})


def cvl(root, count):
    name = "trainset/words/0001/0001-1-{}-{}-text.jpg"
    put(root, {name.format(i // 10, i % 10): data for i, data in enumerate(jpegs(count))})
    put(root, {"trainset/xml/0001-1_attributes.xml": test_handwriting.CVL_XML})


def bentham(root, count):
    files = {f"Images/Lines/{i}.jpg": data for i, data in enumerate(jpegs(count))}
    put(root, files | {f"Transcriptions/{i}.txt": "text" for i in range(count)})


def mnist(root, count):
    root.mkdir()
    images = np.stack([fakes.digit(i) for i in range(count)])
    (root / "train-images-idx3-ubyte").write_bytes(fakes.idx(images))
    labels = fakes.idx(labels=[i % 10 for i in range(count)])
    (root / "train-labels-idx1-ubyte").write_bytes(labels)


def svt(root, count):
    photographs = count // len(fakes.SVT_BOXES)
    data = fakes.photograph(fakes.SVT_BOXES)
    put(root, {f"img/{p}.png": data for p in range(photographs)})
    one = fakes.SVT.format("", "").partition("<tagset>")[2].removesuffix("</tagset>")
    body = "".join(one.replace("14_03", str(p)) for p in range(photographs))
    (root / "test.xml").write_text(f"<tagset>{body}</tagset>")


def kaist(root, count):
    data = cv2.imencode(
        ".jpg", cv2.imdecode(np.frombuffer(fakes.photograph(fakes.SVT_BOXES), np.uint8), 0)
    )[1]
    for p in range(count // len(fakes.SVT_BOXES)):
        put(root, {f"d{p}.xml": fakes.KAIST.format(""), f"d{p}.jpg": data.tobytes()})


def characters(root, count):
    put(root, {f"Train/digit_{i % 10}/{i}.jpg": data for i, data in enumerate(jpegs(count))})


def parquet(root, count):
    root.mkdir()
    rows = test_parquet.hub([(data, "text") for data in jpegs(count)])
    pyarrow.parquet.write_table(rows, root / "train.parquet")


SOURCES = {  # name -> (source, its layout, flags)
    "folder": ("folder", folder), "pairs": ("pairs", pairs), "table": ("pairs", table),
    "lmdb": ("lmdb", database), "tfds": ("tfds", tfds), "parquet": ("parquet", parquet),
    "iam": ("iam", iam), "cvl": ("cvl", cvl, "--level=word"), "bentham": ("bentham", bentham),
    "characters": ("characters", characters), "mnist": ("mnist", mnist),
    "svhn_digits": ("svhn", lambda root, n: fakes.svhn_cropped(root, count=n), "--level=digit"),
    "svhn_numbers": ("svhn", lambda root, n: fakes.svhn(root / "train", n), "--level=word"),
    "svt": ("svt", svt), "kaist": ("kaist", kaist), "page_xml": ("page_xml", page_xml),
    "alto": ("alto", alto), "rimes": ("rimes", rimes),
}  # fmt: skip
GENERATED = {"captcha": (), "lines": ("--fonts=bundled",)}


def processor_s():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in both)


def convert(name, source, output, workers, flags):
    """Times one conversion."""
    start, clock, said = processor_s(), time.perf_counter(), io.StringIO()
    argv = [f"--source={source}", f"--output={output}", f"--workers={workers}", *flags]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = make_records.main(argv)
    if code:
        raise SystemExit(f"{name}: {said.getvalue()}")
    wall, used = time.perf_counter() - clock, processor_s() - start
    count = json.loads((output / "records.json").read_text())["count"]
    shutil.rmtree(output)
    figures = {"per_processor_s": count / used, "per_s": count / wall}
    shown = {key: round(value, 1) for key, value in figures.items()}
    print(json.dumps({"source": name, "workers": workers, "records": count, **shown}), flush=True)


def empty(root, kind, count):
    """Empty images as each source finds them, a thousand a folder."""
    text = "a text of a line of some forty letters."
    place = {"characters": "Train/digit_{2}/{0}.png", "page_xml": "b{1:03d}/p{0:07d}.jpg"}
    names = [
        place.get(kind, "work{1:03d}/line{0:07d}.png").format(i, i // 1000, i % 200)
        for i in range(count)
    ]
    for parent in {(root / name).parent for name in names}:
        parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()
        if kind in ("pairs", "page_xml"):
            other = ".gt.txt" if kind == "pairs" else ".xml"
            (root / name).with_suffix(other).write_text(text if kind == "pairs" else "")
    if kind == "folder":
        (root / "labels.tsv").write_text("".join(f"{name}\t{text}\n" for name in names))


class Listed(Report):
    """Takes the jobs of a source and does none."""

    found = 0

    def work(self, function, jobs, workers=None, name=repr):
        self.found = sum(1 for _ in jobs)
        return iter(())


def resident_mb(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(key))


def listing(kind, root, count):
    """Times the listing of so many files, and its memory."""
    empty(root, kind, count)
    source = importlib.import_module(f"dig_jax.data.sources.{kind}")
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts anew
    before, start, report = resident_mb("VmRSS"), processor_s(), Listed()
    list(source.examples(report=report, input=str(root), workers=0))
    used, grown = processor_s() - start, resident_mb("VmHWM") - before
    figures = {"files": count, "found": report.found, "processor_s": round(used, 1)}
    print(json.dumps({"listing": kind, **figures, "memory_mb": round(grown)}), flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--workers", default="1", help="such as 1,2")
    parser.add_argument("--only", default="", help=f"of {', '.join([*SOURCES, *GENERATED])}")
    parser.add_argument("--listing", action="store_true")
    parser.add_argument("--output", required=True, help="a scratch folder, made anew")
    given = parser.parse_args(argv)
    base = Path(given.output)
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    only = given.only.split(",") if given.only else [*SOURCES, *GENERATED]
    try:
        for name in only:
            root = base / name
            if given.listing:
                listing(name, root, given.count)
                continue
            if name in GENERATED:
                source, flags = name, (f"--count={given.count}", *GENERATED[name])
            else:
                source, made, *flags = SOURCES[name]
                made(root, given.count)
                flags = [f"--input={root}", *flags]
            for workers in map(int, given.workers.split(",")):
                convert(name, source, base / "records", workers, flags)
            shutil.rmtree(root, ignore_errors=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
