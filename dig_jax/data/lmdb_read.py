"""The records of an LMDB in Clova's layout, for a process apart (see dig_jax.data.apart)."""

from collections.abc import Iterator
from pathlib import Path

MAX_BYTES = 256 << 20  # of one image
MOST = 10**15  # records that a database may claim; its entries bound what is read


def entries(path: str, start: int | None = None) -> Iterator[tuple]:
    """First (first number, count, declared count or None, entries of the database, some keys).

    Then for each number (number, image bytes or None, label bytes or None, id bytes or None), from
    `start` on. Numbers begin at 1, or at 0 where image-000000000 exists. Without a sound
    `num-samples` the count is that of the numbers before the first gap.
    """
    from dig_jax.data.extras import need

    lmdb = need("lmdb", "lmdb")
    folder = Path(path)
    with lmdb.open(
        path, subdir=folder.is_dir(), readonly=True, lock=False, readahead=False, max_readers=1
    ) as env:
        with env.begin(buffers=True) as db:
            size = env.stat()["entries"]
            first = 0 if db.get(b"image-%09d" % 0) is not None else 1
            told = bytes(db.get(b"num-samples") or b"")[:30].strip()
            declared = min(int(told), MOST) if told.isdigit() else None
            # A database cannot hold more records than entries, whatever it says.
            count = min(size, size if declared is None else declared)
            keys = [bytes(key[:80]) for key, _ in zip(db.cursor().iternext(values=False), range(3))]
            yield first, count, declared, size, keys
            number = first if start is None else start
            while number < first + count:
                image = db.get(b"image-%09d" % number)
                if image is None and declared is None:
                    return
                yield (
                    number,
                    bytes(image) if image is not None and len(image) <= MAX_BYTES else None,
                    *(_some(db.get(b"%s-%09d" % (key, number))) for key in (b"label", b"id")),
                )
                number += 1
            # Beyond the count: keys that nobody reads are a finding.
            while declared is not None and db.get(b"image-%09d" % number) is not None:
                yield number, None, None, None
                number += 1


def _some(value: memoryview | None) -> bytes | None:
    return None if value is None else bytes(value[: 1 << 20])
