"""kill -9 at random moments of a conversion; the record set must be that of one left alone.

    python -m tests.kill_conversion --input=FOLDER --output=SCRATCH --kills=20 --workers=0
    python -m tests.kill_conversion --count=200000 --output=SCRATCH --kills=20 --validation=0.1

--count: small pictures of numbers instead of a folder, quick to make. The conversion is started
again after each kill. The last line printed is one JSON object; exit code 0 only where all splits have equal fingerprints and the manifests agree.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest.mock
from pathlib import Path

import cv2
import numpy as np

from dig_jax.data import spool
from dig_jax.data.record_set import RecordSet
from dig_jax.data.writer import encode_image
from dig_jax.tools import make_records


def number_line(number):
    """One record: the number as a picture, 0.1 ms."""
    image = np.full((32, 130), 235, np.uint8)
    cv2.putText(image, f"{number:06d}", (6, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 30, 2)
    return [("train", encode_image(image), f"{number:06d}", f"{number // 1000}/{number}")]


def make(options, count):
    """make_records with these options; with a count, of these numbers."""
    if not count:
        return make_records.main(options)

    def examples(*, report, workers=None):
        report.total = count
        return report.work(number_line, range(count), workers)

    with unittest.mock.patch.object(make_records, "load", lambda name: examples):
        return make_records.main(options)


def convert(options, output, count):
    """A child process that converts; its id."""
    child = os.fork()
    if child:
        return child
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        code = 2
        try:
            code = make([*options, f"--output={output}"], count)
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
    parser.add_argument("--input")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--output", required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit_s", type=float, default=spool.COMMIT_S)
    given, options = parser.parse_known_args(argv)
    spool.COMMIT_S = given.commit_s
    options += [f"--input={given.input}"] if given.input else []
    rng = np.random.default_rng(given.seed)
    root = Path(given.output)
    alone, killed = root / "alone", root / "killed"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    start = time.perf_counter()
    if os.waitpid(convert(options, alone, given.count), 0)[1]:
        return 1
    whole_s, kills, stages = time.perf_counter() - start, 0, []
    start = time.perf_counter()
    progress = root / ".killed.unfinished" / spool.PROGRESS
    while kills < given.kills:
        child = convert(options, killed, given.count)
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
        os.waitpid(convert(options, killed, given.count), 0)
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
