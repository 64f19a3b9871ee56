"""kill -9 at chosen and at random moments; every run that was killed must end as one that was left
alone.

    python -m tests.kill_runs --kills=100          # its last line is a JSON object; 1 at a difference

One undisturbed run of a toy method (the real trainer, pipeline, Orbax) is the reference. Then runs
of the same config are killed again and again, each time at a phase drawn from PHASES, and started
again, until they finish: the state on disk must equal the reference bit for bit, and metrics.jsonl
line for line (but for the speed).

Every run is a process of its own, forked before JAX starts so that it need not import everything
again. In it an audit hook reports what Python does to files of the work folder, and lingers there,
so that the kill falls into that phase; what happens inside C++ (array files) is hit by random
delays after the last thing seen.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
import types

import jax
import numpy as np

from dig_jax.train import run as train
from dig_jax.workdir import metrics
from tests import toy

STEPS, PATIENCE_S, KILLS_A_RUN = 10, 1800.0, 8  # patience: of a machine with much other work
LINGER_S = 0.03

# phase -> (the report after which to kill, the longest further delay in seconds)
PHASES = {
    "start": ("begun", 0.5),
    "config": ("config.json", LINGER_S),
    "clearing metrics.jsonl": ("metrics.jsonl.tmp", LINGER_S),
    "half a line of metrics.jsonl": ("half a line", LINGER_S),
    "a step": ("half a line", 0.3),
    "save begins": ("folder for a save", LINGER_S),
    "array files": ("folder for a save", 0.4),
    "before the commit": ("commit", LINGER_S / 2),
    "after the commit": ("commit", 0.1),
    "deleting an old step": ("deletion", LINGER_S),
    "the checksums": ("checksums.json.tmp", LINGER_S),
    "any moment": ("begun", 3.0),
}


def child(records: str, workdir: str, cache: str, pipe: int, log: str, watch) -> None:
    """One run, in a forked process; never returns. watch(workdir, pipe) reports its phases."""
    code = 70
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", 1)
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        sys.modules["dig_jax.methods.toy"] = types.SimpleNamespace(Method=toy.Toy)
        sys.modules["dig_jax.evaluators.toy"] = types.SimpleNamespace(Evaluator=toy.Evaluator)
        watch(workdir, pipe)
        state = train.run(config(records), workdir)
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(state):
            array = np.asarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        tell(pipe, f"state {digest.hexdigest()}")
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def config(records: str):
    """Saves at every other step, log lines across them, a best step that must survive."""
    changes = {
        "method": {"name": "toy", "width": 512},
        "checkpoint.every_steps": 2,
        "checkpoint.best_metric": "eval/toy0/cer",
        "log.every_steps": 3,
        "evals": {"toy": {"every_steps": 4}},
    }
    return toy.make_config(records, STEPS, **changes)


def tell(pipe: int, text: str) -> None:
    os.write(pipe, (text + "\n").encode())


def watch(workdir: str, pipe: int) -> None:
    """Report what is done to the files of the work folder, and linger."""

    def hook(event: str, args: tuple) -> None:
        if (
            event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
            or not args
        ):
            return
        path = os.fspath(args[0]) if isinstance(args[0], (str, os.PathLike)) else ""
        path = path if isinstance(path, str) else path.decode()
        if not path.startswith(workdir):
            return
        name, told = os.path.basename(path), None
        if event == "open" and name in (
            "config.json.tmp",
            "metrics.jsonl.tmp",
            "checksums.json.tmp",
        ):
            told = name.replace("config.json.tmp", "config.json")
        elif event == "os.mkdir" and "orbax-checkpoint-tmp" in path:
            told = "folder for a save"
        elif event == "os.rename" and os.path.basename(str(args[1])).isdigit():
            told = "commit"
        elif (
            event in ("os.remove", "os.rmdir", "shutil.rmtree")
            and "/checkpoints/" in path
            and "-tmp" not in path
        ):
            told = "deletion"
        if told:
            tell(pipe, told)
            time.sleep(LINGER_S)

    sys.addaudithook(hook)
    tell(pipe, "begun")
    opened = metrics._open

    class Halves:
        """A file to which a line goes in two halves."""

        def __init__(self, path: str) -> None:
            self.file = opened(path)

        def write(self, line: bytes) -> int:
            self.file.write(line[: len(line) // 2])
            tell(pipe, "half a line")
            time.sleep(LINGER_S)
            return len(line) // 2 + self.file.write(line[len(line) // 2 :])

        def fileno(self) -> int:
            return self.file.fileno()

        def close(self) -> None:
            self.file.close()

    metrics._open = Halves


def attempt(
    phase: str | None, draw: random.Random, phases=PHASES, watch=watch, **given: str
) -> tuple[int, str | None]:
    """Start the run; kill it in this phase (None: let it be). (exit status, -9 where killed; digest
    of the state).
    """
    reader, pipe = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        child(pipe=pipe, watch=watch, **given)
    os.close(pipe)
    mark, most = phases[phase] if phase else ("", 0.0)
    skip, deadline, kill_at, digest, rest = (
        draw.choice((0, 0, 1, 2)),
        time.monotonic() + PATIENCE_S,
        None,
        None,
        b"",
    )
    while True:
        wait = (kill_at or deadline) - time.monotonic()
        ready = wait > 0 and select.select([reader], [], [], wait)[0]
        if not ready:
            os.kill(pid, signal.SIGKILL)
            break
        data = os.read(reader, 65536)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in (item.decode() for item in lines):
            if line.startswith("state "):
                digest = line[6:]
            elif line == mark and kill_at is None:
                if skip and phase != "start":
                    skip -= 1
                else:
                    kill_at = time.monotonic() + draw.uniform(0, most)
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if kill_at is None and status == -signal.SIGKILL:
        raise RuntimeError(
            f"the run did not come to an end in {PATIENCE_S:g} s: see {given['log']}"
        )
    return status, digest


def story(workdir: str) -> list[dict]:
    return without_speed(metrics.read_jsonl(os.path.join(workdir, "metrics.jsonl")))


def without_speed(rows: list[dict]) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name != "train/lines_per_s"} for row in rows
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=3600.0, help="finish the run under way after this time"
    )
    options = parser.parse_args()
    draw, began = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        records = toy.write_lines(os.path.join(folder, "records"))
        given = {"records": records, "cache": os.path.join(folder, "cache")}
        reference = {
            **given,
            "workdir": os.path.join(folder, "left-alone"),
            "log": os.path.join(folder, "left-alone.log"),
        }
        first, whole = (
            attempt(None, draw, **reference) for _ in range(2)
        )  # the second time it is read from the disk
        if first != whole or first[0] != 0:
            raise RuntimeError(
                f"the undisturbed run failed:\n{open(reference['log']).read()[-2000:]}"
            )
        told, hits, runs, different = story(reference["workdir"]), collections.Counter(), 0, []
        while hits.total() < options.kills and time.monotonic() - began < options.seconds:
            workdir, kills = os.path.join(folder, f"run{runs}"), 0
            mine = {**given, "workdir": workdir, "log": workdir + ".log"}
            while True:
                late = hits.total() >= options.kills or time.monotonic() - began > options.seconds
                phase = None if kills >= KILLS_A_RUN or late else draw.choice(list(PHASES))
                status, digest = attempt(phase, draw, **mine)
                if status == -signal.SIGKILL:
                    hits[phase] += 1
                    kills += 1
                elif status == 0:
                    break
                else:
                    different.append(
                        f"run {runs}: exit code {status}: {open(mine['log']).read()[-1500:]}"
                    )
                    break
            runs += 1
            if status == 0:
                again = attempt(None, draw, **mine)
                if (0, digest) != whole or again != whole:
                    different.append(f"run {runs - 1}: another state after {kills} kills")
                if story(workdir) != told:
                    different.append(f"run {runs - 1}: another metrics.jsonl after {kills} kills")
            print(
                f"{hits.total()} kills, {runs} runs, {len(different)} differ",
                file=sys.stderr,
                flush=True,
            )
        for line in different:
            print(line, file=sys.stderr)
    result = {"kills": hits.total(), "runs": runs, "different": len(different), "steps": STEPS}
    print(json.dumps(result | {"phases": dict(hits), "seconds": round(time.monotonic() - began)}))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
