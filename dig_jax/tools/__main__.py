"""python -m dig_jax.tools: the same map as python -m dig_jax."""

from dig_jax.__main__ import overview

overview()
