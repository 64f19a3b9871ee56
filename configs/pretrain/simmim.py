"""SimMIM (arXiv 2111.09886): hidden blocks of a line, rebuilt from the rest by one linear layer.

    python -m dig_jax.main --config=simmim:preset=cpu,records=records/lines --workdir=DIR

| preset | what it is | expected; of cpu: docs/results_plain.md |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops, hidden pairs of columns | pixel loss 0.384 |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words_simmim | the authors' target, 2 x 2 patches, 800 epochs; words of 32x128 px | not run here |

cpu and lines ask for normalised pixels, which is what made short runs of DiG's reconstruction
useful on lines. Of the authors' recipe, words_simmim has no crops, flips and layer scale.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines", "words_simmim")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("simmim")
    method = config.method
    method.mask_ratio, method.mask_unit_px = 0.6, (16, 8)
    method.target, method.target_floor = "normalized", 0.05
    method.column_offset_max = common.COLUMN_OFFSET_MAX

    if args.preset == "cpu":
        common.cpu(config)
        method.mask_unit_px = (32, 8)
    if args.preset == "words_simmim":
        common.words(config)
        config.batch_size = 2048
        config.total = {"epochs": 800.0}
        method.encoder.update(size="base768", drop_path=0.1)
        method.mask_unit_px = (8, 8)
        method.target = "input"
        del method.target_floor
        method.column_offset_max = 0
        config.optim = {"lr": 5e-5, "lr_per": 256, "warmup_steps": 6250, "weight_decay": 0.05}
        config.optim.update(clip_norm=5.0, schedule="steps", drops=(0.875,), drop=0.1)
        config.optim.rules = (("^encoder/mask_token$", {"weight_decay": 0.05}), ("", {}))
    return common.finished(config, args)
