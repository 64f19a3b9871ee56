"""MoCo v1 and v2: a query finds the key of its other view among the keys of thousands of earlier
lines.

Papers  v1: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR
2020, arXiv 1911.05722.
        v2: Chen et al., "Improved Baselines with Momentum Contrastive Learning", arXiv 2003.04297.

    what                                                        where
    f_q: encoder, mean over the tokens, head; q = f_q(view 1)   contrast.Network
    f_k: their moving average; k = f_k(view 2), no gradient     Method.init_teacher, Method.loss
    theta_k <- m theta_k + (1 - m) theta_q, before the keys     Method.update_teacher
    L = -log exp(q.k / T) / (exp(q.k / T) + sum_queue exp(..))  losses.queue_nce
    enqueue the batch's keys, dequeue the oldest                enqueue

The versions differ in data: head "linear" and T 0.07 (v1), head "mlp" and T 0.2 (v2), and stronger
augmentations.

Certain, from the public code: the loss reads the queue before it is renewed, has no negatives of
its own batch, and goes in one direction only. m is 0.999 throughout. The queue holds 65,536 keys of
128 numbers and starts as unit Gaussian noise. Neither head has a norm, and both have biases.

Ours: a ViT by default and its mean token; AdamW, but in the preset words, which has the authors'
SGD.

No shuffling of keys between devices: it hides which lines shared the statistics of a device's batch
norms. Here nothing has a batch norm (the encoders normalise a token or a line by itself). The norms
of this package are global anyway, so a shuffle would change nothing.

Departures for lines of text: no flips and crops; `max_shift_px` (8 px, about half a letter of a 32
px line) bounds the way of any pixel sideways. `window_px` may cut lines into windows, each a query
and a key of its own (one queue for all, as SeqMoCo's sub-word level). Rows that are not valid and
windows of padding are no query. Where their key would go the queue keeps its old one. So shapes
stay static and the queue holds keys of real lines only (noise until it was filled once).

Watch   contrast starts below ln(1 + queue), since noise is an easy negative, rises while the queue
        fills with keys and then falls for the rest of the training; top1. q_std: healthy about 1 /
        sqrt(projector_dim). It may fall far below that while the queue is noise, from which one
        answer to all lines is as far as any, and must rise again once it holds keys. A queue longer
        than an epoch holds older keys of the same line: false negatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import views
from dig_jax.methods.shared import base, contrast, two_views
from dig_jax.models import encoders, heads

HEADS = ("linear", "mlp")


class Method(base.Method):
    """MoCo v2; v1 with head="linear", temperature=0.07.

    encoder: see `encoders.create`. channels: C of the images. queue: keys that it holds, a multiple
    of the keys of a global batch (its rows times the windows of a row). projector_width: hidden
    units of the "mlp" head. window_px: `contrast.instances`, None = whole lines. recipe: of both
    views, a name or a recipe of `views`; max_shift_px None = unbounded. column_offset_max:
    `two_views.column_offsets`. Raises ValueError.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        head: str = "mlp",
        temperature: float = 0.2,
        queue: int = 65536,
        momentum: float = 0.999,
        projector_width: int = 2048,
        projector_dim: int = 128,
        window_px: int | None = None,
        recipe: views.Recipe = "mocov2",
        max_shift_px: float | None = 8.0,
        column_offset_max: int = 0,
    ):
        if head not in HEADS:
            raise ValueError(
                f"head is {head!r}; set config.method.head to one of {', '.join(HEADS)}"
            )
        base.check_fractions(momentum=momentum)
        base.check_counts(projector_width=projector_width, projector_dim=projector_dim)
        self.encoder = encoders.create(encoder)
        self.temperature, self.momentum = temperature, momentum
        self.queue_shape = (queue, projector_dim)
        self.augment = two_views.augmenter(
            channels=channels,
            recipes=(recipe, recipe),
            max_shift_px=max_shift_px,
            column_offset_max=column_offset_max,
        )
        features = (projector_width, projector_dim) if head == "mlp" else (projector_dim,)
        projector = heads.Mlp(features, self.encoder.dtype, hidden_norm=None, last_norm=None)
        self.network = contrast.Network(
            encoder=self.encoder, projector=projector, window_px=window_px
        )

    def init(self, key, batch):
        """mutable: queue f32[Q,K] of unit rows; place i32[], the row where the next keys go."""
        (_, real), params = self.network.init_with_output(key, batch, method="project")
        keys, queue = real[:, 0].size, self.queue_shape[0]
        if queue < 1 or queue % keys:
            raise ValueError(
                f"queue is {queue} and a batch makes {keys} keys. It must hold whole batches: set "
                f"config.method.queue to a multiple of {keys}, or change config.batch_size"
            )
        noise = losses.unit(jax.random.normal(jax.random.fold_in(key, 1), self.queue_shape))
        return {
            "params": params["params"],
            "mutable": {"queue": noise, "place": jnp.zeros((), jnp.int32)},
        }

    def loss(self, params, state, batch, key, progress):
        """L. Metrics: contrast (L itself), top1 (share of queries nearer to their key than to the
        queue), q_std.
        """
        teacher = jax.lax.stop_gradient(state.teacher)
        queries, keys = two_views.single(batch, 0), two_views.single(batch, 1)
        q, _, real = self.apply(params, "__call__", queries, key=key)
        k, _ = self.apply(teacher, "project", keys)
        (q_rows,), (k_rows,), (valid,) = contrast.rows(q, k, real)
        loss, top1 = losses.queue_nce(
            q_rows, k_rows, state.mutable["queue"], self.temperature, valid
        )
        metrics = {"contrast": loss, "top1": top1, "q_std": losses.unit_std(q, real)}
        return loss, base.Aux(metrics, enqueue(state.mutable, k_rows, valid))

    def init_teacher(self, params):
        return params

    def update_teacher(self, teacher, params, progress):
        return base.move_teacher(teacher, params, self.momentum)


def enqueue(
    mutable: dict[str, jax.Array], keys: jax.Array, valid: jax.Array
) -> dict[str, jax.Array]:
    """{"queue", "place"} after the keys f32[M,K] took, as unit rows, the place of the M oldest; M
    divides the queue.

    Where a key is not valid bool[M] the old one stays.
    """
    queue, place = mutable["queue"], mutable["place"]
    old = jax.lax.dynamic_slice_in_dim(queue, place, len(keys))
    new = jnp.where(valid[:, None], losses.unit(keys), old)
    return {
        "queue": jax.lax.dynamic_update_slice_in_dim(queue, new, place, 0),
        "place": (place + len(keys)) % len(queue),
    }
