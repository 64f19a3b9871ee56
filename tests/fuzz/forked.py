"""The processes apart of `dig_jax.data.apart` as forks: a fuzz case need not start Python anew.

A fork has imported what the readers need, so a case of SVHN takes 20 ms instead of 300. What it is
asked, what it answers and how it may die stay as they are.
"""

import contextlib
import faulthandler
import importlib
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from dig_jax.data import apart

READERS = ("h5py", "lmdb", "pyarrow.parquet", "scipy.io")
PATIENCE_S = 10  # instead of the minute that a user's disk may need


class Forked:
    """As much of `subprocess.Popen` as `read_apart` uses."""

    def __init__(self, args: list[str], ended: Callable[[float], None], **_: Any):
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        self.ended = ended
        self.pid = os.fork()
        if not self.pid:
            try:
                for fd, place in ((theirs_in, 0), (theirs_out, 1), (os.open(os.devnull, 1), 2)):
                    os.dup2(fd, place)
                for fd in (ours_in, ours_out, theirs_in, theirs_out):
                    os.close(fd)
                faulthandler.disable()  # pytest's: a reader that dies is what is tested
                sys.stdin, sys.argv = open(0), args[2:]
                apart.main()
            finally:
                os._exit(1)
        os.close(theirs_in)
        os.close(theirs_out)
        self.stdin, self.stdout = open(ours_in, "wb", 0), open(ours_out, "rb", 0)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        _, _, usage = os.wait4(self.pid, 0)
        self.ended(usage.ru_maxrss / 1024)


@contextlib.contextmanager
def forked(ended: Callable[[float], None] = lambda mb: None) -> Iterator[None]:
    """While it is open, `read_apart` forks this process. `ended` is told the peak of each in MB."""
    for name in READERS:
        importlib.import_module(name)
    popen = lambda args, **options: Forked(args, ended, **options)
    before = apart.subprocess, apart.PATIENCE_S
    apart.subprocess = types.SimpleNamespace(
        Popen=popen, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL
    )
    apart.PATIENCE_S = PATIENCE_S
    try:
        yield
    finally:
        apart.subprocess, apart.PATIENCE_S = before
