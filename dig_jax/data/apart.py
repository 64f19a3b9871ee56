"""A reader in C, run in a process of its own: a damaged file may end it, and nothing else.

LMDB and HDF5 trust their files, so a single wrong byte can crash or hang the process that reads
them. `read_apart` streams what a generator yields from a child process that may die.
"""

import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE_S = 60  # for one item


class Died(Exception):
    """The process of the reader ended in the middle: the file is damaged there."""


def read_apart(function: str, *arguments: Any) -> Iterator[Any]:
    """Yields what the generator `function` ("module:name") yields, in another process.

    Raises Died where that process crashes or takes a minute for one item, and ValueError with the
    message of what the generator raised.
    """
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    child = subprocess.Popen(
        [sys.executable, "-m", "dig_jax.data.apart", function],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
    )
    try:
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(arguments, child.stdin)
            child.stdin.close()
        while True:
            try:
                kind, value = pickle.load(child.stdout)
            except (EOFError, pickle.UnpicklingError) as error:
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


def main() -> None:
    """The child: one pickle for each item on its standard output."""
    out = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)  # what a library prints must not get between the items
    send = lambda kind, value=None: pickle.dump((kind, value), out, protocol=5)
    try:
        module, _, name = sys.argv[1].partition(":")
        items = getattr(importlib.import_module(module), name)(*pickle.load(sys.stdin.buffer))
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
