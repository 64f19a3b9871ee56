"""TFDS builders become records, and records become TFDS builders."""

import json
import shutil
import sys

import pytest
import tensorflow_datasets as tfds
from tensorboardX.record_writer import RecordWriter

from dig_jax.data.examples import Skipped
from dig_jax.data.sources.tfds import items_of, read_shard
from dig_jax.data.writer import encode_image, example_class, serialize, write
from dig_jax.tools import export_records
from tests.data.made import make, picture, pixels, png, refused
from tests.data.toy_builders import Characters, Words


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    for builder in (Words, Characters):
        builder(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def test_a_builder_with_a_text(prepared, tmp_path):
    made = make(tmp_path / "out", "tfds", f"--input={prepared / 'words' / '1.2.0'}", "--codec=png")
    assert sorted(made.texts.values()) == sorted(
        [f"wörd test {i}" for i in (0, 1)] + [f"wörd train {i}" for i in range(5)]
    )
    for id, (split, image, text) in made.rows.items():
        assert split == text.split()[1] == id.split("/")[0]
        number = int(text.split()[-1])
        assert (pixels(image) == picture(number, 60 + number)).all()
    assert made.reasons == {} and made.manifest["licence"] == "CC0"
    assert "words/1.2.0" in made.manifest["source"] and "words.example" in made.manifest["source"]
    assert made.manifest["attribution"] == "@misc{words}"


def test_classes_become_their_names(prepared, tmp_path):
    made = make(tmp_path / "out", "tfds", f"--input={prepared / 'characters'}")
    assert sorted(made.texts.values()) == ["ga", "ka", "ka", "ka", "kha", "kha", "kha"]


def test_a_label_that_is_not_utf8_is_counted():
    value = serialize(png(1), "wxyz", "a").replace(b"wxyz", b"\xff\xfeyz")
    assert list(items_of(value, "train", "0", "image", "text", None)) == [
        Skipped("a", "label is not UTF-8 (image kept, unlabelled)"),
        ("train", png(1), None, "a"),
    ]


def test_a_class_beyond_the_names_is_counted():
    class_of = example_class()
    message = class_of()
    message.features.feature["image"].bytes_list.value.append(png(1))
    message.features.feature["label"].int64_list.value.append(2)
    read = lambda names: list(
        items_of(message.SerializeToString(), "train", "0", "image", "label", names)
    )
    assert read(["a", "b", "c"]) == [("train", png(1), "c", "0")]
    assert read(None) == [("train", png(1), "2", "0")]
    assert read(["a", "b"]) == [
        Skipped("0", "class without a name (image kept, unlabelled)"),
        ("train", png(1), None, "0"),
    ]


def test_builders_by_name(tmp_path):
    flags = ("--builder=tests.data.toy_builders:Words", f"--input={tmp_path / 'data'}")
    made = make(
        tmp_path / "out", "tfds", *flags, "--image_column=picture", "--text_column=transcription"
    )
    assert len(made.rows) == 7 and (tmp_path / "data" / "words" / "1.2.0").is_dir()
    told = refused(tmp_path / "x", "tfds", "--builder=no_such_builder", f"--input={tmp_path}")
    assert "cannot be prepared" in told


def test_sets_that_tensorflow_prepared(prepared, tmp_path):
    """TFRecord files, which builders write where TensorFlow is there."""
    folder = tmp_path / "words"
    shutil.copytree(prepared / "words" / "1.2.0", folder)
    for file in sorted(folder.glob("*.array_record-*")):
        writer = RecordWriter(str(folder / file.name.replace("array_record", "tfrecord")))
        for value in read_shard(file):
            writer.write(value)
        writer.close()
        file.unlink()
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    a = make(tmp_path / "a", "tfds", f"--input={folder}")
    b = make(tmp_path / "b", "tfds", f"--input={prepared / 'words' / '1.2.0'}")
    assert a.rows == b.rows
    file = next(folder.glob("*train*"))
    file.write_bytes(file.read_bytes()[:-30])
    cut = make(tmp_path / "cut", "tfds", f"--input={folder}")
    assert len(cut.rows) == 6 and cut.reasons == {"shard is missing or damaged": 1}
    file.unlink()
    assert make(tmp_path / "gone", "tfds", f"--input={folder}").reasons == {
        "shard is missing or damaged": 5
    }


def test_refusals(prepared, tmp_path):
    out = tmp_path / "out"
    assert "several prepared sets" in refused(out, "tfds", f"--input={prepared}")
    assert "holds no dataset_info.json" in refused(out, "tfds", f"--input={tmp_path}")
    assert "must be a prepared TFDS folder" in refused(out, "tfds")
    words = f"--input={prepared / 'words'}"
    told = refused(out, "tfds", words, "--image_column=x")
    assert "no feature 'x'" in told and "picture (Image)" in told
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "dataset_info.json").write_text("{}")
    assert "cannot be opened by TFDS" in refused(out, "tfds", f"--input={tmp_path / 'bad'}")


def test_features_import_nothing_of_others(prepared, tmp_path):
    """features.json may name any class, which TFDS imports."""
    shutil.copytree(prepared / "words" / "1.2.0", tmp_path / "in")
    file = tmp_path / "in" / "features.json"
    assert "tensorflow_datasets" in file.read_text()
    file.write_text(
        file.read_text().replace(
            "tensorflow_datasets.core.features.text_feature.Text", "antigravity.Text"
        )
    )
    told = refused(tmp_path / "out", "tfds", f"--input={tmp_path / 'in'}")
    assert "antigravity.Text, which is not TFDS's" in told and "antigravity" not in sys.modules


def test_records_are_a_builder(tmp_path):
    lines = [
        ("train", encode_image(picture(i)), f"t {i}" if i % 2 else None, f"p/{i}") for i in range(5)
    ]
    lines.append(("test", png(9), "wörd", "q"))
    write(tmp_path / "set", lines, shards=2, about={"source": "s", "licence": "l", "channels": 1})
    assert export_records.to_tfds(tmp_path / "set") == {"train": 5, "test": 1}
    builder = tfds.builder_from_directory(tmp_path / "set")
    rows = builder.as_data_source("train")
    assert [row["text"] for row in rows] == [None, b"t 1", None, b"t 3", None]
    assert [row["id"].decode() for row in rows] == [f"p/{i}" for i in range(5)]
    assert (rows[3]["image"][..., 0] == pixels(lines[3][1])).all()
    assert len(builder.as_data_source("train[:40%]")) == 2
    back = make(tmp_path / "back", "tfds", f"--input={tmp_path / 'set'}", "--codec=jpeg")
    assert back.texts == {id: text for _, _, text, id in lines}
    assert back.rows["p/1"][1] == lines[1][1]
