"""A step compiled ahead of time, by XLA's compilers for CPUs, TPUs and GPUs, without either.

The TPU compiler comes with the package libtpu (the extra `tpu`), the GPU compiler with JAX's
plug-in for CUDA (jax-cuda12-plugin alone, without CUDA). Neither needs a device. A topology such as
"v5e:4x4" stands for TPUs, a description of the card for GPUs (targets.py). What a compiler says is
kept in a folder of the user's cache, under a digest of the program that went in. A large step takes
a compiler minutes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from dig_jax.tools.perf import hlo, targets
from dig_jax.tools.perf.devices import DEVICES
from dig_jax.workdir import whole

COMPILERS = ("cpu", "tpu", "gpu")
SIDES = {"v5e": 2, "v6e": 2, "v5p": 3}  # chips lie in a plane or in a cube
# Options of JAX that change what a compiler does; 0.11 has them no more.
EFFORTS = ("jax_exec_time_optimization_effort", "jax_memory_fitting_effort")
SILENT_S = 30  # how long a compilation says nothing


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiler made of a step, of one device. Memory in bytes.

    temporary: activations, gradients, and results that take no argument's place. peak: all that
    is alive at once, as the compiler counts it, or None. rematerialized: instructions that are
    computed again to save memory. seconds: of the compilation. over: what the program needs more
    than the device has; the compiler then made none, and temporary is all that it needs.
    """

    summary: hlo.Summary
    temporary: int
    peak: int | None
    compiler_flops: float
    fusions: int
    kernels: int
    rematerialized: int
    seconds: float
    over: int = 0


def topology(device: str, count: int) -> tuple[int, ...]:
    """("v5e", 8) -> (2, 4): so many chips, as near to a square or a cube as can be.

    ValueError where there is no such slice."""
    if device not in SIDES:
        raise ValueError(f"--device={device}: --compiler=tpu compiles for {', '.join(SIDES)}")
    if count & (count - 1):
        raise ValueError(f"the mesh has {count} devices: TPUs come in slices of a power of two")
    doublings, sides = count.bit_length() - 1, SIDES[device]
    lengths = (2 ** ((doublings + place) // sides) for place in range(sides))
    return tuple(sorted(lengths, key=lambda length: length == 1))  # 2x2x1: a host's own shape


def devices(compiler: str, device: str, count: int) -> list[Any]:
    """The devices to compile for. ModuleNotFoundError, in a sentence, without the compiler."""
    if compiler == "cpu":
        return jax.devices("cpu")
    if compiler == "gpu":
        return _gpus(device, count)
    shape = topology(device, count)
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError(
            "--compiler=tpu needs the compiler of libtpu: pip install 'dig_jax[tpu]'"
        )
    # It is not to look for a TPU of this machine, which takes a minute where there is none. It
    # needs none for itself, so another process may train or compile at the same time.
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"), ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-4"), ("TPU_STDERR_LOG_LEVEL", "3"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
    ):  # fmt: skip
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    name = f"{device}:{'x'.join(map(str, shape))}"
    # Four chips a host, in a square; fewer are a host of their own.
    host = {"chips_per_host_bounds": [*shape, 1][:3]} if count < 4 else {}
    try:
        return list(topologies.get_topology_desc(name, platform="tpu", **host).devices)
    except Exception as error:  # of the plug-in: its class is private
        reason = str(error).splitlines()[0]
        raise ValueError(f"the TPU compiler knows no topology {name}: {reason}") from None


def _gpus(device: str, count: int) -> list[Any]:
    """So many cards, as servers of eight where there are more. See `devices`."""
    if device not in targets.CARDS:
        raise ValueError(
            f"--device={device}: --compiler=gpu compiles for {', '.join(targets.CARDS)}"
        )
    node = min(DEVICES[device].node, count)
    if count % node:
        raise ValueError(f"the mesh has {count} devices: give a multiple of {node}")
    if not any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))):
        raise ModuleNotFoundError(
            "--compiler=gpu needs JAX's plug-in for CUDA, of JAX's own version: "
            f"pip install jax-cuda12-plugin=={jax.__version__}"
        )
    # Newer plug-ins look for CUDA's libraries, which a compiler does not need.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    from jax.experimental import topologies

    card = DEVICES[device]
    text = targets.target(device, card.memory_gb, card.memory_gb_s)
    found = topologies.get_topology_desc(
        device, platform="cuda", topology=f"1x{count // node}x{node}", target_config=text
    )
    return list(found.devices)


def compile_step(work: Any, cache: str | Path | None = None) -> Program:
    """The training step of a workload (an Experiment). cache: a folder, or None.

    ValueError where attention by cuDNN is compiled for a GPU without its library."""
    try:
        lowered = work.step.lower(work.abstract, work.data.raw, mesh=work.mesh)
    except RuntimeError as error:
        if "cuDNN not found" not in str(error):
            raise
        raise ValueError(
            "attention by cuDNN needs its library, which is not installed here: add "
            "--config.method.encoder.attention=blocks"
        ) from None
    file = _file(lowered, work.mesh, cache) if cache else None
    if file and (before := _of_cache(file)):
        return before
    start = time.perf_counter()
    try:
        with _said_aloud(f"compiling for {_name(work.mesh)}"):
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        program = refused(str(error), time.perf_counter() - start)
        if program is None:
            raise
    else:
        program = describe(compiled, time.perf_counter() - start)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        whole.write(file, json.dumps(dataclasses.asdict(program)))
    return program


def describe(compiled: Any, seconds: float = 0.0) -> Program:
    """The figures of a compiled program."""
    text, memory = compiled.as_text(), compiled.memory_analysis()
    # Results that take no argument's place stand beside the temporary buffers.
    beside = max(memory.output_size_in_bytes - memory.alias_size_in_bytes, 0)
    return Program(
        hlo.summarize(text),
        memory.temp_size_in_bytes + beside,
        memory.peak_memory_in_bytes or None,
        (compiled.cost_analysis() or {}).get("flops", 0.0),
        len(re.findall(r"\bfusion\(", text)),
        text.count('custom_call_target="tpu_custom_call"'),
        len(re.findall(r"^\s+(?:ROOT )?%?[\w.\-]*\.remat[\w.]* = ", text, re.MULTILINE)),
        seconds,
    )


REFUSALS = (  # what it needs, what there is
    r"temporaries \(([\d.]+[KMGT]?)\) exceeds available HBM \(([\d.]+[KMGT]?)\)",
    r"Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm",
)


def refused(message: str, seconds: float = 0.0) -> Program | None:
    """What the error of a program that does not fit says; None for any other error."""
    found = next(filter(None, (re.search(pattern, message) for pattern in REFUSALS)), None)
    if not found:
        return None
    used, room = map(_bytes, found.groups())
    nothing = hlo.Summary(0.0, 0.0, (), 0)
    return Program(nothing, used, used, 0.0, 0, 0, 0, seconds, over=used - room)


def _bytes(text: str) -> int:
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return int(float(text.rstrip("KMGT")) * units.get(text[-1], 1))


# ---- what was compiled before


def default_cache() -> Path:
    """The folder of the user's cache that results are kept in."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dig_jax" / "plans"


def _file(lowered: Any, mesh: Any, cache: str | Path) -> Path:
    packages = ("jaxlib", "libtpu", "jax-cuda12-pjrt", "jax-cuda13-pjrt")
    efforts = tuple(getattr(jax.config, name, None) for name in EFFORTS)
    versions = [jax.__version__, *map(_version, packages), _name(mesh), hlo.VERSION, str(efforts)]
    digest = hashlib.sha256("\n".join([*versions, lowered.as_text()]).encode())
    return Path(cache) / f"{digest.hexdigest()[:32]}.json"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _of_cache(file: Path) -> Program | None:
    """What was kept there; None where that is nothing or broken, and it is compiled again."""
    try:
        return _from_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError, AttributeError):
        print(f"{file} is broken: compiled again", file=sys.stderr)
        return None


def _from_json(text: str) -> Program:
    values = json.loads(text)
    summary = values.pop("summary")
    each = summary.pop("collectives")
    summary["collectives"] = tuple(
        hlo.Collective(**{**c, "group": tuple(c["group"])}) for c in each
    )
    return Program(hlo.Summary(**summary), **values)


# ---- a word while it lasts


def _name(mesh: Any) -> str:
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}"


@contextlib.contextmanager
def _said_aloud(what: str) -> Iterator[None]:
    """Says every half minute on stderr for how long it has been at it."""
    done, start = threading.Event(), time.monotonic()

    def say() -> None:
        while not done.wait(SILENT_S):
            print(f"{what}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
