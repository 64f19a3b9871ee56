"""Thousands of hostile images, messages, shards, manifests and folders through the real input path,
in worker processes.

    python -m tests.fuzz.records --cases=10000 --seed=0            # 10 minutes of processor time
    python -m tests.fuzz.records --seed=0 --only=1234   # one case again, and what was done to it

Each case must end in one of three ways: everything read; what cannot be used counted and named, and
the sound records beside it untouched; or the whole refused with one sentence. Anything else is a
failure, whose bytes are kept: an exception, a worker that dies (a decoder's segmentation fault
too), one that takes longer than --max_seconds or more memory than --max_mb above what it had, a
record that is neither read nor named, bytes from outside the folder, a file that makes Python run
something. The last line printed is one JSON object; exit code 0 only without failures.
"""

import collections
import json
import multiprocessing
import os
import queue
import re
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from tests.fuzz.cases import KINDS
from tests.fuzz.images import samples
from tests.fuzz.judge import judge


def build(seed: int, number: int, scratch: Path) -> tuple[str, str, bytes | Path]:
    """(kind, what was done, bytes or folder) of a case."""
    rng = np.random.default_rng([seed, number])
    kind = str(rng.choice(list(KINDS), p=[share for share, _ in KINDS.values()]))
    what, made = KINDS[kind][1](rng, scratch)
    return kind, what, made


def peak_mb(reset: bool = False) -> float:
    """Most memory that this process has held since the last reset (Linux; elsewhere since its
    start), MB.
    """
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    except (OSError, TypeError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1 << 20 if sys.platform == "darwin" else 1024)


def run_case(seed: int, number: int, max_mb: float) -> dict[str, Any]:
    """Builds and judges one case: see `measured`."""

    def case(result: dict[str, Any], scratch: Path) -> Callable[[], None]:
        result["kind"], result["what"], made = build(seed, number, scratch)

        def run() -> None:
            result["outcome"] = judge(result["kind"], made, scratch)

        return run

    return measured({"number": number, "kind": "", "what": ""}, case, max_mb)


def measured(
    result: dict[str, Any],
    case: Callable[[dict[str, Any], Path], Callable[[], None]],
    max_mb: float,
) -> dict[str, Any]:
    """`result` with "kind", "what", "outcome" or "failure", "seconds", "mb"; never raises. `case`
    builds it in a scratch folder; what it returns puts it through the input path.
    """
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        run = case(result, scratch)
        # The clock would blame a case for other programs.
        before, start = peak_mb(reset=True), time.process_time()
        try:
            run()
        except Exception:
            result["failure"] = traceback.format_exc(limit=-6)
        result |= {"seconds": time.process_time() - start, "peak_mb": peak_mb()}
        result["mb"] = result["peak_mb"] - before
        if result["mb"] > max_mb:
            result["failure"] = f"took {result['mb']:.0f} MB more, --max_mb is {max_mb:.0f}"
        if (scratch / "executed").exists():
            result["failure"] = "code from a file was run"
    except Exception:
        result["failure"] = f"the case could not be built: {traceback.format_exc()}"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return result


def work(connection: Any, seed: int, max_mb: float, stderr: str) -> None:
    """The worker process of these cases: see `serve`."""
    import cv2

    def warm() -> None:
        run_case(0, 0, 1e9)  # imports and caches, so that the first case is not blamed for them
        samples()
        cv2.setNumThreads(1)

    serve(connection, stderr, warm, lambda number: run_case(seed, number, max_mb))


def serve(
    connection: Any, stderr: str, warm: Callable[[], Any], run: Callable[[int], dict[str, Any]]
) -> None:
    """A worker process: a number comes in, its result goes out. What decoders print goes to a
    file.
    """
    import faulthandler
    import warnings

    os.dup2(os.open(stderr, os.O_WRONLY | os.O_TRUNC), 2)
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.set_verbosity(logging.ERROR)
    warm()
    connection.send("ready")
    for number in iter(connection.recv, None):
        connection.send(run(number))


class Worker:
    """A process that may die or hang; asked for one case at a time."""

    def __init__(
        self, seed: int, max_seconds: float, max_mb: float, target: Callable[..., None] = work
    ):
        self.options, self.max_seconds, self.target = (seed, max_mb), max_seconds, target
        # By the clock, building included, so with a wide margin; what counts is the processor time
        # that the worker tells.
        self.patience_s = 10 * max_seconds + 60
        self.process: Any = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        handle, self.stderr = tempfile.mkstemp(
            prefix="fuzz-stderr-"
        )  # made here: a worker may die before it opens it
        os.close(handle)
        self.process = context.Process(
            target=self.target, args=(theirs, *self.options, self.stderr), daemon=True
        )
        self.process.start()
        theirs.close()
        if not self.pipe.poll(600) or self.pipe.recv() != "ready":
            raise RuntimeError(f"the worker process did not start; see {self.stderr}")

    def ask(self, number: int) -> dict[str, Any]:
        """The result of a case, a failure where the process died or took too long (then the next
        case gets a new one).
        """
        if self.process is None:
            self._start()
        self.pipe.send(number)
        start = time.perf_counter()
        if not self.pipe.poll(self.patience_s):
            failure = "still running after {:.0f} s: killed"
        else:
            try:
                result = self.pipe.recv()
                if result.get("seconds", 0) > self.max_seconds and "failure" not in result:
                    result["failure"] = (
                        f"took {result['seconds']:.1f} s, --max_seconds is {self.max_seconds:g}"
                    )
                return result
            except (EOFError, ConnectionError):
                self.process.join(10)
                failure = (
                    f"the process died with exit code {self.process.exitcode} after {{:.1f}} s"
                )
        tail = Path(self.stderr).read_text("utf-8", "replace")[-1500:]
        self.stop()
        seconds = time.perf_counter() - start
        return {
            "number": number,
            "failure": f"{failure.format(seconds)}\n{tail}",
            "seconds": seconds,
            "mb": 0.0,
        }

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            Path(self.stderr).unlink(missing_ok=True)
            self.process = None


def fuzz(
    numbers: list[int],
    *,
    seed: int = 0,
    workers: int = 1,
    max_seconds: float = 10.0,
    max_mb: float = 512.0,
    minutes: float = float("inf"),
    save: str | None = None,
    target: Callable[..., None] = work,
) -> dict[str, Any]:
    """Runs the cases, no new one after so many minutes, and returns the counts that `main`
    prints.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in numbers:
        waiting.put(number)
    results: list[dict[str, Any]] = []
    bar = tqdm(total=len(numbers), unit=" cases", disable=not sys.stderr.isatty())

    start = time.perf_counter()

    def supervise() -> None:
        worker = Worker(seed, max_seconds, max_mb, target)
        try:
            while time.perf_counter() < start + 60 * minutes:
                results.append(worker.ask(waiting.get_nowait()))
                bar.update()
        except queue.Empty:
            pass
        finally:
            worker.stop()

    threads = [threading.Thread(target=supervise) for _ in range(max(1, workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bar.close()
    total_s = round(time.perf_counter() - start, 1)
    return summarise(sorted(results, key=lambda r: r["number"]), seed, save) | {"total_s": total_s}


def summarise(results: list[dict[str, Any]], seed: int, save: str | None) -> dict[str, Any]:
    """Counts by outcome; prints the failures and keeps their bytes in the folder `save`."""
    counted, refused, kinds = collections.Counter(), collections.Counter(), collections.Counter()
    failures = [result for result in results if "failure" in result]
    for result in results:
        kinds[result.get("kind", "")] += 1
        for ending in result.get("outcome", ()):
            how, reason = ending.split(": ", 1)
            (counted if how == "counted" else refused)[reason] += 1
    good = [r["outcome"] for r in results if "failure" not in r]
    for failure in failures:
        again = f"tests.fuzz.records --seed={seed} --only={failure['number']}"
        kept = keep(seed, failure["number"], save) if save else "nowhere (--save)"
        print(
            f"FAILED case {failure['number']} ({failure.get('kind')}: {failure.get('what')}); kept "
            f"in {kept}; again with\n  python -m {failure.get('again', again)}\n"
            f"{failure['failure']}"
        )
    slowest = max(results, key=lambda r: r.get("seconds", 0), default={})
    largest = max(results, key=lambda r: r.get("mb", 0), default={})
    return {
        "cases": len(results), "seed": seed, "kinds": dict(sorted(kinds.items())),
        "fine": sum(not o for o in good),
        "counted_bad": sum(any(e.startswith("counted") for e in o) for o in good),
        "refused": sum(bool(o) and all(e.startswith("refused") for e in o) for o in good),
        "failures": len(failures), "failed": [f["number"] for f in failures][:50],
        "counted_reasons": dict(counted.most_common()), "refused_reasons": dict(refused.most_common()),
        "slowest_s": round(slowest.get("seconds", 0), 2), "slowest_case": [slowest.get("number"), slowest.get("what")],
        "most_mb": round(largest.get("mb", 0)), "most_mb_case": [largest.get("number"), largest.get("what")],
        "peak_rss_mb": round(max((r.get("peak_mb", 0) for r in results), default=0)),
    }  # fmt: skip


def keep(seed: int, number: int, save: str) -> Path:
    """Builds a case again in a folder of its own."""
    place = Path(save) / f"seed{seed}-case{number}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    kind, what, made = build(seed, number, place)
    (place / "case.json").write_text(
        json.dumps({"seed": seed, "number": number, "kind": kind, "what": what})
    )
    if isinstance(made, bytes):
        (place / "bytes").write_bytes(made)
    return place


def limits(f: flags.FlagValues) -> dict[str, Any]:
    """The options of `fuzz` that both fuzzers have flags for."""
    names = ("seed", "workers", "max_seconds", "max_mb", "minutes")
    return {name: f[name].value for name in names}


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    if len(argv) > 1:
        raise SystemExit(f"fuzz_records: '{argv[1]}' is no option; write --name=value.")
    numbers = list(range(f.cases)) if f.only is None else [f.only]
    result = fuzz(numbers, save=f.save, **limits(f))
    if f.only is not None:
        with tempfile.TemporaryDirectory() as scratch:
            print(build(f.seed, f.only, Path(scratch))[:2])
    print(json.dumps(result))
    if result["failures"]:
        raise SystemExit(1)


if __name__ == "__main__":
    flags.DEFINE_integer("cases", 10_000, "How many cases, numbered from 0.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Another seed makes other cases.", lower_bound=0)
    flags.DEFINE_integer("only", None, "Run this one case.", lower_bound=0)
    flags.DEFINE_integer(
        "workers",
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        "Processes.",
    )
    flags.DEFINE_float(
        "max_seconds", 10.0, "A case that takes more processor time than this fails."
    )
    flags.DEFINE_float(
        "max_mb", 512.0, "A case that takes more memory than this above what the process had fails."
    )
    flags.DEFINE_float(
        "minutes", float("inf"), "Start no case after so long; the JSON counts those that were run."
    )
    flags.DEFINE_string("save", "fuzz_failures", "Folder for what failed.")
    app.run(main)
