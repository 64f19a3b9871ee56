"""CCD (arXiv 2211.00288): self-distillation between the characters of two views.

    python -m dig_jax.main --config=configs/pretrain/ccd.py:preset=cpu,records=records/lines --workdir=DIR
    ... ccd.py:preset=lines,records=PATH,size=B     ... ccd.py:preset=cpu --config.method.kmeans_frac=1   k-means to the end

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops | distillation 0.68, segmentation 0.077, README |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words | the authors' S: words squeezed to 32x128, batch 256, 3 passes over 33 M images | not run here |

The authors fine-tune the teacher: recognise with
--config.init_parts='("teacher/encoder->params/encoder",)'. words differs from theirs in positions,
which are sines. lines and cpu slant and turn less, since lines are wide, move the teacher faster,
since they are short, and take smaller components, since letters of a line are smaller than those of
a word image.
"""

from configs import common

AFFINE = {
    "scale_x": (0.8, 1.1), "scale_y": (0.8, 1.1), "degrees": (-1.5, 1.5), "shear_x": (-20.0, 20.0),
    "right": (-0.02, 0.02), "down": (-0.05, 0.05),
}  # fmt: skip
WORDS = {
    **common.LINES, "patch": (4, 4), "width_px": 128, "squeeze_px": 128, "channels": 3, "epochs": 3.0, "steps": 0, "lr": 5e-4,
    "weight_decay": 0.04, "warmup_steps": 39062, "encoder": {"drop_path": 0.1},
    "optim": {"weight_decay_end": 0.4, "clip_norm_each": 3.0},
    "method": {"characters": 26, "min_area_px": 30, "recipe": "dig", "prototypes": 65536, "momentum": 0.9995,
               "column_offset_max": 0, "projector_width": 2048, "projector_dim": 256, "decoder_width": 128},
}  # fmt: skip
LINES = {
    **common.LINES,
    "method": {"characters": 32, "min_area_px": 12, "recipe": "lines_light", "prototypes": 4096, "momentum": 0.996,
               "column_offset_max": common.COLUMN_OFFSET_MAX, "affine": AFFINE, "projector_width": 1024,
               "projector_dim": 256, "decoder_width": 128},
}  # fmt: skip
CPU = {
    **common.CPU, "lr": 2e-3,
    "method": {**LINES["method"], "characters": 16, "prototypes": 1024, "projector_width": 256, "projector_dim": 128},
}  # fmt: skip
PRESETS = {"cpu": CPU, "lines": LINES, "words": WORDS}


def get_config(arg=None):
    # Official values unless a preset says otherwise; both losses have the weight 1 in all of them.
    method = {"name": "ccd", "kmeans_frac": 0.3, "frozen_frac": 0.01, "affine_p": 0.7}
    method |= {"student_temperature": 0.1, "teacher_temperature": 0.04, "center_momentum": 0.9}
    method |= {"weight_distillation": 1.0, "weight_segmentation": 1.0}
    return common.pretrain(arg, PRESETS, method)
