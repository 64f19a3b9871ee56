"""Jigsaw (Noroozi and Favaro, arXiv 1603.09246): windows of a line, shuffled by one of a few
permutations.

    python -m dig_jax.main --config=configs/pretrain/jigsaw.py:preset=cpu,records=records/lines --workdir=DIR
    ... jigsaw.py:preset=lines,records=PATH,size=B

| preset | what it is | expected |
|---|---|---|
| cpu | 4 windows in 12 of 24 orders, a 1 M-parameter network, 192 px crops | at chance, docs/results.md |
| seams | 3 windows that touch in all 6 orders, seen side by side by a CNN + BiLSTM | learnt, docs/results.md |
| lines | 5 windows in 20 of 120 orders for an accelerator, 256 px crops | not run yet |

Any two of these orders differ in three places or more; more orders than 12 and 22 do not. Lines
narrower than the row of windows do not count (train/used): windows * (window_px + gap_px) - gap_px
+ jitter_px, here 192, 192 and 240 px. The paper's own recipe (9 tiles of photographs, AlexNet, 1000
permutations) has no counterpart. quick: two steps of a toy.
"""

from configs import common

LINES = {
    **common.LINES,
    "method": {"windows": 5, "permutations": 20, "window_px": 40, "gap_px": 8, "jitter_px": 8, "recipe": "lines_light",
               "tile_width": 512, "projector_width": 1024, "context_free": True, "column_offset_max": common.COLUMN_OFFSET_MAX},
}  # fmt: skip
CPU = {
    **common.CPU, "width_px": 192,
    "method": {**LINES["method"], "windows": 4, "permutations": 12, "tile_width": 256, "projector_width": 256},
}  # fmt: skip
SEAMS = {
    **CPU, "size": "crnn_micro", "width_px": 192,
    "method": {**CPU["method"], "context_free": False, "windows": 3, "permutations": 6, "window_px": 64, "gap_px": 0,
               "jitter_px": 0},
}  # fmt: skip
PRESETS = {"cpu": CPU, "seams": SEAMS, "lines": LINES}


def get_config(arg=None):
    return common.pretrain(arg, PRESETS, {"name": "jigsaw"})
