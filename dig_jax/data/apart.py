"""A reader in C, run in a process of its own: a damaged file may end it, and nothing else.

LMDB and HDF5 trust their files, so a single wrong byte can crash or hang the process that reads
them. `read_apart` streams what a generator yields from a child process that may die. It travels as
MessagePack, which holds values and no code: a file that took the child over ends there.
"""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

PATIENCE_S = 60  # for one item
ARRAY = 1  # MessagePack's number of our own type
TEXT = {"unicode_errors": "surrogatepass"}  # names in files need not be Unicode


class Died(Exception):
    """The process of the reader ended in the middle: the file is damaged there."""


def read_apart(function: str, *arguments: Any) -> Iterator[Any]:
    """Yields what the generator `function` ("module:name") yields, in another process. Tuples come
    as lists, and what MessagePack cannot hold as its text.

    Raises Died where that process crashes or takes a minute for one item, and ValueError with the
    message of what the generator raised.
    """
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    child = subprocess.Popen(
        [sys.executable, "-m", "dig_jax.data.apart", function],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,  # what is there is read at once
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
    )
    try:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(packed(arguments))
            child.stdin.close()
        items = unpacker(child.stdout)
        while True:
            try:
                kind, value = items.unpack()
            except (msgpack.OutOfData, msgpack.UnpackException, ValueError) as error:
                raise Died(function) from error
            if kind == "end":
                return
            if kind == "error":
                raise ValueError(value)
            yield value
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()


def packed(value: Any) -> bytes:
    """MessagePack bytes of a value."""
    return msgpack.packb(value, default=_other, **TEXT)


def _other(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        head = value.dtype.str, value.shape, value.tobytes()
        return msgpack.ExtType(ARRAY, msgpack.packb(head))
    return str(value)


def unpacker(file: Any) -> msgpack.Unpacker:
    """Reads values from a file, one after the other."""
    return msgpack.Unpacker(file, ext_hook=_array, strict_map_key=False, max_buffer_size=0, **TEXT)


def _array(kind: int, data: bytes) -> np.ndarray:
    dtype, shape, values = msgpack.unpackb(data)
    return np.frombuffer(values, dtype).reshape(shape)


def main() -> None:
    """The child: ("item", value) for each item on its standard output."""
    out = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)  # what a library prints must not get between the items
    send = lambda kind, value=None: out.write(packed((kind, value)))
    try:
        module, _, name = sys.argv[1].partition(":")
        arguments = unpacker(sys.stdin.buffer).unpack()
        items = getattr(importlib.import_module(module), name)(*arguments)
        while True:
            if hasattr(signal, "alarm"):
                signal.alarm(PATIENCE_S)
            try:
                item = next(items)
            except StopIteration:
                break
            finally:
                # What is read so far must not die with the process.
                out.flush()
            send("item", item)
        send("end")
    except Exception as error:
        send("error", f"{type(error).__name__}: {error}")
    out.flush()
    # No teardown: libraries crash in it after damaged files.
    os._exit(0)


if __name__ == "__main__":
    main()
