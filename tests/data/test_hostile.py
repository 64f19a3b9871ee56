"""Bounds of the input path, one by one: paths, links, sizes, time, labels; and properties that hold
for any bytes.
"""

import io
import json
import os
import struct
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from dig_jax.data import images, pipeline, records, sizes, transforms, writer
from dig_jax.data.examples import Report
from dig_jax.data.images import Store
from dig_jax.data.sizes import BadRecord
from dig_jax.data.sources import folder as source
from dig_jax.text import Charset
from tests.fuzz import images as hostile


def png(width=20, height=10):
    image = np.full((height, width), 128, np.uint8)
    image[: height // 2, : width // 2] = 20  # contrast
    return writer.encode_image(image, "png")


def record_set(folder, count=6, image=None, text="x"):
    writer.write(
        folder, (("train", image or png(20 + i), text, f"id{i}") for i in range(count)), shards=2
    )
    return folder


def edit(folder, change):
    file = folder / "records.json"
    manifest = json.loads(file.read_text())
    change(manifest, manifest["splits"]["train"])
    file.write_text(json.dumps(manifest))


# ---- names and numbers in records.json -----------------------------------------------------------


def test_a_tiff_that_is_refused_logs_nothing_beside_its_reason(capfd):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "TIFF")
    samples = struct.pack("<HHI", 277, 3, 1)  # SamplesPerPixel, one u16: 3
    assert samples in file.getvalue()
    data = file.getvalue().replace(samples + b"\3\0", samples + b"\xff\xff")
    with pytest.raises(BadRecord, match="not an image"):
        sizes.open_image(data)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "name",
    ["../other/train.array_record", "/etc/passwd", "a/b", "..", ".", "", "a\0b", 7, None, "a\nb"],
)
@pytest.mark.parametrize("key", ["shards", "index"])
def test_names_in_the_manifest_are_plain_names(tmp_path, key, name):
    folder = record_set(tmp_path / "set")
    value = [name, "train-00001-of-00002.array_record"] if key == "shards" else name
    edit(folder, lambda _, entry: entry.__setitem__(key, value))
    with pytest.raises(ValueError, match="no plain name in this folder") as caught:
        records.RecordSet(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "message"), [
    (lambda m, e: e.update(count=10**12), "has 1000000000000 records, its shards 6"),
    (lambda m, e: e.update(count=10**12, shard_counts=[10**12 - 1, 1]), "fewer bytes than"),
    (lambda m, e: e.update(shard_counts=[-1, 7]), "counts -1"),
    (lambda m, e: e.update(shard_counts=[3.0, 3]), "counts 3.0"),
    (lambda m, e: e.update(shard_counts=[True, 5]), "counts True"),
    (lambda m, e: e.update(shard_counts=[6]), "as many"),
    (lambda m, e: e.update(shards=[]), "as many"),
    (lambda m, e: e.update(shards=e["shards"][:1] * 2), "twice"),
    (lambda m, e: e.pop("index"), "index"),
    (lambda m, e: m.update(splits=[]), "must be an object"),
    (lambda m, e: m.update(splits={"train": 3}), "is no object"),
    (lambda m, e: m.update(charset=5), "charset"),
])  # fmt: skip
def test_numbers_in_the_manifest_fit_together(tmp_path, change, message):
    folder = record_set(tmp_path / "set")
    edit(folder, change)
    with pytest.raises(ValueError, match=f"records.json.*{message}|{message}.*records.json"):
        records.RecordSet(folder)


def test_a_manifest_nested_without_end_is_refused(tmp_path):
    folder = record_set(tmp_path / "set")
    for text in ("[" * 200_000, '{"a":' * 100_000, '{"schema_version": ' + "9" * 9999 + "}"):
        (folder / "records.json").write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            records.RecordSet(folder)


def test_a_shard_of_another_length_is_named_record_by_record(tmp_path):
    folder = record_set(tmp_path / "set")
    edit(folder, lambda _, entry: entry.update(shard_counts=[2, 4]))
    errors = [record.error for record in records.RecordSet(folder).read(range(6))]
    assert errors == ["the shard holds 3 records where records.json counts 2"] * 2 + [
        "the shard holds 3 records where records.json counts 4"] * 4  # fmt: skip


def test_a_compressed_shard_is_not_unpacked(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = record_set(tmp_path / "set")
    out = ArrayRecordWriter(str(folder / "train-00000-of-00002.array_record"), "group_size:1,zstd")
    for _ in range(3):
        out.write(bytes(1 << 20))
    out.close()
    read = records.RecordSet(folder).read(range(6))
    assert ["compressed" in (r.error or "") for r in read] == [True] * 3 + [False] * 3


def test_a_pipe_in_place_of_a_shard_is_not_waited_for(tmp_path):
    folder = record_set(tmp_path / "set")
    found, shard = records.RecordSet(folder), folder / "train-00000-of-00002.array_record"
    shard.unlink()
    os.mkfifo(shard)
    assert [r.error for r in found.read(range(3))] == ["the shard has vanished"] * 3
    with pytest.raises(FileNotFoundError):
        records.RecordSet(folder)


# ---- folders of images ---------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    """Two labelled images, and a secret beside the folder."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(png(77, 33))
    for name in ("a.png", "sub/b.png"):
        (tmp_path / "in" / name).write_bytes(png())
    (tmp_path / "in" / "labels.tsv").write_text("a.png\ttext a\nsub/b.png\ttext b\n")
    return tmp_path / "in"


def read(root, **options):
    report = Report()
    found = list(source.examples(report=report, input=str(root), workers=0, **options))
    return {id: text for _, _, text, id in found}, {
        (e["name"].split(": ")[-1], e["reason"]) for e in report.first
    }


def test_links_that_lead_out_are_named_and_left_unless_asked_for(root):
    (root / "out.png").symlink_to("../outside/secret.png")
    (root / "folder").symlink_to("../outside")
    (root / "within.png").symlink_to("a.png")
    (root / "labels.tsv").write_text("a.png\tx\nout.png\tstolen\nfolder/secret.png\tstolen\n")
    found, skipped = read(root)
    assert found == {"a.png": "x", "sub/b.png": None, "within.png": None}
    assert skipped == {
        (name, "link leads out of the folder")
        for name in ("out.png", "folder", "folder/secret.png")
    }
    found, skipped = read(root, follow_links=True)
    assert found["out.png"] == "stolen" and found["folder/secret.png"] == "stolen" and not skipped


@pytest.mark.parametrize("follow_links", [False, True])
def test_links_in_a_circle_end(root, follow_links):
    for name, target in (
        ("loop", "."),
        ("sub/up", ".."),
        ("sub/self.png", "self.png"),
        ("round", "sub"),
    ):
        (root / name).symlink_to(target)
    found, skipped = read(root, follow_links=follow_links)
    assert found == {"a.png": "text a", "sub/b.png": "text b"}
    assert skipped == {("sub/self.png", "file cannot be read (a broken link)")}


@pytest.mark.parametrize("name", ["labels.tsv", "SOURCE.md", "splits/train.txt"])
def test_lists_that_are_links_out_are_not_read(root, name):
    (root.parent / "outside" / "secret.txt").write_text("- Source: CANARY\na.png\tCANARY\nCANARY\n")
    (root / "splits").mkdir()
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(root.parent / "outside" / "secret.txt")
    report = Report()
    examples = list(source.examples(report=report, input=str(root), workers=0))
    assert "CANARY" not in f"{examples}{report.first}{report.about}{report.notes}"


def test_pipes_and_endless_files_are_named(root):
    os.mkfifo(root / "pipe.png")
    with (root / "huge.png").open("wb") as file:
        file.truncate(20 << 30)
    with (root / "labels.tsv").open("ab") as file:
        file.truncate(20 << 30)
    found, skipped = read(root)
    assert set(found) == {"a.png", "sub/b.png"} and {"pipe.png", "huge.png"} < {
        name for name, _ in skipped
    }
    assert any("line of more than 1048576 bytes" in reason for _, reason in skipped)


@pytest.mark.parametrize(("data", "labels", "reason"), [
    (b"a.png\tx\tmore\n", {}, "label line with more than one tab (image kept, unlabelled)"),
    ("a.png\tx\n".encode("utf-16"), {}, "list is UTF-16, not UTF-8 (none of it is read)"),
    ("a.png\tä\n".encode("latin-1"), {}, "label is not UTF-8 (image kept, unlabelled)"),
    ("\ufeffa.png\tä\r\nsub/b.png\tb\r\n".encode(), {"a.png": "ä", "sub/b.png": "b"}, None),
    (b"a" * 5000 + b"/b.png\tx\n", {}, "label names a missing image"),
    (b"a.png/c.png\tx\n", {}, "label names a missing image"),
    (b"sub\tx\n", {}, "not a file"),
])  # fmt: skip
def test_labels_of_other_forms_are_read_or_named(root, data, labels, reason):
    (root / "labels.tsv").write_bytes(data)
    found, skipped = read(root)
    assert found == {"a.png": None, "sub/b.png": None} | labels
    assert {r for _, r in skipped} == ({reason} if reason else set())


def test_names_are_escaped_before_they_reach_a_terminal(root, capsys):
    from dig_jax.tools import make_records

    (root / "\x1b]0;owned\x07\u202e.png").write_bytes(b"x")
    assert (
        make_records.main([f"--input={root}", f"--output={root.parent / 'out'}", "--workers=0"])
        == 0
    )
    text = capsys.readouterr().out
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b]0;owned\\x07\\u202e.png" in text


# ---- labels and shapes ---------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "kept", "reason"), [
    ("x" * 10_000, True, None), ("x" * 10_001, False, "longer than 10000"), ("a\0b", False, "control"),
    ("\x1b[2J", False, "control"), ("a\u202eb", True, None), ("e\u0301", True, None), ("\ue001", True, None),
])  # fmt: skip
def test_labels_that_cannot_be_learnt_are_named_and_their_images_kept(tmp_path, text, kept, reason):
    report = Report()
    writer.write(tmp_path / "set", [("train", png(), text, "a")], report=report)
    found = records.RecordSet(tmp_path / "set")
    assert (found[0].text is not None) == kept and len(found) == 1
    assert [reason in r for r in report.reasons] == ([True] if reason else [])
    assert bool(report.notes) == ("\u202e" in text)
    assert "\u202e" not in (found[0].text or "")  # nobody sees it


def test_a_hostile_index_cannot_ask_for_gigabytes(tmp_path):
    folder = record_set(tmp_path / "set")
    with np.load(folder / "index-train.npz", allow_pickle=False) as found:
        arrays = dict(found)
    np.savez(
        folder / "index-train.npz", **{**arrays, "label_chars": np.full(6, 2**31 - 1, np.int32)}
    )
    with pytest.raises(ValueError, match="label_chars runs from 2147483647"):
        records.RecordSet(folder)
    np.savez(folder / "index-train.npz", **{**arrays, "width_px": np.full(6, 65535, np.uint16)})
    mixture = records.open_sets(str(folder))
    options = dict(batch_size=2, height_px=32, channels=1, charset=Charset("x"))
    for run in (
        lambda: pipeline.recognition(mixture, seed=0, **options),
        lambda: pipeline.evaluation(mixture, **options),
    ):
        with pytest.raises(
            ValueError, match=r"209712 px wide .* 500 times .*array_record#0.*data.buckets_px"
        ):
            run()


def test_extreme_shapes_are_left_out_when_written(tmp_path):
    report = Report()
    sizes_px = {"wide": (5001, 10), "long": (5000, 10), "high": (1, 3000)}
    examples = [("train", png(*size), "x", name) for name, size in sizes_px.items()]
    writer.write(tmp_path / "set", examples, report=report)
    assert [r.id for r in records.RecordSet(tmp_path / "set").read(range(2))] == ["long", "high"]
    assert report.first == [{"name": "wide", "reason": "more than 500 times as wide as high"}]


# ---- memory and time of one image ----------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000", "AVIF", "TGA"]
)
def test_the_limit_of_pixels_is_checked_before_decoding_in_every_format(kind, monkeypatch):
    out = io.BytesIO()
    try:
        Image.new("RGB", (70, 40)).save(out, kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {kind}")
    limit, most = (
        (2799 // 4, 4 * 2800) if kind == "JPEG2000" else (2799, 2800)
    )  # its decoder takes four times the memory
    assert transforms.decode(out.getvalue(), 1, max_pixels=most).shape == (40, 70, 1)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(BadRecord, match="max_pixels=2799"):
        transforms.decode(out.getvalue(), 1, max_pixels=2799)
    with pytest.raises(images.BadImage, match=f"more than {limit} pixels"):
        Store(max_pixels=2799).decode(out.getvalue())


def test_a_jpeg_of_a_thousand_scans_is_not_decoded():
    slow = hostile.scans(1000, 4000, 4000)
    assert len(slow) < 100_000
    for decode in (
        lambda: transforms.decode(slow, 1),
        lambda: Store(max_pixels=1 << 24).decode(slow),
    ):
        with pytest.raises((BadRecord, images.BadImage), match="slow"):
            decode()
    assert transforms.decode(hostile.scans(100, 64, 64), 1).shape == (
        64,
        64,
        1,
    )  # a small picture may have many


def test_parts_without_end_are_refused():
    jpeg = hostile.encode(hostile.picture(), "JPEG")
    many = jpeg[:2] + b"\xff\xfe\x00\x02" * 100_000 + jpeg[2:]
    chunks = hostile.png(9, 9, hostile.zeros(90), hostile.chunk(b"tEXt", b"a\0") * 100_000)
    padded = hostile.png(9, 9, hostile.zeros(90), hostile.chunk(b"tEXt", bytes(17 << 20)))
    for data in (many, jpeg[:2] + b"\xff" * 100_000 + jpeg[2:], chunks, padded):
        start = time.process_time()
        with pytest.raises(BadRecord, match="too slow"):
            transforms.decode(data, 1)
        with pytest.raises(images.BadImage, match="slow"):
            Store(max_pixels=1 << 24).decode(data)
        assert time.process_time() - start < 5


def test_a_parser_that_goes_on_for_ever_is_stopped(root, monkeypatch):
    monkeypatch.setattr(images, "MAX_SECONDS", 0.2)

    def forever(*_):
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass

    monkeypatch.setattr(images, "open_image", forever)
    found, skipped = read(root)
    assert not found and {reason for _, reason in skipped} == {"takes longer than 0.2 s to decode"}


def test_a_16_bit_picture_takes_little_more_than_its_own_memory():
    import tracemalloc

    image = Image.fromarray(np.full((3000, 3000), 40_000, np.uint16))
    tracemalloc.start()
    flat = transforms.flatten(image, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.asarray(flat)[0, 0] == 156 and peak < 6 * 3000 * 3000  # 8 times as much in float64


def test_odd_numbers_become_grey():
    values = np.array([[0, 255, np.nan, -5]], np.float32)
    assert np.asarray(transforms.flatten(Image.fromarray(values), 1)).tolist() == [[0, 255, 0, 0]]


# ---- any bytes at all ----------------------------------------------------------------------------

SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
ANY = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda seed: hostile.image(np.random.default_rng([9, seed]), Path("."))[1][: 1 << 20],
        st.integers(0, 2**31),
    ),
)


@SETTINGS
@given(data=ANY, channels=st.sampled_from([1, 3]))
def test_any_bytes_are_a_picture_of_the_size_of_their_header_or_a_bad_record(data, channels):
    try:
        image = transforms.decode(data, channels)
    except BadRecord as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert image.dtype == np.uint8 and image.shape == (*sizes.header_size(data)[::-1], channels)


@SETTINGS
@given(
    message=st.binary(max_size=400),
    cut=st.integers(0, 200),
    at=st.integers(0, 199),
    value=st.integers(0, 255),
)
def test_any_message_is_a_record_or_names_its_fault(message, cut, at, value):
    good = bytearray(records.serialize(png(), "text", "id"))
    good[at % len(good)] = value
    for data in (message, bytes(good), bytes(good[:cut])):
        try:
            record = records.parse(data)
        except BadRecord as error:
            assert str(error)
        else:
            assert record.image and record.error is None


@settings(SETTINGS, max_examples=30)
@given(
    labels=st.lists(st.tuples(st.sampled_from(["a.png", "sub/b.png", "../outside/secret.png", "/etc/passwd", "c.png", "\0"]),
                              st.binary(max_size=12)), max_size=6),
    split=st.one_of(st.none(), st.binary(max_size=40)),
    image=ANY,
)  # fmt: skip
def test_any_folder_gives_each_image_as_a_record_or_names_it(labels, split, image):
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "in"
        (root / "sub").mkdir(parents=True)
        (root / "splits").mkdir()
        (Path(scratch) / "outside").mkdir()
        (Path(scratch) / "outside" / "secret.png").write_bytes(png(77, 33))
        (root / "a.png").write_bytes(png())
        (root / "sub" / "b.png").write_bytes(image)
        (root / "labels.tsv").write_bytes(
            b"".join(os.fsencode(path) + b"\t" + text + b"\n" for path, text in labels)
        )
        if split is not None:
            (root / "splits" / "train.txt").write_bytes(b"a.png\n" + split)
        report = Report()
        found = list(source.examples(report=report, input=str(root), workers=0))
        named = {entry["name"] for entry in report.first}
        for path in ("a.png", "sub/b.png"):
            assert (path in [id for *_, id in found]) != (path in named)
        for _, data, text, _ in found:
            assert sizes.header_size(data) != (77, 33) and (text is None or isinstance(text, str))
