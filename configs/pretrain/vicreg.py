"""VICReg (arXiv 2105.04906): views agree, features keep their spread and say different things.

    python -m dig_jax.main --config=vicreg:preset=cpu,records=records/lines --workdir=DIR
    ... vicreg:preset=cpu,size=cnn48_lstm,records=PATH    a CNN with LSTMs in place of the ViT
    ... --config.method.window_px=None                    whole lines in place of windows

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops, windows of 32 px | not run here |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |

With size=cnn48 windows are 48 px wide, the same on paper.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("vicreg")
    method = config.method
    method.window_px = 32
    method.recipe, method.max_shift_px = "lines_light", 2.0
    method.column_offset_max = common.COLUMN_OFFSET_MAX
    method.projector_width = 2048
    if args.preset == "cpu":
        common.cpu(config)
        config.optim.lr = 2e-3
        method.projector_width = 512
    return common.finished(config, args)
