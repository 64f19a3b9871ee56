"""Rotation: the turned copies against numpy's own turns, and that padding stays where it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.methods import rotation

ENCODER = {"patch": (8, 4), "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}
HEIGHT, WIDTH = 16, 64
WIDTHS = np.array([64, 48, 37, 16, 9, 1])


@pytest.fixture(scope="module")
def raw():
    image = np.random.default_rng(0).integers(0, 255, (len(WIDTHS), HEIGHT, WIDTH, 3), np.uint8)
    image[np.broadcast_to((np.arange(WIDTH) >= WIDTHS[:, None])[:, None, :, None], image.shape)] = (
        255
    )
    batch = {
        "image": image,
        "width": WIDTHS.astype(np.int32),
        "valid": np.array([True] * 5 + [False]),
    }
    return jax.tree.map(jnp.asarray, batch)


def copies(raw, **options):
    method = rotation.Method(encoder=ENCODER, channels=3, **options)
    batch = jax.jit(method.augment)(jax.random.key(0), raw)
    assert (batch["width"] == raw["width"]).all() and (batch["valid"] == raw["valid"]).all()
    names = [name for name in batch if name.startswith("view")]
    return [np.asarray(batch[name]) for name in names], np.asarray(batch["answer"])


def cells_turned(line):
    """A line (H, n * H, C) with each square turned by 90 degrees clockwise."""
    squares = [line[:, x : x + HEIGHT] for x in range(0, line.shape[1], HEIGHT)]
    return np.concatenate([np.rot90(square, -1) for square in squares], axis=1)


@pytest.mark.parametrize("square_cells", [True, False])
@pytest.mark.parametrize("classes", [2, 4])
def test_copies_are_the_real_part_turned_and_padding_says_nothing(raw, classes, square_cells):
    views, answer = copies(raw, classes=classes, square_cells=square_cells)
    lines = np.asarray(raw["image"]) / 127.5 - 1
    assert (
        len(views) == classes
        and (answer == np.arange(classes)).all()
        and answer.shape == (len(WIDTHS), classes)
    )
    half = views[classes // 2]
    for b, width in enumerate(WIDTHS):
        real = lines[b, :, :width]
        np.testing.assert_allclose(views[0][b, :, :width], real, atol=1e-6)
        np.testing.assert_allclose(half[b, :, :width], np.rot90(real, 2), atol=1e-6)
        for view in views:
            assert (view[b, :, width:] == views[0][b, :, width:]).all()  # the same for every answer
            assert (view[b, :, :width] < 0.999).all()  # and none of it within the line
        if classes == 4:
            np.testing.assert_allclose(
                views[3][b, :, :width], np.rot90(views[1][b, :, :width], 2), atol=1e-6
            )
            if width % HEIGHT == 0 and square_cells or width == HEIGHT:
                np.testing.assert_allclose(views[1][b, :, :width], cells_turned(real), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("square_cells", [True, False])
@pytest.mark.parametrize("width", [64, 56, 37, 9])
def test_quarter_turns_of_any_width_put_the_left_on_top_and_the_foot_at_the_left(
    width, square_cells
):
    """Of a plain ramp linear resampling is exact away from the borders of a cell."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([x, y], axis=-1)[None].astype(np.float32)
    turned = rotation.quarter_turn(jnp.asarray(image), jnp.array([width]), square_cells)[0]
    count = max(1, round(width / HEIGHT)) if square_cells else 1
    cell_px = width / count
    for column in range(width):
        cell = int((column + 0.5) / cell_px)
        for row in range(HEIGHT):
            from_x = (cell + (row + 0.5) / HEIGHT) * cell_px - 0.5
            from_y = (1 - ((column + 0.5) / cell_px - cell)) * HEIGHT - 0.5
            from_x = min(max(from_x, cell * cell_px), (cell + 1) * cell_px - 1)
            expected = (from_x, min(max(from_y, 0), HEIGHT - 1))
            np.testing.assert_allclose(turned[row, column], expected, atol=1e-3)
    np.testing.assert_array_equal(turned[:, width:], image[0, :, width:])


def test_other_counts_of_angles_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"classes is 3.*config.method.classes to 2 .* or 4"):
        rotation.Method(encoder=ENCODER, channels=1, classes=3)
