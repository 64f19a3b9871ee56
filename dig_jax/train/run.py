"""run(config, workdir): the one trainer. It knows the contract of a method, and no method.

    Experiment.from_config -> lock the work folder -> state: checkpoint, or init_from and calibrate
    -> loop: batch -> to_global -> donated step -> log, evaluate, save

Running the same command again in the same workdir resumes bit for bit: the state is on disk, the
data follow from its step. SIGTERM saves and ends with exit code 143 (Ctrl-C: 130), so a scheduler
that requeues the job loses nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from dig_jax import hosts, sharding, trees
from dig_jax.data import limits, records
from dig_jax.hosts import report
from dig_jax.models import convolution
from dig_jax.train import compile_cache
from dig_jax.train.experiment import Experiment, total_steps
from dig_jax.train.loop import Loop
from dig_jax.train.profile import Trace
from dig_jax.train.progress import LostHost, Stopped
from dig_jax.train.start import start_state
from dig_jax.train.state import TrainState
from dig_jax.workdir import checkpoint, folder, metrics
from dig_jax.workdir import starts as provenance


def run(config: Mapping[str, Any], workdir: str) -> TrainState:
    """Train as the config says (a ConfigDict or a dict), in `workdir`; returns the last state.

    Raises ValueError or FileNotFoundError (one sentence) for what the user can mend, Stopped when
    training cannot go on, SystemExit(143) after SIGTERM.
    """
    try:
        return _run(config, workdir)
    except Exception as error:
        lost = hosts.lost_host(error)
        hosts.leave(hosts.LOST if lost else 1)
        if lost:
            raise LostHost(
                "another host of this job died or left, so this one ends as well. See the logs of "
                "the others, and run the same command on all hosts again: it resumes from the last "
                f"checkpoint (JAX says: {str(error).splitlines()[0]})"
            ) from error
        raise


def _run(config: Mapping[str, Any], workdir: str) -> TrainState:
    # Now: the code is loaded, and the checkout may change while this compiles.
    commit = provenance.commit()
    workdir = folder.whole_path(workdir)
    experiment = Experiment.from_config(getattr(config, "to_dict", lambda: config)())
    compile_cache.keep(experiment.compile_cache, least_s=0.5)
    data, total = experiment.data, experiment.total
    meta = folder.describe(experiment.config, data.mixture, data.charset)
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(folder.opened(workdir))
        # XLA cannot cut a fused kernel, so models/flash.py calls it on each device of this mesh.
        stack.enter_context(jax.set_mesh(experiment.mesh))
        evaluators = experiment.evaluators(files.folder)  # first: a set may not be there
        trace = Trace(experiment.profile, files.folder, workdir)
        checkpoints = experiment.checkpoints(workdir)
        stack.callback(checkpoints.close)
        resumed = hosts.broadcast(checkpoints.latest_step())
        saved: dict[str, Any] = {}
        if resumed is not None:
            checkpoint.await_step(workdir, resumed)
            saved = checkpoint.read_meta(workdir, resumed)
            folder.check_same(saved, meta, workdir)
            if total < resumed:  # before config.json says otherwise
                raise ValueError(
                    f"{workdir} has finished {resumed} steps already, and config.total asks for "
                    f"{total}: raise it to train on. To evaluate what it has learnt, name another "
                    f"--workdir, with --config.init_from={workdir}"
                )
        folder.describe_run(files.folder, meta)
        stack.enter_context(explain_memory(data.batch_shape))
        state = start_state(experiment, checkpoints, resumed)
        start = int(state.step)
        if total:
            report(
                f"{data.told}; {data.steps_per_epoch} steps an epoch, {total} steps in all, "
                f"starting at {start}\n{experiment.optimizer.describe()}"
            )
        report(sharding.describe(state, experiment.mesh, experiment.rules))
        platform = experiment.mesh.devices.flat[0].platform
        if told := convolution.caution(trees.named_leaves(state.params), platform):
            report(told)
        if saved:
            _tell_new_length(experiment, saved["config"]["total"], start)
        if start >= total > 0:
            report(f"{workdir} has finished {start} steps already: raise config.total to train on")
            return state
        if hosts.is_lead():
            reads = total and experiment.config["data"]["kind"] == "lines"
            labels = records.count_labels(experiment.config["data"]) if reads else None
            provenance.note(files.folder, start, commit, total, labels)
        files.publish()
        writer = metrics.Writer(
            files.folder, resume_step=start, active=hosts.is_lead(), publish=files.publish
        )
        stack.callback(writer.close)
        stack.callback(trace.close)
        loop = Loop(experiment, checkpoints, writer, evaluators, meta, trace)
        return loop.run(state, saved.get("log"))


@contextlib.contextmanager
def explain_memory(batch_shape: tuple[int, ...]) -> Iterator[None]:
    """Running out of memory as Stopped, with the widest batch and what makes it smaller."""
    try:
        yield
    except Exception as error:
        if words := limits.out_of_memory(error, batch_shape):
            raise Stopped(words) from error
        raise


def _tell_new_length(experiment: Experiment, was: Mapping[str, Any], start: int) -> None:
    before, total = total_steps(was, experiment.data.steps_per_epoch), experiment.total
    if before != total:
        rate = float(experiment.optimizer.schedule(start))
        report(
            f"config.total was {before} steps and is {total}: from step {start} on every schedule "
            f"runs over the new length (learning rate {rate:.3g} here). A run of {total} steps "
            "from the start would give another result"
        )
