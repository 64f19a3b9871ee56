"""Relative position: two windows of a line; on which side of the first does the second lie, and how
far?

Paper   Doersch et al., "Unsupervised Visual Representation Learning by Context Prediction", ICCV
        2015, arXiv 1505.05192.

    what                                                   where
    patch and neighbour, with a gap and jitter             pretext.Layout, pretext.cutter
    both through one network, each by itself, then joined  pretext.Classifier (fc6, fc7)
    cross-entropy over the neighbour's place               pretext.cross_entropy

Certain from the paper: one of the eight neighbours of a 3 x 3 arrangement of 96 px patches. A gap
of about half a patch (48 px) and jitter of up to 7 px each way hide edges and textures that
continue. Late fusion, no shared attention.

Departures, for lines of text
- A line is one row: the neighbour lies 1 .. reach cells to the left or to the right, 2 * reach
  classes. Windows have the full height. As in the paper, the first window is the middle of the
  arrangement whatever the answer is. Every line has room for all the answers (others do not count,
  `used`). So neither place nor padding gives the answer away.
- Jitter pushes to the right only, 0..jitter_px: 14 is the paper's +-7.
- The paper drops colours and shrinks some patches against aberration of the lens. Here every window
  gets an augmentation of its own (`recipe`), which also makes their tones differ.
- Position codes are those of the window's own columns, plus an offset drawn for each window alone
  (column_offset_max).
- The encoder never sees more than window_px at once; it is the recogniser that teaches it long
  lines.
- context_free=false leaves the paper: both windows lie side by side in one image that the encoder
  sees whole, and the line is augmented before it is cut. With gap_px = 0 and reach = 1 the question
  is whether strokes go on across the seam.

Watch   accuracy: chance is 1 / (2 reach). used: well below 1 the lines are too short, take a
        smaller reach or window_px. With gap_px = 0 strokes continue, which can be answered without
        any reading. What is learnt of real lines: docs/results_plain.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dig_jax.augment import views
from dig_jax.methods.shared import base, pretext
from dig_jax.models import encoders


class Method(base.Method):
    """Relative position.

    encoder: see `encoders.create`. channels: C of the images. reach: how many cells away the
    neighbour may lie. window_px, gap_px, jitter_px: `pretext.Layout`. recipe: augmentation of every
    window by itself, a name or a recipe of `views`, or None. tile_width: of the layer that reads
    each window, context_free: see `pretext.Classifier`. projector_width: of the layer that joins
    both windows, 4096 in the paper. Raises ValueError.
    """

    loss_is_mean = True

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        reach: int = 1,
        window_px: int = 32,
        gap_px: int = 16,
        jitter_px: int = 4,
        recipe: views.Recipe = None,
        tile_width: int = 512,
        projector_width: int = 4096,
        context_free: bool = True,
        column_offset_max: int = 0,
    ):
        if reach < 1:
            raise ValueError(f"reach is {reach}; set config.method.reach to 1 or more cells")
        pretext.check_layers(tile_width, projector_width, context_free)
        self.encoder, self.reach = encoders.create(encoder), reach
        layout = pretext.Layout(2 * reach + 1, window_px, gap_px, jitter_px)
        how = {
            "channels": channels,
            "recipe": recipe,
            "column_offset_max": column_offset_max,
            "context_free": context_free,
        }
        self.cut = pretext.cutter(layout=layout, patch_px=self.encoder.patch[1], **how)
        self.network = pretext.Classifier(
            encoder=self.encoder,
            views=2,
            classes=2 * reach,
            hidden=projector_width,
            tile=tile_width,
            context_free=context_free,
        )

    def augment(self, key, batch):
        """view1: the window in the middle; view2: its neighbour; answer i32[B,1]: 0 = reach cells
        to the left, .., 2 * reach
        - 1 = reach cells to the right."""
        answer_key, cut_key = jax.random.split(key)
        answer = jax.random.randint(answer_key, batch["width"].shape, 0, 2 * self.reach)
        middle = jnp.full_like(answer, self.reach)
        neighbour = answer + (answer >= self.reach)  # every cell but the middle one
        cells = jnp.stack([middle, neighbour], axis=1)
        return self.cut(cut_key, batch, cells) | {"answer": answer[:, None]}

    def loss(self, params, state, batch, key, progress):
        """Cross-entropy over the answers. Metrics: accuracy, used (share of lines that count)."""
        logits = self.apply(params, "__call__", batch, key=key)
        loss, metrics = pretext.choice_loss(logits, batch)
        return loss, base.Aux(metrics, state.mutable)
