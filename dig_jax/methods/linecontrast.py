"""Masked contrast within a line: find the hidden column again among the other hidden ones.

Paper   Baevski et al., "wav2vec 2.0", NeurIPS 2020, arXiv 2006.11477, equation 3. For lines of
        text: Vogler et al., "Lacuna Reconstruction", 2022, arXiv 2112.08692; kraken pre-trains so.

    what                                                       where
    hide runs of columns of a line                             masks.random_mask
    c_t: what the encoder makes of hidden column t             Network.context
    q_t: what the pixels of column t themselves become         Network.target
    L = -log exp(sim(c_t, q_t) / T) / sum_s exp(sim(c_t, q_s) / T)    losses.line_contrast
        s runs over the hidden columns of the same line        the mask

Certain, from the papers: hidden runs in place of single frames; distractors are other hidden places
of the same sequence; sim is the cosine, T 0.1. Gradients flow into both sides. Ours: all hidden
columns of the line are distractors (there 100 drawn ones), no quantisation.

A target must see its own neighbourhood only. If it knew the whole line, both sides could agree on
the number of the column, and no letter would have to be read. So q_t is a small network over the
pixels of column t and `reach` columns on either side, and knows no place. The same letter twice in
a line is a false distractor, as the same sound is in speech.

Watch   contrast starts near ln(hidden columns of a line), top1 near one over them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from dig_jax import losses
from dig_jax.augment import masks
from dig_jax.methods.shared import base, pixels, two_views
from dig_jax.models import encoders, heads, vit


class Network(nn.Module):
    """Encoder with a linear map of its frames, and the targets of hidden columns."""

    encoder: Any
    dim: int
    hidden: int
    reach: int

    def setup(self):
        plain = {"dtype": self.encoder.dtype, "hidden_norm": None, "last_norm": None}
        self.context_head = heads.Mlp((self.dim,), **plain)
        self.target_head = heads.Mlp((self.hidden, self.dim), **plain)

    def __call__(self, batch, deterministic=True):
        return self.context(batch, deterministic), self.target(batch)

    def context(self, batch, deterministic=True):
        """Augmented batch -> c f32[B,S,K], of each column, hidden ones unseen."""
        tokens = two_views.encode(self.encoder, batch, batch["mask"], deterministic)[:, 0]
        rows = vit.grid(batch["view1"].shape, self.encoder.patch)[0]
        return self.context_head(vit.frames(tokens, rows))

    def target(self, batch):
        """Augmented batch -> q f32[B,S,K], of each column by its own pixels; padding is paper."""
        image, across = batch["view1"], self.encoder.patch[1]
        real = jnp.arange(image.shape[2])[None, :] < batch["width"][:, None]
        image = jnp.where(real[:, None, :, None], image, vit.PAPER)
        columns = rearrange(image, "b h (s w) c -> b s (h w c)", w=across)
        count = columns.shape[1]
        padded = jnp.pad(columns, ((0, 0), (self.reach,) * 2, (0, 0)), constant_values=vit.PAPER)
        near = [padded[:, at : at + count] for at in range(2 * self.reach + 1)]
        return self.target_head(jnp.concatenate(near, -1))


class Method(base.Method):
    """Masked contrast within a line.

    encoder: see `encoders.create`. channels: C of the images. mask_ratio: share of the columns that
    is hidden, in runs of mask_span. dim: K of both sides. hidden: units of the target's network.
    reach: columns on either side that a target sees. column_offset_max: see
    `two_views.column_offsets`. Raises ValueError for values out of range.
    """

    loss_is_mean = True

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        mask_ratio: float = 0.5,
        mask_span: int = 4,
        temperature: float = 0.1,
        dim: int = 128,
        hidden: int = 512,
        reach: int = 1,
        column_offset_max: int = 0,
    ):
        pixels.check("input", mask_ratio, column_offset_max)
        base.check_counts(dim=dim, hidden=hidden)
        if reach < 0:
            raise ValueError(f"reach is {reach}: set config.method.reach to 0 or more")
        if mask_span < 2:
            raise ValueError(
                f"mask_span is {mask_span}, but whole columns must be hidden: set "
                "config.method.mask_span to 2 or more"
            )
        self.encoder = encoders.create(encoder)
        self.channels, self.column_offset_max = channels, column_offset_max
        self.hide = functools.partial(
            masks.random_mask, patch=self.encoder.patch, ratio=mask_ratio, span=mask_span
        )
        self.contrast_loss = functools.partial(losses.line_contrast, temperature=temperature)
        self.network = Network(encoder=self.encoder, dim=dim, hidden=hidden, reach=reach)

    def augment(self, key, batch):
        """See `pixels.masked_view`."""
        layout = self.channels, self.encoder.patch, self.column_offset_max
        return pixels.masked_view(key, batch, self.hide, *layout)

    def loss(self, params, state, batch, key, progress):
        """L over hidden columns of valid rows. Metrics: contrast (L itself); top1, the share of
        columns that find themselves; choices, how many a line has on average."""
        context, target = self.apply(params, "__call__", batch, key=key)
        rows = batch["mask"].shape[1] // context.shape[1]
        hidden = batch["mask"][:, ::rows] & batch["valid"][:, None]  # columns are hidden whole
        loss, top1, count = self.contrast_loss(context, target, hidden)
        choices = jnp.sum(hidden.sum(1) ** 2) / jnp.maximum(hidden.sum(), 1)
        metrics = {"contrast": loss, "top1": top1, "choices": choices}
        return loss, base.Aux(metrics, state.mutable, count)
