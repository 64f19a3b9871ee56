"""After SimAN: style from similar places of the guide, content from the other half, and an
adversary kept apart.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax import trees
from dig_jax.augment import views
from dig_jax.configs.pretrain import siman as config
from dig_jax.methods import siman
from dig_jax.models import vit
from dig_jax.train import param_groups
from tests.methods import checks

PATCH = (8, 8)
ENCODER = {"patch": PATCH, "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}
BLUR = views.only("blur", sigma=(0.5, 1.5))


def make(**changes):
    options = {
        "channels": 1,
        "decoder_width": 16,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "recipe": BLUR,
    }
    return siman.Method(encoder=ENCODER, **options | changes)


@pytest.fixture(scope="module")
def started():
    """(method, params, augmented batch, raw batch, jitted loss and gradient) of four lines: full,
    partly padded, without a second half, not valid."""
    rng = np.random.default_rng(0)
    width = np.array([64, 45, 20, 64])
    image = np.where(
        np.arange(64)[None, None, :, None] < width[:, None, None, None],
        rng.integers(0, 256, (4, 32, 64, 1)),
        255,
    )
    raw = {
        "image": image.astype(np.uint8),
        "width": width.astype(np.int32),
        "valid": np.array([True, True, True, False]),
    }
    method = make()
    batch = jax.jit(method.augment)(jax.random.key(1), raw)
    params = jax.jit(method.init)(jax.random.key(0), batch)["params"]
    state = types.SimpleNamespace(mutable={})

    @jax.jit
    def evaluate(params, batch):
        return jax.value_and_grad(
            lambda p: method.loss(p, state, batch, jax.random.key(2), 0.0), has_aux=True
        )(params)

    return method, params, batch, raw, evaluate


def test_normalisation_equals_the_slow_loop():
    """One query at a time, numpy float64, from the equations."""
    rng = np.random.default_rng(1)
    rows, cols, dim = 2, 4, 8
    content, guide = rng.normal(size=(2, 2, rows * cols, dim))
    real, guide_real = np.ones((2, 8), bool), np.ones((2, 8), bool)
    real[1, 6:], guide_real[1, 4:] = False, False
    made = jax.jit(lambda *x: siman.similarity_aware_normalisation(*x, (rows, cols)))(
        *(jnp.asarray(x, jnp.float32) for x in (content, guide)), real, guide_real
    )
    for line in range(2):
        inside, outside = content[line][real[line]], guide[line][guide_real[line]]
        query = (inside - inside.mean(0)) / np.sqrt(inside.var(0) + siman.EPSILON)
        key = (outside - outside.mean(0)) / np.sqrt(outside.var(0) + siman.EPSILON)
        means, deviations = [], []
        for n in np.flatnonzero(guide_real[line]):
            near = [
                guide[line, m]
                for m in np.flatnonzero(guide_real[line])
                if abs(m // rows - n // rows) <= 1 and abs(m % rows - n % rows) <= 1
            ]
            means.append(np.mean(near, 0))
            deviations.append(np.sqrt(np.var(near, 0) + siman.EPSILON))
        for place, q in enumerate(query):
            weight = np.exp(key @ q / np.sqrt(dim))
            weight /= weight.sum()
            expected = (weight @ np.array(deviations)) * q + weight @ np.array(means)
            np.testing.assert_allclose(made[line, place], expected, rtol=1e-4, atol=1e-5)


def test_halves_are_each_others_guide_and_lines_without_two_do_not_count(started):
    _, _, batch, raw, _ = started
    np.testing.assert_array_equal(batch["original"][0], batch["guide"][1])
    np.testing.assert_array_equal(batch["original"][1], batch["guide"][0])
    assert batch["width"].tolist() == [32, 32, 32, 13, 20, 1, 32, 32]
    assert batch["valid"].tolist() == [True] * 4 + [False] * 4


@pytest.mark.slow
def test_padding_and_rows_that_do_not_count_change_nothing(started):
    _, params, batch, _, evaluate = started
    (loss, _), grads = evaluate(params, batch)
    noise = jax.random.uniform(jax.random.key(9), batch["view1"].shape, minval=-1.0)
    beyond = jnp.arange(32)[None, :] >= batch["width"][:, None]
    other = beyond[:, None, :, None] | ~batch["valid"][:, None, None, None]
    changed = {
        **batch,
        **{name: jnp.where(other, noise, batch[name]) for name in ("view1", "original")},
    }
    guide_beyond = (jnp.arange(32)[None, :] >= batch["guide_width"][:, None])[:, None, :, None]
    changed["guide"] = jnp.where(
        guide_beyond | ~batch["valid"][:, None, None, None], noise, batch["guide"]
    )
    (loss_2, _), grads_2 = evaluate(params, changed)
    np.testing.assert_allclose(loss, loss_2, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_2), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * max(1e-2, float(jnp.abs(a).max())))


@pytest.mark.slow
def test_each_side_learns_from_its_own_terms_only(started):
    """The adversary from the `adversary` term, encoder and decoder from the other two."""
    method, params, batch, _, evaluate = started
    (_, aux), grads = evaluate(params, batch)
    state = types.SimpleNamespace(mutable={})
    term = lambda name: jax.jit(
        jax.grad(lambda p: method.loss(p, state, batch, jax.random.key(2), 0.0)[1].metrics[name])
    )(params)
    size = lambda tree: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))
    fooled, adversary = term("fooled"), term("adversary")
    assert (
        size(fooled["adversary"]) == 0
        and size(fooled["decoder"]) > 0
        and size(fooled["encoder"]) > 0
    )
    assert (
        size(adversary["decoder"]) == size(adversary["encoder"]) == 0
        and size(adversary["adversary"]) > 0
    )
    np.testing.assert_allclose(size(grads["adversary"]), size(adversary["adversary"]), rtol=1e-5)
    assert aux.metrics["used"] == 0.5


@pytest.mark.slow
def test_loss_is_made_of_three_means_by_slow_loops(started):
    """pixel + lambda fooled + adversary, over real pixels and over patches with any, of lines with
    two halves.
    """
    method, params, batch, _, evaluate = started
    (loss, aux), _ = evaluate(params, batch)
    painted = jax.jit(lambda p: method.network.apply({"params": p}, batch, method="paint"))(params)
    judge = jax.jit(
        lambda p, patches: method.network.apply({"params": p}, patches, batch, method="judge")
    )
    grid = (4, 4)
    picture = np.asarray(vit.unpatchify(painted, PATCH, grid), np.float64)
    original, width = np.asarray(batch["original"], np.float64), np.asarray(batch["width"])
    pixel, shown = [], picture.copy()
    clean = original.copy()
    for row in range(len(width)):
        shown[row, :, width[row] :] = clean[row, :, width[row] :] = vit.PAPER
        if batch["valid"][row]:
            pixel.extend(np.square(picture - original)[row, :, : width[row]].ravel())
    of_painted, of_real = (
        np.asarray(judge(params, vit.patchify(jnp.asarray(x, jnp.float32), PATCH)))
        for x in (shown, clean)
    )
    fooled, adversary = [], []
    for row in np.flatnonzero(batch["valid"]):
        for patch in range(grid[0] * -(-width[row] // PATCH[1])):
            fooled.append((of_painted[row, patch] - 1) ** 2)
            adversary.append((of_real[row, patch] - 1) ** 2 + of_painted[row, patch] ** 2)
    for name, values in (("pixel", pixel), ("fooled", fooled), ("adversary", adversary)):
        np.testing.assert_allclose(aux.metrics[name], np.mean(values), rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(
        loss, np.mean(pixel) + 0.01 * np.mean(fooled) + np.mean(adversary), rtol=2e-5
    )
    other = make(weight_adversary=3.0)
    state = types.SimpleNamespace(mutable={})
    loss, _ = jax.jit(lambda p: other.loss(p, state, batch, jax.random.key(2), 0.0))(params)
    np.testing.assert_allclose(
        loss, np.mean(pixel) + 3 * np.mean(fooled) + np.mean(adversary), rtol=2e-5
    )


@pytest.mark.slow
def test_one_device_and_eight_agree(started):
    _, params, batch, _, evaluate = started
    checks.same(evaluate(*checks.on_eight_devices(params, batch)), evaluate(params, batch))


def test_the_adversary_has_a_rate_of_its_own(started):
    """By the rule of the config: half that of encoder and decoder."""
    _, params, *_ = started
    rules = config.get_config("preset=cpu").optim.rules
    treated = param_groups.param_groups(params, 0.05, rules, None, 10)
    scales = {
        (path.startswith("adversary/"), treatment.lr_scale)
        for path, treatment in trees.named_leaves(treated).items()
    }
    assert scales == {(True, 0.5), (False, 1.0)}


def test_style_comes_from_the_guide(started):
    """Painting with another guide changes the picture; content and guide both have a gradient."""
    method, params, batch, _, _ = started
    paint = jax.jit(lambda batch: method.network.apply({"params": params}, batch, method="paint"))
    assert (
        float(jnp.abs(paint(batch) - paint({**batch, "guide": -batch["guide"]}))[:4].max()) > 1e-4
    )


def test_pictures_and_mistakes(started):
    method, params, _, raw, _ = started
    pictures = jax.jit(lambda raw: method.reconstruct(params, raw, jax.random.key(0)))(raw)
    assert {name: p.shape for name, p in pictures.items()} == dict.fromkeys(
        ("masked", "output", "original"), (4, 32, 64, 1)
    )
    np.testing.assert_allclose(pictures["original"][0] * 255, raw["image"][0], atol=1e-3)
    with pytest.raises(ValueError, match="weight_adversary is -1"):
        make(weight_adversary=-1)
    with pytest.raises(ValueError, match="decoder_width of 15"):
        make(decoder_width=15)
    with pytest.raises(ValueError, match="3 channels and the method was made for 1"):
        method.augment(jax.random.key(0), {**raw, "image": np.repeat(raw["image"], 3, -1)})
    with pytest.raises(ValueError, match="no halves of whole patches of 8 px.*multiple of 16"):
        method.augment(jax.random.key(0), {**raw, "image": raw["image"][:, :, :56]})
