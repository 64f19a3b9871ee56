"""DiG (arXiv 2207.00193): contrast of windows and masked reconstruction, or one half of it.

    python -m dig_jax.main --config=dig:preset=cpu,records=records/lines --workdir=DIR
    ... dig:preset=lines,records=PATH,size=B     ... dig:preset=cpu,records=PATH,objective=gen|dis
    ... dig:preset=cpu,objective=dis,block=3,layer_decay=0.65 --config.init_from=runs/gen
    ... dig:preset=cpu --config.data.train=records/a,records/b*2    several record sets

| preset | what it is | expected |
|---|---|---|
| words | the official repository's: 32x128 words, 10 epochs, batch 1024 | not run here |
| words_paper | the same in the paper's 3 epochs | not run here |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| cpu | a 1 M-parameter network, 128 px crops | below |
| demo | the same on narrow crops, a few minutes | no figure is kept |

cpu: 79 minutes on one core (Intel with AMX), one seed, training images of archiscribe and
copiste_hw_fr: contrast 2.25, pixel 0.417, top1 0.59. Fine-tuned with 10 % of the labels: 15.6 %
and 66.0 % CER on validation; random weights: 23.9 % and 83.4 % (launch/real_input.sh,
docs/results_plain.md).

objective: dig, dis (contrast only) or gen (reconstruction only). The words presets squeeze every
word to 32x128, and recognisers on top of them do the same. One difference from the official recipe:
augmentation runs after the squeeze. probe: labelled records for the light probe during the run,
"none" for no probe. Its default "" is the training records for lines and cpu (used where train and
validation have labels) and none for words. quick: two steps of a toy.
"""

from dig_jax.configs import common

PRESETS = ("words", "words_paper", "lines", "cpu", "demo")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS, objective="dig", **common.REFINING)
    config = common.pretraining("dig")
    method = config.method
    method.objective = args.objective
    method.mask_ratio = 0.7
    method.target, method.target_floor = "normalized", 0.05
    method.weight_contrast = 0.02
    method.recipe, method.max_shift_px = "lines_light", 2.0
    method.column_offset_max = common.COLUMN_OFFSET_MAX
    method.window_px = 32
    method.projector_width, method.projector_dim = 1024, 256
    method.pix_projector_width, method.decoder_width = 512, 192

    rules = ()
    if args.preset in ("words", "words_paper"):
        common.words(config)
        config.batch_size = 1024
        config.total = {"epochs": 10.0 if args.preset == "words" else 3.0}
        method.encoder.position = "flat_1d"
        method.target, method.target_floor = "pixel", 1e-6
        method.weight_contrast = 0.1
        method.recipe, method.max_shift_px = "dig", None
        method.column_offset_max = 0
        method.projector_width = 4096
        config.optim = {"lr": 1.5e-4, "lr_per": 256, "min_lr": 1e-5, "warmup_steps": 5000}
        config.optim.weight_decay = 0.1
        # The official optimiser decays the mask token, too: it is 3-D there.
        rules = (("/mask_token$", {"weight_decay": 0.1}), ("", {}))
    if args.preset in ("cpu", "demo"):
        common.cpu(config)
        method.mask_ratio, method.mask_span = 0.5, 2
        method.projector_width, method.projector_dim = 256, 128
        method.pix_projector_width, method.decoder_width = 256, 128
    if args.preset == "demo":
        config.total.steps = 900
        config.optim.lr = 2e-3
        method.weight_contrast = 0.1
        method.window_px, method.max_shift_px = 16, 4.0
    if frozen := common.refining(config, args):
        rules = (*frozen, *(rules or (("", {}),)))
    config.optim.rules = rules
    return common.finished(config, args)
