"""Vision transformer for text lines of any height, width and patch (arXiv 2010.11929, in the form
of DiG and MAE).

Reading order. Tokens run column by column, n = column * Gh + row. So the tokens of a line's real
pixels are a prefix, and one length a line is the whole attention mask. The Gh tokens of a column
are neighbours, and a window of columns is a contiguous slice.

Padding. Pixels right of `width` cannot reach a feature. In a column that the line only partly fills
they are painted as paper. Columns beyond it are never attended to, and their own tokens leave as
zeros. So features of a line do not move when its padding grows.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce

from dig_jax.models import transformer
from dig_jax.models.convolution import CHANNELS, HIGH_POOLS, POOLS, convolutions
from dig_jax.models.layers import (
    Dense,
    LayerNorm,
    along_last,
    sincos_2d,
    sincos_flat,
    xavier_uniform,
)

# T, S, B are DiG's sizes (its B is 512/8, not the usual 768/12, which is base768 here); micro is
# for CPUs.
SIZES = {
    "nano": {"width": 64, "depth": 2, "heads": 2},
    "micro": {"width": 128, "depth": 4, "heads": 4},
    "micro_stem": {"width": 128, "depth": 4, "heads": 4, "stem": CHANNELS},
    "nano_stem": {"width": 64, "depth": 2, "heads": 2, "stem": (8, 8, 16, 16, 16)},
    "T": {"width": 192, "depth": 12, "heads": 3},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 512, "depth": 12, "heads": 8},
    "base768": {"width": 768, "depth": 12, "heads": 12},
}
# Pools behind the convolutions of a stem, of height and width, by the patch that they make.
STEM_POOLS = {(32, 4): POOLS, (48, 6): HIGH_POOLS}
PAPER = 1.0  # what the pipeline pads with (255), after normalisation to [-1, 1]


# ---- geometry of tokens --------------------------------------------------------------------------


def grid(image_shape: Sequence[int], patch: Sequence[int]) -> tuple[int, int]:
    """(Gh, Gw) of an image shape (..., H, W, C). ValueError when a side does not divide by the
    patch.
    """
    height, width = image_shape[-3], image_shape[-2]
    for side, px, unit in (("height", height, patch[0]), ("width", width, patch[1])):
        if px <= 0 or px % unit:
            raise ValueError(
                f"An image {side} of {px} px does not divide into patches of {unit} px: choose a "
                f"multiple of {unit} (config.data.height_px, width_px, buckets_px), or another "
                "config.method.encoder.patch."
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
    grid(image.shape, patch)
    return rearrange(image, "b (r h) (c w) k -> b (c r) (h w k)", h=patch[0], w=patch[1])


def unpatchify(patches, patch: Sequence[int], grid: Sequence[int]):
    """Inverse of patchify: [B, N, ph * pw * C] -> [B, H, W, C]."""
    sizes = {"r": grid[0], "h": patch[0], "w": patch[1]}
    return rearrange(patches, "b (c r) (h w k) -> b (r h) (c w) k", **sizes)


def frames(tokens, rows: int, kind: str = "concat"):
    """Frames of a CTC recogniser, one a column. [B, N, D] -> [B, Gw, Gh * D] ("concat", top row
    first) or [B, Gw, D] ("mean" over the rows)."""
    if kind == "concat":
        return rearrange(tokens, "b (c r) d -> b c (r d)", r=rows)
    if kind == "mean":
        return reduce(tokens, "b (c r) d -> b c d", "mean", r=rows)
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
                f"position={kind!r} numbers the tokens of {flat_columns} columns without an offset "
                f"and this image has {cols}. Use position='sincos_2d', or raise flat_columns when "
                "the codes need not match imported weights."
            )
        places = np.arange(flat_columns)[None, :, None]
        index = flat_columns * np.arange(rows)[None, None, :] + places
        codes = (
            sincos_flat(index, dim)
            if kind == "flat_1d"
            else _sincos_square(index, rows * flat_columns, dim)
        )
        codes = codes[:, :cols]  # cols may be a symbol, in an export of any width
    else:
        raise ValueError(
            f"position={kind!r} is not known: write 'sincos_2d', 'flat_1d', 'square_2d' or "
            "'learned'."
        )
    return codes.reshape(codes.shape[0], rows * cols, dim)


def learned_codes(table, grid: Sequence[int], flat_columns: int, offset=None):
    """f32[1, N, D] of a grid, from a table [rows * flat_columns, D] in reading order.

    A narrower grid reads the first columns, so that padding moves no code.
    """
    rows, cols = grid
    if cols > flat_columns or offset is not None:
        raise ValueError(
            f"position='learned' has a table of {flat_columns} columns without an offset, but this "
            f"image has {cols}. Stretch the table when it is imported (import_weights --for_px), "
            "or squeeze lines with config.data.squeeze_px."
        )
    return table[None, : rows * cols]


def _sincos_square(index, count: int, dim: int):
    """The 2-D code of a square of `count` places, numbered row by row."""
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(
            f"position='square_2d' lays the tokens out as a square, and {count} are none: use "
            "position='sincos_2d'."
        )
    return sincos_2d(*np.divmod(index, side), dim)


# ---- network ----


class Vit(nn.Module):
    """(image f32[B, H, W, C] in [-1, 1], width i32[B] px) -> tokens f32[B, N, D], N = Gw * Gh, n =
    column * Gh + row.

    mask bool[B, N], True = hidden: the patch embedding is replaced by the mask token before
    positions are added. column_offset f32 or i32[B]: added to the column index of the position code
    (a crop's place in its line).

    keep i32[B, K]: only these patches are read, and nothing is computed for the others (MAE) ->
    tokens f32[B, K, D] in this order. A line with fewer than K has N in its last places, which
    leave as zeros. Not together with a mask.

    prefix f32[B, R, D]: tokens without a position that are read before those of the line and leave
    before them (a CLS token) -> tokens f32[B, R + N, D]. class_token: one such token of the
    encoder's own, which does not leave (imported weights). deterministic=False turns drop path on
    and needs the rng "drop_path". each_block: the output of every block instead, before the last
    norm, f32[depth, B, N, D].

    patch: (height, width) px. width, depth, heads: see SIZES.
    position: "sincos_2d" for any grid. "flat_1d" is DiG's code over row-major indices, flat_columns
        * row + column. "square_2d" is the 2-D code of the square that Union14M's MAE takes these
        indices for: 8 x 32 tokens get the codes of 16 x 16. "learned" is a table of flat_columns
        columns (CCD, PARSeq).
    final_norm: layer norm at the end (DiG drops it whenever its contrastive branch is on).
    drop_path: rate of the last block, linear from 0 over the depth.
    remat: recompute blocks in the backward pass.
    scan: trace one block and loop over stacked parameters, "blocks" instead of "block_i".
    dtype: see `layers`.
    attention: see `transformer.attend`; `encoders.resolve` says what "auto" in a config stands for.
    stem: channels of 3 x 3 convolutions that read the line in place of flat patches (Xiao et al.,
        arXiv 2106.14881; in front of a transformer that reads lines: HTR-VT, arXiv 2409.08573). One
        token a column; hidden columns are painted grey, so nothing leaks from a neighbour.
    """

    patch: Sequence[int]
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    position: str = "sincos_2d"
    flat_columns: int = 32
    class_token: bool = False
    final_norm: bool = True
    drop_path: float = 0.0
    remat: bool = False
    scan: bool = False
    dtype: str = "float32"
    gelu: str = "exact"
    attention: str = "plain"
    stem: Sequence[int] = ()

    def form(self, head_width: int) -> dict[str, str]:
        """What a method's own transformer takes over: arguments of `transformer.blocks`.

        cuDNN takes heads of 128 at most on every card that has it; wider ones go without it.
        """
        fits = head_width <= 128 and head_width % 8 == 0
        attention = self.attention if fits or self.attention != "cudnn" else "blocks"
        return {"dtype": self.dtype, "gelu": self.gelu, "attention": attention}

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
        each_block: bool = False,
    ):
        self._check()
        rows, cols = grid(image.shape, self.patch)
        inside = jnp.arange(image.shape[2])[None, :] < width[:, None]
        image = jnp.where(inside[:, None, :, None], image, PAPER)
        real = token_valid(width, self.patch, (rows, cols))
        if self.stem:
            x = self._convolved(image, real, mask, keep)
        else:
            x = patchify(image, self.patch)
        codes = self._codes((rows, cols), column_offset)
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
        if self.class_token:
            token = self.param("cls_token", nn.initializers.normal(0.02), (self.width,))
            token = jnp.broadcast_to(along_last(token, x), (len(x), 1, self.width))
            prefix = token if prefix is None else jnp.concatenate([token, prefix], 1)
        if prefix is not None:
            x = jnp.concatenate([prefix, x], 1)
            real = jnp.pad(real, ((0, 0), (prefix.shape[1], 0)), constant_values=True)
        x = transformer.blocks(
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
            each=each_block,
        )
        own = int(self.class_token)  # what does not leave
        x, real = x[..., own:, :], real[:, own:]
        if each_block:
            return jnp.where(real[None, ..., None], x, 0.0)
        if self.final_norm:
            x = LayerNorm(name="norm")(x)
        return jnp.where(real[..., None], x, 0.0)

    def _convolved(self, image, real, mask, keep):
        """What the patches of a whole column become behind the stem's convolutions."""
        if keep is not None:
            raise ValueError(
                "A method that reads chosen patches only cannot look through convolutions: choose "
                "a size without a stem, such as micro, or a method that paints masks (simmim)."
            )
        if tuple(self.patch) not in STEM_POOLS or self.patch[0] != image.shape[1]:
            raise ValueError(
                f"patch is {self.patch} on lines {image.shape[1]} px high, and a stem makes one "
                f"token a column: give lines and patch of one of {sorted(STEM_POOLS)}."
            )
        pools = STEM_POOLS[tuple(self.patch)]
        seen = real.astype(jnp.float32)
        return convolutions(image, seen, mask, channels=self.stem, pools=pools, dtype=self.dtype)

    def _codes(self, grid, offset):
        if self.position != "learned":
            return position_codes(self.position, grid, self.width, self.flat_columns, offset)
        shape = (grid[0] * self.flat_columns, self.width)
        table = self.param("position", nn.initializers.normal(0.02), shape, jnp.float32)
        return learned_codes(table, grid, self.flat_columns, offset)

    def _check(self):
        if self.width % self.heads:
            raise ValueError(
                f"A width of {self.width} does not divide into {self.heads} heads: set "
                "config.method.encoder.width to a multiple of config.method.encoder.heads"
            )
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path={self.drop_path} must lie in [0, 1).")


class Blocks(nn.Module):
    """Transformer blocks behind an encoder. form: see `transformer.blocks`."""

    depth: int
    heads: int
    form: Mapping[str, Any]

    @nn.compact
    def __call__(self, tokens, lengths):
        """f32[B,N,D], of which lengths i32[B] are real -> f32[B,N,D], normalised."""
        sizes = {"depth": self.depth, "heads": self.heads, "hidden": 4 * tokens.shape[-1]}
        return LayerNorm(name="norm")(transformer.blocks(tokens, lengths, **sizes, **self.form))


def blocks_behind(encoder, depth: int) -> Blocks:
    """As wide as the encoder, with heads as a ViT's own or, behind a CNN, of 32."""
    heads = getattr(encoder, "heads", encoder.width // 32)
    is_vit = isinstance(encoder, Vit)
    form = encoder.form(encoder.width // heads) if is_vit else {"dtype": encoder.dtype}
    return Blocks(depth, heads, form)
