"""What the config files share: the arguments after the colon, and where each kind of run begins.

A config states what an experiment is. All else is a default of the code that takes it
(dig_jax/train/defaults.py), and the command line may override any of it: --config.key=value.
"""

from __future__ import annotations

import difflib
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# 384 + the 64 columns of a 256 px crop = 448 columns = 1,792 px: the longest line of archiscribe.
COLUMN_OFFSET_MAX = 384


# ---- arguments: --config=dig:preset=cpu,size=S,quick


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
    """The text after the colon, "size=S,epochs=3,quick" -> the defaults, overridden. A value takes
    the type of its default; a bare name is True. ValueError for an unknown name or wrong value."""
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
            example = default if default >= 0 else 1000
            raise ValueError(f"argument {name}={text}: give a number such as {example}") from error
    return text


def refuse(arg: str | None, why: str, *names: str) -> None:
    """ValueError where the text has one of these arguments, which would change nothing."""
    if idle := [part for part in (arg or "").split(",") if part.partition("=")[0].strip() in names]:
        raise ValueError(f"{', '.join(idle)}: {why}, so leave it out")


def pretraining_args(arg: str | None, presets: tuple[str, ...], **own: Any) -> ConfigDict:
    """The arguments of every pretrain/*.py, and its `own`. The first preset is the default; steps
    and epochs of -1 are the preset's."""
    common = {"records": "", "size": "", "patch": "", "epochs": -1.0, "steps": -1, "batch": 0}
    common |= {"lr": 0.0, "dtype": "", "probe": "", "seed": 0, "recipe": "", "quick": False}
    args = parse_arg(arg, preset=presets[0], **common, **own)
    if args.preset not in presets:
        raise ValueError(f"preset={args.preset}: choose one of {', '.join(presets)}")
    for name in ("steps", "epochs"):
        if args[name] < 0 and args[name] != common[name]:
            raise ValueError(f"{name}={args[name]}: give 0 or more")
    return args


# ---- pre-training


def pretraining(method: str) -> ConfigDict:
    """32 px high lines on an accelerator, in random 256 px crops: where all presets begin."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256  # over all devices
    config.total = {"steps": 20000}
    config.data = {"kind": "crops", "train": placeholder(str)}
    config.data.update(height_px=32, width_px=256, channels=1, contrast="stretch")
    config.method = {"name": method, "channels": config.data.get_ref("channels")}
    config.method.encoder = encoder("S", (8, 4))
    config.optim = {"lr": 6e-4, "lr_per": 256, "min_lr": 1e-6, "warmup_steps": 1000}
    config.optim.update(weight_decay=0.05, b2=0.95, clip_norm=1.0, rules=())
    config.evals = {"collapse": {"every_steps": 500}, "reconstruction": {"every_steps": 1000}}
    config.evals.probe = {"every_steps": 1000}
    return config


def cpu(config: ConfigDict) -> None:
    """A network of 1 M parameters on 128 px crops, for one or two cores."""
    config.batch_size = 64
    config.total = {"steps": 12000}
    config.data.width_px = 128
    config.method.encoder = encoder("micro", (32, 4))
    config.method.encoder.update(dtype="bfloat16", gelu="tanh")  # faster on a CPU with AMX
    config.optim.update(lr=4e-3, warmup_steps=100)


def words(config: ConfigDict, width_px: int = 128, channels: int = 3) -> None:
    """Photographed words squeezed to one width, as in the papers; no probe during the run."""
    config.data.update(width_px=width_px, squeeze_px=width_px, channels=channels, contrast=None)
    config.method.encoder = encoder("S", (4, 4))
    del config.evals.probe


# Arguments of contrasts that start from a reconstruction (config.init_from), as MIM-Refiner does.
REFINING = {"block": "last", "layer_decay": 0.0}


def refining(config: ConfigDict, args: ConfigDict) -> tuple:
    """block=K: the contrast reads block K. layer_decay: each earlier block has this times the rate
    of the next. Returns optim.rules that freeze what stands above block K, which is kept: so is the
    last norm, that the encoder's parameters are those of `gen` and `mae`.
    """
    if args.layer_decay:
        config.optim.layer_decay = args.layer_decay
    if args.block != "last":
        config.method.block = args.block
    if not args.block.isdigit():
        return ()
    config.method.encoder.final_norm = True
    below = "|".join(str(number) for number in range(int(args.block)))
    return ((rf"^encoder/(block_(?!({below})/)|norm/)", {"freeze": True}),)


def encoder(size: str, patch: tuple[int, int] = (8, 4), position: str = "sincos_2d") -> ConfigDict:
    """An encoder by the name of its size (models/encoders.py). A CNN brings its own patch."""
    if is_cnn(size):
        return ConfigDict({"size": size})
    return ConfigDict({"size": size, "patch": patch, "position": position})


def is_cnn(size: str) -> bool:
    return size.startswith(("crnn", "cnn"))


def height_of(size: str) -> int:
    """Height of the lines that an encoder reads, in px."""
    return 48 if size.startswith("cnn48") else 32


def finished(config: ConfigDict, args: ConfigDict) -> ConfigDict:
    """The preset with the arguments of the command line on top."""
    config.seed = args.seed
    config.data.train = args.records or placeholder(str)
    config.batch_size = args.batch or config.batch_size
    config.optim.lr = args.lr or config.optim.lr
    if args.steps >= 0 or args.epochs >= 0:
        config.total = {"steps": args.steps} if args.steps >= 0 else {"epochs": args.epochs}
    now = config.method.encoder
    if args.size and is_cnn(args.size) != is_cnn(now.size):
        config.method.encoder = encoder(args.size, (8, 4))
        times = height_of(args.size) / config.data.height_px  # the same windows on paper
        config.data.width_px = int(config.data.width_px * times)
        config.data.height_px = height_of(args.size)
        if config.data.get("squeeze_px"):
            config.data.squeeze_px = config.data.width_px
        if config.method.get("window_px") and "gap_px" not in config.method:
            config.method.window_px = int(config.method.window_px * times)
    elif args.size:
        now.size = args.size
    if args.patch and not is_cnn(config.method.encoder.size):
        config.method.encoder.patch = patch(args.patch)
    if args.dtype:
        config.method.encoder.dtype = args.dtype
    if args.recipe:
        set_recipe(config.method, args.recipe)
    if args.probe == "none" and "probe" in config.evals:
        del config.evals.probe
    elif args.probe not in ("", "none"):
        config.evals.probe = {"every_steps": 1000, "sets": args.probe}
    return quick(config) if args.quick else config


def patch(text: str) -> tuple[int, int]:
    """ "8x4" -> (8, 4), height and width in px."""
    height, _, width = text.partition("x")
    try:
        return int(height), int(width)
    except ValueError as error:
        raise ValueError(f"patch={text}: give height and width, such as 8x4") from error


def set_recipe(method: ConfigDict, names: str) -> None:
    """recipe=NAME of dig_jax/augment/recipes.py; NAME+NAME where each view has its own."""
    each = tuple(names.split("+"))
    if "recipes" in method and len(each) <= 2:
        method.recipes = (each[0], each[-1])
    elif "recipe" in method and len(each) == 1:
        method.recipe = names
    elif "can" in method and len(each) == 1:
        method.can.recipe = names
    elif "recipe" in method or "recipes" in method or "can" in method:
        more = ", or two as A+B" if "recipes" in method else ""
        raise ValueError(f"recipe={names}: {method.name} takes one name{more}")
    else:
        raise ValueError(f"recipe={names}: {method.name} augments by no recipe, so leave it out")


# ---- recognition


def recognition(args: ConfigDict) -> ConfigDict:
    """A recogniser of whole labelled lines: `args` of recognize/*.py. Encoder, records and picture
    format are those of the run in init_from or shape_from. It is evaluated, and saved, every tenth
    of the steps; the lowest validation CER is kept."""
    config = ConfigDict()
    config.seed = args.seed
    config.batch_size = args.batch
    config.total = {"steps": args.steps}
    config.data = lines(args.records)
    config.data.subset = label_subset(args.labels)
    config.data.subset_order = args.order  # or "first": the first lines, as DiG does
    config.data.subset_seed = args.seed  # another seed is another choice of lines, too
    config.inherit = ("method.encoder", *PICTURES)
    tenth = max(args.steps // 10, 1)
    config.evals = {"recognition": {"every_steps": tenth}}
    config.checkpoint = {"every_steps": tenth, "best_metric": "eval/cer"}
    config.method = {"name": "recognize", "encoder": placeholder(object)}
    config.method.block = args.block
    return config


PICTURES = ("data.train", "data.height_px", "data.channels", "data.squeeze_px", "data.contrast")


def lines(records: str = "") -> ConfigDict:
    """Whole labelled lines in width buckets; what is None is inherited."""
    data = {"kind": "lines", "train": records or placeholder(str)}
    return ConfigDict(data | {"height_px": placeholder(int), "channels": placeholder(int)})


# Arguments that all recognisers share.
RECOGNITION = {"decoder": "ctc", "block": "last", "records": "", "labels": "", "order": "random"}
RECOGNITION |= {"shortcut": -1.0, "seed": 0, "quick": False}  # -1: what the reader needs

# Arguments that recognize/finetune.py and scratch.py share, at the defaults of their presets.
# strong: the recogniser to judge anything by. plain: that of the tables before it. words_cpu:
# photographed words, squeezed to 32 x 128. dig: the official DiG recipe, 10 epochs of 2.78 M words.
FINE_TUNING = {**RECOGNITION, "encoder_lr": 1.0, "layer_decay": 0.0, "drop_path": 0.0}
STRONG = {"head": "bilstm2", "lr": 2e-3, "steps": 1900, "batch": 8, "recipe": "lines_strong"}
PLAIN = {"head": "linear", "lr": 1e-3, "steps": 1000, "batch": 32, "recipe": ""}
WORDS = {"head": "bilstm", "lr": 2e-3, "steps": 4000, "batch": 32, "recipe": "lines_light"}
DIG = {"decoder": "transformer", "lr": 8e-4, "steps": 13574, "batch": 2048, "recipe": "seqclr_0"}
DIG |= {"layer_decay": 0.75, "drop_path": 0.1, "order": "first"}
FINE_TUNING_PRESETS = {
    "strong": STRONG,
    "plain": PLAIN | {"size": "micro", "patch": "8x4"},
    "words_cpu": WORDS | {"size": "crnn_micro"},
    "dig": DIG | {"size": "S", "patch": "4x4", "channels": 3},
}


SHORTCUT = 0.3  # weight of the CTC loss in front of a reader that finds out late what to read


def fine_tuning_args(arg: str | None, **own: Any) -> ConfigDict:
    """The arguments of finetune.py and scratch.py. A preset changes their defaults."""
    defaults = {"preset": "strong", **FINE_TUNING, **STRONG, **own}
    preset = parse_arg(arg, **defaults).preset
    if preset not in FINE_TUNING_PRESETS:
        raise ValueError(f"preset={preset}: choose one of {', '.join(FINE_TUNING_PRESETS)}")
    changes = FINE_TUNING_PRESETS[preset]
    return parse_recogniser(arg, **defaults | {k: v for k, v in changes.items() if k in defaults})


def parse_recogniser(arg: str | None, **defaults: Any) -> ConfigDict:
    """`parse_arg` for recognize/*.py. ValueError also where head= or steps= cannot be."""
    args = parse_arg(arg, **defaults)
    if args.steps < 0:
        raise ValueError(f"steps={args.steps}: give 0 or more")
    if args.decoder != "ctc":
        refuse(arg, f"decoder={args.decoder} has no head", "head")
    return args


def fine_tuning(args: ConfigDict) -> ConfigDict:
    """Encoder and reader trained together, whether they begin at a pre-training or not."""
    config = recognition(args)
    # plain is as it was before there were any, dig as its authors have it.
    late = args.head == "bilstm2" if args.decoder == "ctc" else args.preset not in ("plain", "dig")
    config.method.heads = {args.decoder: reader(args, SHORTCUT * late)}
    config.method.recipe = args.recipe or placeholder(str)
    config.method.drop_path = args.drop_path
    config.calibrate_batches = 100
    config.optim = {"lr": args.lr, "weight_decay": 0.01, "clip_norm": 5.0}
    config.optim.update(warmup_steps=args.steps * 15 // 100, min_lr=args.lr / 200, average=8.0)
    if args.preset == "dig":
        config.method.standardize = False  # as the authors
        decoder = {"width": 512, "depth": 6, "heads": 8, "inner": 256, "dropout": 0.1}
        if args.decoder == "transformer":
            config.method.heads.transformer.update(decoder)
        config.optim = {"lr": args.lr, "min_lr": 1e-6, "weight_decay": 0.05}
        config.optim.warmup_steps = args.steps // 10
    elif args.preset != "strong":
        config.method.standardize = True  # without it a pre-trained start hardly learns here
        config.method.max_shift_px = 4.0
        config.optim = {"lr": args.lr, "weight_decay": 0.05, "b2": 0.98, "clip_norm": 1.0}
        config.optim.warmup_steps = args.steps // 10
    if args.preset in ("words_cpu", "dig"):
        config.data.squeeze_px = 128
    config.optim.rules = encoder_rate(args.encoder_lr)
    if args.layer_decay:
        config.optim.layer_decay = args.layer_decay
    return config


def encoder_rate(scale: float) -> tuple:
    """optim.rules under which the encoder's rate is `scale` times the rest's; none at 1."""
    return () if scale == 1.0 else (("^encoder/", {"lr_scale": scale}), ("", {}))


# Readers on top of an encoder: decoder=ctc with one of these as head=, or another decoder.
READERS = {
    "linear": {"kind": "linear"},
    "bilstm": {"kind": "bilstm", "hidden": 256, "layers": 1},
    "bilstm2": {"kind": "bilstm", "hidden": 160, "layers": 2, "dropout": 0.2},
}


DECODERS = ("ctc", "attention", "transformer", "glimpse")


def reader(args: ConfigDict, shortcut: float) -> dict[str, Any]:
    """Options of a recogniser's head by decoder=, head=, hidden= (0: its own width) and shortcut=
    (-1: the one that is handed in). ValueError for an unknown one; `decoders.create` refuses an
    option that a reader does not have."""
    if args.decoder not in DECODERS or args.head not in READERS:
        raise ValueError(
            f"decoder={args.decoder},head={args.head}: give one of decoder={', '.join(DECODERS)}, "
            f"and for ctc one of head={', '.join(READERS)}"
        )
    if args.shortcut < 0 and args.shortcut != RECOGNITION["shortcut"]:
        raise ValueError(f"shortcut={args.shortcut:g}: give 0 for none, or a weight such as 1")
    head = READERS[args.head] if args.decoder == "ctc" else {"kind": args.decoder}
    weight = args.shortcut if args.shortcut >= 0 else shortcut
    given = {"hidden": args.get("hidden"), "shortcut": weight}
    return head | {name: value for name, value in given.items() if value}


def label_subset(labels: str) -> float | int | None:
    """ "" -> None (all labels), "0.1" -> a tenth of them, "340" -> so many lines. ValueError for
    anything else; for "1", too, which could mean one line or all of them."""
    if not labels:
        return None
    try:
        subset = float(labels) if "." in labels else int(labels)
    except ValueError:
        subset = -1
    if subset <= 0 or (subset > 1) != isinstance(subset, int):
        raise ValueError(
            f"labels={labels}: give a share such as 0.1 (1.0 = all) or a whole number of lines "
            "above 1"
        )
    return subset


# ---- quick


TOY = {"projector_width": 64, "projector_dim": 32, "pix_projector_width": 64, "tile_width": 32}
TOY |= {"decoder_width": 48, "predictor_width": 48}  # any key of config.method with such a name


def quick(config: ConfigDict, steps: int = 2, batch_size: int = 8) -> ConfigDict:
    """The same experiment in seconds, to see that it runs: few steps and rows, tiny networks."""
    config.batch_size = batch_size
    config.total = {"steps": steps}
    config.optim.warmup_steps = min(config.optim.get("warmup_steps", 0), steps - 1)
    config.optim.min_lr = 0.0  # absolute, while the rate shrinks with the batch
    if "calibrate_batches" in config:
        config.calibrate_batches = 1
    config.log = {"every_steps": 1}
    config.checkpoint = {**config.get("checkpoint", {}), "every_steps": steps}
    now = config.method.encoder
    if now:
        tiny = "nano_stem" if now.size.endswith("_stem") else "nano"
        kind = now.size.split("_")[0]
        if is_cnn(kind):  # a misspelt one stays, and is named
            tiny = f"{kind}_nano" if kind in ("cnn", "cnn48", "crnn") else now.size
        now.size = tiny
        if "heads" in now:
            del now.heads
    for head in config.method.get("heads", {}).values():
        if "hidden" in head:
            head.hidden = 16
    for name in TOY.keys() & config.method.keys():
        config.method[name] = TOY[name]
    for evaluator in config.evals.values():
        evaluator.every_steps = 0
    if "probe" in config.evals:
        config.evals.probe.update(steps=2, rates=(1e-2,), train_lines=16, eval_lines=16)
    return config
