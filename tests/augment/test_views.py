"""Recipes: the drawn order, ranges, padding, determinism, devices."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dig_jax.augment import color, filters, geometry, recipes, resample, views
from tests.tiers import tiers

H, W = 16, 48


def lines(batch=8, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    width = rng.integers(5, W + 1, batch).astype(np.int32)
    image = rng.integers(0, 256, (batch, H, W, channels), dtype=np.uint8)
    image = np.where(
        np.arange(W)[None, None, :, None] < width[:, None, None, None], image, 255
    ).astype(np.uint8)
    return image, width


def augment(key, image, width, recipe, max_shift_px=None):
    """Compiled: operator by operator would compile a hundred small programs."""
    run = jax.jit(lambda k, i, w: views.augment(k, i, w, recipe, max_shift_px))
    return np.asarray(run(key, image, width))


def drawn(key, batch, recipe):
    """The draws behind `augment`, as NumPy arrays."""
    return jax.device_get(
        jax.jit(lambda k: views.draw(k, batch, recipe)._replace(noise_keys=None))(key)
    )


def flat(low, high):
    """Uniform draws lie within [low, high] and reach both ends' neighbourhoods."""

    def inside(values):
        values = np.asarray(values)
        assert values.min() >= low and values.max() <= high
        reach = 0.02 * (high - low)
        assert values.min() < low + reach and values.max() > high - reach

    return inside


def test_dig_draws_the_documented_ranges():
    draws = drawn(jax.random.key(0), 2000, recipes.DIG)
    amounts = draws.amounts
    flat(0.5, 1.0)(amounts["contrast"]["alpha"])
    flat(0.5, 1.5)(amounts["blur"]["sigma"])
    flat(0.0, 0.3)(amounts["crop_vertical"]["top"])
    flat(0.0, 0.3)(amounts["crop_vertical"]["bottom"])
    flat(0.0, 0.1)(amounts["crop_horizontal"]["left"])
    flat(0.0, 0.1)(amounts["crop_horizontal"]["right"])
    flat(0.0, 0.5)(amounts["sharpen"]["alpha"])
    flat(0.0, 0.5)(amounts["sharpen"]["lightness"])
    flat(-10.0, 10.0)(amounts["rotate"]["degrees"])
    flat(32 / 255, 128 / 255)(amounts["solarize"]["threshold"])
    assert abs(np.mean(amounts["solarize"]["above"]) - 0.5) < 0.05
    flat(0.0, 1.0)(amounts["grayscale"]["alpha"])
    # Normal times uniform: the standard deviation is the root mean square of the scale.
    assert abs(np.std(amounts["piecewise"]["offsets"]) - 0.0351) < 0.0005
    corners = np.asarray(amounts["perspective"]["corners"])
    assert corners.min() >= 0 and abs(np.sqrt(np.mean(corners**2)) - 0.0764) < 0.002
    flat(0.6, 1.4)(draws.jitter["jitter_brightness"][1])
    flat(0.6, 1.4)(draws.jitter["jitter_contrast"][1])
    flat(0.8, 1.2)(draws.jitter["jitter_saturation"][1])
    flat(-0.1, 0.1)(draws.jitter["jitter_hue"][1])
    used = np.asarray(draws.jitter["jitter_hue"][0]) < views.UNUSED
    assert abs(used.mean() - 0.8) < 0.04
    assert abs(np.mean(draws.gray) - 0.2) < 0.04


def test_two_to_five_operators_each_equally_often_in_any_order():
    draws = drawn(jax.random.key(1), 4000, recipes.DIG)
    ranks = np.stack([np.asarray(r) for r in draws.rank.values()], axis=1)
    used = ranks < views.UNUSED
    counts = used.sum(axis=1)
    np.testing.assert_allclose(np.bincount(counts, minlength=6)[2:6] / 4000, 0.25, atol=0.035)
    assert counts.min() == 2 and counts.max() == 5
    np.testing.assert_allclose(used.mean(axis=0), 0.35, atol=0.04)
    for line in ranks[:200]:
        assert sorted(line[line < views.UNUSED]) == list(range((line < views.UNUSED).sum()))
    both = used[:, 0] & used[:, 1]
    assert abs((ranks[both, 0] < ranks[both, 1]).mean() - 0.5) < 0.08


def planes(image):
    """u8[B,H,W,C] -> f32[B,C,H,W] in [0,1]."""
    return jnp.moveaxis(jnp.asarray(image, jnp.float32) / 255, 3, 1)


def slow_view(image, width, draws, recipe, i):
    """Line i alone, operator by operator in its drawn order (photometry first, then geometry
    through one map).
    """
    image, w = planes(image[i : i + 1]), jnp.asarray(width[i : i + 1])
    order = sorted((int(r[i]), n) for n, r in draws.rank.items() if r[i] < views.UNUSED)
    amounts = {n: {a: v[i : i + 1] for a, v in draws.amounts[n].items()} for n in draws.amounts}
    for _, name in order:
        if name in color.TONES:
            image = color.TONES[name](image, w, **amounts[name])
        elif name in filters.FILTERS:
            image = filters.convolve(image, w, *filters.FILTERS[name](**amounts[name]))
    x, y = geometry.pixel_grid(1, H, W)
    for _, name in reversed(order):  # a result pixel asks the last operator first
        if name in geometry.MATRICES:
            x, y = geometry.apply_matrix(geometry.MATRICES[name](H, w, **amounts[name]), x, y)
        elif name == "piecewise":
            x, y = geometry.apply_piecewise(x, y, w, amounts[name]["offsets"])
    view = resample.bilinear(image, *geometry.limit_shift(x, y, w, None))
    return np.moveaxis(np.asarray(view)[0], 0, 2)[:, : width[i]]


@pytest.mark.slow
@pytest.mark.parametrize("channels", tiers([1, 3]))
def test_batched_view_equals_each_line_alone_in_its_drawn_order(key, channels):
    recipe = dict(recipes.DIG, jitter=None, grayscale_p=0.0)
    image, width = lines(12, channels)
    view = augment(key, image, width, recipe)
    draws = drawn(key, 12, recipe)
    for i in range(12):
        np.testing.assert_allclose(
            view[i, :, : width[i]], slow_view(image, width, draws, recipe, i), atol=2e-4
        )


def test_jitter_runs_in_the_drawn_order(key):
    recipe = {
        "some_of": (0, 0),
        "operators": (),
        "jitter": recipes.DIG["jitter"],
        "grayscale_p": 0.2,
    }
    image, width = lines(16, 3)
    view = augment(key, image, width, recipe)
    draws = drawn(key, 16, recipe)
    seen = set()
    for i in range(16):
        line, w = planes(image[i : i + 1]), jnp.asarray(width[i : i + 1])
        order = sorted((int(r[i]), n) for n, (r, _) in draws.jitter.items() if r[i] < views.UNUSED)
        seen.add(tuple(n for _, n in order))
        for _, name in order:
            amount = {
                "turn" if name == "jitter_hue" else "factor": draws.jitter[name][1][i : i + 1]
            }
            line = color.TONES[name](line, w, **amount)
        line = color.grayscale(line, w, alpha=draws.gray[i : i + 1])
        slow = np.moveaxis(np.asarray(line)[0], 0, 2)
        np.testing.assert_allclose(view[i, :, : width[i]], slow[:, : width[i]], atol=1e-5)
    assert len(seen) > 5


RECIPES = {
    "dig": recipes.DIG,
    "light": recipes.LINES_LIGHT,
    **{
        name: views.only(name, **amounts)
        for name, amounts in (*recipes.DIG["operators"], *recipes.LINES_LIGHT["operators"])
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, channels",
    tiers([*((n, 3) for n in RECIPES), ("dig", 1), ("light", 1), ("grayscale", 1)], len(RECIPES)),
)
def test_padding_stays_range_holds_and_padding_never_enters(key, name, channels):
    image, width = lines(8, channels)
    run = jax.jit(lambda i: views.augment(key, i, width, RECIPES[name]))
    view = np.asarray(run(image))
    assert view.dtype == np.float32 and view.min() >= 0.0 and view.max() <= 1.0
    garbage = np.where(
        np.arange(W)[None, None, :, None] < width[:, None, None, None], image, 7
    ).astype(np.uint8)
    other = np.asarray(run(garbage))
    for i, w in enumerate(width):
        assert np.all(view[i, :, w:] == 1.0)
        np.testing.assert_array_equal(view[i, :, :w], other[i, :, :w])
    changes = channels == 3 or name != "grayscale"
    assert np.any(np.abs(view - image / np.float32(255)) > 1e-6) == changes


@pytest.mark.slow
def test_a_line_does_not_change_when_its_padding_grows(key):
    image, width = lines()
    recipe = dict(recipes.DIG)
    wide = np.pad(image, ((0, 0), (0, 0), (0, 32), (0, 0)), constant_values=255)
    one, two = augment(key, image, width, recipe), augment(key, wide, width, recipe)
    np.testing.assert_allclose(one, two[:, :, :W], atol=1e-5)


@pytest.mark.slow
def test_deterministic_by_key_and_different_for_each_line(key):
    image, width = lines(1)
    image, width = np.repeat(image, 6, axis=0), np.full(6, W, np.int32)
    one = augment(key, image, width, recipes.DIG)
    np.testing.assert_array_equal(one, augment(key, image, width, recipes.DIG))
    np.testing.assert_allclose(one[:3], augment(key, image[:3], width[:3], recipes.DIG), atol=1e-5)
    other = augment(jax.random.key(5), image, width, recipes.DIG)
    for a, b in itertools.combinations([*one, *other], 2):
        assert np.any(a != b)


def test_bytes_and_floats_are_the_same_picture(key):
    image, width = lines()
    one = augment(key, image, width, recipes.LINES_LIGHT)
    two = augment(key, jnp.asarray(image, jnp.float32) / 255, width, recipes.LINES_LIGHT)
    np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("recipe", tiers([recipes.DIG, recipes.LINES_LIGHT], 0))
def test_same_views_on_eight_devices(key, recipe):
    image, width = lines(16, 3)
    run = jax.jit(lambda k, i, w: views.augment(k, i, w, recipe, 3.0))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = [jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))) for a in (image, width)]
    many = run(key, *spread)
    assert not many.sharding.is_fully_replicated
    np.testing.assert_allclose(run(key, image, width), many, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"operators": (("rotat", {"degrees": 1}),)}, "nearest: 'rotate'"),
        ({"operators": (("rotate", {"degree": 1}),)}, "takes the amounts"),
        ({"operators": (("rotate", {"degrees": 1}), ("rotate", {"degrees": 2}))}, "once"),
        ({"operators": (("blur", {"sigma": (1, 4)}),)}, "2.1 px"),
        ({"some_of": (2, 11)}, "some_of"),
        ({"jitter": {"gamma": 1}}, "Jitter takes"),
        ({"colour": 1}, "has the keys"),
    ],
)
def test_impossible_recipes_are_sentences(change, message):
    recipe = dict(recipes.DIG, **({"some_of": (1, 1)} if "operators" in change else {}), **change)
    with pytest.raises(ValueError, match=message):
        views.check(recipe)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_named_recipe_is_possible_and_survives_json(name):
    recipe = views.recipe(name)
    assert views.recipe(recipe) is recipe
    for stages in (views.stages(recipe), views.without_motion(recipe)):
        views.check(json.loads(json.dumps(stages)))
    kept = {
        operator for stage in views.without_motion(recipe) for operator, _ in stage["operators"]
    }
    assert not kept & views.MOVING
    assert (
        kept
        == {operator for stage in views.stages(recipe) for operator, _ in stage["operators"]}
        - views.MOVING
    )


# ---- several stages ----


@pytest.mark.slow
@pytest.mark.parametrize("name", tiers(["seqclr_1", "simclr", "seqclr_0", "mocov3_2"]))
def test_padding_and_bound_hold_through_all_stages(key, name):
    """As for one stage, above; and with no way to go sideways every column stays its own."""
    image, width = lines(24, 3)
    run = jax.jit(lambda i: views.augment(key, i, width, views.recipe(name), 0.0))
    view = np.asarray(run(image))
    assert view.min() >= 0.0 and view.max() <= 1.0 and np.isfinite(view).all()
    garbage = np.where(
        np.arange(W)[None, None, :, None] < width[:, None, None, None], image, 7
    ).astype(np.uint8)
    other = np.asarray(run(garbage))
    for i, w in enumerate(width):
        assert np.all(view[i, :, w:] == 1.0)
        np.testing.assert_array_equal(view[i, :, :w], other[i, :, :w])
    changed = np.abs(view - image / np.float32(255)).max(axis=(1, 2, 3)) > 1e-3
    assert changed.mean() > 0.6


def test_no_stage_draws_with_the_key_of_a_line(monkeypatch):
    """`draw` gives line i of a stage the stage's key with i folded in; later stages must not have
    one of these keys.
    """
    given = []
    monkeypatch.setattr(
        views,
        "_pass",
        lambda key, *lines: (given.append(jax.random.key_data(key).tolist()), lines[:2])[1],
    )
    key, blur = jax.random.key(3), views.only("blur", sigma=(0.5, 1.5))
    views.augment(key, jnp.zeros((1, 8, 8, 1)), jnp.array([8]), (blur,) * 3)
    lines = {tuple(data) for data in jax.random.key_data(jax.random.split(key, 1000)).tolist()}
    assert len(given) == len({tuple(data) for data in given}) == 3 and not lines & {
        tuple(data) for data in given
    }


@pytest.mark.slow
def test_stages_come_in_turn_each_with_its_chance(key):
    """Invert half of the lines, then darken all: 1 - image, or not, times 0.5; the draws of a stage
    are those of its key.
    """
    image, width = lines(64)
    recipe = ({**views.only("invert"), "p": 0.5}, views.only("brightness", factor=0.5))
    view, plain = augment(key, image, width, recipe), image / np.float32(255)
    real = np.arange(W)[None, None, :, None] < width[:, None, None, None]
    inverted = drawn(key, 64, recipe[0]).rank["invert"] == 0
    assert 16 < inverted.sum() < 48
    expected = 0.5 * np.where(inverted[:, None, None, None], 1 - plain, plain)
    np.testing.assert_allclose(view, np.where(real, expected, plain), atol=1e-6)
    np.testing.assert_array_equal(
        augment(key, image, width, recipes.DIG), augment(key, image, width, (recipes.DIG,))
    )


def test_only_one_stage_may_move_pixels():
    with pytest.raises(ValueError, match="Only one stage"):
        views.check(
            (views.only("rotate", degrees=3.0), views.only("shift", right_px=1.0, down_px=0.0))
        )
