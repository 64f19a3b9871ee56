"""SimSiam: a predictor maps each view of a line onto the other; no negatives, no teacher, no queue.

Paper   Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv
        2011.10566.

    what                                                    where
    two views of a line by one family of augmentations      two_views.augmenter
    f: encoder, mean over the tokens, 3-layer projector: z  contrast.Network
    h: predictor with a bottleneck: p = h(z)                contrast.Network
    D(p, z) = -cos(p, stopgrad(z))                          losses.negative_cosine, Method.loss
    L = D(p1, z2) / 2 + D(p2, z1) / 2                       Method.loss

Certain, from the public code: a projector of three equally wide layers without biases, the last
batch norm bare. The predictor is 2048 -> 512 with batch norm and ReLU -> 2048 with a bias and no
norm. Batch norms see one view at a time, over the global batch. Ours: a ViT by default and its mean
token; AdamW in the configs, where the authors use SGD with rate 0.05 per 256 rows and weight decay
1e-4 on everything. Their --fix-pred-lr, the predictor at a constant rate, is a rule of the
optimiser: FIXED in configs/pretrain/simsiam.py.

Departures for lines of text: no flips and crops. `max_shift_px` (8 px, about half a letter of a 32
px line) bounds the way of any pixel sideways. `window_px` may cut lines into windows, matched by
place. Padding and rows that are not valid enter no mean, norm or gradient. We know of no published
result on text.

Watch   q_std, the paper's own test: spread of the unit z, healthy about 1 / sqrt(projector_dim), 0
        when collapsed. cosine, which is -L, starts near 0 and rises; near 1 within some tens of
        steps, with q_std falling, it is collapse. z comes out of a batch norm: q_std stays healthy
        while the features under it shrink to a few directions, so read `collapse/effective_rank`,
        too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from dig_jax import losses
from dig_jax.augment import views
from dig_jax.methods.shared import base, contrast, two_views
from dig_jax.models import encoders, heads


class Method(base.Method):
    """SimSiam.

    encoder: see `encoders.create`. channels: C of the images. predictor_width: the bottleneck, a
    quarter of projector_dim in the paper. window_px: `contrast.instances`, None = whole lines.
    recipe: of both views, a name or a recipe of `views`; max_shift_px None = unbounded.
    column_offset_max: `two_views.column_offsets`. Raises ValueError.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        projector_width: int = 2048,
        projector_dim: int = 2048,
        predictor_width: int = 512,
        window_px: int | None = None,
        recipe: views.Recipe = "mocov2",
        max_shift_px: float | None = 8.0,
        column_offset_max: int = 0,
    ):
        base.check_counts(projector_width=projector_width, projector_dim=projector_dim)
        base.check_counts(predictor_width=predictor_width)
        self.encoder = encoders.create(encoder)
        self.augment = two_views.augmenter(
            channels=channels,
            recipes=(recipe, recipe),
            max_shift_px=max_shift_px,
            column_offset_max=column_offset_max,
        )
        dtype = self.encoder.dtype
        self.network = contrast.Network(
            encoder=self.encoder,
            projector=heads.Mlp((projector_width, projector_width, projector_dim), dtype),
            predictor=heads.Mlp((predictor_width, projector_dim), dtype, last_norm=None),
            window_px=window_px,
            by_view=True,
        )

    def loss(self, params, state, batch, key, progress):
        """L. Metrics: cosine (-L, mean cosine of prediction and target), q_std (spread of z)."""
        p, z, real = self.apply(params, "__call__", batch, key=key)
        (p1, p2), (z1, z2), (valid, _) = contrast.rows(p, jax.lax.stop_gradient(z), real)
        distance = losses.negative_cosine
        loss = distance(p1, z2, valid) / 2 + distance(p2, z1, valid) / 2
        return loss, base.Aux({"cosine": -loss, "q_std": losses.unit_std(z, real)}, state.mutable)
