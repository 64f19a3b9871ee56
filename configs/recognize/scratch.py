"""From scratch: the recogniser of `finetune.py` with the same budget and a random encoder. What
pre-training must beat.

    python -m dig_jax.main --config=scratch:shape_from=PRETRAIN_DIR,labels=0.1 --workdir=DIR
    python -m dig_jax.main --config=scratch:records=records/lines --workdir=DIR
    ... scratch:records=records/lines,size=micro,patch=32x4        a ViT in place of the CNN
    ... scratch:preset=words_cpu,records=records/words             photographed words
    ... scratch:preset=plain,shape_from=PRETRAIN_DIR,labels=0.1    the tables before this recipe

Expected of 336 lines of archiscribe (labels=0.1,size=cnn48): 2.7 % validation CER, and 2.3 % with
steps=4000, one seed.

shape_from: a pre-training whose encoder shape, height, channels and records are taken, but no
weight. Otherwise size and patch state the encoder. The figure is the lowest validation CER along
the run.

preset=words_cpu: photographed words squeezed to 32 x 128, a CNN + BiLSTM of 1.6 M parameters, light
augmentation, 4,000 steps of 32 words.
"""

from dig_jax.configs import common


def get_config(arg=None):
    own = {"shape_from": "", "size": "cnn", "patch": "32x4", "height": 0, "channels": 1}
    args = common.fine_tuning_args(arg, **own)
    config = common.fine_tuning(args)
    config.shape_from = args.shape_from
    if args.shape_from:
        shape = own.keys() - {"shape_from"}
        common.refuse(arg, "the encoder is that of shape_from", *shape)
    else:
        config.method.encoder = common.encoder(args.size, common.patch(args.patch))
        high = args.height or common.height_of(args.size)
        config.data.update(height_px=high, channels=args.channels)
        if args.preset == "strong":
            config.data.contrast = "stretch"
    return common.quick(config) if args.quick else config
