"""A conversion spread over machines with Apache Beam: same records, same order, same fingerprint.

The source lists its jobs here, the pipeline's workers do them in groups, and each group leaves its
records in a folder `part-NNNNNN` beside the output. A part is made whole or not at all, and a part
that exists is not made again. So a pipeline that failed is started again with the same command.
Splitting, sharding and the manifest are those of a conversion on one machine. The folder must be
one that all workers see under the same path.
"""

import hashlib
import itertools
import json
import os
import pickle
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from dig_jax.data.examples import FIRST, Example, Report
from dig_jax.data.extras import need
from dig_jax.data.oddities import Oddities
from dig_jax.data.spool import PROGRESS, Spool
from dig_jax.data.writer import take_in

RUNNERS = {
    "direct": "DirectRunner",
    "dataflow": "DataflowRunner",
    "spark": "SparkRunner",
    "flink": "FlinkRunner",
}
GROUP = 512  # jobs of a part
JOBS = "jobs.pickle"  # the file of all jobs


class Listing(Report):
    """Takes the jobs of a source instead of doing them."""

    function: Callable[[Any], Any] | None = None
    listed: Iterable[Any] = ()

    def work(
        self,
        function: Callable[[Any], Any],
        jobs: Iterable[Any],
        workers: int | None = None,
        name: Callable[[Any], str] = repr,
    ) -> Iterator[Example]:
        """No example: `function` and the jobs are kept."""
        self.function, self.listed, self.name = function, jobs, name
        return iter(())


class Pipeline:
    """Fills a spool as writer.take_in does, by a pipeline. runner: a key of RUNNERS. options: of
    the runner, such as ["--project=mine"]. RuntimeError that names the command where Beam is not
    installed, ValueError for a source that does not hand its jobs to Report.work."""

    def __init__(self, runner: str, options: Iterable[str] = ()):
        self.options = [f"--runner={RUNNERS[runner]}", *options]
        need("apache_beam", "beam")

    def __call__(
        self, spool: Spool, examples: Iterable[Example], report: Listing, twice: float
    ) -> Oddities:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        if next(iter(examples), None) is not None or report.function is None:
            raise ValueError("this source works in one process only: leave out --runner")
        folder = spool.folder.absolute()
        starts, digest = write_jobs(folder / JOBS, report)
        if spool.progress.get("digest", digest) != digest:
            raise ValueError("the source is no longer what it was when the conversion began")
        spool.save(digest=digest)
        with beam.Pipeline(options=PipelineOptions(self.options)) as pipeline:
            _ = (
                pipeline
                | "groups" >> beam.Create(list(enumerate(starts)))
                | "spread" >> beam.Reshuffle()
                | "work" >> beam.Map(make_part, str(folder), report.function)
            )
        return gather(spool, len(starts), report)


def write_jobs(file: Path, report: Listing) -> tuple[list[int], str]:
    """Writes the jobs in groups of GROUP. (where each group starts in the file, digest)."""
    starts, digest, jobs = [], hashlib.sha256(), iter(report.listed)
    with file.open("wb") as out:
        while group := list(itertools.islice(jobs, GROUP)):
            starts.append(out.tell())
            pickle.dump(group, out)
            for job in group:
                digest.update(report.name(job).encode("utf-8", "backslashreplace"))
    return starts, digest.hexdigest()


def make_part(group: tuple[int, int], folder: str, function: Callable[[Any], Any]) -> int:
    """Does the jobs of (number, where they start in the file of jobs), on whatever machine; the
    number of records. Nothing where the part is there already; of two that make it one wins."""
    number, start = group
    place = Path(folder, f"part-{number:06d}")
    if not place.is_dir():
        with Path(folder, JOBS).open("rb") as file:
            file.seek(start)
            jobs = pickle.load(file)
        mine = place.with_name(f"{place.name}.{uuid.uuid4().hex}")
        mine.mkdir()
        report, spool = Report(), Spool(mine, keep=True)
        odd = take_in(spool, report.work(function, jobs, workers=0), report)
        spool.save(report=report.state(), odd=odd)
        try:
            os.rename(mine, place)
        except OSError:  # made by another worker meanwhile
            shutil.rmtree(mine)
    return sum(json.loads((place / PROGRESS).read_text("utf-8"))["counts"])


def gather(spool: Spool, parts: int, report: Report) -> Oddities:
    """Makes the parts the chunks of the spool, in their order, and adds up what they left out."""
    odd, counts, files, size = Oddities(), [], [], 0
    for number in range(parts):
        name = f"part-{number:06d}"
        part = json.loads((spool.folder / name / PROGRESS).read_text("utf-8"))
        counts += part["counts"]
        files += [f"{name}/{file}" for file in part["files"]]
        size += part.get("bytes", 0)
        odd.add(part["odd"])
        report.reasons.update(part["report"]["reasons"])
        report.first = (report.first + part["report"]["first"])[:FIRST]
    spool.save(counts=counts, files=files, bytes=size)
    (spool.folder / JOBS).unlink(missing_ok=True)
    return odd
