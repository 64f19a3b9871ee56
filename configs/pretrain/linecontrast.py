"""Masked contrast within a line (wav2vec 2.0, arXiv 2006.11477; kraken pre-trains so): hidden
columns are found again among each other.

    python -m dig_jax.main --config=linecontrast:preset=cpu,records=records/lines --workdir=DIR
    ... linecontrast:preset=cpu,size=cnn48_lstm,records=PATH   a CNN with LSTMs in place of the ViT

| preset | what it is | expected |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops, hidden runs of 4 columns | not run here |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("linecontrast")
    method = config.method
    method.mask_ratio, method.mask_span = 0.5, 4
    method.column_offset_max = common.COLUMN_OFFSET_MAX
    if args.preset == "cpu":
        common.cpu(config)
        method.dim, method.hidden = 128, 256
    return common.finished(config, args)
