"""LMDB in Clova's layout: read with every count adding up, written and read back byte for byte."""

import builtins
import io
import json
from pathlib import Path

import lmdb
import msgpack
import numpy as np
import pytest

from dig_jax.data import apart, records
from dig_jax.data.examples import Report
from dig_jax.data.sources import lmdb as source
from dig_jax.data.writer import encode_image, write
from dig_jax.tools import export_records
from tests.data.made import make, picture, pixels, png, refused

DATA = Path(__file__).parents[3] / "shared" / "data"


def database(folder, values, count=None):
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 24, lock=False) as env:
        with env.begin(write=True) as db:
            for key, value in values.items():
                db.put(key.encode(), value)
            if count is not None:
                db.put(b"num-samples", str(count).encode())
    return folder


def pairs(count, first=1, labels=True):
    values = {f"image-{i:09d}": png(i) for i in range(first, first + count)}
    texts = {f"label-{i:09d}": f"wörd {i}".encode() for i in range(first, first + count)}
    return values | (texts if labels else {})


def test_one_database(tmp_path):
    folder = database(tmp_path / "in", pairs(3), 3)
    (folder / "SOURCE.md").write_text("- Source: there\n- Licence: MIT\n")
    made = make(tmp_path / "out", "lmdb", f"--input={folder}", "--codec=png")
    assert made.texts == {f"image-{i:09d}": f"wörd {i}" for i in (1, 2, 3)}
    assert set(made.splits.values()) == {"train"} and made.reasons == {}
    assert made.rows["image-000000002"][1] == png(2)  # a PNG that fits is kept byte for byte
    assert (made.manifest["source"], made.manifest["licence"]) == ("there", "MIT")


def test_several_databases_with_their_splits_ids_and_licences(tmp_path):
    for place, licence in (
        ("training/MJ/MJ_train", "A"),
        ("training/ST", "B"),
        ("evaluation/SVT", "B"),
    ):
        folder = database(tmp_path / "in" / place, pairs(2), 2)
        (folder / "SOURCE.md").write_text(f"- Licence: {licence}\n- Source: {place}\n")
    made = make(tmp_path / "out", "lmdb", f"--input={tmp_path / 'in'}")
    assert made.splits == {
        f"{place}/image-{i:09d}": split
        for place, split in (
            ("evaluation/SVT", "test"),
            ("training/MJ/MJ_train", "train"),
            ("training/ST", "train"),
        )
        for i in (1, 2)
    }
    assert set(made.manifest["licence"].split("; ")) == {"A", "B"}
    assert "training/ST" in made.manifest["source"]
    both = f"{tmp_path / 'in/training/ST'},{tmp_path / 'in/evaluation'}"
    listed = make(tmp_path / "listed", "lmdb", f"--input={both}")
    assert list(listed.splits.values()) == ["train"] * 2 + ["test"] * 2
    assert "ST/image-000000001" in listed.rows and "evaluation/SVT/image-000000001" in listed.rows


def test_sets_without_labels_and_databases_that_are_one_file(tmp_path):
    folder = database(tmp_path / "in", pairs(2, labels=False), 2)
    (folder / "lock.mdb").unlink(missing_ok=True)
    file = (folder / "data.mdb").rename(tmp_path / "words.lmdb")
    made = make(tmp_path / "out", "lmdb", f"--input={file}")
    assert made.texts == {f"words.lmdb/image-{i:09d}": None for i in (1, 2)}


def test_counts_add_up_whatever_num_samples_says(tmp_path):
    values = pairs(4)
    del values["image-000000002"]
    values["image-000000003"] = b"no image"
    values["label-000000004"] = b"\xff\xfe"
    folder = database(tmp_path / "few", values, 3)
    made = make(tmp_path / "a", "lmdb", f"--input={folder}")
    assert made.texts == {"image-000000001": "wörd 1"}
    assert made.reasons == {
        "no image under this key": 1, "not an image": 1, "image beyond num-samples": 1,
    }  # fmt: skip
    folder = database(tmp_path / "many", values, 10**15)
    made = make(tmp_path / "b", "lmdb", f"--input={folder}")
    assert made.texts == {"image-000000001": "wörd 1", "image-000000004": None}
    assert made.reasons["counted by num-samples, but not in the database"] == 10**12
    folder = database(tmp_path / "none", pairs(3, first=0))
    made = make(tmp_path / "c", "lmdb", f"--input={folder}")
    assert list(made.rows) == [f"image-{i:09d}" for i in range(3)]
    assert any("no num-samples" in note for note in made.manifest["notes"])


def test_a_record_that_ends_the_reader_costs_that_record_only(tmp_path, monkeypatch):
    folder = database(tmp_path / "in", pairs(5), 5)
    real = apart.read_apart

    def dies(function, path, start):
        for item in real(function, path, start):
            if item[0] == 3 and len(item) == 4:
                raise apart.Died(function)
            yield item

    monkeypatch.setattr(source, "read_apart", dies)
    made = make(tmp_path / "out", "lmdb", f"--input={folder}")
    assert [int(id[-1]) for id in made.rows] == [1, 2, 4, 5]
    assert made.reasons == {"LMDB is damaged: this record ends its reader": 1}
    monkeypatch.setattr(source, "MAX_DEATHS", 1)
    made = make(tmp_path / "again", "lmdb", f"--input={folder}")
    assert made.reasons == {
        "LMDB is damaged: this record ends its reader": 1,
        "LMDB is damaged: the rest of it is given up": 2,
    }


def test_a_process_apart_may_die_hang_or_raise():
    assert list(apart.read_apart("itertools:repeat", "x", 2)) == ["x", "x"]
    with pytest.raises(ValueError, match="FileNotFoundError"):
        list(apart.read_apart("os:scandir", "/nowhere/at/all"))
    with pytest.raises(apart.Died):
        list(apart.read_apart("os:abort"))


def test_values_from_a_process_apart_come_back_and_nothing_else():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    given = [None, -1, 2.5, b"\xff", "caf\udce9", ["a", 1], {1: True}, image, 10**30]
    *plain, array, large = apart.unpacker(io.BytesIO(apart.packed(given))).unpack()
    assert plain == given[:-2] and large == str(10**30)
    assert array.dtype == np.uint8 and (array == image).all()
    half = apart.packed(("item", b"bytes"))[:-1]
    with pytest.raises(msgpack.OutOfData):
        apart.unpacker(io.BytesIO(half)).unpack()
    objects = msgpack.ExtType(apart.ARRAY, msgpack.packb(["|O", [1], b"01234567"]))
    with pytest.raises(ValueError):
        apart.unpacker(io.BytesIO(msgpack.packb(objects))).unpack()


def test_refusals(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    assert "holds no LMDB" in refused(tmp_path / "out", "lmdb", f"--input={tmp_path / 'empty'}")
    assert "must be a folder with data.mdb" in refused(tmp_path / "out", "lmdb")
    other = database(tmp_path / "other", {"0000": b"pickle"})
    assert "not of Clova's layout" in refused(tmp_path / "out", "lmdb", f"--input={other}")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "data.mdb").write_bytes(b"x" * 9000)
    assert "LMDB cannot be read" in refused(tmp_path / "out", "lmdb", f"--input={tmp_path / 'bad'}")
    assert "--source=lmdb" in refused(tmp_path / "out", "folder", f"--input={other}")
    real = builtins.__import__

    def without(name, *rest):
        if name == "lmdb":
            raise ImportError("No module named 'lmdb'")
        return real(name, *rest)

    monkeypatch.setattr("importlib.import_module", lambda name: without(name))
    with pytest.raises(RuntimeError, match=r"pip install 'dig_jax\[lmdb\]'"):
        source.need("lmdb", "lmdb")


def test_written_and_read_back_byte_for_byte(tmp_path):
    images = [encode_image(picture(i), "jpeg") for i in range(5)]
    lines = [("train", images[i], f"t {i}", f"p/{i}.jpg") for i in range(3)]
    lines += [("test", images[3], None, "q/3.jpg"), ("test", images[4], "t 4", "q/4.jpg")]
    write(tmp_path / "set", lines, about={"source": "s", "licence": "l", "attribution": "a"})
    counts = export_records.to_lmdb(tmp_path / "set", tmp_path / "db")
    assert counts == {"train": 3, "test": 2}
    made = make(tmp_path / "back", "lmdb", f"--input={tmp_path / 'db'}")
    assert made.rows == {id: (split, image, text) for split, image, text, id in lines}
    assert made.reasons == {} and made.manifest["licence"] == "l"
    assert (made.manifest["source"], made.manifest["attribution"]) == ("s", "a")
    old, new = (
        json.loads((tmp_path / name / "records.json").read_text())["splits"]
        for name in ("set", "back")
    )
    assert {k: v["digest"] for k, v in old.items()} == {k: v["digest"] for k, v in new.items()}
    with pytest.raises(FileExistsError, match="exists"):
        export_records.to_lmdb(tmp_path / "set", tmp_path / "db")


@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets of ../shared/data are not here")
def test_real_lines_there_and_back(tmp_path):
    import os

    (tmp_path / "in").mkdir()
    real = DATA / "icdar2015_words"
    wanted = (real / "splits" / "validation.txt").read_text().split()[:40]
    for name in wanted:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(real / name, tmp_path / "in" / name)
    make(tmp_path / "set", "folder", f"--input={tmp_path / 'in'}", "--follow_links", "--channels=3")
    export_records.to_lmdb(tmp_path / "set", tmp_path / "db")
    make(tmp_path / "back", "lmdb", f"--input={tmp_path / 'db'}", "--channels=3")
    a, b = (records.RecordSet(tmp_path / name).entry["digest"] for name in ("set", "back"))
    assert a == b and len(pixels(records.RecordSet(tmp_path / "back")[0].image).shape) == 3


@pytest.mark.slow
def test_a_conversion_that_goes_on_counts_once(tmp_path):
    """What is left out while a database is read is counted by the run that reads it, only once."""
    values = pairs(9)
    for number in (2, 5, 8):
        del values[f"image-{number:09d}"]
    folder = str(database(tmp_path / "in", values, 9))
    whole = Report()
    rows = list(source.examples(report=whole, input=folder, workers=0))
    for taken in range(1, 6):
        first, second = Report(), Report()
        part = source.examples(report=first, input=folder, workers=0)
        before = [next(part) for _ in range(taken)]
        second.before = first.state()
        # A job counts as done once its next one is asked for.
        after = list(source.examples(report=second, input=folder, workers=0))
        assert before[: len(rows) - len(after)] + after == rows
        assert second.reasons == whole.reasons == {"no image under this key": 3}
