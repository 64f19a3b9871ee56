"""Heads on top of the encoder: batch norm over the global batch, projection MLPs, pixel decoder, windows, BiLSTM."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dig_jax.models.layers import Dense, LayerNorm, along_last, compute_dtype, dot_f32acc, gelu, uniform_fan_in
from dig_jax.models.vit import columns


class BatchNorm(nn.Module):
    """Batch norm by the statistics of this batch, always: x [..., D] -> f32[..., D].

    weight bool or f32[...] says which rows count (padding and filler rows do not); rows that do not count are
    normalised all the same. Variance is the biased one, as PyTorch uses in training. There are no running averages:
    heads with batch norm live in pre-training only. Under jit on a mesh the sums run over the global batch
    (synchronised batch norm).
    """

    affine: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, weight=None):
        x = x.astype(jnp.float32)
        axes = tuple(range(x.ndim - 1))
        weight = jnp.ones(x.shape[:-1]) if weight is None else weight.astype(jnp.float32)
        share = (weight / jnp.maximum(jnp.sum(weight), 1.0))[..., None]
        x = x - jnp.sum(x * share, axes, keepdims=True)
        x = x * lax.rsqrt(jnp.sum(jnp.square(x) * share, axes, keepdims=True) + self.epsilon)
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
            x = x * along_last(scale, x) + along_last(bias, x)
        return x


class Mlp(nn.Module):
    """Bias-free dense layers, each with batch norm, ReLU between, the last norm without scale and bias.

    DiG's projector is (4096, 4096, 256), its predictor (4096, 256), its pix_projector (512, 512, D).
    x [..., D], weight bool[...] (rows that count in the statistics) -> f32[..., features[-1]].
    """

    features: Sequence[int]
    dtype: str = "auto"

    @nn.compact
    def __call__(self, x, weight=None):
        last = len(self.features) - 1
        for i, features in enumerate(self.features):
            dense = Dense(features, use_bias=False, dtype=self.dtype, kernel_init=uniform_fan_in(), name=f"dense_{i}")
            x = BatchNorm(affine=i < last, name=f"norm_{i}")(dense(x), weight)
            if i < last:
                x = jax.nn.relu(x)
        return x


class PixelDecoder(nn.Module):
    """Pixels of a patch from its token: [..., D] -> f32[..., features], features = ph * pw * C.

    DiG: two bias-free linears with nothing between them, layer norm, GELU, linear. hidden is 192 in its Small size.
    """

    features: int
    hidden: int = 192
    dtype: str = "auto"
    gelu: str = "exact"

    @nn.compact
    def __call__(self, x):
        init = uniform_fan_in()
        x = Dense(self.hidden, use_bias=False, dtype=self.dtype, kernel_init=init, name="dense_0")(x)
        x = Dense(self.hidden, use_bias=False, dtype=self.dtype, kernel_init=init, name="dense_1")(x)
        x = gelu(LayerNorm(name="norm")(x), self.gelu)

        def bias_init(key, shape, dtype):  # PyTorch draws the bias from the kernel's interval
            return init(key, (self.hidden, *shape), dtype)[0]

        return Dense(self.features, dtype=self.dtype, kernel_init=init, bias_init=bias_init, name="dense_2")(x)


def pool_windows(tokens, width, grid: Sequence[int], patch: Sequence[int], window_px: int):
    """Instances for contrast: the mean token of each window of full height and window_px width (DiG's patch head).

    tokens [B, N, D] in reading order, width i32[B] px, grid (Gh, Gw) -> (f32[B, W, D], valid bool[B, W]) with
    W = ceil(Gw * patch width / window_px): the count of windows grows with the image. Columns of padding are left out
    of the mean; a window is valid when at least one of its columns holds real pixels. Of 32x128 px with windows of
    32 px this is DiG's adaptive average pooling to (1, 4). ValueError when window_px is no multiple of the patch width.
    """
    if window_px <= 0 or window_px % patch[1]:
        raise ValueError(
            f"Windows of {window_px} px do not consist of whole patches of {patch[1]} px: set window_px to a multiple."
        )
    rows, cols = grid
    batch, dim = tokens.shape[0], tokens.shape[-1]
    each = window_px // patch[1]
    count = -(-cols // each)
    real = (jnp.arange(count * each)[None, :] < columns(width, patch[1])[:, None]).reshape(batch, count, each)
    x = tokens.astype(jnp.float32).reshape(batch, cols, rows * dim)
    x = jnp.pad(x, ((0, 0), (0, count * each - cols), (0, 0))).reshape(batch, count, each, rows, dim)
    total = jnp.sum(jnp.where(real[..., None, None], x, 0.0), (2, 3))
    number = jnp.sum(real, 2)
    return total / (rows * jnp.maximum(number, 1))[..., None], number > 0


class BiLstm(nn.Module):
    """Bidirectional LSTM over frames: (x [B, S, F], lengths i32[B]) -> f32[B, S, 2 * features], zeros past the length.

    The backward direction starts at each line's last real frame, so padding never matters. Both directions run in one
    loop and the input products of all frames in one matrix product, which leaves the loop one small product a frame.
    """

    features: int
    layers: int = 1
    dtype: str = "auto"

    @nn.compact
    def __call__(self, x, lengths):
        for i in range(self.layers):
            x = self._layer(x, lengths, i)
        return x

    def _layer(self, x, lengths, i):
        batch, steps, size = x.shape[0], x.shape[1], self.features
        time = jnp.arange(steps)[None, :]
        # An involution on the real frames of each line that leaves its padding in place.
        flip = jnp.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)[..., None]
        gates = Dense(8 * size, dtype=self.dtype, name=f"input_{i}")(x)
        ahead, back = jnp.split(gates, 2, -1)
        gates = jnp.stack([ahead, jnp.take_along_axis(back, flip, 1)])  # (2, B, S, 4 * features)
        orthogonal = nn.initializers.orthogonal()
        weights = self.param(f"recurrent_{i}", _per_gate(orthogonal), (2, size, 4 * size), jnp.float32)
        dtype = compute_dtype(self.dtype)

        def step(carry, gates):
            hidden, cell = carry
            gates = gates + dot_f32acc(hidden, weights, (((2,), (1,)), ((0,), (0,))), dtype)
            write, forget, new, show = jnp.split(gates, 4, -1)
            # + 1: a fresh cell remembers (Jozefowicz et al. 2015).
            cell = jax.nn.sigmoid(forget + 1.0) * cell + jax.nn.sigmoid(write) * jnp.tanh(new)
            hidden = jax.nn.sigmoid(show) * jnp.tanh(cell)
            return (hidden, cell), hidden

        start = jnp.zeros((2, batch, size), jnp.float32)
        _, out = lax.scan(step, (start, start), jnp.moveaxis(gates, 2, 0))
        ahead, back = jnp.moveaxis(out, 0, 2)  # each (B, S, features)
        out = jnp.concatenate([ahead, jnp.take_along_axis(back, flip, 1)], -1)
        return jnp.where((time < lengths[:, None])[..., None], out, 0.0)


def _per_gate(init):
    """Initialiser of [2, H, 4 * H] that draws each direction's and gate's square matrix by itself."""

    def stacked(key, shape, dtype):
        directions, size, _ = shape
        keys = jax.random.split(key, directions * 4)
        squares = jax.vmap(lambda k: init(k, (size, size), dtype))(keys).reshape(directions, 4, size, size)
        return squares.transpose(0, 2, 1, 3).reshape(shape)

    return stacked
