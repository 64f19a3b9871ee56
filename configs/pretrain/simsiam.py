"""SimSiam (arXiv 2011.10566): two views predict each other, without negatives and without a
teacher.

    python -m dig_jax.main --config=simsiam:preset=cpu,records=records/lines --workdir=DIR

| preset | what it is | expected; of cpu: docs/results_plain.md |
|---|---|---|
| cpu | a 1 M network, 128 px crops | cosine 0.954, q_std 0.088, effective rank 39 |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words | the paper's, without crops and flips, on words of 32x128 | not run yet |

words departs in length and optimiser: AdamW at our rate for SGD at 0.05 per 256 rows with weight
decay 1e-4. No result on text is published. A rule of words (FIXED) keeps the predictor at the peak
rate, as the authors do; all else follows the schedule. cpu has a quarter of the other methods' rate
and a predictor ten times as fast (AHEAD). At their rate the features keep 4 of 128 dimensions
(docs/results_plain.md); q_std, read behind a batch norm, does not show it. recipe=mocov2 is the
augmentation of words. method.max_shift_px bounds the way of text sideways.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines", "words")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("simsiam")
    method = config.method
    method.recipe, method.max_shift_px = "lines_light", 8.0
    method.column_offset_max = common.COLUMN_OFFSET_MAX
    method.projector_width, method.projector_dim, method.predictor_width = 2048, 2048, 512

    if args.preset == "cpu":
        common.cpu(config)
        config.optim.lr = 1e-3
        ahead = {"schedule": "constant", "lr_scale": 10.0}
        config.optim.rules = (("^predictor/", ahead), ("", {}))
        method.projector_width, method.projector_dim, method.predictor_width = 256, 128, 32
    if args.preset == "words":
        common.words(config)
        config.batch_size = 512
        config.optim.rules = (("^predictor/", {"schedule": "constant"}), ("", {}))
        method.recipe = "mocov2"
        method.column_offset_max = 0
    return common.finished(config, args)
