"""A host that is alive but stuck ends the job, with a sentence that names it and says where it is.

JAX's own heartbeat sees a process that died. It does not see one whose main thread waits for ever,
as on a network disk, for the heartbeat is another thread. Where DIG_STUCK_S is below the time of
the heartbeat (DIG_HOST_TIMEOUT_S), a host that was stopped as a whole is named by its silence.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import traceback
from typing import Any

from dig_jax import hosts

DEFAULT_S = 1800
TICK_S = 10.0
LONG = 10  # times the limit: for compiling, an evaluation, a save
LEFT = "has left"
SILENT = 2  # ticks without a word after which a host counts as stopped
GRACE = 3  # ticks in which the other hosts can say it, too, before this one is gone


def limit() -> float:
    """Seconds without a step after which a host is stuck, of DIG_STUCK_S; 0 = it is never."""
    text = os.environ.get("DIG_STUCK_S", str(DEFAULT_S))
    if not text.isdigit():
        raise ValueError(f"DIG_STUCK_S is {text!r}: set it to a whole number of seconds, 0 = off")
    return int(text)


class Watch:
    """Context that ends this process when `beat` was not called for `limit_s` seconds; 0 = never.

    Time in which the process itself was stopped, as by Ctrl-Z, does not count.
    """

    def __init__(self, limit_s: float):
        self.limit_s, self.tick_s = limit_s, min(TICK_S, limit_s / 10)
        self._beats, self._doing, self._times = 0, "starts", 1
        self._ticks = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def beat(self, doing: str, times: int = 1) -> None:
        """Still alive; doing: what begins now, such as "reads step 7", and may take `times` as
        long as the limit."""
        self._beats, self._doing, self._times = self._beats + 1, doing, times

    def __enter__(self) -> Watch:
        if self.limit_s:
            self._thread.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        self._done.set()
        if self._thread.is_alive() and error is None:  # after one, the others may be gone
            self._doing = LEFT
            self._publish()  # it falls silent now, and that is well

    def _watch(self) -> None:
        seen, idle_s = -1, 0.0
        self._publish()  # so that a host which is stopped at once is missed, too
        while not self._done.wait(self.tick_s):
            # Counted in ticks: a clock would go on while the whole process is stopped.
            idle_s = idle_s + self.tick_s if seen == self._beats else 0.0
            seen = self._beats
            self._publish()
            if idle_s >= self.limit_s * self._times:
                self._end()

    def _publish(self) -> None:
        self._ticks += 1
        hosts.publish(f"{self._ticks} {self._beats} {platform.node()} {self._doing}")

    def _end(self) -> None:
        """Says it and ends, unless the host goes on while the others have time to say it, too."""
        before = hosts.published()
        if self._goes_on(SILENT):
            return
        print(self._sentence(before), file=sys.stderr, flush=True)
        if not self._goes_on(GRACE):
            hosts.end_now()

    def _goes_on(self, ticks: int) -> bool:
        """Whether it does within so many ticks, in which the others hear of it."""
        seen = self._beats
        for _ in range(ticks):
            if self._done.wait(self.tick_s) or seen != self._beats:
                return True
            self._publish()
        return False

    def _sentence(self, before: dict[int, str]) -> str:
        """before: what all hosts had published SILENT ticks ago."""
        main = threading.main_thread().ident
        frames = sys._current_frames()
        stack = "".join(traceback.format_stack(frames[main])) if main in frames else ""
        now = hosts.published() or {0: f"0 {self._beats} {platform.node()} {self._doing}"}
        now = {index: text for index, text in now.items() if not text.endswith(LEFT)}
        silent = [index for index, text in now.items() if text == before.get(index)]
        told = {index: text.split(" ", 3) for index, text in sorted(now.items())}
        last = min(int(beats) for _, beats, _, _ in told.values())
        how = ", which says nothing any more," if silent else ""
        stuck = ", ".join(
            f"host {index} ({name}){how} since it {doing}"
            for index, (_, beats, name, doing) in told.items()
            if (index in silent if silent else int(beats) == last)
        )
        return (
            f"error: no step ended for {self.limit_s * self._times:.0f} s; stuck: {stuck}. The "
            "job ends; run the same command again to go on from the last checkpoint (DIG_STUCK_S "
            "sets the seconds)\n"
            f"Where this host is:\n{stack}"
        )
