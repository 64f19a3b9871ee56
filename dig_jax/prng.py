"""Random keys as a function of (seed, name, step) and of nothing else.

No key is ever stored in the training state: a resumed run, another device count or an added
consumer of randomness cannot shift anybody's numbers.
"""

import hashlib

import jax
import jax.numpy as jnp


def check(seed: int) -> None:
    """ValueError for a seed that no key can be made of."""
    if not 0 <= seed < 2**32:
        raise ValueError(
            f"seed is {seed}; it must lie in [0, 2**32): set config.seed to such a number"
        )


def stream(seed: int | jax.Array, name: str, step: int | jax.Array = 0) -> jax.Array:
    """Typed JAX key of the stream `name` at `step`.

    seed: 0 <= seed < 2**32, or traced u32[]. step: Python int or traced i32[] (so it may be called
    inside jit with state.step). The name is hashed with SHA-256, since Python's hash() differs
    between processes.
    """
    if isinstance(seed, int):
        check(seed)
    name_bits = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    key = jax.random.fold_in(jax.random.key(seed), jnp.uint32(name_bits))
    return jax.random.fold_in(key, step)
