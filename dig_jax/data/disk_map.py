"""Mappings and lists that lie on the disk: for folders of millions of files."""

import sqlite3
from collections.abc import Iterator, MutableMapping
from pathlib import Path

MEMORY_KB = 8 << 10  # kept of each in memory


class DiskMap(MutableMapping[str, str | None]):
    """A dict of file names whose iteration is sorted, in a temporary file that goes with it.

    Keys and values are str, with lone surrogates where a file name is no Unicode; values may be
    None. 200,000 names of 20 characters take 2 s to fill in and 9 MB on the disk.
    """

    def __init__(self) -> None:
        self._base = _base("map (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: object) -> bool:
        found = self._base.execute("SELECT 1 FROM map WHERE key = ?", (_bytes(str(key)),))
        return found.fetchone() is not None

    def __getitem__(self, key: str) -> str | None:
        found = self._base.execute("SELECT value FROM map WHERE key = ?", (_bytes(key),))
        if (row := found.fetchone()) is None:
            raise KeyError(key)
        return _text(row[0])

    def setdefault(self, key: str, value: str | None = None) -> str | None:
        """As of dict, without a look where the key is new."""
        return value if self._insert(key, value) else self[key]

    def _insert(self, key: str, value: str | None) -> bool:
        """Adds a key that is not there yet; whether it did."""
        added = self._base.execute(
            "INSERT OR IGNORE INTO map VALUES (?, ?)", (_bytes(key), _bytes(value))
        )
        self._count += added.rowcount
        return bool(added.rowcount)

    def __setitem__(self, key: str, value: str | None) -> None:
        if not self._insert(key, value):
            self._base.execute(
                "UPDATE map SET value = ? WHERE key = ?", (_bytes(value), _bytes(key))
            )

    def __delitem__(self, key: str) -> None:
        if not self._base.execute("DELETE FROM map WHERE key = ?", (_bytes(key),)).rowcount:
            raise KeyError(key)
        self._count -= 1

    def __iter__(self) -> Iterator[str]:
        return (_text(key) for (key,) in self._base.execute("SELECT key FROM map ORDER BY key"))

    def starting(self, prefix: str) -> Iterator[str]:
        """The keys that begin with the prefix, sorted."""
        first = _bytes(prefix)
        rows = self._base.execute("SELECT key FROM map WHERE key >= ? ORDER BY key", (first,))
        for (key,) in rows:
            if not key.startswith(first):
                return
            yield _text(key)


class DiskList:
    """A list of (split, path, text or None, id), the images that a source has found, in a temporary
    file that goes with it."""

    def __init__(self) -> None:
        self._base = _base("list (number INTEGER PRIMARY KEY, a BLOB, b BLOB, c BLOB, d BLOB)")
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, item: tuple[str, Path, str | None, str]) -> None:
        """Adds one at the end."""
        split, path, text, id = item
        row = [_bytes(value) for value in (split, str(path), text, id)]
        self._base.execute("INSERT INTO list VALUES (?, ?, ?, ?, ?)", (self._count, *row))
        self._count += 1

    def __iter__(self) -> Iterator[tuple[str, Path, str | None, str]]:
        for row in self._base.execute("SELECT a, b, c, d FROM list ORDER BY number"):
            split, path, text, id = map(_text, row)
            yield split, Path(path), text, id


def _base(table: str) -> sqlite3.Connection:
    """A database of one table, which SQLite deletes when it is closed."""
    base = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    for line in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{MEMORY_KB}"):
        base.execute(f"PRAGMA {line}")
    base.execute(f"CREATE TABLE {table}")
    base.execute("BEGIN")
    return base


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "surrogateescape")
