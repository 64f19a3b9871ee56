"""Attention on a TPU by fused kernels, which never store the N x N weights in main memory.

Dao et al., "FlashAttention" (arXiv 2205.14135): the weights are computed again in the backward
pass, from queries and keys. Up to SHORT tokens the weights of one line and head fit into the memory
on the chip. Then a kernel of ours takes a line at a time, as it lies in memory. Longer lines take
JAX's own kernel for TPUs, block by block with a running softmax.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

SHORT = 512  # tokens
MULTIPLE = 128  # of tokens: lines are padded to it
BLOCKS = (512, 384, 256, 128)  # of queries and keys: the largest that divides the padded tokens


def attend(query, key, value, lengths):
    """Softmax attention of [B, N, heads, head dim] over the first lengths[b] keys, of that dtype.

    Logits are scaled by head dim ** -0.5; products are summed in float32. On a mesh each device
    attends for its own rows and heads, since XLA cannot cut a kernel: the mesh is the one in
    context (jax.set_mesh), and every axis but "tensor" splits rows, see `sharding.py`. Needs a TPU,
    or Pallas in its interpret mode.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _attend(query, key, value, lengths)
    # What does not divide is not split: then each device attends for all of it.
    tensor = mesh.shape.get("tensor", 1)
    rows = tuple(name for name in mesh.axis_names if name != "tensor")
    rows = None if query.shape[0] % (mesh.size // tensor) else rows
    heads = None if tensor == 1 or query.shape[2] % tensor else "tensor"
    whole, line = P(rows, None, heads, None), P(rows)
    # The kernels do not say over which axes their results vary, hence no check.
    own = jax.shard_map(
        _attend, in_specs=(whole, whole, whole, line), out_specs=whole, check_vma=False
    )
    return own(query, key, value, lengths)


def _attend(query, key, value, lengths):
    tokens = query.shape[1]
    padded = -(-tokens // MULTIPLE) * MULTIPLE
    ahead = lambda x: jnp.pad(x, ((0, 0), (0, padded - tokens), (0, 0), (0, 0)))
    call = _short if padded <= SHORT else _long
    return call(*map(ahead, (query, key, value)), lengths)[:, :tokens]


def _long(query, key, value, lengths):
    """JAX's kernel, of N = a multiple of MULTIPLE tokens."""
    # Only a TPU needs it: imported where it is used, since Pallas takes a third of a second.
    from jax.experimental.pallas.ops.tpu import flash_attention as kernel

    tokens, width = query.shape[1], query.shape[-1]
    real = (jnp.arange(tokens)[None] < lengths[:, None]).astype(jnp.int32)
    size = next(size for size in BLOCKS if not tokens % size)
    fields = (field.name for field in dataclasses.fields(kernel.BlockSizes))
    sizes = kernel.BlockSizes(**dict.fromkeys(fields, size) | {"block_b": 1})
    call = functools.partial(kernel.flash_attention, sm_scale=width**-0.5, block_sizes=sizes)
    # What a line hides, keys past its length, is a segment of its own.
    segments = kernel.SegmentIds(jnp.ones_like(real), real)
    out = call(*(x.swapaxes(1, 2) for x in (query, key, value)), segment_ids=segments)
    return out.swapaxes(1, 2)


# ---- short lines: all keys of a line at once


@jax.custom_vjp
def _short(query, key, value, lengths):
    return _by_line(_forward, 1, lengths, query, key, value)[0]


def _short_forward(query, key, value, lengths):
    return _short(query, key, value, lengths), (query, key, value, lengths)


def _short_backward(kept, cotangent):
    query, key, value, lengths = kept
    return *_by_line(_backward, 3, lengths, query, key, value, cotangent), None


_short.defvjp(_short_forward, _short_backward)


def _by_line(function, results, lengths, *arrays):
    """function(real bool[N, N], scale, a [N, head dim] of each array) -> `results` of [N, head
    dim], of every line and head."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    batch, tokens, heads, width = arrays[0].shape

    def kernel(lengths, *refs):
        given, made = refs[: len(arrays)], refs[len(arrays) :]
        key_ = jax.lax.broadcasted_iota(jnp.int32, (tokens, tokens), 1)
        real = key_ < lengths[pl.program_id(0)]
        for head in range(heads):
            of = (0, slice(None), slice(head * width, (head + 1) * width))
            found = function(real, width**-0.5, *(ref[of] for ref in given))
            for ref, value in zip(made, found, strict=True):
                ref[of] = value.astype(ref.dtype)

    flat = (batch, tokens, heads * width)
    line = pl.BlockSpec((1, *flat[1:]), lambda row: (row, 0, 0))
    numbers = pl.BlockSpec(memory_space=pltpu.SMEM)
    call = pl.pallas_call(
        kernel,
        grid=(batch,),
        in_specs=[numbers, *[line] * len(arrays)],
        out_specs=[line] * results,
        out_shape=[jax.ShapeDtypeStruct(flat, arrays[0].dtype)] * results,
    )
    return [x.reshape(arrays[0].shape) for x in call(lengths, *(x.reshape(flat) for x in arrays))]


def _product(lhs, rhs, left, right):
    """Over dimension `left` of lhs and `right` of rhs, summed in float32."""
    exact = "highest" if lhs.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        lhs, rhs.astype(lhs.dtype), (((left,), (right,)), ((), ())), precision=exact,
        preferred_element_type=jnp.float32,
    )  # fmt: skip


def _weights(real, scale, query, key):
    logits = jnp.where(real, _product(query, key, 1, 1) * scale, -jnp.inf)
    weights = jnp.exp(logits - jnp.max(logits, 1, keepdims=True))
    return weights / jnp.sum(weights, 1, keepdims=True)


def _forward(real, scale, query, key, value):
    return [_product(_weights(real, scale, query, key).astype(value.dtype), value, 1, 0)]


def _backward(real, scale, query, key, value, cotangent):
    """Of softmax(scale * query key^T) value: gradients of query, key and value."""
    weights = _weights(real, scale, query, key)
    of_weights = _product(cotangent, value, 1, 1)
    shared = jnp.sum(of_weights * weights, 1, keepdims=True)
    of_logits = (weights * (of_weights - shared) * scale).astype(query.dtype)
    weights = weights.astype(cotangent.dtype)
    return [
        _product(of_logits, key, 1, 0),
        _product(of_logits, query, 0, 0),
        _product(weights, cotangent, 0, 0),
    ]
