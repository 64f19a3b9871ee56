"""A plain convolutional encoder of text lines, in the interface of `models/vit.py`.

    image -> five 3 x 3 convolutions with norm, ReLU and pooling -> one token for each 4 px column
    cnn_lstm: -> two bidirectional LSTMs over the tokens

The convolutional half of a CRNN (Shi et al., arXiv 1507.05717) as line recognisers use it (Puigcerver,
ICDAR 2017). It reads best with a BiLSTM reader behind it (`models/decoders/ctc.py`), and is the
strongest encoder for a CPU. What is left of the height stands side by side in a token. cnn_lstm has
the LSTMs inside, so that they can be pre-trained, too: a linear reader is enough for it.

Masks. A CNN has no mask tokens. Hidden columns are painted mid-grey, which is neither ink nor paper.

Norm: groups of channels over the real pixels of each line, in place of batch norm. So the features
of a line depend neither on its batch nor on its padding, and nothing travels beside the weights.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from dig_jax.models.convolution import conv3x3, norm_relu_pool
from dig_jax.models.heads import BiLstm
from dig_jax.models.layers import LayerNorm, compute_dtype
from dig_jax.models.vit import PAPER, columns, grid

COLUMN_PX = 4
MASKED = 0.0  # grey of hidden columns, in [-1, 1]
POOLS = ((2, 2), (2, 2), (2, 1), (2, 1), (1, 1))  # of height and width, behind each convolution
SIZES = {
    "cnn": {"channels": (16, 48, 96, 128, 192)},
    "cnn_lstm": {"channels": (16, 48, 96, 128, 192), "hidden": 160, "layers": 2},
    "cnn_nano": {"channels": (8, 8, 16, 16, 16)},
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
    """(image f32[B,H,W,C] in [-1, 1], width i32[B] px) -> tokens f32[B,S,D], one for each column of
    4 px: S = W / 4, D = H / 16 * channels[-1], or 2 * hidden behind LSTMs.

    height_px: H, a multiple of 16. hidden, layers: of the bidirectional LSTMs, none by default.
    final_norm: layer norm at the end, as in `vit.Vit`. mask bool[B,S] True = hidden, see above. A
    CNN has no position codes, so `column_offset` changes nothing.
    """

    height_px: int
    channels: Sequence[int]
    hidden: int = 0
    layers: int = 0
    final_norm: bool = True
    dtype: str = "auto"

    @property
    def patch(self) -> tuple[int, int]:
        return (self.height_px, COLUMN_PX)

    @property
    def width(self) -> int:
        return 2 * self.hidden if self.layers else self.height_px // 16 * self.channels[-1]

    @nn.compact
    def __call__(self, image, width, mask=None, column_offset=None, deterministic: bool = True):
        del column_offset, deterministic
        if self.height_px % 16:
            raise ValueError(
                f"height_px is {self.height_px}; the CNN halves the height four times: make it a "
                "multiple of 16"
            )
        grid(image.shape, self.patch)
        place = jnp.arange(image.shape[2])[None, :]
        x = jnp.where((place < width[:, None])[:, None, :, None], image, PAPER)
        if mask is not None:
            hidden = jnp.repeat(mask, COLUMN_PX, 1)
            x = jnp.where(hidden[:, None, :, None], MASKED, x)
        # Half a column at the end of a line belongs to the line, painted as paper.
        real = (place < (columns(width, COLUMN_PX) * COLUMN_PX)[:, None]).astype(jnp.float32)
        x = x * real[:, None, :, None]
        for number, (features, pool) in enumerate(zip(self.channels, POOLS, strict=True)):
            x = Convolution(features, pool, self.dtype, name=f"conv_{number}")(x, real)
            real = real[:, :: pool[1]]
        tokens = rearrange(x, "b h w c -> b w (h c)")
        if self.layers:
            lstm = BiLstm(self.hidden, self.layers, self.dtype, name="lstm")
            tokens = lstm(tokens, columns(width, COLUMN_PX))
        if self.final_norm:
            tokens = LayerNorm(name="norm")(tokens)
        return tokens * real[..., None]
