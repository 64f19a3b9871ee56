"""iBOT (arXiv 2111.07832): hidden tokens say what a teacher makes of them, and windows of two views
the same.

    python -m dig_jax.main --config=ibot:preset=cpu,records=records/lines --workdir=DIR
    ... ibot:preset=cpu,size=cnn48_lstm,records=PATH    a CNN with LSTMs in place of the ViT

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops, windows of 32 px | not run here |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |

With size=cnn48 windows are 48 px wide, the same on paper. The authors recognise with the teacher:
--config.init_parts='("teacher/encoder->params/encoder",)'.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("ibot")
    method = config.method
    method.window_px = 32
    method.mask_ratio, method.mask_span = 0.3, 2
    method.recipe, method.max_shift_px = "lines_light", 2.0
    method.column_offset_max = common.COLUMN_OFFSET_MAX
    method.prototypes = 2048
    method.projector_width, method.projector_dim = 1024, 256
    config.optim.clip_norm = 3.0
    if args.preset == "cpu":
        common.cpu(config)
        config.optim.lr = 2e-3
        method.prototypes = 512
        method.projector_width, method.projector_dim = 256, 64
    # The authors' last layer has no gradient at first.
    last = {"freeze_frac": 0.01, "weight_decay": config.optim.weight_decay}
    config.optim.rules = (("^projector/prototypes$", last), ("", {}))
    return common.finished(config, args)
