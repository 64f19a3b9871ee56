"""Rotation (RotNet, arXiv 1803.07728): is the line the right way up?

    python -m dig_jax.main --config=rotation:preset=cpu,records=records/lines --workdir=DIR
    ... rotation:preset=lines,records=PATH,size=B
    ... --config.method.classes=4    90 and 270 degrees as well

| preset | what it is | expected; of cpu: docs/results_plain.md |
|---|---|---|
| cpu | 0 or 180 degrees, a 1 M-parameter network, 128 px crops | accuracy 0.992 |
| lines | the same for an accelerator, random 256 px crops | not run yet |
| words | as in 2103.04400: four angles, words of 32x100, CNN, 200,000 steps | not run here |

words trains the BiLSTM behind the CNN too, which the source adds later. A step costs method.classes
rows a line. quick: two steps of a toy.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines", "words")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("rotation")
    method = config.method
    method.classes, method.square_cells = 2, True
    method.column_offset_max = common.COLUMN_OFFSET_MAX

    if args.preset == "cpu":
        common.cpu(config)
    if args.preset == "words":
        common.words(config, width_px=100, channels=1)
        config.batch_size = 128
        config.total.steps = 200000
        method.encoder = common.encoder("crnn")
        method.classes, method.square_cells = 4, False
        method.column_offset_max = 0
        config.optim = {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4, "clip_norm": 5.0}
        config.optim.update(schedule="steps", drops=(0.3, 0.6, 0.8), drop=0.2)
        config.optim.rules = (("", {"weight_decay": 5e-4}),)
    return common.finished(config, args)
