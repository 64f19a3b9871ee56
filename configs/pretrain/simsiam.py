"""SimSiam (arXiv 2011.10566): two views predict each other, without negatives and without a
teacher.

    python -m dig_jax.main --config=configs/pretrain/simsiam.py:preset=cpu,records=records/lines --workdir=DIR

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops | cosine 0.954, q_std 0.088, effective rank 39, README |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words | the paper's heads, batch and augmentation, without crops and flips, on words squeezed to 32x128 | not run yet |

words departs in the optimiser (AdamW at our rate for SGD at 0.05 per 256 rows with weight decay
1e-4) and the length, and no result on text is published. A rule of words (FIXED) keeps the
predictor at the peak rate, as the authors do; all else follows the schedule. cpu has a quarter of
the other methods' rate and a predictor ten times as fast (AHEAD): at their rate the features keep 4
of 128 dimensions, which q_std, read behind a batch norm, does not show (docs/results.md).
recipe=mocov2 is the augmentation of words. method.max_shift_px bounds the way of text sideways.
"""

from ml_collections.config_dict import placeholder

from configs import common

FIXED = (("^predictor/", {"schedule": "constant"}), ("", {}))
AHEAD = (("^predictor/", {"schedule": "constant", "lr_scale": 10.0}), ("", {}))
LINES = {
    **common.LINES,
    "method": {"column_offset_max": common.COLUMN_OFFSET_MAX, "projector_width": 2048, "projector_dim": 2048,
               "predictor_width": 512},
}  # fmt: skip
CPU = {
    **common.CPU, "lr": 1e-3, "optim": {**common.LINES["optim"], "rules": AHEAD},
    "method": {**LINES["method"], "projector_width": 256, "projector_dim": 128, "predictor_width": 32},
}  # fmt: skip
WORDS = {
    **common.LINES, "patch": (4, 4), "width_px": 128, "squeeze_px": 128, "channels": 3, "batch": 512,
    "optim": {**common.LINES["optim"], "rules": FIXED},
    "method": {"column_offset_max": 0, "projector_width": 2048, "projector_dim": 2048, "predictor_width": 512,
               "recipe": "mocov2"},
}  # fmt: skip
PRESETS = {"cpu": CPU, "lines": LINES, "words": WORDS}


def get_config(arg=None):
    method = {
        "name": "simsiam",
        "window_px": placeholder(int),
        "recipe": "lines_light",
        "max_shift_px": 8.0,
    }
    return common.pretrain(arg, PRESETS, method)
