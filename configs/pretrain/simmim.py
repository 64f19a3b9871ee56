"""SimMIM (arXiv 2111.09886): hidden blocks of a line, rebuilt from the rest by one linear layer.

    python -m dig_jax.main --config=configs/pretrain/simmim.py:preset=cpu,records=records/lines --workdir=DIR

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops, hidden pairs of columns | pixel loss 0.384, README |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words_simmim | the authors' recipe for photographs (target, 2 x 2 patches, 800 epochs), words as 32x128 px | not run here |

cpu and lines ask for normalised pixels, which is what made short runs of DiG's reconstruction
useful on lines. Of the authors' recipe, words_simmim has no crops, flips and layer scale.
"""

from configs import common

LINES = {
    **common.LINES,
    "method": {"mask_unit_px": (16, 8), "target": "normalized", "target_floor": 0.05,
               "column_offset_max": common.COLUMN_OFFSET_MAX},
}  # fmt: skip
CPU = {**common.CPU, "method": {**LINES["method"], "mask_unit_px": (32, 8)}}
WORDS = {
    **common.LINES, "size": "base768", "patch": (4, 4), "width_px": 128, "squeeze_px": 128, "channels": 3, "batch": 2048,
    "epochs": 800.0, "steps": 0, "lr": 5e-5, "min_lr": 0.0, "warmup_steps": 6250, "encoder": {"drop_path": 0.1},
    "optim": {"clip_norm": 5.0, "schedule": "steps", "drops": (0.875,), "drop": 0.1},
    "method": {"mask_unit_px": (8, 8), "target": "input"},
}  # fmt: skip
PRESETS = {"cpu": CPU, "lines": LINES, "words_simmim": WORDS}


def get_config(arg=None):
    return common.pretrain(arg, PRESETS, {"name": "simmim", "mask_ratio": 0.6})
