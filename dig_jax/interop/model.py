"""A trained network and what belongs to it: weights, options, characters, preparation of images.

of_run(workdir)      from the checkpoints of a run; needs Orbax
of_export(folder)    from an export (`interop/export.py`); what it needs, its format says
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import jax
import numpy as np

from dig_jax import config, trees
from dig_jax.data import buckets
from dig_jax.data.line_images import LineImage, Preparation
from dig_jax.data.sizes import BadRecord
from dig_jax.methods.shared import base
from dig_jax.models import decoders, encoders
from dig_jax.models.decoders.beam import NGram
from dig_jax.text import Charset
from dig_jax.workdir import bucket
from dig_jax.workdir.checkpoint import BUNDLED, how_to_import

LAYOUT = 1  # of an export folder
NGRAM = "ngram.npz"  # `NGram.arrays` of an export that brings one along
# How weights are stored: modules of `interop` with write(folder, tree), read(folder, shapes).
WEIGHTS = ("safetensors", "orbax")
COLUMNS = 32  # of a line of which only the shape counts


@dataclasses.dataclass(frozen=True)
class Model:
    """kind: "reader", or "encoder" alone. options: of config.method, of an encoder only "encoder".

    weights: {"params": tree, "mutable": tree}. charset: of a reader. origin: where the weights come
    from, JSON. program: of an export to onnx, batch -> what `function` gives, in place of weights.
    search: options of `decoders.search.Search` that a reader brings along, its n-gram as "lm".
    """

    kind: str
    options: Mapping[str, Any]
    preparation: Preparation
    weights: Mapping[str, Any]
    charset: Charset | None
    origin: Mapping[str, Any]
    program: Callable[[base.Batch], dict[str, np.ndarray]] | None = None
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def head(self) -> str:
        """The name of the reader's only head."""
        return next(iter(self.options["heads"]))

    @property
    def by_ctc(self) -> bool:
        """Whether it is a reader, and reads by CTC."""
        return self.kind == "reader" and decoders.reads_by_ctc(self.options["heads"])

    @functools.cached_property
    def widest_px(self) -> int | None:
        """The width that squeezed lines have, or where the positions of the encoder end; None: no
        line is too wide."""
        return self.preparation.squeeze_px or encoders.widest_px(self.encoder())

    @property
    def multiple_px(self) -> int:
        """What widths of batches are multiples of: whole columns of the encoder, as in training.
        The widest is one, and the only one of squeezed lines."""
        if self.preparation.squeeze_px:
            return self.preparation.squeeze_px
        return encoders.whole_columns(self.options["encoder"], buckets.MULTIPLE_PX)

    def prepared(self, image: Any, seconds: MutableMapping[str, float] | None = None) -> LineImage:
        """`preparation` of an image. BadRecord, too, for a line wider than the encoder takes."""
        line = self.preparation(image, seconds)
        wide, most = line.pixels.shape[1], self.widest_px
        if most and wide > most:
            raise BadRecord(
                f"the line is {wide} px wide at height {self.preparation.height_px}, and the "
                f"positions of this encoder end at {most} px: cut it into shorter ones, or import "
                "the weights with a wider --for_px"
            )
        return line

    def method(self) -> base.Method:
        """The recogniser."""
        return config.method(self.options, self.charset, self.options["encoder"])

    def encoder(self) -> Any:
        return encoders.create(self.options["encoder"])

    def encode(self) -> Callable[[Any, base.Batch], dict[str, jax.Array]]:
        """(weights, raw batch) -> tokens, frames, frame_length of the encoder."""
        encoder = self.encoder()
        return lambda weights, batch: base.encode_lines(
            encoder, weights["params"]["encoder"], batch
        )

    def ask(self, of: Callable[..., Any]) -> Callable[[Any, base.Batch], dict[str, jax.Array]]:
        """(weights, raw batch) -> what the head answers to a function of the recogniser, (params,
        mutable, batch) -> {head: arrays}."""
        head = self.head
        return lambda weights, batch: of(weights["params"], weights["mutable"], batch)[head]

    def logits(self) -> Callable[[Any, base.Batch], dict[str, jax.Array]]:
        """(weights, raw batch) -> "logits" f32[B,S,V] and "length" i32[B] of a reader by CTC."""
        method: Any = self.method()  # of recognisers alone
        return self.ask(method.logits)

    def function(self) -> Callable[[Any, base.Batch], dict[str, jax.Array]]:
        """`Method.predict` of a reader, `encode` of an encoder."""
        return self.ask(self.method().predict) if self.kind == "reader" else self.encode()

    def alone(self) -> Model:
        """The encoder of a reader. ValueError for a program, which cannot be taken apart."""
        if self.program is not None:
            raise ValueError(
                "an export of a reader to onnx is a program, and its encoder cannot be taken out: "
                "load an export to safetensors or the run"
            )
        weights = {"params": {"encoder": self.weights["params"]["encoder"]}, "mutable": {}}
        options = {"encoder": self.options["encoder"]}
        return Model("encoder", options, self.preparation, weights, None, self.origin)


def open_model(
    source: Any, kind: str | None, checkpoint: str = "best", head: str | None = None
) -> Model:
    """The reader or the encoder of a work folder, an export or bundled weights, by their name.

    kind None: a reader where there is one.
    checkpoint: "best" (by the run's own best_metric; the last without one) or "last"; an export has
    one step. head: of a sweep; None: the one that validation chooses. FileNotFoundError or
    ValueError in one sentence.
    """
    if checkpoint not in ("best", "last"):
        raise ValueError(f"checkpoint is {checkpoint!r}: choose 'best' or 'last'")
    folder = located(source)
    described = _described(folder)
    if described is not None and "export" in described:
        if checkpoint == "last":
            raise ValueError(
                f"checkpoint is 'last', and {source} is an export, which holds one step: leave "
                "checkpoint out, or name the run"
            )
        model = of_export(folder, described)
    else:
        model = of_run(folder, kind, checkpoint, head)
    if kind == "reader" and model.kind != "reader":
        raise ValueError(
            f"{source} holds an encoder and no reader: train one on it, as in --config=finetune "
            f"--config.init_from={source}{how_to_import(str(source))}"
        )
    heads = [] if kind == "encoder" else sorted(model.options.get("heads", ()))
    if head is not None and head not in heads:
        has = f"it has {', '.join(heads)}" if heads else "it is read as an encoder, so leave it out"
        raise ValueError(f"{source} has no head {head!r}: {has}")
    return model.alone() if kind == "encoder" and model.kind == "reader" else model


def bundled() -> list[str]:
    """The names of the weights that ship with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def located(source: Any) -> pathlib.Path:
    """The folder of a source: the one of that path, or that of bundled weights."""
    folder = bucket.path(str(source)).expanduser()
    if folder.is_dir():
        return folder
    names = bundled()
    if str(source) in names:
        return BUNDLED / str(source)
    raise FileNotFoundError(
        f"there is no folder {source}: name the work folder of a run, an export, or bundled "
        f"weights ({', '.join(names) or 'this version has none'})"
    )


def _described(folder: pathlib.Path) -> dict[str, Any] | None:
    """config.json of a folder; None where there is none."""
    file = folder / "config.json"
    if not file.exists():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}): name another folder") from error


def shapes(options: Mapping[str, Any], charset: Charset | None, preparation: Preparation) -> Any:
    """{"params", "mutable"} as shapes, of a reader or (without a charset) an encoder."""
    encoder = encoders.create(options["encoder"])
    wide = COLUMNS * encoder.patch[1]
    wide = preparation.squeeze_px or min(wide, encoders.widest_px(encoder) or wide)
    image = (1, preparation.height_px, wide, preparation.channels)
    batch = {"image": np.zeros(image, np.float32), "width": np.full(1, image[2], np.int32)}
    if charset is None:
        init = lambda key, batch: encoder.init(key, batch["image"], batch["width"])["params"]
        return {"params": {"encoder": jax.eval_shape(init, jax.random.key(0), batch)}}
    method = config.method(options, charset, options["encoder"])
    state = jax.eval_shape(method.init, jax.random.key(0), batch)
    return {name: state[name] for name in ("params", "mutable")}


# ---- a run


def of_run(
    folder: pathlib.Path, kind: str | None, which: str = "best", head: str | None = None
) -> Model:
    """From the checkpoints of a work folder. kind "encoder": of any run, read alone."""
    from dig_jax.workdir import checkpoint  # needs Orbax

    step = checkpoint.choose_step(str(folder), which)
    meta = checkpoint.read_meta(str(folder), step)
    cfg = meta["config"]
    method = dict(cfg["method"])
    if not method.get("encoder"):
        raise ValueError(f"{folder} is a run without an encoder, so there is nothing to load")
    kind = kind or ("reader" if method["name"] == "recognize" else "encoder")
    # A method may drop the encoder's final norm by itself, so the checkpoint is asked.
    method["encoder"] = encoders.readable(method["encoder"], encoders.here()[0])
    norm = checkpoint.has_subtree(str(folder), "params/encoder/norm", step)
    method["encoder"]["final_norm"] = norm
    if kind == "reader" and method["name"] != "recognize":
        raise ValueError(
            f"{folder} is a pre-training ({method['name']}), so it cannot read: train a reader on "
            f"it, as in --config=finetune --config.init_from={folder}"
        )
    preparation, charset = Preparation.of(cfg["data"]), None
    if kind == "reader":
        charset = Charset.from_json(meta["charset"])
        name = chosen_head(folder, sorted(method["heads"]), head, step)
        method["heads"] = {name: method["heads"][name]}
    else:
        method = {"encoder": method["encoder"]}
    wanted = shapes(method, charset, preparation)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
    read = lambda path, tree: checkpoint.load_subtree(
        str(folder), path, jax.tree.map(place, tree), step
    )
    # Part by part: of a sweep only one head is read.
    heads = wanted["params"].pop("heads", {})
    weights = {"mutable": {}} | {
        top: {name: read(f"{top}/{name}", tree) for name, tree in part.items()}
        for top, part in wanted.items()
    }
    if heads:
        read_heads = {name: read(f"params/heads/{name}", tree) for name, tree in heads.items()}
        weights["params"]["heads"] = read_heads
    origin = {"run": bucket.whole(folder).name, "step": step, "method": cfg["method"]["name"]}
    origin |= {"trained_on": cfg["data"].get("train"), "figures": figures(folder, step)}
    recipe = {"recipe": cfg["method"].get("recipe"), "subset": cfg["data"].get("subset")}
    recipe |= {"batch_size": cfg.get("batch_size"), "init_from": set_names(cfg.get("init_from"))}
    origin["trained_with"] = {name: value for name, value in recipe.items() if value}
    origin = cfg.get("origin", origin)  # an imported export: what it says of its own training
    return Model(kind, method, preparation, weights, charset, origin)


def set_names(spec: str | None) -> str | None:
    """A spec of data or runs without the folders above them, which are of one machine only."""
    return spec and re.sub(r"[^,]*/(?=[^,/])", "", spec)


def figures(folder: pathlib.Path, step: int) -> dict[str, float]:
    """What the run measured at a step: {"eval/<dataset>/cer": value, ...}."""
    from dig_jax.workdir import metrics

    log = folder / "metrics.jsonl"
    rows = metrics.read_jsonl(log) if log.exists() else []
    found = {k: v for row in rows if row["step"] == step for k, v in row.items()}
    shown = ("cer", "wer", "word_accuracy", "lines")
    return {
        name: value
        for name, value in found.items()
        if name.startswith("eval/") and name.count("/") == 2 and name.split("/")[2] in shown
    }


def chosen_head(folder: pathlib.Path, names: list[str], asked: str | None, step: int) -> str:
    """The head of a recogniser: the one asked for, the only one, or the one with the lowest mean
    CER over the validation sets in the last evaluation up to `step`."""
    if asked is not None or len(names) == 1:
        if (asked or names[0]) not in names:
            raise ValueError(f"{folder} has no head {asked!r}: it has {', '.join(names)}")
        return asked or names[0]
    from dig_jax.workdir import read

    run = read.load(folder)
    for row in reversed([row for row in run.history if row["step"] <= step]):
        cers = [
            {name: row.get(f"eval/{dataset}/{read.METRIC}@{name}") for name in names}
            for dataset in sorted(run.validation)
        ]
        if judged := [by_head for by_head in cers if None not in by_head.values()]:
            return read.lowest(judged)
    raise ValueError(
        f"{folder} has {len(names)} heads and no evaluation up to step {step} to choose one by: "
        f"name one of {', '.join(names)}"
    )


# ---- an export


def described(model: Model, format: str, version: str) -> dict[str, Any]:
    """config.json of an export. Widths are multiples of multiple_px, up to widest_px (or None)."""
    export = {"layout": LAYOUT, "kind": model.kind, "format": format, "dig_jax": version}
    export |= {"multiple_px": model.multiple_px, "widest_px": model.widest_px}
    if model.search:
        export["search"] = dict(model.search) | {"lm": model.search["lm"].order}
    return {
        "export": export,
        "method": dict(model.options),
        "data": dataclasses.asdict(model.preparation),
        "origin": dict(model.origin) | {"trained_on": set_names(model.origin.get("trained_on"))},
    }


def of_export(folder: pathlib.Path, described: Mapping[str, Any]) -> Model:
    """From an export folder, whose config.json is `described`."""
    export = described["export"]
    if export["layout"] > LAYOUT:
        raise ValueError(
            f"{folder} is an export of layout {export['layout']} and this program reads up to "
            f"{LAYOUT}: use the dig_jax {export['dig_jax']} that wrote it, or a newer one"
        )
    if export["format"] not in (*WEIGHTS, "onnx"):
        raise ValueError(
            f"{folder} is an export to {export['format']}, which holds a compiled program: load "
            f"one to {', '.join(WEIGHTS)} or onnx, or run this one as its card.md says"
        )
    preparation, charset, search = Preparation.of(described["data"]), None, {}
    if export["kind"] == "reader":
        charset = Charset.from_json((folder / "charset.json").read_text(encoding="utf-8"))
        if "search" in export:
            search = export["search"] | {"lm": ngram(folder, charset)}
    if export["format"] == "onnx":
        from dig_jax.interop import onnx

        program = onnx.program(folder)
        given = described["method"], preparation
        return Model(export["kind"], *given, {}, charset, described["origin"], program, search)
    encoder = encoders.readable(described["method"]["encoder"], encoders.here()[0])
    method = {**described["method"], "encoder": encoder}
    wanted = shapes(method, charset, preparation)
    store = importlib.import_module(f"dig_jax.interop.{export['format']}")
    weights = {"mutable": {}} | checked(store.read(folder, wanted), wanted, folder)
    origin = described["origin"]
    return Model(export["kind"], method, preparation, weights, charset, origin, None, search)


def ngram(folder: pathlib.Path, charset: Charset) -> NGram:
    """The n-gram that an export brings along. ValueError where it is none."""
    try:
        with np.load(folder / NGRAM, allow_pickle=False) as arrays:
            return NGram.of_arrays(arrays, charset.size)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{folder / NGRAM} cannot be read ({error}): export it again") from error


def checked(weights: Any, wanted: Any, folder: pathlib.Path) -> Any:
    """The weights, whose names and shapes must be those of the network. ValueError otherwise."""
    have, want = (
        {n: tuple(x.shape) for n, x in trees.named_leaves(t).items()} for t in (weights, wanted)
    )
    if have != want:
        wrong = sorted(have.items() ^ want.items())
        raise ValueError(
            f"the weights of {folder} do not fit its config.json ({len(wrong)} differences, such "
            f"as {wrong[0][0]}): export it again"
        )
    return weights
