"""A toy method, its evaluator, records and config: for tests of the trainer, with the real
pipeline.
"""

import functools
import os
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dig_jax.data import writer
from dig_jax.methods.shared import base
from dig_jax.train.experiment import Experiment
from dig_jax.workdir import metrics


class Toy(base.Method):
    """Encoder (a matrix), head, teacher and mutable counter; noisy augmentation, so keys matter."""

    def __init__(self, *, width: int = 4, nan_at: int = -1, charset=None, encoder=None):
        self.width, self.nan_at, self.charset, self.encoder = width, nan_at, charset, encoder

    def init(self, key, batch):
        first, second = jax.random.split(key)
        params = {
            "encoder": {
                "kernel": jax.random.normal(first, (8, self.width)),
                "bias": jnp.zeros(self.width),
            },
            "head": {"kernel": jax.random.normal(second, (self.width, 8))},
        }
        return {"params": params, "mutable": {"seen": jnp.zeros(())}}

    def augment(self, key, batch):
        x = base.normalise(batch["image"]).mean(axis=(2, 3))
        return batch | {"x": x + 0.1 * jax.random.normal(key, x.shape)}

    def loss(self, params, state, batch, key, progress):
        features = jnp.tanh(
            batch["x"] @ params["encoder"]["kernel"] + params["encoder"]["bias"][None]
        )
        target = jnp.tanh(batch["x"] @ state.teacher["kernel"] + jax.random.normal(key, ()))
        loss = jnp.mean((features @ params["head"]["kernel"] - batch["x"]) ** 2) + jnp.mean(
            (features - target) ** 2
        )
        loss = jnp.where(state.step == self.nan_at, jnp.nan, loss)
        return loss, base.Aux({"features": features.mean()}, {"seen": state.mutable["seen"] + 1})

    def init_teacher(self, params):
        return params["encoder"]

    def update_teacher(self, teacher, params, progress):
        return jax.tree.map(
            lambda t, p: progress * t + (1 - progress) * p, teacher, params["encoder"]
        )

    def calibrate(self, params, mutable, batches):
        rows = sum(
            int(batch["valid"].sum()) for batch in batches
        )  # the batches may come one by one
        return {"seen": mutable["seen"] + 100.0 * rows}


class Evaluator:
    calls: list = []

    def __init__(self, *, method, mesh, workdir, data, offset: float = 0.0):
        self.offset = offset

    def run(self, state, step):
        Evaluator.calls.append((self.offset, step))
        return {f"eval/toy{self.offset:g}/cer": float((step - 4) ** 2) + self.offset}


def install(monkeypatch):
    """Method and evaluator "toy" can be named in a config."""
    monkeypatch.setitem(sys.modules, "dig_jax.methods.toy", types.SimpleNamespace(Method=Toy))
    monkeypatch.setitem(
        sys.modules, "dig_jax.evaluators.toy", types.SimpleNamespace(Evaluator=Evaluator)
    )
    Evaluator.calls = []


def wrap_step(monkeypatch, wrap):
    """The trainer's jitted step is wrap(step)."""
    build = Experiment.__dict__["step"].func
    wrapped = functools.cached_property(lambda self: wrap(build(self)))
    wrapped.__set_name__(Experiment, "step")
    monkeypatch.setattr(Experiment, "step", wrapped)


def write_lines(folder, count=20, broken=()):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        image = writer.encode_image(rng.integers(0, 256, (8, 24, 1), dtype=np.uint8), "png")
        rows.append(("train", image[:40] if i in broken else image, "ab"[: 1 + i % 2], f"line{i}"))
    writer.write(folder, iter(rows), shards=2)
    return str(folder)


def crops(spec, height_px=8, width_px=16):
    """config.data of random windows."""
    data = {"kind": "crops", "train": spec, "height_px": height_px, "width_px": width_px}
    return ConfigDict(data | {"channels": 1})


def whole_lines(spec, height_px=8):
    """config.data of whole labelled lines."""
    data = {"kind": "lines", "train": spec, "height_px": height_px, "channels": 1}
    return ConfigDict(data)


def make_config(spec, steps=6, **changes):
    config = ConfigDict({"seed": 0, "batch_size": 8, "method": {"name": "toy"}})
    config.data = crops(spec)
    config.optim = {"lr": 1e-2, "weight_decay": 0.1}
    config.total = {"steps": steps}
    config.log = {"every_steps": 1}
    config.checkpoint = {"every_steps": 0}
    config.evals = {}
    for key, value in changes.items():
        *folders, name = key.split(".")
        inside = config
        for folder in folders:
            if folder not in inside:
                inside[folder] = {}
            inside = inside[folder]
        inside[name] = value
    return config


def rows_of(workdir):
    return [row for row in metrics.read_jsonl(os.path.join(workdir, "metrics.jsonl"))]


def same(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in leaves)
