"""Where a run ran: a line for each of its starts in WORKDIR/starts.jsonl, so that a figure can name
its commit and machine.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import platform
import subprocess
from collections.abc import Mapping

import jax

from dig_jax.workdir import whole

NAME = "starts.jsonl"


def note(
    workdir: str,
    step: int,
    commit: str | None,
    total: int,
    labels: Mapping[str, int] | None = None,
) -> None:
    """Adds a start at `step` of `total` to WORKDIR/starts.jsonl: time, commit, devices, machine and
    versions. labels: of a recogniser, see `records.count_labels`. For one process of a job.

    The file is replaced as a whole, and a last line that a killed process left unfinished goes.
    """
    device = jax.devices()[0]
    line = {
        "step": step,
        "total": total,
        **({"labels": dict(labels)} if labels else {}),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "devices": f"{jax.device_count()} x {device.device_kind}",
        "processes": jax.process_count(),
        "machine": processor(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    path = pathlib.Path(workdir) / NAME
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    whole.write(path, before[: before.rfind("\n") + 1] + json.dumps(line) + "\n")


def commit() -> str | None:
    """The commit of this package, "+" behind it where tracked files have been changed since; None
    where it is no checkout.
    """
    root = pathlib.Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed copy may lie within somebody else's repository
        return None
    command = [
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--abbrev=7",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def processor(cpuinfo: str = "/proc/cpuinfo") -> str:
    """The name of the CPU, as far as the system tells it."""
    try:
        lines = pathlib.Path(cpuinfo).read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
