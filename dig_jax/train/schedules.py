"""What follows the step of a run: the learning rate, and the growth of weight decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Number = float | jax.Array


def check_schedule(
    peak: float,
    total_steps: int,
    warmup_steps: int,
    min_lr: float,
    kind: str,
    drops: Sequence[float] | None = None,
) -> None:
    """Refuses what `make_schedule` cannot follow with a ValueError."""
    if kind not in ("cosine", "constant", "steps"):
        raise ValueError(
            f"config.optim.schedule is {kind!r}: set it to 'cosine', 'constant' or 'steps'"
        )
    if kind == "steps" and not (drops and all(0 < at < 1 for at in drops)):
        raise ValueError(
            f"config.optim.drops is {tuple(drops or ())}: give fractions of the run, in (0, 1), at "
            "which lr falls"
        )
    if total_steps and warmup_steps >= total_steps:
        raise ValueError(
            f"config.optim.warmup_steps is {warmup_steps} but the run has {total_steps} steps: "
            "lower it or train longer"
        )
    if kind == "cosine" and min_lr > peak:
        raise ValueError(
            f"config.optim.min_lr is {min_lr:g}, above the peak rate {peak:g}: lower min_lr or "
            "raise lr"
        )


def make_schedule(
    peak: Number,
    total_steps: Number,
    warmup_steps: Number,
    min_lr: Number,
    kind: str,
    drops: Sequence[float] | None = None,
    drop: float | None = None,
) -> Callable[[Any], jax.Array]:
    """lr(step) for step 0..total_steps-1. The numbers may be traced.

    Warmup: 0 to peak in `warmup_steps` steps, both ends included (step warmup_steps - 1 has the
    peak). Then one of:

        cosine    along half a cosine towards min_lr, never quite reached
        constant  the peak
        steps     times `drop` (None: 0.1) at each of `drops`, fractions of total_steps; min_lr is
                  the floor
    """

    def rate(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rising = jnp.where(warmup_steps > 1, peak * step / jnp.maximum(warmup_steps - 1, 1), peak)
        left = jnp.maximum(total_steps - warmup_steps, 1)
        done = jnp.clip((step - warmup_steps) / left, 0.0, 1.0)
        falling = (
            min_lr + 0.5 * (peak - min_lr) * (1 + jnp.cos(math.pi * done))
            if kind == "cosine"
            else peak
        )
        if kind == "steps":
            passed = sum((step >= jnp.round(at * total_steps)).astype(jnp.float32) for at in drops)
            falling = jnp.maximum(peak * (0.1 if drop is None else drop) ** passed, min_lr)
        return jnp.where(step < warmup_steps, rising, falling)

    return rate


def check_growth(start: float, end: float | None) -> None:
    """Refuses what `decay_growth` cannot follow with a ValueError."""
    if end is not None and end != start and not start > 0:
        raise ValueError(
            f"config.optim.weight_decay_end is {end} and weight_decay {start}: start above 0"
        )


def decay_growth(
    start: float, end: float | None, total_steps: Number
) -> Callable[[Any], jax.Array] | None:
    """step -> the factor on weight decay, from 1 along half a cosine towards end / start; None
    where it stays.
    """
    if end is None or end == start:
        return None

    def growth(step: Any) -> jax.Array:
        done = jnp.clip(jnp.asarray(step, jnp.float32) / jnp.maximum(total_steps, 1), 0.0, 1.0)
        return (end + 0.5 * (start - end) * (1 + jnp.cos(math.pi * done))) / start

    return growth
