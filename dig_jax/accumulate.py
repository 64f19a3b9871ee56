"""Loss and gradients of a batch, whole or in microbatches one after the other (config.accumulate): memory of a part, update of
the whole.

Microbatch j of k holds the rows j, j + k, j + 2k, ... of the batch, so each device cuts its own rows, no row changes its
device, and the parts are the same on every mesh. The batch is augmented as a whole: k changes no draw of it. What is summed up
are the parts' losses, metrics and gradients, weighted by their valid rows. For a loss that is a mean over lines this is that
of the whole batch, to rounding; drop path draws anew in each part. For a loss in which lines meet each other, through
contrast or batch norm, it would be another one, with the negatives and statistics of a part: `check` refuses it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dig_jax import state as states
from dig_jax.methods import base


def parts(cfg: dict[str, Any]) -> int:
    """config.accumulate; None, as in runs from before it was a key, is 1."""
    return 1 if cfg.get("accumulate") is None else cfg["accumulate"]


def check(count: int, method: base.Method) -> None:
    """ValueError where the method's loss over parts is not that over the batch."""
    if count > 1 and method.couples_lines:
        raise ValueError(
            f"config.accumulate is {count}, but in this method the lines of a batch meet each other (contrast or batch norm), "
            "and in parts each would only meet its own part, which is the loss of a smaller batch: leave it at 1 and save "
            "memory with config.method.encoder.remat and .scan, or by more devices"
        )


def loss_and_gradients(
    method: base.Method, state: states.TrainState, views: base.Batch, key: jax.Array, progress: jax.Array, count: int = 1
) -> tuple[jax.Array, base.Aux, base.Params]:
    """(loss f32[], Aux, gradients like state.params) of an augmented batch, in `count` parts. `mutable` goes from part to
    part."""
    if count == 1:
        return _whole(method, state, views, key, progress)
    cut = microbatches(views, count)
    weights = jnp.sum(cut["valid"], axis=1, dtype=jnp.float32)  # (count,)
    weights = weights / jnp.maximum(jnp.sum(weights), 1.0)

    def add(carry: Any, part: Any) -> tuple[Any, None]:
        mutable, sums = carry
        number, weight, views = part
        held = state.replace(mutable=mutable)
        loss, aux, grads = _whole(method, held, views, jax.random.fold_in(key, number), progress)
        return (aux.mutable, jax.tree.map(lambda s, x: s + weight * x, sums, (loss, aux.metrics, grads))), None

    first = jax.tree.map(lambda x: x[0], cut)
    loss, aux, grads = jax.eval_shape(lambda: _whole(method, state, first, key, progress))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (loss, aux.metrics, grads))
    (mutable, (loss, metrics, grads)), _ = jax.lax.scan(add, (state.mutable, zeros), (jnp.arange(count), weights, cut))
    return loss, base.Aux(metrics, mutable), grads


def microbatches(views: base.Batch, count: int) -> base.Batch:
    """{name: [r B, ...]} -> {name: [count, r B / count, ...]}; r rows of a line, next to each other, stay together."""
    lines = min(len(leaf) for leaf in views.values())

    def cut(leaf: jax.Array) -> jax.Array:
        if len(leaf) % lines or lines % count:
            raise ValueError(f"rows of shape {leaf.shape} do not divide into {count} parts: set config.accumulate to a divisor")
        grouped = leaf.reshape(lines // count, count, len(leaf) // lines, *leaf.shape[1:])
        return jnp.moveaxis(grouped, 1, 0).reshape(count, -1, *leaf.shape[1:])

    return {name: cut(leaf) for name, leaf in views.items()}


def _whole(
    method: base.Method, state: states.TrainState, views: base.Batch, key: jax.Array, progress: jax.Array
) -> tuple[Any, base.Aux, Any]:
    def loss_of(params: base.Params) -> tuple[jax.Array, base.Aux]:
        return method.loss(params, state, views, key, progress)

    (loss, aux), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    return loss, aux, grads
