"""Keys depend on (seed, name, step) and on nothing else."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from dig_jax import prng

SCRIPT = """
import jax
jax.config.update("jax_platforms", "cpu")
from dig_jax import prng
print(jax.random.key_data(prng.stream(7, "augment", 3)).tolist())
"""


def bits(*args):
    return jax.random.key_data(prng.stream(*args)).tolist()


@pytest.mark.slow
def test_same_in_another_process():
    """Python's hash() of a string would differ there."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == str(bits(7, "augment", 3))


def test_every_argument_matters():
    keys = [
        bits(*a)
        for a in (
            (0, "a", 0),
            (1, "a", 0),
            (0, "b", 0),
            (0, "a", 1),
            (2**32 - 1, "a", 0),
            (0, "", 0),
        )
    ]
    assert len({tuple(k) for k in keys}) == len(keys)


def test_traced_step_gives_the_same_key():
    inside = jax.jit(lambda step: jax.random.key_data(prng.stream(5, "x", step)))(np.int32(9))
    assert inside.tolist() == bits(5, "x", 9)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match="config.seed"):
        prng.stream(seed, "x")
