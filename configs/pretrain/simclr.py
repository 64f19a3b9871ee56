"""SimCLR (arXiv 2002.05709) on whole lines.

    python -m dig_jax.main --config=simclr:preset=cpu,records=records/lines --workdir=DIR

| preset | what it is | expected; of cpu: docs/results_plain.md |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops | contrast 0.095, top-1 0.999 |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |

There is no preset of the paper. Its recipe (LARS, 224 px photographs, 100 to 1000 epochs of batch
4096) has little counterpart for lines. Shared are the temperature, the projector and, without crops
and flips, the augmentation: recipe=simclr. max_shift_px bounds the way of text sideways. The
default "lines_light" is much easier than "dig". On archiscribe, cpu with batch=32, 75 % of the
views found their partner after 200 steps of the one and 7 % after 300 steps of the other. Larger
batches mean more negatives; where their 2B x 2B products do not fit, set method.loss_chunk.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("simclr")
    method = config.method
    method.temperature = 0.1
    method.recipe, method.max_shift_px = "lines_light", 8.0
    method.projector_layers, method.projector_dim = 3, 128
    method.column_offset_max = common.COLUMN_OFFSET_MAX

    if args.preset == "cpu":
        common.cpu(config)
        method.projector_width = 256
    return common.finished(config, args)
