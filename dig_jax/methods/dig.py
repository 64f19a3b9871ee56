"""DiG: contrast between windows of two views, and reconstruction of masked patches, through one
encoder.

Paper   Yang et al., "Reading and Writing: Discriminative and Generative Modeling for
        Self-Supervised Text Recognition", ACM MM 2022, arXiv 2207.00193. Where paper and the
        authors' code disagree, the code is followed (loss weights: the authors call the paper's a
        typo, their issue 2). tests/methods/test_dig_golden.py holds us to that code.

    what                                                            where
    theta: encoder, projector, predictor, pixel projector, decoder  Network
    masked original + augmented original, one encoder pass          Network.encode_views
    pool to W windows, project: z                                   Network.instances
    q1, q2 = predictor(z) of student, k1, k2 = z of teacher         Method.loss
    L_con = ctr(q1, k2) + ctr(q2, k1), ctr = 2T InfoNCE             losses.info_nce
    L_mim = mean over masked patches of (decoder(tokens) - x)^2     pixels.masked_loss
    L = 1.0 L_mim + 0.1 L_con                                       Method.loss
    xi <- m xi + (1 - m) theta before the keys, m: 0.99 -> 1        base.WithTeacher

Easily overlooked, and done as the authors do: the augmented view is not masked. Only the contrast
reads the masked view through the pixel projector; the decoder reads the encoder. Batch norms take
the statistics of the current batch, jointly over both views and over all devices, in the teacher
too. Only parameters are averaged. The encoder has no final norm while the contrast is on. Negatives
include the other windows of the same line.

objective="dig" is both halves. "dis" is the contrast alone: no mask and no pixel projector. "gen"
is the reconstruction alone: the encoder keeps its final norm. It has no teacher, no contrastive
head and no second view (the authors' code computes one and drops it).

Left out of the authors' options:

- their other patch heads, which attend to or convolve the tokens before the windows (ours is the
  README's, the mean);
- the warm-up of the contrast's weight (0 steps in the README);
- the reconstruction of the augmented view;
- label smoothing (0 there).

Departures, for lines of text (at 128 px width, full lines and default values each of them is the
identity)
- Windows are `window_px` wide, not W of them, so their count grows with the line; 32 px make 4
  windows of 128 px.
- Masks never lie on padding. Padding enters no attention, window, batch norm or loss; neither do
  rows not valid.
- Augmentation moves text sideways by at most `max_shift_px`, else windows of equal index would show
  different letters. The presets for lines take 2 px, between the views too, since only the second
  one moves. None is the official recipe's freedom.
- Optional: runs of `mask_span` neighbouring columns or blocks instead of single patches
  (`masks.hider`).
- Optional: `decoder_blocks` transformer blocks between encoder and pixel decoder, so that the
  encoder itself need not decode. Mask tokens still go through the encoder.
- Optional: targets normalised per patch and channel (target="normalized").
- Optional: a random first column of the position code, up to `column_offset_max`, so that narrow
  crops train the positions that long lines use. Each view draws its own: a shared one would give
  the pair away.

Watch   q_std: healthy about 1/sqrt(projector_dim), below a sixth of that the windows collapse.
        contrast starts near 4T ln(rows) (two directions) and top1 near 1/rows. pixel, raw target:
        the variance of the pixels is what a constant grey reaches. pixel, normalised target: about
        1 is what predicting nothing reaches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import masks, views
from dig_jax.methods.shared import base, contrast, pixels, two_views
from dig_jax.models import encoders, heads, vit

# The objectives, and what the teacher mirrors in each; the predictor belongs to queries only.
TEACHER_PARTS = {
    "dig": ("encoder", "projector", "pix_projector"),
    "dis": ("encoder", "projector"),
    "gen": (),
}


class Network(nn.Module):
    """Student and, on its own parameters, teacher.

    Works on augmented batches (`Method.augment`). Heads compute in the encoder's dtype.
    """

    encoder: nn.Module
    objective: str
    block: str | int
    window_px: int
    values: int  # of a patch: ph * pw * C
    projector_width: int
    projector_dim: int
    pix_projector_width: int
    decoder_width: int
    decoder_blocks: int

    def setup(self):
        self.patch = tuple(self.encoder.patch)
        width, dtype = self.encoder.width, self.encoder.dtype
        if self.objective != "gen":
            hidden, out = self.projector_width, self.projector_dim
            self.projector = heads.Mlp((hidden, hidden, out), dtype)
            self.predictor = heads.Mlp((hidden, out), dtype)
        if self.objective == "dig":
            hidden = self.pix_projector_width
            self.pix_projector = heads.Mlp((hidden, hidden, width), dtype)
        if self.decoder_blocks:
            self.pix_blocks = vit.blocks_behind(self.encoder, self.decoder_blocks)
        if self.objective != "dis":
            self.pix_decoder = heads.PixelDecoder(
                self.values, self.decoder_width, dtype, getattr(self.encoder, "gelu", "exact")
            )

    def __call__(self, batch):
        """Every part once, for initialisation."""
        tokens = self.encode_views(batch)
        if self.objective != "gen":
            self.predict(*self.instances(tokens, batch))
        if self.objective != "dis":
            self.decode(tokens, batch)

    def encode_views(self, batch, deterministic=True):
        """Masked first view and plain second view -> tokens f32[B,V,N,D], in one pass over B * V
        rows.
        """
        mask = batch.get("mask")
        return two_views.encode(self.encoder, batch, mask, deterministic, self.block)

    def instances(self, tokens, batch):
        """Tokens of two views -> z f32[B,2,S,K] of S windows, and which are real, bool[B,2,S]."""
        if self.objective == "dig":
            real = vit.token_valid(
                batch["width"], self.patch, vit.grid(batch["view1"].shape, self.patch)
            )
            real = real & batch["valid"][:, None]
            tokens = jnp.stack([self.pix_projector(tokens[:, 0], real), tokens[:, 1]], axis=1)
        pooled, real = contrast.instances(tokens, batch, self.patch, self.window_px)
        return self.projector(pooled, real), real

    def predict(self, z, real):
        return self.predictor(z, real)

    def decode(self, tokens, batch):
        """First view's tokens -> patch vectors f32[B,N,P], the units of the target."""
        x = tokens[:, 0]
        if self.decoder_blocks:
            grid = vit.grid(batch["view1"].shape, self.patch)
            x = self.pix_blocks(x, vit.columns(batch["width"], self.patch[1]) * grid[0])
        return self.pix_decoder(x)


class Method(base.WithTeacher):
    """DiG or one of its halves.

    encoder: see `encoders.create` (final_norm follows from the objective unless given). channels: C
    of the images. block: of "dis", see `two_views.encode`. recipe: augmentation of the second view:
    a name or a recipe of `views`.
    max_shift_px None = unbounded. target_floor: normalised targets are divided by sqrt(variance +
    floor^2), in grey of [0, 1]. The official 1e-6 blows the grain of blank paper up to full size.
    Head sizes default to the official ones, which outweigh a small encoder. loss_chunk: keys at a
    time in the contrast, None = all (`losses.info_nce`). Raises ValueError for values out of range.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        objective: str = "dig",
        block: str | int = "last",
        mask_ratio: float = 0.7,
        mask_span: int = 1,
        mask_kind: str | None = None,
        mask_unit_px: Sequence[int] | None = None,
        target: str = "pixel",
        target_floor: float = 1e-6,
        window_px: int = 32,
        temperature: float = 0.2,
        weight_pixel: float = 1.0,
        weight_contrast: float = 0.1,
        momentum: float = 0.99,
        recipe: views.Recipe = "dig",
        max_shift_px: float | None = None,
        column_offset_max: int = 0,
        projector_width: int = 4096,
        projector_dim: int = 256,
        pix_projector_width: int = 512,
        decoder_width: int = 192,
        decoder_blocks: int = 0,
        loss_chunk: int | None = None,
    ):
        if objective not in TEACHER_PARTS:
            raise ValueError(
                f"objective is {objective!r}; set config.method.objective to one of "
                f"{', '.join(TEACHER_PARTS)}"
            )
        if decoder_blocks < 0 or (decoder_blocks and objective == "dis"):
            raise ValueError(
                f"decoder_blocks is {decoder_blocks} with objective {objective!r}: set "
                "config.method.decoder_blocks to 0 or more, and above 0 for 'gen' or 'dig' alone"
            )
        if block != "last" and objective != "dis":
            raise ValueError(
                f"block is {block!r} with objective {objective!r}: only 'dis' compares another "
                "block than the last, so set config.method.block to 'last'"
            )
        pixels.check(target, mask_ratio, column_offset_max, target_floor)
        base.check_fractions(momentum=momentum)
        base.check_counts(projector_width=projector_width, projector_dim=projector_dim)
        base.check_counts(pix_projector_width=pix_projector_width, decoder_width=decoder_width)
        encoder = {"final_norm": objective == "gen", **encoder}
        self.encoder = encoders.create(encoder)
        block = base.checked_block(block, self.encoder)
        self.patch, self.channels = self.encoder.patch, channels
        self.contrasts, self.reconstructs = objective != "gen", objective != "dis"
        self.loss_is_mean = not self.contrasts
        self.hide = masks.hider(self.patch, mask_ratio, mask_span, mask_kind, mask_unit_px)
        self.target, self.target_floor = target, target_floor
        self.teacher_parts, self.momentum = TEACHER_PARTS[objective], momentum
        self.contrast_loss = functools.partial(
            losses.info_nce, temperature=temperature, chunk=loss_chunk
        )
        self.weight_pixel, self.weight_contrast = weight_pixel, weight_contrast
        self.recipe = views.recipe(recipe)
        self.max_shift_px, self.column_offset_max = max_shift_px, column_offset_max
        self.network = Network(
            encoder=self.encoder,
            objective=objective,
            block=block,
            window_px=window_px,
            values=math.prod(self.patch) * channels,
            projector_width=projector_width,
            projector_dim=projector_dim,
            pix_projector_width=pix_projector_width,
            decoder_width=decoder_width,
            decoder_blocks=decoder_blocks,
        )

    # augment

    def augment(self, key, batch):
        """Adds the views, f32[B,H,W,C] in [-1, 1]: view1 the image itself, view2 augmented (not for
        "gen"). Adds mask bool[B,N] of view1 (not for "dis") and, when asked for, column_offset
        i32[B,V]."""
        base.check_channels(batch["image"], self.channels)
        mask_key, view_key, offset_key = jax.random.split(key, 3)
        image = base.normalise(batch["image"])
        out = {"view1": image, "width": batch["width"], "valid": batch["valid"]}
        if self.reconstructs:
            grid = vit.grid(image.shape, self.patch)
            out["mask"] = self.hide(mask_key, batch["width"], grid)
        if self.contrasts:
            out["view2"] = two_views.view(view_key, batch, self.recipe, self.max_shift_px)
        out |= two_views.column_offsets(
            offset_key, len(image), 1 + self.contrasts, self.column_offset_max
        )
        return out

    # loss

    def loss(self, params, state, batch, key, progress):
        """weight_pixel * L_mim + weight_contrast * L_con. Metrics: pixel; contrast (L_con); top1,
        the share of queries that find their own key; q_std, the spread of unit queries.
        """
        tokens = self.apply(params, "encode_views", batch, key=key)
        total, metrics, weight = jnp.zeros(()), {}, None
        if self.reconstructs:
            prediction = self.apply(params, "decode", tokens, batch)
            target = self.patch, self.target, self.target_floor
            metrics["pixel"] = pixels.masked_loss(prediction, batch, *target)
            total += self.weight_pixel * metrics["pixel"]
        if self.contrasts:
            z, real = self.apply(params, "instances", tokens, batch)
            q = self.apply(params, "predict", z, real)
            teacher = jax.lax.stop_gradient(state.teacher)
            k, _ = self.apply(
                teacher, "instances", self.apply(teacher, "encode_views", batch), batch
            )
            (q1, q2), (k1, k2), (valid, _) = contrast.rows(q, k, real)
            one, top_one = self.contrast_loss(q1, k2, valid=valid)
            two, top_two = self.contrast_loss(q2, k1, valid=valid)
            metrics |= {"contrast": one + two, "top1": (top_one + top_two) / 2}
            metrics["q_std"] = losses.unit_std(q, real)
            total += self.weight_contrast * metrics["contrast"]
        else:
            weight = jnp.sum(pixels.loss_weights(batch, self.patch))
        return total, base.Aux(metrics, state.mutable, weight)

    # reconstruct

    def reconstruct(self, params, batch, key):
        """`pixels.pictures`; {} for "dis", which draws nothing."""
        if not self.reconstructs:
            return {}
        batch = self.augment(key, batch)
        batch.pop("view2", None)
        if "column_offset" in batch:
            batch["column_offset"] = batch["column_offset"][:, :1]
        tokens = self.apply(params, "encode_views", batch)
        prediction = self.apply(params, "decode", tokens, batch)
        return pixels.pictures(prediction, batch, self.patch, self.target, self.target_floor)
