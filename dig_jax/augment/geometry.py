"""Geometry on the device: coordinate maps that are composed first and resampled once.

A map says, for every pixel of the result, where in the input its value comes from. Everything but
the piecewise warp is a homography, f32[B,3,3] acting on columns (x, y, 1) in pixels, pixel centres
at whole numbers. If operators 1, 2 and 3 are drawn in that order, the result at p is the input at
m1(m2(m3(p))). So homographies multiply left to right, and only the piecewise warp splits the chain:
map = before(warp(after(p))). Every line of a batch can thus have its own order at the price of one
bilinear resampling.

Departures from DiG (imgaug, one resampling an operator, on the image at its original size;
reference section 1.7):

- one resampling at the model's size, which blurs less and costs about a fifth;
- what one operator pushes over the edge a later one can bring back;
- outside the image the edge pixel is repeated (imgaug: black, after rotation);
- the piecewise warp interpolates bilinearly between its grid points (imgaug: affine in each
  triangle).

All sizes refer to the *real* part of a padded line: width i32[B] pixels, never to the padded
canvas.
"""

import functools

import jax
import jax.numpy as jnp

GRID = 4  # imgaug's PiecewiseAffine moves 4 x 4 points


def inside(width, canvas_px):
    """bool[B,W]: which columns of a canvas belong to the real line of width i32[B]; the others are
    padding.
    """
    return jnp.arange(canvas_px)[None] < width[:, None]


def identity(batch):
    """f32[B,3,3]: the map that moves nothing."""
    return jnp.broadcast_to(jnp.eye(3, dtype=jnp.float32), (batch, 3, 3))


def compose(first, second):
    """Map of "operator `first`, then operator `second`": f32[B,3,3] = first @ second.

    Written out, because a matmul may run in TF32 or bf16 and coordinates need all their bits.
    """
    return jnp.sum(first[:, :, :, None] * second[:, None, :, :], axis=2)


def _matrix(rows):
    return jnp.stack(
        [jnp.stack(jnp.broadcast_arrays(*row), axis=-1) for row in rows], axis=-2
    ).astype(jnp.float32)


def _scale_shift(scale_x, shift_x, scale_y, shift_y):
    zero, one = jnp.zeros_like(scale_x), jnp.ones_like(scale_x)
    return _matrix([[scale_x, zero, shift_x], [zero, scale_y, shift_y], [zero, zero, one]])


def crop_vertical(height, width, *, top, bottom):
    """Cuts the fractions `top` and `bottom` (f32[B], each in [0, 0.5)) of the height and stretches
    the rest back.
    """
    kept = 1.0 - top - bottom
    one = jnp.ones_like(kept)
    return _scale_shift(one, jnp.zeros_like(kept), kept, top * height + 0.5 * kept - 0.5)


def crop_horizontal(height, width, *, left, right):
    """Cuts the fractions `left` and `right` (f32[B], each in [0, 0.5)) of the real width, stretches
    the rest back.
    """
    kept = 1.0 - left - right
    one = jnp.ones_like(kept)
    return _scale_shift(kept, left * width + 0.5 * kept - 0.5, one, jnp.zeros_like(kept))


def shift(height, width, *, right_px, down_px):
    """Moves the content by f32[B] pixels."""
    one = jnp.ones_like(right_px)
    return _scale_shift(one, -right_px, one, -down_px)


def rotate(height, width, *, degrees):
    """Turns the content clockwise (as seen; y points down) by `degrees` f32[B] about the centre of
    the real line.
    """
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    cx, cy = 0.5 * (width - 1.0), jnp.full_like(angle, 0.5 * (height - 1.0))
    zero, one = jnp.zeros_like(angle), jnp.ones_like(angle)
    # The input position of a result pixel is the pixel turned back by the angle.
    return _matrix(
        [
            [cos, sin, cx - cos * cx - sin * cy],
            [-sin, cos, cy + sin * cx - cos * cy],
            [zero, zero, one],
        ]
    )


def _centre(height, width):
    """(cx, cy), f32[B] each: the centre of the real line."""
    cx = 0.5 * (width.astype(jnp.float32) - 1.0)
    return cx, jnp.full_like(cx, 0.5 * (height - 1.0))


def scale(height, width, *, across, down):
    """Makes the content `across` times as wide and `down` times as tall (f32[B] above 0) about the
    centre of the line.
    """
    cx, cy = _centre(height, width)
    return _scale_shift(1.0 / across, cx - cx / across, 1.0 / down, cy - cy / down)


def shear(height, width, *, degrees_x, degrees_y):
    """Slants the content about the centre of the real line: a point dx, dy from it goes to dx +
    tan(degrees_x) dy, dy + tan(degrees_y) dx. f32[B]; the two tangents must not multiply to 1,
    where the plane becomes a line."""
    (cx, cy), a, b = (
        _centre(height, width),
        jnp.tan(jnp.deg2rad(degrees_x)),
        jnp.tan(jnp.deg2rad(degrees_y)),
    )
    det, zero = 1.0 - a * b, jnp.zeros_like(a)
    return _matrix(
        [
            [1.0 / det, -a / det, cx - (cx - a * cy) / det],
            [-b / det, 1.0 / det, cy - (cy - b * cx) / det],
            [zero, zero, 1.0],
        ]
    )


def flip(height, width, *, across, down):
    """Mirrors the real line left to right where `across` bool[B], top to bottom where `down`
    bool[B]; both: 180 degrees.
    """
    x, y = jnp.where(across, -1.0, 1.0), jnp.where(down, -1.0, 1.0)
    return _scale_shift(
        x, jnp.where(across, width - 1.0, 0.0), y, jnp.where(down, height - 1.0, 0.0)
    )


# Amounts of `affine` and the value at which each does nothing. Scales are factors, degrees and
# shears angles, right and down fractions of the real width and of the height.
AFFINE = {
    "scale_x": 1.0,
    "scale_y": 1.0,
    "degrees": 0.0,
    "shear_x": 0.0,
    "shear_y": 0.0,
    "right": 0.0,
    "down": 0.0,
}


def check_affine(ranges):
    """Raises ValueError unless `ranges` is {a name of AFFINE: (lowest, highest)}."""
    for name, pair in ranges.items():
        if name not in AFFINE:
            raise ValueError(
                f"There is no affine amount {name!r}: config.method.affine takes "
                f"{', '.join(AFFINE)}."
            )
        if len(pair) != 2 or pair[0] > pair[1]:
            raise ValueError(
                f"{name} is {tuple(pair)}: give config.method.affine.{name} as (lowest, highest)."
            )


def random_affine(key, height, width, ranges, shear_in_turn=False):
    """The map of a random affine operator for each line, f32[B,3,3]: scale, then shear, then
    rotate, then shift.

    ranges: see `check_affine`; every amount is uniform in its range, and what has none stays as it
    is. A line's amounts depend on the key and on its place in the batch only. shear_in_turn: the
    shear along x, then the shear along y (torchvision), in place of both at once.
    """
    low = jnp.array(
        [ranges.get(name, (identity,) * 2)[0] for name, identity in AFFINE.items()], jnp.float32
    )
    high = jnp.array(
        [ranges.get(name, (identity,) * 2)[1] for name, identity in AFFINE.items()], jnp.float32
    )
    share = jax.random.uniform(key, (width.shape[0], len(AFFINE)))
    drawn = dict(zip(AFFINE, (low[None] + (high - low)[None] * share).T))
    slant_x, slant_y, none = drawn["shear_x"], drawn["shear_y"], jnp.zeros_like(drawn["shear_x"])
    slants = [(slant_x, none), (none, slant_y)] if shear_in_turn else [(slant_x, slant_y)]
    steps = (
        scale(height, width, across=drawn["scale_x"], down=drawn["scale_y"]),
        *(shear(height, width, degrees_x=x, degrees_y=y) for x, y in slants),
        rotate(height, width, degrees=drawn["degrees"]),
        shift(height, width, right_px=drawn["right"] * width, down_px=drawn["down"] * height),
    )
    return functools.reduce(compose, steps)


def perspective(height, width, *, corners):
    """Stretches an inner quadrilateral over the whole line.

    corners: f32[B,4,2], how far (x, y) each corner moves inwards, as fractions in [0, 0.5) of (real
    width, height). Order: top left, top right, bottom right, bottom left.

    The unit square goes to the quadrilateral by the closed form of Heckbert, "Fundamentals of
    Texture Mapping and Image Warping" (1989), section 2.2.3.
    """
    inwards = jnp.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], jnp.float32)[None]
    square = jnp.array([[0, 0], [1, 0], [1, 1], [0, 1]], jnp.float32)[None]
    quad = square + inwards * corners
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = ((quad[:, i, 0], quad[:, i, 1]) for i in range(4))
    dx1, dx2, sx = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, sy = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    area = dx1 * dy2 - dx2 * dy1
    g, h = (sx * dy2 - dx2 * sy) / area, (dx1 * sy - sx * dy1) / area
    one = jnp.ones_like(g)
    unit = _matrix(
        [
            [x1 - x0 + g * x1, x3 - x0 + h * x3, x0],
            [y1 - y0 + g * y1, y3 - y0 + h * y3, y0],
            [g, h, one],
        ]
    )
    # Pixel i covers [i, i + 1) of the line, so its centre is at (i + 0.5) / size of the unit
    # square.
    w, tall = width.astype(jnp.float32), jnp.full_like(g, height)
    to_unit = _scale_shift(1.0 / w, 0.5 / w, 1.0 / tall, 0.5 / tall)
    to_px = _scale_shift(w, jnp.full_like(g, -0.5), tall, jnp.full_like(g, -0.5))
    return compose(to_px, compose(unit, to_unit))


def affine(height, width, *, times, degrees_x, degrees_y):
    """`shear`, then `scale` by `times` in both directions, about the centre of the real line."""
    slanted = shear(height, width, degrees_x=degrees_x, degrees_y=degrees_y)
    return compose(slanted, scale(height, width, across=times, down=times))


MATRICES = {
    "crop_vertical": crop_vertical,
    "crop_horizontal": crop_horizontal,
    "shift": shift,
    "rotate": rotate,
    "perspective": perspective,
    "affine": affine,
    "scale": scale,
    "shear": shear,
}


def apply_matrix(matrix, x, y):
    """Positions (x, y), f32[B,H,W] each, sent through f32[B,3,3]."""
    m = matrix[:, :, :, None, None]
    w = m[:, 2, 0] * x + m[:, 2, 1] * y + m[:, 2, 2]
    return (m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]) / w, (
        m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]
    ) / w


def apply_piecewise(x, y, width, offsets):
    """Moves positions by displacements given at GRID x GRID points spread evenly over the real
    line.

    offsets: f32[B,GRID,GRID,2], (x, y) at [row, column], as fractions of (real width, height). The
    moved grid points
        stay inside the line, as in imgaug.
    """
    height = y.shape[1]
    w = width.astype(jnp.float32)
    line = jnp.linspace(0.0, 1.0, GRID)
    right, bottom = w[:, None, None] - 1.0, float(height - 1)
    grid_x, grid_y = line[None, None, :] * right, line[None, :, None] * bottom
    move_x = jnp.clip(grid_x + offsets[..., 0] * w[:, None, None], 0.0, right) - grid_x
    move_y = jnp.clip(grid_y + offsets[..., 1] * height, 0.0, bottom) - grid_y
    # Hat functions instead of a gather: 16 multiply-adds a pixel that every backend vectorises.
    u = jnp.clip(x / jnp.maximum(right, 1.0), 0.0, 1.0) * (GRID - 1)
    v = jnp.clip(y / max(bottom, 1.0), 0.0, 1.0) * (GRID - 1)
    hats_x = [jnp.maximum(1.0 - jnp.abs(u - i), 0.0) for i in range(GRID)]
    dx = dy = jnp.zeros_like(x)
    for j in range(GRID):
        hat_y = jnp.maximum(1.0 - jnp.abs(v - j), 0.0)
        dx += hat_y * sum(hats_x[i] * move_x[:, j, i, None, None] for i in range(GRID))
        dy += hat_y * sum(hats_x[i] * move_y[:, j, i, None, None] for i in range(GRID))
    return x + dx, y + dy


def stretch(x, width, times, canvas_px):
    """Makes lines `times` f32[B] as wide, as far as the canvas has room: (x f32[B,H,W], new width).

    x: columns of the result, mapped to columns of the line as it is. The new width i32[B] is a
    whole number of pixels in 1 .. canvas_px.
    """
    wide = jnp.clip(jnp.round(times * width), 1, canvas_px)
    ratio = (width / wide)[:, None, None]
    return (x + 0.5) * ratio - 0.5, wide.astype(jnp.int32)


NODE_PX = 12  # between the nodes of `elastic`: about the width of a letter of a 32 px high line


def elastic(x, y, keys, reach_px):
    """Bends lines smoothly: (x, y), f32[B,H,W] each, moved by up to about 2 * reach_px f32[B].

    Every node of a grid with NODE_PX between its nodes draws a normal displacement, and a cubic
    B-spline joins them. Simard et al. (ICDAR 2003) instead smooth pixel noise with a Gaussian.
    """
    _, height, canvas_px = x.shape
    down, across = _spline(height), _spline(canvas_px)
    shape = (2, down.shape[1], across.shape[1])
    nodes = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    nodes = nodes * reach_px[:, None, None, None]
    moved = jnp.einsum("hj,bdji,wi->dbhw", down, nodes, across, precision="highest")
    return x + moved[0], y + moved[1]


def _spline(size):
    """f32[size, nodes]: the weight of each node at each pixel, a cubic B-spline of unit
    variance."""
    nodes = size // NODE_PX + 3
    at = jnp.arange(size, dtype=jnp.float32)[:, None] / NODE_PX + 1.0
    away = jnp.abs(at - jnp.arange(nodes, dtype=jnp.float32)[None])
    near = 2.0 / 3.0 - away**2 + away**3 / 2.0
    far = jnp.clip(2.0 - away, 0.0) ** 3 / 6.0
    weight = jnp.where(away < 1.0, near, far)
    return weight / jnp.sqrt(jnp.sum(weight**2, axis=1, keepdims=True))


def pixel_grid(batch, height, canvas_px):
    """(x, y), f32[B,H,W] each: the position of every pixel."""
    shape = (batch, height, canvas_px)
    x = jnp.broadcast_to(jnp.arange(canvas_px, dtype=jnp.float32)[None, None, :], shape)
    y = jnp.broadcast_to(jnp.arange(height, dtype=jnp.float32)[None, :, None], shape)
    return x, y


def limit_shift(x, y, width, max_shift_px, start=None):
    """Keeps every pixel's way sideways from `start` f32[B,H,W] (None: its place) within
    +-max_shift_px (None: no bound) and x inside the line.

    Windows of two views hold the same letters only if the text did not travel between windows.
    """
    if start is None:
        start = jnp.arange(x.shape[2], dtype=jnp.float32)[None, None, :]
    right = width.astype(jnp.float32)[:, None, None] - 1.0
    if max_shift_px is not None:
        x = start + jnp.clip(x - start, -max_shift_px, max_shift_px)
    return jnp.clip(x, 0.0, right), jnp.clip(y, 0.0, x.shape[1] - 1.0)
