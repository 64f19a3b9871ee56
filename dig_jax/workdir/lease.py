"""The lease of a work folder in a bucket: an object that its holder renews, in place of a lock.

It is created and renewed on condition that its generation is the one last seen (the parameter
ifGenerationMatch of Cloud Storage). So of two runs one wins, whatever their clocks say. A holder
that is killed renews it no more. The next run watches it for DIG_LEASE_S seconds, and takes it over
where it has not changed. A holder that was only silent finds that out before it saves again.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from dig_jax import hosts
from dig_jax.workdir import bucket

NAME = "lease.json"
LIFE_S, BEATS = 60.0, 6  # heartbeats in the life of a lease


class Lost(OSError):
    """Another run has taken the lease; the message is one sentence for the user."""


def life_s() -> float:
    """Seconds after which a lease that was not renewed is dead, of DIG_LEASE_S."""
    text = os.environ.get("DIG_LEASE_S", str(LIFE_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise ValueError(f"DIG_LEASE_S is {text!r}: set it to a number of seconds, such as 60")
    return seconds


class Lease:
    """The lease of gs://bucket/run, for one process."""

    def __init__(self, address: str) -> None:
        from google.api_core import exceptions
        from google.cloud import storage
        from google.cloud.storage import retry

        self.address, self.life_s = address, life_s()
        top, _, name = f"{address}/{NAME}".removeprefix(bucket.SCHEME).partition("/")
        self._bucket, self._name = storage.Client().bucket(top), name
        self._retry = retry.DEFAULT_RETRY.with_timeout(self.life_s)
        self._denied, self._absent = exceptions.PreconditionFailed, exceptions.NotFound
        self._told = {"run": uuid.uuid4().hex}
        self._told["holder"] = f"process {os.getpid()} on {platform.node()}"
        self._told["since"] = _now()
        self._generation, self._lost, self._mutex = 0, False, threading.Lock()

    def take(self) -> None:
        """Raises ValueError, which names the holder, where the lease is alive."""
        if self._write(0):
            return
        first, holder = self._read()
        if first:
            hosts.report(
                f"{self.address} was held by {holder}: waiting {self.life_s:g} s to see whether "
                "that run is alive"
            )
        end = time.monotonic() + self.life_s
        while first and time.monotonic() < end:
            time.sleep(self.life_s / BEATS / 4)
            generation, now = self._read()
            if generation not in (0, first):
                raise ValueError(
                    f"--workdir={self.address} is in use by {now}: wait for that run, stop it, or "
                    "name another folder"
                )
            first = generation  # 0: it has ended and let go
        if not self._write(first):
            raise ValueError(
                f"--workdir={self.address} was taken by {self._read()[1]} just now: wait for that "
                "run, stop it, or name another folder"
            )

    def renew(self) -> None:
        """The heartbeat. Raises Lost where another run has the lease; OSError where the bucket does
        not answer."""
        with self._mutex:
            try:
                held = self._write(self._generation)
                _, holder = (0, "") if held else self._read()
            except Exception as error:
                raise OSError(
                    f"{self.address} cannot be written ({bucket.words(error)}): mend that and run "
                    "the same command again, which goes on from the last checkpoint"
                ) from error
        if not held:
            self._lost = True
            raise Lost(
                f"{self.address} was taken over by {holder or 'nobody, but its lease is gone'}: "
                f"this run was silent for more than {self.life_s:g} s, so it ends without a save"
            )

    def release(self) -> None:
        """Let go, where it is still ours."""
        if self._lost:
            return
        with self._mutex, contextlib.suppress(Exception):  # else it expires
            self._object().delete(if_generation_match=self._generation, retry=self._retry)

    def _object(self) -> Any:
        """The object as it is now: Google's client asks again for the generation it last saw."""
        return self._bucket.blob(self._name)

    def _write(self, generation: int) -> bool:
        """Whether the object had this generation (0: was not there) and is now written anew."""
        text = json.dumps(self._told | {"heartbeat": _now()})
        options: dict[str, Any] = {"timeout": self.life_s, "retry": self._retry}
        written = self._object()
        try:
            written.upload_from_string(
                text, "application/json", if_generation_match=generation, **options
            )
        except self._denied:
            # The answer to a write of ours may have been lost, and the write repeated.
            now, told = self._look()
            if told.get("run") != self._told["run"]:
                return False
            self._generation = now
            return True
        self._generation = written.generation
        return True

    def _look(self) -> tuple[int, dict[str, Any]]:
        """(generation, contents); (0, {}) where there is none."""
        found = self._object()
        try:
            text = found.download_as_bytes(timeout=self.life_s, retry=self._retry)
        except self._absent:
            return 0, {}
        try:
            told = json.loads(text)
        except ValueError:
            told = {}
        return found.generation, told if isinstance(told, dict) else {}

    def _read(self) -> tuple[int, str]:
        """(generation, its holder in words); (0, "") where there is none."""
        generation, told = self._look()
        if not generation:
            return 0, ""
        words = (
            f"{told.get('holder', 'another process')} since {told.get('since', 'an unknown time')}"
        )
        return generation, f"{words} (last heartbeat {told.get('heartbeat', 'unknown')})"


def _now() -> str:
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


@contextlib.contextmanager
def held(address: str) -> Iterator[Lease]:
    """The lease of an address, renewed by a thread for as long as the context lasts.

    Raises ValueError, in one sentence, where another run has it or the bucket cannot be written.
    """
    try:
        lease = Lease(address)
        lease.take()
    except (ValueError, Lost):
        raise
    except Exception as error:  # no credentials, no permission, no such bucket, no network
        raise ValueError(
            f"--workdir={address} cannot be written ({bucket.words(error)}): see to credentials "
            "and permissions (docs/launch.md), or name another folder"
        ) from error
    done = threading.Event()

    def beat() -> None:
        while not done.wait(lease.life_s / BEATS):
            try:
                lease.renew()
            except Lost:
                return  # the next save tells it
            except OSError:
                continue  # tried again at the next beat

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        done.set()
        thread.join()
        lease.release()
