"""Presets that config files share: base(), data, encoder sizes, optimiser, quick(), and parse_arg
of `dig.py:size=S`.

A config states intent (epochs, global batch, rate per 256 lines); whatever follows from it is
derived by the trainer, after the overrides of the command line.
"""

from __future__ import annotations

import difflib
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# Encoder sizes: width, depth, heads. "B" is DiG's base (512 wide), "base768" is everybody else's.
SIZES = {
    "nano": {"width": 64, "depth": 2, "heads": 2},
    "micro": {"width": 128, "depth": 4, "heads": 4},
    "T": {"width": 192, "depth": 12, "heads": 3},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 512, "depth": 12, "heads": 8},
    "base768": {"width": 768, "depth": 12, "heads": 12},
}

# CNN + BiLSTM (models/crnn.py), of a height of 32 px; crnn is TRBA's, crnn_micro is for CPUs.
CNN_SIZES = {
    "crnn": {
        "stem": 64,
        "stages": (128, 256, 512, 512),
        "blocks": (1, 2, 5, 3),
        "width": 256,
        "layers": 2,
    },
    "crnn_micro": {
        "stem": 16,
        "stages": (32, 64, 96, 128),
        "blocks": (1, 1, 1, 1),
        "width": 128,
        "layers": 1,
    },
    "crnn_nano": {
        "stem": 8,
        "stages": (8, 16, 16, 16),
        "blocks": (1, 1, 1, 1),
        "width": 32,
        "layers": 1,
    },
}

# Heads of the methods at `quick`: any key of config.method with one of these names.
TOY = {
    "projector_width": 64, "projector_dim": 32, "pix_projector_width": 64, "decoder_width": 48, "predictor_width": 48,
    "tile_width": 32,
}  # fmt: skip


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
    """The part after the colon of --config=FILE.py:ARG: "size=S,epochs=3,quick" -> the defaults,
    overridden.

    A value takes the type of its default; a bare name is True. Raises ValueError for an unknown
    name or a wrong value.
    """
    result = dict(defaults)
    for item in (part.strip() for part in (arg or "").split(",")):
        if not item:
            continue
        name, given, text = item.partition("=")
        if name not in defaults:
            near = difflib.get_close_matches(name, defaults, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"this config has no argument {name!r}: {hint}It has {sorted(defaults)}"
            )
        result[name] = _typed(name, text if given else "True", defaults[name])
    return ConfigDict(result)


def _typed(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        values = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() not in values:
            raise ValueError(f"argument {name}={text}: give true or false")
        return values[text.lower()]
    if isinstance(default, (int, float)):
        try:
            return type(default)(text)
        except ValueError as error:
            raise ValueError(f"argument {name}={text}: give a number such as {default}") from error
    return text


def base(**values: Any) -> ConfigDict:
    """Everything the trainer reads that is no part of data, method and optimiser; `values` override
    or add.
    """
    config = ConfigDict(
        {
            "seed": 0,
            "batch_size": 256,  # over all devices
            "total": {
                "steps": placeholder(int),
                "epochs": placeholder(float),
            },  # one of the two; steps wins
            "init_from": "",  # a work folder whose parts are taken over before step 0
            "init_parts": (
                "params/encoder",
            ),  # "teacher/encoder->params/encoder": a part under another name
            "init_checkpoint": "last",  # or "best", by that run's own best_metric
            "like": "",  # a work folder of which only the config serves, see inherit
            "inherit": (),  # keys such as "method.encoder": None there = the value of init_from's or like's config
            "calibrate_batches": 0,  # training batches that the method looks at before step 0
            "checkpoint": {
                "every_steps": 1000,
                "keep_last": 1,
                "keep_best": 1,
                "best_metric": "",  # such as "eval/val/cer"; "" keeps the last only
                "best_mode": "min",
            },
            "evals": {},  # {evaluator: {"every_steps": n, ...}}; every one also runs at the end
            "log": {"every_steps": 50},
            # Devices along each axis; -1: the rest of them. Rows are split over data and fsdp,
            # parameters over fsdp and tensor.
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "sharding": (),  # rules before those of dig_jax/sharding.py: ((regex of a path, axes of its last dimensions), ..)
            # Parts of a batch, one after the other, for losses that are means over lines or pixels
            # (dig_jax/train/accumulate.py).
            "accumulate": placeholder(int),  # None: 1, the whole batch at once
            "profile": "",  # "10-20": a profiler trace of these steps in WORKDIR/profile
            "compile_cache": "",  # folder; JAX_COMPILATION_CACHE_DIR does the same
        }
    )
    config.update(ConfigDict(values))
    return config


def crops(
    train: str, height_px: int = 32, width_px: int = 128, channels: int = 1, **more: Any
) -> dict[str, Any]:
    """Pre-training data: random windows of unlabelled lines. train:
    "PATH[@SPLIT][*WEIGHT],PATH2...".
    """
    return {
        **_data("crops", train, height_px, channels),
        "width_px": width_px,
        **more,
    }


def lines(
    train: str, height_px: int = 32, channels: int = 1, buckets_px: Any = "auto", **more: Any
) -> dict[str, Any]:
    """Recognition data: whole labelled lines in width buckets."""
    own = {
        "buckets_px": buckets_px,
        "multiple_px": 32,
        "max_label_length": placeholder(int),  # None: the longest label
        "max_width_px": placeholder(int),  # wider lines are left out; None: see data/limits.py
    }
    return {**_data("lines", train, height_px, channels), **own, **more}


def _data(kind: str, train: str, height_px: int, channels: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "train": train,
        "height_px": height_px,
        "channels": channels,
        "squeeze_px": placeholder(
            int
        ),  # width to which whole images are squeezed, as scene text does; None: never
        "contrast": placeholder(str),  # "stretch": each line's ink to 0, its paper to 255
        "subset": placeholder(object),  # None: all; 0.1: a tenth; 340: so many records
        "subset_seed": 0,
        "subset_order": "random",
        "workers": "auto",
        "max_bad_share": 0.01,
        "max_pixels": 1 << 24,  # of one image; a larger one is a bad record
    }


def network(size: str, patch: tuple[int, int], **more: Any) -> dict[str, Any]:
    """Keyword arguments of models.encoders.create: a ViT of one of SIZES, or a CNN of CNN_SIZES,
    whose patch is its own and which takes none of the options in `more`. fiducials of a CNN: points
    of a rectification in front, 0 = none, 20 in TRBA."""
    if size in CNN_SIZES:
        return {
            "kind": "crnn",
            "height_px": 32,
            "patch": (32, 4),
            **CNN_SIZES[size],
            "fiducials": 0,
            "dtype": "auto",
        }
    return vit(size, patch, **more)


def vit(size: str, patch: tuple[int, int], **more: Any) -> dict[str, Any]:
    """Keyword arguments of models.vit.Vit for one of SIZES; `more` overrides or adds."""
    if size not in SIZES:
        raise ValueError(
            f"there is no encoder size {size!r}: choose one of {sorted(SIZES)} or {sorted(CNN_SIZES)}"
        )
    return {
        "patch": tuple(patch), **SIZES[size], "mlp_ratio": 4.0, "drop_path": 0.0, "dtype": "auto", "gelu": "exact",
        "attention": "auto", "remat": False, "scan": False, **more,
    }  # fmt: skip


def adamw(lr: float, weight_decay: float, warmup_steps: int = 0, **more: Any) -> dict[str, Any]:
    """Keyword arguments of optim.create, all that the command line may set. lr_per=256: lr is meant
    for 256 lines.
    """
    own = {
        "name": "adamw",
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay_end": placeholder(float),
    }
    return {**_optimizer(lr, weight_decay, warmup_steps), **own, **more}


def sgd(lr: float, weight_decay: float, warmup_steps: int = 0, **more: Any) -> dict[str, Any]:
    """The same for SGD with momentum, as papers from before AdamW have it."""
    return {**_optimizer(lr, weight_decay, warmup_steps), "name": "sgd", "momentum": 0.9, **more}


def _optimizer(lr: float, weight_decay: float, warmup_steps: int) -> dict[str, Any]:
    return {
        "lr": lr, "lr_per": placeholder(int), "min_lr": 0.0, "warmup_steps": warmup_steps, "schedule": "cosine",
        "drops": placeholder(tuple), "drop": placeholder(float), "weight_decay": weight_decay, "clip_norm": placeholder(float),
        "clip_norm_each": placeholder(float), "layer_decay": placeholder(float), "rules": (),
    }  # fmt: skip


def encoder_rate(scale: float) -> tuple:
    """optim.rules under which the encoder's rate is `scale` times that of the rest; none at 1."""
    return () if scale == 1.0 else (("^encoder/", {"lr_scale": scale}), ("", {}))


# What a pre-training is run on, for every method alike; a method's own presets override or add.
LINES = {
    "size": "S", "patch": (8, 4), "width_px": 256, "channels": 1, "batch": 256, "epochs": 0.0, "steps": 20000,
    "position": "sincos_2d", "lr": 6e-4, "weight_decay": 0.05, "warmup_steps": 1000, "min_lr": 1e-6,
    "optim": {"b2": 0.95, "clip_norm": 1.0}, "encoder": {}, "method": {},
}  # fmt: skip
CPU = {
    **LINES, "size": "micro", "patch": (32, 4), "width_px": 128, "batch": 64, "steps": 12000, "lr": 4e-3, "warmup_steps": 100,
    "encoder": {"dtype": "bfloat16", "gelu": "tanh"},  # faster on a CPU with AMX: docs/results.md
}  # fmt: skip
# 384 + the 64 columns of a 256 px crop = 448 columns = 1,792 px: as far as the longest line of
# archiscribe reaches.
COLUMN_OFFSET_MAX = 384


def pretrain(
    arg: str | None, presets: dict[str, dict[str, Any]], method: dict[str, Any], **own: Any
) -> ConfigDict:
    """The config of a pre-training from the part after the colon of
    --config=pretrain/METHOD.py:ARG.

    presets: {name: LINES or CPU, or one like them}; the first is the default. method: its name and
    what all presets share. own: arguments of this config beyond the common ones, with their
    defaults, handed to the method under the same name.
    """
    args = parse_arg(
        arg, preset=next(iter(presets)), records="", size="", patch="", epochs=0.0, steps=0, batch=0, lr=0.0, dtype="",
        probe="", seed=0, recipe="", quick=False, **own,
    )  # fmt: skip
    if args.preset not in presets:
        raise ValueError(f"preset={args.preset}: choose one of {', '.join(presets)}")
    preset = presets[args.preset]
    patch = tuple(int(side) for side in args.patch.split("x")) if args.patch else preset["patch"]
    encoder = network(
        args.size or preset["size"], patch, position=preset["position"], **preset["encoder"]
    )
    if args.dtype:
        encoder["dtype"] = args.dtype
    method = {
        **method,
        **{name: args[name] for name in own},
        "encoder": encoder,
        **preset["method"],
    }
    if args.recipe:
        method |= _recipe(args.recipe, method)
    config = base(seed=args.seed, batch_size=args.batch or preset["batch"], method=method)
    config.data = crops(
        args.records or placeholder(str), 32, preset["width_px"], preset["channels"]
    )
    config.data.squeeze_px = preset.get("squeeze_px")
    config.method.channels = config.data.get_ref("channels")
    steps, epochs = (
        (args.steps, args.epochs)
        if args.steps or args.epochs
        else (preset["steps"], preset["epochs"])
    )
    config.total = {
        "steps": steps or placeholder(int),
        "epochs": placeholder(float) if steps else epochs,
    }
    optimizer = {"adamw": adamw, "sgd": sgd}[preset["optim"].get("name", "adamw")]
    config.optim = optimizer(
        args.lr or preset["lr"], preset["weight_decay"], preset["warmup_steps"],
        **{"lr_per": 256, "min_lr": preset["min_lr"], **preset["optim"]},
    )  # fmt: skip
    config.evals = {"collapse": {"every_steps": 500}, "reconstruction": {"every_steps": 1000}}
    if args.probe != "none" and (args.probe or not args.preset.startswith("words")):
        config.evals.probe = {"every_steps": 1000, "sets": args.probe or placeholder(str)}
    return quick(config) if args.quick else config


def _recipe(names: str, method: dict[str, Any]) -> dict[str, Any]:
    """recipe=NAME, of `dig_jax/augment/views.py`, in place of the preset's; recipe=NAME+NAME where
    each view has its own.
    """
    key = "recipes" if "recipes" in method else "recipe"
    if key not in method:
        raise ValueError(f"recipe={names}: {method['name']} augments by no recipe, so leave it out")
    each = tuple(names.split("+"))
    if key == "recipe" and len(each) == 1:
        return {key: names}
    if key == "recipe" or len(each) > 2:
        raise ValueError(
            f"recipe={names}: {method['name']} takes one name"
            + (", or two as A+B" if key == "recipes" else "")
        )
    return {key: (each[0], each[-1])}


# Readers on top of an encoder, by the name that recognize/*.py take as head=.
READERS = {"linear": {"kind": "linear"}, "bilstm": {"kind": "bilstm", "hidden": 256, "layers": 1}}


def reader(decoder: str, head: str, hidden: int = 256) -> dict[str, Any]:
    """Keyword arguments of a recogniser's head, a BiLSTM `hidden` wide; ValueError for a decoder or
    head that there is not.
    """
    if decoder != "ctc" or head not in READERS:
        raise ValueError(
            f"decoder={decoder},head={head}: give decoder=ctc and one of head={', '.join(READERS)}"
        )
    return {**READERS[head], "hidden": hidden} if "hidden" in READERS[head] else READERS[head]


def recognition(args: ConfigDict, **values: Any) -> ConfigDict:
    """base() of a recogniser that reads whole labelled lines: `args` of recognize/*.py, the encoder
    and the pictures of the run in init_from or like, an evaluation and a checkpoint every tenth of
    the steps, the lowest validation CER kept."""
    tenth = max(args.steps // 10, 1)
    config = base(
        seed=args.seed,
        batch_size=args.batch,
        inherit=(
            "method.encoder",
            "data.train",
            "data.height_px",
            "data.channels",
            "data.squeeze_px",
            "data.contrast",
        ),
        evals={
            "recognition": {"every_steps": tenth, "batch_size": 64, "datasets": placeholder(object)}
        },
        **values,
    )
    config.total.steps = args.steps
    config.data = lines(args.records or placeholder(str), placeholder(int), placeholder(int))
    config.data.subset = label_subset(args.labels)
    config.data.subset_seed = args.seed  # another seed is another choice of lines, too
    config.checkpoint.update(best_metric="eval/cer", every_steps=tenth)
    return config


# Arguments of fine_tuning, which recognize/finetune.py and scratch.py share.
FINE_TUNING = {
    "decoder": "ctc", "head": "linear", "records": "", "labels": "", "lr": 1e-3, "encoder_lr": 1.0, "steps": 1000,
    "batch": 32, "seed": 0, "quick": False,
}  # fmt: skip


def fine_tuning(args: ConfigDict, **values: Any) -> ConfigDict:
    """recognition() with encoder and reader trained together, the same whether they begin at a
    pre-training or not.
    """
    return recognition(
        args,
        calibrate_batches=100,
        method={
            "name": "recognize",
            "encoder": placeholder(object),
            "heads": {"ctc": reader(args.decoder, args.head)},
            "frames": "concat",
            "frozen": False,
            "standardize": True,  # with the features of step 0: without it a pre-trained start hardly learns
            "drop_path": 0.0,
            "recipe": placeholder(
                object
            ),  # augmentation: "lines_light"; none in the published figures
            "max_shift_px": 4.0,  # of the augmentation
        },
        optim=adamw(
            lr=args.lr,
            weight_decay=0.05,
            warmup_steps=args.steps // 10,
            b2=0.98,
            clip_norm=1.0,
            rules=encoder_rate(args.encoder_lr),
        ),
        **values,
    )


def label_subset(labels: str) -> float | int | None:
    """ "" -> None (all labels), "0.1" -> a tenth of them, "340" -> so many lines. ValueError for
    anything else: "1" could mean one line and is a share to the records, so it has to be "1.0"."""
    if not labels:
        return None
    try:
        subset = float(labels) if "." in labels else int(labels)
    except ValueError:
        subset = -1
    if subset <= 0 or (subset > 1) != isinstance(subset, int):
        raise ValueError(
            f"labels={labels}: give a share such as 0.1 (1.0 = all) or a whole number of lines above 1"
        )
    return subset


def quick(config: ConfigDict, steps: int = 2, batch_size: int = 8) -> ConfigDict:
    """The same experiment in seconds, to see that it runs: few steps and rows, tiny encoder,
    evaluations at the end.
    """
    config.batch_size = batch_size
    config.total = {"steps": steps, "epochs": placeholder(float)}
    config.optim.warmup_steps = min(config.optim.get("warmup_steps", 0), steps - 1)
    config.optim.min_lr = 0.0  # absolute, while the rate shrinks with the batch
    config.calibrate_batches = min(config.calibrate_batches, 1)
    config.log.every_steps = 1
    config.checkpoint.every_steps = steps
    encoder = config.method.get("encoder")
    if encoder:
        encoder.update(CNN_SIZES["crnn_nano"] if encoder.get("kind") == "crnn" else SIZES["nano"])
    for name in TOY.keys() & config.method.keys():
        config.method[name] = TOY[name]
    for evaluator in config.evals.values():
        evaluator.every_steps = 0
    return config
