"""Latent targets (data2vec, arXiv 2202.03555): a masked line says what a teacher makes of the whole
line.

    python -m dig_jax.main --config=latent:preset=cpu,records=records/lines --workdir=DIR
    ... latent:preset=cpu,records=PATH,target=pixels       the same loss on pixels, no teacher
    ... latent:preset=cpu,records=PATH,teacher=runs/mae    a fixed teacher: the encoder of that run
    ... latent:preset=cpu,records=PATH,size=cnn48_lstm     a CNN with LSTMs in place of the ViT

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops, hidden runs of 4 columns | not run here |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |

The student has the encoder, height, channels and contrast of the teacher that is given. One
imported with position codes of one width also needs --config.method.column_offset_max=0. The
moving average is faster than the authors', since runs are short.
"""

from ml_collections.config_dict import placeholder

from dig_jax.configs import common

PRESETS = ("cpu", "lines")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS, target="ema", teacher="")
    config = common.pretraining("latent")
    method = config.method
    if args.teacher and args.target != "fixed":
        common.refuse(arg, "teacher= is the target", "target")
    method.target = "fixed" if args.teacher else args.target
    method.mask_ratio, method.mask_span = 0.6, 4
    method.momentum, method.momentum_end, method.momentum_frac = 0.996, 0.9995, 0.5
    method.column_offset_max = common.COLUMN_OFFSET_MAX
    if args.preset == "cpu":
        common.cpu(config)
        config.optim.lr = 2e-3
        method.mask_ratio = 0.5
    if method.target == "fixed":
        if not args.teacher:
            raise ValueError("target=fixed has no teacher: add teacher=RUN, whose encoder it takes")
        config.init_from = args.teacher
        config.init_parts = ("params/encoder->teacher/encoder",)
    config = common.finished(config, args)
    if args.teacher and not args.size:
        if args.patch or args.dtype:
            raise ValueError("the encoder is the teacher's: leave patch= and dtype= out")
        config.data.width_px = config.data.width_px * 9 // 8  # whole columns of 4, 6 and 8 px
        shape = ("height_px", "channels", "contrast")
        config.inherit = ("method.encoder", *(f"data.{name}" for name in shape))
        del config.method.encoder, config.method.channels
        for name in shape:
            del config.data[name]
            config.data[name] = placeholder(object)
        config.method.channels = config.data.get_ref("channels")  # one option
        config.method.encoder = placeholder(object)
    return config
