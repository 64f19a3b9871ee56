"""Denoising autoencoder (Vincent et al., ICML 2008): every pixel of a line from a spoilt copy.

    python -m dig_jax.main --config=configs/pretrain/denoising.py:preset=cpu,records=records/lines --workdir=DIR
    ... denoising.py:preset=lines,records=PATH,size=B     ... denoising.py:preset=masking,records=PATH

| preset | what it is | expected |
|---|---|---|
| cpu | half of the pixels lost, noise and blur, a 1 M-parameter network, 128 px crops | pixel 0.174, README |
| lines | the same for an accelerator, random 256 px crops | not run yet |
| masking | the paper's masking noise alone (a quarter of the pixels), raw targets; otherwise lines | not run here |

quick: two steps of a toy.
"""

from configs import common

LINES = {
    **common.LINES,
    "method": {"drop": 0.5, "noise_sigma": 0.2, "blur_sigma_px": 1.5, "target": "normalized", "target_floor": 0.05,
               "decoder_width": 192, "column_offset_max": common.COLUMN_OFFSET_MAX},
}  # fmt: skip
CPU = {**common.CPU, "method": {**LINES["method"], "decoder_width": 128}}
MASKING = {
    **LINES,
    "method": {
        **LINES["method"],
        "drop": 0.25,
        "noise_sigma": 0.0,
        "blur_sigma_px": 0.0,
        "target": "pixel",
    },
}
PRESETS = {"cpu": CPU, "lines": LINES, "masking": MASKING}


def get_config(arg=None):
    return common.pretrain(arg, PRESETS, {"name": "denoising"})
