"""CCD: self-distillation between the characters of two views, which are found without labels.

Paper   Guan et al., "Self-supervised Character-to-Character Distillation for Text Recognition",
        ICCV 2023, arXiv 2211.00288, on the losses of DINO (Caron et al., ICCV 2021, arXiv
        2104.14294).

    what                                                              where
    view 1: colour; view 2: colour, then an affine map that is known  Method.augment
    foreground: k-means (k = 2) of the grey values                    characters.two_means
    later in training: foreground = what the network segments         Method.loss, `kmeans_frac`
    characters = connected components of the foreground               characters.components
    the characters of view 2 = those of view 1, through the map       characters.follow
    feature of a character = mean of the tokens that it covers        shares, Network.project
    L_dis = 1/2 sum over (student v1, teacher v2), (student v2, teacher v1), losses.distillation
        mean over characters of -softmax((t - c) / 0.04) . log softmax(s / 0.1)
    c <- 0.9 c + 0.1 mean of t                                        contrast.moved_center
    L_seg = cross-entropy of both views' pixels with the k-means foreground, which follows the map
    L = L_dis + L_seg                                                 Method.loss
    xi <- m xi + (1 - m) theta, m: 0.9995 -> 1                        base.WithTeacher

Certain, from the authors' code (TongkunGuan/CCD): all of the above and every default.

- View 2 has geometry in 7 of 10 cases, and else is the bare image.
- Components are 8-connected, of at least 30 px, at most 26.
- The foreground of the student, not the teacher's, serves both; the teacher has no segmentation.
- Prototypes are frozen at first (one of about 98 units of a million images). Here a rule of the
  optimiser does it (configs/pretrain/ccd.py).

Our reading: each pixel of the border has a vote on which class is paper. In theirs each side has
one, and ties fall by the order in which k-means happens to name its clusters. Beyond 26 the
leftmost characters stay (theirs: the first that a scan meets).

Published bugs that are mended here
- Slots: their tensor holds at least four characters a line and always one more than were found,
  zero vectors that enter loss and centre. Here only characters that both views show count, in the
  loss and in the centre.
- Their segmentation loss takes the softmax twice, so that it can never fall below log(1 + 1/e) =
  0.31. Here once.
- Their geometry draws from one generator of a fixed seed for each data set object, the same numbers
  in every worker. Here every line and step has its own.
- Their best checkpoint is chosen on the test sets, and what fails to load is hidden by a bare
  `except`. Here no test split is read in training, and records that cannot be read are counted and
  named (data/error_budget.py).

Departures
- Segmentation reads each final token alone, through two linear layers, instead of convolutions over
  blocks 2, 4 and 6.
- A view follows the map by nearest neighbour and a patch by the share that a character covers
  (theirs: bilinear, and a threshold of 0.1).
- Pixels that come from outside the line belong to no character and no class.
- Colour is the part of our recipes that moves no pixel.
- Position codes are not learned. The teacher moves before the loss instead of after the update.
- The characters of a pair are 0 px apart, but for rounding to whole pixels. Others bound this
  distance by max_shift_px.

Watch   distillation: starts near ln(prototypes), below it by up to 250 / projector_dim, as both
        networks are the same then; it may rise while they part. t_std: spread of the teacher's
        centred answers; healthy about 1 / sqrt(prototypes), near 0 they are all alike (collapse).
        segmentation: from ln 2 = 0.69 to 0.1 or less. characters: of a line, in both views; a jump
        at `kmeans_frac` says that the segmentation was not ready. In joined handwriting a component
        is a word or a part of one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import characters, geometry, resample, views
from dig_jax.methods.shared import base, contrast, two_views
from dig_jax.models import encoders, heads, vit

AFFINE = {
    "scale_x": (0.6, 1.1),
    "scale_y": (0.6, 1.1),
    "degrees": (-10.0, 10.0),
    "shear_x": (-45.0, 45.0),
    "shear_y": (-10.0, 10.0),
    "right": (-0.02, 0.02),
    "down": (-0.02, 0.02),
}


def shares(character, most: int, patch):
    """Weights of the tokens in each character's mean: numbers i32[B,H,W] -> f32[B,most,N], which
    are there bool[B,most].

    Proportional to the pixels of the patch that belong to the character, with the sum 1; zeros for
    one that is not there.
    """
    pixels = vit.patchify(character[..., None], patch)  # (B, N, P)
    covered = jnp.sum(
        pixels[:, None] == jnp.arange(most)[None, :, None, None], axis=3
    )  # (B, most, N)
    total = jnp.sum(covered, axis=2)
    return covered / jnp.maximum(total, 1)[..., None], total > 0


class Network(nn.Module):
    """Student and, on its own parameters, teacher (without the segmentation)."""

    encoder: vit.Vit
    prototypes: int
    learn_length: bool
    projector_width: int
    projector_dim: int
    decoder_width: int

    def setup(self):
        self.patch = tuple(self.encoder.patch)
        form = {"dtype": self.encoder.dtype, "gelu": self.encoder.gelu}
        self.projector = heads.Prototypes(
            self.prototypes, self.projector_width, self.projector_dim, self.learn_length, **form
        )
        self.segmenter = heads.PixelDecoder(2 * math.prod(self.patch), self.decoder_width, **form)

    def __call__(self, batch):
        """Every part once, for initialisation."""
        tokens = self.encode_views(batch)
        self.project(tokens, jnp.ones((*tokens.shape[:2], 1, tokens.shape[2])))
        self.segment(tokens, vit.grid(batch["view1"].shape, self.patch))

    def encode_views(self, batch, deterministic=True):
        """Two views -> tokens f32[B,2,N,D]."""
        return two_views.encode(self.encoder, batch, None, deterministic)

    def project(self, tokens, weight):
        """Tokens f32[B,2,N,D], weights of `shares` f32[B,2,S,N] -> answers of S characters
        f32[B,2,S,prototypes].
        """
        return self.projector(jnp.einsum("bvsn,bvnd->bvsd", weight, tokens, precision="highest"))

    def segment(self, tokens, grid):
        """Tokens f32[B,2,N,D] -> logits of (paper, foreground) f32[B,2,H,W,2]."""
        logits = self.segmenter(tokens)
        image = vit.unpatchify(logits.reshape(-1, *logits.shape[2:]), self.patch, grid)
        return image.reshape(*tokens.shape[:2], *image.shape[1:])


class Method(base.WithTeacher):
    """CCD.

    encoder: keyword arguments of `vit.Vit`. channels: C of the images. recipe: a name or recipe of
    `views`, of which the operators that move pixels are left out. affine: {amount: (lowest,
    highest)} of view 2's map, see `geometry.AFFINE`; None: the authors'. affine_p: share of lines
    whose view 2 is augmented; the others' is the bare image. characters: most of a line;
    min_area_px: pixels of the smallest. prototypes: size of the DINO head's answer; learn_length:
    see `heads.Prototypes`. kmeans_frac: share of training that trusts k-means before the learned
    segmentation. Raises
    ValueError for values out of range.
    """

    teacher_parts = ("encoder", "projector")

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        characters: int = 26,
        min_area_px: int = 30,
        kmeans_frac: float = 0.3,
        recipe: views.Recipe = "dig",
        affine: Mapping[str, Any] | None = None,
        affine_p: float = 0.7,
        prototypes: int = 65536,
        learn_length: bool = True,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        center_momentum: float = 0.9,
        momentum: float = 0.9995,
        weight_distillation: float = 1.0,
        weight_segmentation: float = 1.0,
        column_offset_max: int = 0,
        projector_width: int = 2048,
        projector_dim: int = 256,
        decoder_width: int = 128,
    ):
        base.check_fractions(kmeans_frac=kmeans_frac, affine_p=affine_p)
        base.check_fractions(momentum=momentum, center_momentum=center_momentum)
        base.check_column_offset(column_offset_max)
        base.check_counts(characters=characters, min_area_px=min_area_px, prototypes=prototypes)
        base.check_counts(projector_width=projector_width, projector_dim=projector_dim)
        base.check_counts(decoder_width=decoder_width)
        self.affine = AFFINE if affine is None else affine
        geometry.check_affine(self.affine)
        self.encoder = encoders.create_vit(encoder)
        self.patch, self.channels, self.recipe = (
            tuple(encoder["patch"]),
            channels,
            views.without_motion(views.recipe(recipe)),
        )
        self.characters, self.min_area_px, self.affine_p = characters, min_area_px, affine_p
        self.kmeans_frac, self.prototypes = kmeans_frac, prototypes
        self.temperatures = {
            "student_temperature": student_temperature,
            "teacher_temperature": teacher_temperature,
        }
        self.center_momentum, self.momentum = center_momentum, momentum
        self.weight_distillation, self.weight_segmentation = (
            weight_distillation,
            weight_segmentation,
        )
        self.column_offset_max = column_offset_max
        self.network = Network(
            self.encoder, prototypes, learn_length, projector_width, projector_dim, decoder_width
        )

    def init(self, key, batch):
        return {
            "params": self.network.init(key, batch)["params"],
            "mutable": {"center": jnp.zeros(self.prototypes)},
        }

    # augment

    def augment(self, key, batch):
        """Adds the views and what CCD needs to follow characters between them.

        view1, view2   colour; colour and map: f32[B,H,W,C] in [-1, 1]
        matrix         f32[B,3,3], the map
        foreground     bool[B,H,W] of view 1 by k-means, False on padding
        column_offset  i32[B,2], when asked for
        """
        image, width = batch["image"], batch["width"]
        base.check_channels(image, self.channels)
        first_key, second_key, map_key, chance_key, offset_key = jax.random.split(key, 5)
        moved = jax.random.bernoulli(chance_key, self.affine_p, width.shape)[:, None, None]
        matrix = geometry.random_affine(map_key, image.shape[1], width, self.affine)
        matrix = jnp.where(moved, matrix, geometry.identity(len(width)))
        plain, view = base.normalise(image), two_views.view(second_key, batch, self.recipe, None)
        places = geometry.apply_matrix(matrix, *geometry.pixel_grid(*image.shape[:3]))
        planes = resample.bilinear(
            jnp.moveaxis(view, 3, 1), *geometry.limit_shift(*places, width, None)
        )
        changed = (moved & geometry.inside(width, image.shape[2])[:, None])[..., None]
        return {
            "view1": two_views.view(first_key, batch, self.recipe, None),
            "view2": jnp.where(changed, jnp.moveaxis(planes, 1, 3), plain),
            "matrix": matrix,
            "foreground": characters.two_means(plain * 0.5 + 0.5, width),
            "width": width,
            "valid": batch["valid"],
        } | two_views.column_offsets(offset_key, len(width), 2, self.column_offset_max)

    # loss

    def loss(self, params, state, batch, key, progress):
        """weight_distillation * L_dis + weight_segmentation * L_seg. Metrics: distillation;
        segmentation; characters (of a line, shown by both views); t_std (spread of the teacher's
        centred answers)."""
        teacher, center = jax.lax.stop_gradient((state.teacher, state.mutable["center"]))
        grid = vit.grid(batch["view1"].shape, self.patch)
        tokens = self.apply(params, "encode_views", batch, key=key)
        logits = self.apply(params, "segment", tokens, grid)
        segmentation = self._segmentation(logits, batch)

        learned = logits[:, 0, ..., 1] > logits[:, 0, ..., 0]
        foreground = jnp.where(progress < self.kmeans_frac, batch["foreground"], learned)
        weight, valid = self._characters(foreground, batch)
        ours = self.apply(params, "project", tokens, weight)
        theirs = self.apply(teacher, "encode_views", batch)
        theirs = self.apply(teacher, "project", theirs, weight)
        (s1, s2), (t1, t2), (both, _) = contrast.rows(ours, theirs, valid)
        match = functools.partial(
            losses.distillation, center=center, valid=both, **self.temperatures
        )
        distillation = match(s1, t2) / 2 + match(s2, t1) / 2

        metrics = {
            "distillation": distillation,
            "segmentation": segmentation,
            "characters": jnp.sum(valid[:, 0]) / jnp.maximum(jnp.sum(batch["valid"]), 1),
            "t_std": losses.unit_std(theirs - jnp.broadcast_to(center, theirs.shape), valid),
        }
        total = self.weight_distillation * distillation + self.weight_segmentation * segmentation
        moved = contrast.moved_center(center, theirs, valid, self.center_momentum)
        return total, base.Aux(metrics, {"center": moved})

    def _characters(self, foreground, batch):
        """Weights of the characters of both views f32[B,2,S,N], and which both show, bool[B,2,S]
        (the same for both).
        """
        real = (
            geometry.inside(batch["width"], foreground.shape[2])[:, None]
            & batch["valid"][:, None, None]
        )
        first = characters.find(foreground & real, self.characters, self.min_area_px)
        second = characters.follow(first, batch["matrix"], batch["width"], self.characters)
        weights, found = zip(
            *(shares(view, self.characters, self.patch) for view in (first, second))
        )
        return jnp.stack(weights, 1), jnp.stack([found[0] & found[1]] * 2, 1)

    def _segmentation(self, logits, batch):
        """Mean over the real pixels of both views of -log softmax(logits f32[B,2,H,W,2]) of their
        k-means class.
        """
        real = (
            geometry.inside(batch["width"], batch["view1"].shape[2])[:, None]
            & batch["valid"][:, None, None]
        )
        pair = jnp.stack(
            [batch["foreground"], jnp.broadcast_to(real, batch["foreground"].shape)], 1
        )  # (B, 2, H, W)
        moved = jax.vmap(
            lambda x: characters.follow(x, batch["matrix"], batch["width"], False), 1, 1
        )(pair)
        wanted, real = jnp.moveaxis(jnp.stack([pair, moved], 1), 2, 0)
        chances = jax.nn.log_softmax(logits)
        picked = jnp.where(wanted, chances[..., 1], chances[..., 0])
        return -jnp.sum(picked, where=real) / jnp.maximum(jnp.sum(real), 1)

    def reconstruct(self, params, batch, key):
        """Pictures of the segmentation, f32[B,H,W,C] in [0, 1]; foreground is white. "masked" is
        the foreground of k-means, "output" the network's probability of foreground, "original" view
        1 as it is."""
        batch = self.augment(key, batch)
        tokens = self.apply(params, "encode_views", batch)
        grid = vit.grid(batch["view1"].shape, self.patch)
        logits = self.apply(params, "segment", tokens, grid)
        original = batch["view1"] * 0.5 + 0.5
        paint = lambda grey: jnp.broadcast_to(grey[..., None].astype(jnp.float32), original.shape)
        chance = (
            jax.nn.softmax(logits[:, 0])[..., 1]
            * geometry.inside(batch["width"], original.shape[2])[:, None]
        )
        return {"masked": paint(batch["foreground"]), "output": paint(chance), "original": original}
