"""CNN + BiLSTM: the encoder of the papers before the vision transformer, in the interface of
`models/vit.py`.

    image -> [rectification ->] residual CNN, 4 px of width a column, height collapsed -> BiLSTM ->
    frames

Shi et al., "An End-to-End Trainable Neural Network for Image-based Sequence Recognition" (CRNN,
arXiv 1507.05717), with the residual stages of Baek et al., "What Is Wrong With Scene Text
Recognition Model Comparisons?" (TRBA, arXiv 1904.01906). A column of the output counts as one patch
of full height and 4 px width. So whatever reads a ViT's tokens (windows, CTC frames, lengths) reads
these.

Departures. Group norm over the real pixels of each line in place of batch norm: features of a line
depend neither on the batch nor on its padding. No running averages have to travel from pre-training
to probe, either. Pooling in place of strided convolutions, whose windows never reach over a column
of the output. The mean over what is left of the height, so any height that divides by 16 will do.
Rectification (`fiducials`) starts at the identity, where TRBA's code starts with a slanted line.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dig_jax.models import tps
from dig_jax.models.convolution import conv3x3
from dig_jax.models.heads import BiLstm
from dig_jax.models.layers import Dense, LayerNorm, along_last, compute_dtype
from dig_jax.models.vit import PAPER, columns, grid

COLUMN_PX = 4
POOLS = (
    (2, 2),
    (2, 2),
    (2, 1),
    (2, 1),
)  # of height and width: behind the stem and the first three stages
# Channels of the stem, then channels and blocks of the four stages; width and layers of the BiLSTM.
# crnn is TRBA's.
SIZES = {
    "crnn": {
        "stem": 64,
        "stages": (128, 256, 512, 512),
        "blocks": (1, 2, 5, 3),
        "width": 256,
        "layers": 2,
    },
    "crnn_micro": {
        "stem": 16,
        "stages": (32, 64, 96, 128),
        "blocks": (1, 1, 1, 1),
        "width": 128,
        "layers": 1,
    },
    "crnn_nano": {
        "stem": 8,
        "stages": (8, 16, 16, 16),
        "blocks": (1, 1, 1, 1),
        "width": 32,
        "layers": 1,
    },
}


class LineNorm(nn.Module):
    """Group norm (arXiv 1803.08494) of x [B,H,W,C] -> f32: statistics of each line and group over
    its real columns bool[B,W]."""

    groups: int = 8
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, real):
        shape, groups = x.shape, min(self.groups, x.shape[-1])
        x = x.astype(jnp.float32).reshape(*shape[:3], groups, -1)
        weight = real.astype(jnp.float32)[:, None, :, None, None]
        share = weight / (
            jnp.maximum(weight.sum((1, 2), keepdims=True), 1.0) * shape[1] * x.shape[-1]
        )
        x = x - jnp.sum(x * share, (1, 2, 4), keepdims=True)
        x = x * lax.rsqrt(jnp.sum(jnp.square(x) * share, (1, 2, 4), keepdims=True) + self.epsilon)
        x = x.reshape(shape)
        scale = self.param("scale", nn.initializers.ones, shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32)
        return x * along_last(scale, x) + along_last(bias, x)


class Convolution(nn.Module):
    """Convolution without bias, then norm: x [B,H,W,C] -> f32[B,H,W,features]. What is no real
    column reads as zero, like the rim of the image, so a line's end looks the same with and without
    padding."""

    features: int
    side: int
    dtype: str

    @nn.compact
    def __call__(self, x, real):
        x = jnp.where(real[:, None, :, None], x, 0.0)
        dtype = compute_dtype(self.dtype)
        options = {
            "use_bias": False,
            "dtype": dtype,
            "precision": "highest" if dtype == jnp.float32 else None,
            "kernel_init": nn.initializers.kaiming_normal(),
        }
        if self.side == 3:  # with a gradient that is fast on a CPU
            options["conv_general_dilated"] = lambda x, kernel, *_, **__: conv3x3(x, kernel)
        x = nn.Conv(self.features, (self.side, self.side), name="conv", **options)(x)
        return LineNorm(name="norm")(x, real)


class Block(nn.Module):
    """Residual block of two 3 x 3 convolutions (arXiv 1512.03385)."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x, real):
        out = jax.nn.relu(Convolution(self.features, 3, self.dtype, name="first")(x, real))
        out = Convolution(self.features, 3, self.dtype, name="second")(out, real)
        if x.shape[-1] != self.features:
            x = Convolution(self.features, 1, self.dtype, name="shortcut")(x, real)
        return jax.nn.relu(x + out)


class Rectifier(nn.Module):
    """Spatial transformer (models/tps.py): image f32[B,H,W,C], width i32[B] px, real bool[B,W]
    (whole columns of 4 px) -> the image. Its real part is warped as the localisation network says;
    at the start not at all.

    The localisation network is TRBA's, four convolutions of stem .. 8 * stem channels and two dense
    layers, but that it pools three times and averages over real columns.
    """

    fiducials: int
    stem: int
    dtype: str

    @nn.compact
    def __call__(self, image, width, real):
        x = image
        for i, pool in enumerate(((2, 2), (2, 2), (2, 1), None)):
            x = jax.nn.relu(Convolution(self.stem * 2**i, 3, self.dtype, name=f"conv_{i}")(x, real))
            if pool:
                x, real = nn.max_pool(x, pool, pool), real[:, :: pool[1]]
        x = jnp.sum(jnp.mean(x, 1), 1, where=real[..., None]) / jnp.maximum(
            jnp.sum(real, 1, keepdims=True), 1
        )
        x = jax.nn.relu(Dense(4 * self.stem, dtype=self.dtype, name="dense")(x))
        offsets = Dense(
            2 * self.fiducials, dtype="float32", kernel_init=nn.initializers.zeros, name="offsets"
        )(x)
        return tps.warp(image, width, offsets.reshape(-1, self.fiducials, 2))


class Crnn(nn.Module):
    """(image f32[B,H,W,C] in [-1, 1], width i32[B] px) -> tokens f32[B,S,D], one a column of 4 px,
    S = W / 4.

    stem, stages, blocks, width, layers: see SIZES. height_px: H, a multiple of 16. fiducials:
    points of the spline that straightens the image first (20 in RARE), 0 = none. final_norm: layer
    norm at the end, as in `vit.Vit`. A CNN has neither mask tokens nor position codes: ValueError
    for a mask, and `column_offset` changes nothing.
    """

    height_px: int
    stem: int
    stages: Sequence[int]
    blocks: Sequence[int]
    width: int
    layers: int
    fiducials: int = 0
    final_norm: bool = True
    dtype: str = "float32"

    @property
    def patch(self) -> tuple[int, int]:
        return (self.height_px, COLUMN_PX)

    @nn.compact
    def __call__(self, image, width, mask=None, column_offset=None, deterministic: bool = True):
        del column_offset, deterministic
        if mask is not None:
            raise ValueError(
                "a CNN has no mask tokens: give this method an encoder of kind 'vit', or no mask"
            )
        if self.height_px % 16:
            raise ValueError(
                f"height_px is {self.height_px}; the CNN halves the height four times: make it a "
                "multiple of 16"
            )
        grid(image.shape, self.patch)
        real = jnp.arange(image.shape[2])[None, :] < width[:, None]
        x = jnp.where(real[:, None, :, None], image, PAPER)
        # As far as the last column of the output reaches: half a column belongs to the line,
        # painted as paper.
        real = (
            jnp.arange(image.shape[2])[None, :] < (columns(width, COLUMN_PX) * COLUMN_PX)[:, None]
        )
        if self.fiducials:
            x = Rectifier(self.fiducials, self.stem, self.dtype, name="rectifier")(x, width, real)
        x = jax.nn.relu(Convolution(self.stem // 2, 3, self.dtype, name="stem_0")(x, real))
        x = jax.nn.relu(Convolution(self.stem, 3, self.dtype, name="stem_1")(x, real))
        for stage, (features, count) in enumerate(zip(self.stages, self.blocks, strict=True)):
            x, real = nn.max_pool(x, POOLS[stage], POOLS[stage]), real[:, :: POOLS[stage][1]]
            for block in range(count):
                x = Block(features, self.dtype, name=f"stage_{stage}_{block}")(x, real)
        frames, lengths = jnp.mean(x, 1), columns(width, COLUMN_PX)
        for layer in range(self.layers):
            frames = BiLstm(self.width, dtype=self.dtype, name=f"lstm_{layer}")(frames, lengths)
            frames = Dense(self.width, dtype=self.dtype, name=f"dense_{layer}")(frames)
        if self.final_norm:
            frames = LayerNorm(name="norm")(frames)
        return jnp.where(real[..., None], frames, 0.0)
