"""Relative position (Doersch et al., arXiv 1505.05192): on which side of a window does another one
lie, and how far?

    python -m dig_jax.main --config=configs/pretrain/relative_position.py:preset=cpu,records=records/lines --workdir=DIR
    ... relative_position.py:preset=lines,records=PATH,size=B

| preset | what it is | expected |
|---|---|---|
| cpu | 1 or 2 windows to the left or right, a 1 M-parameter network, 256 px crops | at chance, docs/results.md |
| seams | the next window on the left or right, touching, seen side by side by a CNN + BiLSTM | learnt, docs/results.md |
| lines | the same as cpu for an accelerator | not run yet |

Lines narrower than the 2 reach + 1 windows do not count (train/used), here 240, 192 and 240 px.
Only two windows of a line are encoded, so a step is cheap for its crops. The paper's own recipe
(photographs, AlexNet-like, SGD) has no counterpart. quick: two steps of a toy.
"""

from configs import common

LINES = {
    **common.LINES,
    "method": {"reach": 2, "window_px": 40, "gap_px": 8, "jitter_px": 8, "recipe": "lines_light", "tile_width": 512,
               "projector_width": 1024, "context_free": True, "column_offset_max": common.COLUMN_OFFSET_MAX},
}  # fmt: skip
CPU = {
    **common.CPU,
    "width_px": LINES["width_px"],
    "method": {**LINES["method"], "tile_width": 256, "projector_width": 256},
}
SEAMS = {
    **CPU, "size": "crnn_micro", "width_px": 192,
    "method": {**CPU["method"], "context_free": False, "reach": 1, "window_px": 64, "gap_px": 0, "jitter_px": 0},
}  # fmt: skip
PRESETS = {"cpu": CPU, "seams": SEAMS, "lines": LINES}


def get_config(arg=None):
    return common.pretrain(arg, PRESETS, {"name": "relative_position"})
