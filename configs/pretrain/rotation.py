"""Rotation (RotNet, arXiv 1803.07728): is the line the right way up?

    python -m dig_jax.main --config=configs/pretrain/rotation.py:preset=cpu,records=records/lines --workdir=DIR
    ... rotation.py:preset=lines,records=PATH,size=B     ... --config.method.classes=4    90 and 270 degrees as well

| preset | what it is | expected |
|---|---|---|
| cpu | 0 or 180 degrees, a 1 M-parameter network, 128 px crops | accuracy 0.992, README |
| lines | the same for an accelerator, random 256 px crops | not run yet |
| words | as "Fewer Labels" (arXiv 2103.04400): four angles of words squeezed to 32x100, a CNN, 200,000 steps | not run here |

words trains the BiLSTM behind the CNN too, which the source adds later. A step costs method.classes
rows a line. quick: two steps of a toy.
"""

from ml_collections.config_dict import placeholder

from configs import common

LINES = {
    **common.LINES,
    "method": {"classes": 2, "square_cells": True, "column_offset_max": common.COLUMN_OFFSET_MAX},
}
CPU = {**common.CPU, "method": LINES["method"]}
WORDS = {
    **common.LINES, "size": "crnn", "width_px": 100, "squeeze_px": 100, "batch": 128, "steps": 200000, "lr": 0.1,
    "warmup_steps": 0, "weight_decay": 5e-4, "min_lr": 0.0,
    "optim": {"name": "sgd", "lr_per": placeholder(int), "schedule": "steps", "drops": (0.3, 0.6, 0.8), "drop": 0.2,
              "clip_norm": 5.0, "rules": (("", {"weight_decay": 5e-4}),)},
    "method": {"classes": 4, "square_cells": False, "column_offset_max": 0},
}  # fmt: skip
PRESETS = {"cpu": CPU, "lines": LINES, "words": WORDS}


def get_config(arg=None):
    return common.pretrain(arg, PRESETS, {"name": "rotation"})
