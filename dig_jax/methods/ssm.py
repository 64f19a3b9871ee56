"""SSM: a line and its mirror image, laid on top of each other, are taken apart again.

Paper   Gao et al., "Self-Supervised Pre-training with Symmetric Superimposition Modeling for Scene
        Text Recognition", IJCAI 2024, arXiv 2405.05841.

    what                                                             where
    g: flip left-right (1), top-bottom (2) or half a turn (3)        geometry.flip
    X = 0.5 (I + g(I)), what the student sees; nothing is masked     Method.augment
    z = encoder(X); decoder(z, 0) is I, decoder(z, g) is g(I)        Network.features, .paint
    L_pix = mean (decoder(z, 0) - I)^2 + mean (decoder(z, g) - g(I))^2, of pixels
                                                                     pixels.masked_loss
    teacher: X' = 0.5 (A(I) + A(g(I))), one affine map A for both    geometry.random_affine
    L_feat = ctr(q_0, k_0) + ctr(q_g, k_g) over windows of decoder features, ctr = 2T InfoNCE
                                                                     losses.info_nce
    L = L_pix + w L_feat, w = 0 for the first half, then up to 0.25  Method.loss, ._weight
    xi <- m xi + (1 - m) theta, m: 0.995 -> 1                        base.WithTeacher

Certain, from the authors' code (FaltingsA/SSM): all of the above, the decoder and the defaults. The
decoder is a linear map, 2-D positions, a direction token of the table times sqrt(width) in front, 4
blocks and a layer norm. The token is then dropped. Heads are DiG's, applied to one direction at a
time. Our reading: w rises evenly (theirs in ten steps, from 0.025 to 0.25).

Published bugs that are mended here
- The shear of the teacher's affine map is the tuple (-25, -25, -10, 10), so that it slants by
  exactly -25 degrees, always. Here shear_x is a pair, (-25, 25), and anything but a pair is
  refused.
- Before each affine map their generator is seeded with the line's place in the batch. So line i of
  every batch gets the same map, in the whole training, and the worker's other random numbers
  repeat. Here I and g(I) share one draw, of this step.
- `loss` is used before it is set, so that the released code cannot run. Here L starts from L_pix.
- Settings that nothing reads (`neg_weight`, `clip_grad`, `beta2`). Here a key that nothing reads is
  an error.
- The blocks of the teacher's decoder move twice a step, momentum m^2; its direction table starts
  from other random numbers than the student's. Here every part moves once, and starts as a copy.

Departures, for lines of text (at 128 px width and default values the first three are the identity)
- Mirrored is the real part of a line; padding stays where it is, and enters no attention, window,
  batch norm or loss.
- Windows are `window_px` wide, not 4 of them. Their pixels move sideways by at most `max_shift_px`,
  None = unbounded. The presets for lines take 4 px, between student and teacher too, since only the
  teacher's picture moves.
- Optional: normalised targets; a random first column of the encoder's position code, up to
  `column_offset_max`.
- Batch norm takes its statistics over all devices (theirs over one).
- The teacher's map is sampled bilinearly and repeats the edge, and both its shears are one slant.
  sampling="nearest" is theirs, in the preset words: the nearest pixel, black beyond the edge, one
  shear after the other. Their shift down is a whole number of pixels, here any.

Watch   pixel: the sum of both directions. Twice the variance of the pixels is what a constant grey
        reaches, half the mean square of I - g(I) what X itself would. contrast starts near 4T
        ln(rows), top1 near 1/rows; both move before w does only as the features move. q_std:
        healthy about 1/sqrt(projector_dim).
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
from dig_jax.augment import color, geometry, resample
from dig_jax.methods.shared import base, contrast, pixels, two_views
from dig_jax.models import encoders, heads, layers, transformer, vit

DIRECTIONS = 4  # as it is, flipped left-right, flipped top-bottom, turned by 180 degrees
AFFINE = {
    "degrees": (-10.0, 10.0),
    "shear_x": (-25.0, 25.0),
    "shear_y": (-10.0, 10.0),
    "down": (-0.1, 0.1),
}


def _bilinear(planes, x, y, width):
    """planes f32[B,C,H,W] at (x, y) f32[B,H,W]; beyond the line its edge goes on."""
    return resample.bilinear(planes, *geometry.limit_shift(x, y, width, None))


def _nearest(planes, x, y, width):
    """The same from the nearest pixel; beyond the line it is black."""
    plane = lambda values: resample.nearest(values, x, y, width, 0.0)
    return jax.vmap(plane, in_axes=1, out_axes=1)(planes)


SAMPLING = {"bilinear": _bilinear, "nearest": _nearest}


class Decoder(nn.Module):
    """Tokens of a superimposed line f32[R,N,D], seen in one direction i32[R] -> features
    f32[R,N,width]; padding is 0.
    """

    width: int
    depth: int
    heads: int
    patch: tuple[int, int]
    form: Mapping[str, Any]  # `Vit.form`

    @nn.compact
    def __call__(self, tokens, direction, width_px, grid):
        table = self.param(
            "directions", nn.initializers.normal(1.0), (DIRECTIONS, self.width), jnp.float32
        )
        x = layers.Dense(self.width, dtype=self.form["dtype"], name="embed")(tokens)
        x = x + jnp.broadcast_to(vit.position_codes("sincos_2d", grid, self.width), x.shape)
        x = jnp.concatenate([math.sqrt(self.width) * table[direction][:, None], x], axis=1)
        real = vit.token_valid(width_px, self.patch, grid)
        x = transformer.blocks(
            x,
            1 + real.sum(1),
            depth=self.depth,
            heads=self.heads,
            hidden=4 * self.width,
            deterministic=True,
            **self.form,
        )
        return jnp.where(real[..., None], layers.LayerNorm(name="norm")(x)[:, 1:], 0.0)


class Network(nn.Module):
    """Student and, on its own parameters, teacher (without painter and predictor)."""

    encoder: vit.Vit
    values: int  # of a patch: ph * pw * C
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    window_px: int
    projector_width: int
    projector_dim: int

    def setup(self):
        self.patch = tuple(self.encoder.patch)
        form = self.encoder.form(self.decoder_width // self.decoder_heads)
        self.decoder = Decoder(
            self.decoder_width, self.decoder_depth, self.decoder_heads, self.patch, form
        )
        self.painter = layers.Dense(self.values, dtype=form["dtype"])
        hidden, out = self.projector_width, self.projector_dim
        self.projector = heads.Mlp((hidden, hidden, out), form["dtype"])
        self.predictor = heads.Mlp((hidden, out), form["dtype"])

    def __call__(self, batch):
        """Every part once, for initialisation."""
        features = self.features(batch, "mixed")
        self.paint(features)
        self.predict(*self.project(features, batch))

    def features(self, batch, name, deterministic=True):
        """What the decoder makes of batch[name], the student's "mixed" or the teacher's "moved",
        f32[B,2,N,K]: seen as it is and seen in the line's direction."""
        image = batch[name]
        offset = (
            batch["column_offset"][:, ("mixed", "moved").index(name)]
            if "column_offset" in batch
            else None
        )
        tokens = self.encoder(image, batch["width"], None, offset, deterministic=deterministic)
        direction = jnp.stack([jnp.zeros_like(batch["direction"]), batch["direction"]], 1).reshape(
            -1
        )
        twice = two_views.interleave([tokens, tokens])
        x = self.decoder(
            twice, direction, jnp.repeat(batch["width"], 2), vit.grid(image.shape, self.patch)
        )
        return x.reshape(-1, 2, *x.shape[1:])

    def paint(self, features):
        """Features -> patch vectors f32[B,2,N,P], the units of the target."""
        return self.painter(features)

    def project(self, features, batch):
        """Features of two directions -> z f32[B,2,S,K] of S windows, and which are real,
        bool[B,2,S].
        """
        pooled, real = contrast.instances(features, batch, self.patch, self.window_px)
        return contrast.by_view(self.projector, pooled, real), real

    def predict(self, z, real):
        return contrast.by_view(self.predictor, z, real)


class Method(base.WithTeacher):
    """SSM.

    encoder: keyword arguments of `vit.Vit`. channels: C of the images. affine: {amount: (lowest,
    highest)} of the teacher's map, see `geometry.AFFINE`; None: the authors', mended. sampling: of
    that map, "bilinear" or, as the authors', "nearest". grayscale_p: share of the teacher's lines
    that lose their colour. contrast_from: share of training before the
    contrast counts; weight_contrast: what its weight has risen to at the end. target, target_floor:
    see `pixels.pixel_target`. loss_chunk: keys at a time in the contrast, None = all. Raises
    ValueError for values out of range.
    """

    teacher_parts = ("encoder", "decoder", "projector")

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        target: str = "pixel",
        target_floor: float = 1e-6,
        affine: Mapping[str, Any] | None = None,
        sampling: str = "bilinear",
        max_shift_px: float | None = None,
        grayscale_p: float = 0.2,
        window_px: int = 32,
        temperature: float = 0.2,
        weight_contrast: float = 0.25,
        contrast_from: float = 0.5,
        momentum: float = 0.995,
        column_offset_max: int = 0,
        decoder_width: int = 256,
        decoder_depth: int = 4,
        decoder_heads: int = 8,
        projector_width: int = 4096,
        projector_dim: int = 256,
        loss_chunk: int | None = None,
    ):
        pixels.check_target(target, target_floor)
        base.check_fractions(momentum=momentum)
        if not 0 <= contrast_from < 1:
            raise ValueError(
                f"contrast_from is {contrast_from}; it must lie in [0, 1): set "
                "config.method.contrast_from"
            )
        base.check_column_offset(column_offset_max)
        base.check_decoder(decoder_width, decoder_heads)
        base.check_counts(projector_width=projector_width, projector_dim=projector_dim)
        self.affine = AFFINE if affine is None else affine
        geometry.check_affine(self.affine)
        if sampling not in SAMPLING:
            raise ValueError(
                f"sampling is {sampling!r}; set config.method.sampling to {' or '.join(SAMPLING)}"
            )
        if sampling == "nearest" and max_shift_px is not None:
            raise ValueError(
                f"max_shift_px is {max_shift_px} and holds pixels inside the line, where sampling "
                "'nearest' shows what is black beyond it: set config.method.max_shift_px to None"
            )
        self.sampling = sampling
        self.encoder = encoders.create_vit(encoder)
        self.patch, self.channels = tuple(encoder["patch"]), channels
        self.target, self.target_floor = target, target_floor
        self.max_shift_px, self.grayscale_p, self.column_offset_max = (
            max_shift_px,
            grayscale_p,
            column_offset_max,
        )
        self.contrast_loss = functools.partial(
            losses.info_nce, temperature=temperature, chunk=loss_chunk
        )
        self.momentum = momentum
        self.weight_contrast, self.contrast_from = weight_contrast, contrast_from
        self.network = Network(
            encoder=self.encoder,
            values=math.prod(self.patch) * channels,
            decoder_width=decoder_width,
            decoder_depth=decoder_depth,
            decoder_heads=decoder_heads,
            window_px=window_px,
            projector_width=projector_width,
            projector_dim=projector_dim,
        )

    # augment

    def augment(self, key, batch):
        """Adds the pictures, all f32[B,H,W,C] in [-1, 1], and what was drawn.

        view1, view2   I, g(I)
        mixed, moved   X, X' of the teacher
        direction      i32[B], g in 1..3
        mask           bool[B,N], all True: every patch is painted
        column_offset  i32[B,2], when asked for
        """
        image, width = batch["image"], batch["width"]
        base.check_channels(image, self.channels)
        direction_key, map_key, grey_key, offset_key = jax.random.split(key, 4)
        direction = jax.random.randint(direction_key, width.shape, 1, DIRECTIONS)
        mirror = geometry.flip(image.shape[1], width, across=direction != 2, down=direction != 1)
        theirs = self.sampling == "nearest"
        affine = geometry.random_affine(map_key, image.shape[1], width, self.affine, theirs)
        start = geometry.pixel_grid(*image.shape[:3])
        moved = geometry.apply_matrix(affine, *start)
        if not theirs:
            moved = geometry.limit_shift(*moved, width, self.max_shift_px)

        planes = jnp.moveaxis(base.normalise(image), 3, 1) * 0.5 + 0.5
        real = geometry.inside(width, image.shape[2])[:, None, None]

        def seen(places, sample=_bilinear):
            """The line as it is and mirrored, each seen at these places; padding stays."""
            both = places, geometry.apply_matrix(mirror, *places)
            return [jnp.where(real, sample(planes, *xy, width), planes) for xy in both]

        first, second = seen(start)
        moved = 0.5 * sum(seen(moved, SAMPLING[self.sampling]))
        alpha = jax.random.bernoulli(grey_key, self.grayscale_p, width.shape).astype(jnp.float32)
        pictures = {
            "view1": first,
            "view2": second,
            "mixed": 0.5 * (first + second),
            "moved": color.grayscale(moved, width, alpha=alpha),
        }
        rows, columns = vit.grid(image.shape, self.patch)
        return {
            **{name: jnp.moveaxis(x, 1, 3) * 2.0 - 1.0 for name, x in pictures.items()},
            "direction": direction,
            "mask": jnp.ones((len(width), rows * columns), bool),
            "width": width,
            "valid": batch["valid"],
        } | two_views.column_offsets(offset_key, len(width), 2, self.column_offset_max)

    # loss

    def loss(self, params, state, batch, key, progress):
        """L_pix + w * L_feat. Metrics: pixel (sum of both directions); contrast (L_feat); top1, the
        share of queries that find their own key; q_std, the spread of unit queries.
        """
        teacher = jax.lax.stop_gradient(state.teacher)
        features = self.apply(params, "features", batch, "mixed", key=key)
        painted = self.apply(params, "paint", features)
        target = self.patch, self.target, self.target_floor
        mirrored = {**batch, "view1": batch["view2"]}
        pixel = pixels.masked_loss(painted[:, 0], batch, *target)
        pixel += pixels.masked_loss(painted[:, 1], mirrored, *target)

        z, real = self.apply(params, "project", features, batch)
        q = self.apply(params, "predict", z, real)
        k, _ = self.apply(
            teacher, "project", self.apply(teacher, "features", batch, "moved"), batch
        )
        (q0, qg), (k0, kg), (valid, _) = contrast.rows(q, k, real)
        one, top_one = self.contrast_loss(q0, k0, valid=valid)
        two, top_two = self.contrast_loss(qg, kg, valid=valid)
        figures = {"pixel": pixel, "contrast": one + two, "top1": (top_one + top_two) / 2}
        metrics = figures | {"q_std": losses.unit_std(q, real)}
        return pixel + self._weight(progress) * (one + two), base.Aux(metrics, state.mutable)

    def _weight(self, progress):
        """w: 0 until contrast_from, then evenly up to weight_contrast."""
        return (
            self.weight_contrast
            * jnp.maximum(progress - self.contrast_from, 0.0)
            / (1.0 - self.contrast_from)
        )

    def schedules(self, progress):
        return {
            "teacher_momentum": base.cosine_momentum(progress, self.momentum),
            "weight_contrast": self._weight(progress),
        }

    # reconstruct

    def reconstruct(self, params, batch, key):
        """`pixels.pictures` of the line as it is; "masked" is the superimposed line."""
        batch = self.augment(key, batch)
        painted = self.apply(params, "paint", self.apply(params, "features", batch, "mixed"))
        pictures = pixels.pictures(painted[:, 0], batch, self.patch, self.target, self.target_floor)
        return {**pictures, "masked": batch["mixed"] * 0.5 + 0.5}
