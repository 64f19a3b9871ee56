"""TrainState: everything a run must remember, as one pytree."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """What a checkpoint holds.

    step       i32[], the number of updates done = the index of the next batch
    params     f32 tree
    teacher    None, or a subtree of params
    opt_state  of optax
    mutable    {}, or what a method keeps (batch statistics, queue, feature scale)
    """

    step: jax.Array
    params: Any
    teacher: Any
    opt_state: Any
    mutable: Any


def create(method: Any, tx: optax.GradientTransformation, variables: dict[str, Any]) -> TrainState:
    """The state before step 0. Pure, so it may run under eval_shape and under jit with
    out_shardings.

    variables: of `method.init`. The teacher starts as a copy of the student.
    """
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        teacher=new_teacher(method, params),
        opt_state=tx.init(params),
        mutable=variables["mutable"],
    )


def new_teacher(method: Any, params: Any) -> Any:
    """The teacher that follows these parameters, or None. Its buffers are its own: a donated step
    may not be handed one buffer twice."""
    return jax.tree.map(jnp.copy, method.init_teacher(params))
