"""SSM (arXiv 2405.05841): a line and its mirror image, laid on top of each other, are taken apart
again.

    python -m dig_jax.main --config=ssm:preset=cpu,records=records/lines --workdir=DIR
    ... ssm:preset=lines,records=PATH,size=B
    ... ssm:preset=cpu --config.method.weight_contrast=0   pixels alone

| preset | what it is | expected; of cpu: docs/results_plain.md |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops | pixel 0.363, contrast 1.82, top-1 0.85 |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words | the authors' S: words of 32x128, batch 1152, 20 epochs of Union14M-U | not run here |

lines and cpu differ from words. Targets are normalised, with a smaller contrast to match. The
teacher sees the line turned, slanted and moved less, since lines are wide; it is sampled smoothly,
without black beyond the edge. The position code has random first columns.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines", "words")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("ssm")
    method = config.method
    method.target, method.target_floor = "normalized", 0.05
    method.momentum = 0.995
    method.weight_contrast = 0.05
    method.max_shift_px = 4.0
    method.affine = {"degrees": (-1.5, 1.5), "shear_x": (-15.0, 15.0), "down": (-0.05, 0.05)}
    method.column_offset_max = common.COLUMN_OFFSET_MAX
    method.projector_width, method.projector_dim = 1024, 256
    method.decoder_width, method.decoder_depth, method.decoder_heads = 256, 4, 8

    if args.preset == "cpu":
        common.cpu(config)
        method.projector_width, method.projector_dim = 256, 128
        method.decoder_width, method.decoder_depth, method.decoder_heads = 128, 2, 4
    if args.preset == "words":
        common.words(config)
        config.batch_size = 1152
        config.total = {"epochs": 20.0}
        method.target, method.target_floor = "pixel", 1e-6
        method.weight_contrast = 0.25
        method.max_shift_px = None
        del method.affine
        method.sampling = "nearest"
        method.column_offset_max = 0
        method.projector_width = 4096
        config.optim = {"lr": 5e-4 * 256 / 1152, "lr_per": 256, "warmup_steps": 8681}
        config.optim.update(weight_decay=0.05, b2=0.95)
    return common.finished(config, args)
