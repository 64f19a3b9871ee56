"""MoCo v3 (arXiv 2104.02057): both views ask a momentum teacher for each other's key.

    python -m dig_jax.main --config=configs/pretrain/mocov3.py:preset=cpu,records=records/lines --workdir=DIR
    ... mocov3.py:preset=cpu,records=PATH,freeze_patch_embed=false    ... --config.method.window_px=32    windows, as DiG's

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops | contrast 0.62, top-1 0.995, README |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words | the official ViT-S recipe on words squeezed to 32x128, its 300 epochs of ImageNet counted in steps | not run yet |

freeze_patch_embed does two things: the method stops the gradient, and the rule of the optimiser
below keeps weight decay away and saves the moments; so set it here and not by --config.method. A
CNN (size=crnn) has no patch embedding: give it false. method.max_shift_px bounds the misalignment
of windows.
"""

from ml_collections.config_dict import placeholder

from configs import common

FROZEN = (("^encoder/patch_embed/", {"freeze": True}), ("", {}))
LINES = {
    **common.LINES,
    "method": {"recipes": ("lines_light", "lines_light"), "column_offset_max": common.COLUMN_OFFSET_MAX,
               "projector_width": 1024, "projector_dim": 256, "predictor_width": 1024},
}  # fmt: skip
CPU = {
    **common.CPU,
    "method": {
        **LINES["method"],
        "projector_width": 256,
        "projector_dim": 128,
        "predictor_width": 256,
    },
}
WORDS = {  # 1,281,167 images in batches of 4096, 300 epochs of which 40 warm up; 12 heads where other S have 6
    **common.LINES, "patch": (4, 4), "width_px": 128, "squeeze_px": 128, "channels": 3, "batch": 4096, "steps": 93600,
    "warmup_steps": 12480, "lr": 1.5e-4, "weight_decay": 0.1, "min_lr": 0.0, "optim": {}, "encoder": {"heads": 12},
    "method": {"recipes": ("mocov3_1", "mocov3_2"), "column_offset_max": 0, "projector_width": 4096, "projector_dim": 256,
               "predictor_width": 4096},
}  # fmt: skip
PRESETS = {"cpu": CPU, "lines": LINES, "words": WORDS}


def get_config(arg=None):
    method = {
        "name": "mocov3", "window_px": placeholder(int), "temperature": 0.2, "momentum": 0.99,
        "max_shift_px": 2.0, "loss_chunk": placeholder(int),
    }  # fmt: skip
    config = common.pretrain(arg, PRESETS, method, freeze_patch_embed=True)
    if config.method.freeze_patch_embed:
        config.optim.rules = FROZEN
    return config
