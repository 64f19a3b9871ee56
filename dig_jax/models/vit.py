"""Vision transformer for text lines of any height, width and patch (arXiv 2010.11929, in the form of DiG and MAE).

Reading order. Tokens run column by column, n = column * Gh + row, so the tokens of a line's real pixels are a prefix
(one length a line is the whole attention mask), the Gh tokens of a column are neighbours and a window of columns is a
contiguous slice.

Padding. Pixels right of `width` cannot reach a feature: in a column that the line only partly fills they are painted
as paper, columns beyond it are never attended to, and their own tokens leave as zeros. So features of a line do not
move when its padding grows.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dig_jax.models.layers import (
    Dense,
    DropPath,
    LayerNorm,
    along_last,
    compute_dtype,
    dot_f32acc,
    gelu,
    sincos_2d,
    sincos_flat,
    xavier_uniform,
)

# T, S, B are DiG's sizes (its B is 512/8, not the usual 768/12, which is base768 here); micro is for CPUs.
SIZES = {
    "nano": {"width": 64, "depth": 2, "heads": 2},
    "micro": {"width": 128, "depth": 4, "heads": 4},
    "T": {"width": 192, "depth": 12, "heads": 3},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 512, "depth": 12, "heads": 8},
    "base768": {"width": 768, "depth": 12, "heads": 12},
}
PAPER = 1.0  # what `pad_to_width` pads with (255), after normalisation to [-1, 1]


# ---- geometry of tokens ----------------------------------------------------------------------------------------------


def grid(image_shape: Sequence[int], patch: Sequence[int]) -> tuple[int, int]:
    """(Gh, Gw) of an image shape (..., H, W, C). ValueError when a side does not divide by the patch."""
    height, width = image_shape[-3], image_shape[-2]
    for side, px, unit in (("height", height, patch[0]), ("width", width, patch[1])):
        if px <= 0 or px % unit:
            raise ValueError(
                f"An image {side} of {px} px does not divide into patches of {unit} px: choose a multiple of {unit} "
                "(data.height_px, data.width_px, data.buckets_px), or another patch."
            )
    return height // patch[0], width // patch[1]


def columns(width, patch_w: int):
    """Columns that hold at least one real pixel, i32[B], for real widths i32[B] in pixels; at least 1."""
    return jnp.maximum((width + patch_w - 1) // patch_w, 1).astype(jnp.int32)


def token_valid(width, patch: Sequence[int], grid: Sequence[int]):
    """bool[B, N], True for tokens of columns with real pixels."""
    rows, cols = grid
    return jnp.arange(rows * cols)[None, :] < (columns(width, patch[1]) * rows)[:, None]


def patchify(image, patch: Sequence[int]):
    """[B, H, W, C] -> [B, N, ph * pw * C] in reading order; within a patch: row, column, channel."""
    rows, cols = grid(image.shape, patch)
    batch, channels = image.shape[0], image.shape[-1]
    x = image.reshape(batch, rows, patch[0], cols, patch[1], channels)
    return x.transpose(0, 3, 1, 2, 4, 5).reshape(batch, cols * rows, patch[0] * patch[1] * channels)


def unpatchify(patches, patch: Sequence[int], grid: Sequence[int]):
    """Inverse of patchify: [B, N, ph * pw * C] -> [B, H, W, C]."""
    rows, cols = grid
    x = patches.reshape(patches.shape[0], cols, rows, patch[0], patch[1], -1)
    return x.transpose(0, 2, 3, 1, 4, 5).reshape(patches.shape[0], rows * patch[0], cols * patch[1], -1)


def frames(tokens, rows: int, kind: str = "concat"):
    """Frames of a CTC recogniser, one a column: [B, N, D] -> [B, Gw, Gh * D] ("concat", top row first) or [B, Gw, D]
    ("mean" over the rows)."""
    x = tokens.reshape(tokens.shape[0], -1, rows, tokens.shape[-1])
    if kind == "concat":
        return x.reshape(x.shape[0], x.shape[1], -1)
    if kind == "mean":
        return jnp.mean(x, 2)
    raise ValueError(f"frames={kind!r} is not known: write 'concat' or 'mean'.")


# ---- network ---------------------------------------------------------------------------------------------------------


def _attend(query, key, value, lengths, dtype, implementation):
    """Softmax attention of f32[B, N, heads, head dim] over the first lengths[b] keys; scaled by head dim ** -0.5."""
    backend = jax.default_backend()
    if implementation == "auto":
        fused = backend == "gpu" and dtype == jnp.bfloat16 and query.shape[-1] % 8 == 0
        implementation = "cudnn" if fused else "plain" if backend == "cpu" else "xla"
    if implementation == "plain":
        return _attend_plain(query, key, value, lengths, dtype)
    query, key, value = (x.astype(dtype) for x in (query, key, value))
    return jax.nn.dot_product_attention(query, key, value, key_value_seq_lengths=lengths, implementation=implementation).astype(
        jnp.float32
    )


def _attend_plain(query, key, value, lengths, dtype):
    """The same for CPUs, where the N x N passes over memory are the cost: scaling the queries and dividing the sums,
    instead of the N x N logits and weights, halves the time of jax.nn.dot_product_attention at N = 256."""
    query = query * query.shape[-1] ** -0.5
    logits = dot_f32acc(query, key, (((3,), (3,)), ((0, 2), (0, 2))), dtype)  # (B, heads, N, N)
    real = jnp.arange(key.shape[1])[None, :] < lengths[:, None]
    logits = jnp.where(real[:, None, None, :], logits, -jnp.inf)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True)))
    sums = dot_f32acc(weights, value, (((3,), (1,)), ((0, 1), (0, 2))), dtype)  # (B, heads, N, head dim)
    return (sums / jnp.sum(weights, -1, keepdims=True)).transpose(0, 2, 1, 3)


class Attention(nn.Module):
    """Multi-head self-attention; learned biases on queries and values, none on keys (BEiT, DiG)."""

    heads: int
    dtype: str
    implementation: str

    @nn.compact
    def __call__(self, x, lengths):
        batch, tokens, width = x.shape
        # One matrix for the three, as in the original: Xavier's bound depends on the 3 * width outputs.
        qkv = Dense(3 * width, use_bias=False, dtype=self.dtype, name="qkv")(x)
        query, key, value = jnp.split(qkv, 3, -1)
        query = query + along_last(self.param("q_bias", nn.initializers.zeros, (width,), jnp.float32), query)
        value = value + along_last(self.param("v_bias", nn.initializers.zeros, (width,), jnp.float32), value)
        query, key, value = (y.reshape(batch, tokens, self.heads, -1) for y in (query, key, value))
        out = _attend(query, key, value, lengths, compute_dtype(self.dtype), self.implementation)
        return Dense(width, dtype=self.dtype, name="proj")(out.reshape(batch, tokens, width))


class FeedForward(nn.Module):
    hidden: int
    dtype: str
    gelu: str

    @nn.compact
    def __call__(self, x):
        hidden = gelu(Dense(self.hidden, dtype=self.dtype, name="fc1")(x), self.gelu)
        return Dense(x.shape[-1], dtype=self.dtype, name="fc2")(hidden)


class Block(nn.Module):
    """Pre-norm transformer block. (x f32[B, N, D], rate f32[], lengths i32[B]) -> (x, None), the form nn.scan wants."""

    heads: int
    hidden: int
    dtype: str
    gelu: str
    implementation: str
    stochastic: bool

    @nn.compact
    def __call__(self, x, rate, lengths):
        def add(x, branch):
            return x + (DropPath()(branch, rate) if self.stochastic else branch)

        attention = Attention(self.heads, self.dtype, self.implementation, name="attn")
        x = add(x, attention(LayerNorm(name="norm1")(x), lengths))
        x = add(x, FeedForward(self.hidden, self.dtype, self.gelu, name="mlp")(LayerNorm(name="norm2")(x)))
        return x, None


class Vit(nn.Module):
    """(image f32[B, H, W, C] in [-1, 1], width i32[B] px) -> tokens f32[B, N, D], N = Gw * Gh, n = column * Gh + row.

    mask bool[B, N], True = hidden: the patch embedding is replaced by the mask token before positions are added.
    column_offset f32 or i32[B]: added to the column index of the position code (a crop's place in its line).
    deterministic=False turns drop path on and needs the rng "drop_path".

    patch: (height, width) px. width, depth, heads: see SIZES. position: "sincos_2d" for any grid, or "flat_1d", DiG's
    code over row-major indices flat_columns * row + column. final_norm: layer norm at the end (DiG drops it whenever
    its contrastive branch is on). drop_path: rate of the last block, linear from 0 over the depth. remat, scan:
    recompute blocks in the backward pass; trace one block and loop over stacked parameters ("blocks" instead of
    "block_i"). attention: "xla" and "cudnn" are jax.nn.dot_product_attention's, "plain" is ours for CPUs, "auto" takes
    cudnn where a GPU computes in bfloat16, plain on a CPU and xla elsewhere.
    """

    patch: Sequence[int]
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    position: str = "sincos_2d"
    flat_columns: int = 32
    final_norm: bool = True
    drop_path: float = 0.0
    remat: bool = False
    scan: bool = False
    dtype: str = "auto"
    gelu: str = "exact"
    attention: str = "auto"

    @nn.compact
    def __call__(self, image, width, mask=None, column_offset=None, deterministic: bool = True):
        self._check()
        rows, cols = grid(image.shape, self.patch)
        real = jnp.arange(image.shape[2])[None, :] < width[:, None]
        image = jnp.where(real[:, None, :, None], image, PAPER)
        # Xavier's bound for this matrix is the original's uniform(+-sqrt(6 / (ph * pw * C + D))).
        x = Dense(self.width, dtype=self.dtype, kernel_init=xavier_uniform, name="patch_embed")(patchify(image, self.patch))
        # Always a parameter, so that the encoder trees of all methods are the same.
        mask_token = self.param("mask_token", nn.initializers.zeros, (self.width,), jnp.float32)
        if mask is not None:
            x = jnp.where(mask[..., None], along_last(mask_token, x), x)
        codes = self._positions(rows, cols, column_offset)
        x = x + jnp.broadcast_to(codes, x.shape)
        x = self._blocks(x, columns(width, self.patch[1]) * rows, deterministic)
        if self.final_norm:
            x = LayerNorm(name="norm")(x)
        return jnp.where(token_valid(width, self.patch, (rows, cols))[..., None], x, 0.0)

    def _check(self):
        if self.width % self.heads:
            raise ValueError(f"A width of {self.width} does not divide into {self.heads} heads.")
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path={self.drop_path} must lie in [0, 1).")

    def _positions(self, rows, cols, offset):
        """f32[B or 1, N, D]; constants, so no gradient reaches them."""
        column = jnp.arange(cols, dtype=jnp.float32)[None, :, None]
        if offset is not None:
            column = column + offset.astype(jnp.float32)[:, None, None]
        column, row = jnp.broadcast_arrays(column, jnp.arange(rows, dtype=jnp.float32)[None, None, :])
        if self.position == "sincos_2d":
            codes = sincos_2d(row, column, self.width)
        elif self.position == "flat_1d":
            if cols > self.flat_columns or offset is not None:
                raise ValueError(
                    f"position='flat_1d' numbers the tokens of {self.flat_columns} columns without an offset and this "
                    f"image has {cols}: use position='sincos_2d', or raise flat_columns when the codes need not match "
                    "imported weights."
                )
            index = self.flat_columns * np.arange(rows)[None, None, :] + np.arange(cols)[None, :, None]
            codes = sincos_flat(index, self.width)
        else:
            raise ValueError(f"position={self.position!r} is not known: write 'sincos_2d' or 'flat_1d'.")
        return codes.reshape(codes.shape[0], rows * cols, self.width)

    def _blocks(self, x, lengths, deterministic):
        rates = jnp.linspace(0.0, self.drop_path, self.depth)
        block: Any = Block
        if self.remat:
            # Inside a scan nothing can be merged across blocks, so the barrier against it would only cost time.
            block = nn.remat(Block, prevent_cse=not self.scan)
        options = {
            "heads": self.heads,
            "hidden": int(self.width * self.mlp_ratio),
            "dtype": self.dtype,
            "gelu": self.gelu,
            "implementation": self.attention,
            "stochastic": self.drop_path > 0.0 and not deterministic,
        }
        if self.scan and self.depth:
            stacked = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "drop_path": True},
                in_axes=(0, nn.broadcast),
                length=self.depth,
            )
            return stacked(**options, name="blocks")(x, rates, lengths)[0]
        for i in range(self.depth):
            x, _ = block(**options, name=f"block_{i}")(x, rates[i], lengths)
        return x
