"""A plain convolutional encoder of text lines, in the interface of `models/vit.py`.

    image -> five 3 x 3 convolutions with norm, ReLU and pooling -> one token for each column
    cnn_lstm: -> two bidirectional LSTMs over the tokens

The convolutional half of a CRNN (Shi et al., arXiv 1507.05717) as line recognisers use it
(Puigcerver, ICDAR 2017). It reads best with a BiLSTM reader behind it (`models/decoders/ctc.py`),
and is the strongest encoder for a CPU. What is left of the height stands side by side in a token.
cnn_lstm has the LSTMs inside, so that they can be pre-trained, too: a linear reader is enough for
it.

Masks. A CNN has no mask tokens. Hidden columns are painted mid-grey, which is neither ink nor
paper.

Norm: groups of channels over the real pixels of each line, in place of batch norm. So the features
of a line depend neither on its batch nor on its padding, and nothing travels beside the weights.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from dig_jax.models.convolution import conv3x3, norm_relu_pool
from dig_jax.models.heads import BiLstm, dropped
from dig_jax.models.layers import LayerNorm, compute_dtype
from dig_jax.models.vit import PAPER, columns, grid

MASKED = 0.0  # grey of hidden columns, in [-1, 1]
# cnn reads lines 32 px high, a column is 4 px. cnn48 sees the marks above small letters: 48 px, a
# column of 6 px is as wide on paper.
CHANNELS, NANO = (16, 48, 96, 128, 192), (8, 8, 16, 16, 16)
POOLS = ((2, 2), (2, 2), (2, 1), (2, 1), (1, 1))  # of height and width, behind each convolution
HIGH = {"height_px": 48, "patch": (48, 6), "pools": (POOLS[0], (2, 3), *POOLS[2:])}
LSTM = {"hidden": 160, "layers": 2, "dropout": 0.2}
SIZES = {
    "cnn": {"channels": CHANNELS},
    "cnn48": {"channels": CHANNELS, **HIGH},
    "cnn_lstm": {"channels": CHANNELS, **LSTM},
    "cnn48_lstm": {"channels": CHANNELS, **HIGH, **LSTM},
    "cnn_nano": {"channels": NANO},
    "cnn48_nano": {"channels": NANO, **HIGH},
}


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
        x = conv3x3(x.astype(dtype), kernel.astype(dtype)).astype(jnp.float32)
        return norm_relu_pool(x, scale, bias, real, self.groups, self.pool)


class Cnn(nn.Module):
    """(image f32[B,H,W,C] in [-1, 1], width i32[B] px) -> tokens f32[B,S,D], one for each column. D
    = channels[-1] * what the pools leave of the height, or 2 * hidden behind LSTMs.

    height_px: H, a multiple of the pools' heights. hidden, layers: of the bidirectional LSTMs, none
    by default. dropout: in front of each LSTM and behind the last, in training (rng "drop_path").
    final_norm: layer norm at the end, as in `vit.Vit`. mask bool[B,S] True = hidden,
    see above. A CNN has no position codes, so `column_offset` changes nothing.
    """

    height_px: int
    channels: Sequence[int]
    pools: Sequence[tuple[int, int]] = POOLS
    hidden: int = 0
    layers: int = 0
    dropout: float = 0.0
    final_norm: bool = True
    dtype: str = "auto"

    @property
    def patch(self) -> tuple[int, int]:
        return (self.height_px, math.prod(across for _, across in self.pools))

    @property
    def width(self) -> int:
        rows = self.height_px // math.prod(down for down, _ in self.pools)
        return 2 * self.hidden if self.layers else rows * self.channels[-1]

    @nn.compact
    def __call__(self, image, width, mask=None, column_offset=None, deterministic: bool = True):
        del column_offset
        times, column_px = math.prod(down for down, _ in self.pools), self.patch[1]
        if self.height_px % times:
            raise ValueError(
                f"height_px is {self.height_px}; the CNN divides the height by {times}: make it a "
                f"multiple of {times}"
            )
        grid(image.shape, self.patch)
        place = jnp.arange(image.shape[2])[None, :]
        x = jnp.where((place < width[:, None])[:, None, :, None], image, PAPER)
        if mask is not None:
            hidden = jnp.repeat(mask, column_px, 1)
            x = jnp.where(hidden[:, None, :, None], MASKED, x)
        # Half a column at the end of a line belongs to the line, painted as paper.
        real = (place < (columns(width, column_px) * column_px)[:, None]).astype(jnp.float32)
        x = x * real[:, None, :, None]
        for number, (features, pool) in enumerate(zip(self.channels, self.pools, strict=True)):
            x = Convolution(features, pool, self.dtype, name=f"conv_{number}")(x, real)
            real = real[:, :: pool[1]]
        tokens = rearrange(x, "b h w c -> b w (h c)")
        if self.layers:
            key = self.make_rng("drop_path") if self.dropout and not deterministic else None
            lstm = BiLstm(self.hidden, self.layers, self.dtype, self.dropout, name="lstm")
            tokens = lstm(tokens, columns(width, column_px), key)
            tokens = dropped(tokens, self.dropout, key, self.layers)
        if self.final_norm:
            tokens = LayerNorm(name="norm")(tokens)
        return tokens * real[..., None]
