"""SSM (arXiv 2405.05841): a line and its mirror image, laid on top of each other, are taken apart
again.

    python -m dig_jax.main --config=configs/pretrain/ssm.py:preset=cpu,records=records/lines --workdir=DIR
    ... ssm.py:preset=lines,records=PATH,size=B     ... ssm.py:preset=cpu --config.method.weight_contrast=0   pixels alone

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops | pixel 0.363, contrast 1.82, top-1 0.85, README |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words | the authors' S: words squeezed to 32x128, batch 1152, 20 epochs of Union14M-U (10 M images) | not run here |

lines and cpu differ from words in normalised targets (with a smaller contrast to match), a teacher
that sees the line turned, slanted and moved less, since lines are wide, and random first columns of
the position code.
"""

from ml_collections.config_dict import placeholder

from configs import common

WORDS = {
    **common.LINES, "patch": (4, 4), "width_px": 128, "squeeze_px": 128, "channels": 3, "batch": 1152, "epochs": 20.0,
    "steps": 0, "lr": 5e-4 * 256 / 1152, "warmup_steps": 8681, "min_lr": 0.0, "optim": {"b2": 0.95},
    "method": {"target": "pixel", "target_floor": 1e-6, "max_shift_px": placeholder(float), "weight_contrast": 0.25,
               "column_offset_max": 0, "decoder_width": 256, "decoder_depth": 4, "decoder_heads": 8,
               "projector_width": 4096, "projector_dim": 256},
}  # fmt: skip
LINES = {
    **common.LINES,
    "method": {**WORDS["method"], "target": "normalized", "target_floor": 0.05, "max_shift_px": 4.0, "weight_contrast": 0.05,
               "affine": {"degrees": (-1.5, 1.5), "shear_x": (-15.0, 15.0), "down": (-0.05, 0.05)},
               "column_offset_max": common.COLUMN_OFFSET_MAX, "projector_width": 1024},
}  # fmt: skip
CPU = {
    **common.CPU,
    "method": {**LINES["method"], "decoder_width": 128, "decoder_depth": 2, "decoder_heads": 4, "projector_width": 256,
               "projector_dim": 128},
}  # fmt: skip
PRESETS = {"cpu": CPU, "lines": LINES, "words": WORDS}


def get_config(arg=None):
    # Official values unless a preset says otherwise.
    method = {
        "name": "ssm",
        "window_px": 32,
        "temperature": 0.2,
        "momentum": 0.995,
        "contrast_from": 0.5,
        "grayscale_p": 0.2,
    }
    method |= {"loss_chunk": placeholder(int)}
    return common.pretrain(arg, PRESETS, method)
