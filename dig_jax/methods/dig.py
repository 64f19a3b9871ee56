"""DiG: contrast between windows of two views, and reconstruction of masked patches, through one encoder.

Paper   Yang et al., "Reading and Writing: Discriminative and Generative Modeling for Self-Supervised Text Recognition",
        ACM MM 2022, arXiv 2207.00193. Where paper and the authors' code disagree, the code is followed (loss weights:
        the authors call the paper's a typo, their issue 2). tests/methods/test_dig_golden.py holds us to that code.

    what                                                            where
    theta: encoder, projector, predictor, pixel projector, decoder  Network
    masked original + augmented original, one encoder pass          Network.encode_views
    pool to W windows, project: z                                   Network.instances
    q1, q2 = predictor(z) of student, k1, k2 = z of teacher         Method._contrast
    L_con = ctr(q1, k2) + ctr(q2, k1), ctr = 2T InfoNCE             Method._contrast, losses.info_nce
    L_mim = mean over masked patches of (decoder(tokens) - x)^2     Method._pixel, pixel_target, losses.masked_mse
    L = 1.0 L_mim + 0.1 L_con                                       Method.loss
    xi <- m xi + (1 - m) theta before the keys, m: 0.99 -> 1        Method.update_teacher, teacher_momentum

Easily overlooked, and done as the authors do: the augmented view is not masked. Only the contrast reads the masked view
through the pixel projector; the decoder reads the encoder. Batch norms take the statistics of the batch at hand, in the
teacher too, jointly over both views and over all devices; only parameters are averaged. The encoder has no final norm
while the contrast is on. Negatives include the other windows of the same line.

objective="dig" is both halves. "dis" is the contrast alone: no mask and no pixel projector. "gen" is the reconstruction
alone: the encoder keeps its final norm, there is no teacher, no head of the contrast, and no second view (the authors'
code computes one and drops it).

Departures, for lines of text (at 128 px width, full lines and default values each of them is the identity)
- Windows are `window_px` wide, not W of them, so their count grows with the line; 32 px make 4 windows of 128 px.
- Masks never lie on padding. Padding enters no attention, window, batch norm or loss; neither do rows not valid.
- Augmentation moves text sideways by at most `max_shift_px`, else windows of equal index would show different letters.
- Optional: runs of `mask_span` neighbouring columns instead of single patches; targets normalised per patch and channel
  (target="normalized"); a random first column of the position code, up to `column_offset_max`, so that narrow crops
  train the positions that long lines use (drawn for each view alone: a shared one would give the pair away).

Watch   q_std: healthy about 1/sqrt(projector_dim), below a sixth of that the windows collapse. contrast starts near
        4T ln(rows) (two directions) and top1 near 1/rows. pixel, raw target: the variance of the pixels is what a
        constant grey reaches. pixel, normalised target: about 1 is what predicting nothing reaches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax.augment import masks, views
from dig_jax.methods import base, losses
from dig_jax.models import heads, vit

OBJECTIVES = ("dig", "dis", "gen")
TARGETS = ("pixel", "normalized")
RECIPES = {"dig": views.DIG, "lines_light": views.LINES_LIGHT}
TAUGHT = ("encoder", "projector", "pix_projector")  # what the teacher mirrors; the predictor belongs to queries only


class Network(nn.Module):
    """Student and, on its own parameters, teacher.

    Works on augmented batches (`Method.augment`). The V views of a line are neighbouring rows, b * V + v, so that
    splitting the batch over devices never parts them. Heads compute in the encoder's dtype.
    """

    encoder_args: Mapping[str, Any]
    objective: str
    window_px: int
    values: int  # of a patch: ph * pw * C
    projector_width: int
    projector_dim: int
    pix_projector_width: int
    decoder_width: int

    def setup(self):
        self.encoder = vit.Vit(**self.encoder_args)
        self.patch = tuple(self.encoder_args["patch"])
        width, dtype = self.encoder_args["width"], self.encoder_args.get("dtype", "auto")
        if self.objective != "gen":
            hidden, out = self.projector_width, self.projector_dim
            self.projector = heads.Mlp((hidden, hidden, out), dtype)
            self.predictor = heads.Mlp((hidden, out), dtype)
        if self.objective == "dig":
            hidden = self.pix_projector_width
            self.pix_projector = heads.Mlp((hidden, hidden, width), dtype)
        if self.objective != "dis":
            form = self.encoder_args.get("gelu", "exact")
            self.pix_decoder = heads.PixelDecoder(self.values, self.decoder_width, dtype, form)

    def __call__(self, batch):
        """Every part once, for initialisation."""
        tokens = self.encode_views(batch)
        if self.objective != "gen":
            self.predict(*self.instances(tokens, batch))
        if self.objective != "dis":
            self.decode(tokens)

    def encode_views(self, batch, deterministic=True):
        """Masked first view and plain second view -> tokens f32[B,V,N,D], in one pass over B * V rows."""
        images = [batch[name] for name in ("view1", "view2") if name in batch]
        mask = batch.get("mask")  # of the first view only
        if mask is not None:
            mask = _rows([mask, jnp.zeros_like(mask)][: len(images)])
        offset = batch.get("column_offset")
        tokens = self.encoder(
            _rows(images),
            jnp.repeat(batch["width"], len(images)),
            mask,
            None if offset is None else offset.reshape(-1),
            deterministic=deterministic,
        )
        return tokens.reshape(-1, len(images), *tokens.shape[1:])

    def instances(self, tokens, batch):
        """Tokens of two views -> z f32[B,2,S,K] of S windows, and which are real, bool[B,2,S]."""
        grid = vit.grid(batch["view1"].shape, self.patch)
        if self.objective == "dig":
            real = vit.token_valid(batch["width"], self.patch, grid) & batch["valid"][:, None]
            tokens = jnp.stack([self.pix_projector(tokens[:, 0], real), tokens[:, 1]], axis=1)
        tokens = tokens.reshape(-1, *tokens.shape[2:])
        pooled, real = heads.pool_windows(tokens, jnp.repeat(batch["width"], 2), grid, self.patch, self.window_px)
        real = real & jnp.repeat(batch["valid"], 2)[:, None]
        z = self.projector(pooled, real)
        return z.reshape(-1, 2, *z.shape[1:]), real.reshape(-1, 2, real.shape[-1])

    def predict(self, z, real):
        return self.predictor(z, real)

    def decode(self, tokens):
        """First view's tokens -> patch vectors f32[B,N,P], the units of the target."""
        return self.pix_decoder(tokens[:, 0])


def _rows(parts: list[jax.Array]) -> jax.Array:
    """V arrays [B, ...] -> [B * V, ...], the V of a line next to each other."""
    stacked = jnp.stack(parts, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


class Method(base.Method):
    """DiG or one of its halves.

    encoder: keyword arguments of `vit.Vit` (final_norm follows from the objective unless given). channels: C of the
    images. recipe: augmentation of the second view: "dig", "lines_light" or a recipe of `views`; max_shift_px None =
    unbounded. target_floor: normalised targets are divided by sqrt(variance + floor^2), in grey of [0, 1]; the official
    1e-6 blows the grain of blank paper up to full size. Head sizes default to the official ones, which outweigh a small
    encoder. Raises ValueError for values out of range.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        objective: str = "dig",
        mask_ratio: float = 0.7,
        mask_span: int = 1,
        target: str = "pixel",
        target_floor: float = 1e-6,
        window_px: int = 32,
        temperature: float = 0.2,
        weight_pixel: float = 1.0,
        weight_contrast: float = 0.1,
        momentum: float = 0.99,
        recipe: str | Mapping[str, Any] = "dig",
        max_shift_px: float | None = None,
        column_offset_max: int = 0,
        projector_width: int = 4096,
        projector_dim: int = 256,
        pix_projector_width: int = 512,
        decoder_width: int = 192,
    ):
        _check(objective, target, momentum, mask_ratio, column_offset_max)
        encoder = {"final_norm": objective == "gen", **encoder}
        self.encoder = vit.Vit(**encoder)
        self.patch, self.channels = tuple(encoder["patch"]), channels
        self.contrasts, self.reconstructs = objective != "gen", objective != "dis"
        self.mask_ratio, self.mask_span = mask_ratio, mask_span
        self.target, self.target_floor = target, target_floor
        self.temperature, self.momentum = temperature, momentum
        self.weight_pixel, self.weight_contrast = weight_pixel, weight_contrast
        self.recipe = _recipe(recipe)
        self.max_shift_px, self.column_offset_max = max_shift_px, column_offset_max
        self.network = Network(
            encoder_args=encoder,
            objective=objective,
            window_px=window_px,
            values=math.prod(self.patch) * channels,
            projector_width=projector_width,
            projector_dim=projector_dim,
            pix_projector_width=pix_projector_width,
            decoder_width=decoder_width,
        )

    def init(self, key, batch):
        return {"params": self.network.init(key, batch)["params"], "mutable": {}}

    # augment

    def augment(self, key, batch):
        """Adds view1 (the image itself), view2 (augmented; not for "gen"), f32[B,H,W,C] in [-1, 1], mask bool[B,N] of
        view1 (not for "dis") and, when asked for, column_offset i32[B,V]."""
        if batch["image"].shape[-1] != self.channels:
            raise ValueError(
                f"images have {batch['image'].shape[-1]} channels and the decoder draws {self.channels}: set "
                "config.method.channels to config.data.channels"
            )
        mask_key, view_key, offset_key = jax.random.split(key, 3)
        image = base.normalise(batch["image"])
        out = {"view1": image, "width": batch["width"], "valid": batch["valid"]}
        if self.reconstructs:
            grid = vit.grid(image.shape, self.patch)
            out["mask"] = masks.random_mask(mask_key, batch["width"], grid, self.patch, self.mask_ratio, self.mask_span)
        if self.contrasts:
            view = views.augment(view_key, batch["image"], batch["width"], self.recipe, self.max_shift_px)
            out["view2"] = view * 2.0 - 1.0
        if self.column_offset_max:
            shape = (image.shape[0], 1 + self.contrasts)
            out["column_offset"] = jax.random.randint(offset_key, shape, 0, self.column_offset_max + 1)
        return out

    # loss

    def loss(self, params, state, batch, key):
        """weight_pixel * L_mim + weight_contrast * L_con. Metrics: pixel; contrast, top1 (share of windows that find
        their own key, mean of both directions), q_std (spread of unit queries, mean over channels)."""
        tokens = self._apply(params, Network.encode_views, batch, deterministic=False, rngs={"drop_path": key})
        total, metrics = jnp.zeros(()), {}
        if self.reconstructs:
            metrics["pixel"] = self._pixel(params, tokens, batch)
            total += self.weight_pixel * metrics["pixel"]
        if self.contrasts:
            metrics |= self._contrast(params, state.teacher, tokens, batch)
            total += self.weight_contrast * metrics["contrast"]
        return total, base.Aux(metrics, state.mutable)

    def _apply(self, params, method, *args, **kwargs):
        return self.network.apply({"params": params}, *args, method=method, **kwargs)

    def _pixel(self, params, tokens, batch):
        """L_mim: mean square error over masked patches, real pixels of valid rows only."""
        target, _, _, real = pixel_target(batch["view1"], batch["width"], self.patch, self.target, self.target_floor)
        hidden = (batch["mask"] & batch["valid"][:, None])[..., None]
        return losses.masked_mse(self._apply(params, Network.decode, tokens), target, real & hidden)

    def _contrast(self, params, teacher, tokens, batch):
        """L_con and its figures, from the student's tokens; the teacher encodes the same two views itself."""
        z, real = self._apply(params, Network.instances, tokens, batch)
        q = self._apply(params, Network.predict, z, real)
        teacher = jax.lax.stop_gradient(teacher)
        k, _ = self._apply(teacher, Network.instances, self._apply(teacher, Network.encode_views, batch), batch)
        flat = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731  (B, S, K) -> (M, K)
        valid = real[:, 0].reshape(-1)
        one, top_one = losses.info_nce(flat(q[:, 0]), flat(k[:, 1]), self.temperature, valid)
        two, top_two = losses.info_nce(flat(q[:, 1]), flat(k[:, 0]), self.temperature, valid)
        return {"contrast": one + two, "top1": (top_one + top_two) / 2, "q_std": _spread(q, real)}

    # teacher

    def init_teacher(self, params):
        return {name: params[name] for name in TAUGHT if name in params} if self.contrasts else None

    def update_teacher(self, teacher, params, progress):
        """xi <- m xi + (1 - m) theta, with the student as it stands before this step's update."""
        if teacher is None:
            return None
        m = teacher_momentum(progress, self.momentum)
        student = {name: params[name] for name in teacher}
        return jax.tree.map(lambda xi, theta: m * xi + (1 - m) * theta, teacher, student)

    def schedules(self, progress):
        return {"teacher_momentum": teacher_momentum(progress, self.momentum)} if self.contrasts else {}

    # encode

    def encode(self, params, batch):
        """Features of whole, unmasked lines. frames: the tokens of a column side by side."""
        image, width = base.normalise(batch["image"]), batch["width"]
        tokens = self.encoder.apply({"params": params["encoder"]}, image, width)
        frames = vit.frames(tokens, vit.grid(image.shape, self.patch)[0])
        return {"tokens": tokens, "frames": frames, "frame_length": vit.columns(width, self.patch[1])}

    # reconstruct

    def reconstruct(self, params, batch, key):
        """{"masked", "output", "original"}: f32[B,H,W,C] in [0, 1], for pictures; {} for "dis", which draws nothing.

        masked: hidden patches grey. output: the prediction in hidden patches, the original elsewhere; with normalised
        targets it is given the true mean and deviation of its patch, which the network is not asked to know.
        """
        if not self.reconstructs:
            return {}
        batch = self.augment(key, batch)
        batch.pop("view2", None)
        if "column_offset" in batch:
            batch["column_offset"] = batch["column_offset"][:, :1]
        prediction = self._apply(params, Network.decode, self._apply(params, Network.encode_views, batch))
        _, mean, deviation, real = pixel_target(
            batch["view1"], batch["width"], self.patch, self.target, self.target_floor
        )
        original = batch["view1"] * 0.5 + 0.5
        patches, hidden = vit.patchify(original, self.patch), batch["mask"][..., None] & real
        grid = vit.grid(original.shape, self.patch)
        back = lambda x: vit.unpatchify(jnp.clip(x, 0, 1), self.patch, grid)  # noqa: E731
        output = jnp.where(hidden, prediction * deviation + mean, patches)
        return {"masked": back(jnp.where(hidden, 0.5, patches)), "output": back(output), "original": original}


def teacher_momentum(progress: jax.Array, start: float) -> jax.Array:
    """m = 1 - (1 - start) (1 + cos(pi progress)) / 2: from `start` at progress 0 to 1 at progress 1, on a cosine."""
    return 1.0 - 0.5 * (1.0 + jnp.cos(jnp.pi * progress)) * (1.0 - start)


def pixel_target(image, width, patch, kind, floor):
    """What the decoder shall say of every patch: (target, mean, deviation, real).

    image f32[B,H,W,C] in [-1, 1], width i32[B]. target f32[B,N,P] = (grey - mean) / deviation, grey in [0, 1], P values
    of a patch as `vit.patchify` orders them. kind "pixel": mean 0, deviation 1; "normalized": mean and unbiased
    deviation of the real pixels of each patch and channel. real bool[B,N,P] is False for pixels right of `width`.
    """
    grey = vit.patchify(image * 0.5 + 0.5, patch)
    inside = jnp.arange(image.shape[2])[None] < width[:, None]  # (B, W)
    real = vit.patchify(jnp.broadcast_to(inside[:, None, :, None], image.shape), patch)
    if kind == "pixel":
        return grey, jnp.float32(0), jnp.float32(1), real
    pixels = (*grey.shape[:2], patch[0] * patch[1], image.shape[3])  # (B, N, ph * pw, C)
    weight = real.reshape(pixels).astype(jnp.float32)
    count = weight.sum(axis=2, keepdims=True)
    mean = (weight * grey.reshape(pixels)).sum(axis=2, keepdims=True) / jnp.maximum(count, 1)
    square = weight * jnp.square(grey.reshape(pixels) - mean)
    variance = square.sum(axis=2, keepdims=True) / jnp.maximum(count - 1, 1)
    deviation = jnp.sqrt(variance + floor**2)
    mean, deviation = (jnp.broadcast_to(x, pixels).reshape(grey.shape) for x in (mean, deviation))
    return (grey - mean) / deviation, mean, deviation, real


def _spread(q, real):
    """Standard deviation over real rows of the unit queries, mean over channels: f32[]. 0 = collapse."""
    unit, weight = losses.unit(jax.lax.stop_gradient(q)), real[..., None].astype(jnp.float32)
    count = jnp.maximum(weight.sum(), 1)
    axes = tuple(range(unit.ndim - 1))
    mean = (unit * weight).sum(axes, keepdims=True) / count
    return jnp.sqrt((jnp.square(unit - mean) * weight).sum(axes) / count).mean()


def _recipe(recipe):
    if not isinstance(recipe, str):
        return recipe
    if recipe not in RECIPES:
        raise ValueError(f"recipe is {recipe!r}; set config.method.recipe to one of {', '.join(RECIPES)}")
    return RECIPES[recipe]


def _check(objective, target, momentum, mask_ratio, column_offset_max):
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; set config.method.objective to one of {', '.join(OBJECTIVES)}")
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}; set config.method.target to one of {', '.join(TARGETS)}")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum is {momentum}; it must lie in [0, 1]: set config.method.momentum, 0.99 in DiG")
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask_ratio is {mask_ratio}; it must lie between 0 and 1: set config.method.mask_ratio")
    if column_offset_max < 0:
        raise ValueError(f"column_offset_max is {column_offset_max}; set config.method.column_offset_max to 0 or more")
