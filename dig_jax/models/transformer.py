"""Transformer blocks over tokens of lines of different lengths (arXiv 1706.03762, pre-norm).

Keys past a line's length are never attended to. All forms of attention compute the same.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax.models import flash
from dig_jax.models.layers import (
    Dense,
    DropPath,
    LayerNorm,
    add_bias,
    compute_dtype,
    dot_f32acc,
    gelu,
    stored_dtype,
)

ATTENTION = ("blocks", "plain", "xla", "cudnn", "flash")
LONG = 512  # tokens from which "blocks" goes block by block; below, all at once is faster
BLOCK = 128  # queries of a block


def attend(query, key, value, lengths, dtype, implementation):
    """Softmax attention of [B, N, heads, head dim] over the first lengths[b] keys -> f32.

    Logits are scaled by head dim ** -0.5. implementation: one of ATTENTION; "xla" and "cudnn" are
    those of jax.nn.dot_product_attention, "plain" is ours, "blocks" is "plain" in blocks of queries
    from LONG tokens on, "flash" fused kernels of TPUs from flash.MULTIPLE tokens on. Raises
    ValueError for another.
    """
    if implementation not in ATTENTION:
        raise ValueError(
            f"attention is {implementation!r}; set config.method.encoder.attention to 'auto' or "
            f"one of {', '.join(ATTENTION)}"
        )
    if implementation == "blocks" and query.shape[1] >= LONG:
        return _attend_blocks(query, key, value, lengths, dtype)
    if implementation == "flash" and query.shape[1] >= flash.MULTIPLE:
        query, key, value = (x.astype(dtype) for x in (query, key, value))
        return flash.attend(query, key, value, lengths).astype(jnp.float32)
    if implementation in ("blocks", "plain", "flash"):
        return _attend_plain(query, key, value, lengths, dtype)
    query, key, value = (x.astype(dtype) for x in (query, key, value))
    if implementation == "cudnn" and query.shape[1] % 2:
        # Its kernels take even numbers of tokens only. A class token makes them odd.
        even = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value))
        return attend(*even, lengths, dtype, implementation)[:, :-1]
    # The function takes no precision, and accelerators round float32 operands by default.
    with jax.default_matmul_precision("highest" if dtype == jnp.float32 else None):
        return jax.nn.dot_product_attention(
            query, key, value, key_value_seq_lengths=lengths, implementation=implementation
        ).astype(jnp.float32)


def _attend_plain(query, key, value, lengths, dtype):
    """The same, where the N x N passes over memory are the cost. It scales the queries and
    divides the sums, instead of the N x N logits and weights. At N = 256 that halves the time of
    jax.nn.dot_product_attention."""
    query = query.astype(jnp.float32) * query.shape[-1] ** -0.5
    logits = dot_f32acc(query, key, (((3,), (3,)), ((0, 2), (0, 2))), dtype)  # (B, heads, N, N)
    real = jnp.arange(key.shape[1])[None, :] < lengths[:, None]
    logits = jnp.where(real[:, None, None, :], logits, -jnp.inf)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True)))
    sums = dot_f32acc(
        weights, value, (((3,), (1,)), ((0, 1), (0, 2))), dtype
    )  # (B, heads, N, head dim)
    return (sums / jnp.sum(weights, -1, keepdims=True)).transpose(0, 2, 1, 3)


def _attend_blocks(query, key, value, lengths, dtype):
    """The same in memory that grows with N and not with its square (arXiv 2112.05682, by queries).

    A block of queries sees all keys, so its softmax is the usual one and needs no running maximum.
    The backward pass computes the weights of a block again and keeps none. Their gradients for keys
    and values are summed over the blocks in float32.
    """
    batch, tokens, heads, width = query.shape
    count = -(-tokens // BLOCK)
    size = -(-tokens // count)  # equal blocks, so that the last one is not mostly padding
    key, value = key.astype(jnp.float32), value.astype(jnp.float32)
    rows = jnp.pad(query, ((0, 0), (0, count * size - tokens), (0, 0), (0, 0)))
    rows = jnp.moveaxis(rows.reshape(batch, count, size, heads, width), 1, 0)
    attend_rows = lambda block: _attend_plain(block, key, value, lengths, dtype)
    # A loop already keeps its turns apart: no barrier against merging them is needed.
    out = jax.lax.map(jax.checkpoint(attend_rows, prevent_cse=False), rows)
    return jnp.moveaxis(out, 0, 1).reshape(batch, count * size, heads, width)[:, :tokens]


class Attention(nn.Module):
    """Multi-head self-attention; learned biases on queries and values, none on keys (BEiT, DiG)."""

    heads: int
    dtype: str
    implementation: str

    @nn.compact
    def __call__(self, x, lengths):
        batch, tokens, width = x.shape
        dtype, passed = compute_dtype(self.dtype), stored_dtype(self.dtype)
        # One matrix for the three, as in the original: Xavier's bound depends on the 3 * width
        # outputs.
        query, key, value = Dense(
            3 * width, use_bias=False, dtype=self.dtype, out=passed, parts=3, name="qkv"
        )(x)
        query = add_bias(query, self.param("q_bias", nn.initializers.zeros, (width,), jnp.float32))
        value = add_bias(value, self.param("v_bias", nn.initializers.zeros, (width,), jnp.float32))
        query, key, value = (y.reshape(batch, tokens, self.heads, -1) for y in (query, key, value))
        out = attend(query, key, value, lengths, dtype, self.implementation).astype(passed)
        out = out.reshape(batch, tokens, width)
        return Dense(width, dtype=self.dtype, name="proj")(out)


class FeedForward(nn.Module):
    hidden: int
    dtype: str
    gelu: str

    @nn.compact
    def __call__(self, x):
        hidden = gelu(
            Dense(self.hidden, dtype=self.dtype, out=stored_dtype(self.dtype), name="fc1")(x),
            self.gelu,
        )
        return Dense(x.shape[-1], dtype=self.dtype, name="fc2")(hidden)


class Block(nn.Module):
    """Pre-norm transformer block. (x f32[B, N, D], rate f32[], lengths i32[B]) -> (x, None or
    with each x again), the form nn.scan wants.
    """

    heads: int
    hidden: int
    dtype: str
    gelu: str
    implementation: str
    stochastic: bool
    each: bool = False

    @nn.compact
    def __call__(self, x, rate, lengths):
        def add(x, branch):
            return x + (DropPath()(branch, rate) if self.stochastic else branch)

        norm = functools.partial(LayerNorm, out=stored_dtype(self.dtype))
        attention = Attention(self.heads, self.dtype, self.implementation, name="attn")
        feed_forward = FeedForward(self.hidden, self.dtype, self.gelu, name="mlp")
        x = add(x, attention(norm(name="norm1")(x), lengths))
        x = add(x, feed_forward(norm(name="norm2")(x)))
        return x, x if self.each else None


def of_block(params: Mapping[str, Any], number: int) -> Any:
    """Parameters of one of `blocks`, stacked (scan) or not."""
    if "blocks" not in params:
        return params[f"block_{number}"]
    return jax.tree.map(lambda x: x[number], params["blocks"])


def blocks(
    x,
    lengths,
    *,
    depth: int,
    heads: int,
    hidden: int,
    dtype: str = "float32",
    gelu: str = "exact",
    attention: str = "plain",
    drop_path: float = 0.0,
    remat: bool = False,
    scan: bool = False,
    deterministic: bool = True,
    each: bool = False,
):
    """`depth` transformer blocks over x f32[B, N, D], of which the first lengths[b] tokens are read
    -> f32[B, N, D]. With each: the output of every block, f32[depth, B, N, D].

    To be called in a compact module, whose children they become: "block_0", "block_1", ..., or one
    stacked "blocks" with scan. hidden: width of the feed-forward layer. For the rest see `Vit`.
    """
    rates = jnp.linspace(0.0, drop_path, depth)
    block: Any = Block
    if remat:
        # Inside a scan nothing can be merged across blocks, so the barrier against it would only
        # cost time.
        block = nn.remat(Block, prevent_cse=not scan)
    options = {
        "heads": heads,
        "hidden": hidden,
        "dtype": dtype,
        "gelu": gelu,
        "implementation": attention,
        "stochastic": drop_path > 0.0 and not deterministic,
        "each": each,
    }
    if scan and depth:
        stacked = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "drop_path": True},
            in_axes=(0, nn.broadcast),
            length=depth,
        )
        return stacked(**options, name="blocks")(x, rates, lengths)[int(each)]
    outputs = []
    for i in range(depth):
        x, _ = block(**options, name=f"block_{i}")(x, rates[i], lengths)
        outputs.append(x)
    return jnp.stack(outputs) if each else x
