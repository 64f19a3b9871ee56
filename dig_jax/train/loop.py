"""The loop of a run: steps, with their logging, evaluations and saves."""

from __future__ import annotations

import contextlib
from typing import Any

import jax

from dig_jax import hosts, sharding
from dig_jax.data import pipeline
from dig_jax.hosts import report
from dig_jax.train.experiment import Experiment
from dig_jax.train.profile import Trace
from dig_jax.train.progress import Log, Stopped
from dig_jax.train.signals import TERMINATED, Interrupts
from dig_jax.train.state import TrainState
from dig_jax.train.watch import LONG, Watch, limit
from dig_jax.workdir import checkpoint, metrics

HEADLINES = (
    "/cer",
    "/word_accuracy",
    "/std",
    "/effective_rank",
)  # of the evaluations, for the terminal; all are logged


class Loop:
    """Steps from state.step to total, with its logging, evaluations and saves."""

    def __init__(
        self,
        experiment: Experiment,
        checkpoints: checkpoint.Checkpoints,
        writer: metrics.Writer,
        evaluators: list[tuple[str, int, Any]],
        meta: dict[str, Any],
        trace: Trace,
    ):
        self.experiment, self.data, self.mesh = experiment, experiment.data, experiment.mesh
        self.total, self.shardings = experiment.total, experiment.shardings
        self.checkpoints, self.writer, self.evaluators = checkpoints, writer, evaluators
        self.meta, self.trace = meta, trace
        self.shard = sharding.host_shard(self.mesh)
        self.budget = pipeline.ErrorBudget(self.data.max_bad_share, mixture=self.data.mixture)
        self.interrupts = Interrupts(active=jax.process_count() == 1)

    def run(self, state: TrainState, carry: dict[str, Any] | None = None) -> TrainState:
        start = int(state.step)
        if start >= self.total:  # evaluate only
            self.evaluate(state, start)
            return state
        log = self.log = Log(
            start=start,
            total=self.total,
            batch_size=self.experiment.batch_size,
            every_steps=self.experiment.log_every,
            mixture=self.data.mixture,
            writer=self.writer,
            checkpoints=self.checkpoints,
            carry=carry,
        )
        with (
            self.interrupts,
            contextlib.closing(log),
            Watch(limit()) as watch,
            pipeline.iterate(self.data.dataset, start, self.data.workers) as batches,
        ):
            for done in range(start + 1, self.total + 1):
                watch.beat(f"reads step {done}")
                batch, host = next(batches)
                known = batch["image"].shape in log.compiled
                watch.beat(f"computes step {done}", 1 if known else LONG)
                if not self.shard.counts:  # another host reads the same rows and counts them
                    host = host | {"errors": []}
                self._count_errors(host)
                self.trace.begin(done, state)
                with (
                    jax.profiler.StepTraceAnnotation("train", step_num=done),
                    log.compiling(batch["image"].shape),
                ):
                    state, values = self.experiment.step(
                        state, self.data.place(state.params, batch, host, self.mesh)
                    )
                self.trace.end(done, state)
                log.add(done, values, host)
                watch.beat(f"ended step {done}")
                last = done == self.total
                stop = not last and hosts.stop_requested(
                    done - start, self.interrupts.code is not None
                )
                if self._must_pause(done) or stop:
                    watch.beat(f"evaluates or saves step {done}", LONG)
                    log.flush()  # all up to here is finite and written, before anything is kept
                    self._evaluate_and_save(state, done, force=last or stop)
                    log.resume()
                if stop:
                    watch.beat(f"saves step {done}", LONG)
                    self.checkpoints.wait()
                    report(f"asked to stop: saved step {done}; run the same command again to go on")
                    raise SystemExit(self.interrupts.code or TERMINATED)
            watch.beat("ends the last save", LONG)
            self.checkpoints.wait()
        return state

    def _must_pause(self, done: int) -> bool:
        evaluate = any(every and done % every == 0 for _, every, _ in self.evaluators)
        return done == self.total or evaluate or self.checkpoints.due(done, {})

    def _evaluate_and_save(self, state: TrainState, done: int, force: bool) -> None:
        results = self.evaluate(state, done)
        best = self.checkpoints.best_metric
        if best and self.evaluators and done == self.total and best not in results:
            report(
                f"config.checkpoint.best_metric is {best!r}, which no evaluation gives, so no best "
                "step is kept"
            )
        if force or self.checkpoints.due(done, results):
            self.writer.sync()
            self.checkpoints.save(done, state, results, self.meta | {"log": self.log.carry()})

    def evaluate(self, state: TrainState, done: int) -> dict[str, float]:
        """Run what is due at this step (everything at the end), write and return its metrics."""
        results: dict[str, float] = {}
        state = state.replace(params=sharding.gather(state.params, self.shardings.params))
        for _, every, evaluator in self.evaluators:
            if done == self.total or (every and done % every == 0):
                results.update(evaluator.run(state, done))
        self.writer.write(done, results)
        shown = {name: value for name, value in results.items() if name.endswith(HEADLINES)}
        if shown:
            report(
                f"step {done}: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
            )
        return results

    def _count_errors(self, host: dict[str, Any]) -> None:
        try:
            self.budget.add(host)
        except pipeline.TooManyBadRecords as error:
            raise Stopped(str(error)) from error
