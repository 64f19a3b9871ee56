"""Geometry against analytic positions and against OpenCV and PIL."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.augment import geometry, recipes, resample, views
from dig_jax.tools.perf import workload

H, W = 32, 96


def f32(*values):
    return jnp.array(values, jnp.float32)


def smooth(width=W, seed=0):
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.random((H, width), dtype=np.float32), (0, 0), 2.0)


def warp(matrix, image, width):
    """One grey picture [H,W] through one f32[1,3,3]."""
    x, y = geometry.apply_matrix(matrix, *geometry.pixel_grid(1, *image.shape))
    x, y = geometry.limit_shift(x, y, jnp.array([width]), None)
    return np.asarray(resample.bilinear(jnp.asarray(image)[None, None], x, y))[0, 0]


@pytest.mark.parametrize("width", [1, 40, 96])
def test_amounts_of_nothing_are_identity(width):
    w = jnp.array([width])
    nothing = {
        "crop_vertical": {"top": f32(0), "bottom": f32(0)},
        "crop_horizontal": {"left": f32(0), "right": f32(0)},
        "shift": {"right_px": f32(0), "down_px": f32(0)},
        "rotate": {"degrees": f32(0)},
        "perspective": {"corners": jnp.zeros((1, 4, 2))},
        "affine": {"times": f32(1), "degrees_x": f32(0), "degrees_y": f32(0)},
        "scale": {"across": f32(1), "down": f32(1)},
        "shear": {"degrees_x": f32(0), "degrees_y": f32(0)},
    }
    assert set(nothing) == set(geometry.MATRICES)
    for name, amounts in nothing.items():
        np.testing.assert_allclose(
            geometry.MATRICES[name](H, w, **amounts)[0], np.eye(3), atol=1e-6, err_msg=name
        )
    x, y = geometry.apply_piecewise(*geometry.pixel_grid(1, H, W), w, jnp.zeros((1, 4, 4, 2)))
    np.testing.assert_array_equal(x, geometry.pixel_grid(1, H, W)[0])
    image = smooth()[None, None]
    np.testing.assert_array_equal(
        resample.bilinear(jnp.asarray(image), *geometry.pixel_grid(1, H, W)), image
    )


def test_rotation_moves_a_dot_to_the_known_place():
    width = 61  # centre (30, 15.5)
    turned = geometry.rotate(H, jnp.array([width]), degrees=f32(30.0))
    # Clockwise as seen: a point right of the centre goes down. The map sends the result's place to
    # the source's.
    angle = np.deg2rad(30)
    place = (30 + 20 * np.cos(angle), 15.5 + 20 * np.sin(angle))
    x, y = geometry.apply_matrix(
        turned, jnp.full((1, 1, 1), place[0]), jnp.full((1, 1, 1), place[1])
    )
    np.testing.assert_allclose([x.item(), y.item()], [50.0, 15.5], atol=1e-4)


def test_rotation_equals_opencv():
    image, width, degrees = smooth(), 80, 7.0
    ours = warp(geometry.rotate(H, jnp.array([width]), degrees=f32(degrees)), image, width)[
        :, :width
    ]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (H - 1) / 2), -degrees, 1.0)
    theirs = cv2.warpAffine(
        image[:, :width],
        matrix,
        (width, H),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    np.testing.assert_allclose(ours, theirs, atol=0.02)  # OpenCV rounds positions to 1/32 px


def test_crops_equal_cut_and_linear_resize():
    image, width = smooth(), 80
    ours = warp(
        geometry.crop_vertical(H, jnp.array([width]), top=f32(0.25), bottom=f32(0.125)),
        image,
        width,
    )
    theirs = cv2.resize(image[8:28, :width], (width, H), interpolation=cv2.INTER_LINEAR)
    # The first and last rows interpolate across the cut in ours; a cut picture has nothing to
    # interpolate with.
    np.testing.assert_allclose(ours[1:-1, :width], theirs[1:-1], atol=1e-5)
    ours = warp(
        geometry.crop_horizontal(H, jnp.array([width]), left=f32(0.1), right=f32(0.05)),
        image,
        width,
    )
    theirs = cv2.resize(image[:, 8:76], (width, H), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(ours[:, 1 : width - 1], theirs[:, 1:-1], atol=1e-5)


def test_perspective_sends_the_corners_of_the_line_to_the_quadrilateral():
    width, rng = 50, np.random.default_rng(1)
    corners = np.abs(rng.normal(0, 0.1, (4, 2))).astype(np.float32)
    matrix = geometry.perspective(H, jnp.array([width]), corners=jnp.asarray(corners)[None])
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    quad = (square + np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * corners) * [width, H]
    # OpenCV's own solution of the same eight equations, on pixel edges; ours acts on pixel centres,
    # half a pixel less.
    expected = cv2.getPerspectiveTransform(
        (square * [width, H]).astype(np.float32), quad.astype(np.float32)
    )
    for place in [(0, 0), (30.0, 7.0), (49.0, 31.0)]:
        x, y = geometry.apply_matrix(
            matrix, jnp.full((1, 1, 1), place[0]), jnp.full((1, 1, 1), place[1])
        )
        there = expected @ [place[0] + 0.5, place[1] + 0.5, 1.0]
        np.testing.assert_allclose([x.item(), y.item()], there[:2] / there[2] - 0.5, atol=1e-3)


def test_shift_moves_content_right_and_down():
    image = np.zeros((H, W), np.float32)
    image[10, 20] = 1.0
    moved = warp(geometry.shift(H, jnp.array([W]), right_px=f32(3.0), down_px=f32(2.0)), image, W)
    assert np.unravel_index(moved.argmax(), moved.shape) == (12, 23) and moved.max() == 1.0


def test_piecewise_equals_a_bilinearly_enlarged_grid():
    width, rng = 81, np.random.default_rng(2)
    offsets = rng.normal(0, 0.02, (4, 4, 2)).astype(np.float32)
    offsets[[0, -1]], offsets[:, [0, -1]] = 0.0, 0.0  # so that clipping at the border does nothing
    x, y = geometry.apply_piecewise(
        *geometry.pixel_grid(1, H, W), jnp.array([width]), jnp.asarray(offsets)[None]
    )
    for row, column in [(0, 0), (5, 13), (16, 40), (31, 80), (20, 66)]:
        u, v = column / (width - 1) * 3, row / (H - 1) * 3
        i, j = min(int(u), 2), min(int(v), 2)
        fu, fv = u - i, v - j
        moved = (
            (1 - fv) * ((1 - fu) * offsets[j, i] + fu * offsets[j, i + 1])
            + fv * ((1 - fu) * offsets[j + 1, i] + fu * offsets[j + 1, i + 1])
        ) * [width, H]
        np.testing.assert_allclose(
            [x[0, row, column] - column, y[0, row, column] - row], moved, atol=1e-4
        )


def test_piecewise_keeps_its_grid_points_inside_the_line():
    offsets = jnp.full((1, 4, 4, 2), -0.5)
    x, y = geometry.apply_piecewise(*geometry.pixel_grid(1, H, W), jnp.array([W]), offsets)
    assert x.min() > -1e-4 and y.min() > -1e-4 and x.max() < W - 1


def test_compose_is_first_operator_then_second():
    image, w = smooth(), jnp.array([W])
    first = geometry.shift(H, w, right_px=f32(4.0), down_px=f32(0.0))
    second = geometry.rotate(
        H, w, degrees=f32(90.0)
    )  # not commuting; whole-pixel only for the shift
    both = warp(geometry.compose(first, second), image, W)
    stepwise = warp(second, warp(first, image, W), W)
    np.testing.assert_allclose(both[8:24, 40:56], stepwise[8:24, 40:56], atol=1e-4)


BOTH = pytest.mark.parametrize("bilinear", [resample.by_gathers, resample.by_products])


@BOTH
def test_resample_equals_a_slow_loop(bilinear):
    rng = np.random.default_rng(3)
    image = rng.random((2, 5, 7, 3)).astype(np.float32)
    x, y = (
        rng.uniform(0, 6, (2, 5, 7)).astype(np.float32),
        rng.uniform(0, 4, (2, 5, 7)).astype(np.float32),
    )
    x[0, 0, 0], y[0, 0, 0] = 6.0, 4.0
    ours = bilinear(jnp.moveaxis(jnp.asarray(image), 3, 1), jnp.asarray(x), jnp.asarray(y))
    slow = np.zeros_like(image)
    for b, r, c in np.ndindex(2, 5, 7):
        i, j = min(int(x[b, r, c]), 5), min(int(y[b, r, c]), 3)
        fx, fy = x[b, r, c] - i, y[b, r, c] - j
        slow[b, r, c] = (1 - fy) * ((1 - fx) * image[b, j, i] + fx * image[b, j, i + 1]) + fy * (
            (1 - fx) * image[b, j + 1, i] + fx * image[b, j + 1, i + 1]
        )
    np.testing.assert_allclose(np.moveaxis(ours, 1, 3), slow, atol=1e-6)


@BOTH
def test_resample_has_the_slope_of_its_pixels_up_to_the_edge(bilinear):
    """A rectifier learns through it: on a ramp the slope is the same everywhere, on the last column
    and row too.
    """
    x, y = geometry.pixel_grid(1, H, W)
    ramp = (2 * x + 3 * y)[:, None]
    total = lambda x, y: bilinear(ramp, x, y).sum()
    across, down = jax.grad(total, argnums=(0, 1))(x, y)
    np.testing.assert_allclose(across, 2.0, atol=1e-4)
    np.testing.assert_allclose(down, 3.0, atol=1e-4)
    dot, here = jnp.full((1, 1, 1, 1), 7.0), jnp.zeros((1, 1, 1))
    assert bilinear(dot, here, here).item() == 7.0
    assert jax.grad(lambda x: bilinear(dot, x, here).sum())(here).item() == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_])
@pytest.mark.parametrize("picked", [resample.pixels_by_gathers, resample.pixels_by_products])
def test_nearest_pixels_are_exact_in_both_ways(picked, dtype):
    rng = np.random.default_rng(4)
    values = (rng.random((2, 5, 7)) * 2**24).astype(dtype)
    column, row = rng.integers(0, 7, (2, 5, 7)), rng.integers(0, 5, (2, 5, 7))
    found = picked(jnp.asarray(values), column.astype(np.float32), row.astype(np.float32))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values[np.arange(2)[:, None, None], row, column])


def test_resample_on_a_tpu_is_products_and_elsewhere_gathers():
    """Lowered for a TPU without one; the operations of the model do not count that branch."""
    image, here = jnp.zeros((1, 1, 4, 6)), jnp.zeros((1, 4, 6))
    labels = lambda x, y: resample.nearest(image[:, 0], x, y, jnp.array([6]), 0.0)
    for call in (lambda x, y: resample.bilinear(image, x, y), labels):
        traced = jax.jit(call).trace(here, here)
        for platform, products in (("tpu", True), ("cpu", False), ("cuda", False)):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert ("dot_general" in text, "stablehlo.gather" in text) == (products, not products)
        assert workload.matmul_flops(traced.jaxpr) == 0.0


@pytest.mark.parametrize("bound", [0.0, 2.5])
def test_no_pixel_travels_further_than_the_bound(bound):
    """On a picture whose value is its own column, the view tells where each pixel came from."""
    width = jnp.array([W, 70, 33, 1] * 8)
    ramp = jnp.broadcast_to(
        jnp.arange(W, dtype=jnp.float32)[None, None, :, None] / W, (32, H, W, 1)
    )
    recipe = {
        "some_of": (5, 5),
        "operators": tuple(
            o for o in recipes.DIG["operators"] if o[0] in (*geometry.MATRICES, "piecewise")
        ),
        "jitter": None,
        "grayscale_p": 0.0,
    }

    def way(max_shift_px):
        view = jax.jit(lambda k: views.augment(k, ramp, width, recipe, max_shift_px))(
            jax.random.key(4)
        )
        return np.asarray(jnp.abs(view - ramp)).max() * W

    assert way(bound) <= bound + 1e-3
    assert way(None) > 8.0
