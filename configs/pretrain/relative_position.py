"""Relative position (Doersch et al., arXiv 1505.05192): on which side of a window does another one
lie, and how far?

    python -m dig_jax.main --config=relative_position:preset=cpu,records=records/lines --workdir=DIR
    ... relative_position:preset=lines,records=PATH,size=B

| preset | what it is | expected |
|---|---|---|
| cpu | 1 or 2 windows to a side, a 1 M network, 256 px crops | at chance, results_plain.md |
| seams | the next window, touching, seen beside it by a CNN + BiLSTM | learnt, results_plain.md |
| lines | the same as cpu for an accelerator | not run yet |

Lines narrower than the 2 reach + 1 windows do not count (train/used), here 240, 192 and 240 px.
Only two windows of a line are encoded, so a step is cheap for its crops. The paper's own recipe
(photographs, AlexNet-like, SGD) has no counterpart. quick: two steps of a toy.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "seams", "lines")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("relative_position")
    method = config.method
    method.reach = 2
    method.window_px, method.gap_px, method.jitter_px = 40, 8, 8
    method.recipe = "lines_light"
    method.context_free = True
    method.tile_width, method.projector_width = 512, 1024
    method.column_offset_max = common.COLUMN_OFFSET_MAX

    if args.preset in ("cpu", "seams"):
        common.cpu(config)
        config.data.width_px = 256
        method.tile_width, method.projector_width = 256, 256
    if args.preset == "seams":
        config.data.width_px = 192
        method.encoder = common.encoder("crnn_micro")
        method.reach = 1
        method.window_px, method.gap_px, method.jitter_px = 64, 0, 0
        method.context_free = False
    return common.finished(config, args)
