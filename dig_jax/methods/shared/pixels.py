"""Pixels as targets: what methods that rebuild an image ask of their decoder, and how to look at
its answer.

Shared by DiG, SimMIM, MAE and their kin; everything is float32 and in the reading order of
`models/vit.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import geometry
from dig_jax.methods.shared import base, two_views
from dig_jax.models import vit

TARGETS = ("pixel", "normalized", "normalized_joint", "input")


def check_target(kind: str, floor: float) -> None:
    if kind not in TARGETS:
        raise ValueError(
            f"target is {kind!r}; set config.method.target to one of {', '.join(TARGETS)}"
        )
    if kind.startswith("normalized") and floor <= 0:
        raise ValueError(
            f"target_floor is {floor}, and blank paper has no contrast to divide by: set "
            "config.method.target_floor above 0"
        )


def check(
    target: str, mask_ratio: float, column_offset_max: int, target_floor: float = 1.0
) -> None:
    """ValueError for arguments that no masked method can work with."""
    check_target(target, target_floor)
    if not 0 < mask_ratio < 1:
        raise ValueError(
            f"mask_ratio is {mask_ratio}; it must lie between 0 and 1: set config.method.mask_ratio"
        )
    base.check_column_offset(column_offset_max)


def pixel_target(image, width, patch, kind, floor):
    """What the decoder shall say of every patch: (target, mean, deviation, real).

    image f32[B,H,W,C] in [-1, 1], width i32[B]. target f32[B,N,P] = (grey - mean) / deviation, grey
    in [0, 1], P values of a patch as `vit.patchify` orders them.

    Mean and deviation by kind:

        pixel             0 and 1 (DiG)
        input             1/2 and 1/2, so the image as it stands (SimMIM)
        normalized        of the real pixels of each patch and channel, the deviation unbiased
        normalized_joint  of each patch, all channels together (MAE)

    floor: deviation = sqrt(variance + floor^2). real bool[B,N,P] is False for pixels right of
    `width`.
    """
    grey, real = vit.patchify(image * 0.5 + 0.5, patch), real_values(image, width, patch)
    if kind in ("pixel", "input"):
        mean, deviation = map(jnp.float32, (0, 1) if kind == "pixel" else (0.5, 0.5))
        return (grey - mean) / deviation, mean, deviation, real
    channels = 1 if kind == "normalized_joint" else image.shape[3]
    pixels = (*grey.shape[:2], -1, channels)
    weight = real.reshape(pixels).astype(jnp.float32)
    count = weight.sum(axis=2, keepdims=True)
    mean = (weight * grey.reshape(pixels)).sum(axis=2, keepdims=True) / jnp.maximum(count, 1)
    square = weight * jnp.square(grey.reshape(pixels) - mean)
    variance = square.sum(axis=2, keepdims=True) / jnp.maximum(count - 1, 1)
    deviation = jnp.sqrt(variance + floor**2)
    whole = lambda x: jnp.broadcast_to(x, weight.shape).reshape(grey.shape)
    mean, deviation = whole(mean), whole(deviation)
    return (grey - mean) / deviation, mean, deviation, real


def real_values(image, width, patch):
    """bool[B,N,P] as `vit.patchify` orders the values of images [B,H,W,C]: False right of
    `width`.
    """
    inside = geometry.inside(width, image.shape[2])[:, None, :, None]
    return vit.patchify(jnp.broadcast_to(inside, image.shape), patch)


def loss_weights(batch, patch):
    """bool[B,N,P]: the values that a masked method is asked for, real pixels of hidden patches of
    valid rows.
    """
    hidden = batch["mask"] & batch["valid"][:, None]
    return real_values(batch["view1"], batch["width"], patch) & hidden[..., None]


def masked_loss(prediction, batch, patch, kind, floor):
    """The mean square of a decoder's error over the hidden patches of view1: real pixels of valid
    rows only.

    prediction f32[B,N,P] in the units of the target. batch: view1 f32[B,H,W,C] in [-1, 1], width,
    valid, mask bool[B,N].
    """
    target = pixel_target(batch["view1"], batch["width"], patch, kind, floor)[0]
    return losses.masked_mse(prediction, target, loss_weights(batch, patch))


def pictures(prediction, batch, patch, kind, floor) -> dict[str, jax.Array]:
    """{"masked", "output", "original"}: f32[B,H,W,C] in [0, 1].

    masked: hidden patches grey. output: the prediction in hidden patches, the original elsewhere.
    Normalised targets get the true mean and deviation of their patch, which the network does not
    predict.
    """
    _, mean, deviation, real = pixel_target(batch["view1"], batch["width"], patch, kind, floor)
    original = batch["view1"] * 0.5 + 0.5
    patches, hidden = vit.patchify(original, patch), batch["mask"][..., None] & real
    grid = vit.grid(original.shape, patch)
    back = lambda x: vit.unpatchify(jnp.clip(x, 0, 1), patch, grid)
    output = jnp.where(hidden, prediction * deviation + mean, patches)
    return {
        "masked": back(jnp.where(hidden, 0.5, patches)),
        "output": back(output),
        "original": original,
    }


def masked_view(key, batch, hide, channels, patch, column_offset_max):
    """The augmented batch of a method that hides patches of a line and rebuilds them.

    hide(key, width, grid) -> mask bool[B,N], True = hidden. view1 f32[B,H,W,C] in [-1, 1], the line
    itself; mask; and, when asked for, column_offset i32[B,1]. ValueError for images of another
    number of channels.
    """
    image = base.normalise(batch["image"])
    base.check_channels(image, channels)
    mask_key, offset_key = jax.random.split(key)
    out = {"view1": image, "width": batch["width"], "valid": batch["valid"]}
    out["mask"] = hide(mask_key, batch["width"], vit.grid(image.shape, patch))
    return out | two_views.column_offsets(offset_key, len(image), 1, column_offset_max)
