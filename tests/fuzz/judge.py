"""What must hold after a hostile file has gone through the input path: the judge of
`fuzz_records`.
"""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from dig_jax.data import pipeline, records, writer
from dig_jax.text import Charset
from dig_jax.tools import make_records
from tests.fuzz.cases import COUNT
from tests.fuzz.folders import CANARY, CANARY_SIZE
from tests.fuzz.images import encode, picture


class Broken(Exception):
    """A promise of the input path that does not hold; the message says which."""


def judge(kind: str, made: bytes | Path, scratch: Path) -> list[str]:
    """How a case ended: [] = all was read, or what was counted ("counted: reason") or refused
    ("refused: sentence").

    Raises Broken or whatever the input path raised where it should not.
    """
    if kind == "image":
        outcome = _judge_folder(_folder_of(made, scratch), scratch)
        return sorted({*outcome, *_judge_set(_set_of(made, scratch, wrap=True), sound={0, 2})})
    if kind == "example":
        return _judge_set(_set_of(made, scratch, wrap=False), sound={0, 2})
    if kind == "folder":
        return _judge_folder(made, scratch)
    return _judge_set(made, sound=set())


def _folder_of(data: bytes, scratch: Path) -> Path:
    root = scratch / "in"
    root.mkdir()
    (root / "a.png").write_bytes(data)
    return root


def _set_of(data: bytes, scratch: Path, wrap: bool) -> Path:
    """A set of three records; the middle one is the image (wrap) or the message."""
    folder = scratch / "records"
    good = [
        writer.serialize(encode(picture(20 + i, 10), "PNG"), f"line {i}", f"id{i}")
        for i in range(3)
    ]
    image = data if wrap else encode(picture(21, 10), "PNG")
    lines = [("train", encode(picture(20 + i, 10), "PNG"), f"line {i}", f"id{i}") for i in range(3)]
    lines[1] = ("train", image, "line 1", "id1")
    report = writer.Report()
    written = writer.write(folder, lines, report=report)
    if written["count"] + written["skipped"]["count"] < 3:
        raise Broken(
            f"{written['count']} records written, {written['skipped']['count']} named as left out, "
            "of 3"
        )
    if not wrap:  # behind the back of the index
        out = ArrayRecordWriter(
            str(folder / "train-00000-of-00001.array_record"), "group_size:1,uncompressed"
        )
        for value in (good[0], data, good[2]):
            out.write(value)
        out.close()
    return folder


def _judge_set(folder: Path, sound: set[int]) -> list[str]:
    """Opens and reads a record set as a run does. `sound`: records that must come through whatever
    the others are.
    """
    try:
        mixture = records.open_sets(str(folder))
    except (ValueError, OSError) as error:
        return [f"refused: {sentence(error)}"]
    count, outcome = len(mixture), []
    if count > 10 * COUNT:
        raise Broken(f"{count} records opened in a folder of at most {COUNT}")
    seen = {record.id for record in mixture.read(range(count)) if record.error is None}
    missing = [i for i in sound if f"id{i}" not in seen]
    if missing:
        raise Broken(f"the sound records {missing} were lost beside a broken one")
    options = dict(batch_size=count, height_px=16, channels=1)
    squeezed = {**options, "channels": 3, "squeeze_px": 64}
    runs = [lambda: pipeline.pretrain(mixture, width_px=64, seed=0, **options),
            lambda: pipeline.pretrain(mixture, width_px=64, seed=0, **squeezed),
            lambda: pipeline.evaluation(mixture, charset=Charset("line 0123456789"), **options),
            lambda: pipeline.recognition(mixture, charset=Charset("line 0123456789"), seed=0, **options)]  # fmt: skip
    for run in runs[1:3] if sound else runs:
        try:
            dataset = run()
        except ValueError as error:
            outcome.append(f"refused: {sentence(error)}")
            continue
        batch, host = dataset[0]
        outcome += _judge_batch(batch, host, sound if count == 3 else set())
    return sorted(set(outcome))


def _judge_batch(batch: dict[str, np.ndarray], host: dict[str, Any], sound: set[int]) -> list[str]:
    real = host["index"] >= 0
    bad = real & ~batch["valid"]
    if bad.sum() != len(host["errors"]):
        raise Broken(f"{bad.sum()} rows are bad, {len(host['errors'])} are named")
    if any(not batch["valid"][host["index"] == i].all() for i in sound):
        raise Broken(f"a sound record was refused beside a broken one: {host['errors']}")
    if np.any(batch["image"][~batch["valid"]] != 255) or np.any(batch["width"] < 1):
        raise Broken("a row that is not valid holds pixels")
    for error in host["errors"]:
        if (
            not re.match(r"\S.*\.array_record#\d+ \(.{1,300}\): \S", error)
            or len(error) > 1000
            or not error.isprintable()
        ):
            raise Broken(f"this does not name a record in one printable line: {error[:300]!r}")
    budget = pipeline.ErrorBudget(0.0, min_count=1)
    try:
        budget.add(host)
    except pipeline.TooManyBadRecords as error:
        sentence(error)
    else:
        if host["errors"]:
            raise Broken("the error budget did not notice")
    return [f"counted: {_kind(error.split('): ', 1)[1])}" for error in host["errors"]]


def _judge_folder(root: Path, scratch: Path) -> list[str]:
    """make_records on a folder of images."""
    outcome, read, skipped = judge_conversion([f"--input={root}"], scratch / "made")
    images = (
        [file for file in (root / "images").glob("?.png") if not file.is_dir()]
        if (root / "images").is_dir()
        else []
    )
    if read >= 0 and read + skipped.get("count", 0) < len(images):
        raise Broken("an image is neither a record nor named as left out")
    return outcome


def judge_conversion(flags: list[str], output: Path) -> tuple[list[str], int, dict[str, Any]]:
    """(how make_records ended, records that it wrote or -1 where it refused, what it left out)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = make_records.main([*flags, f"--output={output}", "--workers=0"])
    if code:
        if output.exists():
            raise Broken("make_records failed and left a folder behind")
        return [f"refused: {sentence(err.getvalue().strip())}"], -1, {}
    if not all(line.isprintable() for line in out.getvalue().splitlines()):
        raise Broken(
            f"the summary holds characters that a terminal obeys: {out.getvalue()[:300]!r}"
        )
    manifest = json.loads((output / "records.json").read_text("utf-8"))
    read = 0
    for split, entry in manifest["splits"].items():
        mixture = records.open_sets(f"{output}@{split}")
        for record in mixture.read(range(entry["count"])):
            read += 1
            if record.error:
                raise Broken(f"make_records wrote a record that cannot be read: {record.error}")
        if tuple(CANARY_SIZE) in zip(
            *(mixture.sets[0].index[name].tolist() for name in ("width_px", "height_px"))
        ):
            raise Broken("a picture from outside the folder is in the record set")
    if any(CANARY.encode() in file.read_bytes() for file in output.iterdir()):
        raise Broken("text from outside the folder is in the record set")
    skipped = manifest["skipped"]
    return sorted(f"counted: {_kind(reason)}" for reason in skipped["reasons"]), read, skipped


def sentence(error: Exception | str) -> str:
    """The message, if it is one that a person can use: one printable line, no traceback; else
    Broken.
    """
    text = str(error)
    if (
        not text
        or "\n" in text
        or len(text) > 1200
        or not text.isprintable()
        or "Traceback" in text
    ):
        raise Broken(
            f"this is not one clear sentence: {type(error).__name__} {text[:300]!r}"
        ) from (error if isinstance(error, Exception) else None)
    return _kind(text)


def _kind(reason: str) -> str:
    """A reason without what differs from case to case: numbers, paths and quoted bytes."""
    text = re.sub(r"b?'[^']*'|\"[^\"]*\"|\S*/\S*", "...", reason)
    return re.sub(r"[-\d.,]*\d+(e\d+)?", "N", text)[:90]
