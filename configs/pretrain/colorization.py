"""Colourisation (Zhang et al., arXiv 1603.08511, in its plain mean-square form): the colours of a
grey line.

    python -m dig_jax.main --config=colorization:preset=cpu,records=records/words --workdir=DIR
    ... colorization:preset=lines,records=PATH,size=B

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M network, 128 px crops in colour | 1,500 steps of words: results_plain.md |
| lines | the same for an accelerator, 256 px crops | not run yet |

For records in colour, such as photographed words; of grey scans nothing can be learnt
(train/baseline near 0 says so). Both presets read three channels. The papers' own recipes
(ImageNet, VGG-like) have no counterpart. quick: two steps of a toy.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("colorization")
    config.data.update(channels=3, contrast=None)  # colours as they are
    config.method.decoder_width = 192
    config.method.column_offset_max = common.COLUMN_OFFSET_MAX

    if args.preset == "cpu":
        common.cpu(config)
        config.method.decoder_width = 128
    return common.finished(config, args)
