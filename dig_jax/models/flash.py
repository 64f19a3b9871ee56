"""Attention on a TPU by one fused kernel, which never stores the N x N weights.

Dao et al., "FlashAttention" (arXiv 2205.14135), as JAX's own kernel for TPUs computes it. Forward
and backward pass go through blocks of keys with a running softmax, so memory grows with N. What a
line hides, keys past its length, is a segment of its own.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

MULTIPLE = 128  # of tokens: what the kernel's blocks are made of
BLOCKS = (512, 384, 256, 128)  # of queries and keys: the largest that divides the padded tokens


def attend(query, key, value, lengths):
    """Softmax attention of [B, N, heads, head dim] over the first lengths[b] keys, of that dtype.

    Logits are scaled by head dim ** -0.5 and summed in float32. On a mesh each device attends for
    its own rows and heads, since XLA cannot cut a kernel: the mesh is the one in context
    (jax.set_mesh), and every axis but "tensor" splits rows, see `sharding.py`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _attend(query, key, value, lengths)
    axes = tuple(name for name in mesh.axis_names if name != "tensor")
    rows = axes if not query.shape[0] % (mesh.size // mesh.shape.get("tensor", 1)) else None
    heads = "tensor" if "tensor" in mesh.shape else None
    heads = heads if heads and not query.shape[2] % mesh.shape["tensor"] else None
    whole, line = P(rows, None, heads, None), P(rows)
    # The kernel does not say over which axes its results vary, hence no check.
    own = jax.shard_map(
        _attend, in_specs=(whole, whole, whole, line), out_specs=whole, check_vma=False
    )
    return own(query, key, value, lengths)


def _attend(query, key, value, lengths):
    # Only a TPU needs it: imported where it is used, since Pallas takes a third of a second.
    from jax.experimental.pallas.ops.tpu import flash_attention as kernel

    tokens, width = query.shape[1], query.shape[-1]
    padded = -(-tokens // MULTIPLE) * MULTIPLE
    ahead = lambda x: jnp.pad(x, ((0, 0), (0, padded - tokens), (0, 0), (0, 0))).swapaxes(1, 2)
    real = (jnp.arange(padded)[None] < lengths[:, None]).astype(jnp.int32)
    size = next(size for size in BLOCKS if not padded % size)
    sizes = kernel.BlockSizes(
        block_b=1, **dict.fromkeys(("block_q", "block_k_major", "block_k"), size),
        **dict.fromkeys(("block_q_major_dkv", "block_k_major_dkv", "block_k_dkv"), size),
        **dict.fromkeys(("block_q_dkv", "block_k_major_dq", "block_k_dq", "block_q_dq"), size),
    )  # fmt: skip
    call = functools.partial(kernel.flash_attention, sm_scale=width**-0.5, block_sizes=sizes)
    segments = kernel.SegmentIds(jnp.ones_like(real), real)
    out = call(ahead(query), ahead(key), ahead(value), segment_ids=segments)
    return out.swapaxes(1, 2)[:, :tokens]
