"""Checkpoints: state, config and metrics of a step in one Orbax save under WORKDIR/checkpoints/<step>.

Saves are asynchronous (the state may be donated right after `save` returns); a killed process leaves the last committed
step intact. The last `keep_last` and the best `keep_best` steps stay on disk. Orbax v1 stores the metrics beside the
state, so "best" survives a restart; a step without the metric counts as worst instead of being kept for ever.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of one work folder, for the run that writes them. Every host makes the same calls.

    every_steps: save when the step is a multiple (0: only when the caller forces it). best_metric: name of an
    evaluation metric ("" or None: no best), best_mode "min" or "max".
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
        if best_mode not in ("min", "max"):
            raise ValueError(f"config.checkpoint.best_mode is {best_mode!r}: set it to 'min' or 'max'")
        if keep_last < 1:
            raise ValueError(
                f"config.checkpoint.keep_last is {keep_last}: set it to 1 or more, or nothing can be resumed"
            )
        self._metric, self._sign = best_metric or "", (1.0 if best_mode == "max" else -1.0)
        self._every = every_steps
        keep = ocp.training.preservation_policies
        policies = [keep.LatestN(keep_last)]
        if self._metric and keep_best > 0:
            policies.append(keep.BestN(n=keep_best, get_metric_fn=self._score, keep_checkpoints_without_metrics=False))
        self.folder = os.path.join(os.path.abspath(workdir), FOLDER) if "://" not in workdir else f"{workdir}/{FOLDER}"
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),  # `due` decides, not Orbax
            preservation_policy=keep.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
        )

    def _score(self, metrics: dict[str, float] | None) -> float:
        return _score(metrics, self._metric, self._sign)

    def due(self, step: int, metrics: dict[str, float]) -> bool:
        """True when this step is to be saved: the interval says so, or it is the best one so far."""
        on_interval = self._every > 0 and step % self._every == 0
        score = self._score(metrics)
        best = max((self._score(c.metrics) for c in self._checkpointer.checkpoints), default=-math.inf)
        return on_interval or (bool(self._metric) and score > best)

    def save(self, step: int, state: Any, metrics: dict[str, float], meta: dict[str, Any]) -> bool:
        """Start saving; False where this step is on disk already. Waits for an earlier save that is still running.

        metrics: evaluation results at exactly this step (non-finite ones are left out). meta: JSON (config, charset).
        """
        if any(step == c.step for c in self._checkpointer.checkpoints):
            return False
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        response = self._checkpointer.save_checkpointables_async(
            step, {"state": state}, force=True, metrics=finite or None, custom_metadata=meta
        )
        return response is not None

    def restore(self, abstract_state: Any) -> Any:
        """The latest state, placed by the shardings of `abstract_state` (any mesh), or None where there is none."""
        step = self.latest_step()
        if step is None:
            return None
        path = epath.Path(self.path(step))
        _check_tree(abstract_state, _saved_shapes(path), f"the checkpoint {path}", "use another --workdir")
        return self._checkpointer.load_checkpointables(step, {"state": abstract_state})["state"]

    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def best_step(self) -> int | None:
        """The step with the best metric; None where no checkpoint has it."""
        return _best(self._checkpointer.checkpoints, self._metric, self._sign)

    def path(self, step: int) -> str:
        return os.path.join(self.folder, str(step))

    def wait(self) -> None:
        """Until the running save is on disk; raises what went wrong in it."""
        self._checkpointer.wait()

    def close(self) -> None:
        self._checkpointer.close()


def _score(metrics: dict[str, float] | None, name: str, sign: float) -> float:
    """Larger is better; -inf where the metric is missing or not finite."""
    value = (metrics or {}).get(name)
    return sign * value if value is not None and math.isfinite(value) else -math.inf


def _best(checkpoints: Any, name: str, sign: float) -> int | None:
    scored = [(_score(c.metrics, name, sign), c.step) for c in checkpoints]
    score, step = max(scored, default=(-math.inf, None))
    return step if score > -math.inf else None


def steps(workdir: str) -> list[int]:
    """Committed steps of a work folder, ascending; [] where there are none. Reads only."""
    folder = epath.Path(workdir) / FOLDER
    if not folder.exists():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and ocp.is_orbax_checkpoint(p))


def choose_step(workdir: str, which: str = "last") -> int:
    """The "last" or the "best" step of another run (by its own best_metric; where it has none, the last). Reads only.

    Raises FileNotFoundError where there is no checkpoint, ValueError for another word.
    """
    if which not in ("last", "best"):
        raise ValueError(f"config.init_checkpoint is {which!r}: set it to 'last' or 'best'")
    found = steps(workdir)
    if not found:
        raise FileNotFoundError(f"{workdir} holds no checkpoint: name the work folder of a run that saved one")
    rule = read_config(workdir).get("checkpoint", {}) if which == "best" else {}
    if not rule.get("best_metric"):
        return found[-1]
    folder = (epath.Path(workdir) / FOLDER).resolve()
    with ocp.training.Checkpointer(folder, cleanup_tmp_directories=False) as reader:  # that run may be saving just now
        best = _best(reader.checkpoints, rule["best_metric"], 1.0 if rule.get("best_mode") == "max" else -1.0)
    return found[-1] if best is None else best


def _step_folder(workdir: str, step: int | None = None) -> epath.Path:
    """Of this step, or of the last."""
    return (epath.Path(workdir) / FOLDER / str(choose_step(workdir) if step is None else step)).resolve()


def read_meta(workdir: str) -> dict[str, Any]:
    """What `save` stored as meta with the latest checkpoint ({"config": ..., "charset": ...})."""
    meta = ocp.checkpointables_metadata(_step_folder(workdir)).custom_metadata
    return dict(meta or {})


def read_config(workdir: str) -> dict[str, Any]:
    """The expanded config of a run: from its latest checkpoint, or from config.json where it has saved none yet."""
    if steps(workdir):
        return read_meta(workdir)["config"]
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{workdir} holds neither a checkpoint nor config.json: it is no work folder of a run")
    return json.loads(path.read_text())


def has_subtree(workdir: str, path: str) -> bool:
    """Whether the latest checkpoint's state has anything under `path`."""
    return any(name.startswith(path + "/") for name in _saved_shapes(_step_folder(workdir)))


def load_subtree(workdir: str, path: str, abstract: Any, step: int | None = None) -> Any:
    """A part of a checkpoint's state (None: the last), for instance path "params/encoder", with the shapes and shardings
    of `abstract`. Raises FileNotFoundError without a checkpoint, ValueError naming the leaves that differ."""
    checkpoint = _step_folder(workdir, step)
    saved = {
        name[len(path) + 1 :]: shape for name, shape in _saved_shapes(checkpoint).items() if name.startswith(path + "/")
    }
    if not saved:
        raise ValueError(f"{checkpoint} has no {path!r}: set config.init_parts to a part that it has")
    _check_tree(
        abstract, saved, f"{path} of {workdir}", "give the model the sizes of that run, or another config.init_from"
    )
    tree = abstract
    for name in reversed(path.split("/")):
        tree = {name: tree}
    partial = ocp.Context()
    partial.pytree.loading.partial_load = True
    with partial:
        loaded = ocp.load(checkpoint, tree, checkpointable_name="state")
    for name in path.split("/"):
        loaded = loaded[name]
    return loaded


def _saved_shapes(checkpoint: epath.Path) -> dict[str, tuple[int, ...]]:
    tree = ocp.metadata(checkpoint, "state").metadata
    return {
        _name(p): tuple(leaf.shape)
        for p, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if hasattr(leaf, "shape")
    }


def _name(path: tuple[Any, ...]) -> str:
    """Path of a leaf, the same for dataclasses, named tuples and dicts (Orbax stores the first two as dicts)."""
    return "/".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)


def _check_tree(abstract: Any, saved: dict[str, tuple[int, ...]], what: str, mend: str) -> None:
    """ValueError with one sentence that names the leaves in which the two trees differ."""
    wanted = {_name(p): tuple(leaf.shape) for p, leaf in jax.tree_util.tree_flatten_with_path(abstract)[0]}
    differ = [
        f"{n} is {saved[n]} there and {wanted[n]} here"
        for n in sorted(wanted.keys() & saved.keys())
        if wanted[n] != saved[n]
    ]
    differ += [f"{n} is missing there" for n in sorted(wanted.keys() - saved.keys())]
    differ += [f"{n} is only there" for n in sorted(saved.keys() - wanted.keys())]
    if differ:
        more = f", and {len(differ) - 4} more" if len(differ) > 4 else ""
        raise ValueError(f"{what} does not fit this model ({'; '.join(differ[:4])}{more}): {mend}")
