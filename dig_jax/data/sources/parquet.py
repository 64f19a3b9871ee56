"""Source: Parquet and Arrow tables, such as data sets of the Hugging Face hub on this disk.

    data/train-00000-of-00002.parquet   as the hub has them; a .parquet file of your own
    train/data-00000-of-00001.arrow     what `datasets.save_to_disk` writes

The column of images holds encoded bytes, or {"bytes", "path"} as the hub does. That of texts holds
strings, or a class whose names stand in the table. --image_column and --text_column give other
names than the usual ones. Rows are streamed, so that a table may be larger than memory. A name that
begins with train, validation or test gives that split. pyarrow reads; `datasets` is not needed.
"""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from dig_jax.data.apart import Died, read_apart
from dig_jax.data.examples import Example, Report, Skipped, shown
from dig_jax.data.images import Item, Store, stored
from dig_jax.data.lists import Root, open_root, read_source, walk
from dig_jax.data.split_names import split_of
from dig_jax.data.tables import IMAGE_COLUMNS, TEXT_COLUMNS

SUFFIXES = (".parquet", ".arrow")


def examples(
    *,
    report: Report,
    input: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text or None, "file.parquet#row") in the order of the paths.
    ValueError where there is no table, or one without a column of images."""
    file = Path(input) if input and Path(input).is_file() else None
    root = open_root(str(file.parent) if file else input)
    report.about.update(read_source(root))
    every = [file.name] if file else walk(root, report)
    # Hugging Face keeps what it computed beside the data.
    own = lambda path: path.rpartition("/")[2].startswith("cache-")
    files = [path for path in every if (file or path.endswith(SUFFIXES)) and not own(path)]
    if not files:
        raise ValueError(f"--input={input} holds no .parquet or .arrow file.")

    def found() -> Iterator[Item | Skipped]:
        for path in files:
            yield from _rows(root, path, image_column, text_column, report)

    yield from stored(found(), store or Store(), report, workers)


def _rows(
    root: Root, path: str, image_column: str | None, text_column: str | None, report: Report
) -> Iterator[Item | Skipped]:
    if reason := root.reason(path):
        yield Skipped(path, reason)
        return
    pure = PurePosixPath(path)
    split = split_of([*pure.parts[:-1], pure.name.split(".")[0].split("-")[0]])
    read, count = 0, None
    try:
        items = read_apart("dig_jax.data.parquet_read:schema", str(root.path / path))
        columns, metadata, count = next(items)
        items.close()
        image = _column(columns, image_column, IMAGE_COLUMNS, path)
        text = _column(columns, text_column, TEXT_COLUMNS, path, optional=True)
        names = _names(metadata, text)
        wanted = [name for name in (image, text) if name]
        report.total = (report.total or 0) + count
        for row in read_apart("dig_jax.data.parquet_read:rows", str(root.path / path), wanted):
            id = f"{path}#{read}"
            read += 1
            label = _label(row[1], names) if text else None
            if not isinstance(row[0], bytes) or not row[0]:
                yield Skipped(id, "row without an image")
                continue
            if label is None and text and row[1] not in (None, -1):
                yield Skipped(id, "class without a name (image kept, unlabelled)")
            yield split, row[0], label, id
    except Died:
        lost = max((count or 0) - read, 1)
        yield Skipped(path, "table is damaged: the rest ends its reader", lost)
    except ValueError as error:
        if isinstance(error, NoColumn):
            raise
        kind = shown(str(error).split(":")[0], 40)
        lost = max((count or 0) - read, 1)
        yield Skipped(path, f"table is damaged: the rest is not read ({kind})", lost)


class NoColumn(ValueError):
    """A table without the columns that are wanted: the user can name them."""


def _column(
    columns: list[str], given: str | None, usual: tuple[str, ...], path: str, optional: bool = False
) -> str | None:
    lower = {name.lower(): name for name in reversed(columns)}
    found = next(
        (lower[name] for name in ([given.lower()] if given else usual) if name in lower), None
    )
    if found is None and (given or not optional):
        what = f"'{given}'" if given else "of images"
        told = shown(", ".join(columns), 200)
        raise NoColumn(
            f"{path} has no column {what}, but: {told}; name it with --image_column, --text_column."
        )
    return found


def _names(metadata: str, column: str | None) -> list[str] | None:
    """The names of the classes of a column, as Hugging Face keeps them in the schema."""
    try:
        names = json.loads(metadata)["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else None


def _label(value: Any, names: list[str] | None) -> str | None:
    if isinstance(value, int) and names is not None:
        return names[value] if 0 <= value < len(names) else None
    if isinstance(value, str):
        return value
    return None if value is None or value != value else str(value)  # NaN: no label
