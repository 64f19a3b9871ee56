"""Work folders in a bucket of Google Cloud Storage, gs://bucket/run, and how files there are read.

`path` opens both kinds of folder, so that what reads a run need not ask where it lies. How a run
writes into a bucket: mirror.py.

Other stores are refused. Orbax 0.12.8 takes any address but gs:// for a path of a file system, to
save and to load: "Checkpoint path should be absolute. Got s3:/bucket/run". Its tensorstore_utils.py
has a list with s3://, but reads it after that check. What was tried: docs/reliability.md.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from dig_jax.data.extras import need

SCHEME, EXTRA = "gs://", "gcs"


def remote(folder: Any) -> bool:
    """Whether this is an address and no folder of a file system."""
    return "://" in str(folder)


def path(folder: Any) -> Any:
    """A pathlib.Path, or its like for gs://bucket/run (etils.epath). It is not made or looked for.

    Raises ValueError for another store, MissingExtra where gcsfs is not installed.
    """
    if not remote(folder):
        return pathlib.Path(folder)
    check(str(folder))
    # Its way to zonal buckets asks for rights of its own, and speaks gRPC, which a fork breaks.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    need("gcsfs", EXTRA)
    need("google.cloud.storage", EXTRA)
    import fsspec  # here, with gcsfs: most runs need neither
    from etils import epath

    # Orbax writes past gcsfs, whose memory of a listing would then be old.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(folder)


def check(address: str) -> None:
    """ValueError for an address that is no folder in a bucket of Cloud Storage."""
    scheme, _, rest = address.partition("://")
    bucket, _, name = rest.partition("/")
    if f"{scheme}://" != SCHEME:
        raise ValueError(
            f"{address} is the address of an object store that Orbax cannot save to: name a folder "
            "of a file system or gs://BUCKET/FOLDER"
        )
    if not bucket or not name.strip("/"):
        raise ValueError(f"{address} names no folder in a bucket: write gs://BUCKET/FOLDER")


def whole(folder: Any) -> Any:
    """`path` with links followed, from the root; an address is whole."""
    return path(folder) if remote(folder) else pathlib.Path(folder).resolve()


def store() -> Any:
    """The bucket side of fsspec, as `path` uses it."""
    import fsspec

    return fsspec.filesystem("gcs")


def inventory(folder: Any) -> dict[str, tuple[int, str | None]]:
    """{path in the folder: (bytes, CRC-32C)} of all objects below an address, as the bucket tells
    them. None of them is read."""
    top = str(folder).removeprefix(SCHEME).rstrip("/") + "/"
    found = store().find(SCHEME + top, detail=True)
    return {
        name.removeprefix(top): (int(info["size"]), info.get("crc32c"))
        for name, info in found.items()
        if not name.endswith("/")
    }


def named(folder: Any, name: str) -> list[Any]:
    """All files of this name at any depth below a folder."""
    if remote(folder):
        return [path(folder) / found for found in inventory(folder) if f"/{found}".endswith(name)]
    return list(pathlib.Path(folder).glob(f"**/{name}"))


def changed(file: Any) -> float:
    """When a file of either kind was written last, seconds since 1970."""
    told = file.stat()
    return told.mtime if remote(file) else told.st_mtime


def words(error: BaseException) -> str:
    """What a library of the bucket says, in one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
