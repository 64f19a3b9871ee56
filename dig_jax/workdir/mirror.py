"""The local folder that stands for a work folder in a bucket while a run writes.

Objects cannot grow, be locked or be renamed. So the files of a run are written to a local folder.
What has changed there is copied before each save, each file as one object. Checkpoints go to the
bucket by themselves: Orbax writes a commit file behind each. A lease stands for the lock.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dig_jax import hosts
from dig_jax.workdir import bucket, lease

GROWING = ("metrics.jsonl", "starts.jsonl")  # files that a resumed run goes on writing


class Files(NamedTuple):
    """Where a run writes: a local folder, and what brings it to the work folder."""

    folder: str
    publish: Callable[[], None] = lambda: None


class Mirror:
    """`folder`, local, stands for `address` while a run writes.

    renew: called before anything is copied; raises where the run may write no more.
    """

    def __init__(self, address: str, folder: str, renew: Callable[[], None]) -> None:
        self.address, self.folder, self._renew = address.rstrip("/"), folder, renew
        self._copied: dict[str, tuple[int, int]] = {}  # (time in ns, bytes) of each file
        for name in GROWING:
            if (there := bucket.path(self.address) / name).exists():
                (pathlib.Path(folder) / name).write_bytes(there.read_bytes())
        self._copied = self._files()

    def publish(self) -> None:
        """Copy what has changed, and return when the bucket has it. OSError in a sentence."""
        self._renew()
        now = self._files()
        new = [name for name, state in now.items() if self._copied.get(name) != state]
        if not new:
            return
        try:
            bucket.store().put(
                [os.path.join(self.folder, name) for name in new],
                [f"{self.address}/{name}" for name in new],
            )
        except Exception as error:  # gcsfs, aiohttp and google.auth have their own
            raise OSError(
                f"{self.address} cannot be written ({bucket.words(error)}): mend that and run the "
                "same command again, which goes on from the last checkpoint"
            ) from error
        self._copied = now

    def _files(self) -> dict[str, tuple[int, int]]:
        found = {}
        for top, _, names in os.walk(self.folder):
            for name in names:
                told = os.stat(os.path.join(top, name))
                place = os.path.relpath(os.path.join(top, name), self.folder)
                found[place] = told.st_mtime_ns, told.st_size
        return found


@contextlib.contextmanager
def mirrored(address: str) -> Iterator[Files]:
    """The lease of an address and its mirror, for as long as the context lasts. At the end what has
    changed is copied. The other hosts of a job have an empty folder, of which nothing is copied.

    Raises ValueError where another run has the lease, or where nothing can be written.
    """
    with tempfile.TemporaryDirectory(prefix="dig_jax-") as folder, contextlib.ExitStack() as stack:
        if not hosts.is_lead():
            yield Files(folder)
            return
        held = stack.enter_context(lease.held(address))
        mirror = Mirror(address, folder, held.renew)
        try:
            yield Files(folder, mirror.publish)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                mirror.publish()
            raise
        mirror.publish()
