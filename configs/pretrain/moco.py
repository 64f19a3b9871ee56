"""MoCo v2 (arXiv 2003.04297) and v1 (arXiv 1911.05722): contrast against a queue of keys.

    python -m dig_jax.main --config=moco:preset=cpu,records=records/lines --workdir=DIR

| preset | what it is | expected; of cpu: docs/results_plain.md |
|---|---|---|
| cpu | v2, a 1 M network, 128 px crops | contrast 3.97, top-1 of 2,049 keys 0.67 |
| lines | v2, 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words | v1 as in arXiv 2103.04400: words of 32x100, CNN + BiLSTM, 200,000 steps | not run yet |

method.queue must be a multiple of the batch (times its windows where method.window_px is set). A
queue longer than an epoch holds a line's own older keys. words departs in the augmentations (MoCo
v2's, without crops and flips). method.max_shift_px bounds the way of text sideways.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines", "words")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("moco")
    method = config.method
    method.head, method.temperature = "mlp", 0.2
    method.momentum, method.queue = 0.999, 65536
    method.recipe, method.max_shift_px = "lines_light", 8.0
    method.projector_width, method.projector_dim = 2048, 128
    method.column_offset_max = common.COLUMN_OFFSET_MAX

    if args.preset == "cpu":
        common.cpu(config)
        method.queue, method.projector_width = 2048, 256
    if args.preset == "words":
        common.words(config, width_px=100, channels=1)
        config.total.steps = 200000
        method.encoder = common.encoder("crnn")
        method.head, method.temperature = "linear", 0.07
        method.recipe = "mocov2"
        del method.projector_width
        method.column_offset_max = 0
        config.optim = {"name": "sgd", "lr": 0.03, "lr_per": 256, "weight_decay": 1e-4}
        config.optim.update(schedule="steps", drops=(0.6, 0.8))
        config.optim.rules = (("", {"weight_decay": 1e-4}),)
    return common.finished(config, args)
