"""After SimAN (arXiv 2203.10492): rebuild one half of a line in the style of the other.

    python -m dig_jax.main --config=configs/pretrain/siman.py:preset=cpu,records=records/lines --workdir=DIR

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops, halves of 64 px | pixel 0.014, adversary 0.48, README |
| lines | 32 px high lines on an accelerator, random 256 px crops, halves of 128 px | not run yet |

There is no preset of the paper: its code is not public, and sizes, weights and length are not
verified (methods/siman.py). The adversary learns at half the rate of the rest: a rule of
config.optim.rules.
"""

from configs import common

RULES = (("^adversary/", {"lr_scale": 0.5}), ("", {}))
METHOD = {"weight_adversary": 0.01, "decoder_width": 256, "decoder_depth": 2, "decoder_heads": 4,
          "column_offset_max": common.COLUMN_OFFSET_MAX}  # fmt: skip
LINES = {**common.LINES, "optim": {**common.LINES["optim"], "rules": RULES}, "method": METHOD}
CPU = {**common.CPU, "optim": LINES["optim"], "method": {**METHOD, "decoder_width": 64}}
PRESETS = {"cpu": CPU, "lines": LINES}


def get_config(arg=None):
    return common.pretrain(arg, PRESETS, {"name": "siman"})
