"""From scratch: the recogniser of `finetune.py` with the same budget and a random encoder. What pre-training must beat.

    python -m dig_jax.main --config=configs/recognize/scratch.py:like=PRETRAIN_DIR,labels=0.1 --workdir=DIR
    python -m dig_jax.main --config=configs/recognize/scratch.py:size=micro,records=records/lines --workdir=DIR

like: a pre-training whose encoder shape, height, channels and records are taken, but no weight. Otherwise size and
patch state the encoder. The figure is the lowest validation CER along the run.
"""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg=None):
    args = common.parse_arg(
        arg, decoder="ctc", head="linear", records="", labels="", like="", size="micro", patch="8x4", height=32,
        channels=1, lr=1e-3, encoder_lr=1.0, steps=1000, batch=32, seed=0, quick=False,
    )  # fmt: skip
    head = common.reader(args.decoder, args.head)
    config = common.base(
        seed=args.seed,
        batch_size=args.batch,
        calibrate_batches=100,
        like=args.like,
        inherit=("method.encoder", "data.train", "data.height_px", "data.channels", "data.squeeze_px"),
        method={
            "name": "recognize",
            "encoder": placeholder(object),
            "heads": {"ctc": head},
            "frames": "concat",
            "frozen": False,
            "standardize": True,  # with the features of step 0: without it a pre-trained start hardly learns
            "drop_path": 0.0,
            "recipe": placeholder(object),  # augmentation: "lines_light"; none in the published figures
            "max_shift_px": 4.0,  # of the augmentation
        },
        optim=common.adamw(
            lr=args.lr, weight_decay=0.05, warmup_steps=args.steps // 10, b2=0.98, clip_norm=1.0,
            rules=common.encoder_rate(args.encoder_lr),
        ),  # fmt: skip
        evals={"recognition": {"every_steps": max(args.steps // 10, 1), "batch_size": 64, "datasets": placeholder(object)}},
    )
    config.total.steps = args.steps
    config.data = common.lines(args.records or placeholder(str), placeholder(int), placeholder(int))
    if not args.like:
        config.method.encoder = common.network(args.size, tuple(int(side) for side in args.patch.split("x")))
        config.data.update(height_px=args.height, channels=args.channels)
    config.data.subset = common.label_subset(args.labels)
    config.data.subset_seed = args.seed  # another seed is another choice of lines, too
    config.checkpoint.best_metric = "eval/cer"
    config.checkpoint.every_steps = max(args.steps // 10, 1)
    return common.quick(config) if args.quick else config
