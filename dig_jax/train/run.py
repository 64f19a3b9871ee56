"""run(config, workdir): the one trainer. It knows the contract of a method, and no method.

    open data -> build method -> eval_shape(create) -> shardings -> jit(create) -> init_from -> calibrate -> restore
    -> loop: batch -> to_global -> donated step -> log, evaluate, save

Running the same command again in the same workdir resumes bit for bit: the state is on disk, the
data follow from its step. SIGTERM saves and ends with exit code 143 (Ctrl-C: 130), so a scheduler
that requeues the job loses nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dig_jax import config as build
from dig_jax import hosts, prng, sharding
from dig_jax.data import limits, pipeline, records
from dig_jax.hosts import report
from dig_jax.methods.shared import base
from dig_jax.text import Charset
from dig_jax.train import accumulate, optim
from dig_jax.train import state as states
from dig_jax.train.feature_cache import FeatureCache
from dig_jax.train.loop import Loop
from dig_jax.train.profile import Trace
from dig_jax.train.progress import Stopped
from dig_jax.train.step import jit_train_step
from dig_jax.workdir import checkpoint, folder, metrics
from dig_jax.workdir import starts as provenance


@dataclasses.dataclass(frozen=True)
class Data:
    """dataset[i] = (batch, host) of step i. charset: of the labels, None for crops. once: makes a
    dataset of one epoch in which every line comes exactly once; None where an epoch is no such
    thing."""

    mixture: Any
    dataset: Any
    charset: Charset | None
    steps_per_epoch: int
    once: Callable[[], Any] | None = None
    features: FeatureCache | None = None  # of a frozen encoder

    def place(
        self, params: base.Params, batch: dict[str, Any], host: dict[str, Any], mesh: Any
    ) -> base.Batch:
        """Host batch -> global arrays, with the features of a frozen encoder in place of the
        pixels.
        """
        return sharding.to_global(
            self.features(params, batch, host) if self.features else batch, mesh
        )


def run(config: Any, workdir: str) -> states.TrainState:
    """Train as the ml_collections config says, in `workdir`; returns the last state.

    Raises ValueError or FileNotFoundError (one sentence) for what the user can mend, Stopped when
    training cannot go on, SystemExit(143) after SIGTERM.
    """
    try:
        return _run(config, workdir)
    except Exception as error:
        hosts.leave()
        if hosts.lost_host(error):
            raise Stopped(
                "another host of this job died or left, so this one ends as well: see the logs of the others, and run the same "
                f"command on all hosts again to go on from the last checkpoint (JAX says: {str(error).splitlines()[0]})"
            ) from error
        raise


def _run(config: Any, workdir: str) -> states.TrainState:
    config.lock()
    commit = (
        provenance.commit()
    )  # now: the code is loaded, and the checkout may change while this compiles
    cfg = build.absolute(config.to_dict())
    if cfg.get("compile_cache"):
        jax.config.update("jax_compilation_cache_dir", cfg["compile_cache"])
    mesh = sharding.make_mesh(cfg.get("mesh"))
    sharding.check_batch_size(cfg["batch_size"], mesh, accumulate.parts(cfg))
    build.inherit(cfg)
    build.check(cfg)
    data = open_data(cfg, mesh)
    total = total_steps(cfg["total"], data.steps_per_epoch)
    method = build.method(cfg, data.charset)
    accumulate.check(accumulate.parts(cfg), method)
    trace = Trace(cfg.get("profile", ""), workdir)
    if method.frozen_features and data.once and jax.process_count() == 1:
        data = dataclasses.replace(data, features=FeatureCache(method, mesh))
    meta = folder.describe(cfg, data.mixture, data.charset)
    with contextlib.ExitStack() as stack:
        stack.enter_context(folder.lock_workdir(workdir))
        checkpoints = build.call(
            checkpoint.Checkpoints, "config.checkpoint", cfg.get("checkpoint", {}), workdir=workdir
        )
        stack.callback(checkpoints.close)
        saved = checkpoint.read_meta(workdir) if checkpoints.latest_step() is not None else {}
        if saved:
            folder.check_same(saved, meta, workdir)
        folder.describe_run(workdir, meta)
        evals = [
            build.evaluator(name, options, method, mesh, workdir, cfg)
            for name, options in cfg.get("evals", {}).items()
        ]
        stack.enter_context(explain_memory(data.dataset.batch_shape))
        state, optimizer, step = start_state(cfg, method, data, mesh, total, checkpoints)
        start = int(state.step)
        report(
            f"{data.steps_per_epoch} steps an epoch, {total} steps in all, starting at {start}\n{optimizer.describe()}\n"
            f"{sharding.describe(state, mesh, cfg.get('sharding', ()))}"
        )
        before = total_steps(saved["config"]["total"], data.steps_per_epoch) if saved else total
        if before != total:
            report(
                f"config.total was {before} steps and is {total}: from step {start} on every schedule runs over the new length "
                f"(learning rate {float(optimizer.schedule(start)):.3g} here), so this is not what {total} steps from the "
                f"start would give"
            )
        if start >= total > 0:
            report(f"{workdir} has finished {start} steps already: raise config.total to train on")
            return state
        if hosts.is_lead():
            provenance.note(workdir, start, commit)
        writer = metrics.Writer(workdir, resume_step=start, active=hosts.is_lead())
        stack.callback(writer.close)
        stack.callback(trace.close)
        loop = Loop(cfg, step, data, mesh, total, checkpoints, writer, evals, meta, trace)
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


def open_data(cfg: dict[str, Any], mesh: Any = None) -> Data:
    """The training data of config.data: kind "crops" (pixels only) or "lines" (pixels and
    labels).
    """
    options = dict(cfg["data"])
    kind, spec = options.pop("kind"), options.pop("train")
    for name in ("workers", "max_bad_share"):
        options.pop(name, None)
    chosen = {
        name: options.pop(name)
        for name in ("subset", "subset_seed", "subset_order")
        if name in options
    }
    lines = kind == "lines"
    mixture = build.call(records.open_sets, "config.data", chosen, spec=spec, labelled=lines)
    host = sharding.host_shard(mesh).of_data() if mesh is not None else {}
    common = {"mixture": mixture, "batch_size": cfg["batch_size"], **host}
    charset, once = None, None
    if kind == "crops":
        dataset = build.call(pipeline.pretrain, "config.data", options, seed=cfg["seed"], **common)
    elif lines:
        mixture, told = limits.learnable(
            mixture,
            height_px=options["height_px"],
            frame_px=(cfg["method"].get("encoder") or {}).get("patch", (32, 4))[1],
            squeeze_px=options.get("squeeze_px"),
            max_width_px=options.pop("max_width_px", None),
            buckets_px=options.get("buckets_px", "auto"),
        )
        for sentence in told:
            report(sentence)
        common["mixture"] = mixture
        charset = common["charset"] = charset_of(cfg, mixture)
        dataset = build.call(
            pipeline.recognition, "config.data", options, seed=cfg["seed"], **common
        )
        if not mixture.weighted:
            most = int(mixture.widths(options["height_px"]).max())
            once = functools.partial(pipeline.evaluation, max_width_px=most, **common, **options)
    else:
        raise ValueError(
            f"config.data.kind is {kind!r}: set it to 'crops' (pre-training) or 'lines' (recognition)"
        )
    steps = pipeline.steps_per_epoch(mixture, cfg["batch_size"], lines)
    return Data(mixture, dataset, charset, steps, once)


def charset_of(cfg: dict[str, Any], mixture: records.Mixture) -> Charset:
    """The characters of the training labels; or of config.init_from, where whole recognisers are
    taken over: their classes are its characters, and a training label with any other is a
    ValueError."""
    text = None
    if cfg.get("init_from") and "params" in cfg.get("init_parts", ()):
        text = checkpoint.read_meta(cfg["init_from"]).get("charset")
    if (
        text and cfg["total"].get("steps") == 0
    ):  # only evaluated: what it cannot write is counted there
        return Charset.from_json(text)
    ours, theirs = Charset.from_texts(mixture.texts()), Charset.from_json(text) if text else None
    if theirs and (missing := [char for char in ours.chars if char not in theirs.chars]):
        raise ValueError(
            f"the charset of config.init_from={cfg['init_from']} lacks {len(missing)} characters of the labels in "
            f"config.data.train ({' '.join(map(repr, missing[:10]))}{' ...' if missing[10:] else ''}): take its encoder only, "
            f"with config.init_parts=('params/encoder',), or train on lines without them"
        )
    return theirs or ours


def total_steps(total: dict[str, Any], steps_per_epoch: int) -> int:
    """config.total {"steps": n} or {"epochs": x}; steps wins where both are given (an override on
    the command line).
    """
    steps, epochs = total.get("steps"), total.get("epochs")
    if steps is None and epochs is None:
        raise ValueError(
            "config.total says neither steps nor epochs: set config.total.steps or config.total.epochs"
        )
    if not all(x is None or 0 <= x < math.inf for x in (steps, epochs)):
        raise ValueError(f"config.total is {total}: it cannot be negative (0 = evaluate only)")
    return int(steps) if steps is not None else math.ceil(epochs * steps_per_epoch)


# --- the state before the first step


def start_state(
    cfg: dict[str, Any],
    method: base.Method,
    data: Data,
    mesh: Any,
    total: int,
    checkpoints: checkpoint.Checkpoints,
) -> tuple[states.TrainState, optim.Optimizer, Callable[..., Any]]:
    """The restored state, or a new one after init_from and calibrate; the optimiser that fits it;
    the jitted step.

    Until the state is created nothing is compiled, so that what does not fit together is refused at
    once.
    """
    raw = sharding.to_global(data.dataset[0][0], mesh)
    key = lambda: prng.stream(cfg["seed"], "init")
    prepare = lambda batch: method.augment(prng.stream(cfg["seed"], "augment"), batch)
    shapes = jax.eval_shape(lambda batch: method.init(key(), prepare(batch))["params"], raw)
    given = {"params": shapes, "total_steps": total, "batch_size": cfg["batch_size"]}
    optimizer = build.call(optim.create, "config.optim", cfg["optim"], **given)

    def create(batch: base.Batch) -> states.TrainState:
        return states.create(method, optimizer.tx, prepare(batch), key())

    abstract = jax.eval_shape(create, raw)
    shardings = sharding.state_sharding(abstract, mesh, cfg.get("sharding", ()))
    placed = jax.tree.map(
        lambda s, h: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=h), abstract, shardings
    )
    step = jit_train_step(method, optimizer, total, cfg, mesh, abstract)
    if total and not data.features:
        jax.eval_shape(
            step, placed, raw
        )  # what the loss refuses; the first call uses this trace again
    state = checkpoints.restore(placed)
    resumed = state is not None
    if not resumed:
        loaded = load_parts(cfg, placed)  # before anything is compiled: it may not fit
        state = jax.jit(create, out_shardings=shardings)(raw)
        state = replace_parts(state, loaded, method)
    if data.features and total > 0:
        with pipeline.iterate(data.once(), 0, cfg["data"].get("workers", "auto")) as batches:
            data.features.fill(state.params, batches)
    if (
        not resumed
        and cfg.get("calibrate_batches")
        and type(method).calibrate is not base.Method.calibrate
    ):
        params = sharding.gather(state.params, shardings.params)
        mutable = method.calibrate(params, state.mutable, first_batches(cfg, data, mesh, params))
        state = state.replace(mutable=mutable)
    return jax.device_put(state, shardings), optimizer, step


def load_parts(cfg: dict[str, Any], placed: states.TrainState) -> dict[str, Any]:
    """{"params/encoder": tree} of config.init_parts ("params/encoder", "params", "mutable") from
    the last or best checkpoint of config.init_from. "teacher/encoder->params/encoder" takes a part
    over under another name."""
    if not cfg.get("init_from"):
        return {}
    workdir, parts = cfg["init_from"], cfg.get("init_parts", ("params/encoder",))
    step = checkpoint.choose_step(workdir, cfg.get("init_checkpoint", "last"))
    report(f"starting from step {step} of {workdir}: {', '.join(parts)}")
    loaded = {}
    for entry in parts:
        theirs, _, ours = entry.partition("->")
        first, *rest = (ours or theirs).split("/")
        abstract = getattr(placed, first, None)
        for name in rest:
            abstract = abstract.get(name) if abstract else None
        if abstract is None:
            raise ValueError(
                f"config.init_parts has {entry!r} but this run has no {ours or theirs!r}: name a part of it"
            )
        if jax.tree.leaves(abstract):  # else nothing to take over, such as an empty "mutable"
            loaded[ours or theirs] = checkpoint.load_subtree(workdir, theirs, abstract, step)
    return loaded


def replace_parts(
    state: states.TrainState, loaded: dict[str, Any], method: base.Method
) -> states.TrainState:
    """The state with these parts in place of its own; the teacher follows."""
    for path, tree in loaded.items():
        first, *rest = path.split("/")
        for depth in range(len(rest) - 1, -1, -1):
            parent = getattr(state, first)
            for name in rest[:depth]:
                parent = parent[name]
            tree = {**parent, rest[depth]: tree}
        state = state.replace(**{first: tree})
    teacher = method.init_teacher(state.params) if loaded else None
    return state if teacher is None else state.replace(teacher=jax.tree.map(jnp.copy, teacher))


def first_batches(cfg: dict[str, Any], data: Data, mesh: Any, params: base.Params) -> Any:
    """Up to config.calibrate_batches global training batches, one by one, at most one epoch of
    them. A whole epoch holds every line once: the lines that fill its last batch in training are
    left out."""
    count = min(cfg["calibrate_batches"], data.steps_per_epoch)
    dataset = data.once() if data.once and count == data.steps_per_epoch else data.dataset
    with pipeline.iterate(dataset, 0, cfg["data"].get("workers", "auto")) as batches:
        for _ in range(count):
            yield data.place(params, *next(batches), mesh)
