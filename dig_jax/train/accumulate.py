"""Loss and gradients of a batch, whole or in microbatches one after the other (config.accumulate):
memory of a part, update of the whole.

Microbatch j of k holds the rows j, j + k, j + 2k, ... of the batch. So each device cuts its own
rows, no row changes its device, and the parts are the same on every mesh. The batch is augmented as
a whole: k changes no draw of it.

Losses, metrics and gradients of the parts are summed, weighted by what a part's loss is a mean over
(`base.Aux.weight`). That is its hidden pixels, the lines that fit their frames, or its valid lines.
So loss and gradients are those of the whole batch, to rounding. Two things differ: drop path draws
anew in each part, and a metric that is a mean over something else gets the same weights.

A loss in which lines meet each other, through contrast or batch norm, would see only the negatives
and statistics of a part. A sum of means over different things (SimAN) would change, too. `check`
refuses both.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dig_jax.methods.shared import base
from dig_jax.train import state as states


def check(count: int, method: base.Method) -> None:
    """ValueError where the method's loss over parts is not that over the batch."""
    if count > 1 and not method.loss_is_mean:
        raise ValueError(
            f"config.accumulate is {count}, but this method's loss (contrast, batch norm or "
            "several means) over a batch is not the mean over its parts. Leave it at 1, and save "
            "memory with config.method.encoder.remat and .scan, or by more devices"
        )


def loss_and_gradients(
    method: base.Method,
    state: states.TrainState,
    views: base.Batch,
    key: jax.Array,
    progress: jax.Array,
    count: int = 1,
) -> tuple[jax.Array, base.Aux, base.Params]:
    """(loss f32[], Aux, gradients like state.params) of an augmented batch, in `count` parts.
    `mutable` goes from part to part."""
    if count == 1:
        loss, aux, grads = _whole(method, state, views, key, progress)
        return loss, aux._replace(weight=None), grads
    cut = microbatches(views, count)

    def add(carry: Any, part: Any) -> tuple[Any, None]:
        mutable, total, sums = carry
        number, views = part
        held = state.replace(mutable=mutable)
        loss, aux, grads = _whole(method, held, views, jax.random.fold_in(key, number), progress)
        weight = (jnp.sum(views["valid"]) if aux.weight is None else aux.weight).astype(jnp.float32)
        sums = jax.tree.map(lambda s, x: s + weight * x, sums, (loss, aux.metrics, grads))
        return (aux.mutable, total + weight, sums), None

    first = jax.tree.map(lambda x: x[0], cut)
    loss, aux, grads = jax.eval_shape(lambda: _whole(method, state, first, key, progress))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (loss, aux.metrics, grads))
    start = state.mutable, jnp.float32(0), zeros
    (mutable, total, sums), _ = jax.lax.scan(add, start, (jnp.arange(count), cut))
    loss, metrics, grads = jax.tree.map(lambda x: x / jnp.maximum(total, 1), sums)
    return loss, base.Aux(metrics, mutable), grads


def microbatches(views: base.Batch, count: int) -> base.Batch:
    """{name: [r B, ...]} -> {name: [count, r B / count, ...]}; r rows of a line, next to each
    other, stay together.
    """
    lines = min(len(leaf) for leaf in views.values())

    def cut(leaf: jax.Array) -> jax.Array:
        if len(leaf) % lines or lines % count:
            raise ValueError(
                f"rows of shape {leaf.shape} do not divide into {count} parts: set "
                "config.accumulate to a divisor"
            )
        grouped = leaf.reshape(lines // count, count, len(leaf) // lines, *leaf.shape[1:])
        return jnp.moveaxis(grouped, 1, 0).reshape(count, -1, *leaf.shape[1:])

    return {name: cut(leaf) for name, leaf in views.items()}


def _whole(
    method: base.Method,
    state: states.TrainState,
    views: base.Batch,
    key: jax.Array,
    progress: jax.Array,
) -> tuple[Any, base.Aux, Any]:
    def loss_of(params: base.Params) -> tuple[jax.Array, base.Aux]:
        return method.loss(params, state, views, key, progress)

    (loss, aux), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    return loss, aux, grads
