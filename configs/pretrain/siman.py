"""After SimAN (arXiv 2203.10492): rebuild one half of a line in the style of the other.

    python -m dig_jax.main --config=siman:preset=cpu,records=records/lines --workdir=DIR

| preset | what it is | expected; of cpu: docs/results_plain.md |
|---|---|---|
| cpu | a 1 M network, 128 px crops, halves of 64 px | pixel 0.014, adversary 0.48 |
| lines | 32 px high lines on an accelerator, random 256 px crops, halves of 128 px | not run yet |

There is no preset of the paper: its code is not public, and sizes, weights and length are not
verified (methods/siman.py). The adversary learns at half the rate of the rest: a rule of
config.optim.rules.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("siman")
    method = config.method
    method.weight_adversary = 0.01
    method.decoder_width, method.decoder_depth, method.decoder_heads = 256, 2, 4
    method.column_offset_max = common.COLUMN_OFFSET_MAX
    config.optim.rules = (("^adversary/", {"lr_scale": 0.5}), ("", {}))

    if args.preset == "cpu":
        common.cpu(config)
        method.decoder_width = 64
    return common.finished(config, args)
