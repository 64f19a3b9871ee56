"""MoCo v2 (arXiv 2003.04297) and v1 (arXiv 1911.05722): contrast against a queue of keys.

    python -m dig_jax.main --config=configs/pretrain/moco.py:preset=cpu,records=records/lines --workdir=DIR

| preset | what it is | expected |
|---|---|---|
| cpu | v2, a 1 M-parameter network, 128 px crops | contrast 3.97, top-1 of 2,049 keys 0.67, README |
| lines | v2, 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words | v1 as "Fewer Labels" (arXiv 2103.04400) ran it: words squeezed to 32x100, CNN + BiLSTM, 200,000 steps | not run yet |

method.queue must be a multiple of the batch (times its windows where method.window_px is set); one
that is longer than an epoch holds a line's own older keys. words departs in the augmentations (MoCo
v2's, without crops and flips). method.max_shift_px bounds the way of text sideways.
"""

from ml_collections.config_dict import placeholder

from configs import common

V1 = {"head": "linear", "temperature": 0.07}
V2 = {"head": "mlp", "temperature": 0.2}
LINES = {
    **common.LINES,
    "method": {**V2, "queue": 65536, "projector_width": 2048, "recipe": "lines_light",
               "column_offset_max": common.COLUMN_OFFSET_MAX},
}  # fmt: skip
CPU = {**common.CPU, "method": {**LINES["method"], "queue": 2048, "projector_width": 256}}
WORDS = {
    **common.LINES, "size": "crnn", "width_px": 100, "squeeze_px": 100, "steps": 200000, "lr": 0.03, "warmup_steps": 0,
    "weight_decay": 1e-4, "min_lr": 0.0,
    "optim": {"name": "sgd", "schedule": "steps", "drops": (0.6, 0.8), "rules": (("", {"weight_decay": 1e-4}),)},
    "method": {**V1, "queue": 65536, "recipe": "mocov2", "column_offset_max": 0},
}  # fmt: skip
PRESETS = {"cpu": CPU, "lines": LINES, "words": WORDS}


def get_config(arg=None):
    method = {
        "name": "moco", "momentum": 0.999, "projector_dim": 128, "window_px": placeholder(int),
        "max_shift_px": 8.0,
    }  # fmt: skip
    return common.pretrain(arg, PRESETS, method)
