"""Hostile record messages, shards and manifests, and the list of all kinds of cases that
`fuzz_records` runs.

Every case is a function of (seed, number) and nothing else. `KINDS` names the builders; each takes
a numpy generator and a scratch folder and returns (what was done, bytes of an image or of a message
| folder of a record set or of images).
"""

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dig_jax.data import writer
from tests.fuzz.folders import LABELS, folder
from tests.fuzz.images import Rng, corrupt, encode, image, picture, samples

STRANGE = (
    None, -1, 0, 1, 3, 10**12, 2**63, 2**200, 1e308, float("nan"), True, "", "x", "../outside/train.array_record", "a\0b",
    "/etc/passwd", [], {}, [[]], ["x"], [-1, 13], [10**12, 10**12], {"count": 1}, "y" * 100_000, "\x1b[2J\u202ebidi",
)  # fmt: skip

# ---- tf.Example messages -------------------------------------------------------------------------


def example(rng: Rng, scratch: Path) -> tuple[str, bytes]:
    """A tf.Example: odd features, odd texts, or a corrupted message."""
    message = writer.example_class()()
    features = message.features.feature
    label = str(rng.choice(sorted(LABELS)))
    features["image"].bytes_list.value.append(rng.choice(sorted(samples().values())[:12]))
    features["text"].bytes_list.value.append(LABELS[label](rng))
    features["id"].bytes_list.value.append(LABELS[str(rng.choice(sorted(LABELS)))](rng))
    how = str(
        rng.choice(["text", "corrupt", "types", "many", "missing", "nested", "length", "noise"])
    )
    if how == "types":
        for name in ("image", "text", "id"):
            if rng.random() < 0.6:
                features[name].int64_list.value.extend([-1, 2**62])
            elif rng.random() < 0.5:
                features[name].float_list.value.extend([float("nan")])
    elif how == "many":
        features["image"].bytes_list.value.extend([b"x"] * 100_000)
        features["text"].bytes_list.value.extend([b"\xff"] * 10)
        for number in range(20_000):
            features[f"extra {number}"].int64_list.value.append(number)
    elif how == "missing":
        del features[str(rng.choice(["image", "text", "id"]))]
    data = message.SerializeToString()
    if how == "corrupt":
        how, data = corrupt(rng, data)
    elif how == "nested":
        for _ in range(300):
            data = b"\x0a" + _varint(len(data)) + data
    elif how == "length":
        data = b"\x0a" + _varint(int(rng.choice([2**31 - 1, 2**32, 2**63, 2**64 - 1]))) + data
    elif how == "noise":
        data = rng.bytes(int(rng.integers(0, 3000)))
    return f"{how}, label {label}", data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


# ---- record sets ---------------------------------------------------------------------------------

COUNT, SHARDS = 12, 2


def sound_set(folder: Path) -> Path:
    """12 labelled records in 2 shards; record i is 20 + i px wide."""
    lines = (
        ("train", encode(picture(20 + i, 10), "PNG"), f"line {i}", f"id{i}") for i in range(COUNT)
    )
    writer.write(folder, lines, shards=SHARDS)
    return folder


def shard(rng: Rng, scratch: Path) -> tuple[str, Path]:
    """A record set with a corrupted, cut, emptied, swapped, foreign or missing shard."""
    folder = sound_set(scratch / "set")
    files = sorted(folder.glob("*.array_record"))
    file = files[int(rng.integers(0, len(files)))]
    data = file.read_bytes()
    how = str(rng.choice(["corrupt", "corrupt", "flip", "flip", "cut", "empty", "noise", "missing", "swap", "append", "zstd",
                          "folder", "fifo", "bomb"]))  # fmt: skip
    if how == "corrupt":
        what, data = corrupt(rng, data)
        how = f"corrupt: {what}"
    elif how == "flip":  # in the pages that hold data; most of a small shard is padding
        used = np.flatnonzero(np.frombuffer(data, np.uint8))
        out = bytearray(data)
        for place in rng.choice(used, int(rng.integers(1, 4))):
            out[place] ^= 1 << int(rng.integers(0, 8))
        data = bytes(out)
    elif how in ("cut", "empty", "noise"):
        data = {
            "cut": data[: int(rng.integers(0, len(data)))],
            "empty": b"",
            "noise": rng.bytes(70_000),
        }[how]
    elif how == "append":
        data += data
    elif how == "swap":
        data = files[0].read_bytes() if file == files[1] else files[1].read_bytes()[:-1]
    file.write_bytes(data)
    if how in ("missing", "folder", "fifo"):
        file.unlink()
        if how == "folder":
            file.mkdir()
        elif how == "fifo":
            os.mkfifo(file)
    elif how in ("zstd", "bomb"):
        from array_record.python.array_record_module import ArrayRecordWriter

        out = ArrayRecordWriter(
            str(file), "group_size:4,zstd" if how == "zstd" else "group_size:1,zstd"
        )
        good = writer.serialize(encode(picture(20, 10), "PNG"), "x", "id")
        for _ in range(COUNT // SHARDS):
            out.write(good + bytes(64 << 20) if how == "bomb" else good)
        out.close()
    return f"{how} ({file.name})", folder


def manifest(rng: Rng, scratch: Path) -> tuple[str, Path]:
    """A record set with a hostile records.json or index."""
    folder = sound_set(scratch / "set")
    (scratch / "outside").mkdir()
    outside = scratch / "outside" / "train.array_record"
    outside.write_bytes((folder / f"train-00000-of-{SHARDS:05d}.array_record").read_bytes())
    file = folder / writer.MANIFEST
    value = json.loads(file.read_text("utf-8"))
    how = str(
        rng.choice(
            [
                "value",
                "value",
                "value",
                "shards",
                "delete",
                "text",
                "index",
                "index",
                "arrays",
                "arrays",
            ]
        )
    )
    if how in ("value", "delete"):
        inner = value["splits"]["train"]
        where = [(owner, key) for owner in (value, value["splits"], inner) for key in owner]
        owner, key = where[int(rng.integers(0, len(where)))]
        strange = STRANGE[int(rng.integers(0, len(STRANGE)))]
        how = f"{key} {'deleted' if how == 'delete' else repr(strange)[:40]}"
        owner.pop(key) if how.endswith("deleted") else owner.__setitem__(key, strange)
        file.write_text(json.dumps(value))
    elif how == "shards":
        inner, name = value["splits"]["train"], str(rng.choice(["shards", "shard_counts", "index"]))
        paths = [
            "../outside/train.array_record",
            str(outside),
            "./x/../../outside/train.array_record",
            "a\0b",
            "",
            ".",
            7,
        ]
        new = {"shards": [paths[int(rng.integers(0, len(paths)))]] * 2, "shard_counts": [int(rng.integers(0, 14)), 6],
               "index": paths[int(rng.integers(0, len(paths)))]}  # fmt: skip
        inner[name] = new[name]
        how = f"{name} {str(new[name])[:60]}"
        file.write_text(json.dumps(value))
    elif how == "text":
        texts = [
            b"",
            b"{",
            b"[" * 200_000,
            b'{"a":' * 100_000,
            b"\xff\xfe{\0}\0",
            b"\xef\xbb\xbf" + file.read_bytes(),
            b"null",
            b"[]",
            b'"x"',
            b'{"schema_version": 1}',
            b'{"schema_version": ' + b"9" * 9999 + b"}",
            bytes(9999),
            b'{"schema_version": 1, "splits": {"train": [1]}}',
            corrupt(rng, file.read_bytes())[1],
        ]
        file.write_bytes(texts[int(rng.integers(0, len(texts)))])
    else:
        how = f"{how}: {_spoil_index(rng, folder / 'index-train.npz', scratch, how == 'arrays')}"
    return how, folder


def _spoil_index(rng: Rng, file: Path, scratch: Path, whole: bool) -> str:
    with np.load(file, allow_pickle=False) as found:
        arrays: dict[str, Any] = dict(found)
    if whole:
        name = str(rng.choice(sorted(arrays)))
        size = int(rng.choice([0, 1, COUNT, COUNT, COUNT, COUNT + 1, 3_000_000]))
        kinds = ["u2", "i4", "i8", "f4", "U9", "bool", "c8", "S3", "M8[s]"]
        kind = str(rng.choice(kinds))
        numbers = rng.choice([-2, -1, 0, 1, 40, 65535, 2**31 - 1], size if size <= COUNT + 1 else 1)
        numbers = numbers if size <= COUNT + 1 else np.zeros(size, np.uint8)
        arrays[name] = (
            numbers.astype(kind) if rng.random() < 0.9 else numbers.reshape(1, -1).astype(kind)
        )
        if rng.random() < 0.1:
            del arrays[name]
        np.savez_compressed(file, **arrays)
        return f"{name} {size} x {kind}"
    touch = (
        b"cos\nsystem\n(S'touch " + os.fsencode(scratch / "executed") + b"'\ntR."
    )  # what a pickle can do
    header = np.lib.format.magic(1, 0)
    about = b"{'descr': '|O', 'fortran_order': False, 'shape': (12,), }\n"
    pickled = header + struct.pack("<H", len(about)) + about + touch
    how = str(
        rng.choice(["corrupt", "pickle", "pickled npy", "noise", "empty", "huge shape", "missing"])
    )
    if how in ("pickle", "huge shape"):
        if how == "huge shape":
            about = b"{'descr': '<u2', 'fortran_order': False, 'shape': (99999999999,), }\n"
            pickled = header + struct.pack("<H", len(about)) + about + bytes(99)
        with zipfile.ZipFile(file, "w") as archive:
            for name in arrays:
                archive.writestr(f"{name}.npy", pickled)
    elif how == "missing":
        file.unlink()
    else:
        new = {
            "corrupt": corrupt(rng, file.read_bytes())[1],
            "pickled npy": touch,
            "noise": rng.bytes(999),
            "empty": b"",
        }
        file.write_bytes(new[how])
    return how


KINDS: dict[str, tuple[float, Callable[[Rng, Path], tuple[str, bytes | Path]]]] = {
    "image": (0.45, image),
    "example": (0.15, example),
    "shard": (0.13, shard),
    "manifest": (0.12, manifest),
    "folder": (0.15, folder),
}  # fmt: skip  (share of the cases, builder)
