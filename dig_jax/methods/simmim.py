"""SimMIM: predict the raw pixels of hidden units from all the others, with one linear layer.

Paper   Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, arXiv
        2111.09886.

    what                                                        where
    hide 60 % of units of several patches each                  masks.hider, masks.unit_mask
    mask token in their place, every token through the encoder  Network, vit.Vit
    head: one linear layer from a token to its patch            Network
    L = mean over hidden pixels of |prediction - x|             losses.masked_l1

Certain, from the public code:

- ceil(ratio * units) hidden units by a random permutation;
- the mask token stands before the position code is added;
- the target is the image as the encoder reads it, not normalised by patch;
- L1 over hidden pixels only;
- a plain linear head (there a 1x1 convolution with pixel shuffle).

Ours is the ViT of this project, with fixed positions and a mask token that starts at zero. The
authors' has relative position biases, layer scale and a token drawn with deviation 0.02. There are
no crops of other scales and no flips, which turn letters into others.

Departures for lines of text
- A unit there is 32 x 32 of 224 px, 2 x 2 patches of the ViT: as high as a whole line here.
  `mask_unit_px` is measured against the line: by default (16, 8), 2 x 2 patches of (8, 4). With
  patches as high as the line, (32, 8) hides pairs of columns. A letter is then too wide to be
  copied from its own edges.
- The share is of the units that hold real pixels, padding is never hidden, and at least one unit
  stays visible.
- Optional targets of the other pixel methods: "normalized" (by patch and channel) is what helped
  short runs on lines.

Watch   pixel, in the units of the target. With "input" a constant reaches the mean distance of the
        pixels from their median, in [-1, 1]; with "normalized" about 0.8, and on clean print less,
        since paper is flat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import masks
from dig_jax.methods.shared import base, pixels, two_views
from dig_jax.models import encoders, heads, vit


class Network(nn.Module):
    """Encoder and head. values: of a patch, ph * pw * C."""

    encoder: vit.Vit
    values: int

    @nn.compact
    def __call__(self, batch, deterministic=True):
        """Augmented batch -> patch vectors f32[B,N,P] in the units of the target, for hidden and
        visible patches.
        """
        tokens = two_views.encode(self.encoder, batch, batch["mask"], deterministic)[:, 0]
        return heads.linear(self.values, self.encoder.width, self.encoder.dtype, "head")(tokens)


class Method(base.Method):
    """SimMIM.

    encoder: keyword arguments of `vit.Vit`. channels: C of the images. mask_unit_px: (height,
    width) of what is hidden at a time, whole patches; another mask_kind: see `masks.hider`. target,
    target_floor: see `pixels.pixel_target`. column_offset_max: see `two_views.column_offsets`.
    Raises ValueError for values out of range.
    """

    loss_is_mean = True

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        mask_ratio: float = 0.6,
        mask_unit_px: Sequence[int] = (16, 8),
        mask_span: int = 1,
        mask_kind: str | None = None,
        target: str = "input",
        target_floor: float = 0.05,
        column_offset_max: int = 0,
    ):
        pixels.check(target, mask_ratio, column_offset_max, target_floor)
        self.encoder = encoders.create_vit(encoder)
        self.patch, self.channels = tuple(encoder["patch"]), channels
        self.hide = masks.hider(self.patch, mask_ratio, mask_span, mask_kind, mask_unit_px)
        self.target = self.patch, target, target_floor
        self.column_offset_max = column_offset_max
        self.network = Network(encoder=self.encoder, values=math.prod(self.patch) * channels)

    def augment(self, key, batch):
        """See `pixels.masked_view`."""
        layout = self.channels, self.patch, self.column_offset_max
        return pixels.masked_view(key, batch, self.hide, *layout)

    def loss(self, params, state, batch, key, progress):
        """L, also the metric pixel: of hidden pixels that are real, in valid rows."""
        prediction = self.apply(params, "__call__", batch, key=key)
        target = pixels.pixel_target(batch["view1"], batch["width"], *self.target)[0]
        hidden = pixels.loss_weights(batch, self.patch)
        loss = losses.masked_l1(prediction, target, hidden)
        return loss, base.Aux({"pixel": loss}, state.mutable, jnp.sum(hidden))

    def reconstruct(self, params, batch, key):
        """`pixels.pictures` of a raw batch."""
        batch = self.augment(key, batch)
        return pixels.pictures(self.apply(params, "__call__", batch), batch, *self.target)
