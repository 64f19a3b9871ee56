"""Colourisation: the encoder sees a line in grey and says its colours.

Papers  Zhang et al., "Colorful Image Colorization", ECCV 2016, arXiv 1603.08511; Larsson et al.,
"Colorization as a Proxy Task
        for Visual Understanding", CVPR 2017, arXiv 1703.04044.

    what                                                            where
    X = lightness, Y = the two colour channels                      split_colour, Method.augment
    Y^ = F(X)                                                       pretext.Painter
    L2 = mean of (Y - Y^)^2 (Zhang et al., eq. 1)                    pretext.paint_loss

Certain from the papers: lightness in, colour out. Zhang et al. then prefer a classification over
313 bins of Lab's ab plane, rebalanced towards rare colours, because a mean square makes pale
pictures. Larsson et al. predict histograms. Ours is the mean square: an encoder is wanted, not
pictures, and a patch has too many pixels for 313 logits each.

Departures
- Lightness and colour are Y and (Cb, Cr) of ITU-R 601, linear in RGB, so that the way back is
  exact. Zhang et al. use Lab, Larsson et al. hue and chroma. Y is the grey that `augment.color`
  knows.
- Grey goes in three times, so that the patch embedding reads colour images later. Only the sum of
  its three kernels is trained; their differences stay random. On coloured lines a recogniser gets
  some untrained colour features, which fine-tuning mends and a frozen probe bears.
- Padding and rows that are not valid do not count.

There is no version for channels=1: the colours that a grey image lacks cannot be a target, and
painting its tones from themselves is no task. Denoising is the nearest kin. Scans of print in three
channels have hardly a colour either: see `baseline`.

Watch   baseline: what grey everywhere reaches, the mean square of the colours (0 .. 1). Near 0 the
        lines have no colour and nothing can be learnt. pixel below baseline: colours are told from
        shapes and tones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dig_jax.augment import geometry
from dig_jax.methods.shared import base, pretext, two_views
from dig_jax.models import encoders, vit

RED, GREEN, BLUE = 0.299, 0.587, 0.114  # shares of Y in ITU-R 601, as in augment.color.luma


class Method(base.Method):
    """Colourisation.

    encoder: see `encoders.create`. channels: C of the images, 3. decoder_width: of the
    pixel decoder. Raises ValueError.
    """

    loss_is_mean = True

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        decoder_width: int = 192,
        column_offset_max: int = 0,
    ):
        if channels != 3:
            raise ValueError(
                f"channels is {channels}; only colour images have colours to paint: set "
                "config.data.channels to 3"
            )
        base.check_column_offset(column_offset_max)
        base.check_counts(decoder_width=decoder_width)
        self.encoder, self.channels = encoders.create(encoder), channels
        self.patch = tuple(self.encoder.patch)
        self.column_offset_max = column_offset_max
        values = math.prod(self.patch) * 2
        self.network = pretext.Painter(
            encoder=self.encoder, values=values, decoder_width=decoder_width
        )

    def augment(self, key, batch):
        """view1 f32[B,H,W,3]: Y three times; target f32[B,H,W,2]: (Cb, Cr), both in [-1, 1]."""
        base.check_channels(batch["image"], self.channels)
        grey, colour = split_colour(base.normalise(batch["image"]))
        out = {
            "view1": jnp.repeat(grey, 3, axis=-1),
            "target": colour,
            "width": batch["width"],
            "valid": batch["valid"],
        }
        return out | two_views.column_offsets(key, len(grey), 1, self.column_offset_max)

    def loss(self, params, state, batch, key, progress):
        """L2. Metrics: pixel (L2 itself), baseline."""
        said = self.apply(params, "__call__", batch, key=key)
        grey = jnp.zeros_like(batch["target"])
        how = {"baseline": grey, "patch": self.patch, "kind": "input", "floor": 0.0}
        loss, metrics, count = pretext.paint_loss(said, batch, **how)
        return loss, base.Aux(metrics, state.mutable, count)

    def reconstruct(self, params, batch, key):
        """{"masked": grey, "output": in the colours that were said, "original"}: f32[B,H,W,3] in
        [0, 1].
        """
        views = self.augment(key, batch)
        said = self.apply(params, "__call__", views)
        colour = vit.unpatchify(said, self.patch, vit.grid(views["view1"].shape, self.patch))
        original = base.normalise(batch["image"])
        real = geometry.inside(views["width"], original.shape[2])[:, None, :, None]
        output = jnp.where(real, join_colour(views["view1"][..., :1], colour), original)
        shown = {"masked": views["view1"], "output": output, "original": original}
        return jax.tree.map(lambda x: jnp.clip(x * 0.5 + 0.5, 0.0, 1.0), shown)


def split_colour(image):
    """RGB f32[..., 3] in [-1, 1] -> Y f32[..., 1] and (Cb, Cr) f32[..., 2], all in [-1, 1]."""
    red, green, blue = (image[..., i] for i in range(3))
    grey = RED * red + GREEN * green + BLUE * blue
    colour = jnp.stack(
        [(blue - grey) / (2.0 * (1.0 - BLUE)), (red - grey) / (2.0 * (1.0 - RED))], axis=-1
    )
    return grey[..., None], colour


def join_colour(grey, colour):
    """The inverse of `split_colour`: f32[..., 3], beyond [-1, 1] where no such colour exists."""
    grey = grey[..., 0]
    blue, red = (
        grey + 2.0 * (1.0 - BLUE) * colour[..., 0],
        grey + 2.0 * (1.0 - RED) * colour[..., 1],
    )
    return jnp.stack([red, (grey - RED * red - BLUE * blue) / GREEN, blue], axis=-1)
