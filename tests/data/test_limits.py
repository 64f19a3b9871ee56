"""What can be learnt of a record set, known before anything compiles; labels without images."""

import numpy as np
import pytest

from dig_jax.data import labels, limits, pipeline, records
from dig_jax.models.decoders import ctc
from dig_jax.text import Charset


def image(width, height=8):
    return records.encode_image(np.full((height, width), 128, np.uint8), "png")


def mixture(folder, widths, texts, **options):
    rows = [("train", image(w), t, f"id{i}") for i, (w, t) in enumerate(zip(widths, texts))]
    records.write(folder, iter(rows))
    return records.open_sets(str(folder), **options)


# ---- labels -------------------------------------------------------------------------------------


def test_frames_needed_against_a_loop():
    texts = ["abc", "aab", None, "", "aaaa", "a", None, "abab", "bb"]
    chars = np.array([-1 if t is None else len(t) for t in texts], np.int32)
    codes = labels.codes_of("".join(t or "" for t in texts))
    expected = [
        -1 if t is None else max(1, len(t) + sum(a == b for a, b in zip(t, t[1:]))) for t in texts
    ]
    assert labels.frames_needed(codes, chars).tolist() == expected
    assert labels.frames_needed(codes[:0], np.array([-1, 0], np.int32)).tolist() == [-1, 1]


def test_the_loss_needs_as_many_frames_as_the_records_say():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abc"), size)) for size in rng.integers(1, 9, 200)]
    chars = np.array([len(text) for text in texts], np.int32)
    packed = labels.frames_needed(labels.codes_of("".join(texts)), chars)
    padded = np.zeros((200, 8), np.int32)
    for row, text in zip(padded, texts):
        row[: len(text)] = labels.codes_of(text)
    assert packed.tolist() == ctc.frames_needed(padded, chars).tolist()


def test_texts_come_without_an_image_being_read(tmp_path, monkeypatch):
    texts = ["zoë", None, "ab 𐌰", "uͤ"]
    found = mixture(tmp_path / "a", [20] * 4, texts)
    monkeypatch.setattr(records.RecordSet, "read", lambda *_: pytest.fail("read an image"))
    assert list(found.texts()) == ["zoë", "ab 𐌰", "uͤ"]
    assert found.frames_needed.tolist() == [3, -1, 4, 2]
    some = records.open_sets(str(tmp_path / "a"), subset=2, labelled=True)
    assert len(list(some.texts())) == 2 and set(some.texts()) < set(texts)


def test_a_folder_of_an_older_version_is_read_once_for_its_labels(tmp_path):
    texts = ["zoë", None, "ab", "uͤ"]
    found = mixture(tmp_path / "a", [20] * 4, texts)
    del found.sets[0].entry["labels"]
    assert list(found.texts()) == ["zoë", "ab", "uͤ"]
    assert found.frames_needed.tolist() == [3, -1, 2, 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda good: good[:60],
        lambda good: labels.pack(["ab"]),
        lambda good: labels.pack(["a" * 9999]),
    ],
    ids=["cut", "short", "long"],
)
def test_a_file_of_labels_that_does_not_fit_is_one_sentence(tmp_path, make):
    found = mixture(tmp_path / "a", [20] * 2, ["abc", "de"])
    file = tmp_path / "a" / "labels-train.npz"
    file.write_bytes(make(file.read_bytes()))
    with pytest.raises(
        ValueError, match="labels-train.npz does not fit .* make the record set again"
    ):
        list(found.texts())


# ---- a choice among the labelled ----------------------------------------------------------------


def test_a_subset_is_drawn_among_labelled_records(tmp_path):
    texts = [str(i) if i % 5 == 0 else None for i in range(100)]
    spec = str(tmp_path / "a")
    mixture(tmp_path / "a", [20] * 100, texts)
    some = records.open_sets(spec, subset=15, labelled=True)
    assert len(some) == 15 and (some.label_chars >= 0).all()
    assert len(records.open_sets(spec, subset=0.5, labelled=True)) == 10
    assert len(records.open_sets(spec, subset=50)) == 50  # of all, for pre-training
    first = records.open_sets(spec, subset=3, subset_order="first", labelled=True)
    assert first.chosen.tolist() == [0, 5, 10]
    with pytest.raises(
        ValueError, match=r"asks for 30, .* only 20 labelled lines \(of 100 records\)"
    ):
        records.open_sets(spec, subset=30, labelled=True)
    mixture(tmp_path / "b", [20] * 3, [None] * 3)
    with pytest.raises(ValueError, match="none of the 3 records of .* has a label"):
        records.open_sets(str(tmp_path / "b"), labelled=True)


def test_where_all_are_labelled_the_choice_is_the_same(tmp_path):
    spec = str(tmp_path / "a")
    mixture(tmp_path / "a", [20] * 30, ["x"] * 30)
    one, two = (records.open_sets(spec, subset=7, labelled=flag) for flag in (False, True))
    assert one.chosen.tolist() == two.chosen.tolist()


# ---- widths -------------------------------------------------------------------------------------


def test_one_sliver_does_not_decide_the_width():
    assert limits.widest_px(np.array([60] * 64 + [12800]), 32) == 32 * 64
    assert limits.widest_px(np.array([900] * 64 + [12800]), 32) == 3600
    assert limits.widest_px(np.array([900] * 64 + [3000]), 32) == 3000  # in proportion
    assert limits.widest_px(np.array([60] * 6 + [12800] * 4), 32) == 12800  # no exception: usual
    assert limits.widest_px(np.array([12800]), 32) == 12800
    assert limits.widest_px(np.array([60] * 64 + [12800]), 32, max_width_px=100) == 100
    assert limits.widest_px(np.array([60] * 64 + [12800]), 32, buckets_px=[64, 12800]) == 12800


def test_lines_that_cannot_be_learnt_are_left_out_and_named(tmp_path):
    widths = [40] * 60 + [4000, 40, 40, 40]
    texts = ["abcdefgh"] * 61 + [None, "abcdefghhij", "x" * 5000]
    kept, told = limits.learnable(mixture(tmp_path / "a", widths, texts), height_px=8, frame_px=4)
    assert kept.chosen.tolist() == list(range(60)) and len(kept) == 60
    assert "1 of 64 records have no label" in told[0]
    assert "1 of 63 lines are wider than 512 px" in told[1] and "#60 (4000 px)" in told[1]
    assert "config.data.max_width_px" in told[1]
    assert told[2].startswith("warning: 2 of 62 labels (3.2%) need more frames")
    assert "#62 needs 12 and has 10" in told[2] and len(told) == 3
    batch, _ = pipeline.recognition(
        kept, batch_size=4, height_px=8, channels=1, charset=Charset("abcdefgh"), seed=0
    )[0]
    assert batch["image"].shape[2] == 64 and batch["label"].shape == (4, 8)


def test_few_labels_that_are_too_long_are_told_without_a_warning(tmp_path):
    found = mixture(tmp_path / "a", [40] * 200, ["abc"] * 199 + ["x" * 50])
    kept, told = limits.learnable(found, height_px=8, frame_px=4)
    assert len(kept) == 199 and told[0].startswith("1 of 200 labels (0.5%) need more frames")
    assert limits.learnable(found, height_px=8)[1] == []  # frames not known: not judged
    doubles = mixture(tmp_path / "b", [40] * 9, ["xxxxxxxxxx"] * 8 + ["abcdefghijk"])
    with pytest.raises(ValueError, match="nothing can be learnt"):
        limits.learnable(doubles, height_px=8, frame_px=4)  # a blank between equal characters
    kept, told = limits.learnable(doubles, height_px=8, frame_px=4, ctc=False)
    assert len(kept) == 8 and "#8 needs 11 and has 10" in told[0]
    kept, told = limits.learnable(found, height_px=8, frame_px=4, squeeze_px=400)
    assert len(kept) == 200 and not told


def test_a_set_that_ctc_cannot_learn_is_refused(tmp_path):
    found = mixture(tmp_path / "a", [40] * 3, ["x" * 30] * 3)
    with pytest.raises(
        ValueError, match=r"3 of 3 labels \(100.0%\) .*needs 59 and has 10, so noth"
    ):
        limits.learnable(found, height_px=8, frame_px=4)
    with pytest.raises(ValueError, match="no line is left: raise config.data.max_width_px"):
        limits.learnable(found, height_px=8, max_width_px=10)


def test_weights_follow_what_is_left(tmp_path):
    mixture(tmp_path / "a", [40] * 10, ["x"] * 10)
    mixture(tmp_path / "b", [40] * 10, ["x"] * 5 + [None] * 5)
    spec = f"{tmp_path / 'a'},{tmp_path / 'b'}"
    kept, _ = limits.learnable(records.open_sets(spec), height_px=8)
    assert kept.offsets.tolist() == [0, 10, 15] and kept.weights == pytest.approx((2 / 3, 1 / 3))
    other = records.open_sets(spec, labelled=True)
    assert other.chosen.tolist() == kept.chosen.tolist() and other.weights == kept.weights


def test_an_evaluation_counts_a_sliver_as_unread(tmp_path):
    found = mixture(tmp_path / "a", [40] * 11 + [4000], ["x"] * 12)
    options = dict(batch_size=12, height_px=8, channels=1)
    batch, host = pipeline.evaluation(found, **options)[0]
    row = int(np.flatnonzero(host["index"] == 11)[0])
    assert batch["image"].shape[2] == 512 and not batch["valid"][row] and host["bad"] == [11]
    assert "data.max_width_px" in host["errors"][0] and batch["valid"].sum() == 11
    whole, _ = pipeline.evaluation(found, **options, max_width_px=9999)[0]
    assert whole["image"].shape[2] >= 4000 and whole["valid"].all()


def test_running_out_of_memory_names_the_widest_batch():
    words = limits.out_of_memory(
        RuntimeError("RESOURCE_EXHAUSTED: 85 GB\n at x"), (8, 32, 12800, 1)
    )
    assert "8 lines of 32 x 12800 px" in words and "max_width_px" in words and "\n" not in words
    assert limits.out_of_memory(ValueError("another fault"), (8, 32, 12800, 1)) == ""
    assert limits.out_of_memory(MemoryError(), (8, 32, 64, 1))
