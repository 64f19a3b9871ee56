"""Thin-plate splines: the warp of a spatial transformer that straightens a line before it is read.

Shi et al., "Robust Scene Text Recognition with Automatic Rectification" (RARE, arXiv 1603.03915),
section 3.1, in the form that TRBA (arXiv 1904.01906) took over. The spatial transformer is that of
Jaderberg et al. (arXiv 1506.02025).

    what                                                        where
    K base points along the top and the bottom of the result    fiducial_points
    T = (delta_C^-1 [C'; 0])^T, delta_C of the base points      coefficients
    I(p) -> I(T [1, p, phi(|p - c_1|), ..]), phi = r^2 ln r^2    displacement, warp

A spline repeats an affine map exactly, the identity too. So the displacement of the points, C' - C,
is splined in place of C': without offsets no bit changes. Coordinates are those of the real line:
-1 and 1 are its left and right (top and bottom) edge whatever its padding. All of it is float32.
"""

import jax.numpy as jnp
import numpy as np

from dig_jax.augment import resample


def fiducial_points(count: int) -> np.ndarray:
    """f64[count,2] (x, y) in [-1, 1]: half of them along the top edge from left to right, then the
    others along the bottom.

    ValueError for an odd count or fewer than 4.
    """
    if count < 4 or count % 2:
        raise ValueError(
            f"fiducials is {count}; set config.method.encoder.fiducials to an even number from 4 "
            "on, or to 0"
        )
    x = np.linspace(-1.0, 1.0, count // 2)
    return np.concatenate([np.stack([x, np.full_like(x, y)], axis=1) for y in (-1.0, 1.0)])


def coefficients(count: int) -> np.ndarray:
    """f64[3 + count, count]: from values at the points to the spline's affine part (1, x, y) and
    the weights of its bumps.
    """
    points = fiducial_points(count)
    affine = np.concatenate([np.ones((count, 1)), points], axis=1)
    square = np.square(points[:, None] - points[None]).sum(-1)
    bumps = square * np.log(np.where(square > 0, square, 1.0))
    system = np.block([[affine, bumps], [np.zeros((3, 3)), affine.T]])
    return np.linalg.inv(system)[:, :count]


def displacement(offsets, x, y):
    """The spline through `offsets` f32[B,K,2] at the points, read at x f32[B,W] and y f32[H] in
    [-1, 1] -> f32[B,H,W,2].
    """
    count = offsets.shape[1]
    weights = jnp.einsum(
        "ck,bkd->bcd", jnp.asarray(coefficients(count), jnp.float32), offsets, precision="highest"
    )
    points = jnp.asarray(fiducial_points(count), jnp.float32)
    across = jnp.square(x[:, None, :, None] - points[None, None, None, :, 0])  # (B, 1, W, K)
    square = across + jnp.square(y[None, :, None, None] - points[None, None, None, :, 1])
    bumps = square * jnp.log(jnp.where(square > 0, square, 1.0))
    bent = jnp.einsum("bhwk,bkd->bhwd", bumps, weights[:, 3:], precision="highest")
    straight = (
        x[:, None, :, None] * weights[:, None, None, 1]
        + y[None, :, None, None] * weights[:, None, None, 2]
    )
    return weights[:, None, None, 0] + straight + bent


def warp(image, width, offsets):
    """The real part of an image, warped within itself; columns right of it as they were.

    image f32[B,H,W,C], real pixels i32[B], displacement of the fiducial points f32[B,K,2] in half
    lines and half heights."""
    height, canvas_px = image.shape[1:3]
    columns, rows = (
        jnp.arange(canvas_px, dtype=jnp.float32)[None],
        jnp.arange(height, dtype=jnp.float32),
    )
    wide = width.astype(jnp.float32)[:, None]
    moved = displacement(
        offsets, (2.0 * columns + 1.0) / wide - 1.0, (2.0 * rows + 1.0) / height - 1.0
    )
    x = columns[:, None] + moved[..., 0] * (0.5 * wide)[..., None]
    y = rows[None, :, None] + moved[..., 1] * (0.5 * height)
    x, y = jnp.clip(x, 0.0, wide[..., None] - 1.0), jnp.clip(y, 0.0, height - 1.0)
    warped = jnp.moveaxis(resample.bilinear(jnp.moveaxis(image, 3, 1), x, y), 1, 3)
    return jnp.where((columns < wide)[:, None, :, None], warped, image)
