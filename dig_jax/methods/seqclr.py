"""SeqCLR: contrast between stretches of a line, so that features keep the order of the letters.

Paper   Aberdam et al., "Sequence-to-Sequence Contrastive Learning for Text Recognition", CVPR 2021,
        arXiv 2012.10873.

    what                                                    where
    two views whose letters stay in place                   two_views.augmenter
    base encoder, one frame a column of patches: H          Network
    g: frame -> frame, none, "mlp" or "bilstm"              Projector
    m: frames -> instances, z = m(g(H))                     Network, contrast.instances
    instances of displaced views (ours, see below)          aligned
    l(i) = -log exp(s_ij / T) / sum_{k != i} exp(s_ik / T)  losses.nt_xent (j: partner of i)
    L = mean of l over the instances of both views          Method.loss

The mapping m is one number. window_px=None: the mean of the whole line (all-to-instance). The width
of a patch: every frame (frame-to-instance). In between: means of stretches of so many pixels
(window-to-instance, the paper's best). Negatives are all other instances of the batch, those of the
same line too.

Certain, from the authors' later code (SemiMTR): project, then pool; T 0.1; the mean over both
views; gradients flow through both sides. There is no projector by default, else it is as wide as
its input, and "bilstm" ends in a dense layer. From readings of the paper: five windows of a 32x100
word, hence 20 px. Our reading: "mlp" has one hidden layer and no norm. The recipe "seqclr_2" is the
paper's list by the code's figures; "seqclr_1" and "seqclr_0" are the code's other severities. That
code pools a map flattened row by row, which makes horizontal bands, and adds a supervised loss: we
do neither. The paper's base encoder is the kind "crnn" with `fiducials`. The attention of a ViT is
the context that a BiLSTM gives; the tokens of a column are averaged to a frame (ours).

Departures for lines: windows have a width and not a count, so a longer line has more of them. A
last window that the line only partly fills is the mean of what is filled. `max_shift_px` (2 px, a
tenth of a window) bounds the way of any pixel sideways, since windows are matched by place.
`displace_px` (0: none, as in the paper) lets the two views begin whole windows apart, so that a
window's place in its view no longer tells its partner. Padding and rows that are not valid enter
nothing.

Watch   contrast starts near ln(2 instances - 1); top1. A network can match windows by their
        position code alone (found for frames of lines, ICDAR 2024): column_offset_max > 0 starts
        the codes of each view elsewhere, and if top1 nears 1 within a few hundred steps without it,
        that has happened. q_std: healthy about 1 / sqrt(projector_dim).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import views
from dig_jax.methods.shared import base, contrast, two_views
from dig_jax.models import encoders, heads, vit
from dig_jax.models.layers import Dense

PROJECTIONS = ("none", "mlp", "bilstm")


class Projector(nn.Module):
    """g: frames f32[R,S,D] of lines with lengths i32[R] -> f32[R,S,features], features = D for kind
    "none".
    """

    kind: str
    hidden: int
    features: int
    dtype: str

    @nn.compact
    def __call__(self, frames, lengths):
        if self.kind == "mlp":
            mlp = heads.Mlp(
                (self.hidden, self.features),
                self.dtype,
                hidden_norm=None,
                last_norm=None,
                name="mlp",
            )
            return mlp(frames)
        if self.kind == "bilstm":
            frames = heads.BiLstm(self.hidden, dtype=self.dtype, name="lstm")(frames, lengths)
            return Dense(self.features, dtype=self.dtype, name="dense")(frames)
        return frames


class Network(nn.Module):
    """Augmented batch -> instances z f32[B,V,S,K] and which are real, bool[B,V,S]."""

    encoder: nn.Module
    projector: Projector
    window_px: int | None

    def __call__(self, batch, deterministic=True):
        tokens = two_views.encode(self.encoder, batch, deterministic=deterministic)  # (B, V, N, D)
        height, patch_px = batch["view1"].shape[1], self.encoder.patch[1]
        frames = tokens.reshape(-1, *tokens.shape[2:])
        frames = vit.frames(frames, height // self.encoder.patch[0], "mean")  # (B * V, S, D)
        lengths = vit.columns(batch["width"], patch_px).repeat(tokens.shape[1])
        frames = self.projector(frames, lengths)
        frames = frames.reshape(*tokens.shape[:2], *frames.shape[1:])
        # A frame is the token of a patch as high as the line.
        x, real = contrast.instances(frames, batch, (height, patch_px), self.window_px)
        return aligned(x, real, batch["first"]) if "first" in batch else (x, real)


def aligned(x, real, first):
    """Instances f32[B,2,S,D], real bool[B,2,S] of views that begin at windows i32[B,2] -> the same.

    The second view's windows are moved to the places of the first (`two_views.displaced_crops`).
    What only one of them shows is not real.
    """
    # Where window s of the first view stands in the second.
    place = jnp.arange(x.shape[2])[None] + (first[:, 0] - first[:, 1])[:, None]
    shown = (place >= 0) & (place < x.shape[2])
    place = jnp.where(shown, place, 0)
    moved = jnp.take_along_axis(x[:, 1], place[..., None], axis=1)
    both = real[:, 0] & shown & jnp.take_along_axis(real[:, 1], place, axis=1)
    return jnp.stack([x[:, 0], moved], axis=1), jnp.stack([both, both], axis=1)


class Method(base.Method):
    """SeqCLR.

    encoder: see `encoders.create`. channels: C of the images. window_px: the mapping, see above; a
    multiple of the patch width. projection: one of PROJECTIONS, of projector_width hidden units (a
    direction) and projector_dim outputs. recipe: of both views, a name or a recipe of `views`;
    max_shift_px None = unbounded. column_offset_max: `two_views.column_offsets`. displace_px:
    `two_views.displaced_crops`. loss_chunk: keys at a time in the loss, None = all
    (`losses.nt_xent`). Raises ValueError.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        window_px: int | None = 20,
        projection: str = "none",
        projector_width: int = 512,
        projector_dim: int = 512,
        temperature: float = 0.1,
        recipe: views.Recipe = "seqclr_2",
        max_shift_px: float | None = 2.0,
        column_offset_max: int = 0,
        displace_px: int = 0,
        loss_chunk: int | None = None,
    ):
        if projection not in PROJECTIONS:
            raise ValueError(
                f"projection is {projection!r}; set config.method.projection to one of "
                f"{', '.join(PROJECTIONS)}"
            )
        base.check_counts(projector_width=projector_width, projector_dim=projector_dim)
        self.encoder = encoders.create(encoder)
        self.contrast_loss = functools.partial(
            losses.nt_xent, temperature=temperature, chunk=loss_chunk
        )
        self.augment = two_views.augmenter(
            channels=channels,
            recipes=(recipe, recipe),
            max_shift_px=max_shift_px,
            column_offset_max=column_offset_max,
            displace_px=displace_px,
            window_px=window_px,
        )
        projector = Projector(projection, projector_width, projector_dim, self.encoder.dtype)
        self.network = Network(encoder=self.encoder, projector=projector, window_px=window_px)

    def loss(self, params, state, batch, key, progress):
        """L. Metrics: contrast (L itself); top1, the share of instances whose nearest is their
        partner; q_std, the spread of z.
        """
        z, real = self.apply(params, "__call__", batch, key=key)
        (z1, z2), (valid, _) = contrast.rows(z, real)
        loss, top1 = self.contrast_loss(z1, z2, valid=valid)
        metrics = {"contrast": loss, "top1": top1, "q_std": losses.unit_std(z, real)}
        return loss, base.Aux(metrics, state.mutable)
