"""Hidden tokens: exact counts, never on padding, evenly spread."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dig_jax.augment.masks import KINDS, hider, kinds, most_visible, random_mask, unit_mask

PATCH = (4, 4)


def test_dig_hides_179_of_256(key):
    mask = random_mask(key, jnp.full((64,), 128), (8, 32), PATCH, 0.7)
    assert mask.shape == (64, 256) and mask.dtype == bool
    np.testing.assert_array_equal(np.sum(mask, axis=1), 179)


@pytest.mark.slow
@pytest.mark.parametrize(
    "ratio, span", [(0.3, 1), (0.7, 1), (0.7, 2), (0.3, 5), (0.6, 40), (0, 1), (0, 3), (1, 3)]
)
@pytest.mark.parametrize("grid", [(8, 32), pytest.param((1, 31), marks=pytest.mark.slow)])
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
            assert np.all(
                line.reshape(columns, rows).min(axis=1) == line.reshape(columns, rows).max(axis=1)
            )
    visible = -(-width // 4) * rows - mask.sum(axis=1)
    assert visible.max() == visible[-1] == most_visible(grid, PATCH, ratio, span)


@pytest.mark.parametrize("span", [1, 3, 4])
@pytest.mark.parametrize("width", [50])
def test_every_real_token_is_hidden_equally_often(span, width):
    lines, rows = 6000, 2
    mask = np.asarray(
        random_mask(jax.random.key(1), jnp.full((lines,), width), (rows, 32), PATCH, 0.6, span)
    )
    real = -(-width // 4)
    share = mask[:, : real * rows].mean(axis=0)
    expected = (int(0.6 * real * rows) / (real * rows)) if span == 1 else int(0.6 * real) / real
    assert np.abs(share - expected).max() < 5 * np.sqrt(expected * (1 - expected) / lines)


@pytest.mark.slow
def test_spans_are_runs():
    mask = np.asarray(random_mask(jax.random.key(2), jnp.full((500,), 240), (1, 60), PATCH, 0.2, 4))
    # 12 hidden columns of 60 in three runs, at most one of them cut by the end and one by the
    # ring's rest.
    starts = (mask & ~np.roll(mask, 1, axis=1)).sum(axis=1)
    assert starts.max() <= 5 and starts.mean() < 3.2
    single = np.asarray(
        random_mask(jax.random.key(2), jnp.full((500,), 240), (1, 60), PATCH, 0.2, 1)
    )
    assert (single & ~np.roll(single, 1, axis=1)).sum(axis=1).mean() > 8


def test_deterministic_and_different_for_each_line_and_key(key):
    draw = lambda k, n: np.asarray(random_mask(k, jnp.full((n,), 128), (8, 32), PATCH, 0.7))
    one = draw(key, 16)
    np.testing.assert_array_equal(one, draw(key, 16))
    np.testing.assert_array_equal(
        one[:8], draw(key, 8)
    )  # a line's mask does not depend on the batch size
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


# ---- units of several patches ----


def test_simmim_hides_30_of_49_units_and_154_of_256_patches(key):
    mask = np.asarray(unit_mask(key, jnp.full((8,), 224), (14, 14), (16, 16), 0.6, (32, 32)))
    np.testing.assert_array_equal(mask.sum(axis=1), 120)  # 2 x 2 tokens a unit
    single = unit_mask(key, jnp.full((8,), 128), (8, 32), PATCH, 0.6, PATCH)
    np.testing.assert_array_equal(np.sum(single, axis=1), 154)


@pytest.mark.parametrize(
    "grid, unit_px, ratio",
    [((8, 32), (8, 12), 0.6), ((1, 31), (4, 8), 0.6), ((4, 16), (4, 4), 0.3)],
)
def test_units_are_hidden_whole_on_every_width(key, grid, unit_px, ratio):
    rows, columns = grid
    down, across = unit_px[0] // 4, unit_px[1] // 4
    width = np.arange(1, columns * 4 + 1)
    mask = np.asarray(
        jax.jit(lambda k, w: unit_mask(k, w, grid, PATCH, ratio, unit_px))(key, width)
    )
    for w, line in zip(width, mask):
        real, picture = -(-w // 4), line.reshape(columns, rows).T
        assert not picture[:, real:].any()
        units = [
            picture[y : y + down, x : min(x + across, real)]
            for y in range(0, rows, down)
            for x in range(0, real, across)
        ]
        assert all(unit.min() == unit.max() for unit in units)
        assert sum(unit.max() for unit in units) == min(
            math.ceil(ratio * len(units)), len(units) - 1
        )
        assert line.sum() < real * rows  # something is left to see


def test_every_unit_is_hidden_equally_often():
    lines = 6000
    mask = np.asarray(
        unit_mask(jax.random.key(1), jnp.full((lines,), 50), (2, 32), PATCH, 0.6, (4, 8))
    )
    share = mask[:, : 13 * 2].mean(axis=0)
    expected = math.ceil(0.6 * 14) / 14  # 7 units a row, the last of them half a one
    assert np.abs(share - expected).max() < 5 * np.sqrt(expected * (1 - expected) / lines)
    assert len({line.tobytes() for line in mask[:50]}) > 40


@pytest.mark.parametrize(
    "unit_px, ratio", [((4, 6), 0.5), ((6, 4), 0.5), ((12, 4), 0.5), ((0, 4), 0.5)]
)
def test_impossible_units_are_sentences(key, unit_px, ratio):
    with pytest.raises(ValueError, match="method.mask_unit_px"):
        unit_mask(key, jnp.array([8]), (8, 2), PATCH, ratio, unit_px)
    with pytest.raises(ValueError, match="method.mask_ratio"):
        unit_mask(key, jnp.array([8]), (8, 2), PATCH, 1.2, (4, 4))


# ---- one option: the kind ----

KIND_GRIDS = [(8, 32), (1, 31)]  # patches of a part of the height, and of all of it


@pytest.mark.parametrize("grid", KIND_GRIDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_its_rate_and_shape(kind, grid):
    """Half of each line, whatever its width, but for one unit and what the end cuts off of units;
    padding is never hidden."""
    rows, columns = grid
    width = np.arange(1, columns * 4 + 1)
    hide = hider(PATCH, 0.5, 3, kind)
    mask = np.asarray(jax.jit(lambda k, w: hide(k, w, grid))(jax.random.key(4), width))
    pictures = mask.reshape(-1, columns, rows)
    unit = {"random": 1, "span": rows, "block": 4 + rows, "mixed": 4 + rows}[kind]
    for w, line in zip(width, pictures):
        real = -(-w // 4)
        assert not line[real:].any() and abs(line.sum() - 0.5 * real * rows) <= unit
        whole_columns = (line.min(1) == line.max(1)).all()
        assert whole_columns or kind != "span"
        tall = 2 - rows % 2
        blocks = line[: real // 2 * 2].reshape(real // 2, 2, rows // tall, tall)
        whole_blocks = (blocks.min((1, 3)) == blocks.max((1, 3))).all()
        assert whole_blocks or kind != "block"
    visible = (-(-width // 4) * rows - mask.sum(1)).max()
    assert visible <= most_visible(grid, PATCH, 0.5, 3, kind)


@pytest.mark.slow
def test_mixed_draws_one_of_the_three_for_each_line_whatever_the_batch():
    hide, width, grid = hider(PATCH, 0.5, 4, "mixed"), jnp.full((900,), 128), (8, 32)
    draw = jax.jit(lambda w: hide(jax.random.key(0), w, grid))
    mask = np.asarray(draw(width))
    np.testing.assert_array_equal(mask[:90], draw(width[:90]))
    lines = mask.reshape(-1, 32, 8)
    spans = (lines.min(2) == lines.max(2)).all(1)
    blocks = lines.reshape(-1, 16, 2, 4, 2)
    blocks = (blocks.min((2, 4)) == blocks.max((2, 4))).all((1, 2)) & ~spans
    for share in (spans.mean(), blocks.mean(), (~spans & ~blocks).mean()):
        assert abs(share - 1 / 3) < 5 * math.sqrt(2 / 9 / 900)


@pytest.mark.slow
def test_the_other_options_say_the_kind_where_it_is_not_named(key):
    assert kinds(None, 1, None) == ("random",) and kinds(None, 2, None) == ("span",)
    with pytest.raises(ValueError, match="mask_span is 4, and mask_unit_px hides blocks"):
        kinds(None, 4, (8, 8))
    assert kinds(None, 1, (8, 8)) == ("block",) and kinds("random", 2, None) == ("random",)
    width, grid = jnp.full((4,), 128), (8, 32)
    same = np.testing.assert_array_equal
    same(hider(PATCH, 0.7)(key, width, grid), random_mask(key, width, grid, PATCH, 0.7))
    same(hider(PATCH, 0.7, 3)(key, width, grid), random_mask(key, width, grid, PATCH, 0.7, 3))
    blocks = unit_mask(key, width, grid, PATCH, 0.7, (8, 8))
    same(hider(PATCH, 0.7, kind="block")(key, width, grid), blocks)
    same(hider(PATCH, 0.7, unit_px=(8, 8))(key, width, grid), blocks)


@pytest.mark.parametrize("grid", KIND_GRIDS)
def test_no_block_mask_leaves_more_than_it_says(grid):
    """Many draws of lines that the units do not divide come to the bound, and not above it."""
    hide, width = hider(PATCH, 0.4, kind="block"), np.repeat(np.arange(1, grid[1] * 4, 7), 60)
    mask = np.asarray(hide(jax.random.key(0), jnp.asarray(width), grid))
    visible = -(-width // 4) * grid[0] - mask.sum(1)
    bound = most_visible(grid, PATCH, 0.4, kind="block")
    assert visible.max() <= bound <= visible.max() + 4


def test_impossible_kinds_are_sentences():
    with pytest.raises(ValueError, match="mask_kind is 'blok'; set config.method.mask_kind to one"):
        hider(PATCH, 0.5, kind="blok")
    for kind in ("span", "mixed"):
        with pytest.raises(ValueError, match="mask_span is 1.*config.method.mask_span to 2"):
            hider(PATCH, 0.5, kind=kind)
