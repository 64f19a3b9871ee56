"""The check of record sets: sound ones pass, what is wrong is counted and named."""

import json

import numpy as np
import pytest
from absl import flags

from dig_jax.data.record_set import RecordSet
from dig_jax.data.writer import encode_image, serialize, write
from dig_jax.tools import records_check
from dig_jax.tools.records_check import check, parts

IMAGE = encode_image(np.full((10, 30), 128, np.uint8), "png")


@pytest.fixture
def folder(tmp_path):
    rows = [("train", IMAGE, f"line {i}", str(i)) for i in range(600)]
    write(tmp_path / "set", [*rows, ("test", IMAGE, None, "x")], shards=3)
    return tmp_path / "set"


def test_a_sound_set_passes_and_its_digest_agrees(folder):
    assert parts(str(folder)) == [(str(folder), "train"), (str(folder), "test")]
    assert parts(f"{folder}@test") == [(str(folder), "test")]
    train = RecordSet(folder)
    found = check(train, 500, False)
    assert (found["count"], found["labelled"], found["read"]) == (600, 600, 500)
    assert found["faults"] == {} and found["digest"] == "" and found["bytes"] > 500 * len(IMAGE)
    assert found["fingerprint"] == train.fingerprint
    assert check(train, 0, True)["digest"] == "same" and check(train, 0, True)["read"] == 600


def test_what_is_wrong_is_counted_and_named(folder):
    shard = folder / "train-00001-of-00003.array_record"
    data, good = shard.read_bytes(), serialize(IMAGE, "line 200", "200")
    assert data.count(good) == 1
    shard.write_bytes(data.replace(good, b"\xff" * len(good)))
    (folder / "train-00002-of-00003.array_record").write_bytes(b"nonsense" * 100)
    found = check(RecordSet(folder), 0, True)
    assert found["digest"] == "other" and found["read"] == 600
    assert sorted(found["faults"].values()) == [1, 200]
    assert found["faults"]["the shard is damaged here"] == 1
    assert found["such"]["the shard is damaged here"] == f"{shard}#0"


def test_an_index_of_other_records_is_noticed(folder):
    index = folder / "index-train.npz"
    arrays = dict(np.load(index))
    arrays["width_px"][5] += 1
    arrays["label_chars"][6] += 1
    np.savez_compressed(index, **arrays)
    assert check(RecordSet(folder), 0, True)["faults"] == {
        "another size than in the index": 1, "another label than in the index": 1
    }  # fmt: skip


def test_the_address_of_a_bucket_says_how_it_is_mounted():
    with pytest.raises(ValueError, match=r"gcsfuse --implicit-dirs b /mnt/b; then check /mnt/b/r"):
        parts("gs://b/r")
    with pytest.raises(ValueError, match=r"such as at /mnt/b; then check /mnt/b/r") as told:
        parts("s3://b/r")
    assert "gcsfuse" not in str(told.value)


def test_program(folder, capsys):
    values = flags.FlagValues()
    flags.DEFINE_integer("sample", 100, "", flag_values=values)
    flags.DEFINE_bool("all", False, "", flag_values=values)
    values.mark_as_parsed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records_check, "FLAGS", values)
        records_check.main(["records_check", str(folder)])
        last = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert last["wrong"] == 0 and last["sets"][f"{folder}@train"]["read"] == 100
        (folder / "train-00002-of-00003.array_record").write_bytes(b"nonsense" * 100)
        with pytest.raises(SystemExit):
            records_check.main(["records_check", f"{folder}@train"])
    assert " x the shard " in capsys.readouterr().out
