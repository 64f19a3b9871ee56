"""kill -9 at random moments of a conversion; the record set must be that of one left alone.

    python -m tests.kill_conversion --input=FOLDER --output=SCRATCH --kills=20 --workers=0

The conversion is started again after each kill. The last line printed is one JSON object; exit code
0 only where all splits have equal fingerprints and the manifests agree.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from dig_jax.data import spool
from dig_jax.data.record_set import RecordSet
from dig_jax.tools import make_records


def convert(options, output):
    """A child process that converts; its id."""
    child = os.fork()
    if child:
        return child
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        code = 2
        try:
            code = make_records.main([*options, f"--output={output}"])
        finally:
            os._exit(code)


def fingerprints(folder):
    manifest = json.loads((folder / "records.json").read_text())
    manifest["name"] = ""
    return {name: RecordSet(folder, name).fingerprint for name in manifest["splits"]}, manifest


def run_apart(argv):
    """This program in a process of its own, as it forks."""
    command = [sys.executable, "-m", "tests.kill_conversion", *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit_s", type=float, default=spool.COMMIT_S)
    given, options = parser.parse_known_args(argv)
    spool.COMMIT_S = given.commit_s
    options.append(f"--input={given.input}")
    rng = np.random.default_rng(given.seed)
    root = Path(given.output)
    alone, killed = root / "alone", root / "killed"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    start = time.perf_counter()
    if os.waitpid(convert(options, alone), 0)[1]:
        return 1
    whole_s, kills, stages = time.perf_counter() - start, 0, []
    start = time.perf_counter()
    progress = root / ".killed.unfinished" / spool.PROGRESS
    while kills < given.kills:
        child = convert(options, killed)
        time.sleep(rng.uniform(0, 2) * whole_s / given.kills)
        if kills == given.kills - 1:  # the last one while the shards are written
            while not (progress.is_file() and json.loads(progress.read_text())["stage"] == "deal"):
                if os.waitpid(child, os.WNOHANG)[0]:
                    break
                time.sleep(0.001)
        if killed.exists():
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        left = json.loads(progress.read_text()) if progress.is_file() else {"stage": "start"}
        stages.append(f"{left['stage']} {sum(left.get('counts', []))}")
    if not killed.exists():
        os.waitpid(convert(options, killed), 0)
    (one, first), (two, second) = fingerprints(alone), fingerprints(killed)
    same = one == two and first == second
    left = sorted(path.name for path in root.iterdir() if path not in (alone, killed))
    print(json.dumps({
        "kills": kills, "equal": same, "left_behind": left, "fingerprints": one, "after_kills": two,
        "count": first["count"], "alone_s": round(whole_s, 1), "killed_after": stages,
        "with_kills_s": round(time.perf_counter() - start, 1),
    }))  # fmt: skip
    return 0 if same and not left else 1


if __name__ == "__main__":
    sys.exit(main())
