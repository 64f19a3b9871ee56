"""iBOT: hidden tokens say what a teacher makes of them, and windows of two views say the same.

Paper   Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", ICLR 2022, arXiv
        2111.07832, on the losses of DINO (Caron et al., ICCV 2021, arXiv 2104.14294).

    what                                                          where
    two views u, v, both masked for the student, whole for the    Method.augment
        teacher, which is the online tokenizer
    one head for tokens and for the sequence (a window here)      heads.Prototypes
    L_MIM: hidden token of a view, teacher's answer at the same   losses.distillation (eq. 2)
        place of the same view
    L_[CLS]: window of one view, teacher's of the other           losses.distillation (eq. 1, 3)
    each the mean of both views; L = L_[CLS] + L_MIM              Method.loss
    softmax((t - c) / Tt) against log softmax(s / Ts)             losses.distillation
    c <- 0.9 c + 0.1 mean of t, one centre of each kind           contrast.moved_center
    xi <- m xi + (1 - m) theta, m: 0.996 -> 1                     base.WithTeacher

Certain, from the public code: 8192 prototypes, Ts 0.1, Tt 0.04 for the sequence; 0.3 of the patches
are hidden. The centre of tokens is that of all of them, hidden or not. The teacher's token
temperature rises from 0.04 to 0.07 in the first epochs; here it stays at `token_temperature`.
Prototypes are frozen at first, by a rule of the optimiser (configs/pretrain/ibot.py).

Departures for lines of text
- The sequence is a window of `window_px`, the mean of its tokens, as in DiG: no CLS token.
- There half of the images are not masked, and blocks are drawn. Here the share is the same of every
  line, in runs of columns.
- L_MIM is the mean over all hidden tokens of the batch. There it is first a mean of each image.
- No small crops. Colour is the part of `recipe` that moves no pixel beyond `max_shift_px`.

Watch   windows and tokens start near ln(prototypes), lower by up to 250 / projector_dim, since
        both networks are the same then; both may rise while they part. t_std: spread of the centred
        answers about tokens, healthy about 1 / sqrt(prototypes), near 0 they are all alike. A text
        line is mostly paper, so tokens of paper soon share prototypes; that is no collapse.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import masks, views
from dig_jax.methods.shared import base, contrast, pixels, two_views
from dig_jax.models import encoders, heads, vit


class Network(nn.Module):
    """Student and, on its own parameters, teacher."""

    encoder: Any
    projector: nn.Module
    window_px: int | None

    def __call__(self, batch, deterministic=True):
        """Views with their hidden tokens hidden; see `answers`."""
        return self.answers(batch, batch["mask"], deterministic)

    def answers(self, batch, mask=None, deterministic=True):
        """Augmented batch -> answers about tokens f32[B,2,N,K], about windows f32[B,2,S,K], and
        which windows are real, bool[B,2,S]. mask: bool[B,2,N] or None, nothing hidden.
        """
        tokens = two_views.encode(self.encoder, batch, mask, deterministic)
        pooled, real = contrast.instances(tokens, batch, self.encoder.patch, self.window_px)
        return self.projector(tokens), self.projector(pooled), real


class Method(base.WithTeacher):
    """iBOT.

    encoder: see `encoders.create`. channels: C of the images. window_px: `contrast.instances`, None
    = whole lines. mask_*: see `masks.hider`. prototypes: K. learn_length: see `heads.Prototypes`.
    teacher_temperature: for windows, token_temperature: for tokens. weight_*: of L_[CLS] and L_MIM.
    recipe: of both views; max_shift_px None = unbounded. column_offset_max:
    `two_views.column_offsets`. Raises ValueError for values out of range.
    """

    teacher_parts = ("encoder", "projector")

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        window_px: int | None = None,
        mask_ratio: float = 0.3,
        mask_span: int = 1,
        mask_kind: str | None = None,
        mask_unit_px: Sequence[int] | None = None,
        prototypes: int = 8192,
        learn_length: bool = False,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        token_temperature: float = 0.07,
        center_momentum: float = 0.9,
        momentum: float = 0.996,
        weight_windows: float = 1.0,
        weight_tokens: float = 1.0,
        recipe: views.Recipe = "lines_light",
        max_shift_px: float | None = 2.0,
        column_offset_max: int = 0,
        projector_width: int = 2048,
        projector_dim: int = 256,
    ):
        pixels.check("input", mask_ratio, column_offset_max)
        base.check_fractions(momentum=momentum, center_momentum=center_momentum)
        base.check_counts(prototypes=prototypes)
        base.check_counts(projector_width=projector_width, projector_dim=projector_dim)
        self.encoder = encoders.create(encoder)
        self.prototypes, self.momentum = prototypes, momentum
        self.center_momentum = center_momentum
        by = functools.partial(losses.distillation, student_temperature=student_temperature)
        self.windows = functools.partial(by, teacher_temperature=teacher_temperature)
        self.tokens = functools.partial(by, teacher_temperature=token_temperature)
        self.weights = weight_windows, weight_tokens
        self.hide = masks.hider(self.encoder.patch, mask_ratio, mask_span, mask_kind, mask_unit_px)
        self.two = two_views.augmenter(
            channels=channels,
            recipes=(recipe, recipe),
            max_shift_px=max_shift_px,
            column_offset_max=column_offset_max,
        )
        form = {"dtype": self.encoder.dtype, "gelu": getattr(self.encoder, "gelu", "exact")}
        projector = heads.Prototypes(
            prototypes, projector_width, projector_dim, learn_length, **form
        )
        self.network = Network(self.encoder, projector, window_px)

    def init(self, key, batch):
        centers = {name: jnp.zeros(self.prototypes) for name in ("windows", "tokens")}
        return {"params": self.network.init(key, batch)["params"], "mutable": {"center": centers}}

    def augment(self, key, batch):
        """`two_views.augmenter`, and mask bool[B,2,N], each view its own."""
        out, shape = self.two(key, batch), batch["image"].shape
        keys = jax.random.split(jax.random.fold_in(key, 4), 2)
        each = [self.hide(k, out["width"], vit.grid(shape, self.encoder.patch)) for k in keys]
        return out | {"mask": jnp.stack(each, 1)}

    def loss(self, params, state, batch, key, progress):
        """weight_windows * L_[CLS] + weight_tokens * L_MIM. Metrics: windows; tokens; t_std (spread
        of the teacher's centred answers about tokens)."""
        center = state.mutable["center"]
        s_tokens, s_windows, real = self.apply(params, "__call__", batch, key=key)
        answers = self.apply(state.teacher, "answers", batch)
        t_tokens, t_windows, _ = jax.lax.stop_gradient(answers)
        inside = self._inside(batch)
        hidden = batch["mask"] & inside

        (s1, s2), (t1, t2), (valid, _) = contrast.rows(s_windows, t_windows, real)
        across = functools.partial(self.windows, center=center["windows"], valid=valid)
        windows = across(s1, t2) / 2 + across(s2, t1) / 2
        (s1, s2), (t1, t2), (h1, h2) = contrast.rows(s_tokens, t_tokens, hidden)
        within = functools.partial(self.tokens, center=center["tokens"])
        tokens = within(s1, t1, valid=h1) / 2 + within(s2, t2, valid=h2) / 2

        centred = t_tokens - jnp.broadcast_to(center["tokens"], t_tokens.shape)
        metrics = {"windows": windows, "tokens": tokens, "t_std": losses.unit_std(centred, inside)}
        moved = {
            name: contrast.moved_center(center[name], answers, where, self.center_momentum)
            for name, answers, where in (("windows", t_windows, real), ("tokens", t_tokens, inside))
        }
        for_windows, for_tokens = self.weights
        return for_windows * windows + for_tokens * tokens, base.Aux(metrics, {"center": moved})

    def _inside(self, batch):
        """bool[B,2,N]: tokens of real pixels in valid rows, the same of both views."""
        grid = vit.grid(batch["view1"].shape, self.encoder.patch)
        real = vit.token_valid(batch["width"], self.encoder.patch, grid) & batch["valid"][:, None]
        return jnp.stack([real, real], 1)
