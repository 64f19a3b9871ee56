"""The work folder of a run: held against a second run, and the files that describe the run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from typing import Any

from dig_jax import hosts, trees
from dig_jax.config import FREE_KEYS
from dig_jax.text import Charset
from dig_jax.workdir import bucket, mirror, whole

LOCK = ".lock"


def whole_path(path: str) -> str:
    """An absolute path, "~" expanded, or gs://bucket/folder. Raises ValueError for another address,
    MissingExtra where the packages for buckets are not installed."""
    if bucket.remote(path):
        bucket.path(path)
        return path.rstrip("/")
    return os.path.abspath(os.path.expanduser(path))


@contextlib.contextmanager
def opened(workdir: str) -> Iterator[mirror.Files]:
    """The work folder, held against a second run for as long as the context lasts, and where its
    files are written. `publish` has to be called before each save. Raises ValueError."""
    if bucket.remote(workdir):
        with mirror.mirrored(workdir) as files:
            yield files
    else:
        with lock_workdir(workdir):
            yield mirror.Files(workdir)


@contextlib.contextmanager
def lock_workdir(workdir: str) -> Iterator[None]:
    """The work folder, made, found writable, and held against a second run for as long as the
    context lasts. One that was made for nothing, as an error ended the run, is removed.

    The lead process holds the lock for all processes of its job. It dies with its process, however
    that ends, and is a POSIX record lock, which worker processes do not inherit. Over NFS it needs
    a lock service (NFSv4, or lockd); where a file system has no locks, a line says so and nothing
    is held. Raises ValueError.
    """
    if not hosts.is_lead():
        yield
        return
    if os.path.exists(workdir) and not os.path.isdir(workdir):
        raise ValueError(f"--workdir={workdir} is a file: name a folder, new or of this run")
    path, made = os.path.join(workdir, LOCK), not os.path.exists(workdir)
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(workdir, exist_ok=True)
            file = stack.enter_context(open(path, "a+", encoding="utf-8"))
        except OSError as error:
            raise ValueError(
                f"--workdir={workdir} cannot be written ({_words(error)}): name another folder"
            ) from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                holder = file.read(200).strip() or "another process"
                raise ValueError(
                    f"--workdir={workdir} is in use by {holder}: wait for that run, stop it, or "
                    "name another folder"
                ) from error
            hosts.report(
                f"{path} cannot be locked ({_words(error)}), so see to it that no second run uses "
                f"{workdir}"
            )
        else:
            try:
                file.truncate(0)
                file.write(
                    f"process {os.getpid()} on {platform.node()} since "
                    f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n"
                )
                file.flush()
            except OSError as error:
                raise ValueError(
                    f"--workdir={workdir} cannot be written ({_words(error)}): make room there"
                ) from error
        try:
            yield
        except BaseException:
            if made and os.listdir(workdir) == [LOCK]:
                os.remove(path)
                os.rmdir(workdir)
            raise


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def describe(cfg: dict[str, Any], mixture: Any, charset: Charset | None) -> dict[str, Any]:
    """What every checkpoint of a run says about it, JSON. It holds the complete config, the
    characters, the records it reads, and the runs that it took weights or shapes from."""
    from dig_jax.workdir import checkpoint  # Orbax, see inherit

    sets = () if mixture is None else mixture.sets  # none is read where nothing is trained
    return {
        "layout": checkpoint.LAYOUT,
        "config": json.loads(json.dumps(cfg)),
        "charset": charset.to_json() if charset else None,
        "records": {f"{part.path}@{part.split}": part.fingerprint for part in sets},
        "lines": None if mixture is None else len(mixture),
        "sources": {key: identity(cfg[key]) for key in ("init_from", "shape_from") if cfg[key]},
    }


def identity(workdir: str) -> str | None:
    """A run wherever its folder lies: the first line of its starts.jsonl. None without one."""
    try:
        with (bucket.path(workdir) / "starts.jsonl").open("r", encoding="utf-8") as file:
            return file.readline() or None
    except OSError:
        return None


def describe_run(workdir: str, meta: dict[str, Any]) -> None:
    """WORKDIR/config.json and, for recognisers, charset.json; each whole or as it was."""
    if hosts.is_lead():
        os.makedirs(workdir, exist_ok=True)
        texts = {
            "config.json": json.dumps(meta["config"], indent=2, sort_keys=True),
            "charset.json": meta["charset"],
        }
        for name, text in texts.items():
            path = os.path.join(workdir, name)
            if text:
                whole.write(path, text)
    hosts.barrier("config written")


def check_same(saved: dict[str, Any], meta: dict[str, Any], workdir: str) -> None:
    """ValueError where the run in `workdir` was started by another layout of this program, with
    another config, other records or other characters. Records and runs may have moved."""
    if saved.get("layout", 1) != meta["layout"]:
        raise ValueError(
            f"{workdir} holds a run of an older dig_jax (checkpoint layout {saved.get('layout', 1)}"
            f", now {meta['layout']}). Its steps were computed by other rules, so it cannot go "
            f"on. Start from its weights with --config.init_from={workdir} and another --workdir, "
            "or finish it with the version that began it"
        )
    old, new = trees.flatten(saved["config"]), trees.flatten(meta["config"])
    differ = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    differ = [key for key in differ if not trees.lies_under(key, FREE_KEYS)]
    differ = [key for key in differ if not _moved(key, old.get(key), new.get(key), saved, meta)]
    if differ:
        shown = "; ".join(f"{k} was {old.get(k)!r} and is {new.get(k)!r}" for k in differ[:5])
        more = f"; and {len(differ) - 5} more" if len(differ) > 5 else ""
        raise ValueError(
            f"{workdir} holds a run with another config ({shown}{more}): use another --workdir or "
            "the old values"
        )
    was, now = list(saved["records"].values()), list(meta["records"].values())
    if was != now:
        changed = [name for name, old, new in zip(meta["records"], was, now) if old != new]
        raise ValueError(
            f"the records {', '.join(changed)} have changed since the run in {workdir} began. "
            "Its record numbers would stand for other lines: bring the old ones back, or use "
            "another --workdir"
        )
    was, now = saved.get("lines"), meta["lines"]  # runs of before there was the key have none
    if None not in (was, now) and was != now:
        raise ValueError(
            f"the run in {workdir} reads {was} lines of these records, and this version would give "
            f"it {now}: use another --workdir, or the version that began it"
        )
    if saved["charset"] != meta["charset"]:
        raise ValueError(
            f"{workdir} holds a run with another charset, so its training labels changed: use "
            "another --workdir"
        )


def _moved(key: str, old: Any, new: Any, saved: dict[str, Any], meta: dict[str, Any]) -> bool:
    """Whether two values of a key name the same thing at another place."""
    if key in meta["sources"]:
        was = saved["sources"].get(key)
        return was is not None and was == meta["sources"][key]
    if key != "data.train":
        return False
    shares = [re.findall(r"\*([\d.]+)", spec or "") for spec in (old, new)]
    same = list(saved["records"].values()) == list(meta["records"].values())
    return same and shares[0] == shares[1]
