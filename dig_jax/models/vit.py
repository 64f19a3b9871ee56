"""Vision transformer for text lines of any height, width and patch (arXiv 2010.11929, in the form
of DiG and MAE).

Reading order. Tokens run column by column, n = column * Gh + row, so the tokens of a line's real
pixels are a prefix (one length a line is the whole attention mask), the Gh tokens of a column are
neighbours and a window of columns is a contiguous slice.

Padding. Pixels right of `width` cannot reach a feature: in a column that the line only partly fills
they are painted as paper, columns beyond it are never attended to, and their own tokens leave as
zeros. So features of a line do not move when its padding grows.
"""

import math
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
    stored_dtype,
    xavier_uniform,
)

# T, S, B are DiG's sizes (its B is 512/8, not the usual 768/12, which is base768 here); micro is
# for CPUs.
SIZES = {
    "nano": {"width": 64, "depth": 2, "heads": 2},
    "micro": {"width": 128, "depth": 4, "heads": 4},
    "T": {"width": 192, "depth": 12, "heads": 3},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 512, "depth": 12, "heads": 8},
    "base768": {"width": 768, "depth": 12, "heads": 12},
}
PAPER = 1.0  # what the pipeline pads with (255), after normalisation to [-1, 1]


# ---- geometry of tokens ----------------------------------------------------------------------------------------------


def grid(image_shape: Sequence[int], patch: Sequence[int]) -> tuple[int, int]:
    """(Gh, Gw) of an image shape (..., H, W, C). ValueError when a side does not divide by the
    patch.
    """
    height, width = image_shape[-3], image_shape[-2]
    for side, px, unit in (("height", height, patch[0]), ("width", width, patch[1])):
        if px <= 0 or px % unit:
            raise ValueError(
                f"An image {side} of {px} px does not divide into patches of {unit} px: choose a multiple of {unit} "
                "(config.data.height_px, width_px, buckets_px), or another config.method.encoder.patch."
            )
    return height // patch[0], width // patch[1]


def columns(width, patch_w: int):
    """Columns that hold at least one real pixel, i32[B], for real widths i32[B] in pixels; at least
    1.
    """
    return jnp.maximum((width + patch_w - 1) // patch_w, 1).astype(jnp.int32)


def token_valid(width, patch: Sequence[int], grid: Sequence[int]):
    """bool[B, N], True for tokens of columns with real pixels."""
    rows, cols = grid
    return jnp.arange(rows * cols)[None, :] < (columns(width, patch[1]) * rows)[:, None]


def patchify(image, patch: Sequence[int]):
    """[B, H, W, C] -> [B, N, ph * pw * C] in reading order; within a patch: row, column,
    channel.
    """
    rows, cols = grid(image.shape, patch)
    batch, channels = image.shape[0], image.shape[-1]
    x = image.reshape(batch, rows, patch[0], cols, patch[1], channels)
    return x.transpose(0, 3, 1, 2, 4, 5).reshape(batch, cols * rows, patch[0] * patch[1] * channels)


def unpatchify(patches, patch: Sequence[int], grid: Sequence[int]):
    """Inverse of patchify: [B, N, ph * pw * C] -> [B, H, W, C]."""
    rows, cols = grid
    x = patches.reshape(patches.shape[0], cols, rows, patch[0], patch[1], -1)
    return x.transpose(0, 2, 3, 1, 4, 5).reshape(
        patches.shape[0], rows * patch[0], cols * patch[1], -1
    )


def frames(tokens, rows: int, kind: str = "concat"):
    """Frames of a CTC recogniser, one a column: [B, N, D] -> [B, Gw, Gh * D] ("concat", top row
    first) or [B, Gw, D] ("mean" over the rows)."""
    x = tokens.reshape(tokens.shape[0], -1, rows, tokens.shape[-1])
    if kind == "concat":
        return x.reshape(x.shape[0], x.shape[1], -1)
    if kind == "mean":
        return jnp.mean(x, 2)
    raise ValueError(f"frames={kind!r} is not known: write 'concat' or 'mean'.")


def position_codes(kind: str, grid: Sequence[int], dim: int, flat_columns: int = 32, offset=None):
    """What is added to the tokens of a grid: f32[B or 1, N, dim]; constants, so no gradient reaches
    them.

    kind: see `Vit`. offset f32 or i32[B]: added to the column of "sincos_2d"; the others number
    fixed places.
    """
    rows, cols = grid
    if kind == "sincos_2d":
        column = jnp.arange(cols, dtype=jnp.float32)[None, :, None]
        if offset is not None:
            column = column + offset.astype(jnp.float32)[:, None, None]
        column, row = jnp.broadcast_arrays(
            column, jnp.arange(rows, dtype=jnp.float32)[None, None, :]
        )
        codes = sincos_2d(row, column, dim)
    elif kind in ("flat_1d", "square_2d"):
        if cols > flat_columns or offset is not None:
            raise ValueError(
                f"position={kind!r} numbers the tokens of {flat_columns} columns without an offset and this "
                f"image has {cols}: use position='sincos_2d', or raise flat_columns when the codes need not match "
                "imported weights."
            )
        index = flat_columns * np.arange(rows)[None, None, :] + np.arange(cols)[None, :, None]
        codes = (
            sincos_flat(index, dim)
            if kind == "flat_1d"
            else _sincos_square(index, rows * flat_columns, dim)
        )
    else:
        raise ValueError(
            f"position={kind!r} is not known: write 'sincos_2d', 'flat_1d' or 'square_2d'."
        )
    return codes.reshape(codes.shape[0], rows * cols, dim)


def _sincos_square(index, count: int, dim: int):
    """The 2-D code of a square of `count` places, numbered row by row."""
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(
            f"position='square_2d' lays the tokens out as a square, and {count} are none: use position='sincos_2d'."
        )
    return sincos_2d(*np.divmod(index, side), dim)


# ---- network ---------------------------------------------------------------------------------------------------------


def _attend(query, key, value, lengths, dtype, implementation):
    """Softmax attention of f32[B, N, heads, head dim] over the first lengths[b] keys; scaled by
    head dim ** -0.5.
    """
    backend = jax.default_backend()
    if implementation == "auto":
        fused = backend == "gpu" and dtype == jnp.bfloat16 and query.shape[-1] % 8 == 0
        implementation = "cudnn" if fused else "plain" if backend == "cpu" else "xla"
    if implementation == "plain":
        return _attend_plain(query, key, value, lengths, dtype)
    query, key, value = (x.astype(dtype) for x in (query, key, value))
    return jax.nn.dot_product_attention(
        query, key, value, key_value_seq_lengths=lengths, implementation=implementation
    ).astype(jnp.float32)


def _attend_plain(query, key, value, lengths, dtype):
    """The same for CPUs, where the N x N passes over memory are the cost: scaling the queries and
    dividing the sums, instead of the N x N logits and weights, halves the time of
    jax.nn.dot_product_attention at N = 256."""
    query = query * query.shape[-1] ** -0.5
    logits = dot_f32acc(query, key, (((3,), (3,)), ((0, 2), (0, 2))), dtype)  # (B, heads, N, N)
    real = jnp.arange(key.shape[1])[None, :] < lengths[:, None]
    logits = jnp.where(real[:, None, None, :], logits, -jnp.inf)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True)))
    sums = dot_f32acc(
        weights, value, (((3,), (1,)), ((0, 1), (0, 2))), dtype
    )  # (B, heads, N, head dim)
    return (sums / jnp.sum(weights, -1, keepdims=True)).transpose(0, 2, 1, 3)


class Attention(nn.Module):
    """Multi-head self-attention; learned biases on queries and values, none on keys (BEiT, DiG)."""

    heads: int
    dtype: str
    implementation: str

    @nn.compact
    def __call__(self, x, lengths):
        batch, tokens, width = x.shape
        # One matrix for the three, as in the original: Xavier's bound depends on the 3 * width
        # outputs.
        qkv = Dense(
            3 * width, use_bias=False, dtype=self.dtype, out=stored_dtype(self.dtype), name="qkv"
        )(x)
        query, key, value = jnp.split(qkv, 3, -1)
        query = query + along_last(
            self.param("q_bias", nn.initializers.zeros, (width,), jnp.float32), query
        )
        value = value + along_last(
            self.param("v_bias", nn.initializers.zeros, (width,), jnp.float32), value
        )
        query, key, value = (y.reshape(batch, tokens, self.heads, -1) for y in (query, key, value))
        out = _attend(query, key, value, lengths, compute_dtype(self.dtype), self.implementation)
        return Dense(width, dtype=self.dtype, name="proj")(out.reshape(batch, tokens, width))


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
    """Pre-norm transformer block. (x f32[B, N, D], rate f32[], lengths i32[B]) -> (x, None), the
    form nn.scan wants.
    """

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
        x = add(
            x,
            FeedForward(self.hidden, self.dtype, self.gelu, name="mlp")(LayerNorm(name="norm2")(x)),
        )
        return x, None


def blocks(
    x,
    lengths,
    *,
    depth: int,
    heads: int,
    hidden: int,
    dtype: str = "auto",
    gelu: str = "exact",
    attention: str = "auto",
    drop_path: float = 0.0,
    remat: bool = False,
    scan: bool = False,
    deterministic: bool = True,
):
    """`depth` transformer blocks over x f32[B, N, D], of which the first lengths[b] tokens are read
    -> f32[B, N, D].

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
    }
    if scan and depth:
        stacked = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "drop_path": True},
            in_axes=(0, nn.broadcast),
            length=depth,
        )
        return stacked(**options, name="blocks")(x, rates, lengths)[0]
    for i in range(depth):
        x, _ = block(**options, name=f"block_{i}")(x, rates[i], lengths)
    return x


class Vit(nn.Module):
    """(image f32[B, H, W, C] in [-1, 1], width i32[B] px) -> tokens f32[B, N, D], N = Gw * Gh, n =
    column * Gh + row.

    mask bool[B, N], True = hidden: the patch embedding is replaced by the mask token before
    positions are added. column_offset f32 or i32[B]: added to the column index of the position code
    (a crop's place in its line). keep i32[B, K]: only these patches are read, and nothing is
    computed for the others (MAE) -> tokens f32[B, K, D] in this order. A line with fewer than K has
    N in its last places, which leave as zeros. Not together with a mask. prefix f32[B, R, D]:
    tokens without a position that are read before those of the line and leave before them (a CLS
    token) -> tokens f32[B, R + N, D]. deterministic=False turns drop path on and needs the rng
    "drop_path".

    patch: (height, width) px. width, depth, heads: see SIZES. position: "sincos_2d" for any grid;
    "flat_1d", DiG's code over row-major indices flat_columns * row + column; or "square_2d", the
    2-D code of the square that Union14M's MAE takes these indices for (8 x 32 tokens get the codes
    of 16 x 16). final_norm: layer norm at the end (DiG drops it whenever its contrastive branch is
    on). drop_path: rate of the last block, linear from 0 over the depth. remat, scan: recompute
    blocks in the backward pass; trace one block and loop over stacked parameters ("blocks" instead
    of "block_i"). attention: "xla" and "cudnn" are jax.nn.dot_product_attention's, "plain" is ours
    for CPUs, "auto" takes cudnn where a GPU computes in bfloat16, plain on a CPU and xla elsewhere.
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

    @property
    def form(self) -> dict[str, str]:
        """What the transformer of a method takes over from its encoder: arguments of `blocks`."""
        return {"dtype": self.dtype, "gelu": self.gelu, "attention": self.attention}

    @nn.compact
    def __call__(
        self,
        image,
        width,
        mask=None,
        column_offset=None,
        deterministic: bool = True,
        keep=None,
        prefix=None,
    ):
        self._check()
        rows, cols = grid(image.shape, self.patch)
        inside = jnp.arange(image.shape[2])[None, :] < width[:, None]
        x = patchify(jnp.where(inside[:, None, :, None], image, PAPER), self.patch)
        real = token_valid(width, self.patch, (rows, cols))
        codes = position_codes(
            self.position, (rows, cols), self.width, self.flat_columns, column_offset
        )
        codes = jnp.broadcast_to(codes, (*x.shape[:2], self.width))
        if keep is not None:
            real = keep < rows * cols
            # Pixels and codes are chosen, not embedded tokens: neither has a gradient that would
            # have to be scattered.
            x, codes = (
                jnp.take_along_axis(y, keep[..., None], 1, mode="fill", fill_value=0)
                for y in (x, codes)
            )
        # Xavier's bound for this matrix is the original's uniform(+-sqrt(6 / (ph * pw * C + D))).
        x = Dense(self.width, dtype=self.dtype, kernel_init=xavier_uniform, name="patch_embed")(x)
        # Always a parameter, so that the encoder trees of all methods are the same.
        mask_token = self.param("mask_token", nn.initializers.zeros, (self.width,), jnp.float32)
        if mask is not None:
            x = jnp.where(mask[..., None], along_last(mask_token, x), x)
        x = x + codes
        if prefix is not None:
            x = jnp.concatenate([prefix, x], 1)
            real = jnp.pad(real, ((0, 0), (prefix.shape[1], 0)), constant_values=True)
        x = blocks(
            x,
            jnp.sum(real, 1),
            depth=self.depth,
            heads=self.heads,
            hidden=int(self.width * self.mlp_ratio),
            dtype=self.dtype,
            gelu=self.gelu,
            attention=self.attention,
            drop_path=self.drop_path,
            remat=self.remat,
            scan=self.scan,
            deterministic=deterministic,
        )
        if self.final_norm:
            x = LayerNorm(name="norm")(x)
        return jnp.where(real[..., None], x, 0.0)

    def _check(self):
        if self.width % self.heads:
            raise ValueError(
                f"A width of {self.width} does not divide into {self.heads} heads: set config.method.encoder.width to a "
                "multiple of config.method.encoder.heads"
            )
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path={self.drop_path} must lie in [0, 1).")
