"""MAE (arXiv 2111.06377, for text 2307.08723): an encoder of the visible patches, a light decoder
for the rest.

    python -m dig_jax.main --config=mae:preset=cpu,records=records/lines --workdir=DIR
    ... mae:preset=cpu,can,records=PATH    CAN (2210.16870): two views, contrast and noise as well

| preset | what it is | expected; of cpu: docs/results_plain.md |
|---|---|---|
| cpu | a 1 M network, 128 px crops, half removed in pairs of columns | pixel loss 0.436 |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words_union14m | MAERec-S: words of 32x128, 20 epochs of Union14M-U, batch 1024 | not run here |

cpu and lines have a narrower and shallower decoder than the official one, which costs more than an
encoder of size S.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines", "words_union14m")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS, can=False)
    config = common.pretraining("mae")
    method = config.method
    method.mask_ratio = 0.75
    method.target, method.target_floor = "normalized", 0.05
    method.decoder_width, method.decoder_depth, method.decoder_heads = 256, 4, 8
    method.column_offset_max = common.COLUMN_OFFSET_MAX

    if args.preset == "cpu":
        common.cpu(config)
        # Ratio and runs are those that worked for DiG's reconstruction at this size.
        method.mask_ratio, method.mask_span = 0.5, 2
        method.decoder_width, method.decoder_depth, method.decoder_heads = 64, 2, 4
    if args.can:
        method.mask_ratio = 0.5
        method.can = {"recipe": "lines_light", "max_shift_px": 2.0, "noise_max": 0.05}
        method.can.update(temperature=0.1, projector_width=256 if args.preset == "cpu" else 1024)
        method.can.update(weight_contrast=0.03, weight_pixel=0.70, weight_noise=0.27)
    if args.preset == "words_union14m":
        common.words(config)
        config.batch_size = 1024
        config.total = {"epochs": 20.0}
        method.encoder.position = "square_2d"
        method.cls = True
        method.target, method.target_floor = "normalized_joint", 5e-4
        method.decoder_width, method.decoder_depth, method.decoder_heads = 512, 8, 16
        method.column_offset_max = 0
        config.optim = {"lr": 1.5e-4, "lr_per": 256, "warmup_steps": 19531, "b2": 0.95}
        config.optim.weight_decay = 0.05
        # The official optimiser decays the two tokens, too: they are 3-D there.
        config.optim.rules = (("(cls|mask)_token$", {"weight_decay": 0.05}), ("", {}))
    return common.finished(config, args)
