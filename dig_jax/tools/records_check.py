"""Checks record sets where they lie: counts, fingerprint, a sample of the records, MB/s.

    python -m dig_jax.tools.records_check DIR[@SPLIT] [DIR ...] [--sample=1000] [--all]

What to run before a training: on a bucket mounted with Cloud Storage FUSE (docs/data.md), on a
copy, on a disk that may be damaged. The sample is read at random, as a training reads; --all reads
every record in order and compares the digest. Exit code 0 only where nothing is wrong. The last
line is one JSON object.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import app, flags

from dig_jax.data.examples import shown
from dig_jax.data.record_set import RecordSet, parse
from dig_jax.data.records import AT_ONCE, parse_spec, read_manifest
from dig_jax.data.sizes import BadRecord, header_size
from dig_jax.tools import program

FLAGS = flags.FLAGS


def parts(name: str) -> list[tuple[str, str]]:
    """(folder, split) of DIR[@SPLIT]: all its splits where none is named. ValueError for the
    address of an object store, which says how to mount it."""
    if "://" in name:
        scheme, _, place = name.partition("://")
        bucket = place.split("/")[0]
        mount = f"gcsfuse --implicit-dirs {bucket} /mnt/{bucket}"
        how = f": {mount}" if scheme == "gs" else f", such as at /mnt/{bucket}"
        raise ValueError(
            f"{name} is the address of an object store, which is read through a mount{how}; then "
            f"check /mnt/{place} (docs/data.md has the flags)"
        )
    found = []
    for path, split, _ in parse_spec(name, split=""):
        splits = [split] if split else read_manifest(path)["splits"]
        found += [(path, each) for each in splits]
    return found


def rows_of(count: int, sample: int, all_of_them: bool) -> Iterator[np.ndarray]:
    """The numbers of the records to read, i64[at most AT_ONCE] at a time."""
    rows = np.arange(count)
    if not all_of_them:
        rows = np.random.default_rng(0).permutation(count)[:sample]
    for first in range(0, len(rows), AT_ONCE):
        yield rows[first : first + AT_ONCE]


def check(records: RecordSet, sample: int, all_of_them: bool) -> dict[str, Any]:
    """Reads records of one split. {"count", "labelled", "fingerprint", "read", "bytes", "s",
    "faults": {what: how often}, "such": {what: where first}, "digest": "same", "other" or ""}."""
    faults: Counter[str] = Counter()
    such: dict[str, str] = {}
    digest, read, size, start = hashlib.sha256(), 0, 0, time.perf_counter()
    for rows in rows_of(len(records), sample, all_of_them):
        for row, value in zip(rows.tolist(), records.read_raw(rows)):
            read += 1
            if isinstance(value, bytes):
                size += len(value)
                digest.update(value)
            if fault := fault_of(records, row, value):
                faults[fault] += 1
                such.setdefault(fault, records.where(row))
    known = records.entry.get("digest", "") if all_of_them else ""
    same = known and ("same" if digest.hexdigest() == known else "other")
    return {
        "count": len(records),
        "labelled": int((records.label_chars >= 0).sum()),
        "fingerprint": records.fingerprint,
        "read": read,
        "bytes": size,
        "s": time.perf_counter() - start,
        "faults": dict(faults),
        "such": such,
        "digest": same,
    }


def fault_of(records: RecordSet, row: int, value: bytes | BadRecord) -> str:
    """What is wrong with one record: "" where it can be read and is what the index says."""
    if isinstance(value, BadRecord):
        return str(value)
    try:
        record = parse(value)
        size = header_size(record.image)
    except BadRecord as error:
        return str(error).split(":")[0]
    index = records.index
    if size != (index["width_px"][row], index["height_px"][row]):
        return "another size than in the index"
    chars = -1 if record.text is None else len(record.text)
    return "" if chars == index["label_chars"][row] else "another label than in the index"


def told(name: str, found: dict[str, Any]) -> str:
    """Lines for people."""
    rate = found["bytes"] / 1e6 / max(found["s"], 1e-9)
    lines = [
        f"{name}: {found['count']} records ({found['labelled']} labelled), fingerprint "
        f"{found['fingerprint']}",
        f"  read {found['read']}: {found['bytes'] / 1e6:.1f} MB at {rate:.0f} MB/s, "
        f"{found['read'] / max(found['s'], 1e-9):.0f} records/s"
        + {"": "", "same": "; the digest agrees", "other": "; ANOTHER DIGEST than records.json"}[
            found["digest"]
        ],
    ]
    lines += [f"  {n} x {shown(w)}, such as {found['such'][w]}" for w, n in found["faults"].items()]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise app.UsageError("name at least one records folder")
    sets, wrong = {}, 0
    for name in argv[1:]:
        for path, split in parts(name):
            found = check(RecordSet(path, split), FLAGS.sample, FLAGS.all)
            print(told(f"{path}@{split}", found))
            wrong += sum(found["faults"].values()) + (found["digest"] == "other")
            sets[f"{path}@{split}"] = {**found, "s": round(found["s"], 3)}
    print(json.dumps({"wrong": wrong, "sets": sets}))
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    flags.DEFINE_integer("sample", 1000, "Records of each split to read at random.", lower_bound=0)
    flags.DEFINE_bool("all", False, "Read every record, and compare the digest.")
    program.run(main)
