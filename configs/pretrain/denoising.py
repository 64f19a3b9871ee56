"""Denoising autoencoder (Vincent et al., ICML 2008): every pixel of a line from a spoilt copy.

    python -m dig_jax.main --config=denoising:preset=cpu,records=records/lines --workdir=DIR
    ... denoising:preset=lines,records=PATH,size=B     ... denoising:preset=masking,records=PATH

| preset | what it is | expected; of cpu: docs/results_plain.md |
|---|---|---|
| cpu | half of the pixels lost, noise, blur; a 1 M network, 128 px crops | pixel 0.174 |
| lines | the same for an accelerator, random 256 px crops | not run yet |
| masking | the paper's noise alone: a quarter of the pixels lost; raw targets | not run here |

quick: two steps of a toy.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines", "masking")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("denoising")
    method = config.method
    method.drop, method.noise_sigma, method.blur_sigma_px = 0.5, 0.2, 1.5
    method.target, method.target_floor = "normalized", 0.05
    method.decoder_width = 192
    method.column_offset_max = common.COLUMN_OFFSET_MAX

    if args.preset == "cpu":
        common.cpu(config)
        method.decoder_width = 128
    if args.preset == "masking":
        method.drop, method.noise_sigma, method.blur_sigma_px = 0.25, 0.0, 0.0
        method.target = "pixel"
    return common.finished(config, args)
