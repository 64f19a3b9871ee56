"""SIGTERM and Ctrl-C while training: save after this step, then leave with the code that launchers
know.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

TERMINATED, INTERRUPTED = (
    128 + signal.SIGTERM,
    128 + signal.SIGINT,
)  # 143 and 130, as a shell counts them


class Interrupts:
    """Context in which the first SIGTERM or Ctrl-C only sets `code`, for the loop to read between
    two steps.

    A repeated SIGTERM changes nothing, because schedulers repeat it while the save is running. A
    second Ctrl-C ends the program at once: whoever types it twice does not want to wait; the last
    checkpoint stays. Only the main thread may set handlers: elsewhere, and with active=False
    (several processes: there the preemption service of JAX listens), nothing changes.
    """

    def __init__(self, active: bool = True) -> None:
        self.code: int | None = None
        self._active = active and threading.current_thread() is threading.main_thread()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if self._active:
            self._before = {
                number: signal.signal(number, self._note)
                for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if number == signal.SIGINT and self.code is not None:
            raise KeyboardInterrupt
        self.code = self.code or 128 + number
