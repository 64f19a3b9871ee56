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

from dig_jax.models.convolution import CHANNELS, HIGH_POOLS, POOLS, convolutions
from dig_jax.models.heads import BiLstm, dropped
from dig_jax.models.layers import LayerNorm
from dig_jax.models.vit import PAPER, columns, grid

# cnn reads lines 32 px high, a column is 4 px. cnn48 sees the marks above small letters: 48 px, a
# column of 6 px is as wide on paper.
NANO = (8, 8, 16, 16, 16)
HIGH = {"height_px": 48, "patch": (48, 6), "pools": HIGH_POOLS}
LSTM = {"hidden": 160, "layers": 2, "dropout": 0.2}
SIZES = {
    "cnn": {"channels": CHANNELS},
    "cnn48": {"channels": CHANNELS, **HIGH},
    "cnn_lstm": {"channels": CHANNELS, **LSTM},
    "cnn48_lstm": {"channels": CHANNELS, **HIGH, **LSTM},
    "cnn_nano": {"channels": NANO},
    "cnn48_nano": {"channels": NANO, **HIGH},
}


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
    dtype: str = "float32"

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
        times = math.prod(down for down, _ in self.pools)
        if self.height_px % times:
            raise ValueError(
                f"height_px is {self.height_px}; the CNN divides the height by {times}: make it a "
                f"multiple of {times}"
            )
        grid(image.shape, self.patch)
        inside = jnp.arange(image.shape[2])[None, :] < width[:, None]
        image = jnp.where(inside[:, None, :, None], image, PAPER)
        # Half a column at the end of a line belongs to the line, painted as paper.
        length = columns(width, self.patch[1])
        place = jnp.arange(image.shape[2] // self.patch[1])[None, :]
        seen = (place < length[:, None]).astype(jnp.float32)
        tokens = convolutions(
            image, seen, mask, channels=self.channels, pools=self.pools, dtype=self.dtype
        )
        if self.layers:
            key = self.make_rng("drop_path") if self.dropout and not deterministic else None
            lstm = BiLstm(self.hidden, self.layers, self.dtype, self.dropout, name="lstm")
            tokens = lstm(tokens, length, key)
            tokens = dropped(tokens, self.dropout, key, self.layers)
        if self.final_norm:
            tokens = LayerNorm(name="norm")(tokens)
        return tokens * seen[..., None]
