"""From scratch: the recogniser of `finetune.py` with the same budget and a random encoder. What
pre-training must beat.

    python -m dig_jax.main --config=configs/recognize/scratch.py:like=PRETRAIN_DIR,labels=0.1 --workdir=DIR
    python -m dig_jax.main --config=configs/recognize/scratch.py:size=micro,records=records/lines --workdir=DIR

like: a pre-training whose encoder shape, height, channels and records are taken, but no weight.
Otherwise size and patch state the encoder. The figure is the lowest validation CER along the run.
"""

from configs import common


def get_config(arg=None):
    args = common.parse_arg(
        arg, **common.FINE_TUNING, like="", size="micro", patch="8x4", height=32, channels=1
    )
    config = common.fine_tuning(args, like=args.like)
    if not args.like:
        config.method.encoder = common.network(
            args.size, tuple(int(side) for side in args.patch.split("x"))
        )
        config.data.update(height_px=args.height, channels=args.channels)
    return common.quick(config) if args.quick else config
