"""run(config, workdir): the one trainer. It knows the contract of a method, and no method.

    open data -> build method -> eval_shape(create) -> shardings -> jit(create) -> init_from -> calibrate -> restore
    -> loop: batch -> to_global -> donated step -> log, evaluate, save

Running the same command again in the same workdir resumes bit for bit: the state is on disk, the data follow from its
step. SIGTERM saves and ends with exit code 143, so a scheduler that requeues the job loses nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dig_jax import build, checkpoint, metrics, optim, partition, prng
from dig_jax import state as states
from dig_jax.data import pipeline, records
from dig_jax.feature_cache import FeatureCache
from dig_jax.methods import base
from dig_jax.progress import Log, Stopped, report
from dig_jax.text import Charset


@dataclasses.dataclass(frozen=True)
class Data:
    """dataset[i] = (batch, host) of step i. charset: of the labels, None for crops. once: makes a dataset of one epoch in
    which every line comes exactly once; None where an epoch is no such thing."""

    mixture: Any
    dataset: Any
    charset: Charset | None
    steps_per_epoch: int
    once: Callable[[], Any] | None = None
    features: FeatureCache | None = None  # of a frozen encoder

    def place(self, params: base.Params, batch: dict[str, Any], host: dict[str, Any], mesh: Any) -> base.Batch:
        """Host batch -> global arrays, with the features of a frozen encoder in place of the pixels."""
        return partition.to_global(self.features(params, batch, host) if self.features else batch, mesh)


def run(config: Any, workdir: str) -> states.TrainState:
    """Train as the ml_collections config says, in `workdir`; returns the last state.

    Raises ValueError or FileNotFoundError (one sentence) for what the user can mend, Stopped when training cannot go
    on, SystemExit(143) after SIGTERM.
    """
    config.lock()
    cfg = build.absolute(config.to_dict())
    if cfg.get("compile_cache"):
        jax.config.update("jax_compilation_cache_dir", cfg["compile_cache"])
    mesh = partition.make_mesh(cfg.get("devices"))
    partition.check_batch_size(cfg["batch_size"], mesh)
    build.inherit(cfg)
    data = open_data(cfg)
    total = total_steps(cfg["total"], data.steps_per_epoch)
    method = build.method(cfg, data.charset)
    if method.frozen_features and data.once and jax.process_count() == 1:
        data = dataclasses.replace(data, features=FeatureCache(method, mesh))
    meta = {"config": json.loads(json.dumps(cfg)), "charset": data.charset.to_json() if data.charset else None}
    with contextlib.ExitStack() as stack:
        checkpoints = build.call(
            checkpoint.Checkpoints, "config.checkpoint", cfg.get("checkpoint", {}), workdir=workdir
        )
        stack.callback(checkpoints.close)
        if checkpoints.latest_step() is not None:
            build.check_same(checkpoint.read_meta(workdir), meta, workdir)
        build.describe_run(workdir, meta)
        state, optimizer = start_state(cfg, method, data, mesh, total, checkpoints)
        start = int(state.step)
        report(
            f"{data.steps_per_epoch} steps an epoch, {total} steps in all, starting at {start}\n{optimizer.describe()}"
        )
        if start >= total > 0:
            report(f"{workdir} has finished its {total} steps already: raise config.total to train on")
            return state
        writer = metrics.Writer(workdir, resume_step=start, active=partition.is_lead())
        stack.callback(writer.close)
        evals = [
            build.evaluator(name, options, method, mesh, workdir, cfg) for name, options in cfg.get("evals", {}).items()
        ]
        loop = Loop(cfg, method, optimizer, data, mesh, total, checkpoints, writer, evals, meta)
        return loop.run(state)


def open_data(cfg: dict[str, Any]) -> Data:
    """The training data of config.data: kind "crops" (pixels only) or "lines" (pixels and labels)."""
    options = dict(cfg["data"])
    kind, spec = options.pop("kind"), options.pop("train")
    for name in ("workers", "max_bad_share"):
        options.pop(name, None)
    chosen = {name: options.pop(name) for name in ("subset", "subset_seed", "subset_order") if name in options}
    mixture = build.call(records.open_sets, "config.data", chosen, spec=spec)
    host = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    common = {"mixture": mixture, "batch_size": cfg["batch_size"], **host}
    charset, once = None, None
    if kind == "crops":
        dataset = build.call(pipeline.pretrain, "config.data", options, seed=cfg["seed"], **common)
    elif kind == "lines":
        charset = common["charset"] = source_charset(cfg) or Charset.from_texts(mixture.texts())
        dataset = build.call(pipeline.recognition, "config.data", options, seed=cfg["seed"], **common)
        if not mixture.weighted:
            once = functools.partial(pipeline.evaluation, **common, **options)
    else:
        raise ValueError(f"config.data.kind is {kind!r}: set it to 'crops' (pre-training) or 'lines' (recognition)")
    steps = pipeline.steps_per_epoch(mixture, cfg["batch_size"], kind == "lines")
    return Data(mixture, dataset, charset, steps, once)


def source_charset(cfg: dict[str, Any]) -> Charset | None:
    """The charset of config.init_from where whole recognisers are taken over: their classes are its characters."""
    if not cfg.get("init_from") or "params" not in cfg.get("init_parts", ()):
        return None
    text = checkpoint.read_meta(cfg["init_from"]).get("charset")
    return Charset.from_json(text) if text else None


def total_steps(total: dict[str, Any], steps_per_epoch: int) -> int:
    """config.total {"steps": n} or {"epochs": x}; steps wins where both are given (an override on the command line)."""
    steps, epochs = total.get("steps"), total.get("epochs")
    if steps is None and epochs is None:
        raise ValueError("config.total says neither steps nor epochs: set config.total.steps or config.total.epochs")
    if min(x for x in (steps, epochs) if x is not None) < 0:
        raise ValueError(f"config.total is {total}: it cannot be negative (0 = evaluate only)")
    return int(steps) if steps is not None else math.ceil(epochs * steps_per_epoch)


# --- the state before the first step


def start_state(
    cfg: dict[str, Any], method: base.Method, data: Data, mesh: Any, total: int, checkpoints: checkpoint.Checkpoints
) -> tuple[states.TrainState, optim.Optimizer]:
    """The restored state, or a new one after init_from and calibrate; and the optimiser that fits it."""
    raw = partition.to_global(data.dataset[0][0], mesh)
    key = prng.stream(cfg["seed"], "init")
    prepare = lambda batch: method.augment(prng.stream(cfg["seed"], "augment"), batch)  # noqa: E731
    shapes = jax.eval_shape(lambda batch: method.init(key, prepare(batch))["params"], raw)
    given = {"params": shapes, "total_steps": total, "batch_size": cfg["batch_size"]}
    optimizer = build.call(optim.create, "config.optim", cfg["optim"], **given)

    def create(batch: base.Batch) -> states.TrainState:
        return states.create(method, optimizer.tx, prepare(batch), key)

    abstract = jax.eval_shape(create, raw)
    shardings = partition.state_sharding(abstract, mesh)
    placed = jax.tree.map(lambda s, h: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=h), abstract, shardings)
    state = checkpoints.restore(placed)
    resumed = state is not None
    if not resumed:
        state = jax.jit(create, out_shardings=shardings)(raw)
        if cfg.get("init_from"):
            parts, which = cfg.get("init_parts", ("params/encoder",)), cfg.get("init_checkpoint", "last")
            state = init_from(state, placed, method, cfg["init_from"], parts, which)
    if data.features and total > 0:
        with pipeline.iterate(data.once(), 0, cfg["data"].get("workers", "auto")) as batches:
            data.features.fill(state.params, batches)
    if not resumed and cfg.get("calibrate_batches") and type(method).calibrate is not base.Method.calibrate:
        mutable = method.calibrate(state.params, state.mutable, first_batches(cfg, data, mesh, state.params))
        state = state.replace(mutable=jax.device_put(mutable, shardings.mutable))
    return state, optimizer


def init_from(
    state: states.TrainState, placed: states.TrainState, method: base.Method, workdir: str, parts: Any, which: str
) -> states.TrainState:
    """Replace the named parts ("params/encoder", "params", "mutable") by those of another run's last or best checkpoint;
    the teacher follows. "teacher/encoder->params/encoder" takes a part over under another name."""
    step = checkpoint.choose_step(workdir, which)
    report(f"starting from step {step} of {workdir}: {', '.join(parts)}")
    for entry in parts:
        theirs, _, ours = entry.partition("->")
        first, *rest = (ours or theirs).split("/")
        abstract, new = getattr(placed, first, None), getattr(state, first, None)
        for name in rest:
            abstract = abstract.get(name) if abstract else None
        if abstract is None:
            raise ValueError(f"config.init_parts has {entry!r} but this run has no {ours or theirs!r}: name a part of it")
        if not jax.tree.leaves(abstract):
            continue  # nothing to take over, such as an empty "mutable"
        loaded = checkpoint.load_subtree(workdir, theirs, abstract, step)
        for depth in range(len(rest) - 1, -1, -1):
            parent = new
            for name in rest[:depth]:
                parent = parent[name]
            loaded = {**parent, rest[depth]: loaded}
        state = state.replace(**{first: loaded})
    teacher = method.init_teacher(state.params)
    return state if teacher is None else state.replace(teacher=jax.tree.map(jnp.copy, teacher))


def first_batches(cfg: dict[str, Any], data: Data, mesh: Any, params: base.Params) -> Any:
    """Up to config.calibrate_batches global training batches, one by one, at most one epoch of them. A whole epoch holds
    every line once: the lines that fill its last batch in training are left out."""
    count = min(cfg["calibrate_batches"], data.steps_per_epoch)
    dataset = data.once() if data.once and count == data.steps_per_epoch else data.dataset
    with pipeline.iterate(dataset, 0, cfg["data"].get("workers", "auto")) as batches:
        for _ in range(count):
            yield data.place(params, *next(batches), mesh)


# --- one step


def make_train_step(method: base.Method, optimizer: optim.Optimizer, total: int, seed: int) -> Callable[..., Any]:
    """(state, raw batch) -> (state, {name: f32[]}), to be jitted. A step whose loss or gradient is not finite returns
    the state as it was, and "finite" False."""

    def step(state: states.TrainState, batch: base.Batch) -> tuple[states.TrainState, dict[str, jax.Array]]:
        progress = state.step / max(total, 1)
        teacher = method.update_teacher(state.teacher, state.params, progress)
        views = method.augment(prng.stream(seed, "augment", state.step), batch)
        key = prng.stream(seed, "loss", state.step)

        def loss_of(params: base.Params) -> tuple[jax.Array, base.Aux]:
            return method.loss(params, state.replace(teacher=teacher), views, key)

        (loss, aux), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        # Constants for what is frozen: XLA then drops that part of the backward pass, and clipping does not see it.
        grads = jax.tree.map(lambda g, train: g if train else jnp.zeros_like(g), grads, optimizer.trainable)
        norm = optax.global_norm(grads)
        updates, opt_state = optimizer.tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u, train: p + u if train else p, state.params, updates, optimizer.trainable)
        new = states.TrainState(state.step + 1, params, teacher, opt_state, aux.mutable)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        new = jax.tree.map(lambda n, old: jnp.where(finite, n, old), new, state)
        figures = {"loss": loss, "grad_norm": norm, "lr": optimizer.schedule(state.step), "finite": finite}
        return new, {**aux.metrics, **method.schedules(progress), **figures}

    return step


# --- the loop

HEADLINES = ("/cer", "/word_accuracy", "/std", "/effective_rank")  # of the evaluations, for the terminal; all are logged


class Loop:
    """Steps from state.step to total, with its logging, evaluations and saves."""

    def __init__(self, cfg, method, optimizer, data, mesh, total, checkpoints, writer, evals, meta):
        self.cfg, self.data, self.mesh, self.total = cfg, data, mesh, total
        self.checkpoints, self.writer, self.evals, self.meta = checkpoints, writer, evals, meta
        step = make_train_step(method, optimizer, total, cfg["seed"])
        self.step = jax.jit(step, donate_argnums=0)
        self.budget = pipeline.ErrorBudget(cfg["data"].get("max_bad_share", 0.01), mixture=data.mixture)
        self.terminated = False

    def run(self, state: states.TrainState) -> states.TrainState:
        start = int(state.step)
        if start >= self.total:  # evaluate only
            self.evaluate(state, start)
            return state
        log = Log(
            start=start,
            total=self.total,
            batch_size=self.cfg["batch_size"],
            every_steps=self.cfg.get("log", {}).get("every_steps", 50),
            mixture=self.data.mixture,
            writer=self.writer,
            checkpoints=self.checkpoints,
        )
        with (
            self._sigterm(),
            pipeline.iterate(self.data.dataset, start, self.cfg["data"].get("workers", "auto")) as batches,
        ):
            for done in range(start + 1, self.total + 1):
                batch, host = next(batches)
                self._count_errors(host)
                state, values = self.step(state, self.data.place(state.params, batch, host, self.mesh))
                log.add(done, values, host)
                last = done == self.total
                stop = not last and partition.stop_requested(done, self.terminated)
                if self._must_pause(done) or stop:
                    log.flush()  # everything up to here is finite and written, before anything is kept
                    self._evaluate_and_save(state, done, force=last or stop)
                    log.resume()
                if stop:
                    self.checkpoints.wait()
                    report(f"asked to stop: saved step {done}; run the same command again to go on")
                    raise SystemExit(143)
        self.checkpoints.wait()
        return state

    def _must_pause(self, done: int) -> bool:
        evaluate = any(every and done % every == 0 for _, every, _ in self.evals)
        return done == self.total or evaluate or self.checkpoints.due(done, {})

    def _evaluate_and_save(self, state: states.TrainState, done: int, force: bool) -> None:
        results = self.evaluate(state, done)
        best = self.cfg.get("checkpoint", {}).get("best_metric")
        if best and self.evals and done == self.total and best not in results:
            report(f"config.checkpoint.best_metric is {best!r}, which no evaluation gives, so no best step is kept")
        if force or self.checkpoints.due(done, results):
            self.checkpoints.save(done, state, results, self.meta)

    def evaluate(self, state: states.TrainState, done: int) -> dict[str, float]:
        """Run what is due at this step (everything at the end), write and return its metrics."""
        results: dict[str, float] = {}
        for _, every, evaluator in self.evals:
            if done == self.total or (every and done % every == 0):
                results.update(evaluator.run(state, done))
        self.writer.write(done, results)
        shown = {name: value for name, value in results.items() if name.endswith(HEADLINES)}
        if shown:
            report(f"step {done}: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items()))
        return results

    def _count_errors(self, host: dict[str, Any]) -> None:
        try:
            self.budget.add(host)
        except pipeline.TooManyBadRecords as error:
            raise Stopped(str(error)) from error

    @contextlib.contextmanager
    def _sigterm(self):
        """SIGTERM sets a flag that the loop reads between steps (only the main thread may set handlers)."""
        if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
            yield
            return

        def note(*_: Any) -> None:
            self.terminated = True

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
