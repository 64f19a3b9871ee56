"""Jigsaw (Noroozi and Favaro, arXiv 1603.09246): windows of a line, shuffled by one of a few
permutations.

    python -m dig_jax.main --config=jigsaw:preset=cpu,records=records/lines --workdir=DIR
    ... jigsaw:preset=lines,records=PATH,size=B

| preset | what it is | expected |
|---|---|---|
| cpu | 4 windows in 12 of 24 orders, a 1 M network, 192 px crops | at chance, results_plain.md |
| seams | 3 windows that touch, in 6 orders, before one CNN + BiLSTM | learnt, results_plain.md |
| lines | 5 windows in 20 of 120 orders for an accelerator, 256 px crops | not run yet |

Any two of these orders differ in three places or more; more orders than 12 and 22 do not. Lines
narrower than the row of windows do not count (train/used): windows * (window_px + gap_px) - gap_px
+ jitter_px, here 192, 192 and 240 px. The paper's own recipe (9 tiles of photographs, AlexNet, 1000
permutations) has no counterpart. quick: two steps of a toy.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "seams", "lines")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("jigsaw")
    method = config.method
    method.windows, method.permutations = 5, 20
    method.window_px, method.gap_px, method.jitter_px = 40, 8, 8
    method.recipe = "lines_light"
    method.context_free = True
    method.tile_width, method.projector_width = 512, 1024
    method.column_offset_max = common.COLUMN_OFFSET_MAX

    if args.preset in ("cpu", "seams"):
        common.cpu(config)
        config.data.width_px = 192
        method.windows, method.permutations = 4, 12
        method.tile_width, method.projector_width = 256, 256
    if args.preset == "seams":
        method.encoder = common.encoder("crnn_micro")
        method.windows, method.permutations = 3, 6
        method.window_px, method.gap_px, method.jitter_px = 64, 0, 0
        method.context_free = False
    return common.finished(config, args)
