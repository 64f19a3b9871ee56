"""Denoising autoencoder: a line is spoilt and every one of its pixels is asked for.

Paper   Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders", ICML
        2008; Gaussian noise and squared error as in the longer version, JMLR 11, 2010.

    what                                                            where
    x~ drawn from q(x~ | x)                                          Method.augment
    z = g(f(x~))                                                     pretext.Painter
    L(x, z) over all of x, the clean input, not only what was lost   pretext.paint_loss

Certain from the papers: a share of the input is set to a fixed value (masking noise, a quarter
among the shares tried). The loss is over the whole input, and one layer is trained after the other.
Ours: the encoder is trained as a whole, with mean squares (2008: cross-entropy of values in [0,
1]).

Departures
- Every pixel is dropped independently (`drop`), all of its channels together, where the paper drops
  an exact count. It is set to paper white, which for ink is what 0 is for the paper's digits: a
  stroke may be missing, and paper carries no information.
- Before that, blur and Gaussian noise, in random order, each line with its own strength, uniform
  from 0 to a maximum.
- Padding and rows that are not valid do not count.
- Optionally targets normalised per patch (target="normalized"), as in `methods/dig.py`.

Watch   baseline: the error of the spoilt line itself, as one has it without learning. pixel has to
        fall below it, and soon does: noise of single pixels is mended by looking next door. A task
        of whole letters needs whole patches to be lost: that is masked modelling (dig with
        objective=gen), of which this is the forerunner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dig_jax.augment import filters
from dig_jax.methods.shared import base, pixels, pretext, two_views
from dig_jax.models import encoders, vit


class Method(base.Method):
    """Denoising autoencoder.

    encoder: see `encoders.create`; a CNN paints a column of pixels from each of its frames.
    channels: C of the images. drop: share of the pixels that are lost. noise_sigma, in grey of
    [0, 1], and blur_sigma_px: the most that a line may get; 0 = none. target, target_floor:
    `pixels.pixel_target`. decoder_width: of the pixel decoder. Raises ValueError.
    """

    loss_is_mean = True

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        drop: float = 0.25,
        noise_sigma: float = 0.0,
        blur_sigma_px: float = 0.0,
        target: str = "pixel",
        target_floor: float = 0.05,
        decoder_width: int = 192,
        column_offset_max: int = 0,
    ):
        _check(drop, noise_sigma, blur_sigma_px)
        pixels.check_target(target, target_floor)
        base.check_column_offset(column_offset_max)
        base.check_counts(decoder_width=decoder_width)
        self.encoder, self.channels = encoders.create(encoder), channels
        self.patch = tuple(self.encoder.patch)
        self.drop, self.recipe = drop, _recipe(noise_sigma, blur_sigma_px)
        self.column_offset_max = column_offset_max
        self.target = {"patch": self.patch, "kind": target, "floor": target_floor}
        values = math.prod(self.patch) * channels
        self.network = pretext.Painter(
            encoder=self.encoder, values=values, decoder_width=decoder_width
        )

    def augment(self, key, batch):
        """view1: the spoilt line; target: the clean one; both f32[B,H,W,C] in [-1, 1]."""
        base.check_channels(batch["image"], self.channels)
        view_key, drop_key, offset_key = jax.random.split(key, 3)
        spoilt = two_views.view(view_key, batch, self.recipe, None)
        lost = jax.random.bernoulli(drop_key, self.drop, (*spoilt.shape[:3], 1))
        out = {
            "view1": jnp.where(lost, vit.PAPER, spoilt),
            "target": base.normalise(batch["image"]),
        }
        out |= {"width": batch["width"], "valid": batch["valid"]}
        return out | two_views.column_offsets(offset_key, len(spoilt), 1, self.column_offset_max)

    def loss(self, params, state, batch, key, progress):
        """L. Metrics: pixel (L itself), baseline."""
        z = self.apply(params, "__call__", batch, key=key)
        loss, metrics, count = pretext.paint_loss(z, batch, baseline=batch["view1"], **self.target)
        return loss, base.Aux(metrics, state.mutable, count)

    def reconstruct(self, params, batch, key):
        """`pixels.pictures` of the whole line; "masked" is the spoilt line."""
        views = self.augment(key, batch)
        prediction = self.apply(params, "__call__", views)
        everywhere = {
            "view1": views["target"],
            "width": views["width"],
            "mask": jnp.ones(prediction.shape[:2], bool),
        }
        return pixels.pictures(prediction, everywhere, **self.target) | {
            "masked": views["view1"] * 0.5 + 0.5
        }


def _recipe(noise_sigma: float, blur_sigma_px: float) -> dict[str, Any] | None:
    """A recipe of `augment.views` that only blurs and adds noise, as those of the two that are
    asked for; None for neither.
    """
    strengths = {"noise": noise_sigma, "blur": blur_sigma_px}
    operators = tuple((name, {"sigma": (0.0, most)}) for name, most in strengths.items() if most)
    count = len(operators)
    return (
        {"some_of": (count, count), "operators": operators, "jitter": None, "grayscale_p": 0.0}
        if count
        else None
    )


def _check(drop, noise_sigma, blur_sigma_px):
    if not 0 <= drop < 1:
        raise ValueError(
            f"drop is {drop}; it must lie in [0, 1): set config.method.drop, a share of the pixels"
        )
    if noise_sigma < 0:
        raise ValueError(
            f"noise_sigma is {noise_sigma}; set config.method.noise_sigma to 0 or more, in grey of "
            "[0, 1]"
        )
    if not 0 <= blur_sigma_px <= filters.MAX_SIGMA_PX:
        raise ValueError(
            f"blur_sigma_px is {blur_sigma_px}; set config.method.blur_sigma_px to "
            f"0..{filters.MAX_SIGMA_PX} px"
        )
    if not (drop or noise_sigma or blur_sigma_px):
        raise ValueError(
            "nothing is spoilt: set config.method.drop, noise_sigma or blur_sigma_px above 0"
        )
