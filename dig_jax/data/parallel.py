"""Work spread over processes, results in order: what the sources of records share."""

import collections
import itertools
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

from absl import logging


def cores() -> int:
    """Cores that this process may use (containers and `taskset` give fewer than the machine
    has).
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


WORKER_BATCHES = 2  # that a worker process of the input pipeline makes ahead


def free_shared_memory(path: str = "/dev/shm") -> float:
    """Bytes that are free where processes share memory; inf where there is no such place."""
    if not os.path.isdir(path):
        return math.inf
    free = os.statvfs(path)
    return free.f_bavail * free.f_frsize


def fitting_workers(wanted: int, batch_bytes: int, free_bytes: float) -> int:
    """At most `wanted` worker processes whose batches fit into the shared memory: each holds those
    made ahead, one in the making and one in use. Says so where it is fewer; 0 = a thread."""
    each = (WORKER_BATCHES + 2) * batch_bytes
    count = int(min(wanted, free_bytes // max(each, 1)))
    if count < wanted:
        logging.warning(
            "/dev/shm has %.0f MiB free and %d worker processes need %.0f MiB for their batches: "
            "reading with %s instead. Raise it (docker --shm-size, on Kubernetes an emptyDir of "
            "medium Memory), or lower config.data.workers",
            free_bytes / 2**20,
            wanted,
            wanted * each / 2**20,
            f"{count} of them" if count else "a thread",
        )
    return count


def ordered_map(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    workers: int | None = None,
    chunk: int = 32,
) -> Iterator[Any]:
    """Yields function(item) for each item, in order, whatever the number of workers.

    workers: None = one a core, 0 or 1 = in this process. Processes are spawned, not forked (threads
    of JAX or OpenCV do not survive a fork), so `function` must pickle. It is sent once to each
    worker and may keep a cache. At most four chunks a worker are under way, so memory does not grow
    with the number of items. A worker that dies (out of memory) raises RuntimeError; it never
    hangs.
    """
    workers = cores() if workers is None else workers
    if workers <= 1:
        yield from map(function, items)
        return
    source = iter(items)
    chunks = iter(lambda: list(itertools.islice(source, chunk)), [])
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(workers, context, _install, (function,)) as pool:
        waiting = collections.deque(
            pool.submit(_apply, c) for c in itertools.islice(chunks, 4 * workers)
        )
        try:
            while waiting:
                results = waiting.popleft().result()
                waiting.extend(pool.submit(_apply, c) for c in itertools.islice(chunks, 1))
                yield from results
        except futures.process.BrokenProcessPool as error:
            raise RuntimeError(
                "A worker process died, most likely out of memory; try fewer --workers."
            ) from error
        finally:
            for future in waiting:
                future.cancel()


_installed: list[Callable[[Any], Any]] = []  # in a worker process: its function


def _install(function: Callable[[Any], Any]) -> None:
    _installed[:] = [function]


def _apply(items: list[Any]) -> list[Any]:
    return [_installed[0](item) for item in items]
