"""Heads on top of the encoder: batch norm over the global batch, projection MLPs, pixel decoder,
prototypes, windows, BiLSTM."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dig_jax import losses
from dig_jax.models.layers import (
    Dense,
    LayerNorm,
    along_last,
    compute_dtype,
    dot_f32acc,
    gelu,
    uniform_fan_in,
)
from dig_jax.models.recurrence import recurrence
from dig_jax.models.vit import columns

# Kinds of batch norm behind a dense layer: with scale and bias, with a scale alone, with neither.
NORMS = {"affine": {}, "scale": {"center": False}, "bare": {"affine": False}}


def bias_fan_in(fan_in: int):
    """Initialiser uniform(+-1 / sqrt(fan_in)) of the bias behind a kernel of `uniform_fan_in`, as
    PyTorch's Linear draws it.
    """
    bound = 1 / np.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def linear(features: int, fan_in: int, dtype: str, name: str) -> Dense:
    """A dense layer that starts as PyTorch's Linear does."""
    init = {"kernel_init": uniform_fan_in(), "bias_init": bias_fan_in(fan_in)}
    return Dense(features, dtype=dtype, **init, name=name)


class BatchNorm(nn.Module):
    """Batch norm by the statistics of this batch, always: x [..., D] -> f32[..., D].

    weight bool or f32[...] says which rows count (padding and filler rows do not); rows that do not
    count are normalised all the same. Variance is the biased one, as PyTorch uses in training.
    There are no running averages: heads with batch norm live in pre-training only. Under jit on a
    mesh the sums run over the global batch (synchronised batch norm). affine: learn a scale and,
    with center, a bias.
    """

    affine: bool = True
    center: bool = True
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
            x = x * along_last(
                self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32), x
            )
        if self.affine and self.center:
            x = x + along_last(
                self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32), x
            )
        return x


class Mlp(nn.Module):
    """Dense layers with ReLU between. Behind each stands a batch norm of a kind in NORMS, or where
    that is None its own bias, or nothing at all ("none").

    | head | features | hidden_norm | last_norm |
    |---|---|---|---|
    | projector of DiG and MoCo v3 | (4096, 4096, 256) | affine | bare |
    | predictor of DiG and MoCo v3 | (4096, 256) | affine | bare |
    | projector of SimSiam | (2048, 2048, 2048) | affine | bare |
    | predictor of SimSiam | (512, 2048) | affine | None |
    | pix_projector of DiG | (512, 512, D) | affine | bare |
    | projector of SimCLR | (D, D, 128) | affine | scale |
    | expander of VICReg | (8192, 8192, 8192) | affine | none |
    | head of MoCo v1, of v2 | (128,), (2048, 128) | None | None |

    x [..., D], weight bool[...] (rows that count in the statistics) -> f32[..., features[-1]].
    """

    features: Sequence[int]
    dtype: str = "float32"
    hidden_norm: str | None = "affine"
    last_norm: str | None = "bare"

    @nn.compact
    def __call__(self, x, weight=None):
        last = len(self.features) - 1
        for i, features in enumerate(self.features):
            norm = self.hidden_norm if i < last else self.last_norm
            init = {"kernel_init": uniform_fan_in(), "bias_init": bias_fan_in(x.shape[-1])}
            x = Dense(features, use_bias=norm is None, dtype=self.dtype, **init, name=f"dense_{i}")(
                x
            )
            if norm not in (None, "none"):
                x = BatchNorm(**NORMS[norm], name=f"norm_{i}")(x, weight)
            if i < last:
                x = jax.nn.relu(x)
        return x


class PixelDecoder(nn.Module):
    """Pixels of a patch from its token: [..., D] -> f32[..., features], features = ph * pw * C.

    DiG: two bias-free linears with nothing between them, layer norm, GELU, linear. hidden is 192 in
    its Small size.
    """

    features: int
    hidden: int = 192
    dtype: str = "float32"
    gelu: str = "exact"

    @nn.compact
    def __call__(self, x):
        init = uniform_fan_in()
        x = Dense(self.hidden, use_bias=False, dtype=self.dtype, kernel_init=init, name="dense_0")(
            x
        )
        x = Dense(self.hidden, use_bias=False, dtype=self.dtype, kernel_init=init, name="dense_1")(
            x
        )
        x = gelu(LayerNorm(name="norm")(x), self.gelu)
        return linear(self.features, self.hidden, self.dtype, "dense_2")(x)


class Prototypes(nn.Module):
    """Head of DINO (arXiv 2104.14294): [..., D] -> f32[..., count], the cosine with each of `count`
    learned prototypes.

    Dense layers of `hidden`, `hidden` and `features` with GELU between and no batch norm, unit
    length, and the product with prototypes of unit length. DINO: 2048, 2048, 256 and 65,536.
    learn_length: each prototype has a length that is learned, 1 at first (norm_last_layer=False
    there). The product is taken in float32: it is divided by a temperature of 0.04.
    """

    count: int
    hidden: int = 2048
    features: int = 256
    learn_length: bool = True
    dtype: str = "float32"
    gelu: str = "exact"

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.truncated_normal(0.02)
        for i in range(2):
            x = gelu(
                Dense(self.hidden, dtype=self.dtype, kernel_init=init, name=f"dense_{i}")(x),
                self.gelu,
            )
        x = Dense(self.features, dtype=self.dtype, kernel_init=init, name="dense_2")(x)
        prototypes = self.param(
            "prototypes", nn.initializers.normal(1.0), (self.features, self.count), jnp.float32
        )
        product = dot_f32acc(
            losses.unit(x),
            losses.unit(prototypes, axis=0),
            (((x.ndim - 1,), (0,)), ((), ())),
            jnp.float32,
        )
        if self.learn_length:
            product = product * along_last(
                self.param("scale", nn.initializers.ones, (self.count,), jnp.float32), product
            )
        return product


def pool_windows(tokens, width, grid: Sequence[int], patch: Sequence[int], window_px: int):
    """Instances for contrast: the mean token of each window of full height and window_px width
    (DiG's patch head).

    tokens [B, N, D] in reading order, width i32[B] px, grid (Gh, Gw) -> (f32[B, W, D], valid
    bool[B, W]). W = ceil(Gw * patch width / window_px): the count of windows grows with the image.
    Columns of padding are left out of the mean. A window is valid when at least one of its columns
    holds real pixels. Of 32x128 px with windows of 32 px this is DiG's adaptive average pooling to
    (1, 4). ValueError when window_px is no multiple of the patch width.
    """
    if window_px <= 0 or window_px % patch[1]:
        raise ValueError(
            f"Windows of {window_px} px do not consist of whole patches of {patch[1]} px: set "
            "window_px to a multiple."
        )
    rows, cols = grid
    batch, dim = tokens.shape[0], tokens.shape[-1]
    each = window_px // patch[1]
    count = -(-cols // each)
    real = (jnp.arange(count * each)[None, :] < columns(width, patch[1])[:, None]).reshape(
        batch, count, each
    )
    x = tokens.astype(jnp.float32).reshape(batch, cols, rows * dim)
    x = jnp.pad(x, ((0, 0), (0, count * each - cols), (0, 0))).reshape(
        batch, count, each, rows, dim
    )
    total = jnp.sum(jnp.where(real[..., None, None], x, 0.0), (2, 3))
    number = jnp.sum(real, 2)
    return total / (rows * jnp.maximum(number, 1))[..., None], number > 0


class BiLstm(nn.Module):
    """Bidirectional LSTM over frames: (x [B, S, F], lengths i32[B]) -> f32[B, S, 2 * features],
    zeros past the length.

    The backward direction starts at each line's last real frame, so padding never matters. The
    input products of all frames are one matrix product, see `models/recurrence.py` for the rest.
    """

    features: int
    layers: int = 1
    dtype: str = "float32"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, lengths, key=None):
        """key: of the dropout in front of each layer; None = none."""
        for i in range(self.layers):
            x = self._layer(dropped(x, self.dropout, key, i), lengths, i)
        return x

    def _layer(self, x, lengths, i):
        size = self.features
        gates = Dense(8 * size, dtype=self.dtype, name=f"input_{i}")(x)
        weights = self.param(
            f"recurrent_{i}", _per_gate(orthogonal), (2, size, 4 * size), jnp.float32
        )
        real = jnp.arange(x.shape[1])[:, None] < lengths[None, :]
        gates = jnp.moveaxis(gates, 1, 0)
        out = recurrence(gates, weights, real.astype(jnp.float32), compute_dtype(self.dtype))
        return jnp.moveaxis(out, 0, 1)


def dropped(x, share: float, key, layer: int):
    """Dropout (Srivastava et al. 2014) of `share` of the values of x f32[...] in front of a layer,
    by its own part of the key. Without a key x stays as it is. ValueError for a share that is none.
    """
    if not 0 <= share < 1:
        raise ValueError(f"dropout is {share}: set it to a share from 0 up to, but not, 1")
    if key is None or not share:
        return x
    kept = jax.random.bernoulli(jax.random.fold_in(key, layer), 1.0 - share, x.shape)
    return jnp.where(kept, x / (1.0 - share), 0.0)


def orthogonal(key, shape, dtype):
    """Initialiser of a square matrix (Saxe et al. 2014): the Q of a normal matrix whose R has a
    positive diagonal, by Gram-Schmidt, each column twice.

    flax has it by LAPACK's QR. Two of those at once never end on two cores: each holds one thread
    of XLA's pool while it waits for work that needs another (jaxlib 0.10).
    """
    size = shape[0]
    product = functools.partial(jnp.matmul, precision="highest")

    def column(i, q):
        before = jnp.where(jnp.arange(size) < i, q, 0.0)
        x = q[:, i]
        for _ in range(2):
            x = x - product(before, product(before.T, x))
        return q.at[:, i].set(x * jax.lax.rsqrt(jnp.sum(x * x)))

    normal = jax.random.normal(key, shape, jnp.float32)
    return jax.lax.fori_loop(0, size, column, normal).astype(dtype)


def _per_gate(init):
    """Initialiser of [2, H, 4 * H] that draws each direction's and gate's square matrix by
    itself.
    """

    def stacked(key, shape, dtype):
        directions, size, _ = shape
        keys = jax.random.split(key, directions * 4)
        squares = jax.vmap(lambda k: init(k, (size, size), dtype))(keys).reshape(
            directions, 4, size, size
        )
        return squares.transpose(0, 2, 1, 3).reshape(shape)

    return stacked
