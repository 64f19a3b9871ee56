"""The input pipeline on small record sets whose pictures say which record they are."""

import collections
import io
import re
import subprocess
import sys

import grain
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from dig_jax.data import parallel, pipeline, records, transforms
from dig_jax.text import Charset

CHARSET = Charset("0123456789 ")


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def line(number, width=40, height=8):
    """A line whose grey is its number (up to 200) and whose last column is 250, so that its end can
    be seen.
    """
    image = np.full((height, width), number, np.uint8)
    image[:, -1] = 250
    return png(image)


def write(folder, widths, labelled=lambda i: True, height=8, shards=2):
    rows = [
        ("train", line(i, w, height), str(i) if labelled(i) else None, f"id{i}")
        for i, w in enumerate(widths)
    ]
    records.write(folder, iter(rows), shards=shards)
    return str(folder)


@pytest.fixture(scope="module")
def fifty(tmp_path_factory):
    return records.open_sets(
        write(tmp_path_factory.mktemp("sets") / "fifty", [20 + 3 * i for i in range(50)])
    )


def pretrain(mixture, **more):
    options = dict(batch_size=8, height_px=8, width_px=16, channels=1, seed=1) | more
    return pipeline.pretrain(mixture, **options)


def recognition(mixture, **more):
    options = (
        dict(
            batch_size=8,
            height_px=8,
            channels=1,
            charset=CHARSET,
            seed=1,
            buckets_px=[64, 128, 192],
        )
        | more
    )
    return pipeline.recognition(mixture, **options)


def evaluation(mixture, **more):
    options = (
        dict(batch_size=8, height_px=8, channels=1, charset=CHARSET, buckets_px=[64, 128, 192])
        | more
    )
    return pipeline.evaluation(mixture, **options)


KINDS = {"pretrain": pretrain, "recognition": recognition, "evaluation": evaluation}


def numbers(dataset, steps):
    return np.concatenate([dataset[step][1]["index"] for step in range(steps)])


def same(one, two):
    (batch1, host1), (batch2, host2) = one, two
    assert batch1.keys() == batch2.keys() and host1.keys() == host2.keys()
    for name in batch1:
        assert batch1[name].dtype == batch2[name].dtype
        np.testing.assert_array_equal(batch1[name], batch2[name], err_msg=name)
    np.testing.assert_array_equal(host1["index"], host2["index"])
    assert [host1[k] for k in ("text", "id", "errors", "unknown_chars", "epoch")] == [
        host2[k] for k in ("text", "id", "errors", "unknown_chars", "epoch")
    ]


# ---- which records -------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_pretrain_draws_every_record_once_an_epoch_in_a_new_order(fifty, hosts):
    parts = [pretrain(fifty, process_index=p, process_count=hosts) for p in range(hosts)]
    steps = 25  # 25 * 8 = 4 epochs of 50
    drawn = np.stack([numbers(p, steps).reshape(steps, -1) for p in parts], 1).reshape(4, 50)
    for epoch in drawn:
        assert np.array_equal(np.sort(epoch), np.arange(50))
    assert len({tuple(epoch) for epoch in drawn}) == 4
    assert not np.array_equal(drawn[0], np.arange(50))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_have_disjoint_rows_of_the_one_host_batch(fifty, kind, hosts):
    whole = KINDS[kind](fifty)
    parts = [KINDS[kind](fifty, process_index=p, process_count=hosts) for p in range(hosts)]
    for step in range(7):
        batch, host = whole[step]
        pieces = [p[step] for p in parts]
        assert all(len(b["width"]) == 8 // hosts for b, _ in pieces)
        joined = {name: np.concatenate([b[name] for b, _ in pieces]) for name in batch}
        text = sum((h["text"] for _, h in pieces), [])
        ids = sum((h["id"] for _, h in pieces), [])
        host_rows = np.concatenate([h["index"] for _, h in pieces])
        same((batch, host), (joined, host | {"index": host_rows, "text": text, "id": ids}))
        assert sum(h["unknown_chars"] for _, h in pieces) == host["unknown_chars"]
        real = host_rows[host_rows >= 0]
        assert len(set(real)) == len(real) or kind != "evaluation"


@pytest.mark.parametrize("kind", KINDS)
def test_squeezed_images_are_whole_and_all_of_one_width(fifty, kind):
    more = {"width_px": 24} if kind == "pretrain" else {}
    dataset = KINDS[kind](fifty, squeeze_px=24, **more)
    for step in range(3):
        batch, host = dataset[step]
        assert (
            batch["image"].shape[2] == 24
            and (batch["width"][batch["valid"]] == 24).all()
            and not host["errors"]
        )
    with pytest.raises(ValueError, match="data.squeeze_px is 24 and data.width_px is 16"):
        pretrain(fifty, squeeze_px=24, width_px=16)


def test_seed_changes_order_and_crops(fifty):
    one, two = pretrain(fifty), pretrain(fifty, seed=2)
    assert not np.array_equal(numbers(one, 3), numbers(two, 3))
    assert not np.array_equal(
        numbers(recognition(fifty), 3), numbers(recognition(fifty, seed=2), 3)
    )
    same(one[5], pretrain(fifty)[5])


@pytest.mark.parametrize("batch_size", [1, 7, 8, 50, 64])
def test_recognition_epoch_holds_every_record_once_and_fills_up(fifty, batch_size):
    dataset = recognition(fifty, batch_size=batch_size)
    steps = -(-50 // batch_size)
    assert steps == pipeline.steps_per_epoch(fifty, batch_size, labelled=True)
    orders = []
    for epoch in range(3):
        rows = [dataset[epoch * steps + s][1]["index"] for s in range(steps)]
        counts = np.bincount(np.concatenate(rows), minlength=50)
        assert counts.min() == 1 and counts.sum() == steps * batch_size and counts.max() <= 2
        orders.append(np.concatenate(rows))
        assert dataset[epoch * steps][1]["epoch"] == epoch
    assert not np.array_equal(orders[0], orders[1])


def test_recognition_batches_use_their_bucket(fifty):
    dataset = recognition(fifty, batch_size=4, buckets_px=[192, 64, 128])
    widths = fifty.widths(8)
    seen = collections.Counter()
    for step in range(13):
        batch, host = dataset[step]
        seen[batch["image"].shape[2]] += 1
        assert batch["image"].shape == (4, 8, batch["image"].shape[2], 1)
        assert np.all(widths[host["index"]] <= batch["image"].shape[2])
        np.testing.assert_array_equal(batch["width"], widths[host["index"]])
    assert set(seen) == {64, 128, 192}
    # 15, 21 and 14 lines: 3 batches of 64 (3 lines move up), 6 of 128 (24 lines), 14 lines of 192
    # in 4
    assert seen == {64: 3, 128: 6, 192: 4}
    order = [dataset[step][0]["image"].shape[2] for step in range(13)]
    assert order != sorted(order)  # batches are shuffled, not by width


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 12, 100])
def test_evaluation_holds_every_record_once(fifty, hosts, batch_size):
    parts = [
        evaluation(fifty, batch_size=batch_size, process_index=p, process_count=hosts)
        for p in range(hosts)
    ]
    assert {len(p) for p in parts} == {-(-50 // batch_size)}
    index = np.concatenate([numbers(p, len(p)) for p in parts])
    valid = np.concatenate([p[s][0]["valid"] for p in parts for s in range(len(p))])
    assert np.array_equal(np.sort(index[valid]), np.arange(50))
    assert np.all(index[~valid] == -1) and len(index) == len(parts[0]) * batch_size


def test_rows_that_only_fill_are_not_valid(fifty):
    batch, host = evaluation(fifty, batch_size=100)[0]
    fill = host["index"] < 0
    assert fill.sum() == 50 and not batch["valid"][fill].any() and batch["valid"][~fill].all()
    assert np.all(batch["image"][fill] == 255) and np.all(batch["width"][fill] == 1)
    assert np.all(batch["label_length"][fill] == 0) and host["errors"] == []
    assert all(host["text"][row] is None for row in np.flatnonzero(fill))


def test_mixture_shares(tmp_path):
    small, large = write(tmp_path / "a", [20] * 10), write(tmp_path / "b", [20] * 90)
    mixture = records.open_sets(f"{small}*3,{large}*1")
    drawn = numbers(pretrain(mixture, batch_size=50), 8)
    assert abs(np.mean(drawn < 10) - 0.75) < 0.01
    assert np.all(
        np.abs(np.bincount(drawn[drawn < 10], minlength=10) - 30) <= 1
    )  # its own epochs: each as often
    rows = numbers(recognition(mixture, batch_size=50, buckets_px=[64]), 2)  # one epoch
    assert np.sum(rows < 10) == 75 and set(np.bincount(rows[rows < 10])) == {7, 8}
    assert len(set(rows[rows >= 10])) == 25
    four = numbers(recognition(mixture, batch_size=50, buckets_px=[64]), 8)
    assert len(set(four[four >= 10])) == 90  # the next epoch goes on in the set
    unweighted = records.open_sets(f"{small},{large}")
    assert np.array_equal(np.sort(numbers(pretrain(unweighted, batch_size=50), 2)), np.arange(100))


def test_subset_draws_only_its_records(tmp_path):
    mixture = records.open_sets(write(tmp_path / "a", [20] * 40), subset=10)
    texts = {
        t
        for s in range(5)
        for t in recognition(mixture, batch_size=5, buckets_px=[64])[s][1]["text"]
    }
    assert texts == {str(i) for i in mixture.chosen} and len(texts) == 10


# ---- restart, threads, processes -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pretrain", "recognition"])
def test_restart_at_a_step_goes_on_exactly(fifty, kind):
    with pipeline.iterate(KINDS[kind](fifty), workers=0) as steps:
        whole = [next(steps) for _ in range(12)]
    with pipeline.iterate(KINDS[kind](fifty), start_step=7, workers=0) as steps:
        for step in range(7, 12):
            same(whole[step], next(steps))
    same(whole[9], KINDS[kind](fifty)[9])


def test_evaluation_iterates_to_its_end(fifty):
    with pipeline.iterate(evaluation(fifty), workers=0) as steps:
        assert len(list(steps)) == 7


@pytest.mark.slow
def test_worker_processes_change_nothing(fifty):
    kinds = pretrain(fifty), recognition(fifty)
    both, runs = grain.MapDataset.mix(kinds), []
    for workers in (0, 1, 2):
        with pipeline.iterate(both, start_step=6, workers=workers) as steps:
            runs.append([next(steps) for _ in range(18)])
    alone = [kind[step] for step in range(3, 12) for kind in kinds]
    for other in runs:
        for one, two in zip(alone, other, strict=True):
            same(one, two)


@pytest.mark.slow
def test_worker_processes_leave_nothing_behind(fifty, tmp_path):
    """Batches and iterator outlive the context, up to the end of the program: neither noise nor
    leaked memory.
    """
    program = tmp_path / "program.py"
    program.write_text(
        "from dig_jax.data import pipeline, records\nif __name__ == '__main__':\n    mixture = "
        f"records.open_sets({str(fifty.sets[0].path)!r})\n    data = pipeline.pretrain(mixture, "
        "batch_size=64, height_px=32, width_px=256, channels=1, seed=0)\n    with "
        "pipeline.iterate(data, workers=2) as steps:\n        kept = [next(steps) for _ in "
        "range(6)]\n    print(type(kept[0][0]['image']).__name__, sum(b['valid'].sum() for b, _ in "
        "kept))\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "ndarray 384\n" and done.stderr == ""


def test_workers_are_checked(fifty):
    with (
        pytest.raises(ValueError, match="data.workers is -1"),
        pipeline.iterate(pretrain(fifty), workers=-1),
    ):
        pass


# ---- pixels and labels ---------------------------------------------------------------------------


def test_whole_lines_are_padded_with_paper_and_labelled(fifty):
    batch, host = recognition(fifty)[0]
    for row, number in enumerate(host["index"]):
        width = 20 + 3 * number
        expected = np.full((8, batch["image"].shape[2]), 255)
        expected[:, : width - 1], expected[:, width - 1] = number, 250
        np.testing.assert_array_equal(batch["image"][row, :, :, 0], expected)
        assert batch["width"][row] == width and host["text"][row] == str(number)
        assert host["id"][row] == f"id{number}"
        length = batch["label_length"][row]
        assert (
            CHARSET.decode(batch["label"][row, :length]) == str(number)
            and not batch["label"][row, length:].any()
        )
    assert batch["label"].shape == (8, 2)  # longest label: two digits
    assert {k: v.dtype.name for k, v in batch.items()} == {
        "image": "uint8",
        "width": "int32",
        "valid": "bool",
        "label": "int32",
        "label_length": "int32",
    }


def test_lines_are_resized_keeping_the_aspect_ratio(tmp_path):
    mixture = records.open_sets(write(tmp_path / "a", [100, 57], height=24))
    batch, host = evaluation(mixture, height_px=16, batch_size=2)[0]
    order = np.argsort(host["index"])
    assert batch["image"].shape == (2, 16, 128, 1)
    assert batch["width"][order].tolist() == [67, 38]  # 100 * 16 / 24 and 57 * 16 / 24


def test_pretrain_crops_anywhere_in_the_line_and_never_reads_labels(tmp_path):
    columns = np.tile(np.arange(100, dtype=np.uint8), (8, 1))
    records.write(tmp_path / "a", iter([("train", png(columns), None, "x")]), shards=1)
    dataset = pretrain(records.open_sets(str(tmp_path / "a")), batch_size=510, width_px=50, seed=3)
    batch, host = dataset[0]
    assert batch.keys() == {"image", "width", "valid"} and set(host["text"]) == {None}
    starts = batch["image"][:, 0, 0, 0]
    assert np.array_equal(
        batch["image"][:, 0, :, 0] - starts[:, None], np.tile(np.arange(50), (510, 1))
    )
    counts = np.bincount(starts, minlength=51)
    assert len(counts) == 51 and 1 <= counts.min() and counts.max() < 30  # mean 10: Poisson
    assert np.sum((counts - 10) ** 2 / 10) < 90  # chi-squared, 50 degrees: p < 0.001
    assert not np.array_equal(starts, dataset[1][0]["image"][:, 0, 0, 0])


def test_colour(tmp_path):
    red = np.zeros((8, 30, 3), np.uint8)
    red[:, :, 0] = 200
    records.write(tmp_path / "a", iter([("train", png(red), "1", "x")]), shards=1)
    batch, _ = evaluation(records.open_sets(str(tmp_path / "a")), channels=3, batch_size=1)[0]
    assert batch["image"].shape == (1, 8, 64, 3) and batch["image"][0, 0, 0].tolist() == [200, 0, 0]


def test_unlabelled_records_are_left_out_and_counted(tmp_path):
    mixture = records.open_sets(write(tmp_path / "a", [20] * 12, labelled=lambda i: i % 3))
    assert pipeline.summary(mixture, 8, [64]) == {
        "records": 8,
        "unlabelled": 4,
        "padding": round(1 - 20 / 64, 3),
        "buckets": {64: 8},
    }
    assert set(numbers(recognition(mixture, batch_size=4), 4)) == {1, 2, 4, 5, 7, 8, 10, 11}
    assert len(evaluation(mixture, batch_size=4)) == 2
    assert set(numbers(evaluation(mixture, batch_size=4, charset=None), 3)) == set(range(12))
    assert "label" not in evaluation(mixture, batch_size=4, charset=None)[0][0]
    assert set(numbers(pretrain(mixture, batch_size=4), 3)) == set(range(12))
    bare = records.open_sets(write(tmp_path / "b", [20] * 3, labelled=lambda i: False))
    with pytest.raises(ValueError, match="none of the 3 records has a label"):
        recognition(bare)


def test_unknown_characters_are_counted_and_left_out_of_the_label(fifty):
    batch, host = evaluation(fifty, charset=Charset("02468"), batch_size=50)[0]
    expected = sum(c in "13579" for i in range(50) for c in str(i))
    assert host["unknown_chars"] == expected and batch["valid"].all()
    row = host["text"].index("14")
    assert batch["label_length"][row] == 1 and batch["label"][row].tolist() == [3, 0]


def test_what_does_not_fit_is_an_error_at_open(fifty):
    with pytest.raises(
        ValueError, match=r"3 of 50 .* wider .* 160 px .* 167 px.*data.buckets_px.*_record#24"
    ):
        recognition(fifty, buckets_px=[64, 160])
    with pytest.raises(ValueError, match="wider"):
        evaluation(fifty, buckets_px=[64])
    with pytest.raises(ValueError, match="longest label has 2 characters.*max_label_length=1"):
        recognition(fifty, max_label_length=1)
    assert recognition(fifty, max_label_length=9)[0][0]["label"].shape == (8, 9)
    with pytest.raises(ValueError, match="batch_size is 8, which 3 processes"):
        pretrain(fifty, process_count=3)


@pytest.mark.parametrize("kind", KINDS)
def test_contrast_is_of_the_whole_line_whatever_is_read_of_it(tmp_path, kind):
    """Half of the line is pale: a stretch of a window alone would give that half full contrast."""
    grey = np.full((16, 200), 180, np.uint8)
    grey[:, ::2][:, :50], grey[:, ::2][:, 50:] = 80, 160
    records.write(tmp_path / "a", iter([("train", png(grey), "1", "x")]), shards=1)
    mixture = records.open_sets(str(tmp_path / "a"))
    more = {"height_px": 16, "batch_size": 64 if kind == "pretrain" else 1}
    stretched, stored = (
        KINDS[kind](
            mixture,
            contrast=contrast,
            **more | ({} if kind == "pretrain" else {"buckets_px": [256]}),
        )[0][0]
        for contrast in ("stretch", None)
    )
    levels = dict(
        zip(stored["image"].reshape(-1).tolist(), stretched["image"].reshape(-1).tolist())
    )
    assert levels == {80: 0, 160: 204, 180: 255} | ({255: 255} if 255 in levels else {})
    np.testing.assert_array_equal(stretched["width"], stored["width"])


def test_contrast_is_checked(fifty):
    same(pretrain(fifty, contrast="none")[3], pretrain(fifty)[3])
    with pytest.raises(ValueError, match="data.contrast is 'strech'.*'stretch'"):
        pretrain(fifty, contrast="strech")


# ---- records that cannot be used -----------------------------------------------------------------


def example(image, text=b"1", ident=b"id"):
    message = tf_example_pb2.Example()
    for name, value in (("image", image), ("text", text), ("id", ident)):
        if value is not None:
            message.features.feature[name].bytes_list.value.append(value)
    return message.SerializeToString()


BOMB = png(np.zeros((5000, 5000), np.uint8))
DAMAGE = {
    "truncated": (example(line(1)[:60]), "truncated"),
    "no image": (example(b"this is no picture"), "not an image"),
    "bomb": (example(BOMB), "5000 x 5000 px is more than data.max_pixels"),
    "bad UTF-8": (example(line(1), b"\xff\xfe\xfa"), "UTF-8"),
    "empty image": (example(b""), "no image bytes|empty"),
    "empty record": (b"", "no image bytes|empty|not a tf.Example"),
    "no protobuf": (b"\xff\xff\xff\xff garbage", "not a tf.Example"),
    "stale width": (example(line(1, width=900)), "stale"),
    "label gone": (example(line(1), None), "stale"),
    "label grown": (example(line(1), b"12345"), "label of 5 characters"),
}
FINE_IN_PRETRAIN = {"stale width", "label gone", "label grown"}


def damaged(folder, value):
    """A set of 12 whose record 5 is replaced behind the back of the index."""
    write(folder, [20] * 12, shards=1)
    values = [example(line(i), str(i).encode(), f"id{i}".encode()) for i in range(12)]
    values[5] = value
    writer = ArrayRecordWriter(
        str(next(folder.glob("*.array_record"))), "group_size:1,uncompressed"
    )
    for item in values:
        writer.write(item)
    writer.close()
    return records.open_sets(str(folder))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_named_and_the_rest_goes_on(tmp_path, kind, damage):
    value, reason = DAMAGE[damage]
    dataset = KINDS[kind](damaged(tmp_path / "a", value), batch_size=12)
    with pipeline.iterate(dataset, workers=0) as steps:
        batch, host = next(steps)
    row = int(np.flatnonzero(host["index"] == 5)[0])
    if kind == "pretrain" and damage in FINE_IN_PRETRAIN:
        assert batch["valid"].all() and not host["errors"]
        return
    assert not batch["valid"][row] and batch["valid"].sum() == 11
    assert batch["width"][row] == 1 and np.all(batch["image"][row] == 255)
    if kind != "pretrain":
        assert batch["label_length"][row] == 0 and not batch["label"][row].any()
    assert len(host["errors"]) == 1
    assert "train-00000-of-00001.array_record#5 (" in host["errors"][0]
    assert re.search(reason, host["errors"][0])


def test_a_damaged_shard_spoils_only_its_records(tmp_path):
    write(tmp_path / "a", [20] * 12, shards=2)
    shard = sorted((tmp_path / "a").glob("*.array_record"))[1]
    shard.write_bytes(b"\0" * shard.stat().st_size)
    batch, host = pretrain(records.open_sets(str(tmp_path / "a")), batch_size=12)[0]
    assert np.array_equal(batch["valid"], host["index"] < 6) and len(host["errors"]) == 6


def test_limit_of_pixels_reaches_the_decoder(fifty):
    batch, host = pretrain(fifty, max_pixels=8 * 100)[0]
    assert (
        np.array_equal(batch["valid"], 20 + 3 * host["index"] <= 100)
        and transforms.MAX_PIXELS > 8 * 200
    )


# ---- shared memory ----------------------------------------------------------------------------


def test_workers_fit_into_the_shared_memory(caplog):
    mib = 1 << 20
    assert parallel.fitting_workers(4, 12 * mib, 64 * mib) == 1
    assert "64 MiB free and 4 worker processes need 192 MiB" in caplog.text
    assert "--shm-size" in caplog.text and "config.data.workers" in caplog.text
    assert parallel.fitting_workers(4, 20 * mib, 64 * mib) == 0 and "a thread" in caplog.text
    caplog.clear()
    assert parallel.fitting_workers(4, mib, 64 * mib) == 4 and not caplog.text
    assert parallel.fitting_workers(4, mib, float("inf")) == 4
    assert parallel.free_shared_memory("/no/such/place") == float("inf")


@pytest.mark.parametrize("kind", KINDS)
def test_too_small_a_shared_memory_means_a_thread(fifty, kind, monkeypatch):
    monkeypatch.setattr(pipeline, "free_shared_memory", lambda: 1000)
    with pipeline.iterate(KINDS[kind](fifty), workers=2) as steps:
        same(next(steps), KINDS[kind](fifty)[0])
