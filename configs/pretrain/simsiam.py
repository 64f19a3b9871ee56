"""SimSiam (arXiv 2011.10566): two views predict each other, without negatives and without a teacher.

    python -m dig_jax.main --config=configs/pretrain/simsiam.py:preset=cpu,records=records/lines --workdir=DIR

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops | not run yet |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |

There is no preset of the paper: SGD at rate 0.05 per 256 rows is not among our optimisers, and no result on text is published.
Nor can the predictor keep a constant rate (--fix-pred-lr): rules of config.optim scale a rate, they do not unbend its
schedule; --config.optim.schedule=constant does so for all. method.max_shift_px bounds the way of text sideways.
"""

from ml_collections.config_dict import placeholder

from configs import common

LINES = {
    **common.LINES,
    "method": {"column_offset_max": common.COLUMN_OFFSET_MAX, "projector_width": 2048, "projector_dim": 2048,
               "predictor_width": 512},
}  # fmt: skip
CPU = {
    **common.CPU,
    "method": {**LINES["method"], "projector_width": 256, "projector_dim": 128, "predictor_width": 32},
}
PRESETS = {"cpu": CPU, "lines": LINES}


def get_config(arg=None):
    method = {"name": "simsiam", "window_px": placeholder(int), "recipe": "lines_light", "max_shift_px": 8.0}
    return common.pretrain(arg, PRESETS, method)
