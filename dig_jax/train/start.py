"""The state that a run starts from: the last checkpoint, or step 0 after init_from and
calibrate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dig_jax import hosts, sharding
from dig_jax.data import pipeline
from dig_jax.hosts import report
from dig_jax.methods.shared import base, classes
from dig_jax.text import Charset
from dig_jax.train.experiment import Experiment, Source
from dig_jax.train.state import TrainState, new_teacher
from dig_jax.workdir import checkpoint

# A CPU's program that runs once: to optimise it takes longer than it gains.
ONCE = {"xla_backend_optimization_level": 0}


def start_state(
    experiment: Experiment, checkpoints: checkpoint.Checkpoints, step: int | None
) -> TrainState:
    """The state of checkpoint `step`; None: a new one.

    Until a new state is created nothing is compiled, so that what does not fit is refused at once.
    """
    exp, source, placed = experiment, experiment.source, experiment.placed
    raw = first_batch(exp)
    if exp.total and not exp.data.features:
        jax.eval_shape(exp.step, placed, raw)  # the first call uses this trace again
    if step is None:
        loaded = load_parts(source, placed, exp.method)  # it may not fit, so before compiling
        options = ONCE if jax.default_backend() == "cpu" else None
        create = jax.jit(exp.create, out_shardings=exp.shardings, compiler_options=options)
        state = create(raw)
        state = replace_parts(state, loaded, exp.method)
    else:
        loaded, state = {}, checkpoints.restore(placed, step)
        hosts.check_same("the step that a host restored", int(state.step))
    if exp.data.features and exp.total > 0:
        with pipeline.iterate(exp.data.once(), 0, exp.data.workers) as batches:
            exp.data.features.fill(state.params, batches)
    if step is None and source.calibrate_batches and calibrates(exp.method):
        # Statistics that were taken over belong to the weights that were trained on them.
        if not any(path.split("/")[0] == "mutable" for path in loaded):
            params = sharding.gather(state.params, exp.shardings.params)
            batches = first_batches(exp, source.calibrate_batches, params)
            state = state.replace(mutable=exp.method.calibrate(params, state.mutable, batches))
    finite = jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), state.mutable)
    if step is None and exp.total and calibrates(exp.method) and not jax.tree.all(finite):
        raise ValueError(
            "config.calibrate_batches is 0, but this method standardises its features: set it to "
            "the number of training batches that they are measured on, such as 100"
        )
    return jax.device_put(state, exp.shardings)


def first_batch(exp: Experiment) -> base.Batch:
    """The batch of step 0, global; of data that are not read, zeros."""
    if exp.data.dataset is not None:
        return sharding.to_global(exp.data.dataset[0][0], exp.mesh)
    zeros = lambda: {name: jnp.zeros(x.shape, x.dtype) for name, x in exp.data.raw.items()}
    return jax.jit(zeros, out_shardings=sharding.batch_sharding(exp.mesh))()


def calibrates(method: base.Method) -> bool:
    return type(method).calibrate is not base.Method.calibrate


def load_parts(source: Source, placed: TrainState, method: base.Method) -> dict[str, Any]:
    """{"params/encoder": tree} of config.init_parts from a checkpoint of config.init_from.

    "teacher/encoder->params/encoder" takes a part over under another name.
    """
    if not source.workdir:
        return {}
    workdir, lead = source.workdir, hosts.is_lead()
    step = hosts.broadcast(checkpoint.choose_step(workdir, source.which) if lead else None)
    checkpoint.await_step(workdir, step)
    report(f"starting from step {step} of {workdir}: {', '.join(source.parts)}")
    if "params" in source.parts and calibrates(method):
        theirs = checkpoint.has_subtree(workdir, "mutable", step)
        if theirs and not any(path.startswith("mutable") for path in source.parts):
            raise ValueError(
                f"config.init_parts takes 'params' from {workdir} but not 'mutable', the feature "
                "statistics that these weights were trained on: set "
                "config.init_parts=('params','mutable')"
            )
        if theirs and not jax.tree.leaves(placed.mutable):
            raise ValueError(
                f"config.init_parts takes 'params' from {workdir}, whose features were "
                "standardised, but this run takes them as they are: set "
                "config.method.standardize=True"
            )
        if jax.tree.leaves(placed.mutable) and not theirs:
            raise ValueError(
                f"config.init_parts takes 'params' from {workdir}, whose features were not "
                "standardised, but this run standardises them: set config.method.standardize=False"
            )
    loaded = {}
    for entry in source.parts:
        theirs, _, ours = entry.partition("->")
        first, *rest = (ours or theirs).split("/")
        abstract = getattr(placed, first, None)
        for name in rest:
            abstract = abstract.get(name) if abstract else None
        if abstract is None:
            raise ValueError(
                f"config.init_parts has {entry!r} but this run has no {ours or theirs!r}: name a "
                "part of it"
            )
        text = checkpoint.read_meta(workdir)["charset"] if theirs == "params" else None
        if text and not rest:
            abstract = classes.with_classes(abstract, Charset.from_json(text).size)
        if jax.tree.leaves(abstract):  # else nothing to take over, such as an empty "mutable"
            loaded[ours or theirs] = checkpoint.load_subtree(workdir, theirs, abstract, step)
    return loaded


def replace_parts(state: TrainState, loaded: dict[str, Any], method: base.Method) -> TrainState:
    """The state with these parts in place of its own; the teacher follows the student, except for
    parts of a teacher that are loaded themselves."""
    own = {path: tree for path, tree in loaded.items() if path.split("/")[0] != "teacher"}
    state = _with_parts(state, own)
    if own:
        state = state.replace(teacher=new_teacher(method, state.params))
    return _with_parts(state, {path: loaded[path] for path in loaded.keys() - own.keys()})


def _with_parts(state: TrainState, loaded: dict[str, Any]) -> TrainState:
    """The state with these parts in place of its own."""
    for path, tree in loaded.items():
        first, *rest = path.split("/")
        if path == "params":
            tree = classes.extend_classes(tree, state.params)
        for depth in range(len(rest) - 1, -1, -1):
            parent = getattr(state, first)
            for name in rest[:depth]:
                parent = parent[name]
            tree = {**parent, rest[depth]: tree}
        state = state.replace(**{first: tree})
    return state


def first_batches(experiment: Experiment, count: int, params: base.Params) -> Iterator[base.Batch]:
    """Up to `count` global training batches, one by one, at most one epoch of them.

    A whole epoch holds every line once: the lines that fill its last batch in training are left
    out.
    """
    data = experiment.data
    count = min(count, data.steps_per_epoch)
    dataset = data.once() if data.once and count == data.steps_per_epoch else data.dataset
    with pipeline.iterate(dataset, 0, data.workers) as batches:
        for _ in range(count):
            yield data.place(params, *next(batches), experiment.mesh)
