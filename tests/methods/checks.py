"""What the tests of several methods share: comparing trees, parameters without a zero, lines of
noise, eight devices.
"""

from __future__ import annotations

import math

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dig_jax.models import vit


def same(first, second, rtol=1e-5, floor=1e-2):
    """Every leaf equal to rtol of the largest value of its array (or of `floor`, where it is noise
    about zero).
    """
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True
    ):
        scale = max(float(np.abs(b).max()), floor)
        np.testing.assert_allclose(
            a, b, rtol=0, atol=rtol * scale, err_msg=jax.tree_util.keystr(path)
        )


def shaken(params):
    """Parameters with every array random, so that no zero hides a mistake."""
    shake = lambda p: (p + 0.1 * np.cos(1.7 * np.arange(p.size).reshape(p.shape))).astype(
        np.float32
    )
    return jax.tree.map(shake, jax.device_get(params))


def shifted(params):
    """A teacher that differs from its student."""
    shift = lambda p: p + (0.05 * np.cos(np.arange(p.size).reshape(p.shape))).astype(np.float32)
    return jax.tree.map(shift, params)


def on_eight_devices(whole, split):
    """Two trees on a mesh of all eight devices: the first everywhere, the rows of the second shared
    out.
    """
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    assert len(jax.devices()) == 8
    place = lambda tree, *axes: jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*axes)))
    return place(whole), place(split, "data")


# ---- methods that hide patches of a line ----

PATCH, HEIGHT, WIDTH, ROWS = (8, 8), 32, 64, 4


def lines(count=8, ragged=True, seed=0, channels=1):
    """A raw batch of noise; when ragged, of every kind of width: full, a part of a patch, a single
    pixel.
    """
    rng = np.random.default_rng(seed)
    width = np.resize([WIDTH, 37, 24, 9, WIDTH - 8, 1], count) if ragged else np.full(count, WIDTH)
    image = rng.integers(0, 256, (count, HEIGHT, WIDTH, channels), np.uint8)
    return {"image": image, "width": width.astype(np.int32), "valid": np.ones(count, bool)}


def started(method):
    """(method, params as they are drawn, params with every array random, augmented batch); row 4 of
    the batch is filler.
    """
    batch = dict(jax.device_get(jax.jit(method.augment)(jax.random.key(0), lines())))
    batch["valid"] = np.arange(8) != 4
    drawn = jax.device_get(jax.jit(method.init)(jax.random.key(1), batch)["params"])
    return method, drawn, shaken(drawn), batch


def grown(batch, more=2, columns=4):
    """The same lines on a canvas `columns` patches wider, other pixels in the padding, and `more`
    rows that are not valid; those of full width hide most of it."""
    extra = columns * PATCH[1]
    view = (
        np.random.default_rng(7)
        .uniform(-1, 1, (8 + more, HEIGHT, WIDTH + extra, 1))
        .astype(np.float32)
    )
    view[:8, :, :WIDTH] = np.where(inside(batch)[..., None], batch["view1"], view[:8, :, :WIDTH])
    mask = np.pad(batch["mask"], ((0, more), (0, columns * ROWS)))
    mask[8::2, 12:] = True
    return {
        "view1": view,
        "mask": mask,
        "width": np.append(batch["width"], np.resize([WIDTH + extra, 20], more)).astype(np.int32),
        "valid": np.pad(batch["valid"], (0, more)),
        "column_offset": np.pad(batch["column_offset"], ((0, more), (0, 0))),
    }


def pixels_of(patches):
    """bool[B,N] of patches -> bool[B,H,W]."""
    spread = np.broadcast_to(patches[..., None], (*patches.shape, math.prod(PATCH)))
    return vit.unpatchify(spread, PATCH, (ROWS, patches.shape[1] // ROWS))[..., 0]


def inside(batch):
    """bool[B,H,W]: pixels of the line."""
    height, width = batch["view1"].shape[1:3]
    real = np.arange(width)[None, None] < np.asarray(batch["width"])[:, None, None]
    return np.broadcast_to(real, (len(real), height, width))
