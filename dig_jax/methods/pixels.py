"""Pixels as targets: what methods that rebuild an image ask of their decoder, and how to look at its answer.

Shared by DiG, SimMIM, MAE and their kin; everything is float32 and in the reading order of `models/vit.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dig_jax.methods import losses
from dig_jax.models import vit

TARGETS = ("pixel", "normalized")


def check_target(kind: str) -> None:
    if kind not in TARGETS:
        raise ValueError(f"target is {kind!r}; set config.method.target to one of {', '.join(TARGETS)}")


def pixel_target(image, width, patch, kind, floor):
    """What the decoder shall say of every patch: (target, mean, deviation, real).

    image f32[B,H,W,C] in [-1, 1], width i32[B]. target f32[B,N,P] = (grey - mean) / deviation, grey in [0, 1], P values
    of a patch as `vit.patchify` orders them. kind "pixel": mean 0, deviation 1; "normalized": mean and unbiased
    deviation of the real pixels of each patch and channel. real bool[B,N,P] is False for pixels right of `width`.
    """
    grey = vit.patchify(image * 0.5 + 0.5, patch)
    inside = jnp.arange(image.shape[2])[None] < width[:, None]  # (B, W)
    real = vit.patchify(jnp.broadcast_to(inside[:, None, :, None], image.shape), patch)
    if kind == "pixel":
        return grey, jnp.float32(0), jnp.float32(1), real
    pixels = (*grey.shape[:2], patch[0] * patch[1], image.shape[3])  # (B, N, ph * pw, C)
    weight = real.reshape(pixels).astype(jnp.float32)
    count = weight.sum(axis=2, keepdims=True)
    mean = (weight * grey.reshape(pixels)).sum(axis=2, keepdims=True) / jnp.maximum(count, 1)
    square = weight * jnp.square(grey.reshape(pixels) - mean)
    variance = square.sum(axis=2, keepdims=True) / jnp.maximum(count - 1, 1)
    deviation = jnp.sqrt(variance + floor**2)
    mean, deviation = (jnp.broadcast_to(x, pixels).reshape(grey.shape) for x in (mean, deviation))
    return (grey - mean) / deviation, mean, deviation, real


def masked_loss(prediction, batch, patch, kind, floor, error=losses.masked_mse):
    """`error` (masked_mse, masked_l1) of a decoder over the hidden patches of view1: real pixels of valid rows only.

    prediction f32[B,N,P] in the units of the target. batch: view1 f32[B,H,W,C] in [-1, 1], width, valid, mask bool[B,N].
    """
    target, _, _, real = pixel_target(batch["view1"], batch["width"], patch, kind, floor)
    hidden = (batch["mask"] & batch["valid"][:, None])[..., None]
    return error(prediction, target, real & hidden)


def pictures(prediction, batch, patch, kind, floor) -> dict[str, jax.Array]:
    """{"masked", "output", "original"}: f32[B,H,W,C] in [0, 1].

    masked: hidden patches grey. output: the prediction in hidden patches, the original elsewhere; with normalised
    targets it is given the true mean and deviation of its patch, which the network is not asked to know.
    """
    _, mean, deviation, real = pixel_target(batch["view1"], batch["width"], patch, kind, floor)
    original = batch["view1"] * 0.5 + 0.5
    patches, hidden = vit.patchify(original, patch), batch["mask"][..., None] & real
    grid = vit.grid(original.shape, patch)
    back = lambda x: vit.unpatchify(jnp.clip(x, 0, 1), patch, grid)  # noqa: E731
    output = jnp.where(hidden, prediction * deviation + mean, patches)
    return {"masked": back(jnp.where(hidden, 0.5, patches)), "output": back(output), "original": original}
