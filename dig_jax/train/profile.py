"""A profiler trace of some steps, on demand: config.profile="10-20" writes WORKDIR/profile, for
XProf or Perfetto.

The trace holds what device and host did in these steps, the step numbers of
`jax.profiler.StepTraceAnnotation` included. On the lead host only: hosts do the same. Where the run
resumes behind the first of the steps, the trace begins there.
"""

from __future__ import annotations

import os
import re
from typing import Any

import jax

from dig_jax import hosts
from dig_jax.hosts import report

FOLDER = "profile"


class Trace:
    """steps: "10-20", both ends included, "15", or "" for no trace. Raises ValueError for anything
    else. shown: the work folder as the user knows it.
    """

    def __init__(self, steps: str, workdir: str, shown: str = ""):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", steps or "0")
        self.first, self.last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if self.last < self.first or (steps and not self.first):
            raise ValueError(
                f"config.profile is {steps!r}: set it to the steps to trace, such as '10-20', or "
                "to '' for none"
            )
        self.folder, self.running = os.path.join(workdir, FOLDER), False
        self.shown = os.path.join(shown or workdir, FOLDER)

    def begin(self, step: int, state: Any) -> None:
        """Before step number `step`: steps in flight are waited for, so that the trace holds none
        of them.
        """
        if self.first <= step <= self.last and not self.running and hosts.is_lead():
            jax.block_until_ready(state)
            jax.profiler.start_trace(self.folder)
            self.running = True

    def end(self, step: int, state: Any) -> None:
        """After step number `step`."""
        if self.running and step >= self.last:
            jax.block_until_ready(state)
            self.close()
            report(f"wrote the trace of steps {self.first}-{step} to {self.shown}")

    def close(self) -> None:
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
