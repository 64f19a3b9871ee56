"""The hosts of a job: how they begin, agree and end, and who of them speaks."""

from __future__ import annotations

import atexit
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_all_is_well: Callable[[], Any] = lambda: None  # tells the shell of `initialize`

ADDRESS = "JAX_COORDINATOR_ADDRESS"
PARTNERS = (
    "Set all three on every process: DIG_PROCESS_COUNT, DIG_PROCESS_INDEX (0 to count - 1) and "
    f"{ADDRESS} (host:port of process 0); DIG_PROCESS_COUNT=1 alone starts one process"
)
LOST = 134  # exit code where another host is lost, or one is stuck: what JAX's own abort gives
STATUS = "dig_jax/status/"  # keys of what hosts publish
ALONE = (
    "error: this host ended without a word of its own. It was killed, or another host of the job "
    "died, hung or never came, and JAX ended all of them. See the lines above and the logs of the "
    "others. Run the same command on all hosts again to go on from the last checkpoint"
)


def initialize() -> None:
    """Join the other hosts of this job, if there are any. Call once, before anything touches a
    device.

    Finds TPU pods, SLURM, Open MPI and Kubernetes by itself. Anywhere else set
    JAX_COORDINATOR_ADDRESS (host:port), DIG_PROCESS_COUNT and DIG_PROCESS_INDEX. A lone process
    stays alone and opens no port. DIG_PROCESS_COUNT=1 says that it is alone where JAX would look
    for others, as in a pod that has the kubernetes client.

    A host ends the others when it does not come within DIG_START_TIMEOUT_S (900), or when it is
    dead or silent for DIG_HOST_TIMEOUT_S (100). JAX then aborts the process from a thread of its
    own, prints pages of text and lets no Python code run. A shell therefore waits for this process
    to end. It prints the sentence ALONE unless it was told that all is well.
    """
    timeouts = {"initialization_timeout": _seconds("DIG_START_TIMEOUT_S", 900)}
    timeouts["heartbeat_timeout_seconds"] = _seconds("DIG_HOST_TIMEOUT_S", 100)
    if os.environ.get("DIG_PROCESS_COUNT") == "1":
        return  # alone, whatever cluster this is
    given = _partners()
    # It reads a line from this process, and gets none where this process is gone.
    shell = ["/bin/sh", "-c", 'read -r line || echo "$0" >&2', ALONE]
    waiting = subprocess.Popen(
        shell, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )

    def all_is_well() -> None:
        if waiting.poll() is None:
            waiting.communicate(b"all is well\n")

    global _all_is_well
    _all_is_well = all_is_well
    atexit.register(all_is_well)  # before JAX registers its goodbye, so after it
    try:
        jax.distributed.initialize(*given, **timeouts)
    except ValueError as error:  # JAX's word for "no cluster found here"
        all_is_well()
        if given:
            raise
        if ADDRESS in os.environ:
            raise ValueError(
                f"{ADDRESS} is set, and the rest is not found (JAX says: {error}). {PARTNERS}"
            ) from error


def _partners() -> tuple[Any, ...]:
    """(address of process 0, processes, index of this one) as the environment has them, or ().
    ValueError where it has them in part or wrongly."""
    count, index = (os.environ.get(f"DIG_PROCESS_{name}") for name in ("COUNT", "INDEX"))
    if count is None and index is None:
        return ()
    address = os.environ.get(ADDRESS)
    numbers = [text for text in (count, index) if text and re.fullmatch(r"[0-9]+", text)]
    if (
        len(numbers) < 2
        or not int(index) < int(count)
        or not re.fullmatch(r".+:[0-9]{1,5}", address or "")
    ):
        raise ValueError(
            f"DIG_PROCESS_COUNT is {count!r}, DIG_PROCESS_INDEX {index!r} and {ADDRESS} "
            f"{address!r}. {PARTNERS}"
        )
    return address, int(count), int(index)


def leave(code: int) -> None:
    """After an error: at exit, with this code, do not wait for the other hosts, as JAX would for
    minutes. They end when they miss this one.
    """
    if jax.distributed.is_initialized():
        # Last in, first out: the words have been said by then, and JAX's own goodbye is not
        # reached.
        atexit.register(os._exit, code)
        atexit.register(sys.stdout.flush)
        atexit.register(_all_is_well)


def end_now() -> None:
    """End this process from any thread, when its main thread may never return. The other hosts end
    when they miss it."""
    _all_is_well()  # the words have been said
    sys.stdout.flush()
    os._exit(LOST)


def publish(text: str) -> None:
    """Tell the other hosts how this one is; waits for nobody. Alone: nothing."""
    if client := _client():
        client.key_value_set(f"{STATUS}{jax.process_index()}", text, allow_overwrite=True)


def published() -> dict[int, str]:
    """{host: what it last published} of all hosts that did; waits for nobody."""
    client = _client()
    told = client.key_value_dir_get(STATUS) if client else []
    return {int(key.rpartition("/")[2]): text for key, text in told}


def _client() -> Any:
    """JAX's store that all hosts share, or None: no public function leads to it."""
    from jax._src import distributed

    return getattr(distributed.global_state, "client", None)


def lost_host(error: BaseException) -> bool:
    """Whether this error of a collective or a barrier says that another host is gone."""
    words = (
        r"Gloo|NCCL|[Cc]oordination ?[Ss]ervice|[Bb]arrier|heartbeat"
        r"|Connection (closed|reset) by peer"
    )
    return jax.distributed.is_initialized() and re.search(words, str(error)) is not None


def _seconds(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit() or not int(text):
        raise ValueError(f"{name} is {text!r}: set it to a whole number of seconds")
    return int(text)


def is_lead() -> bool:
    """True on the one process that prints and writes files."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every host has arrived at the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast(number: int | None) -> int | None:
    """The lead's number, on every host; the others' is not looked at."""
    if jax.process_count() == 1:
        return number
    told = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if number is None else number)))
    return None if told < 0 else told


def check_same(what: str, number: int) -> None:
    """ValueError, on every host, where they do not have the same number."""
    if jax.process_count() > 1:
        numbers = multihost_utils.process_allgather(np.int32(number)).ravel().tolist()
        if len(set(numbers)) > 1:
            raise ValueError(
                f"{what} differs: {numbers}, by host. Let all hosts see the same files (an NFS "
                "mount may show old ones for a minute), and run the same command again"
            )


def gather_rows(rows: np.ndarray) -> np.ndarray:
    """i32[n] of every host, as long everywhere, one after the other."""
    if jax.process_count() == 1:
        return rows
    return np.concatenate(multihost_utils.process_allgather(np.asarray(rows, np.int32)))


def sum_hosts(tree: Any, counts: bool = True) -> Any:
    """Sum of a tree of Python numbers or numpy arrays over all hosts; the same result everywhere.

    counts: False on a host whose rows another host counts, see `sharding.HostShard`.
    """
    if jax.process_count() == 1:
        return tree
    if not counts:
        tree = jax.tree.map(np.zeros_like, tree)
    return jax.tree.map(
        lambda stacked: np.sum(stacked, axis=0), multihost_utils.process_allgather(tree)
    )


def gather(data: bytes) -> list[bytes]:
    """The bytes that each host gives, in the order of the hosts; the same list everywhere."""
    if jax.process_count() == 1:
        return [data]
    lengths = multihost_utils.process_allgather(np.array(len(data), np.int32)).reshape(-1)
    padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:length].tobytes() for row, length in zip(rows, lengths.tolist())]


def stop_requested(count: int, local_signal: bool) -> bool:
    """True when the job must save and leave after this process's step number `count`, from 1 on.
    With several hosts all of them say so at the same step. `count` is not the step of the run. A
    signal from before the first call makes JAX agree on 1, which a resumed run would never come
    to."""
    if jax.process_count() == 1:
        return local_signal
    return multihost_utils.reached_preemption_sync_point(count)


def report(text: str) -> None:
    """A line for the user, on the lead process; above the progress bar where there is one."""
    if is_lead():
        if sys.stderr.isatty():
            from tqdm import tqdm  # here: bench_step runs without it

            tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)
