"""Fine-tuning: encoder and CTC reader trained together, from a pre-training.

    python -m dig_jax.main --config=configs/recognize/finetune.py:labels=0.1 --config.init_from=PRETRAINED --workdir=DIR
    ... finetune.py:labels=100,seed=1,head=bilstm,lr=5e-4

Encoder, height, channels and records are those of the pre-training, unless given here. `scratch.py` is the same without
the pre-training; compare the two with the same arguments. encoder_lr: the encoder's rate as a share of lr. teacher: start
from the pre-training's averaged encoder. The figure is the lowest validation CER along the run.
"""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg=None):
    args = common.parse_arg(
        arg, decoder="ctc", head="linear", records="", labels="", lr=1e-3, encoder_lr=1.0, teacher=False, steps=1000,
        batch=32, seed=0, quick=False,
    )  # fmt: skip
    head = common.reader(args.decoder, args.head)
    config = common.base(
        seed=args.seed,
        batch_size=args.batch,
        calibrate_batches=100,
        init_parts=("teacher/encoder->params/encoder" if args.teacher else "params/encoder",),
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
    config.data.subset = common.label_subset(args.labels)
    config.data.subset_seed = args.seed  # another seed is another choice of lines, too
    config.checkpoint.best_metric = "eval/cer"
    config.checkpoint.every_steps = max(args.steps // 10, 1)
    return common.quick(config) if args.quick else config
