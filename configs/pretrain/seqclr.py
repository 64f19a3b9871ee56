"""SeqCLR (arXiv 2012.10873): contrast between stretches of a line.

    python -m dig_jax.main --config=seqclr:preset=cpu,records=records/lines --workdir=DIR
    ... seqclr:preset=cpu,records=PATH,projection=none|mlp|bilstm
    ... --config.method.window_px=4    one instance a frame
    ... --config.method.displace_px=64 --config.data.width_px=192    views up to 2 windows apart

| preset | what it is | expected; of cpu: docs/results_plain.md |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops, 4 windows | contrast 0.16, top-1 0.998 |
| lines | 32 px high lines on an accelerator, random 256 px crops, 8 windows | not run yet |
| words | the paper's: words of 32x100, CNN + BiLSTM, 5 windows, 300,000 steps | not run yet |

words departs from the paper in the optimiser: AdamW, at the rate of Adam in the authors' later
code, for what is remembered as Adadelta. The paper's rectification is
--config.method.encoder.fiducials=20. The recipe of augmentation is the paper's in all presets.
recipe=seqclr_1 is what the authors' later code ships, recipe=seqclr_0 that of ABINet.
method.max_shift_px bounds the way of text sideways in each view, so two views' windows are at most
twice as far apart.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines", "words")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS, projection="mlp")
    config = common.pretraining("seqclr")
    method = config.method
    method.projection = args.projection
    method.window_px = 32
    method.recipe, method.max_shift_px = "seqclr_2", 2.0
    method.projector_width, method.projector_dim = 512, 256
    method.column_offset_max = common.COLUMN_OFFSET_MAX

    if args.preset == "cpu":
        common.cpu(config)
        method.projector_width, method.projector_dim = 256, 128
    if args.preset == "words":
        common.words(config, width_px=100, channels=1)
        config.total.steps = 300000
        config.optim.update(lr=1e-4, weight_decay=1e-4)
        method.encoder = common.encoder("crnn")
        method.window_px = 20
        method.projector_dim = 512
        method.column_offset_max = 0
    return common.finished(config, args)
