"""Records folders: what is written, we, TFDS and plain ArrayRecord read back; damage is named and
never fatal.
"""

import json
import pickle
import subprocess
import sys
import threading
from concurrent import futures

import cv2
import numpy as np
import pytest

from dig_jax.data import records
from dig_jax.data.records import (
    BadRecord,
    Report,
    open_sets,
    parse,
    parse_spec,
    resized_width,
    serialize,
    write,
)
from dig_jax.data.writer import example_class


def image(width=20, height=10, codec="png"):
    return records.encode_image(np.full((height, width), 128, np.uint8), codec)


def lines(count, split="train", width=20):
    return [(split, image(width + i, 10), f"line {i}", f"{split}/{i}") for i in range(count)]


@pytest.fixture
def folder(tmp_path):
    unlabelled = [("train", image(99, 48), None, "bare")]
    write(
        tmp_path / "one", lines(7) + unlabelled + lines(3, "validation", 60), shards=3, height_px=48
    )
    write(tmp_path / "two", lines(4, width=200), height_px=48)
    return tmp_path


def test_written_set_reads_back_in_order(folder):
    found = records.RecordSet(folder / "one")
    assert len(found) == 8 and [r.id for r in found.read(range(8))] == [
        f"train/{i}" for i in range(7)
    ] + ["bare"]
    assert found[7].text is None and found[7].image == image(99, 48) and found[7].error is None
    assert [r.text for r in found.read([6, 0, 6])] == [
        "line 6",
        "line 0",
        "line 6",
    ]  # any order, repeats too
    assert found.label_chars.tolist() == [6] * 7 + [-1] and found.label_chars.dtype == np.int32
    assert (
        found.widths(5).tolist() == [10, 11, 11, 12, 12, 13, 13, 10]
        and found.widths(5).dtype == np.int32
    )
    assert len(records.RecordSet(folder / "one", "validation")) == 3


def test_manifest_says_what_the_folder_holds(folder):
    manifest = records.read_manifest(folder / "one")
    train = manifest["splits"]["train"]
    assert (
        manifest["schema_version"] == 1 and manifest["count"] == 11 and manifest["height_px"] == 48
    )
    assert train["count"] == 8 and train["labelled"] == 7 and train["shard_counts"] == [2, 3, 3]
    assert train["shards"] == [f"train-0000{i}-of-00003.array_record" for i in range(3)]
    assert manifest["charset"] == " 0123456eiln"  # of train: its lines are numbered to 6
    assert sorted(p.name for p in (folder / "one").iterdir()) == sorted(
        ["records.json", "index-train.npz", "index-validation.npz", *train["shards"]]
        + ["labels-train.npz", "labels-validation.npz"]
        + manifest["splits"]["validation"]["shards"]
    )


def test_index_needs_no_pickle(folder):
    with np.load(folder / "one" / "index-train.npz", allow_pickle=False) as index:
        assert {k: v.dtype.name for k, v in index.items()} == {
            "width_px": "uint16", "height_px": "uint16", "label_chars": "int32",
        }  # fmt: skip


def test_shards_are_plain_array_record_and_tfds_parses_them(folder):
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordReader

    shard = folder / "one" / "train-00001-of-00003.array_record"
    reader = ArrayRecordReader(str(shard))
    values = reader.read_all()
    assert "group_size:1," in reader.writer_options_string() and len(values) == 3
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 1)),
            "text": tfds.features.Text(),
            "id": tfds.features.Text(),
        }
    )
    example = features.deserialize_example_np(values[0])
    assert (
        example["text"] == b"line 2"
        and example["id"] == b"train/2"
        and example["image"].shape == (10, 22, 1)
    )
    example = example_class().FromString(values[2]).features.feature
    assert example["text"].bytes_list.value[0] == b"line 4"


@pytest.mark.parametrize("shards", [1, 2, 5, 50])
def test_any_number_of_shards_holds_the_same_records(tmp_path, shards):
    write(tmp_path / "r", lines(5), shards=shards)
    found = records.RecordSet(tmp_path / "r")
    assert [r.id for r in found.read(range(5))] == [f"train/{i}" for i in range(5)]
    assert len(found.entry["shards"]) == min(shards, 5)


def test_where_names_shard_and_row(folder):
    found = records.RecordSet(folder / "one")
    for index in range(8):
        file, _, row = found.where(index).partition("#")
        from array_record.python.array_record_module import ArrayRecordReader

        assert parse(ArrayRecordReader(file).read([int(row)])[0]).id == found[index].id
    assert found.where(2) == f"{folder}/one/train-00001-of-00003.array_record#0"


def test_texts_are_stored_normalised_and_empty_ones_reported(tmp_path):
    report = Report()
    examples = [("train", image(), "e\u0301  te\u0301 ", "a"), ("train", image(), " \t", "b")]
    manifest = write(tmp_path / "r", examples, report=report)
    found = records.RecordSet(tmp_path / "r")
    assert (
        found[0].text == "é té" and found.label_chars.tolist() == [4, -1] and found[1].text is None
    )
    assert manifest["skipped"] == {
        "count": 1,
        "reasons": {"empty label (image kept, unlabelled)": 1},
        "first": [{"name": "b", "reason": "empty label (image kept, unlabelled)"}],
    }


def test_charset_is_that_of_the_training_labels(tmp_path):
    examples = [("train", image(), "ab", "a"), ("validation", image(), "xyz", "b")]
    assert write(tmp_path / "r", examples)["charset"] == "ab"
    assert write(tmp_path / "s", examples[1:])["charset"] == "xyz"  # no such split: of all labels
    assert write(tmp_path / "t", [("train", image(), None, "a")])["charset"] == ""


def test_parse_refuses_what_is_no_record():
    for value, reason in [
        (b"\xff\xff\xff", "not a tf.Example"),
        (b"", "no image"),
        (serialize(b"", "x", "id"), "no image"),
        (serialize(b"i", "x", "id").replace(b"\x01x", b"\x01\xff"), "not UTF-8"),
    ]:
        with pytest.raises(BadRecord, match=reason):
            parse(value)
    assert parse(serialize(b"i", "ſaͤ", "\udcff")) == (b"i", "ſaͤ", "\\udcff", None)


def test_broken_images_are_stored_and_have_no_size(tmp_path):
    write(tmp_path / "r", [("train", b"no image", "x", "a"), *lines(1)])
    found = records.RecordSet(tmp_path / "r")
    assert found.index["width_px"].tolist() == [0, 20] and found.widths(32).tolist() == [1, 64]


def test_a_damaged_record_spoils_only_itself(folder):
    file = folder / "one" / "train-00000-of-00003.array_record"
    data = file.read_bytes()
    at = data.index(b"train/1")
    file.write_bytes(data[:at] + b"\xff" * 7 + data[at + 7 :])
    read = records.RecordSet(folder / "one").read([0, 1, 2])
    assert [r.error is None for r in read] == [True, False, True]
    assert read[1].image == b"" and "damaged" in read[1].error and read[2].text == "line 2"


def test_a_cut_or_foreign_shard_is_named_record_by_record(folder):
    (folder / "one" / "train-00000-of-00003.array_record").write_bytes(b"nonsense" * 100)
    read = records.RecordSet(folder / "one").read(range(8))
    assert [bool(r.error) for r in read] == [True] * 2 + [False] * 6


def test_a_shard_that_vanishes_is_named_too(folder):
    found = records.RecordSet(folder / "one")
    (folder / "one" / "train-00000-of-00003.array_record").unlink()
    assert [bool(r.error) for r in found.read(range(8))] == [True] * 2 + [False] * 6


def test_missing_files_and_wrong_versions_are_one_sentence(folder):
    with pytest.raises(FileNotFoundError, match=r"No record set at .*absent.*one, .*two"):
        records.RecordSet(folder / "absent")
    with pytest.raises(ValueError, match="no split 'test'; it has: train, validation"):
        records.RecordSet(folder / "one", "test")
    (folder / "one" / "train-00002-of-00003.array_record").unlink()
    with pytest.raises(FileNotFoundError, match="train-00002.* is missing"):
        records.RecordSet(folder / "one")
    (folder / "two" / "index-train.npz").unlink()
    with pytest.raises(FileNotFoundError, match="index-train.npz is missing"):
        records.RecordSet(folder / "two")
    manifest = json.loads((folder / "two" / "records.json").read_text())
    (folder / "two" / "records.json").write_text(json.dumps({**manifest, "schema_version": 9}))
    with pytest.raises(ValueError, match="schema version 9"):
        records.RecordSet(folder / "two")
    (folder / "two" / "records.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        records.RecordSet(folder / "two")


def test_an_index_of_another_set_is_refused(folder):
    (folder / "one" / "index-train.npz").write_bytes(
        (folder / "two" / "index-train.npz").read_bytes()
    )
    with pytest.raises(ValueError, match="does not fit"):
        records.RecordSet(folder / "one")


@pytest.mark.parametrize("at_once", [1, 5, 6, 100])
def test_a_mixture_is_streamed_in_order_whatever_is_read_at_once(folder, monkeypatch, at_once):
    monkeypatch.setattr(records, "AT_ONCE", at_once)
    mixture = open_sets(f"{folder}/one,{folder}/two").keep(np.arange(12) % 2 == 0)
    assert list(mixture.stream()) == mixture.read(range(6))


def test_indices_out_of_range_raise(folder):
    mixture = open_sets(f"{folder}/one,{folder}/two")
    for wrong in (-1, 12):
        with pytest.raises(IndexError):
            mixture.read([wrong])
        with pytest.raises(IndexError):
            mixture.sets[0].read([wrong])
    assert mixture.read([]) == []


def test_pickled_sets_open_their_files_again(folder):
    mixture = open_sets(f"{folder}/one,{folder}/two")
    mixture.read(range(12))
    again = pickle.loads(pickle.dumps(mixture))
    assert (
        all(r is None for s in again.sets for r in s._readers)
        and "index" not in again.sets[0].__dict__
    )
    assert again.read(range(12)) == mixture.read(range(12))
    assert again.widths(32).tolist() == mixture.widths(32).tolist()


def test_threads_share_a_set(folder):
    found, barrier = records.RecordSet(folder / "one"), threading.Barrier(8)

    def read(seed):
        order = np.random.default_rng(seed).integers(0, 8, 200)
        barrier.wait()
        return [r.id for r in found.read(order)] == [
            ("bare" if i == 7 else f"train/{i}") for i in order
        ]

    with futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def test_resized_width_keeps_the_aspect_ratio():
    assert (
        resized_width(100, 48, 32) == 67
        and resized_width(1, 48, 32) == 1
        and resized_width(3, 48, 8) == 1
    )
    assert resized_width(65535, 1, 64) == 65535 * 64 and resized_width(5, 4, 2) == 3  # half up
    wide = np.array([60000, 8], np.uint16)  # as the index stores them: must not overflow
    assert resized_width(wide, np.array([48, 0], np.uint16), 32).tolist() == [40000, 256]


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("a", [("a", "train", None)]),
        ("a@validation", [("a", "validation", None)]),
        ("a*2", [("a", "train", 2.0)]),
        ("/x/a@v-1.b*0.5, b", [("/x/a", "v-1.b", 0.5), ("b", "train", None)]),
        ("/x@y/a*b/c", [("/x@y/a*b/c", "train", None)]),
        ("/x@y/z", [("/x@y/z", "train", None)]),
        ("me@home/a@val", [("me@home/a", "val", None)]),
        ("a*1e-3", [("a", "train", 1e-3)]),
    ],
)
def test_spec_grammar(spec, parts):
    assert parse_spec(spec) == parts


@pytest.mark.parametrize(
    "spec", ["", "a,", ",a", "a@", "@train", "a*", "a*x", "a*0", "a*-1", "a*nan", "a*inf", "a@*2"]
)
def test_spec_refusals(spec):
    with pytest.raises(ValueError, match="data spec"):
        parse_spec(spec)


def test_mixture_runs_through_its_sets(folder):
    mixture = open_sets(f"{folder}/one,{folder}/two@train,{folder}/one@validation")
    assert len(mixture) == 15 and mixture.offsets.tolist() == [0, 8, 12, 15]
    assert [r.id for r in mixture.read([14, 0, 9])] == ["validation/2", "train/0", "train/1"]
    assert mixture.where(8) == f"{folder}/two/train-00000-of-00001.array_record#0"
    assert mixture.widths(10)[[0, 8, 12]].tolist() == [20, 200, 60]
    assert mixture.label_chars.tolist() == [6] * 7 + [-1] + [6] * 7
    assert list(mixture.texts()) == [f"line {i}" for i in [*range(7), *range(4), *range(3)]]


def test_weights(folder):
    plain = open_sets(f"{folder}/one,{folder}/two")
    assert not plain.weighted and plain.weights == pytest.approx((8 / 12, 4 / 12))
    weighted = open_sets(f"{folder}/one*3,{folder}/two")
    assert weighted.weighted and weighted.weights == (0.75, 0.25)


def test_rehearsed_records_are_whole_and_take_their_share(folder):
    spec = f"{folder}/one*3,{folder}/two"
    options = {"subset": 4, "labelled": True}
    own = open_sets(spec, **options)
    both = open_sets(spec, **options, rehearse=f"{folder}/one@validation", rehearse_share=0.2)
    assert both.weighted and both.weights == pytest.approx((0.6, 0.2, 0.2))
    assert both.offsets.tolist() == [*own.offsets.tolist(), 4 + 3]
    ids = [record.id for record in both.read(range(7))]
    assert ids == [r.id for r in own.read(range(4))] + [f"validation/{i}" for i in range(3)]
    assert both.where(6).startswith(f"{folder}/one/validation-")
    assert list(both.texts())[:4] == list(own.texts())
    # A set without weights has the shares of its sizes, beside the rehearsed one.
    alone = open_sets(f"{folder}/one,{folder}/two", rehearse=f"{folder}/two")
    assert alone.weights == pytest.approx((1 / 3, 1 / 6, 1 / 2)) and len(alone) == 16
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="config.data.rehearse_share is"):
            open_sets(spec, rehearse=spec, rehearse_share=share)


def test_subsets_are_seeded_nested_and_of_the_right_size(folder):
    spec = f"{folder}/one,{folder}/two"
    half, quarter = open_sets(spec, subset=0.5), open_sets(spec, subset=3)
    assert len(half) == 6 and len(quarter) == 3 and set(quarter.chosen) < set(half.chosen)
    assert (
        half.chosen.tolist() == open_sets(spec, subset=0.5).chosen.tolist() == sorted(half.chosen)
    )
    assert any(
        half.chosen.tolist() != open_sets(spec, subset=0.5, subset_seed=s).chosen.tolist()
        for s in (1, 2, 3)
    )
    assert (
        len(open_sets(spec, subset=1))
        == len(open_sets(spec, subset=1.0))
        == len(open_sets(spec, subset=12))
        == 12
    )
    for mixture in (half, quarter):
        assert [mixture.where(i) for i in range(len(mixture))] == [
            open_sets(spec).where(i) for i in mixture.chosen
        ]
        assert (
            mixture.offsets[-1]
            == len(mixture)
            == len(mixture.widths(32))
            == len(mixture.label_chars)
        )


def test_first_subset_is_that_of_the_official_code(folder):
    spec = f"{folder}/one,{folder}/two"
    assert open_sets(spec, subset=0.6, subset_order="first").chosen.tolist() == [
        0,
        1,
        2,
        3,
        8,
        9,
    ]  # of each set, floor
    assert open_sets(spec, subset=9, subset_order="first").chosen.tolist() == list(range(9))


def test_subset_refusals(folder):
    spec = f"{folder}/one"
    for subset, message in [
        (0, "fraction"),
        (-1, "fraction"),
        (2.5, "fraction"),
        (9, "only 8"),
        (0.01, "leaves none"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_sets(spec, subset=subset)
    with pytest.raises(ValueError, match="subset_order is 'last'"):
        open_sets(spec, subset=2, subset_order="last")
    with pytest.raises(ValueError, match="two@train is in the subset"):
        open_sets(f"{folder}/one,{folder}/two*2", subset=2, subset_order="first")


def test_write_replaces_only_when_told_and_only_record_sets(folder):
    with pytest.raises(FileExistsError, match="--overwrite"):
        write(folder / "one", lines(1))
    assert len(records.RecordSet(folder / "one")) == 8
    write(folder / "one", lines(1), overwrite=True)
    assert len(records.RecordSet(folder / "one")) == 1
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="left alone"):
        write(folder / "mine", lines(1), overwrite=True)
    assert (folder / "mine" / "thesis.txt").read_text() == "x"


def test_a_failing_source_leaves_nothing_behind(folder):
    def fails():
        yield from lines(3)
        raise RuntimeError("disk on fire")

    for overwrite in (False, True):
        target = folder / ("one" if overwrite else "new")
        with pytest.raises(RuntimeError, match="on fire"):
            write(target, fails(), overwrite=overwrite)
    assert (
        sorted(p.name for p in folder.iterdir()) == ["one", "two"]
        and len(records.RecordSet(folder / "one")) == 8
    )


def test_nothing_to_write_and_bad_split_names_are_errors(tmp_path):
    report = Report()
    report.skip("x", "empty file")
    with pytest.raises(ValueError, match="1 x empty file"):
        write(tmp_path / "r", [], report=report)
    with pytest.raises(ValueError, match="split name"):
        write(tmp_path / "r", [("a/b", image(), None, "x")])
    assert not list(tmp_path.iterdir())


def test_encode_image_keeps_colour_order_and_refuses_other_codecs():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    back = cv2.imdecode(
        np.frombuffer(records.encode_image(red, "png"), np.uint8), cv2.IMREAD_COLOR_RGB
    )
    assert (back == red).all()
    assert records.encode_image(red).startswith(b"\xff\xd8") and records.encode_image(
        red[..., :1], "png"
    )
    with pytest.raises(ValueError, match="codec is 'gif'"):
        records.encode_image(red, "gif")


def test_import_needs_neither_jax_nor_tensorflow_nor_tfds():
    code = (
        "import sys, dig_jax.data.records; print([m for m in ('jax', 'tensorflow', "
        "'tensorflow_datasets', 'grain') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_reading_never_imports_tensorflow(folder):
    code = (
        "import sys; from dig_jax.data.records import open_sets; assert "
        f"open_sets({str(folder / 'one')!r}).read([0])[0].text == 'line 0'; print('tensorflow' in "
        "sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


def test_a_comma_in_a_path_can_be_named(tmp_path):
    for name in ("a,b", "c", "d,e,f"):
        write(tmp_path / name / "rec", lines(2) + lines(1, "test"))
    spec = f"{tmp_path}/a,b/rec*2,{tmp_path}/c/rec@test,{tmp_path}/d,e,f/rec@train"
    assert parse_spec(spec) == [
        (f"{tmp_path}/a,b/rec", "train", 2.0),
        (f"{tmp_path}/c/rec", "test", None),
        (f"{tmp_path}/d,e,f/rec", "train", None),
    ]
    assert len(open_sets(spec)) == 5


def test_addresses_of_object_stores_are_refused_and_home_is_found(tmp_path, monkeypatch):
    for address in ("gs://bucket/rec", "s3://bucket/rec"):
        with pytest.raises(ValueError, match="address of an object store"):
            open_sets(f"{tmp_path},{address}@train")
        with pytest.raises(ValueError, match="address of an object store"):
            write(address, lines(1))
    monkeypatch.setenv("HOME", str(tmp_path))
    write("~/rec", lines(2))
    assert (tmp_path / "rec").is_dir() and len(open_sets("~/rec")) == 2


def test_val_is_the_validation_split(tmp_path):
    for name in ("val", "valid", "dev"):
        write(tmp_path / name, lines(3) + lines(2, name))
        found = records.RecordSet(tmp_path / name, "validation")
        assert len(found) == 2 and found.split == name
    write(tmp_path / "none", lines(3))
    with pytest.raises(
        ValueError, match=r"evals.recognition.datasets.*make_records --validation=0.1"
    ):
        records.RecordSet(tmp_path / "none", "validation")


def test_leftovers_zero_widths_and_upright_lines_are_noted(tmp_path):
    (tmp_path / ".rec.unfinished-123").mkdir()
    rows = [("train", image(20, 10), "a\u200bb", "x"), ("train", image(8, 30), "abc", "tall")]
    notes = write(tmp_path / "rec", rows + [("train", image(8, 30), "1", "digit")])["notes"]
    assert any("1 folders of conversions that were killed" in n and "123" in n for n in notes)
    assert any("1 labels held zero-width characters" in note for note in notes)
    assert any("1 images are more than 2 times as high as wide, such as tall" in n for n in notes)
    assert records.RecordSet(tmp_path / "rec")[0].text == "ab"
