"""What a run says while it trains: progress, `train/` metrics, and the stop at a number that
is not finite.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from dig_jax import hosts
from dig_jax.workdir import checkpoint, metrics

# Steps in flight: enough that logging never empties the device's queue, and no more, because each
# of them holds its batch in the device's memory, and all have to end before a run that is asked to
# stop can save.
LAG = 2


class Stopped(RuntimeError):
    """The run cannot go on; the message is one sentence for the user."""


class LostHost(Stopped):
    """Another host of the job is gone: the same command, started again, goes on."""


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class Log:
    """Progress, a bar on a terminal and lines elsewhere, and `train/` metrics: means over the steps
    since the last log step.

    carry: what `carry` gave when the checkpoint was saved that the run goes on from.

    The loop is never more than LAG steps ahead of the device. Metrics are fetched at the log steps;
    `flush` fetches what is left. Every fetched step is checked: a loss or gradient that is not
    finite raises Stopped with the step, the records and the last good checkpoint.
    """

    def __init__(
        self,
        *,
        start: int,
        total: int,
        batch_size: int,
        every_steps: int,
        mixture: Any,
        writer: metrics.Writer,
        checkpoints: checkpoint.Checkpoints,
        carry: dict[str, Any] | None = None,
    ):
        self.start, self.total, self.every, self.batch_size = start, total, every_steps, batch_size
        self.mixture, self.writer, self.checkpoints = mixture, writer, checkpoints
        self.queue: deque[tuple[int, dict[str, jax.Array], dict[str, Any]]] = deque()
        carry = carry or {"steps": 0, "sums": {}, "bad_records": 0}
        self.steps, self.sums, self.last = carry["steps"], dict(carry["sums"]), {}
        self.bad_records = carry["bad_records"] if hosts.is_lead() else 0
        self.timed_steps, self.seconds = 0, 0.0
        self.clock, self.compiled = time.perf_counter(), set[tuple[int, ...]]()
        shown = sys.stderr.isatty() and hosts.is_lead()
        self.bar = tqdm(
            total=total, initial=start, unit=" steps", disable=not shown, dynamic_ncols=True
        )

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()

    @contextlib.contextmanager
    def compiling(self, shape: tuple[int, ...]) -> Iterator[None]:
        """Around a call of the step: says that the first one for images of this shape, [B, H, W,
        C], compiles, and for how long. That time is no part of the speed.
        """
        if shape in self.compiled:
            yield
            return
        size = f"{shape[0]} images of {shape[1]} x {shape[2]} px"
        if not self.compiled:
            hosts.report(f"compiling the training step for {size}")
        self.bar.set_description("compiling")
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.compiled.add(shape)
        self.clock += seconds
        if not self.bar.disable:  # nor of the time that the bar expects
            self.bar.start_t += seconds
            self.bar.last_print_t += seconds
        self.bar.set_description(None)
        hosts.report(f"compiled for {size} in {seconds:.1f} s")

    def add(self, step: int, values: dict[str, jax.Array], host: dict[str, Any]) -> None:
        self.queue.append((step, values, host))
        if step == self.start + 1:
            jax.block_until_ready(values)
            self.resume()  # compilation is no part of the speed
        elif len(self.queue) > LAG:
            jax.block_until_ready(self.queue[-1 - LAG][1])
            if (step - LAG) % self.every == 0:
                self._drain(step - LAG)
        self.bar.update()

    def flush(self) -> None:
        """Fetch and check everything so far."""
        if self.queue:
            self._drain(self.queue[-1][0])

    def carry(self) -> dict[str, Any]:
        """What has been added up since the last log step, JSON: with it the next line of a resumed
        run is the same.
        """
        return {
            "steps": self.steps,
            "sums": self.sums,
            "bad_records": int(hosts.sum_hosts(self.bad_records)),
        }

    def resume(self) -> None:
        """Start the clock again after an evaluation or a save."""
        self.clock = time.perf_counter()

    def _drain(self, upto: int) -> None:
        items = []
        while self.queue and self.queue[0][0] <= upto:
            items.append(self.queue.popleft())
        if not items:
            return
        fetched = jax.device_get([values for _, values, _ in items])
        now = time.perf_counter()
        timed = [step for step, _, _ in items if step > self.start + 1]
        each, self.clock = (now - self.clock) / max(len(timed), 1), now
        for (step, _, host), values in zip(items, fetched):
            if not values.pop("finite"):
                self._stop(step, values, host["index"])
            self.bad_records += len(host["errors"])
            self.last = {name: float(value) for name, value in values.items()}
            self.steps, self.sums = (
                self.steps + 1,
                {name: self.sums.get(name, 0.0) + v for name, v in self.last.items()},
            )
            if step > self.start + 1:
                self.timed_steps, self.seconds = self.timed_steps + 1, self.seconds + each
            if step % self.every == 0 or step == self.total:
                self._write(step)

    def _write(self, step: int) -> None:
        means = {f"train/{name}": total / self.steps for name, total in self.sums.items()}
        means["train/lr"] = self.last["lr"]
        means["train/bad_records"] = float(hosts.sum_hosts(self.bad_records))
        rate, eta = "", ""
        if self.timed_steps:
            means["train/lines_per_s"] = (
                self.batch_size * self.timed_steps / max(self.seconds, 1e-9)
            )
            left = (self.total - step) * self.seconds / self.timed_steps
            rate, eta = f"  {means['train/lines_per_s']:.0f} lines/s", f"  ETA {_duration(left)}"
        self.writer.write(step, means)
        line = f"loss {means['train/loss']:.4f}{rate}"
        self.bar.set_postfix_str(line)
        if self.bar.disable or step == self.total:
            hosts.report(f"{step}/{self.total}  {line}{eta}")
        self.steps, self.sums, self.bad_records, self.timed_steps, self.seconds = 0, {}, 0, 0, 0.0

    def _stop(self, step: int, values: dict[str, Any], index: np.ndarray) -> None:
        numbers = dict.fromkeys(hosts.gather_rows(index).tolist())  # hosts may share rows
        names = [self.mixture.where(number) for number in numbers if number >= 0]
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        folder, name = os.path.dirname(self.checkpoints.folder), f"bad_step_{step}.txt"
        if hosts.is_lead():
            with open(os.path.join(self.writer.workdir, name), "w", encoding="utf-8") as file:
                file.write("\n".join(names) + "\n")
        self.checkpoints.wait()
        last = self.checkpoints.latest_step()
        good = (
            f"the last good checkpoint is {self.checkpoints.path(last)}"
            if last is not None
            else "none was saved yet"
        )
        way_out = f" and --config.init_from={folder}" if last is not None else ""
        raise Stopped(
            f"step {step} has loss {float(values['loss']):g} and gradient norm "
            f"{float(values['grad_norm']):g}: its update was not applied and the run stops; "
            f"{good}. Its records are {shown} (all in "
            f"{os.path.join(folder, name)}). The same command would meet it again: lower "
            f"config.optim.lr or config.optim.clip_norm, with another --workdir{way_out}"
        )
