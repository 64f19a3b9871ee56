"""Jigsaw: windows of a line are shuffled; by which permutation?

Paper   Noroozi and Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw
        Puzzles", ECCV 2016, arXiv 1603.09246.

    what                                                         where
    tiles at a random place of their cells                       pretext.Layout, pretext.cutter
    permutation set of large Hamming distance (algorithm 1)      choose_permutations
    context-free network: every tile by itself, features joined  pretext.Classifier
    cross-entropy over the index of the permutation              pretext.cross_entropy

Certain from the paper: tiles are encoded one by one and meet only behind the network, so that it
cannot match edges. Tiles of 64 px lie at random in cells of 75 px, because edges that continue give
the answer away. The average gap is 11 px (gap_px = jitter_px = 11 here). The permutations are
chosen greedily to lie far apart, since those that are alike cannot be told apart.

Departures, for lines of text
- One row of full-height windows in place of 3 x 3 tiles. The row lies anywhere in the line.
- Only lines whose real part has room for the row count (`used`), so padding says nothing.
- The paper standardises every tile, so that tone is no cue. Here every window gets an augmentation
  of its own (`recipe`), so that the encoder still sees the range of values that it will see later.
- Algorithm 1 starts at random and adds what is farthest on average. `choose_permutations` starts at
  the identity and adds what is farthest from its nearest neighbour first, and on average second. So
  it gives the same set on every machine.
- Position codes are those of the window's own columns, plus an offset drawn for each window alone
  (column_offset_max). They do not reveal the place it came from.
- The encoder never sees more than window_px at once; it is the recogniser that teaches it long
  lines.
- context_free=false leaves the paper: the shuffled windows lie side by side in one image that the
  encoder sees whole, and the line is augmented before it is cut. With gap_px = 0 the seams say
  which windows belong together. Jigsaw-ViT (Chen et al., arXiv 2207.11971; its abstract alone was
  read) also shows a ViT all the pieces at once. It has no position codes and hides some pieces.
  Ours keeps the codes, which tell places after shuffling only, and hides nothing.

Watch   accuracy: chance is 1 / permutations. used: well below 1 the lines are too short, take fewer
        or narrower windows. With gap_px = 0 strokes continue from window to window, which can be
        answered without any reading; blank windows (between words) look alike, so 1.0 is out of
        reach. What is learnt of real lines: docs/results_plain.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dig_jax.augment import views
from dig_jax.methods.shared import base, pretext
from dig_jax.models import encoders

MOST_WINDOWS = 9  # 9! = 362,880 permutations are looked through; 10! would take a minute


class Method(base.Method):
    """Jigsaw.

    encoder: see `encoders.create`. channels: C of the images. windows: how many, 2..9;
    permutations: K of them; window_px, gap_px, jitter_px: `pretext.Layout`. recipe: augmentation of
    every window by itself, a name or a recipe of `views`, or None. tile_width: of the layer that
    reads each window, context_free: see `pretext.Classifier`. projector_width: of the layer that
    joins the windows, 4096 in the paper. Raises ValueError.
    """

    loss_is_mean = True

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        windows: int = 4,
        permutations: int = 12,
        window_px: int = 40,
        gap_px: int = 11,
        jitter_px: int = 11,
        recipe: views.Recipe = None,
        tile_width: int = 512,
        projector_width: int = 4096,
        context_free: bool = True,
        column_offset_max: int = 0,
    ):
        if not 2 <= windows <= MOST_WINDOWS:
            raise ValueError(
                f"windows is {windows}; set config.method.windows to 2..{MOST_WINDOWS}"
            )
        if not 2 <= permutations <= math.factorial(windows):
            raise ValueError(
                f"permutations is {permutations} and {windows} windows have "
                f"{math.factorial(windows)}: set config.method.permutations to 2 or more of them"
            )
        pretext.check_layers(tile_width, projector_width, context_free)
        self.encoder = encoders.create(encoder)
        self.permutations = choose_permutations(windows, permutations)
        layout = pretext.Layout(windows, window_px, gap_px, jitter_px)
        how = {
            "channels": channels,
            "recipe": recipe,
            "column_offset_max": column_offset_max,
            "context_free": context_free,
        }
        self.cut = pretext.cutter(layout=layout, patch_px=self.encoder.patch[1], **how)
        self.network = pretext.Classifier(
            encoder=self.encoder,
            views=windows,
            classes=permutations,
            hidden=projector_width,
            tile=tile_width,
            context_free=context_free,
        )

    def augment(self, key, batch):
        """view1 .. viewW: the windows in shuffled order; answer i32[B,1], the index of the
        permutation: window permutations[answer, i] of the line is view i + 1."""
        answer_key, cut_key = jax.random.split(key)
        answer = jax.random.randint(answer_key, batch["width"].shape, 0, len(self.permutations))
        cells = jnp.asarray(self.permutations)[answer]
        return self.cut(cut_key, batch, cells) | {"answer": answer[:, None]}

    def loss(self, params, state, batch, key, progress):
        """Cross-entropy over the answers. Metrics: accuracy, used (share of lines that count)."""
        logits = self.apply(params, "__call__", batch, key=key)
        loss, metrics = pretext.choice_loss(logits, batch)
        return loss, base.Aux(metrics, state.mutable)


def choose_permutations(length: int, count: int) -> np.ndarray:
    """i32[count, length]: permutations of 0 .. length - 1 that differ in many places, the identity
    first.

    Greedy: each next one is farthest (Hamming distance) from the nearest of those chosen. Ties go
    to the farthest on average, then to the first in lexicographic order.
    """
    every = np.array(list(itertools.permutations(range(length))), np.int8)
    chosen, nearest, total = [0], np.full(len(every), length), np.zeros(len(every), np.int64)
    while len(chosen) < count:
        distance = np.sum(every != every[chosen[-1]], axis=1)
        nearest, total = np.minimum(nearest, distance), total + distance
        chosen.append(
            int(np.argmax(nearest * (length * count + 1) + total))
        )  # total <= length * count
    return every[chosen].astype(np.int32)
