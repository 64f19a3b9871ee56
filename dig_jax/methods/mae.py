"""MAE: an encoder that reads a quarter of the patches, and a light decoder that rebuilds the rest.

Paper   He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377;
        for text Jiang et al., "Revisiting Scene Text Recognition: A Data Perspective", ICCV 2023,
        arXiv 2307.08723 (Union14M, MAERec), whose code is followed. tests/methods/test_mae.py holds
        us to that code.

    what                                                        where
    remove 75 % of the patches at random                        masks.random_mask
    the others, and nothing else, through the encoder           Network.encode, vit.Vit(keep=...)
    back to their places, mask tokens in the gaps, positions    Decoder
    transformer blocks, linear layer to pixels                  Decoder
    target: pixels normalised by the statistics of their patch  pixels.pixel_target
    L = mean over removed patches of (prediction - target)^2    losses.masked_mse

Certain, from the public code:

- int(ratio * N) removed patches;
- codes are added before patches are removed, and again, narrower, before the decoder;
- Xavier-uniform weights, the mask token (and the CLS token) drawn with deviation 0.02;
- layer norms at 1e-6;
- the unbiased variance of all values of a patch plus 1e-6 (of pixels in [-1, 1]: target_floor is
  its root in [0, 1]).

Keys have no bias here, which under a softmax changes nothing.

Static shapes on ragged lines. The encoder has K places, as many as a line that fills the canvas
keeps patches (`masks.most_visible`). Every line removes the same share of its *real* patches, so a
shorter one keeps fewer. What it keeps lies in reading order in its first places. The rest are
empty: attention does not read them and the decoder does not put them back. So features and loss of
a line are those it would have alone, and every line rebuilds the same share. The price is that the
empty places are computed and thrown away, as padding is everywhere else. (Keeping K patches of
every line instead would show all of a short line.)

Departures for lines of text
- No CLS token unless cls=True: whole lines of tokens are what a recogniser reads. With it the
  encoder's parameters are the same; the token stands beside them, as params["cls_token"]. Probes
  and fine-tuning therefore start from it alike, but do without the token. MAERec's recogniser reads
  it as one more token.
- Positions by column and row of the grid as it is. The authors' table takes 8 x 32 patches for 16 x
  16, so that the halves of a line share column codes. position="square_2d" is that table, for the
  words preset and their weights.
- mask_span > 1 removes runs of columns. Removed patches are weighted by their real pixels, which
  tells only in the last, partly real column.

Watch   pixel: about 1 is what predicting nothing reaches with a normalised target (on clean print
        less, since paper is flat). The encoder never sees a mask token, nor gaps: a probe on whole
        lines reads sequences 1 / (1 - ratio) times as long as those it was trained on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import masks
from dig_jax.methods.shared import base, pixels
from dig_jax.models import encoders, transformer, vit
from dig_jax.models.layers import Dense, LayerNorm, along_last

TOKEN_INIT = nn.initializers.normal(0.02)


class Decoder(nn.Module):
    """Pixels of every patch from the encoded visible ones. values: of a patch, ph * pw * C. prefix:
    tokens before those of the line. form: `Vit.form`. The rest as in `vit.Vit`."""

    values: int
    width: int
    depth: int
    heads: int
    prefix: int
    position: str
    flat_columns: int
    form: Mapping[str, Any]

    @nn.compact
    def __call__(self, tokens, seen, real, grid, column_offset=None):
        """tokens f32[B,prefix+K,D], those of the line in reading order; seen, real bool[B,N]: the
        patches that the encoder read, and those that are no padding -> f32[B,N,P]."""
        dtype = self.form["dtype"]
        x = Dense(self.width, dtype=dtype, name="embed")(tokens)
        front, x = x[:, : self.prefix], x[:, self.prefix :]
        mask_token = self.param("mask_token", TOKEN_INIT, (self.width,), jnp.float32)
        place = jnp.maximum(jnp.cumsum(seen, axis=1) - 1, 0)  # of a seen patch among the seen ones
        x = jnp.take_along_axis(x, place[..., None], axis=1)
        x = jnp.where(seen[..., None], x, along_last(mask_token, x))
        x = x + vit.position_codes(
            self.position, grid, self.width, self.flat_columns, column_offset
        )
        x = transformer.blocks(
            jnp.concatenate([front, x], axis=1),
            self.prefix + jnp.sum(real, axis=1),
            depth=self.depth,
            heads=self.heads,
            hidden=4 * self.width,
            **self.form,
        )
        return Dense(self.values, dtype=dtype, name="pixels")(
            LayerNorm(name="norm")(x)[:, self.prefix :]
        )


class Network(nn.Module):
    """Encoder, decoder and, where the decoder expects one, a CLS token. hide: ratio and span of
    `masks.random_mask`.
    """

    encoder: vit.Vit
    decoder: Decoder
    hide: Mapping[str, Any]

    def setup(self):
        if self.decoder.prefix:
            self.cls_token = self.param("cls_token", TOKEN_INIT, (self.encoder.width,), jnp.float32)

    def __call__(self, batch, deterministic=True):
        """Augmented batch -> patch vectors f32[B,N,P] in the units of the target, for removed and
        visible patches.
        """
        grid, real, seen, offset = self._layout(batch)
        return self.decoder(self.encode(batch, deterministic), seen, real, grid, offset)

    def encode(self, batch, deterministic=True):
        """The visible patches, encoded: f32[B,prefix+K,D], in reading order, then zeros in empty
        places.
        """
        grid, _, seen, offset = self._layout(batch)
        count = seen.shape[1]
        keep = jnp.sort(jnp.where(seen, jnp.arange(count)[None], count), axis=1)[
            :, : masks.most_visible(grid, **self.hide)
        ]
        prefix = None
        if self.decoder.prefix:
            prefix = jnp.broadcast_to(self.cls_token, (len(seen), 1, self.encoder.width))
        return self.encoder(
            batch["view1"],
            batch["width"],
            column_offset=offset,
            deterministic=deterministic,
            keep=keep,
            prefix=prefix,
        )

    def _layout(self, batch):
        """Grid, real and seen patches bool[B,N], and the first column i32[B] or None."""
        grid = vit.grid(batch["view1"].shape, self.encoder.patch)
        real = vit.token_valid(batch["width"], self.encoder.patch, grid)
        offset = batch["column_offset"][:, 0] if "column_offset" in batch else None
        return grid, real, real & ~batch["mask"], offset


class Method(base.Method):
    """MAE.

    encoder: keyword arguments of `vit.Vit`. channels: C of the images. mask_ratio, mask_span: see
    `masks.random_mask`. decoder_*: of the decoder's transformer. target, target_floor: see
    `pixels.pixel_target`; the default floor is the official one, which blows the grain of blank
    paper up to full size. column_offset_max: see `two_views.column_offsets`. Raises ValueError for
    values out of range.
    """

    loss_is_mean = True

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        mask_ratio: float = 0.75,
        mask_span: int = 1,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        cls: bool = False,
        target: str = "normalized_joint",
        target_floor: float = 5e-4,
        column_offset_max: int = 0,
    ):
        pixels.check(target, mask_ratio, column_offset_max)
        base.check_decoder(decoder_width, decoder_heads)
        self.encoder = encoders.create_vit(encoder)
        self.patch, self.channels = tuple(encoder["patch"]), channels
        self.target = self.patch, target, target_floor
        self.column_offset_max = column_offset_max
        hide = {"ratio": mask_ratio, "span": mask_span}
        self.hide = functools.partial(masks.random_mask, patch=self.patch, **hide)
        decoder = Decoder(
            values=math.prod(self.patch) * channels,
            width=decoder_width,
            depth=decoder_depth,
            heads=decoder_heads,
            prefix=int(cls),
            position=self.encoder.position,
            flat_columns=self.encoder.flat_columns,
            form=self.encoder.form(decoder_width // decoder_heads),
        )
        self.network = Network(encoder=self.encoder, decoder=decoder, hide=hide)

    def augment(self, key, batch):
        """See `pixels.masked_view`."""
        layout = self.channels, self.patch, self.column_offset_max
        return pixels.masked_view(key, batch, self.hide, *layout)

    def loss(self, params, state, batch, key, progress):
        """L, also the metric pixel; the decoder rebuilds all patches, removed ones count."""
        prediction = self.apply(params, "__call__", batch, key=key)
        target = pixels.pixel_target(batch["view1"], batch["width"], *self.target)[0]
        hidden = pixels.loss_weights(batch, self.patch)
        loss = losses.masked_mse(prediction, target, hidden)
        return loss, base.Aux({"pixel": loss}, state.mutable, jnp.sum(hidden))

    def reconstruct(self, params, batch, key):
        """`pixels.pictures` of a raw batch."""
        batch = self.augment(key, batch)
        return pixels.pictures(self.apply(params, "__call__", batch), batch, *self.target)
