"""Compiled programs are kept between runs, so that only the first run waits for XLA.

The folder belongs to the user's cache, and to processors of one kind. What XLA compiled for one may
not run on another, and a home folder may serve many machines. JAX leaves such a folder to grow, so
it is cut down to BOUND_BYTES whenever a program starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from pathlib import Path

BOUND_BYTES = 2 << 30


def keep(given: str, least_s: float = 0.0) -> None:
    """Lets JAX keep what it compiles, and takes what is there. Before the first compilation.

    given: a folder, "none", or "auto": where JAX was told (JAX_COMPILATION_CACHE_DIR), or else the
    user's cache. least_s: seconds below which a compilation is not worth a file. ValueError for a
    folder that cannot be made.
    """
    import jax

    if chosen := folder(given, jax.config.jax_compilation_cache_dir):
        prune(chosen)
        jax.config.update("jax_compilation_cache_dir", chosen)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least_s)


def folder(given: str, known: str | None) -> str | None:
    """The folder, made where it is missing; None: leave JAX as it is. See `keep`."""
    if given in ("none", "") or (given == "auto" and known):
        return None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = os.path.join(base, "dig_jax", "programs", processor()) if given == "auto" else given
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        if given == "auto":  # a home that is read-only: then it compiles each time
            return None
        raise ValueError(
            f"the folder for compiled programs, {given}, cannot be made ({error.strerror}): "
            "name another, or none"
        ) from error
    return path


def processor() -> str:
    """A name for processors that run the same programs: "x86_64-1f0c93aa"."""
    features = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        features = next((x for x in lines if x.startswith(("flags", "Features"))), features)
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def prune(path: str, bound: int = BOUND_BYTES) -> None:
    """Deletes the files that were not used for longest until the others take `bound` bytes."""
    files = []
    for file in Path(path).iterdir():
        with contextlib.suppress(OSError):  # another process deleted it
            stat = file.stat()
            files.append((max(stat.st_atime, stat.st_mtime), stat.st_size, file))
    held = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if held <= bound:
            return
        with contextlib.suppress(OSError):
            file.unlink()
        held -= size
