"""MAE (arXiv 2111.06377, for text 2307.08723): an encoder of the visible patches, a light decoder
for the rest.

    python -m dig_jax.main --config=configs/pretrain/mae.py:preset=cpu,records=records/lines --workdir=DIR

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops, half of them in pairs of columns removed | pixel loss 0.436, README |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words_union14m | MAERec-S as published: words squeezed to 32x128, 20 epochs of Union14M-U, batch 1024 | not run here |

cpu and lines have a narrower and shallower decoder than the official one, which costs more than an
encoder of size S.
"""

from configs import common

LINES = {
    **common.LINES,
    "method": {"mask_ratio": 0.75, "mask_span": 1, "target": "normalized", "target_floor": 0.05, "decoder_width": 256,
               "decoder_depth": 4, "decoder_heads": 8, "column_offset_max": common.COLUMN_OFFSET_MAX},
}  # fmt: skip
# Ratio and runs are those that worked for DiG's reconstruction at this size.
CPU = {
    **common.CPU,
    "method": {**LINES["method"], "mask_ratio": 0.5, "mask_span": 2, "decoder_width": 64, "decoder_depth": 2,
               "decoder_heads": 4},
}  # fmt: skip
WORDS = {
    **common.LINES, "patch": (4, 4), "width_px": 128, "squeeze_px": 128, "channels": 3, "batch": 1024, "epochs": 20.0,
    "steps": 0, "position": "square_2d", "lr": 1.5e-4, "min_lr": 0.0, "warmup_steps": 19531,
    # The official optimiser decays the two tokens, too: they are 3-D there.
    "optim": {"b2": 0.95, "rules": (("(cls|mask)_token$", {"weight_decay": 0.05}), ("", {}))},
    "method": {"mask_ratio": 0.75, "decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16, "cls": True,
               "target": "normalized_joint", "target_floor": 5e-4},
}  # fmt: skip
PRESETS = {"cpu": CPU, "lines": LINES, "words_union14m": WORDS}


def get_config(arg=None):
    return common.pretrain(arg, PRESETS, {"name": "mae"})
