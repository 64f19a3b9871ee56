"""SimCLR (arXiv 2002.05709) on whole lines.

    python -m dig_jax.main --config=configs/pretrain/simclr.py:preset=cpu,records=records/lines --workdir=DIR

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops | contrast 0.095, top-1 0.999, README |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |

There is no preset of the paper: its recipe (LARS, 224 px photographs, 100 to 1000 epochs of batch
4096) has no counterpart for lines but the temperature, the projector and, without crops and flips,
the augmentation: recipe=simclr. max_shift_px bounds the way of text sideways. The default
"lines_light" is much easier than "dig": on archiscribe, cpu with batch=32, 75 % of the views found
their partner after 200 steps of the one and 7 % after 300 steps of the other. Larger batches mean
more negatives; where their 2B x 2B products do not fit, set method.loss_chunk.
"""

from ml_collections.config_dict import placeholder

from configs import common

LINES = {
    **common.LINES,
    "method": {"projector_dim": 128, "column_offset_max": common.COLUMN_OFFSET_MAX},
}
CPU = {**common.CPU, "method": {**LINES["method"], "projector_width": 256}}
PRESETS = {"cpu": CPU, "lines": LINES}


def get_config(arg=None):
    method = {
        "name": "simclr", "temperature": 0.1, "projector_layers": 3, "projector_width": placeholder(int),
        "recipe": "lines_light", "max_shift_px": 8.0, "loss_chunk": placeholder(int),
    }  # fmt: skip
    return common.pretrain(arg, PRESETS, method)
