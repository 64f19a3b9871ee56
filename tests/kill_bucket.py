"""kill -9 of runs that train into a bucket; each must end as a run in a local folder does.

    python -m tests.kill_bucket --kills=30         # its last line is a JSON object; 1 at a difference

The bucket is an emulator on loopback (tests/bucket_server.py). The reference is an undisturbed run
of the same config in a folder of this disk. Runs in the bucket are killed at phases drawn by chance
and started again until they finish. The state read back from the bucket must equal the reference
bit for bit, and metrics.jsonl line for line but for the speed. A lease lives one second here.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import sys
import tempfile
import time

from tests import bucket_server, kill_runs, toy
from tests.kill_runs import attempt, tell

LINGER_S, KILLS_A_RUN = 0.02, 10

# phase -> (the report after which to kill, the longest further delay in seconds)
PHASES = {
    "start": ("begun", 1.0),
    "the lease": ("lease", 0.05),
    "files are copied": ("copy", 0.1),
    "a step": ("a line", 0.3),
    "save": ("save", 1.0),
    "save begins": ("save", 0.1),
    "deleting an old step": ("deletion", 0.05),
    "the checksums": ("checksums", 0.05),
    "any moment": ("begun", 6.0),
}


def watch(workdir: str, pipe: int) -> None:
    """Report what is done to the bucket, and linger."""
    from orbax.checkpoint._src.path import gcs_utils

    from dig_jax.workdir import checkpoint, checksums, lease, metrics, mirror

    def told(owner, name: str, text: str) -> None:
        inner = getattr(owner, name)

        def outer(*args, **kwargs):
            tell(pipe, text)
            time.sleep(LINGER_S)
            return inner(*args, **kwargs)

        setattr(owner, name, outer)

    told(lease.Lease, "_write", "lease")
    told(mirror.Mirror, "publish", "copy")
    told(metrics.Writer, "write", "a line")
    told(checkpoint.Checkpoints, "save", "save")
    told(checksums, "write", "checksums")
    told(gcs_utils, "rmtree", "deletion")
    tell(pipe, "begun")


def story(url: str, name: str) -> list[dict]:
    """The lines of metrics.jsonl of a run in the bucket, but for the speed."""
    lines = bucket_server.read(url, f"{name}/metrics.jsonl").decode().splitlines()
    return kill_runs.without_speed([json.loads(line) for line in lines])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0)
    options = parser.parse_args()
    if name := bucket_server.missing():
        raise SystemExit(f"this needs the package {name}: pip install 'dig_jax[test]'")
    from dig_jax.workdir import bucket

    bucket.path("gs://bucket/run")  # imports what it needs once, before the forks
    draw, began = random.Random(options.seed), time.monotonic()
    hits: collections.Counter[str] = collections.Counter()
    runs, different = 0, []
    with tempfile.TemporaryDirectory() as folder, bucket_server.serving() as url:
        os.environ |= bucket_server.environment(url) | {"DIG_LEASE_S": "1"}
        tempfile.tempdir = folder  # a killed run leaves its local files behind
        given = {"records": toy.write_lines(os.path.join(folder, "records"))}
        given |= {"cache": os.path.join(folder, "cache"), "log": os.path.join(folder, "log")}
        alone = os.path.join(folder, "alone")
        whole = attempt(None, draw, workdir=alone, **given)
        if whole[0] != 0:
            raise RuntimeError(f"the undisturbed run failed:\n{open(given['log']).read()[-2000:]}")
        lines = kill_runs.story(alone)
        late = lambda: hits.total() >= options.kills or time.monotonic() - began > options.seconds
        while not late():
            mine = given | {"workdir": f"gs://{bucket_server.BUCKET}/run{runs}"}
            mine["log"] = os.path.join(folder, f"run{runs}.log")
            status, kills = -signal.SIGKILL, 0
            while status == -signal.SIGKILL:
                phase = None if kills >= KILLS_A_RUN or late() else draw.choice(list(PHASES))
                status, digest = attempt(phase, draw, phases=PHASES, watch=watch, **mine)
                if status == -signal.SIGKILL:
                    hits[phase] += 1
                    kills += 1
            if status:
                words = open(mine["log"]).read()[-3000:]
                different.append(f"run {runs}: exit code {status} after {kills} kills: {words}")
            else:
                again = attempt(None, draw, phases=PHASES, watch=watch, **mine)
                if (0, digest) != whole or again != whole:
                    different.append(f"run {runs}: another state after {kills} kills")
                if story(url, f"run{runs}") != lines:
                    different.append(f"run {runs}: another metrics.jsonl after {kills} kills")
            runs += 1
            done = f"{hits.total()} kills, {runs} runs, {len(different)} differ"
            print(done, file=sys.stderr, flush=True)
    for line in different:
        print(line, file=sys.stderr)
    result = {"kills": hits.total(), "runs": runs, "different": len(different)}
    result |= {"steps": kill_runs.STEPS, "phases": dict(hits)}
    print(json.dumps(result | {"seconds": round(time.monotonic() - began)}))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
