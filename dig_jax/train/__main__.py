"""python -m dig_jax.train trains nothing, and says what does."""

import sys

sys.exit(
    "error: dig_jax.train is a library: train with "
    "python -m dig_jax.main --config=configs/pretrain/dig.py --workdir=DIR"
)
