"""One training step: the method's loss, the optimiser, and what happens when a number is not
finite.

Apart from the trainer, because programs that time, count or compile a step need neither data nor
disk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dig_jax import prng, sharding
from dig_jax.methods.shared import base
from dig_jax.train import accumulate, optim
from dig_jax.train import state as states

Figures = dict[str, jax.Array]


def numbers_of(optimizer: optim.Optimizer, seed: int) -> dict[str, Any]:
    """What a step of `train_step` is told beside state and batch: {"seed", "optimizer": its
    numbers}."""
    prng.check(seed)
    kinds = {"peak": np.float32, "min_lr": np.float32}
    own = {name: kinds.get(name, np.int32)(value) for name, value in optimizer.numbers.items()}
    return {"seed": np.uint32(seed), "optimizer": own}


class Bound(functools.partial):
    """A jitted step with its numbers bound, which can be lowered, for a mesh, as one without."""

    def lower(self, *args: Any, mesh: Any) -> Any:
        with jax.set_mesh(mesh):  # as in train/run.py: a fused kernel has to know it
            return self.func.lower(*self.args, *args)


def make_train_step(
    method: base.Method, optimizer: optim.Optimizer, seed: int
) -> Callable[..., Any]:
    """`train_step` with its numbers as constants: (state, raw batch) -> (state, figures)."""
    return functools.partial(train_step(method, optimizer), numbers_of(optimizer, seed))


def train_step(
    method: base.Method, optimizer: optim.Optimizer, microbatches: int = 1, shardings: Any = None
) -> Callable[..., Any]:
    """(numbers, state, raw batch) -> (state, {name: f32[]}), to be jitted. A step whose loss or
    gradient is not finite returns the state as it was, and "finite" False.

    Seed, length and rates are arguments, so that a second seed or another length finds its program
    in the compile cache; with freeze_frac in a rule the length is a constant still.
    microbatches: config.accumulate, see there. shardings: of the state on its mesh.
    """

    def step(
        numbers: Mapping[str, Any], state: states.TrainState, batch: base.Batch
    ) -> tuple[states.TrainState, Figures]:
        seed, (tx, schedule) = numbers["seed"], optimizer.build(numbers["optimizer"])
        progress = state.step / jnp.maximum(numbers["optimizer"]["total_steps"], 1)
        moving = optimizer.moving(state.opt_state, state.params)
        teacher = method.update_teacher(state.teacher, moving, progress)
        views = method.augment(prng.stream(seed, "augment", state.step), batch)
        key = prng.stream(seed, "loss", state.step)
        read = moving, teacher
        if shardings is not None:
            read = sharding.gather(read, (shardings.params, shardings.teacher))
        whole = state.replace(params=read[0], teacher=read[1])
        given = method, whole, views, key, progress, microbatches
        loss, aux, grads = accumulate.loss_and_gradients(*given)
        if shardings is not None:
            grads = jax.lax.with_sharding_constraint(grads, shardings.params)
        # Constants for what is frozen: XLA then drops that part of the backward pass, and clipping
        # does not see it.
        chosen = lambda x, train: x if train else jnp.zeros_like(x)
        grads = jax.tree.map(chosen, grads, optimizer.trainable)
        norm = optax.global_norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        moved = lambda p, u, train: p + u if train else p
        params = jax.tree.map(moved, state.params, updates, optimizer.trainable)
        new = states.TrainState(state.step + 1, params, teacher, opt_state, aux.mutable)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        new = jax.tree.map(lambda n, old: jnp.where(finite, n, old), new, state)
        figures = {"loss": loss, "grad_norm": norm, "finite": finite}
        figures["lr"] = schedule(state.step)
        return new, {**aux.metrics, **method.schedules(progress), **figures}

    return step
