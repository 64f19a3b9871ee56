"""What recognisers alone do to their lines: widths, smooth bends, strokes, boxes (lines_strong)."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.augment import color, geometry, recipes, views

H, W = 32, 160


@functools.cache
def bars():
    """Two lines with a dark bar of 4 px every 16 px, 128 and 150 px wide on a canvas of 160."""
    width = np.array([128, 150], np.int32)
    image = np.where((np.arange(W) % 16 < 4)[None, None], 0, 255) * np.ones((2, H, 1))
    image = np.where(np.arange(W)[None, None] < width[:, None, None], image, 255)
    return image[..., None].astype(np.uint8), width


def augmented(recipe, key=0):
    run = jax.jit(lambda key: views.augment_lines(key, *map(jnp.asarray, bars()), recipe))
    image, width = run(jax.random.key(key))
    return np.asarray(image)[..., 0], np.asarray(width)


@pytest.mark.parametrize("times", [0.75, 1.05, 1.5])
def test_a_stretched_line_is_the_line_resized(times):
    """Against OpenCV, up to the room there is; what it leaves free is paper."""
    image, width = augmented(views.only("stretch", times=times))
    before, narrow = bars()
    np.testing.assert_array_equal(width, np.minimum(np.round(narrow * times), W))
    for row, (now, was) in enumerate(zip(width, narrow)):
        expected = cv2.resize(before[row, :, :was, 0], (int(now), H)) / 255
        np.testing.assert_allclose(image[row, :, :now], expected, atol=0.02)
        assert (image[row, :, now:] == 1.0).all()


def test_views_for_pre_training_keep_their_width():
    with pytest.raises(ValueError, match="changes the width of lines"):
        image, width = bars()
        views.augment(jax.random.key(0), image, width, views.only("stretch", times=1.1))


def test_bends_are_smooth_and_of_the_size_asked_for():
    keys = jax.random.split(jax.random.key(0), 64)
    still = geometry.pixel_grid(64, H, W)
    x, y = geometry.elastic(*still, keys, jnp.full(64, 0.5))
    for moved, at in zip((x, y), still):
        away = np.asarray(moved - at)
        assert 0.45 < away.std() < 0.55
        assert np.abs(np.diff(away, axis=2)).max() < 0.5 > np.abs(np.diff(away, axis=1)).max()
    x, y = geometry.elastic(*still, keys, jnp.zeros(64))
    assert (x == still[0]).all() and (y == still[1]).all()


def test_strokes_grow_and_shrink_as_opencv_erodes_and_dilates():
    image, width = bars()
    planes = jnp.asarray(image / 255.0, jnp.float32).transpose(0, 3, 1, 2)
    for grow, plain in ((1.0, cv2.erode), (-1.0, cv2.dilate)):
        out = color.morphology(planes, jnp.asarray(width), grow=jnp.full(2, grow))
        for row, real in enumerate(width):
            expected = plain(image[row, :, :real, 0], np.ones((3, 3), np.uint8)) / 255
            np.testing.assert_allclose(out[row, 0, :, :real], expected, atol=1e-6)
    same = color.morphology(planes, jnp.asarray(width), grow=jnp.zeros(2))
    np.testing.assert_allclose(same, planes, atol=1e-6)


def test_boxes_are_painted_where_they_lie():
    image = jnp.ones((1, 1, H, W))
    boxes = jnp.array([[[0.5, 0.25, 3.0, 2.0]]])
    out = color.erase(image, jnp.array([100]), boxes=boxes, grey=jnp.array([0.25]))
    rows, columns = np.nonzero(np.asarray(out)[0, 0] == 0.25)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 10, 47, 53)
    assert (np.asarray(out)[0, 0] < 1).sum() == 5 * 7


def test_an_operator_has_a_chance_of_its_own():
    recipe = views.only("stretch", times=0.5)
    recipe = {**recipe, "operators": (("stretch", {"times": 0.5, "chance": 0.3}),)}
    draws = jax.jit(lambda key: views.draw(key, 2000, recipe).rank["stretch"])(jax.random.key(1))
    assert abs(float((draws < views.UNUSED).mean()) - 0.3) < 0.03


@pytest.mark.slow
def test_lines_strong_is_never_the_same_and_keeps_to_the_line():
    pictures, widths = zip(*(augmented(recipes.LINES_STRONG, key) for key in range(4)))
    assert len({picture.tobytes() for picture in pictures}) == 4
    for picture, width in zip(pictures, widths):
        assert picture.min() >= 0 and picture.max() <= 1
        assert all((picture[row, :, wide:] == 1).all() for row, wide in enumerate(width))
        assert (width >= 0.85 * bars()[1] - 1).all() and (width <= W).all()
