"""Checkpoints: state, config and metrics of a step in one Orbax save under
WORKDIR/checkpoints/<step>.

Saves are asynchronous (the state may be donated right after `save` returns); a killed process
leaves the last committed step intact. The last `keep_last` and the best `keep_best` steps stay on
disk. Orbax v1 stores the metrics beside the state, so "best" survives a restart. A step without the
metric counts as worst instead of being kept for ever.

A committed step has checksums: <step>/checksums.json lists the size and CRC-32 of its files. Orbax
has none of what lies in an array file, and its message about a file that is cut off misleads. A
step that does not fit them is refused by name. Falling back to an older one would hide lost work.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import threading
import time
from typing import Any

import jax

from dig_jax import hosts
from dig_jax.workdir import bucket, checksums, stored
from dig_jax.workdir.stored import FOLDER, Damaged, steps  # noqa: F401  (callers find them here)

TIDY_S = 10.0  # that Orbax may take to tidy a folder at the end
BUNDLED = pathlib.Path(__file__).parents[1] / "weights"  # exports that ship with the package
LAYOUT = 2  # of a checkpoint and its meta. A program refuses later ones, and resumes its own only.


class SaveFailed(OSError):
    """A checkpoint could not be written; the message is one sentence for the user."""


class Checkpoints:
    """The checkpoints of one work folder, for the run that writes them. Every host makes the same
    calls.

    every_steps: save when the step is a multiple (0: only when the caller forces it). best_metric:
    name of an evaluation metric ("" or None: no best), best_mode "min" or "max".
    """

    def __init__(
        self,
        workdir: str,
        *,
        keep_last: int = 1,
        keep_best: int = 1,
        best_metric: str | None = None,
        best_mode: str = "min",
        every_steps: int = 1000,
    ) -> None:
        from orbax.checkpoint import v1 as ocp  # here: bench_step runs without it

        if best_mode not in ("min", "max"):
            raise ValueError(
                f"config.checkpoint.best_mode is {best_mode!r}: set it to 'min' or 'max'"
            )
        if keep_last < 1:
            raise ValueError(
                f"config.checkpoint.keep_last is {keep_last}: set it to 1 or more, or nothing can "
                "be resumed"
            )
        if every_steps < 0:
            raise ValueError(
                f"config.checkpoint.every_steps is {every_steps}: set it to 0 (only at the end) or "
                "more"
            )
        self.best_metric = best_metric or ""
        self._metric, self._sign = self.best_metric, (1.0 if best_mode == "max" else -1.0)
        self._every, self._workdir = every_steps, workdir
        self._summing: threading.Thread | None = None
        self._failure: tuple[int, BaseException] | None = None
        if found := steps(workdir):  # before Orbax looks at it, which would say less, in more lines
            stored.check_files(workdir, found[-1], contents=jax.process_index() == 0)
        keep = ocp.training.preservation_policies
        policies = [keep.LatestN(keep_last)]
        if self._metric and keep_best > 0:
            policies.append(
                keep.BestN(
                    n=keep_best, get_metric_fn=self._score, keep_checkpoints_without_metrics=False
                )
            )
        whole = workdir if bucket.remote(workdir) else os.path.abspath(workdir)
        self.folder = os.path.join(whole, FOLDER)
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(
                1
            ),  # `due` decides, not Orbax
            preservation_policy=keep.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
        )

    def _score(self, metrics: dict[str, float] | None) -> float:
        return _score(metrics, self._metric, self._sign)

    def due(self, step: int, metrics: dict[str, float]) -> bool:
        """True when this step is to be saved: the interval says so, or it is the best one so far.

        Raises SaveFailed where the save that was running has failed, so that no step is computed in
        vain.
        """
        self._raise_failure()
        if self._every > 0 and step % self._every == 0:
            return True
        if not self._metric or self._metric not in metrics:
            return False
        scores = [self._score(c.metrics) for c in self._checkpointer.checkpoints]
        better = self._score(metrics) > max(scores, default=-math.inf)
        return bool(hosts.broadcast(int(better)))  # what a host sees of the folder may be old

    def save(self, step: int, state: Any, metrics: dict[str, float], meta: dict[str, Any]) -> bool:
        """Start saving; False where this step is on disk already. Waits for an earlier save that is
        still running.

        metrics: evaluation results at exactly this step (non-finite ones are left out). meta: JSON
        (config, charset).
        """
        self.wait()
        if hosts.broadcast(int(any(step == c.step for c in self._checkpointer.checkpoints))):
            return False
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        try:
            response = self._checkpointer.save_checkpointables_async(
                step, {"state": state}, force=True, metrics=finite or None, custom_metadata=meta
            )
        except Exception as error:
            self._failure = step, error
            self._raise_failure()
        if response is not None:
            self._summing = threading.Thread(
                target=self._finish, args=(step, response), name=f"checksums {step}"
            )
            self._summing.start()
        return response is not None

    def _finish(self, step: int, response: Any) -> None:
        """In a thread of its own: wait for the commit, then write its checksums."""
        try:
            response.result()
            if jax.process_index() == 0:
                checksums.write(self.path(step))
        except BaseException as error:  # raised where the trainer looks: due, save, wait
            self._failure = step, error

    def _raise_failure(self) -> None:
        if self._failure is None:
            return
        step, error = self._failure
        good = steps(self._workdir)
        left = (
            f"the last good checkpoint is {self.path(good[-1])}"
            if good
            else "none was saved before it"
        )
        raise SaveFailed(
            f"step {step} could not be saved in {self.folder} ({stored.reason(error)}); {left}: "
            "mend that, then run the same command again to go on from "
            f"{'there' if good else 'the start'}"
        ) from error

    def restore(self, abstract_state: Any, step: int) -> Any:
        """The state of a step, placed by the shardings of `abstract_state`, on any mesh.

        Raises ValueError where it is the state of another model, Damaged where it cannot be read.
        """
        path = self.path(step)
        stored.check_tree(
            abstract_state,
            stored.shapes_of(self._workdir, step),
            f"the checkpoint {path}",
            "use another --workdir",
        )
        try:
            return self._checkpointer.load_checkpointables(step, {"state": abstract_state})["state"]
        except Exception as error:
            raise stored.damaged(self._workdir, step, stored.reason(error)) from error

    def latest_step(self) -> int | None:
        """Of the committed ones."""
        return max(steps(self._workdir), default=None)

    def best_step(self) -> int | None:
        """The step with the best metric; None where no checkpoint has it."""
        return _best(self._checkpointer.checkpoints, self._metric, self._sign)

    def path(self, step: int) -> str:
        return os.path.join(self.folder, str(step))

    def wait(self) -> None:
        """Until the running save is on disk, with its checksums; SaveFailed where it is not."""
        if self._summing is not None:
            self._summing.join()
            self._summing = None
        self._raise_failure()

    def close(self) -> None:
        """As `wait`, and let go of the folder. What failed and was raised before is not raised
        again.
        """
        told = self._failure is not None
        try:
            if not told:
                self.wait()
        finally:
            try:
                self._checkpointer.close()
            except Exception:
                if self._failure is None:
                    raise
            # Orbax tidies the folder in a thread that it does not wait for.
            for thread in threading.enumerate():
                if type(thread).__module__.startswith("orbax."):
                    thread.join(TIDY_S)


def _score(metrics: dict[str, float] | None, name: str, sign: float) -> float:
    """Larger is better; -inf where the metric is missing or not finite."""
    value = (metrics or {}).get(name)
    return sign * value if value is not None and math.isfinite(value) else -math.inf


def _best(checkpoints: Any, name: str, sign: float) -> int | None:
    scored = [(_score(c.metrics, name, sign), c.step) for c in checkpoints]
    score, step = max(scored, default=(-math.inf, None))
    return step if score > -math.inf else None


def choose_step(workdir: str, which: str = "last") -> int:
    """The "last" or the "best" step of another run (by its own best_metric; where it has none, the
    last). Reads only.

    Raises FileNotFoundError where there is no checkpoint, ValueError for another word.
    """
    if which not in ("last", "best"):
        raise ValueError(f"config.init_checkpoint is {which!r}: set it to 'last' or 'best'")
    found = steps(workdir)
    if not found:
        raise FileNotFoundError(
            f"{workdir} holds no checkpoint: name the work folder of a run that saved one"
            + how_to_import(workdir)
        )
    rule = read_config(workdir).get("checkpoint", {}) if which == "best" else {}
    if not rule.get("best_metric"):
        return found[-1]
    from orbax.checkpoint import v1 as ocp  # here: bench_step runs without it

    folder = bucket.whole(f"{workdir}/{FOLDER}")
    with ocp.training.Checkpointer(
        folder, cleanup_tmp_directories=False
    ) as reader:  # that run may be saving just now
        best = _best(
            reader.checkpoints, rule["best_metric"], 1.0 if rule.get("best_mode") == "max" else -1.0
        )
    return found[-1] if best is None else best


def await_step(workdir: str, step: int, seconds: float = 120.0) -> None:
    """Until this host sees a step that the lead sees: a network file system may be late.

    Raises FileNotFoundError, in one sentence, where it does not come.
    """
    end = time.monotonic() + seconds
    while step not in steps(workdir):
        if time.monotonic() > end:
            raise FileNotFoundError(
                f"this host does not see step {step} of {workdir}, which the lead host sees: let "
                "all hosts mount the same folder, and run the same command again"
            )
        time.sleep(0.2)


def read_meta(workdir: str, step: int | None = None) -> dict[str, Any]:
    """What `save` stored as meta with a checkpoint ({"config": ..., "charset": ...}); None: the
    latest."""
    from orbax.checkpoint import v1 as ocp  # here: bench_step runs without it

    step = choose_step(workdir) if step is None else step
    stored.check_files(workdir, step, contents=False)
    meta = dict(
        ocp.checkpointables_metadata(stored.step_folder(workdir, step)).custom_metadata or {}
    )
    if "config" not in meta:
        raise stored.damaged(workdir, step, "its _CHECKPOINT_METADATA is missing or cut off")
    if meta.get("layout", 1) > LAYOUT:
        raise ValueError(
            f"{workdir} has checkpoints of layout {meta['layout']} and this program reads up to "
            f"{LAYOUT}: use the newer dig_jax that wrote them, or another folder"
        )
    return meta


def read_config(workdir: str) -> dict[str, Any]:
    """The expanded config of a run: from its latest checkpoint, or from config.json where it has
    saved none yet.
    """
    if steps(workdir):
        return read_meta(workdir)["config"]
    path = bucket.path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{workdir} holds neither a checkpoint nor config.json: it is no work folder of a run"
            + how_to_import(workdir)
        )
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is no JSON ({error}), and {workdir} has no checkpoint: name another work "
            "folder"
        ) from error


def how_to_import(workdir: str) -> str:
    """The end of a sentence, where what was named as a run is an export or bundled weights."""
    folder, name = bucket.path(workdir), pathlib.PurePath(workdir).name
    if (folder / "card.md").exists():
        source, output, of = workdir, "DIR", "this export"
    elif (BUNDLED / name / "card.md").exists() and not folder.exists():
        source, output, of = name, workdir, f"the bundled weights {name}"
    else:
        return ""
    command = f"dig-jax import --layout=dig_jax --input={source} --output={output}"
    return f". `{command}` makes a run of {of}"


def has_subtree(workdir: str, path: str, step: int | None = None) -> bool:
    """Whether a checkpoint's state (None: the latest) has anything under `path`."""
    step = choose_step(workdir) if step is None else step
    return any(name.startswith(path + "/") for name in stored.shapes_of(workdir, step))


def load_subtree(workdir: str, path: str, abstract: Any, step: int | None = None) -> Any:
    """A part of a checkpoint's state (None: the last), for instance path "params/encoder", with the
    shapes and shardings of `abstract`. Raises FileNotFoundError without a checkpoint, ValueError
    naming the leaves that differ."""
    from orbax.checkpoint import v1 as ocp  # here: bench_step runs without it

    step = choose_step(workdir) if step is None else step
    checkpoint = stored.step_folder(workdir, step)
    stored.check_files(workdir, step)
    shapes = stored.shapes_of(workdir, step)
    saved = {
        name[len(path) + 1 :]: shape
        for name, shape in shapes.items()
        if name.startswith(path + "/")
    }
    if not saved:
        raise ValueError(
            f"{checkpoint} has no {path!r}: set config.init_parts to a part that it has"
        )
    stored.check_tree(
        abstract,
        saved,
        f"{path} of {workdir}",
        "give the model the sizes of that run, or another config.init_from",
    )
    tree = abstract
    for name in reversed(path.split("/")):
        tree = {name: tree}
    partial = ocp.Context()
    partial.pytree.loading.partial_load = True
    try:
        with partial:
            loaded = ocp.load(checkpoint, tree, checkpointable_name="state")
    except Exception as error:
        raise stored.damaged(workdir, step, stored.reason(error)) from error
    for name in path.split("/"):
        loaded = loaded[name]
    return loaded
