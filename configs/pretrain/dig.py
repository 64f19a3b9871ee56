"""DiG (arXiv 2207.00193): contrast of windows and masked reconstruction, or one half of it.

    python -m dig_jax.main --config=configs/pretrain/dig.py:preset=cpu,records=records/lines --workdir=DIR
    ... dig.py:preset=lines,records=PATH,size=B     ... dig.py:preset=cpu,records=PATH,objective=gen|dis
    ... dig.py:preset=cpu --config.data.train=records/a,records/b*2    several record sets

| preset | what it is | expected |
|---|---|---|
| words | the official repository's: 32x128 words, 10 epochs, batch 1024 | not run here |
| words_paper | the same in the paper's 3 epochs | not run here |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| cpu | a 1 M-parameter network, 128 px crops | below |
| demo | the same on narrow crops, a few minutes: `make demo` | README |

cpu: 79 minutes on one core (Intel with AMX, commit d337045, seed 0), training images of archiscribe
and copiste_hw_fr: contrast 2.25, pixel 0.417, top1 0.59. Fine-tuned with 10 % of the labels: 15.6 %
and 66.0 % CER on validation; random weights: 23.9 % and 83.4 % (launch/real_input.sh,
docs/results.md).

objective: dig, dis (contrast only) or gen (reconstruction only). The words presets squeeze every
word to 32x128, and recognisers on top of them do the same; one difference from the official recipe:
augmentation runs after the squeeze. probe: labelled records for the light probe during the run,
"none" for no probe; "" is the training records for lines and cpu (they then need labels in the
splits train and validation) and none for words. quick: two steps of a toy.
"""

from ml_collections.config_dict import placeholder

from configs import common

WORDS = {
    "size": "S", "patch": (4, 4), "width_px": 128, "squeeze_px": 128, "channels": 3, "batch": 1024, "epochs": 10.0, "steps": 0,
    "position": "flat_1d", "lr": 1.5e-4, "weight_decay": 0.1, "warmup_steps": 5000, "min_lr": 1e-5, "encoder": {},
    # The official optimiser decays the mask token, too: it is 3-D there.
    "optim": {"rules": (("/mask_token$", {"weight_decay": 0.1}), ("", {}))},
    "method": {"mask_ratio": 0.7, "mask_span": 1, "target": "pixel", "target_floor": 1e-6, "weight_contrast": 0.1,
               "recipe": "dig", "max_shift_px": placeholder(float), "column_offset_max": 0, "projector_width": 4096,
               "projector_dim": 256, "pix_projector_width": 512, "decoder_width": 192},
}  # fmt: skip
LINES = {
    **common.LINES,
    "method": {"mask_ratio": 0.7, "mask_span": 1, "target": "normalized", "target_floor": 0.05, "weight_contrast": 0.02,
               "recipe": "lines_light", "max_shift_px": 2.0, "column_offset_max": common.COLUMN_OFFSET_MAX,
               "projector_width": 1024, "projector_dim": 256, "pix_projector_width": 512, "decoder_width": 192},
}  # fmt: skip
CPU = {
    **common.CPU,
    "method": {**LINES["method"], "mask_ratio": 0.5, "mask_span": 2, "projector_width": 256, "projector_dim": 128,
               "pix_projector_width": 256, "decoder_width": 128},
}  # fmt: skip
DEMO = {
    **CPU, "steps": 900, "lr": 2e-3,
    "method": {**CPU["method"], "weight_contrast": 0.1, "window_px": 16, "max_shift_px": 4.0},
}  # fmt: skip
PRESETS = {
    "words": WORDS,
    "words_paper": {**WORDS, "epochs": 3.0},
    "lines": LINES,
    "cpu": CPU,
    "demo": DEMO,
}


def get_config(arg=None):
    # Official heads, sizes and weights unless a preset says otherwise; weight_pixel is 1 in all of
    # them.
    method = {
        "name": "dig",
        "window_px": 32,
        "temperature": 0.2,
        "momentum": 0.99,
        "weight_pixel": 1.0,
    }
    method |= {"loss_chunk": placeholder(int)}
    return common.pretrain(arg, PRESETS, method, objective="dig")
