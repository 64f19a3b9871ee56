"""DiG (arXiv 2207.00193): contrast of windows and masked reconstruction, or one half of it.

    python -m dig_jax.main --config=configs/pretrain/dig.py:preset=cpu,records=records/lines --workdir=DIR
    ... dig.py:preset=lines,records=PATH,size=B     ... dig.py:preset=cpu,records=PATH,objective=gen|dis
    ... dig.py:preset=cpu --config.data.train=records/a,records/b*2    several record sets

| preset | what it is | expected |
|---|---|---|
| words | the official repository's: 32x128 words, 10 epochs, batch 1024 | not run here |
| words_paper | the same in the paper's 3 epochs | not run here |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| cpu | a 1 M-parameter network on two cores, an hour | not run at full length; docs/results.md |
| demo | the same on narrow crops, a few minutes: `make demo` | README |

objective: dig, dis (contrast only) or gen (reconstruction only). Two differences from the official words recipe: the
aspect ratio is kept (128 px windows or padding where the original squeezes), and augmentation runs at 32 px height.
Because of the first, recognisers on top of the words presets refuse words wider than 128 px: the flat position code ends there.
probe: labelled records for the light probe during the run, "none" for no probe; "" is the training records for lines
and cpu (they then need labels in the splits train and validation) and none for words. quick: two steps of a toy.
"""

from ml_collections.config_dict import placeholder

from configs import common

WORDS = {
    "size": "S", "patch": (4, 4), "width_px": 128, "channels": 3, "batch": 1024, "epochs": 10.0, "steps": 0,
    "position": "flat_1d", "lr": 1.5e-4, "weight_decay": 0.1, "warmup_steps": 5000, "min_lr": 1e-5,
    # The official optimiser decays the mask token, too: it is 3-D there.
    "optim": {"rules": (("/mask_token$", {"weight_decay": 0.1}), ("", {}))},
    "method": {"mask_ratio": 0.7, "mask_span": 1, "target": "pixel", "target_floor": 1e-6, "weight_contrast": 0.1,
               "recipe": "dig", "max_shift_px": None, "column_offset_max": 0, "projector_width": 4096,
               "projector_dim": 256, "pix_projector_width": 512, "decoder_width": 192},
}  # fmt: skip
LINES = {
    "size": "S", "patch": (8, 4), "width_px": 256, "channels": 1, "batch": 256, "epochs": 0.0, "steps": 20000,
    "position": "sincos_2d", "lr": 6e-4, "weight_decay": 0.05, "warmup_steps": 1000, "min_lr": 1e-6,
    "optim": {"b2": 0.95, "clip_norm": 1.0},
    # 384 + the 64 columns of a crop = 448 columns = 1,792 px: as far as the longest line of archiscribe reaches
    "method": {"mask_ratio": 0.7, "mask_span": 1, "target": "normalized", "target_floor": 0.05, "weight_contrast": 0.02,
               "recipe": "lines_light", "max_shift_px": 2.0, "column_offset_max": 384, "projector_width": 1024,
               "projector_dim": 256, "pix_projector_width": 512, "decoder_width": 192},
}  # fmt: skip
CPU = {
    **LINES, "size": "micro", "patch": (32, 4), "batch": 128, "steps": 4000, "lr": 2e-3, "warmup_steps": 100,
    "encoder": {"dtype": "bfloat16", "gelu": "tanh"},  # faster on a CPU with AMX: docs/results.md
    "method": {**LINES["method"], "mask_ratio": 0.6, "mask_span": 3, "projector_width": 256, "projector_dim": 128,
               "pix_projector_width": 256, "decoder_width": 128},
}  # fmt: skip
DEMO = {
    **CPU, "width_px": 128, "batch": 64, "steps": 900,
    "method": {**CPU["method"], "mask_ratio": 0.5, "mask_span": 2, "weight_contrast": 0.1, "window_px": 16,
               "max_shift_px": 4.0},
}  # fmt: skip
PRESETS = {"words": WORDS, "words_paper": {**WORDS, "epochs": 3.0}, "lines": LINES, "cpu": CPU, "demo": DEMO}


def get_config(arg=None):
    args = common.parse_arg(
        arg, preset="words", objective="dig", records="", size="", patch="", epochs=0.0, steps=0, batch=0, lr=0.0,
        dtype="", probe="", seed=0, quick=False,
    )  # fmt: skip
    if args.preset not in PRESETS:
        raise ValueError(f"preset={args.preset}: choose one of {', '.join(PRESETS)}")
    preset = PRESETS[args.preset]
    patch = tuple(int(side) for side in args.patch.split("x")) if args.patch else preset["patch"]
    encoder = common.vit(args.size or preset["size"], patch, position=preset["position"], **preset.get("encoder", {}))
    if args.dtype:
        encoder["dtype"] = args.dtype
    # Official heads, sizes and weights unless the preset says otherwise; weight_pixel is 1 in all of them.
    method = {"name": "dig", "objective": args.objective, "encoder": encoder, "window_px": 32, "temperature": 0.2,
              "momentum": 0.99, "weight_pixel": 1.0, **preset["method"]}  # fmt: skip
    if method["max_shift_px"] is None:  # unbounded; a placeholder, so that the command line can set a number
        method["max_shift_px"] = placeholder(float)
    config = common.base(seed=args.seed, batch_size=args.batch or preset["batch"], method=method)
    config.data = common.crops(args.records or placeholder(str), 32, preset["width_px"], preset["channels"])
    config.method.channels = config.data.get_ref("channels")
    steps, epochs = (args.steps, args.epochs) if args.steps or args.epochs else (preset["steps"], preset["epochs"])
    config.total = {"steps": steps or placeholder(int), "epochs": placeholder(float) if steps else epochs}
    config.optim = common.adamw(
        args.lr or preset["lr"], preset["weight_decay"], preset["warmup_steps"], lr_per=256, min_lr=preset["min_lr"],
        **preset["optim"],
    )  # fmt: skip
    config.evals = {"collapse": {"every_steps": 500}, "reconstruction": {"every_steps": 1000}}
    if args.probe != "none" and (args.probe or not args.preset.startswith("words")):
        config.evals.probe = {"every_steps": 1000, "sets": args.probe or placeholder(str)}
    if args.quick:
        common.quick(config)
        config.optim.min_lr = 0.0  # absolute, while the rate shrinks with the batch
        config.method.update(projector_width=64, projector_dim=32, pix_projector_width=64, decoder_width=48)
    return config
