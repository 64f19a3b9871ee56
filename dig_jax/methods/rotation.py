"""Rotation: by which of a few angles has a line been turned? (RotNet; "TextRotNet" where the images
are words.)

Paper   Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR
        2018, arXiv 1803.07728. On words: Baek et al., "What If We Only Use Real Datasets for Scene
        Text Recognition? Toward Scene Text Recognition With Fewer Labels", CVPR 2021, arXiv
        2103.04400, option `--self RotNet` of their code.

    what                                                           where
    g(X | y), y = 0 .. classes - 1, all copies of a line together  Method.augment
    F: features averaged over the image, a linear classifier       pretext.Classifier, hidden = 0
    -1/K sum_y log F^y(g(X | y)), mean over lines                  pretext.cross_entropy

Certain from public code: all four copies in one batch (128 words -> 512 views), the feature map
averaged and one linear layer, and words turned *before* they are squeezed to 32 x 100. Ours: a ViT
unless the config asks for a CNN like theirs (size=crnn). The mean is over real tokens.

Departures, for lines of text
- classes=2 asks for 0 or 180 degrees only. A half turn turns the real part of a line; padding stays
  at its right.
- A line turned by 90 degrees is as high as it was wide. Two ways to fit it in: square_cells=False,
  the official: turn the whole line and squeeze it back (bilinear here, without the low pass of
  PIL). square_cells=True: cut the line into cells about as wide as high and turn each in its place,
  so that letters keep their size. The last pixels are shared out over all cells, so a line of any
  width has whole cells.
- 270 degrees is the half turn of 90.

Watch   accuracy: chance is 1 / classes. With four classes 0.5 says nothing: 90 and 270 against 0
        and 180 is nearly free (squeezed letters, or the seams of the cells, or mere resampling), so
        only what lies above 0.5 was learnt from letters. 0 against 180 and 90 against 270 have no
        such cue, since a half turn moves whole pixels: that part is informative, and classes=2 is
        it alone, at half the cost. What always lies on one side (a ruled line, the shadow of the
        fold, uneven margins of a crop) tells as well as letters do. Near 1 soon, the task is used
        up: on printed lines classes=2 passed 0.9 within 60 steps of 16 lines, so a long run teaches
        little more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from dig_jax.augment import geometry, resample
from dig_jax.methods.shared import base, pretext, two_views
from dig_jax.models import encoders


class Method(base.Method):
    """Rotation.

    encoder: see `encoders.create`. channels: C of the images. classes: 4 (0, 90, 180, 270 degrees)
    or 2 (0, 180); B lines cost classes * B rows. square_cells: how quarter turns fit in, see the
    module. Raises ValueError.
    """

    loss_is_mean = True

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        classes: int = 4,
        square_cells: bool = False,
        column_offset_max: int = 0,
    ):
        if classes not in (2, 4):
            raise ValueError(
                f"classes is {classes}; set config.method.classes to 2 (0, 180) or 4 (0, 90, 180, "
                "270)"
            )
        base.check_column_offset(column_offset_max)
        self.encoder, self.channels = encoders.create(encoder), channels
        self.classes, self.square_cells, self.column_offset_max = (
            classes,
            square_cells,
            column_offset_max,
        )
        self.network = pretext.Classifier(
            encoder=self.encoder, views=classes, classes=classes, hidden=0
        )

    def augment(self, key, batch):
        """view1 .. view4 (view2): the line turned by 0, 90, 180, 270 (0, 180) degrees; answer
        i32[B,classes] = 0, 1, ..
        """
        base.check_channels(batch["image"], self.channels)
        line, width = base.normalise(batch["image"]), batch["width"]
        upright = (
            [line] if self.classes == 2 else [line, quarter_turn(line, width, self.square_cells)]
        )
        copies = upright + [half_turn(x, width) for x in upright]
        answer = jnp.broadcast_to(jnp.arange(self.classes)[None], (len(line), self.classes))
        out = {f"view{i + 1}": x for i, x in enumerate(copies)} | {
            "width": width,
            "valid": batch["valid"],
            "answer": answer,
        }
        return out | two_views.column_offsets(key, len(line), self.classes, self.column_offset_max)

    def loss(self, params, state, batch, key, progress):
        """Cross-entropy over the answers. Metrics: accuracy, used (share of lines that count)."""
        logits = self.apply(params, "__call__", batch, key=key)
        loss, metrics = pretext.choice_loss(logits, batch)
        return loss, base.Aux(metrics, state.mutable)


def half_turn(image, width):
    """The real part of f32[B,H,W,C] by 180 degrees in its place; padding as it is. No pixel is
    resampled.
    """
    x = jnp.arange(image.shape[2])[None]
    source = jnp.where(x < width[:, None], width[:, None] - 1 - x, x)
    turned = jnp.take_along_axis(image[:, ::-1], source[:, None, :, None], axis=2)
    return jnp.where(geometry.inside(width, image.shape[2])[:, None, :, None], turned, image)


def quarter_turn(image, width, square_cells):
    """The real part of f32[B,H,W,C] by 90 degrees clockwise, in square cells or as a whole squeezed
    back to its own shape. Padding stays as it is. A cell as wide as high keeps its pixels; others
    are resampled."""
    batch, height, canvas_px, _ = image.shape
    x, y = geometry.pixel_grid(batch, height, canvas_px)
    wide = width.astype(jnp.float32)[:, None, None]
    count = jnp.maximum(jnp.round(wide / height), 1.0) if square_cells else jnp.ones_like(wide)
    cell_px = wide / count
    cell = jnp.clip(jnp.floor((x + 0.5) / cell_px), 0.0, count - 1.0)
    across, down = (x + 0.5) / cell_px - cell, (y + 0.5) / height  # in [0, 1] of the cell
    # What was left is above now, and what was at the bottom is left.
    source_x, source_y = (cell + down) * cell_px - 0.5, (1.0 - across) * height - 0.5
    source_x = jnp.clip(
        source_x, cell * cell_px, (cell + 1.0) * cell_px - 1.0
    )  # no cell borrows from its neighbour
    source_y = jnp.clip(source_y, 0.0, height - 1.0)
    turned = resample.bilinear(jnp.transpose(image, (0, 3, 1, 2)), source_x, source_y)
    return jnp.where(
        geometry.inside(width, canvas_px)[:, None, :, None],
        jnp.transpose(turned, (0, 2, 3, 1)),
        image,
    )
