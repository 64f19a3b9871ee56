"""Experiment: the one place where a config becomes objects.

    config -> filled, inherited, checked -> mesh, data, method, optimiser -> state, step, evaluators

The trainer, `plan`, the benchmarks and `show_batch` build it, and read the config no further. It
needs no data on disk where it is given some (`data`). It needs no accelerator where it is told
which device it is meant for (`device`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dig_jax import config as build
from dig_jax import hosts, prng, sharding, trees
from dig_jax.data import buckets, limits, pipeline, records
from dig_jax.methods.shared import base
from dig_jax.models import decoders, encoders
from dig_jax.text import Charset, base_direction
from dig_jax.train import accumulate, defaults, optim
from dig_jax.train import state as states
from dig_jax.train.feature_cache import FeatureCache
from dig_jax.train.step import Bound, numbers_of, train_step
from dig_jax.workdir import checkpoint

Device = tuple[str, str | None]  # platform, and the compute capability of an NVIDIA card


@dataclasses.dataclass(frozen=True)
class Data:
    """dataset[i] = (batch, host) of step i; a batch has the shapes `raw`, over all hosts.

    charset: of the labels, None for crops. once: makes a dataset of one epoch in which every line
    comes exactly once; None where an epoch is no such thing. workers, max_bad_share: see
    `pipeline.iterate` and `ErrorBudget`. told: how many there are, for the user.
    """

    raw: Mapping[str, jax.ShapeDtypeStruct]
    charset: Charset | None = None
    mixture: Any = None
    dataset: Any = None
    steps_per_epoch: int = 0
    once: Callable[[], Any] | None = None
    workers: int | str = "auto"
    max_bad_share: float = 0.01
    features: FeatureCache | None = None  # of a frozen encoder
    told: str = ""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """(B, H, W, C) of the widest images."""
        read = self.dataset is not None
        return self.dataset.batch_shape if read else self.raw["image"].shape

    def place(
        self, params: base.Params, batch: dict[str, Any], host: dict[str, Any], mesh: Any
    ) -> base.Batch:
        """Host batch -> global arrays. A frozen encoder's features stand for the pixels."""
        batch = self.features(params, batch, host) if self.features else batch
        return sharding.to_global(batch, mesh)


@dataclasses.dataclass(frozen=True)
class Source:
    """What step 0 takes over from another run (config.init_from, init_parts, init_checkpoint), and
    how many batches the method looks at before it."""

    workdir: str
    parts: tuple[str, ...]
    which: str
    calibrate_batches: int

    @classmethod
    def of(cls, cfg: Mapping[str, Any]) -> Source:
        names = ("init_from", "init_parts", "init_checkpoint", "calibrate_batches")
        return cls(*(cfg[name] for name in names))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a config describes. `config` is complete: what config.json says.

    variables: raw batch -> {"params", "mutable"} before step 0, jitted, so it is traced once for
    all that ask for its shapes or values. total: steps. microbatches: of a step
    (config.accumulate). rules: config.sharding. log_every: steps. profile: which steps to trace.
    compile_cache: see `compile_cache.keep`.
    """

    config: dict[str, Any]
    mesh: Any
    data: Data
    method: base.Method
    variables: Callable[[base.Batch], dict[str, Any]]
    optimizer: optim.Optimizer
    total: int
    batch_size: int
    seed: int
    microbatches: int
    rules: sharding.Rules
    source: Source
    log_every: int
    profile: str
    compile_cache: str

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        data: Data | None = None,
        devices: Sequence[Any] | None = None,
        device: Device | None = None,
    ) -> Experiment:
        """The objects of a config. ValueError or FileNotFoundError, in one sentence, for mistakes.

        data: instead of config.data's, such as shapes alone. devices: of the mesh, by default all
        of the job. device: what "auto" in the encoder is resolved for, by default this machine's.
        """
        cfg = completed(config)
        mesh = sharding.make_mesh(cfg["mesh"], devices)
        sharding.check_batch_size(cfg["batch_size"], mesh, cfg["accumulate"])
        if data is None:
            build.check_records(cfg)
            data = open_data(cfg, mesh)
        rows = sharding.batch_sharding(mesh)  # as batches will lie, so that traces fit them
        place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
        data = dataclasses.replace(data, raw=jax.tree.map(place, data.raw))
        method = build.method(cfg["method"], data.charset, encoder_for(cfg, device))
        if cfg["method"].get("encoder") and hasattr(method.encoder, "final_norm"):
            # The method may decide it; config.json then describes the encoder that was trained.
            cfg["method"]["encoder"]["final_norm"] = method.encoder.final_norm
        accumulate.check(cfg["accumulate"], method)
        if method.frozen_features and data.once and jax.process_count() == 1:
            data = dataclasses.replace(data, features=FeatureCache(method, mesh))
        total = total_steps(cfg["total"], data.steps_per_epoch)
        variables = jax.jit(functools.partial(_variables, method, cfg["seed"]), inline=True)
        with jax.set_mesh(mesh):  # as everything that reads this trace again, see run.py
            shapes = jax.eval_shape(variables, data.raw)
        given = {"params": shapes["params"], "total_steps": total, "batch_size": cfg["batch_size"]}
        optimizer = build.call(optim.create, "config.optim", cfg["optim"], **given)
        if total:
            method.check_optimizer(optimizer.decays, optimizer.clip_norm)
            encoders.check_dropout(getattr(method, "encoder", None))
        return cls(
            config=cfg,
            mesh=mesh,
            data=data,
            method=method,
            variables=variables,
            optimizer=optimizer,
            total=total,
            batch_size=cfg["batch_size"],
            seed=cfg["seed"],
            microbatches=cfg["accumulate"],
            rules=trees.checked_rules(
                cfg["sharding"], "config.sharding", (list, tuple), "('fsdp?', None)"
            ),
            source=Source.of(cfg),
            log_every=cfg["log"]["every_steps"],
            profile=cfg["profile"],
            compile_cache=cfg["compile_cache"],
        )

    # state and step

    def augment(self, raw: base.Batch, step: int = 0) -> base.Batch:
        """What the loss of a step reads of a raw batch."""
        return self.method.augment(prng.stream(self.seed, "augment", step), raw)

    def create(self, raw: base.Batch) -> states.TrainState:
        """The state before step 0. Pure; `raw` gives the shapes."""
        return states.create(self.method, self.optimizer.tx, self.variables(raw))

    @functools.cached_property
    def abstract(self) -> states.TrainState:
        """Shapes of the state; nothing is computed."""
        with jax.set_mesh(self.mesh):
            return jax.eval_shape(self.create, self.data.raw)

    @functools.cached_property
    def shardings(self) -> states.TrainState:
        """How the state lies over the mesh."""
        return sharding.state_sharding(self.abstract, self.mesh, self.rules)

    @functools.cached_property
    def placed(self) -> states.TrainState:
        """Shapes of the state with their shardings."""
        place = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
        return jax.tree.map(place, self.abstract, self.shardings)

    @functools.cached_property
    def step(self) -> Callable[..., Any]:
        """(state, raw batch) -> (state, {name: f32[]}), jitted for the mesh; the state is donated.

        Shardings are stated: left to itself, XLA lays what a step writes out anew.
        """
        step = train_step(self.method, self.optimizer, self.microbatches, self.shardings)
        rows, everywhere = sharding.batch_sharding(self.mesh), sharding.everywhere(self.mesh)
        layouts = {"in_shardings": (everywhere, self.shardings, rows)}
        layouts["out_shardings"] = (self.shardings, everywhere)
        numbers = numbers_of(self.optimizer, self.seed)
        return Bound(jax.jit(step, donate_argnums=1, **layouts), numbers)

    # around the loop

    def evaluators(self, workdir: str) -> list[tuple[str, int, Any]]:
        """[(name, every_steps, evaluator)] of config.evals; every_steps 0 = only at the end."""
        given = {"method": self.method, "mesh": self.mesh, "workdir": workdir}
        # Crops have no multiple_px; lines that an evaluator reads have.
        columns = whole_columns(self.config, buckets.MULTIPLE_PX)
        given["data"] = {"multiple_px": columns, **self.config["data"]}
        return [
            build.evaluator(name, options, **given)
            for name, options in self.config["evals"].items()
        ]

    def checkpoints(self, workdir: str) -> checkpoint.Checkpoints:
        options = self.config["checkpoint"]
        return build.call(checkpoint.Checkpoints, "config.checkpoint", options, workdir=workdir)


def _variables(method: base.Method, seed: int, raw: base.Batch) -> dict[str, Any]:
    views = method.augment(prng.stream(seed, "augment"), raw)
    return method.init(prng.stream(seed, "init"), views)


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as config.json says it: defaults filled in, values inherited, sizes in numbers,
    whole paths. ValueError for a value that would be met too late, after minutes of compilation."""
    cfg = build.absolute(defaults.filled(config), records.cut)
    build.inherit(cfg)
    if encoder := cfg["method"].get("encoder"):
        cfg["method"]["encoder"] = encoders.sized(encoder)
    build.check(cfg)
    if "multiple_px" in cfg["data"]:
        cfg["data"]["multiple_px"] = whole_columns(cfg, cfg["data"]["multiple_px"])
    return cfg


def whole_columns(cfg: Mapping[str, Any], px: int) -> int:
    """What widths of batches are multiples of: `encoders.whole_columns`, or px as it is."""
    encoder = cfg["method"].get("encoder")
    return encoders.whole_columns(encoder, px) if encoder else px


def encoder_for(cfg: Mapping[str, Any], device: Device | None) -> dict[str, Any] | None:
    """The options of the encoder, every "auto" resolved for a device. ValueError for a kernel that
    it lacks, if this config states it: one of the run that it starts from is left to "auto"."""
    encoder = cfg["method"].get("encoder")
    if not encoder:
        return None
    platform, version = device or encoders.here()
    if "method.encoder" in cfg["inherit"]:
        encoder = encoders.readable(encoder, platform)
    encoders.check_kernel(encoder, platform)
    return encoders.resolve(encoder, platform, version)


# ---- data


UNREAD_PX = 128  # width of a line of which only the shape counts
SETS = ("spec", "labelled")  # arguments of open_sets that follow from the kind of data


def open_data(cfg: Mapping[str, Any], mesh: Any) -> Data:
    """The training data of a complete config, as this host reads them."""
    if only_evaluates(cfg):
        return unread_data(cfg)
    options = dict(cfg["data"])
    kind, spec = options.pop("kind"), options.pop("train")
    reading = {name: options.pop(name) for name in defaults.READING}
    lines = kind == "lines"
    subset = {name: options.pop(name) for name in defaults.options(records.open_sets, *SETS)}
    mixture = build.call(records.open_sets, "config.data", subset, spec=spec, labelled=lines)
    if lines:
        mixture = learnable(cfg, mixture, options.pop("max_width_px"))
    shard = sharding.host_shard(mesh)
    common = {"mixture": mixture, "batch_size": cfg["batch_size"], **shard.of_data()}
    charset, once = None, None
    if lines:
        charset = common["charset"] = charset_of(cfg, mixture)
        if not mixture.weighted:
            most = int(mixture.widths(options["height_px"]).max())
            once = functools.partial(pipeline.evaluation, max_width_px=most, **common, **options)
    make = defaults.DATA[kind]
    dataset = build.call(make, "config.data", options, seed=cfg["seed"], **common)
    steps = pipeline.steps_per_epoch(mixture, cfg["batch_size"], lines)
    of = lambda rows: jax.ShapeDtypeStruct((len(rows) * shard.count, *rows.shape[1:]), rows.dtype)
    raw = {name: of(rows) for name, rows in dataset[0][0].items()}
    told = f"training data: {len(mixture):,} records"
    if lines:
        names = ("height_px", "buckets_px", "multiple_px", "squeeze_px")
        told = in_words(pipeline.summary(mixture, **{name: options[name] for name in names}))
    return Data(raw, charset, mixture, dataset, steps, once, told=told, **reading)


def learnable(
    cfg: Mapping[str, Any], mixture: records.Mixture, max_width_px: int | None
) -> records.Mixture:
    """The lines that this reader can learn; those that are left out are counted on the terminal."""
    encoder = cfg["method"].get("encoder")
    mixture, told = limits.learnable(
        mixture,
        frame_px=encoders.column_px(encoder) if encoder else None,
        ctc=decoders.reads_by_ctc(cfg["method"].get("heads") or {}),
        max_width_px=max_width_px,
        **{name: cfg["data"][name] for name in ("height_px", "squeeze_px", "buckets_px")},
    )
    for sentence in told:
        hosts.report(sentence)
    return mixture


def in_words(summary: Mapping[str, Any]) -> str:
    """`pipeline.summary` in one phrase."""
    widths, unlabelled = list(summary["buckets"]), summary["unlabelled"]
    left_out = f" ({unlabelled:,} without a label are left out)" if unlabelled else ""
    to = f"{widths[0]} to {widths[-1]}" if len(widths) > 1 else f"{widths[0]}"
    return (
        f"training data: {summary['records']:,} lines{left_out} in batches {to} px wide, "
        f"{100 * summary['padding']:.0f} % padding"
    )


def only_evaluates(cfg: Mapping[str, Any]) -> bool:
    """Whether a whole recogniser is taken over and not trained."""
    return (
        cfg["data"]["kind"] == "lines" and cfg["total"]["steps"] == 0 and bool(taken_charset(cfg))
    )


def unread_data(cfg: Mapping[str, Any]) -> Data:
    """Data of a run without a step: shapes, and the characters of the recogniser. No training
    record is opened, so they may be gone."""
    data, rows, of = cfg["data"], cfg["batch_size"], jax.ShapeDtypeStruct
    width_px = data["squeeze_px"] or whole_columns(cfg, UNREAD_PX)
    raw = {
        "image": of((rows, data["height_px"], width_px, data["channels"]), np.uint8),
        "width": of((rows,), np.int32),
        "valid": of((rows,), np.bool_),
        "label": of((rows, 1), np.int32),
        "label_length": of((rows,), np.int32),
    }
    return Data(raw, Charset.from_json(taken_charset(cfg)))


def taken_charset(cfg: Mapping[str, Any]) -> str | None:
    """The characters of config.init_from, JSON, where its whole recogniser is taken over."""
    if cfg["init_from"] and "params" in cfg["init_parts"]:
        return checkpoint.read_meta(cfg["init_from"])["charset"]
    return None


def charset_of(cfg: Mapping[str, Any], mixture: records.Mixture) -> Charset:
    """The characters of the training labels. Of config.init_from where a whole recogniser is taken
    over: its classes, and behind them those that the labels need more."""
    if text := taken_charset(cfg):
        theirs = Charset.from_json(text)
        charset = theirs.extended(mixture.texts())
        if new := charset.chars[len(theirs.chars) :]:
            shown = " ".join(map(repr, new[:10])) + (" ..." if new[10:] else "")
            hosts.report(
                f"{len(new)} characters of config.data.train are new to {cfg['init_from']} "
                f"({shown}). Its {theirs.size} classes are kept, and {len(new)} new ones are "
                "trained from the start"
            )
    else:
        theirs = None
        charset = Charset.from_texts(mixture.texts(), base_direction(mixture.texts()))
    if charset.base and not (theirs and theirs.base):
        side = {"R": "right", "L": "left"}[charset.base]
        hosts.report(
            "the labels have right-to-left letters: they are learnt in the order of the picture, "
            "and readings are turned back. A line that could begin at either side begins at the "
            f"{side}"
        )
    return charset


def total_steps(total: Mapping[str, Any], steps_per_epoch: int) -> int:
    """config.total {"steps": n} or {"epochs": x}, of which one is None."""
    steps, epochs = total["steps"], total["epochs"]
    if (steps is None) == (epochs is None):
        what = "neither steps nor epochs" if steps is None else f"steps={steps} and epochs={epochs}"
        raise ValueError(
            f"config.total says {what}: set config.total.steps or config.total.epochs, and leave "
            "the other None"
        )
    if not all(x is None or 0 <= x < math.inf for x in (steps, epochs)):
        raise ValueError(f"config.total is {total}: it cannot be negative (0 = evaluate only)")
    return int(steps) if steps is not None else math.ceil(epochs * steps_per_epoch)
