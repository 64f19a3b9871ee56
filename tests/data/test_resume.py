"""Conversions that are killed, fail or find the disk full: what is done is kept and continued."""

import collections
import contextlib
import json
import os

import cv2
import numpy as np
import pytest

from dig_jax.data import spool, writer
from dig_jax.data.examples import Report, Skipped
from dig_jax.data.record_set import RecordSet
from dig_jax.data.writer import encode_image, write
from tests import kill_conversion

IMAGE = encode_image(np.full((10, 30), 128, np.uint8), "png")


@pytest.fixture(autouse=True)
def every_record_is_a_chunk(monkeypatch):
    monkeypatch.setattr(spool, "COMMIT_BYTES", 1)


class Stopped(Exception):
    pass


def job(number):
    """Jobs of no, one and two records, some of which are left out."""
    name = f"train/{number}"
    split = "validation" if number % 7 == 3 else "train"
    lines = [(split, IMAGE, f"line {number}.{i}", f"{name}.{i}") for i in range(number % 3)]
    return [*lines, *([Skipped(name, "odd")] if number % 4 == 0 else [])]


def examples(report, stop, seen, jobs=30):
    report.skip("listing", "listed badly")
    report.total = jobs

    def made(number):
        if number == stop:
            raise Stopped
        seen[number] += 1
        return job(number)

    yield from report.work(made, range(jobs), workers=0)


def plain(report, stop, seen, jobs=30):
    """The same from a source that does not use Report.work."""
    report.skip("listing", "listed badly")
    for number in range(jobs):
        if number == stop:
            raise Stopped
        seen[number] += 1
        for made in job(number):
            if isinstance(made, Skipped):
                report.skip(*made)
            else:
                yield made


def manifest_of(folder):
    manifest = json.loads((folder / "records.json").read_text())
    return manifest, [RecordSet(folder, split).fingerprint for split in manifest["splits"]]


@pytest.mark.parametrize("source", [examples, plain])
def test_a_conversion_goes_on_where_it_failed(tmp_path, source):
    """Stopped at each of 30 jobs: the same set as without a stop, no job done twice for long."""
    options = {"name": "x", "shards": 2}
    report = Report()
    write(tmp_path / "alone", source(report, None, collections.Counter()), report=report, **options)
    seen, expected = collections.Counter(), manifest_of(tmp_path / "alone")
    for stop in [*range(1, 30), None]:
        report = Report()
        rows = source(report, stop, seen)
        expect = contextlib.nullcontext() if stop is None else pytest.raises(Stopped)
        with expect:
            write(tmp_path / "set", rows, report=report, asked={"a": 1}, **options)
        left = tmp_path / ".set.unfinished" / "progress.json"
        assert left.is_file() == (stop is not None and stop > 2)
    assert manifest_of(tmp_path / "set") == expected
    assert expected[0]["skipped"]["reasons"] == {"listed badly": 1, "odd": 8}
    if source is examples:
        assert max(seen.values()) <= 4  # jobs without a record are done again
    assert sorted(os.listdir(tmp_path)) == ["alone", "set"]


@pytest.mark.parametrize("source", [examples, plain])
def test_a_conversion_goes_on_after_its_last_record(tmp_path, monkeypatch, source):
    """A kill while the records are arranged: none comes twice, and no count is lost."""

    def fails(columns, values, report):
        raise Stopped

    fails.moved = 0.0
    tall = encode_image(np.full((30, 10), 128, np.uint8), "png")
    monkeypatch.setattr(spool, "COMMIT_BYTES", 1 << 30)  # nothing is written down before the end
    made = {}
    for name, turns in (("alone", [None]), ("set", [fails, None])):
        for arrange in turns:
            report = Report()
            rows = source(report, None, collections.Counter(), 9)
            rows = ((split, tall, text, id) for split, _, text, id in rows)
            with contextlib.nullcontext() if arrange is None else pytest.raises(Stopped):
                write(
                    tmp_path / name, rows, report=report, asked={"a": 1}, arrange=arrange, name="x"
                )
        made[name] = manifest_of(tmp_path / name)
    assert made["set"] == made["alone"] and "9 images are more than 2" in made["set"][0]["notes"][0]


def test_what_a_kill_left_of_a_replaced_set_is_no_obstacle(tmp_path):
    row = ("train", IMAGE, "a", "a")
    write(tmp_path / "set", [row])
    (tmp_path / ".set.unfinished-old").mkdir()
    (tmp_path / ".set.unfinished-old" / "records.json").write_text("{}")
    assert write(tmp_path / "set", [row] * 2, overwrite=True, asked={"a": 1})["count"] == 2
    assert os.listdir(tmp_path) == ["set"]


def test_another_conversion_is_not_gone_on_with(tmp_path):
    with pytest.raises(Stopped):
        write(tmp_path / "set", examples(report := Report(), 20, collections.Counter()),
              report=report, asked={"height_px": 48})  # fmt: skip
    report = Report()
    with pytest.raises(ValueError, match=r"records of an unfinished .* height_px=48, not 64"):
        write(tmp_path / "set", examples(report, None, collections.Counter()), report=report,
              asked={"height_px": 64})  # fmt: skip
    report = Report()
    with pytest.raises(ValueError, match="no longer what it was"):
        again = (("x", n) for n in range(30))
        write(tmp_path / "set", report.work(lambda j: job(j[1]), again, 0), report=report,
              asked={"height_px": 48})  # fmt: skip
    assert (tmp_path / ".set.unfinished" / "progress.json").is_file()  # nothing is lost by asking


def test_two_conversions_do_not_write_one_set(tmp_path):
    report = Report()

    def second():
        yield ("train", IMAGE, "a", "a")
        write(tmp_path / "set", examples(report, None, collections.Counter()), report=report,
              asked={"a": 1})  # fmt: skip

    with pytest.raises(ValueError, match="another conversion is writing"):
        write(tmp_path / "set", second(), asked={"a": 1})


def test_a_disk_that_is_too_small_is_named_before_it_is_full(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: usage(0, 0, 5000))
    report, seen = Report(), collections.Counter()
    with pytest.raises(OSError, match=r"0.0 GB free and the records will take about 0.0 GB more"):
        write(tmp_path / "set", examples(report, None, seen, 2000), report=report, asked={"a": 1})
    assert seen.total() < 20
    monkeypatch.undo()
    report = Report()
    manifest = write(tmp_path / "set", examples(report, None, seen, 2000), report=report,
                     asked={"a": 1})  # fmt: skip
    assert manifest["count"] == sum(len(job(n)) for n in range(2000)) - 500


@pytest.mark.parametrize("shards, enough", [(0, True), (8, True), (1, False)])
def test_a_large_shard_needs_room_beside_the_records(tmp_path, monkeypatch, shards, enough):
    """--shards=1 makes one shard of all records, and they lie on the disk twice meanwhile."""
    usage, report = collections.namedtuple("usage", "total used free"), Report()
    report.total, each = 400, len(writer.serialize(IMAGE, "a", "000"))
    monkeypatch.setattr(writer, "SHARD_BYTES", 10 * each)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: usage(0, 0, 500 * each))
    rows = (("train", IMAGE, "a", f"{i:03d}") for i in range(400))
    with contextlib.nullcontext() if enough else pytest.raises(OSError, match="GB free"):
        write(tmp_path / "set", rows, shards=shards, report=report)


def test_the_records_lie_on_the_disk_about_once(tmp_path):
    """Chunks go while the shards are written: 40 chunks and 40 shards never stand side by side."""
    sizes, write_shard = [], spool.Spool._write_shard

    def watched(self, *args):
        write_shard(self, *args)
        sizes.append(len(list(self.folder.glob("*.array_record"))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool.Spool, "_write_shard", watched)
        rows = (("train", IMAGE, "a", str(i)) for i in range(40))
        write(tmp_path / "set", rows, shards=40)
    assert len(sizes) == 40 and max(sizes) <= 41


@pytest.mark.slow
def test_a_set_made_through_kills_is_that_of_one_left_alone(tmp_path, capsys):
    for i in range(300):
        line = cv2.putText(np.full((40, 200), 230, np.uint8), str(i), (9, 30), 0, 1, 20, 2)
        (tmp_path / f"{i}.png").write_bytes(encode_image(line, "png"))
    text = "".join(f"{i}.png\t{i}\n" for i in range(300))
    (tmp_path / "labels.tsv").write_text(text)
    done = kill_conversion.run_apart(
        [f"--input={tmp_path}", f"--output={tmp_path / 'out'}", "--kills=4", "--commit_s=0.01"]
        + ["--workers=0", "--shards=3", "--validation=0.2"]
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and told["equal"] and told["count"] == 300, done.stderr
