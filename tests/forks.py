"""A Python that starts at once: a fork of a process that has imported what the programs need.

Importing JAX, Orbax and Grain takes seconds, and tests start several dozen programs. `python` here
stands in for `sys.executable` in `-c CODE`, `-m MODULE` and `SCRIPT.py`: same flags, environment,
folder, pipes, signals and exit codes. A program that a signal ends gives 128 + its number, as in a
shell.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Stands between whoever starts the program and the fork: SIGTERM and SIGINT are passed on, and the
# fork ends with it.
CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
order = dict(argv=sys.argv[1:], environment=dict(os.environ), folder=os.getcwd())
server.sendall(b"%10d" % len(json.dumps(order)))
socket.send_fds(server, [b"!"], [0, 1, 2])
server.sendall(json.dumps(order).encode())
answer = server.makefile()
child = int(answer.readline())
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: os.kill(child, number))
code = int(answer.readline())
sys.exit(code if code >= 0 else 128 - code)
"""


@contextlib.contextmanager
def python(folder: Path) -> Iterator[str]:
    """The path of an executable in `folder` that starts programs as `sys.executable` does."""
    address = str(folder / "forks")
    executable = folder / "python"
    executable.write_text(CLIENT.format(python=sys.executable, address=address))
    executable.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(listening.fileno())],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=[listening.fileno()],
        )
    try:
        yield str(executable)
    finally:
        server.kill()
        server.wait()


def serve(listening: socket.socket) -> list[str]:
    """Forks at every call. -> in a fork: the arguments of its program."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks that wait
    while True:
        connection, _ = listening.accept()
        if os.fork():
            connection.close()
            continue
        listening.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        size = int(connection.recv(10, socket.MSG_WAITALL))
        _, places, _, _ = socket.recv_fds(connection, 1, 3)
        order = json.loads(connection.recv(size, socket.MSG_WAITALL))
        if child := os.fork():
            stand_by(child, connection, places)
        connection.close()
        for place, descriptor in enumerate(places):
            os.dup2(descriptor, place)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        return order["argv"]


def stand_by(child: int, connection: socket.socket, places: list[int]) -> None:
    """Tells of the child's end, or ends it when nobody listens any more; never returns."""
    for descriptor in (0, 1, 2, *places):
        os.close(descriptor)
    connection.sendall(f"{child}\n".encode())
    ended = os.pidfd_open(child)
    gone, _, _ = select.select([connection, ended], [], [])
    if ended not in gone:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(f"{code}\n".encode())
    os._exit(0)


def run(argv: list[str]) -> None:
    """What `python ARGV` does."""
    kind, *rest = argv
    sys.path[0] = "" if kind in ("-c", "-m") else os.path.dirname(kind)
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    import cv2  # noqa: F401
    import grain  # noqa: F401
    import jax  # noqa: F401
    import matplotlib  # noqa: F401
    from ml_collections import config_flags  # noqa: F401

    import dig_jax.load  # noqa: F401
    import dig_jax.train.run  # noqa: F401  none of these defines a flag of a program

    run(serve(socket.socket(fileno=int(sys.argv[1]))))
