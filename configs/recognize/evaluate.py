"""Evaluate a trained recogniser (probe, fine-tuned or from scratch) on record sets: no training
step.

    python -m dig_jax.main --config=evaluate --config.init_from=RECOGNISER_DIR --workdir=DIR
    ... --config.evals.recognition.datasets=records/archiscribe@test

Takes encoder, heads, feature statistics, charset, height and channels from RECOGNISER_DIR. They
come from its checkpoint with the lowest validation CER where it kept one, which is the step of its
figure, or with checkpoint=last from the last. Without `datasets`: the validation split of its
training records. Writes metrics.jsonl at step 0, readings-SET.tsv and pictures/readings-*.json. A
run of several heads reports each and chooses by validation, so name a validation set beside a test
set.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from dig_jax.configs import common

# What is taken over from the recogniser; None here.
METHOD = ("encoder", "heads", "frames", "block", "frozen", "standardize")
# subset*: a language model or a lexicon is of the labels that the run had, and of no others.
DATA = ("subset", "subset_seed", "subset_order", "max_width_px", "max_pixels")


def get_config(arg=None):
    args = common.parse_arg(arg, records="", checkpoint="best", batch=64)
    if args.checkpoint not in ("best", "last"):
        raise ValueError(f"checkpoint={args.checkpoint}: give best or last")
    config = ConfigDict()
    config.seed = 0
    config.batch_size = args.batch
    config.total = {"steps": 0}
    config.init_parts = ("params", "mutable")
    config.init_checkpoint = args.checkpoint
    config.inherit = (*(f"method.{name}" for name in METHOD), *common.PICTURES)
    config.inherit += tuple(f"data.{name}" for name in DATA)
    config.method = {"name": "recognize", **{name: placeholder(object) for name in METHOD}}
    config.data = common.lines()
    config.data.update({name: placeholder(object) for name in DATA})
    config.optim = {"lr": 0.0}
    config.evals = {"recognition": {"batch_size": args.batch, "pictures": 24}}
    config.evals.recognition.datasets = args.records or placeholder(object)
    return config
