"""One training step: the method's loss, the optimiser, and what happens when a number is not finite.

Apart from the trainer, because programs that time, count or compile a step need neither data nor disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dig_jax import optim, prng
from dig_jax import state as states
from dig_jax.methods import base


def make_train_step(method: base.Method, optimizer: optim.Optimizer, total: int, seed: int) -> Callable[..., Any]:
    """(state, raw batch) -> (state, {name: f32[]}), to be jitted. A step whose loss or gradient is not finite returns
    the state as it was, and "finite" False."""

    def step(state: states.TrainState, batch: base.Batch) -> tuple[states.TrainState, dict[str, jax.Array]]:
        progress = state.step / max(total, 1)
        teacher = method.update_teacher(state.teacher, state.params, progress)
        views = method.augment(prng.stream(seed, "augment", state.step), batch)
        key = prng.stream(seed, "loss", state.step)

        def loss_of(params: base.Params) -> tuple[jax.Array, base.Aux]:
            return method.loss(params, state.replace(teacher=teacher), views, key, progress)

        (loss, aux), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        # Constants for what is frozen: XLA then drops that part of the backward pass, and clipping does not see it.
        grads = jax.tree.map(lambda g, train: g if train else jnp.zeros_like(g), grads, optimizer.trainable)
        norm = optax.global_norm(grads)
        updates, opt_state = optimizer.tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u, train: p + u if train else p, state.params, updates, optimizer.trainable)
        new = states.TrainState(state.step + 1, params, teacher, opt_state, aux.mutable)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        new = jax.tree.map(lambda n, old: jnp.where(finite, n, old), new, state)
        figures = {"loss": loss, "grad_norm": norm, "lr": optimizer.schedule(state.step), "finite": finite}
        return new, {**aux.metrics, **method.schedules(progress), **figures}

    return step
