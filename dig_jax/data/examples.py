"""What a source of records gives: examples, and a report of what it left out and why."""

import collections
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from dig_jax.data.parallel import ordered_map

FIRST = 100  # names that are kept of what is left out

Example = tuple[str, bytes, str | None, str]  # split, encoded image, text or None, source id


def shown(text: str, limit: int = 300) -> str:
    """Text from a file, safe for a log or a terminal. What is not printable (control characters,
    escapes, direction marks, lone surrogates) is written as an escape. What is longer than `limit`
    is cut."""
    text = text if len(text) <= limit else f"{text[: limit - 20]}... ({len(text)} chars)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Skipped(NamedTuple):
    """One thing left out, as a job of `Report.work` returns it; see `Report.skip`."""

    name: str
    reason: str
    count: int = 1


class Report:
    """What a source tells beside its examples: how many to expect, where they come from, and what
    was left out and why."""

    def __init__(self):
        self.total: int | None = None  # expected number of jobs, for the progress bar
        self.about: dict[str, Any] = {}  # source, licence, attribution; further keys as they are
        self.notes: list[str] = []
        self.reasons: collections.Counter[str] = collections.Counter()
        self.first: list[dict[str, str]] = []
        self.jobs: int | None = None  # of `work`, all of whose examples were taken
        self.before: dict[str, Any] = {}  # `state` of a conversion that is gone on with
        self._digest = hashlib.sha256()  # of these jobs
        self._listed: collections.Counter[str] = collections.Counter()  # reasons before `work`
        self._named = 0  # names before `work`

    def work(
        self,
        function: Callable[[Any], Sequence[Example | Skipped]],
        jobs: Iterable[Any],
        workers: int | None = None,
        name: Callable[[Any], str] = repr,
    ) -> Iterator[Example]:
        """Yields the examples that function(job) makes of each job, in the order of the jobs.

        Slow work of a source happens here only. `function` runs in worker processes (see
        parallel.ordered_map). A conversion that was killed skips the jobs that are done, and a Beam
        pipeline spreads the jobs over machines. So both must pickle, and the jobs are always the
        same ones; `name` tells one from another. What the work leaves out it returns as Skipped.
        Raises ValueError where a resumed conversion had other jobs.
        """
        jobs = iter(jobs)
        for job in itertools.islice(jobs, self.before.get("jobs", 0)):
            self._digest.update(name(job).encode("utf-8", "backslashreplace"))
        if self._digest.hexdigest() != self.before.get("digest", self._digest.hexdigest()):
            raise ValueError("the source is no longer what it was when the conversion began")
        self.jobs = self.before.get("jobs", 0)
        self._listed, self._named = self.reasons.copy(), len(self.first)
        self.reasons.update(self.before.get("reasons", {}))
        self.first = (self.first + self.before.get("first", []))[:FIRST]
        jobs, ahead = itertools.tee(jobs)
        for job, made in zip(jobs, ordered_map(function, ahead, workers)):
            yield from (one for one in made if not isinstance(one, Skipped))
            for one in made:
                if isinstance(one, Skipped):
                    self.skip(*one)
            self.jobs += 1
            self._digest.update(name(job).encode("utf-8", "backslashreplace"))

    def state(self) -> dict[str, Any]:
        """How far `work` is, for `before` of a later conversion: JSON."""
        return {
            "jobs": self.jobs,
            "digest": self._digest.hexdigest(),
            "reasons": dict(self.reasons - self._listed),
            "first": self.first[self._named :],
        }

    def skip(self, name: str, reason: str, count: int = 1) -> None:
        """Counts one thing left out, or `count` that one name stands for. `reason` is a kind (few
        different ones), `name` says which; the first FIRST names are kept."""
        self.reasons[reason] += count
        if len(self.first) < FIRST:
            self.first.append({"name": shown(name), "reason": reason})

    def skipped(self) -> dict[str, Any]:
        """{"count", "reasons": {reason: count}, "first": [{"name", "reason"}]}."""
        return {
            "count": self.reasons.total(),
            "reasons": dict(sorted(self.reasons.items())),
            "first": self.first,
        }
