"""Hidden tokens: exact counts, never on padding, evenly spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dig_jax.augment.masks import random_mask

PATCH = (4, 4)


def test_dig_hides_179_of_256(key):
    mask = random_mask(key, jnp.full((64,), 128), (8, 32), PATCH, 0.7)
    assert mask.shape == (64, 256) and mask.dtype == bool
    np.testing.assert_array_equal(np.sum(mask, axis=1), 179)


@pytest.mark.parametrize("ratio, span", [(0.3, 1), (0.7, 1), (0.7, 2), (0.3, 5), (0.6, 40), (0, 1), (0, 3), (1, 3)])
@pytest.mark.parametrize("grid", [(8, 32), (1, 31)])
def test_counts_of_every_width(key, grid, ratio, span):
    rows, columns = grid
    width = np.arange(1, columns * 4 + 1)
    mask = np.asarray(jax.jit(lambda k, w: random_mask(k, w, grid, PATCH, ratio, span))(key, width))
    for w, line in zip(width, mask):
        real = -(-w // 4)
        expected = int(ratio * real * rows) if span == 1 else int(ratio * real) * rows
        assert line.sum() == expected
        assert not line[real * rows :].any()
        if span > 1:
            assert np.all(line.reshape(columns, rows).min(axis=1) == line.reshape(columns, rows).max(axis=1))


@pytest.mark.parametrize("span", [1, 3, 4])
@pytest.mark.parametrize("width", [50])
def test_every_real_token_is_hidden_equally_often(span, width):
    lines, rows = 6000, 2
    mask = np.asarray(random_mask(jax.random.key(1), jnp.full((lines,), width), (rows, 32), PATCH, 0.6, span))
    real = -(-width // 4)
    share = mask[:, : real * rows].mean(axis=0)
    expected = (int(0.6 * real * rows) / (real * rows)) if span == 1 else int(0.6 * real) / real
    assert np.abs(share - expected).max() < 5 * np.sqrt(expected * (1 - expected) / lines)


def test_spans_are_runs():
    mask = np.asarray(random_mask(jax.random.key(2), jnp.full((500,), 240), (1, 60), PATCH, 0.2, 4))
    # 12 hidden columns of 60 in three runs, at most one of them cut by the end and one by the ring's rest.
    starts = (mask & ~np.roll(mask, 1, axis=1)).sum(axis=1)
    assert starts.max() <= 5 and starts.mean() < 3.2
    single = np.asarray(random_mask(jax.random.key(2), jnp.full((500,), 240), (1, 60), PATCH, 0.2, 1))
    assert (single & ~np.roll(single, 1, axis=1)).sum(axis=1).mean() > 8


def test_deterministic_and_different_for_each_line_and_key(key):
    draw = lambda k, n: np.asarray(random_mask(k, jnp.full((n,), 128), (8, 32), PATCH, 0.7))  # noqa: E731
    one = draw(key, 16)
    np.testing.assert_array_equal(one, draw(key, 16))
    np.testing.assert_array_equal(one[:8], draw(key, 8))  # a line's mask does not depend on the batch size
    assert len({line.tobytes() for line in one}) == 16
    assert not np.array_equal(one, draw(jax.random.key(9), 16))


@pytest.mark.parametrize("span", [1, 3])
def test_same_masks_on_eight_devices(key, span):
    width = np.arange(16) * 8 + 1
    draw = jax.jit(lambda k, w: random_mask(k, w, (8, 32), PATCH, 0.7, span))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(width, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_array_equal(draw(key, width), draw(key, spread))


def test_impossible_requests_are_sentences(key):
    with pytest.raises(ValueError, match="mask_ratio"):
        random_mask(key, jnp.array([4]), (1, 1), PATCH, 1.2)
    with pytest.raises(ValueError, match="mask_span"):
        random_mask(key, jnp.array([4]), (1, 1), PATCH, 0.5, 0)
