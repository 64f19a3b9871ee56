"""SimAN: rebuild one half of a line in the style of the other half.

Paper   Luo et al., "SimAN: Exploring Self-Supervised Representation Learning of Scene Text via
        Similarity-Aware Normalization", CVPR 2022, arXiv 2203.10492. The authors' code was never
        released.

    what                                                          where
    two neighbouring patches of a line; one loses its style       Method.augment
    F_c = E(aug(I_c)), F_s = E(I_s), one encoder                  Network.paint
    A = softmax(IN(F_c) IN(F_s)^T / sqrt(D))                      similarity_aware_normalisation
    mu' = A mu_s, sigma' = A sigma_s, statistics of 3 x 3 tokens  local_statistics
    F' = sigma' IN(F_c) + mu'                                     similarity_aware_normalisation
    D(F') against I_c: L2 + lambda adversary                      Method.loss

Certain, from the abstract: neighbouring patches share their style. One is augmented and rebuilt
with the other as a guide. Content is what instance normalisation leaves, and the similarity of
content tells from where in the guide to fetch the style. Remembered and not verified: the formulas
above, and that a patch discriminator is trained against the decoder.

Our reading: everything else. A ViT reads each half by itself, so the halves meet only in the
normalisation. The decoder is a shallow transformer. The adversary judges every patch of an image
among its neighbours, with least squares (arXiv 1611.04076). Each half is once the content and once
the guide. So this is "after SimAN", not a reproduction.

One step trains both sides. The decoder's side reads the adversary's parameters without gradient,
and the adversary reads the painted image without gradient. A rule of the optimiser ("^adversary/")
gives it a rate of its own.

Departures for lines: a line whose second half is padding cannot be used and does not count. Padding
enters no statistics, no attention and no loss. The recipe moves no pixel, since what is painted is
the half as it was.

Watch   pixel: mean square error in [-1, 1]; the variance of the pixels is what a constant reaches.
        adversary near 0.5 and fooled near 0.25: neither side can tell; adversary near 0: it has won
        and its gradient no longer teaches. used: share of halves that count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import views
from dig_jax.methods.shared import base, pixels, two_views
from dig_jax.models import encoders, transformer, vit
from dig_jax.models.layers import Dense, LayerNorm

EPSILON = 1e-5  # of every variance


class Painter(nn.Module):
    """Tokens or patches f32[R,N,K] of lines with lengths i32[R] -> f32[R,N,features], by a shallow
    transformer.

    form: `Vit.form`.
    """

    features: int
    width: int
    depth: int
    heads: int
    form: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, lengths, grid):
        dtype = self.form["dtype"]
        x = Dense(self.width, dtype=dtype, name="embed")(x) + vit.position_codes(
            "sincos_2d", grid, self.width
        )
        x = transformer.blocks(
            x, lengths, depth=self.depth, heads=self.heads, hidden=4 * self.width, **self.form
        )
        return Dense(self.features, dtype=dtype, name="out")(LayerNorm(name="norm")(x))


class Network(nn.Module):
    encoder: vit.Vit
    decoder: Painter
    adversary: Painter

    def __call__(self, batch):
        """Every part once, for initialisation."""
        self.judge(self.paint(batch), batch)

    def paint(self, batch, deterministic=True):
        """Augmented batch -> the content half as it was, patch vectors f32[R,N,P] in [-1, 1]."""
        patch, grid = self.encoder.patch, vit.grid(batch["view1"].shape, self.encoder.patch)
        image = two_views.interleave([batch["view1"], batch["guide"]])
        width = two_views.interleave([batch["width"], batch["guide_width"]])
        offset = batch["column_offset"].reshape(-1) if "column_offset" in batch else None
        tokens = self.encoder(image, width, column_offset=offset, deterministic=deterministic)
        content, guide = jnp.moveaxis(tokens.reshape(-1, 2, *tokens.shape[1:]), 1, 0)
        real, guide_real = (
            vit.token_valid(batch[name], patch, grid) for name in ("width", "guide_width")
        )
        styled = similarity_aware_normalisation(content, guide, real, guide_real, grid)
        return self.decoder(styled, jnp.sum(real, 1), grid)

    def judge(self, patches, batch):
        """Patch vectors -> f32[R,N], near 1 where the adversary takes them for real."""
        grid = vit.grid(batch["view1"].shape, self.encoder.patch)
        real = vit.token_valid(batch["width"], self.encoder.patch, grid)
        return self.adversary(patches, jnp.sum(real, 1), grid)[..., 0]


def similarity_aware_normalisation(content, guide, real, guide_real, grid):
    """F' f32[R,N,D] of content and guide tokens f32[R,N,D] (real bool[R,N]) in reading order."""
    query, key = instance_norm(content, real), instance_norm(guide, guide_real)
    logits = jnp.einsum("rnd,rmd->rnm", query, key, precision="highest") / math.sqrt(
        content.shape[-1]
    )
    weights = jax.nn.softmax(jnp.where(guide_real[:, None], logits, -1e30), axis=-1)
    statistics = local_statistics(guide, guide_real, grid)
    mean, deviation = (
        jnp.einsum("rnm,rmd->rnd", weights, x, precision="highest") for x in statistics
    )
    return deviation * query + mean


def instance_norm(x, real):
    """Every channel of f32[R,N,D] to mean 0 and variance 1 over the real tokens of its own line."""
    weight = real[..., None].astype(jnp.float32)
    count = jnp.maximum(weight.sum(1, keepdims=True), 1)
    x = x - (x * weight).sum(1, keepdims=True) / count
    return (
        x * jax.lax.rsqrt((jnp.square(x) * weight).sum(1, keepdims=True) / count + EPSILON) * weight
    )


def local_statistics(x, real, grid):
    """Mean and deviation of every channel over the real ones of the 3 x 3 tokens around each:
    f32[R,N,D] twice.
    """
    rows, cols = grid
    weight = jnp.broadcast_to(real[..., None].astype(jnp.float32), x.shape)

    def around(values):
        values = values.reshape(-1, cols, rows, x.shape[-1])
        total = jax.lax.reduce_window(values, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
        return total.reshape(x.shape)

    count = jnp.maximum(around(weight), 1)
    mean = around(x * weight) / count
    variance = around(jnp.square(x) * weight) / count - jnp.square(mean)
    return mean, jnp.sqrt(jnp.maximum(variance, 0.0) + EPSILON)


class Method(base.Method):
    """After SimAN.

    encoder: keyword arguments of `vit.Vit`. channels: C of the images. decoder_*: of decoder and
    adversary alike. weight_adversary: lambda; 0 leaves the painted image to L2 alone, while the
    adversary still learns to judge it. recipe: what the content half suffers; nothing that moves
    pixels. column_offset_max: `two_views.column_offsets`. Raises ValueError for values out of
    range.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        decoder_width: int = 256,
        decoder_depth: int = 2,
        decoder_heads: int = 4,
        weight_adversary: float = 0.01,
        recipe: views.Recipe = "siman",
        column_offset_max: int = 0,
    ):
        if weight_adversary < 0:
            raise ValueError(
                f"weight_adversary is {weight_adversary}; set config.method.weight_adversary to 0 "
                "or more"
            )
        base.check_column_offset(column_offset_max)
        base.check_decoder(decoder_width, decoder_heads)
        self.encoder, self.channels = encoders.create_vit(encoder), channels
        self.patch, self.weight_adversary = tuple(encoder["patch"]), weight_adversary
        self.recipe = views.recipe(recipe)
        self.column_offset_max = column_offset_max
        own = {
            "width": decoder_width,
            "depth": decoder_depth,
            "heads": decoder_heads,
            "form": self.encoder.form(decoder_width // decoder_heads),
        }
        decoder = Painter(features=math.prod(self.patch) * channels, **own)
        self.network = Network(
            encoder=self.encoder, decoder=decoder, adversary=Painter(features=1, **own)
        )

    # augment

    def augment(self, key, batch):
        """2B rows, each half of a line once as content.

        view1      content augmented, f32[2B,H,W/2,C] in [-1, 1]
        original   content as it is
        guide      the other half
        width, guide_width   i32[2B]
        valid      bool[2B], both halves hold ink
        """
        image, half = batch["image"], batch["image"].shape[2] // 2
        base.check_channels(image, self.channels)
        if image.shape[2] % (2 * self.patch[1]):
            raise ValueError(
                f"images of {image.shape[2]} px have no halves of whole patches of {self.patch[1]} "
                f"px: set config.data.width_px to a multiple of {2 * self.patch[1]}"
            )
        left = jnp.clip(batch["width"], 1, half)
        right = jnp.clip(batch["width"] - half, 1, half)
        halves, widths = [image[:, :, :half], image[:, :, half:]], [left, right]
        raw = {"image": two_views.interleave(halves), "width": two_views.interleave(widths)}
        view_key, offset_key = jax.random.split(key)
        return two_views.column_offsets(
            offset_key, len(raw["width"]), 2, self.column_offset_max
        ) | {
            "view1": two_views.view(view_key, raw, self.recipe, 0.0),
            "original": base.normalise(raw["image"]),
            "guide": base.normalise(two_views.interleave(halves[::-1])),
            "width": raw["width"],
            "guide_width": two_views.interleave(widths[::-1]),
            "valid": jnp.repeat(batch["valid"] & (batch["width"] > half), 2),
        }

    # loss

    def loss(self, params, state, batch, key, progress):
        """pixel + lambda fooled + adversary. Metrics: these three and used, the share of lines that
        count.
        """
        painted = self.apply(params, "paint", batch, key=key)
        target, _, _, real = pixels.pixel_target(
            batch["original"], batch["width"], self.patch, "input", 0.0
        )
        real = real & batch["valid"][:, None, None]
        pixel = losses.masked_mse(painted, target, real)
        target, painted = (
            jnp.where(real, x, vit.PAPER) for x in (target, painted)
        )  # beyond the line nothing is judged
        judged = real.any(-1)
        frozen = jax.lax.stop_gradient(params)
        fooled = losses.masked_mse(
            self.apply(frozen, "judge", painted, batch), jnp.ones(judged.shape), judged
        )
        of_painted = self.apply(params, "judge", jax.lax.stop_gradient(painted), batch)
        of_real = self.apply(params, "judge", target, batch)
        adversary = losses.masked_mse(of_real, jnp.ones(judged.shape), judged)
        adversary += losses.masked_mse(of_painted, jnp.zeros(judged.shape), judged)
        metrics = {
            "pixel": pixel,
            "fooled": fooled,
            "adversary": adversary,
            "used": batch["valid"].mean(),
        }
        return pixel + self.weight_adversary * fooled + adversary, base.Aux(metrics, state.mutable)

    # reconstruct

    def reconstruct(self, params, batch, key):
        """{"masked": the halves as the encoder saw them, "output": as painted, "original"}:
        f32[B,H,W,C] in [0, 1].
        """
        batch = self.augment(key, batch)
        grid = vit.grid(batch["view1"].shape, self.patch)
        painted = vit.unpatchify(self.apply(params, "paint", batch), self.patch, grid)

        def whole(halves):
            halves = jnp.clip(halves * 0.5 + 0.5, 0, 1).reshape(-1, 2, *halves.shape[1:])
            return jnp.concatenate([halves[:, 0], halves[:, 1]], axis=2)

        return {
            "masked": whole(batch["view1"]),
            "output": whole(painted),
            "original": whole(batch["original"]),
        }
