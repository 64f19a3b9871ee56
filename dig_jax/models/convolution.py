"""3 x 3 convolution, and norm + ReLU + pooling in one pass, for text lines of different width; and
stacks of both, which turn a line into columns.

Convolution and norm have a backward pass of their own. XLA's CPU backend forms the gradient of a
kernel 3 to 6 times slower than as one matrix product, and the gradient of a pooling window by
window. One norm, ReLU and maximum together read the wide array twice. Three layers would read it
nine times.
"""

import functools
from collections.abc import Iterable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax

from dig_jax.models.layers import compute_dtype

LAYOUT = ("NHWC", "HWIO", "NHWC")
CHANNELS = (16, 48, 96, 128, 192)  # of a stack of five, for lines 32 or 48 px high
POOLS = ((2, 2), (2, 2), (2, 1), (2, 1), (1, 1))  # of height and width: columns of 4 px
HIGH_POOLS = (POOLS[0], (2, 3), *POOLS[2:])  # columns of 6 px
MASKED = 0.0  # grey of hidden columns, in [-1, 1]: neither ink nor paper


# ---- convolution


def _convolve(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT, precision=_precision(x)
    )


def _precision(x):
    """Of products: float32 means float32 on every device."""
    return lax.Precision.HIGHEST if x.dtype == jnp.float32 else lax.Precision.DEFAULT


def _shifted_sum(x, kernel):
    """The convolution of a grey picture as nine shifted pictures, which XLA fuses in one loop.
    Summed in float32, as a product's."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(jnp.float32)
    taps = [(i, j) for i in range(3) for j in range(3)]
    shifted = lambda i, j: padded[:, i : i + height, j : j + width] * _at(kernel[i, j, 0])
    return sum(shifted(i, j) for i, j in taps).astype(x.dtype)


@jax.custom_vjp
def conv3x3(x, kernel):
    """Convolution, stride 1, zeros around: x f[B,H,W,C], kernel f32[3,3,C,D] -> f[B,H,W,D] of the
    dtype of x, to which the kernel is rounded. Its gradient is not."""
    kernel = kernel.astype(x.dtype)
    return _shifted_sum(x, kernel) if x.shape[-1] == 1 else _convolve(x, kernel)


def _conv_forward(x, kernel):
    return conv3x3(x, kernel), (x, kernel)


def _conv_backward(kept, cotangent):
    x, kernel = kept
    turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3).astype(x.dtype)
    return _convolve(cotangent, turned), _kernel_gradient(x, cotangent)


def _kernel_gradient(x, cotangent):
    """f32[3,3,C,D] as one product over all pixels.

    The three rows that a tap may read stand side by side in x, its three columns in the cotangent.
    """
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    rows = jnp.stack([x[:, i : i + height] for i in range(3)], 3)
    cotangent = jnp.pad(cotangent, ((0, 0), (0, 0), (1, 1), (0, 0)))
    columns = jnp.stack([cotangent[:, :, 2 - j : 2 - j + width] for j in range(3)], 3)
    product = lax.dot_general(
        rearrange(rows, "b h w i c -> (b h w) (i c)"),
        rearrange(columns, "b h w j d -> (b h w) (j d)"),
        (((0,), (0,)), ((), ())),
        precision=_precision(x),
        preferred_element_type=jnp.float32,
    )
    return rearrange(product, "(i c) (j d) -> i j c d", i=3, j=3)


conv3x3.defvjp(_conv_forward, _conv_backward)


# ---- norm, ReLU, pooling


def _by_group(channels, groups):
    """[B,C] -> the mean over the channels of a group, back at each of its channels, [B,C]."""
    grouped = rearrange(channels, "b (g c) -> b g c", g=groups)
    return jnp.broadcast_to(jnp.mean(grouped, 2, keepdims=True), grouped.shape).reshape(
        channels.shape
    )


def _cells(x, pool):
    """[B,H,W,C] -> the places of a pooling window, each [B,H/ph,W/pw,C]."""
    x = rearrange(x, "b (h i) (w j) c -> b h i w j c", i=pool[0], j=pool[1])
    return [x[:, :, i, :, j] for i in range(pool[0]) for j in range(pool[1])]


def _at(channels):
    """[B,C] or [C] shaped to meet [B,H,W,C]."""
    return channels[None, None, None] if channels.ndim == 1 else channels[:, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def norm_relu_pool(x, scale, bias, real, groups, pool=(1, 1), epsilon=1e-5):
    """Group norm (arXiv 1803.08494) by the real columns of each line, ReLU, maximum of each window.

    x f32[B,H,W,C]; scale, bias f32[C]; real f32[B,W], 1 at columns of the line and 0 at padding,
    alike in all columns of a window. Returns f32[B,H/ph,W/pw,C], zero at padding.
    """
    return _norm_forward(x, scale, bias, real, groups, pool, epsilon)[0]


def _norm_forward(x, scale, bias, real, groups, pool, epsilon):
    seen = real[:, None, :, None]
    count = jnp.maximum(jnp.sum(real, 1), 1.0)[:, None] * x.shape[1]
    mean = _by_group(jnp.sum(x * seen, (1, 2)) / count, groups)
    square = _by_group(jnp.sum(x * x * seen, (1, 2)) / count, groups)
    spread = lax.rsqrt(jnp.maximum(square - mean * mean, 0.0) + epsilon)
    # Of a window only its winner passes; where the scale is negative that is the lowest value.
    sign = _at(jnp.where(scale < 0, -1.0, 1.0))
    best, winner = _winner(_cells(x, pool), sign)
    hat = (best - _at(mean)) * _at(spread)
    out = jnp.maximum(hat * _at(scale) + _at(bias), 0.0) * seen[:, :, :: pool[1]]
    return out, (x, best, winner, mean, spread, count, scale, bias, real)


def _winner(cells, sign):
    """(value with the highest sign * value, number of its cell i8): of equals the first."""
    best, place = cells[0], jnp.zeros(cells[0].shape, jnp.int8)
    for number, cell in enumerate(cells[1:], 1):
        wins = cell * sign > best * sign
        best, place = jnp.where(wins, cell, best), jnp.where(wins, jnp.int8(number), place)
    return best, place


def _norm_backward(groups, pool, epsilon, kept, cotangent):
    x, best, winner, mean, spread, count, scale, bias, real = kept
    seen = real[:, None, :, None]
    hat = (best - _at(mean)) * _at(spread)
    passes = (hat * _at(scale) + _at(bias) > 0) & (seen[:, :, :: pool[1]] > 0)
    cotangent = jnp.where(passes, cotangent, 0.0)
    # What loses its window has no gradient, so every sum needs the pooled arrays only.
    d_bias, d_scale = jnp.sum(cotangent, (1, 2)), jnp.sum(cotangent * hat, (1, 2))
    mean_d = _by_group(d_bias * scale[None] / count, groups)
    mean_d_hat = _by_group(d_scale * scale[None] / count, groups)
    # d x = spread * (d hat - mean(d hat) - hat * mean(d hat * hat)) over the group's real pixels
    slope = spread * spread * mean_d_hat
    offset = spread * mean_d - slope * mean
    won = cotangent * _at(scale) * _at(spread)
    d_x = _to_winners(won, winner, pool) - (x * _at(slope) + _at(offset)) * seen
    return d_x, jnp.sum(d_scale, 0), jnp.sum(d_bias, 0), jnp.zeros_like(real)


def _to_winners(won, winner, pool):
    """Each number of `won` [B,h,w,C] at its cell of the window, zero at the others, [B,H,W,C].

    By comparison at every pixel. A stack of the cells, turned to lines, was a concatenation within
    that of `_kernel_gradient`, and a GPU's gradient was wrong ("Is it right?" in
    docs/performance.md).
    """
    batch, height, width, channels = won.shape
    shape = (batch, height, pool[0], width, pool[1], channels)
    cell = np.arange(pool[0] * pool[1], dtype=np.int8).reshape(pool[0], 1, pool[1], 1)
    spread = lambda x: jnp.broadcast_to(x[:, :, None, :, None], shape)
    at_home = spread(winner) == jnp.broadcast_to(cell, shape)
    return rearrange(jnp.where(at_home, spread(won), 0.0), "b h i w j c -> b (h i) (w j) c")


norm_relu_pool.defvjp(_norm_forward, _norm_backward)


def caution(parameters: Iterable[str], platform: str) -> str:
    """What a run on a GPU with such layers should check first; "" where there is nothing to say.
    parameters: paths such as "encoder/conv_1/kernel"."""
    if platform != "gpu" or not any("/conv_" in path for path in parameters):
        return ""
    return (
        "note: an H200 once computed wrong gradients of convolutions; they were mended, and no "
        "card has checked them since. `python -m dig_jax.tools.perf.check_device "
        "--only=convolution,reader` says in minutes whether this one computes them right"
    )


# ---- the stack


class Convolution(nn.Module):
    """x f32[B,H,W,C], real f32[B,W] -> f32[B,H/ph,W/pw,features], zero at padding."""

    features: int
    pool: tuple[int, int]
    dtype: str
    groups: int = 8

    @nn.compact
    def __call__(self, x, real):
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.kaiming_normal(), shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32)
        dtype = compute_dtype(self.dtype)
        x = conv3x3(x.astype(dtype), kernel).astype(jnp.float32)
        return norm_relu_pool(x, scale, bias, real, self.groups, self.pool)


def convolutions(
    image, seen, mask, *, channels: Sequence[int], pools: Sequence[tuple[int, int]], dtype: str
):
    """Lines -> their columns f32[B,S,H/h*C], top row first, zero where seen is 0. To be called in a
    compact module, whose children "conv_0", ... they become.

    image f32[B,H,S*w,C] in [-1, 1], seen f32[B,S]: 1 at the columns of the line, 0 at padding.
    channels, pools: of each convolution; h and w are the products of the pools. mask bool[B,S] or
    None: columns that are painted grey first.
    """
    column_px = image.shape[2] // seen.shape[1]
    if mask is not None:
        image = jnp.where(jnp.repeat(mask, column_px, 1)[:, None, :, None], MASKED, image)
    real = jnp.repeat(seen, column_px, 1)
    x = image * real[:, None, :, None]
    for number, (features, pool) in enumerate(zip(channels, pools, strict=True)):
        x = Convolution(features, pool, dtype, name=f"conv_{number}")(x, real)
        real = real[:, :: pool[1]]
    return rearrange(x, "b h w c -> b w (h c)")
