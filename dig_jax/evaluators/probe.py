"""A light frozen probe during pre-training: a linear CTC reader on a few hundred labelled lines.

    lines -> method.encode (once) -> frames standardised with the training lines' statistics
          -> one linear layer a learning rate, one after the other, by Adam with a cosine schedule,
             a few hundred steps
    probe/<dataset>/cer = CER of the best rate on the validation lines

It is for watching a run. The figure for a table comes from `configs/recognize/probe.py`, which
trains on all lines until nothing improves. Everything is a function of the parameters and `seed`:
same lines, same zero start, same order at every call, so two values of one run differ by the
encoder alone. Lines that CTC cannot learn (more characters + repeats than frames) are left out with
a log line that says how many, lines that cannot be decoded or have no text without one (training
names the former). Training records that lack labels are passed over, with a warning.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from dig_jax import hosts, sharding
from dig_jax.data import pipeline, records
from dig_jax.data.record_set import called
from dig_jax.evaluators import scoring
from dig_jax.models.decoders import ctc
from dig_jax.text import Charset, base_direction, normalize
from dig_jax.workdir.datasets import named_sets

STD_FLOOR = 1e-6
LONG_STEPS = 100  # over all rates: a probe that is longer says that it begins


class Lines(NamedTuple):
    """Lines as arrays: frames f32[n,S,F], length i32[n] real frames, label i32[n,L] (0 = blank),
    texts of n lines.
    """

    frames: np.ndarray
    length: np.ndarray
    label: np.ndarray
    texts: list[str]


class Evaluator:
    """sets: spec of labelled record sets (None: those of data["train"] that have labels). Of each
    part PATH, named by its folder, the splits "train" and "validation" are used. train_lines,
    eval_lines: how many of each, drawn with `seed`. steps, batch_size, rates: of the probe.
    encode_batch: lines a call of the encoder, over all devices.
    """

    def __init__(
        self,
        *,
        method,
        mesh,
        workdir,
        data: Mapping,
        sets: str | None = None,
        train_lines: int = 512,
        eval_lines: int = 256,
        steps: int = 300,
        batch_size: int = 32,
        rates: Sequence[float] = (3e-3, 1e-2, 3e-2),
        encode_batch: int = 64,
        seed: int = 0,
    ):
        del workdir
        for name, count in {"train_lines": train_lines, "eval_lines": eval_lines}.items():
            if count < 2:
                raise ValueError(f"{name} is {count}: set config.evals.probe.{name} to 2 or more")
        self.mesh, self.seed = mesh, seed
        self.steps, self.batch_size, self.rates = steps, batch_size, tuple(rates)
        self.encode = jax.jit(method.encode, out_shardings=sharding.everywhere(mesh))
        self.sets, self.told = {}, False
        for name, validation in named_sets(None, {"train": sets or data["train"]}).items():
            path = validation.rpartition("@")[0]
            train = f"{path}@train"
            if missing := unlabelled(path):
                if sets:
                    raise ValueError(
                        f"config.evals.probe.sets is {sets!r}, but {path} has {missing}: "
                        "leave it out of them"
                    )
                logging.warning(
                    "no light probe on %s: it has %s; to watch one, name labelled records as "
                    "probe=PATH, or say probe=none",
                    name,
                    missing,
                )
                continue
            texts = list(records.open_sets(train, labelled=True).texts())
            charset = Charset.from_texts(texts, base_direction(texts))
            splits = [
                read_lines(
                    spec, count, seed, charset, encode_batch + -encode_batch % mesh.size, data
                )
                for spec, count in ((train, train_lines), (validation, eval_lines))
            ]
            self.sets[name] = (charset, *splits)

    def run(self, state, step) -> dict[str, float]:
        steps, rates = self.steps, len(self.rates)
        if self.sets and not self.told and steps * rates > LONG_STEPS:
            hosts.report(
                f"step {step}: the light probe of {', '.join(self.sets)} begins, {steps} steps at "
                f"{rates} rates; that takes minutes on a CPU, and probe=none leaves it out"
            )
            self.told = True
        return {
            f"probe/{name}/cer": self.cer(state.params, *parts) for name, parts in self.sets.items()
        }

    def cer(self, params, charset: Charset, train, validation) -> float:
        """Lowest CER over the rates."""
        train, left_out = feasible(self.features(params, train))
        validation = self.features(params, validation)
        if left_out:
            logging.log_first_n(
                logging.INFO, "probe: left out %d lines with too few frames for CTC", 1, left_out
            )
        if not train.texts or not validation.texts:
            raise ValueError(
                "the light probe has nothing to learn or to read: "
                "set config.evals.probe.sets to labelled records"
            )
        mean, std = moments(train)
        train, validation = (
            lines._replace(frames=(lines.frames - mean) / std) for lines in (train, validation)
        )
        heads = fit(train, charset.size, self.rates, self.steps, self.batch_size, self.seed)
        best = np.asarray(read(heads, validation.frames))  # (rates, n, S)
        return min(error_rate(charset, ids, validation) for ids in best)

    def features(self, params, batches) -> Lines:
        """Encodes the cached batches; frames of all widths are padded to the widest."""
        frames, lengths, labels, texts = [], [], [], []
        for batch, keep, batch_texts in batches:
            encoded = self.encode(params, self.place(batch))
            frames.append(np.asarray(encoded["frames"], np.float32)[keep])
            lengths.append(np.asarray(encoded["frame_length"])[keep])
            labels.append(batch["label"][keep])
            texts += batch_texts
        return Lines(padded(frames), np.concatenate(lengths), padded(labels), texts)

    def place(self, batch):
        """The same host batch on every host -> a global batch of which every device encodes its
        rows.
        """
        rows = sharding.batch_sharding(self.mesh)
        return {
            name: jax.make_array_from_callback(
                array.shape, rows, lambda index, array=array: array[index]
            )
            for name, array in batch.items()
        }


def unlabelled(path: str) -> str:
    """What the records folder lacks for a probe, or "" where it lacks nothing."""
    splits = records.read_manifest(path)["splits"]
    for split in ("train", "validation"):
        if called(split, splits) not in splits:
            return f"no split {split!r}"
        if not (records.RecordSet(path, split).label_chars > 0).any():
            return f"no labelled line in the split {split!r}"
    return ""


def read_lines(
    spec: str, count: int, seed: int, charset: Charset, batch_size: int, data: Mapping
) -> list:
    """[(batch, numbers of the rows to keep i64[k], their k texts)] of `count` random lines, read
    whole by every host.
    """
    total = len(records.open_sets(spec, labelled=True))
    subset = count if count < total else None
    dataset = pipeline.evaluation(
        records.open_sets(spec, subset=subset, subset_seed=seed, labelled=True),
        batch_size=batch_size,
        charset=charset,
        **pipeline.options(data, pipeline.WHOLE),
    )
    lines = []
    with pipeline.iterate(dataset, 0, workers=0) as batches:
        for batch, host in batches:
            keep = [
                row
                for row, text in enumerate(host["text"])
                if batch["valid"][row] and text is not None
            ]
            lines.append(
                (batch, np.asarray(keep, np.int64), [normalize(host["text"][row]) for row in keep])
            )
    return lines


def padded(arrays: list[np.ndarray]) -> np.ndarray:
    """Arrays [n_i, s_i, ...] -> one [sum n_i, max s_i, ...], zeros behind the shorter ones."""
    widest = max(array.shape[1] for array in arrays)
    tail = [(0, 0)] * (arrays[0].ndim - 2)
    return np.concatenate(
        [np.pad(array, [(0, 0), (0, widest - array.shape[1]), *tail]) for array in arrays]
    )


def feasible(lines: Lines) -> tuple[Lines, int]:
    """The lines that CTC can learn, and how many were left out."""
    fits = lines.length >= ctc.frames_needed(lines.label, (lines.label > 0).sum(axis=1))
    texts = [text for text, fit in zip(lines.texts, fits) if fit]
    return Lines(lines.frames[fits], lines.length[fits], lines.label[fits], texts), int(
        (~fits).sum()
    )


def moments(lines: Lines) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation f32[F] over the real frames."""
    real = lines.frames[np.arange(lines.frames.shape[1])[None] < lines.length[:, None]]
    return real.mean(axis=0, dtype=np.float64).astype(np.float32), np.maximum(
        real.std(axis=0), STD_FLOOR
    )


def fit(lines: Lines, classes: int, rates: Sequence[float], steps: int, batch_size: int, seed: int):
    """Linear CTC layers {"kernel" f32[K,F,V], "bias" f32[K,V]}, one a rate, from zero by Adam. Same
    seed, same result. The lines must be feasible.
    """
    rng = np.random.default_rng(seed)
    count, batch_size = len(lines.texts), min(batch_size, len(lines.texts))
    whole = count // batch_size * batch_size  # of an epoch: what is over is another line each time
    epochs = [rng.permutation(count)[:whole] for _ in range(steps * batch_size // whole + 1)]
    order = np.concatenate(epochs).reshape(-1, batch_size)[:steps]
    return _fit(lines._replace(texts=None), order, np.asarray(rates, np.float32), classes)


@functools.partial(jax.jit, static_argnames="classes")
def _fit(lines: Lines, order, rates, classes: int):
    """Rates one after the other: only one holds logits f32[B,S,V] at a time, and V may be 5,000."""
    adam = optax.scale_by_adam()
    steps = order.shape[0]
    label_length = (lines.label > 0).sum(axis=1)

    def loss(head, rows):
        logits = _logits(head, lines.frames[rows])  # (B, S, V)
        losses, _ = ctc.ctc_loss(logits, lines.length[rows], lines.label[rows], label_length[rows])
        return losses.mean()

    def train(rate):
        def update(carry, step_rows):
            head, memory = carry
            step, rows = step_rows
            moves, memory = adam.update(jax.grad(loss)(head, rows), memory)
            scale = -0.5 * (1 + jnp.cos(jnp.pi * step / steps)) * rate
            moves = jax.tree.map(lambda move: move * scale, moves)
            return (optax.apply_updates(head, moves), memory), None

        head = {
            "kernel": jnp.zeros((lines.frames.shape[-1], classes)),
            "bias": jnp.zeros(classes),
        }
        (head, _), _ = jax.lax.scan(update, (head, adam.init(head)), (jnp.arange(steps), order))
        return head

    return jax.lax.map(train, rates)


def _logits(head, frames):
    """frames f32[..,F] -> f32[..,V], in float32 on every device."""
    products = jnp.matmul(frames, head["kernel"], precision=jax.lax.Precision.HIGHEST)
    return products + jnp.expand_dims(head["bias"], range(products.ndim - 1))


@jax.jit
def read(heads, frames):
    """Best class of every frame: i32[K,n,S]. One head and one line at a time hold logits."""
    best = lambda head: jax.lax.map(lambda line: jnp.argmax(_logits(head, line), axis=-1), frames)
    return jax.lax.map(best, heads)


def error_rate(charset: Charset, ids: np.ndarray, lines: Lines) -> float:
    """CER of the readings of ids i32[n,S] under the rule `raw`."""
    readings = [
        charset.decode(charset.ctc_collapse(row, int(n))) for row, n in zip(ids, lines.length)
    ]
    return scoring.score(zip(lines.texts, readings))["cer"]
