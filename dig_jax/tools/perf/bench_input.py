"""How fast lines come from the disk, and which stage is the limit.

    python -m dig_jax.tools.perf.bench_input --records=data/lines --height_px=32 --width_px=256

Each stage is timed alone, in one thread, in lines per second of CPU time of this process ("a
core"). Other programs on the machine disturb CPU time little. The whole pipeline then runs as in
training (threads or worker processes) and is timed by the clock. The last line printed is one JSON
object.

    python -m dig_jax.tools.perf.bench_input --records=data/lines --consume=3700

also says whether the pipeline as timed can feed a step that takes so many lines a second, and how
many cores that needs. It ends with exit code 2 where it cannot. Where `--workers=auto` is too few
and the machine has more cores, that is timed too.
"""

import json
import math
import sys
import time
from collections.abc import Callable

import numpy as np
from absl import flags, logging

from dig_jax.data import pipeline, transforms
from dig_jax.data.parallel import cores
from dig_jax.data.records import BadRecord, Mixture, open_sets
from dig_jax.tools import program

_ADVICE = {
    "read": "put the records on a faster disk, or store smaller images (JPEG rather than PNG)",
    "decode": "store lines no higher than they are used (make_records --height_px), as grey JPEG; "
    "or add processes",
    "resize + crop": "store lines at the height they are used at (make_records --height_px), and "
    "nothing is resized",
    "shuffle + batch": "the Python around the stages is the limit: raise --batch_size, or add "
    "worker processes",
}


def main(argv: list[str]) -> None:
    del argv
    f = flags.FLAGS
    try:
        mixture = open_sets(f.records)
        result = measure(
            mixture,
            height_px=f.height_px,
            width_px=f.width_px,
            channels=f.channels,
            batch_size=f.batch_size,
            seconds=f.seconds,
            workers=f.workers if f.workers == "auto" else int(f.workers),
            consume=f.consume,
        )
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"bench_input: {error}") from None
    report(result)
    print(json.dumps({"records": f.records, **result}))
    if result.get("feeds") is False:
        sys.exit(2)


def measure(
    mixture: Mixture,
    *,
    height_px: int,
    width_px: int,
    channels: int,
    batch_size: int,
    seconds: float,
    workers: int | str,
    consume: float | None = None,
) -> dict:
    """Times the stages and the whole. seconds: about how long all of it takes, start of the
    processes excluded. consume: lines a second that are wanted (see `verdict`)."""
    if seconds <= 0:
        raise ValueError(f"--seconds is {seconds}; it must be more than 0")
    if consume is not None and not 0 < consume < math.inf:
        raise ValueError(
            f"--consume is {consume}; give the lines a second that a step takes, more than 0"
        )
    dataset = pipeline.pretrain(
        mixture,
        batch_size=batch_size,
        height_px=height_px,
        width_px=width_px,
        channels=channels,
        seed=0,
    )
    part = seconds / 5
    images, pool, stages = _stages(mixture, dataset, height_px, width_px, channels, part)
    shares = _shares(stages)
    count = pipeline.default_workers() if workers == "auto" else workers
    wall, started = _wall(dataset, part, count, batch_size)
    fed = {}
    if consume is not None:
        fed = verdict(consume, wall, stages["whole"], count, cores())
        if not fed["feeds"] and workers == "auto" and fed["cores_needed"] <= cores():
            # A tenth more, for what processes cost.
            count = min(cores(), math.ceil(1.1 * fed["cores_needed"]))
            wall, started = _wall(dataset, part, count, batch_size)
            fed = verdict(consume, wall, stages["whole"], count, cores())
    return {
        "lines": len(mixture),
        "height_px": height_px,
        "width_px": width_px,
        "channels": channels,
        "batch_size": batch_size,
        "stored_px": [int(np.median([i.shape[d] for i in images])) for d in (0, 1)],
        "stored_bytes": int(np.median([len(record.image) for record in pool])),
        "lines_per_s_core": {name: round(rate) for name, rate in stages.items()},
        "share": {name: round(share, 3) for name, share in shares.items()},
        "limit": max(shares, key=shares.get),
        "workers": count,
        "cores": cores(),
        "lines_per_s_wall": round(wall),
        "first_batch_s": round(started, 2),
        **fed,
    }


def _stages(
    mixture: Mixture, dataset, height_px: int, width_px: int, channels: int, seconds: float
) -> tuple[list[np.ndarray], list, dict[str, float]]:
    """(decoded images, records of one batch, {stage: lines a second of CPU time}).

    Each stage runs alone for about `seconds`, in one thread. ValueError where no record can be
    decoded.
    """
    host = dataset[0][1]
    pool = mixture.read(host["index"])
    decoded = [_decoded(record, channels) for record in pool]
    images = [image for image in decoded if image is not None]
    if not images:
        raise ValueError(
            f"none of the {len(pool)} records tried can be decoded; the first: {host['errors'][0]}"
        )
    indices = np.random.default_rng(0).integers(0, len(mixture), (4096, len(pool)))

    def read(turn: int) -> int:
        return len(mixture.read(indices[turn % len(indices)]))

    def decode(turn: int) -> int:
        return sum(_decoded(record, channels) is not None for record in pool)

    def crop(turn: int) -> int:
        for image in images:
            transforms.crop_to_height(image, height_px, width_px, turn % 97 / 97)
        return len(images)

    def whole(turn: int) -> int:
        return len(dataset[turn + 1][0]["width"])

    works = {"read": read, "decode": decode, "resize + crop": crop, "whole": whole}
    return images, pool, {name: _rate(work, seconds) for name, work in works.items()}


def _shares(stages: dict[str, float]) -> dict[str, float]:
    """The share of the whole time that each stage takes; the rest is shuffling and batching."""
    whole = stages["whole"]
    alone = {name: rate for name, rate in stages.items() if name != "whole"}
    rest = 1 / whole - sum(1 / rate for rate in alone.values())
    shares = {name: whole / rate for name, rate in alone.items()}
    return shares | {"shuffle + batch": max(0.0, rest * whole)}


def verdict(consume: float, wall: float, core: float, workers: int, available: int) -> dict:
    """Whether `wall` lines a second by the clock are enough for a step that takes `consume`, and
    what would be.

    core: lines a second of one core; workers: processes that `wall` was measured with (0 = one
    thread); available: cores. cores_needed counts the pipeline's alone: a step on the CPU wants its
    own beside them.
    """
    needed = math.ceil(consume / core)
    feeds = wall >= consume
    if feeds:
        advice = f"yes: {wall:.0f} lines/s are {wall / consume:.2f} times what is taken"
    elif needed > available:
        advice = (
            f"no, and this machine cannot: it needs {needed} cores of this kind, there are "
            f"{available}. Store lines at the height they are used at, or train on fewer lines a "
            "second"
        )
    elif max(1, workers) < needed:
        advice = (
            f"no, with {workers or 'one thread and no'} worker processes: try --workers={needed} "
            "(config.data.workers)"
        )
    else:
        advice = (
            f"no: {needed} cores should do, but {workers} worker processes give {wall:.0f} lines/s "
            "by the clock. The cores are busy with something else, or the disk is the limit"
        )
    return {
        "consume": consume,
        "feeds": feeds,
        "headroom": round(wall / consume, 3),
        "cores_needed": needed,
        "advice": advice,
    }


def report(result: dict) -> None:
    """Prints the figures for people."""
    height, width = result["stored_px"]
    print(
        f"{result['lines']} records, the middle one {width} x {height} px in "
        f"{result['stored_bytes']} bytes; windows of {result['width_px']} x {result['height_px']} "
        f"px, {result['channels']} channel(s)"
    )
    for name, share in result["share"].items():
        rate = result["lines_per_s_core"].get(name)
        print(
            f"  {name:16}{rate or '':>9}{' lines/s a core' if rate else ' ' * 15}{share:8.0%} of "
            "the time"
        )
    print(f"  {'whole':16}{result['lines_per_s_core']['whole']:>9} lines/s a core")
    how = f"{result['workers']} worker processes" if result["workers"] else "one thread"
    print(
        f"  {'as in training':16}{result['lines_per_s_wall']:>9} lines/s by the clock, {how}, "
        f"{result['cores']} cores; first batch in {result['first_batch_s']:.1f} s"
    )
    print(f"limit: {result['limit']}; {_ADVICE[result['limit']]}")
    if "feeds" in result:
        print(
            f"can it feed {result['consume']:g} lines/s: {result['advice']} (one core gives "
            f"{result['lines_per_s_core']['whole']}, so {result['cores_needed']} are needed)"
        )


def _decoded(record, channels: int) -> np.ndarray | None:
    try:
        return transforms.decode(record.image, channels)
    except BadRecord:
        return None


def _rate(work: Callable[[int], int], seconds: float) -> float:
    """Lines per second of CPU time; work(turn) returns how many lines it did. One turn to warm
    up.
    """
    work(0)
    lines, turn, start, stop = 0, 0, time.process_time(), time.perf_counter() + seconds
    while turn < 3 or time.perf_counter() < stop:
        lines += work(turn)
        turn += 1
    return lines / (time.process_time() - start)


def _wall(dataset, seconds: float, workers: int | str, batch_size: int) -> tuple[float, float]:
    """(lines a second by the clock, seconds until the first batch)."""
    start = time.perf_counter()
    with pipeline.iterate(dataset, workers=workers) as steps:
        next(steps)
        first = time.perf_counter() - start
        count = pipeline.default_workers() if workers == "auto" else workers
        for _ in range(
            4 * count + 3
        ):  # what was read ahead while the processes started is no measure
            next(steps)
        turns, start = 0, time.perf_counter()
        while turns < 3 or time.perf_counter() < start + seconds:
            next(steps)
            turns += 1
        return turns * batch_size / (time.perf_counter() - start), first


if __name__ == "__main__":
    flags.DEFINE_string(
        "records", None, "Record sets: PATH[@SPLIT][*WEIGHT],PATH2...", required=True
    )
    flags.DEFINE_integer("height_px", 32, "Height of the windows.", lower_bound=1)
    flags.DEFINE_integer("width_px", 256, "Width of the windows.", lower_bound=1)
    flags.DEFINE_integer("channels", 1, "1 (grey) or 3 (colour).")
    flags.DEFINE_integer("batch_size", 256, "Lines a batch.", lower_bound=1)
    flags.DEFINE_float("seconds", 10.0, "How long to measure, about.")
    flags.DEFINE_string(
        "workers", "auto", "'auto', 0 for a thread, or a number of worker processes."
    )
    flags.DEFINE_float(
        "consume",
        None,
        "Can the pipeline feed so many lines a second? Exit code 2 where it cannot.",
    )
    logging.set_verbosity(logging.WARNING)
    program.run(main)
