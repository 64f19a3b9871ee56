"""A tiny recogniser with random weights, as a run leaves it, and typeset lines to read."""

from __future__ import annotations

import functools
import json
import pathlib
import types

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from dig_jax.data import typeset, writer
from dig_jax.data.line_images import Preparation
from dig_jax.interop.model import Model
from dig_jax.methods import recognize
from dig_jax.text import Charset
from dig_jax.train.state import TrainState
from dig_jax.workdir import checkpoint

CHARSET = Charset(" abcdefghijklmnopqrstuvwxyz")
ENCODER = {"kind": "cnn", "channels": [8, 8, 8, 8, 8], "height_px": 32, "dtype": "float32"}
OPTIONS = {"name": "recognize", "encoder": ENCODER, "heads": {"ctc": {"kind": "linear"}}}
DATA = {"height_px": 32, "channels": 1, "contrast": "stretch", "workers": 0}
TEXTS = ["an", "a short line", "a line that is as long as lines of books are", "two lines"] * 2


@functools.cache
def method() -> recognize.Method:
    return recognize.Method(
        charset=CHARSET, encoder=ENCODER, heads=OPTIONS["heads"], standardize=True
    )


@functools.cache
def weights() -> dict:
    """Of no training: but what it reads differs from line to line."""
    batch = {"image": np.zeros((1, 32, 64, 1), np.float32), "width": np.full(1, 64, np.int32)}
    state = jax.jit(method().init)(jax.random.key(3), batch)
    mean, std = (
        state["mutable"]["scale"]["mean"],
        np.full_like(state["mutable"]["scale"]["std"], 0.05),
    )
    return {"params": state["params"], "mutable": {"scale": {"mean": mean, "std": std}}}


def model(**changes) -> Model:
    options = OPTIONS | {"standardize": True}
    preparation, origin = Preparation.of(DATA), {"run": "tiny", "step": 7}
    given = {"kind": "reader", "options": options, "preparation": preparation}
    given |= {"weights": weights(), "charset": CHARSET, "origin": origin}
    return Model(**given | changes)


def images() -> list[bytes]:
    """PNG files of TEXTS, of several heights."""
    font = str(pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSerif.ttf"))
    rng = np.random.default_rng(0)
    lines = [typeset.render(rng, rng, t, font, 24 + 4 * i, 1) for i, t in enumerate(TEXTS)]
    return [writer.encode_image(line, "png") for line in lines]


def records(folder) -> str:
    rows = zip(TEXTS, images(), strict=True)
    lines = [("validation", image, text, f"line {i}") for i, (text, image) in enumerate(rows)]
    writer.write(folder, iter(lines))
    return str(folder)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    paths = [folder / f"{i}.png" for i in range(len(TEXTS))]
    for path, image in zip(paths, images(), strict=True):
        path.write_bytes(image)
    return paths


def run(folder: pathlib.Path, spec: str) -> pathlib.Path:
    """A work folder with one checkpoint of the tiny recogniser, trained on `spec`."""
    cfg = {"method": OPTIONS | {"standardize": True}, "checkpoint": {"best_metric": None}}
    cfg["data"] = DATA | {"train": spec}
    state = TrainState(step=jnp.int32(7), teacher=None, opt_state={}, **weights())
    saved = checkpoint.Checkpoints(str(folder))
    saved.save(7, state, {}, {"config": cfg, "charset": CHARSET.to_json(), "layout": 2})
    saved.close()
    (folder / "config.json").write_text(json.dumps(cfg))
    return folder


def state():
    return types.SimpleNamespace(**weights())
