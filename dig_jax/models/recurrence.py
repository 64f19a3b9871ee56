"""The recurrent part of a bidirectional LSTM (Hochreiter and Schmidhuber 1997; Graves 2005).

Both directions run in one loop. The backward pass is written out: the gradient of the recurrent
weights is one product over all frames, after the loop. Automatic differentiation would add up one
small product a frame.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from dig_jax.models.layers import dot_f32acc


def _by_direction(hidden, weights, dtype):
    """[2,B,P] x [2,P,Q] -> f32[2,B,Q]."""
    return dot_f32acc(hidden, weights, (((2,), (1,)), ((0,), (0,))), dtype)


def _activations(gates):
    """Sums of a cell's inputs [..., 4H] -> (write, forget, new, show), [..., H] each.

    1 more to forget: a fresh cell remembers (Jozefowicz et al. 2015).
    """
    write, forget, new, show = jnp.split(gates, 4, -1)
    sigmoid = jax.nn.sigmoid
    return sigmoid(write), sigmoid(forget + 1.0), jnp.tanh(new), sigmoid(show)


def _both(sequence, step):
    """Frame `step` of the forward and the `step`-th last of the backward direction, [2, ...].

    sequence [S,B,2X]: what the forward direction reads, then what the backward direction reads.
    """
    last = sequence.shape[0] - 1
    half = sequence.shape[-1] // 2
    ahead = lax.dynamic_index_in_dim(sequence, step, 0, False)[..., :half]
    back = lax.dynamic_index_in_dim(sequence, last - step, 0, False)[..., half:]
    return jnp.stack([ahead, back])


def _real(real, step):
    """f32[2,B,1]: which lines are not yet, or no longer, padding."""
    return jnp.stack([real[step], real[real.shape[0] - 1 - step]])[..., None]


def _side_by_side(steps):
    """[S,2,B,X] in the order of each direction's steps -> [S,B,2X] in the order of the frames."""
    return jnp.concatenate([steps[:, 0], steps[::-1, 1]], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def recurrence(gates, weights, real, dtype):
    """Runs one layer over frames: f32[S,B,2H], zero at padding.

    gates f32[S,B,8H]: the input products, forward then backward direction, each of the four gates
    write, forget, new, show. weights f32[2,H,4H]. real f32[S,B]: 1 at frames of the line, else 0;
    a cell is empty there. dtype: of the operands of products.
    """
    return _forward(gates, weights, real, dtype)[0]


def _forward(gates, weights, real, dtype):
    def step(carry, now):
        hidden, cell = carry
        sums = _both(gates, now) + _by_direction(hidden, weights, dtype)
        write, forget, new, show = _activations(sums)
        cell = (forget * cell + write * new) * _real(real, now)
        hidden = show * jnp.tanh(cell) * _real(real, now)
        return (hidden, cell), (hidden, cell, sums)

    empty = jnp.zeros((2, gates.shape[1], weights.shape[1]), jnp.float32)
    _, (hidden, cell, sums) = lax.scan(step, (empty, empty), jnp.arange(gates.shape[0]))
    return _side_by_side(hidden), (weights, real, hidden, cell, sums)


def _backward(dtype, kept, cotangent):
    weights, real, hidden, cell, sums = kept
    back = jnp.swapaxes(weights, 1, 2)

    def step(carry, now):
        d_hidden, d_cell = carry
        seen = _real(real, now)
        write, forget, new, show = _activations(sums[now])
        before = jnp.where(now > 0, cell[jnp.maximum(now - 1, 0)], 0.0)
        shown = jnp.tanh(cell[now])
        d_hidden = (d_hidden + _both(cotangent, now)) * seen
        d_cell = d_cell * seen + d_hidden * show * (1 - shown * shown)
        d_sums = [
            d_cell * new * write * (1 - write),
            d_cell * before * forget * (1 - forget),
            d_cell * write * (1 - new * new),
            d_hidden * shown * show * (1 - show),
        ]
        d_sums = jnp.concatenate(d_sums, -1)
        return (_by_direction(d_sums, back, dtype), d_cell * forget), d_sums

    none = jnp.zeros_like(hidden[0])
    _, d_sums = lax.scan(step, (none, none), jnp.arange(len(hidden)), reverse=True)
    earlier = jnp.moveaxis(hidden[:-1], 1, 0).reshape(2, -1, hidden.shape[-1])
    later = jnp.moveaxis(d_sums[1:], 1, 0).reshape(2, -1, d_sums.shape[-1])
    d_weights = dot_f32acc(earlier, later, (((1,), (1,)), ((0,), (0,))), dtype)
    return _side_by_side(d_sums), d_weights, jnp.zeros_like(real)


recurrence.defvjp(_forward, _backward)
