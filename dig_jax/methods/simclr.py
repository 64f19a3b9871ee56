"""SimCLR: every line finds its other view among all views of all lines of the batch.

Paper   Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML
        2020, arXiv 2002.05709.

    what                                                       where
    two views of a line by one family of augmentations         two_views.augmenter
    f: encoder, mean over the tokens of the whole line: h      contrast.Network, contrast.instances
    g: projector of dense layers and batch norms, z = g(h)     contrast.Network, heads.Mlp
    l(i, j) = -log exp(s_ij / T) / sum_{k != i} exp(s_ik / T)  losses.nt_xent, s = cosine
    L = mean_i l(a_i, b_i) + mean_i l(b_i, a_i)                Method.loss

Certain, from the public code: L is the *sum* of both views' means (twice equation 1's average).
Gradients flow through both sides and reach every row of the global batch. The projector has three
layers (two in the paper) as wide as h, and 128 outputs. Batch norm stands behind each layer, the
last one with a scale and without a bias. Its statistics are those of the global batch and of both
views together. T is 0.1. Ours: a ViT by default, so h is the mean of its tokens.

Departures for lines of text: no flips and no random resized crops, which would show other letters.
`recipe` replaces them, and `max_shift_px` (8 px, about half a letter of a 32 px line) bounds the
way of any pixel sideways. Padding and rows that are not valid enter no mean, norm, negative or
gradient.

Watch   contrast starts some nats above 2 ln(2 rows - 1), because the cosines of a small batch
        spread widely over T 0.1. top1 should pass 0.9, since a whole line is easy to tell from
        others: a falling contrast then says little about reading. q_std: healthy about 1 /
        sqrt(projector_dim).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from dig_jax import losses
from dig_jax.augment import views
from dig_jax.methods.shared import base, contrast, two_views
from dig_jax.models import encoders, heads


class Method(base.Method):
    """SimCLR on whole lines.

    encoder: see `encoders.create`. channels: C of the images. projector_width None: as wide as the
    encoder. recipe: of both views, a name or a recipe of `views`; max_shift_px None = unbounded.
    column_offset_max: `two_views.column_offsets`. loss_chunk: keys at a time in the loss, None =
    all (`losses.nt_xent`). Raises ValueError.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        temperature: float = 0.1,
        projector_layers: int = 3,
        projector_width: int | None = None,
        projector_dim: int = 128,
        recipe: views.Recipe = "simclr",
        max_shift_px: float | None = 8.0,
        column_offset_max: int = 0,
        loss_chunk: int | None = None,
    ):
        base.check_counts(projector_layers=projector_layers, projector_dim=projector_dim)
        self.encoder = encoders.create(encoder)
        self.contrast_loss = functools.partial(
            losses.nt_xent, temperature=temperature, chunk=loss_chunk
        )
        self.augment = two_views.augmenter(
            channels=channels,
            recipes=(recipe, recipe),
            max_shift_px=max_shift_px,
            column_offset_max=column_offset_max,
        )
        widths = (projector_width or self.encoder.width,) * (projector_layers - 1)
        projector = heads.Mlp((*widths, projector_dim), self.encoder.dtype, last_norm="scale")
        self.network = contrast.Network(encoder=self.encoder, projector=projector)

    def loss(self, params, state, batch, key, progress):
        """L. Metrics: contrast (L itself); top1, the share of instances whose nearest is their
        partner; q_std, the spread of z.
        """
        z, _, real = self.apply(params, "__call__", batch, key=key)
        (z1, z2), (valid, _) = contrast.rows(z, real)
        loss, top1 = self.contrast_loss(z1, z2, valid=valid)
        # The mean over all views is half the sum of the means of view 1 and of view 2, which have
        # as many rows.
        loss = 2.0 * loss
        metrics = {"contrast": loss, "top1": top1, "q_std": losses.unit_std(z, real)}
        return loss, base.Aux(metrics, state.mutable)
