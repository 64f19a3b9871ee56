"""A mapping that lies on the disk in the order of its keys: for lists of millions of files."""

import sqlite3
from collections.abc import Iterator, MutableMapping

MEMORY_KB = 32 << 10  # kept of it in memory


class DiskMap(MutableMapping[str, str | None]):
    """A dict of file names whose iteration is sorted, in a temporary file that goes with it.

    Keys and values are str, with lone surrogates where a file name is no Unicode; values may be
    None. 200,000 names of 20 characters take 2 s to fill in and 9 MB on the disk.
    """

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for line in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{MEMORY_KB}"):
            self._base.execute(f"PRAGMA {line}")
        self._base.execute("CREATE TABLE map (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        self._base.execute("BEGIN")
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
        added = self._base.execute(
            "INSERT OR IGNORE INTO map VALUES (?, ?)", (_bytes(key), _bytes(value))
        )
        self._count += added.rowcount
        return value if added.rowcount else self[key]

    def __setitem__(self, key: str, value: str | None) -> None:
        if key in self:
            self._base.execute(
                "UPDATE map SET value = ? WHERE key = ?", (_bytes(value), _bytes(key))
            )
        else:
            self.setdefault(key, value)

    def __delitem__(self, key: str) -> None:
        if not self._base.execute("DELETE FROM map WHERE key = ?", (_bytes(key),)).rowcount:
            raise KeyError(key)
        self._count -= 1

    def __iter__(self) -> Iterator[str]:
        return (_text(key) for (key,) in self._base.execute("SELECT key FROM map ORDER BY key"))


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "surrogateescape")
