"""Rows of Parquet and Arrow files, for a process apart (see dig_jax.data.apart)."""

from collections.abc import Iterator
from typing import Any

BATCH_ROWS = 64  # read at once: images may be photographs


def schema(path: str) -> Iterator[Any]:
    """One (names of the columns, Hugging Face's metadata as JSON or "", rows)."""
    import pyarrow.parquet

    if path.endswith(".parquet"):
        with pyarrow.parquet.ParquetFile(path) as file:
            found, rows = file.schema_arrow, file.metadata.num_rows
    else:
        found, rows = _stream(path).schema, 0
    metadata = (found.metadata or {}).get(b"huggingface", b"")[: 16 << 20]
    yield list(found.names), metadata.decode("utf-8", "replace"), int(rows)


def rows(path: str, columns: list[str]) -> Iterator[Any]:
    """The values of these columns, row by row; an image is its bytes, or None."""
    import pyarrow.parquet

    if path.endswith(".parquet"):
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _values(file.iter_batches(BATCH_ROWS, columns=columns), columns)
    else:
        yield from _values(iter(_stream(path)), columns)


def _stream(path: str) -> Any:
    import pyarrow

    opened = pyarrow.memory_map(path)
    try:
        return pyarrow.ipc.open_stream(opened)
    except pyarrow.ArrowInvalid:  # the other of Arrow's two formats
        opened = pyarrow.ipc.open_file(pyarrow.memory_map(path))
        return pyarrow.RecordBatchReader.from_batches(
            opened.schema, (opened.get_batch(i) for i in range(opened.num_record_batches))
        )


def _values(batches: Iterator[Any], columns: list[str]) -> Iterator[tuple[Any, ...]]:
    for batch in batches:
        for row in range(batch.num_rows):
            image, *texts = (batch.column(name)[row].as_py() for name in columns)
            yield _image(image), *texts


def _image(value: Any) -> bytes | None:
    """Bytes, or those of {"bytes": ..., "path": ...}; a path alone is none of ours to open."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return bytes(value) if isinstance(value, bytes | bytearray) else None
