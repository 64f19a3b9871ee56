"""VICReg: views agree, every feature keeps its spread, and no two features say the same.

Paper   Bardes, Ponce, LeCun, "VICReg: Variance-Invariance-Covariance Regularization for
        Self-Supervised Learning", ICLR 2022, arXiv 2105.04906.

    what                                                       where
    two views of a line; z, z' = expander(encoder(view))       contrast.Network
    v(Z) = mean_j max(0, 1 - sqrt(Var(z_j) + 1e-4))            variance (eq. 1, 2)
    C(Z) = sum_i (z_i - mean)(z_i - mean)^T / (n - 1)          covariance (eq. 3)
    c(Z) = sum of the squares of C off its diagonal / d        covariance (eq. 4)
    s(Z, Z') = mean_i |z_i - z'_i|^2                           invariance (eq. 5)
    L = 25 s + 25 [v(Z) + v(Z')] + 1 [c(Z) + c(Z')]            Method.loss (eq. 6)

Certain, from the public code, which is followed where it differs from the paper. There s is divided
by d as well, and v is the mean of both views, not their sum. The expander is three layers of equal
width; batch norm and ReLU stand behind the first two, and the last has no bias. Batch norms see one
view at a time. Statistics are those of the global batch. No length is made unit.

Departures for lines of text: windows of `window_px` as in DiG, matched by place, or whole lines.
No flips and crops: `recipe` replaces them, and `max_shift_px` bounds the way of any pixel sideways.
Padding and rows that are not valid enter no mean, norm or gradient. A ViT by default, and AdamW in
the configs (there LARS).

Watch   invariance falls. variance starts near 1 with small features and must go to 0; where it
        stays, features do not spread. covariance then falls slowly. q_std: spread of the unit z,
        healthy about 1 / sqrt(projector_dim).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from dig_jax import losses
from dig_jax.augment import views
from dig_jax.methods.shared import base, contrast, two_views
from dig_jax.models import encoders, heads


def centred(z, valid):
    """z f32[M,K], valid bool[M] -> (z less the mean of the valid rows, zeros in the others; n)."""
    real, count = valid[:, None], jnp.maximum(jnp.sum(valid), 2).astype(jnp.float32)
    z = jnp.where(real, z, 0.0)
    return jnp.where(real, z - jnp.sum(z, 0, keepdims=True) / count, 0.0), count


def variance(z, valid):
    """v: f32[M,K], bool[M] -> f32[], 0 where the deviation of every feature is 1 or more."""
    z, count = centred(z, valid)
    deviation = jnp.sqrt(jnp.sum(jnp.square(z), 0) / (count - 1) + 1e-4)
    return jnp.mean(jnp.maximum(0.0, 1.0 - deviation))


def covariance(z, valid):
    """c: f32[M,K], bool[M] -> f32[], 0 where no feature follows another."""
    z, count = centred(z, valid)
    matrix = jnp.einsum("mi,mj->ij", z, z, precision="highest") / (count - 1)
    apart = 1.0 - jnp.eye(z.shape[1])
    return jnp.sum(jnp.square(matrix) * apart) / z.shape[1]


def invariance(z1, z2, valid):
    """s, divided by K: f32[M,K] of both views, bool[M] -> f32[]."""
    return losses.masked_mse(z1, z2, jnp.broadcast_to(valid[:, None], z1.shape))


class Method(base.Method):
    """VICReg.

    encoder: see `encoders.create`. channels: C of the images. window_px: `contrast.instances`, None
    = whole lines. projector_width: of all three layers. weight_*: of the three terms. recipe: of
    both views, a name or a recipe of `views`; max_shift_px None = unbounded. column_offset_max:
    `two_views.column_offsets`. Raises ValueError.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        channels: int,
        window_px: int | None = None,
        projector_width: int = 8192,
        weight_invariance: float = 25.0,
        weight_variance: float = 25.0,
        weight_covariance: float = 1.0,
        recipe: views.Recipe = "lines_light",
        max_shift_px: float | None = 2.0,
        column_offset_max: int = 0,
    ):
        base.check_counts(projector_width=projector_width)
        self.encoder = encoders.create(encoder)
        self.weights = weight_invariance, weight_variance, weight_covariance
        self.augment = two_views.augmenter(
            channels=channels,
            recipes=(recipe, recipe),
            max_shift_px=max_shift_px,
            column_offset_max=column_offset_max,
        )
        expander = heads.Mlp((projector_width,) * 3, self.encoder.dtype, last_norm="none")
        self.network = contrast.Network(
            encoder=self.encoder, projector=expander, window_px=window_px, by_view=True
        )

    def loss(self, params, state, batch, key, progress):
        """L. Metrics: invariance (s), variance and covariance (both views), q_std."""
        z, _, real = self.apply(params, "__call__", batch, key=key)
        (z1, z2), (valid, _) = contrast.rows(z, real)
        s = invariance(z1, z2, valid)
        v = (variance(z1, valid) + variance(z2, valid)) / 2
        c = covariance(z1, valid) + covariance(z2, valid)
        for_s, for_v, for_c = self.weights
        metrics = {"invariance": s, "variance": v, "covariance": c}
        metrics["q_std"] = losses.unit_std(z, real)
        return for_s * s + for_v * v + for_c * c, base.Aux(metrics, state.mutable)
