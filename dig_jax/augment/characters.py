"""Characters of a line without labels: what CCD (arXiv 2211.00288) does to images.

foreground = 2-means of grey values        two_means
characters = its connected components      components, find
the same characters in a moved view        follow
"""

import functools

import jax
import jax.numpy as jnp

from dig_jax.augment import color, geometry, resample

KMEANS_STEPS = 10


def two_means(image, width):
    """Foreground of lines f32[B,H,W,C] in [0, 1] by 2-means of their real pixels' grey values ->
    bool[B,H,W].

    The cluster that most pixels of the real line's border belong to is paper. A blank line has no
    foreground.
    """
    grey, real = (
        color.luma(jnp.moveaxis(image, 3, 1))[:, 0],
        geometry.inside(width, image.shape[2])[:, None],
    )
    middle = (
        jnp.min(grey, (1, 2), where=real, initial=1.0)
        + jnp.max(grey, (1, 2), where=real, initial=0.0)
    ) / 2

    def mean(chosen):
        total = jnp.sum(grey, (1, 2), where=chosen & real)
        return total / jnp.maximum(jnp.sum(chosen & real, (1, 2)), 1)

    def lloyd(_, middle):
        bright = grey > middle[:, None, None]
        return (mean(bright) + mean(~bright)) / 2

    bright = grey > jax.lax.fori_loop(0, KMEANS_STEPS, lloyd, middle)[:, None, None]
    row, column = jnp.arange(grey.shape[1])[None, :, None], jnp.arange(grey.shape[2])[None, None]
    edge = (
        (row == 0)
        | (row == grey.shape[1] - 1)
        | (column == 0)
        | (column == width[:, None, None] - 1)
    )
    border = edge & real
    bright_paper = 2 * jnp.sum(bright & border, (1, 2)) >= jnp.sum(border, (1, 2))
    return (bright != bright_paper[:, None, None]) & real


def components(mask):
    """bool[B,H,W] -> i32[B,H,W]: every pixel of the mask gets the name of its 8-connected
    component, the rest H * W.

    A component is named after its leftmost pixel (the topmost of these), column * H + row: sorting
    names sorts from left to right. Each step takes the lowest name of the 3 x 3 neighbours, until
    nothing changes.
    """
    height, width = mask.shape[1:]
    nothing = height * width
    start = jnp.where(
        mask, (jnp.arange(width)[None] * height + jnp.arange(height)[:, None])[None], nothing
    )

    def lowest(name):
        p = jnp.pad(name, ((0, 0), (1, 1), (1, 1)), constant_values=nothing)
        p = jnp.minimum(jnp.minimum(p[:, :-2], p[:, 1:-1]), p[:, 2:])
        p = jnp.minimum(jnp.minimum(p[..., :-2], p[..., 1:-1]), p[..., 2:])
        return jnp.where(mask, p, nothing)

    def step(state):
        name, _ = state
        new = functools.reduce(
            lambda name, _: lowest(name), range(8), name
        )  # eight a turn: all devices agree on the end
        return new, jnp.any(new != name)

    return jax.lax.while_loop(lambda state: state[1], step, (start, jnp.bool_(True)))[0]


def find(mask, most: int, min_area: int):
    """bool[B,H,W] -> i32[B,H,W]: the number of the character that a pixel belongs to, `most` where
    it belongs to none.

    Characters are the components of at least min_area pixels, numbered 0, 1, ... by their left
    edges; the first `most` count.
    """
    name = components(mask).reshape(len(mask), -1)
    area = jax.vmap(lambda name: jnp.bincount(name, length=mask[0].size + 1))(
        name
    )  # by name; the last is the rest
    large = (area >= min_area).at[:, -1].set(False)
    number = jnp.where(large, jnp.minimum(jnp.cumsum(large, axis=1) - 1, most), most)
    return jnp.take_along_axis(number, name, axis=1).reshape(mask.shape)


def follow(values, matrix, width, outside):
    """Labels of view 1, [B,H,W], as they lie in the view that is view 1 sent through the map
    f32[B,3,3].
    """
    return resample.nearest(
        values, *geometry.apply_matrix(matrix, *geometry.pixel_grid(*values.shape)), width, outside
    )
