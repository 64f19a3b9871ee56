"""MoCo v3: both views ask for each other's key of a momentum teacher, among all keys of the batch.

Paper   Chen, Xie, He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV
        2021, arXiv 2104.02057.

    what                                                      where (algorithm 1)
    two views by two families of augmentations                two_views.augmenter
    f_q: encoder, projector, predictor: q1, q2                contrast.Network
    f_k: moving average of encoder and projector: k1, k2      base.WithTeacher, Method.loss
    ctr(q, k) = 2T * cross-entropy(q k^T / T, own key)        losses.info_nce
    L = ctr(q1, k2) + ctr(q2, k1)                             Method.loss
    f_k <- m f_k + (1 - m) f_q before the keys, m: 0.99 -> 1  base.WithTeacher, base.cosine_momentum
    random patch embedding, never trained (section 4)         a rule of the optimiser

Certain, from the public code (the ViT recipe): projector and predictor as in DiG, which took them
from here, without biases, the last batch norms bare. Batch norms see one view at a time, in the
teacher too, over the global batch. T is 0.2, keys come from all devices, and the encoder keeps its
final norm. Ours: the mean of the tokens where the authors read a class token.

Departures for lines of text: no flips and crops; recipes name the two families. Whole lines by
default, windows of `window_px` as in DiG on request, then matched by place. `max_shift_px` (2 px,
half a column of 4 px) bounds the way of any pixel sideways. Padding and rows that are not valid
enter no mean, norm, negative or gradient.

Contrast after reconstruction, after MIM-Refiner (Alkin et al., ICLR 2025, arXiv 2402.10093): start
from `gen` or `mae` by config.init_from, with a low rate on early blocks (config.optim.layer_decay).
`block` puts the contrast on a block in the middle, where masked models keep what says most. There
it is one contrast a block on the upper third of the blocks, with a queue of nearest neighbours.

The patch embedding is frozen by a rule of the optimiser (configs/pretrain/mocov3.py): it takes
neither gradient, decay nor moments.

Watch   contrast starts near 4T ln(instances), top1 near 1 / instances. Dips of top1 to its start
        are the instability that freezing is meant to cure. q_std: healthy about 1 /
        sqrt(projector_dim), below a sixth of that it collapses: a study of handwritten lines needed
        T 1.0 on synthetic ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from dig_jax import losses
from dig_jax.augment import views
from dig_jax.methods.shared import base, contrast, two_views
from dig_jax.models import encoders, heads


class Method(base.WithTeacher):
    """MoCo v3.

    encoder: see `encoders.create`. channels: C of the images. window_px: `contrast.instances`, None
    = whole lines. block: "last", or the number of the block whose tokens are compared, from 1.
    predictor_width: hidden units of the predictor. recipes: of view 1 and view 2, a
    name or a recipe of `views` or None = the line itself; max_shift_px None = unbounded.
    column_offset_max: `two_views.column_offsets`. loss_chunk: keys at a time in the loss, None =
    all (`losses.info_nce`). Raises ValueError.
    """

    teacher_parts = ("encoder", "projector")  # the predictor belongs to queries only

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        window_px: int | None = None,
        block: str | int = "last",
        temperature: float = 0.2,
        momentum: float = 0.99,
        projector_width: int = 4096,
        projector_dim: int = 256,
        predictor_width: int = 4096,
        recipes: Sequence[views.Recipe] = ("mocov3_1", "mocov3_2"),
        max_shift_px: float | None = 2.0,
        column_offset_max: int = 0,
        loss_chunk: int | None = None,
    ):
        if isinstance(recipes, str) or len(recipes) != 2:
            raise ValueError(
                f"recipes is {recipes!r}; set config.method.recipes to a pair, of view 1 and of "
                "view 2"
            )
        base.check_fractions(momentum=momentum)
        base.check_counts(projector_width=projector_width, projector_dim=projector_dim)
        base.check_counts(predictor_width=predictor_width)
        self.encoder = encoders.create(encoder)
        self.momentum = momentum
        self.contrast_loss = functools.partial(
            losses.info_nce, temperature=temperature, chunk=loss_chunk
        )
        self.augment = two_views.augmenter(
            channels=channels,
            recipes=recipes,
            max_shift_px=max_shift_px,
            column_offset_max=column_offset_max,
        )
        dtype = self.encoder.dtype
        self.network = contrast.Network(
            encoder=self.encoder,
            projector=heads.Mlp((projector_width, projector_width, projector_dim), dtype),
            predictor=heads.Mlp((predictor_width, projector_dim), dtype),
            window_px=window_px,
            by_view=True,
            block=base.checked_block(block, self.encoder),
        )

    def loss(self, params, state, batch, key, progress):
        """L. Metrics: contrast (L itself); top1, the share of queries that find their own key;
        q_std, the spread of unit queries.
        """
        q, _, real = self.apply(params, "__call__", batch, key=key)
        k, _ = self.apply(jax.lax.stop_gradient(state.teacher), "project", batch)
        (q1, q2), (k1, k2), (valid, _) = contrast.rows(q, k, real)
        one, top_one = self.contrast_loss(q1, k2, valid=valid)
        two, top_two = self.contrast_loss(q2, k1, valid=valid)
        figures = {"contrast": one + two, "top1": (top_one + top_two) / 2}
        metrics = figures | {"q_std": losses.unit_std(q, real)}
        return one + two, base.Aux(metrics, state.mutable)
