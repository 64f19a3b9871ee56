"""CCD: finding characters against scipy and slow loops, what may reach the loss, the mended bugs,
sanity at the start.
"""

from __future__ import annotations

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage

from dig_jax.augment import characters, geometry, views
from dig_jax.methods import ccd
from dig_jax.methods.shared import base
from tests.methods import checks
from tests.methods.checks import same

PATCH, HEIGHT, WIDTH = (8, 8), 32, 64
MOST, AREA = 12, 6
ENCODER = {"patch": PATCH, "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}
# A wide bottleneck, so that the loss starts near ln(prototypes): within 250 / projector_dim.
SMALL = {"projector_width": 24, "projector_dim": 1024, "decoder_width": 16, "prototypes": 40}
SAME = views.only("contrast", alpha=1.0)  # changes no pixel


def make(**changes):
    encoder = {**ENCODER, **changes.pop("encoder", {})}
    settings = {
        "channels": 1,
        "recipe": SAME,
        "characters": MOST,
        "min_area_px": AREA,
        "affine_p": 0.9,
        **SMALL,
    }
    return ccd.Method(encoder=encoder, **{**settings, **changes})


def lines(seed=0):
    """A raw batch: dark blocks of known places on grainy paper, a speck, ragged widths; one blank
    line.
    """
    rng = np.random.default_rng(seed)
    width = np.array([64, 50, 33, 64, 41, 64, 9, 64], np.int32)
    image = rng.integers(200, 240, (8, HEIGHT, WIDTH, 1)).astype(np.uint8)
    for b in range(7):
        for x in range(2 + b % 3, WIDTH - 6, 9):
            top, tall = rng.integers(3, 12), rng.integers(8, 16)
            image[b, top : top + tall, x : x + 5] = rng.integers(20, 60, (tall, 5, 1))
        image[b, 28, 30:32] = 30  # too small for a character
    image[np.broadcast_to((np.arange(WIDTH) >= width[:, None])[:, None, :, None], image.shape)] = (
        255
    )
    return {
        "image": jnp.asarray(image),
        "width": jnp.asarray(width),
        "valid": jnp.ones(8, bool).at[5].set(False),
    }


@functools.cache
def started():
    """(method, params, teacher that differs from the student, centre, augmented batch)."""
    params, teacher, center, batch, _, _ = prepared()
    return make(), params, teacher, center, batch


@functools.cache
def prepared():
    """What `started` gives, and what `reconstruct` and `encode` do; one compilation for all."""

    @jax.jit
    def run(raw):
        method = make()
        batch = method.augment(jax.random.key(0), raw)
        params = method.init(jax.random.key(1), batch)["params"]
        teacher = checks.shifted(method.init_teacher(params))
        center = 0.1 * jnp.sin(jnp.arange(SMALL["prototypes"], dtype=jnp.float32))
        pictures = method.reconstruct(params, raw, jax.random.key(0))
        return params, teacher, center, batch, pictures, method.encode(params, raw)

    return run(lines())


@jax.jit
def step(params, teacher, center, batch, images, progress):
    """((loss, Aux), gradients with respect to the parameters, the teacher and the two views),
    compiled once.
    """

    def loss(params, teacher, images):
        state = types.SimpleNamespace(teacher=teacher, mutable={"center": center})
        return started()[0].loss(params, state, {**batch, **images}, jax.random.key(5), progress)

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(params, teacher, images)


def evaluate(batch=None, params=None, teacher=None, center=None, progress=0.1):
    """One step; at 0.1 the prototypes train and the foreground is that of k-means."""
    _, ours, theirs, middle, augmented = started()
    batch = augmented if batch is None else batch
    images = {name: batch[name] for name in ("view1", "view2")}
    return step(
        params or ours,
        teacher or theirs,
        middle if center is None else center,
        batch,
        images,
        jnp.float32(progress),
    )


# ---- finding characters ----


@pytest.mark.parametrize("invert", [False, True])
def test_foreground_equals_the_best_split_of_the_grey_values(invert):
    """2-means in one dimension is the threshold of least squares; whatever lies on padding does not
    move it.
    """
    raw = lines()
    image, width = np.asarray(raw["image"])[:7] / 255.0, np.asarray(raw["width"])[:7]
    image = 1 - image if invert else image
    junk = np.random.default_rng(1).random(image.shape)
    image = np.where((np.arange(WIDTH) < width[:, None])[:, None, :, None], image, junk).astype(
        np.float32
    )
    found = np.asarray(jax.jit(characters.two_means)(jnp.asarray(image), jnp.asarray(width)))
    for b, w in enumerate(width):
        grey = image[b, :, :w, 0]
        values = np.unique(grey)
        splits = [
            (v, grey[grey <= v].var() * (grey <= v).sum() + grey[grey > v].var() * (grey > v).sum())
            for v in values[:-1]
        ]
        bright = grey > min(splits, key=lambda split: split[1])[0]
        assert (found[b, :, :w] == (bright if invert else ~bright)).all(), b
        assert not found[b, :, w:].any()


def test_a_blank_line_has_no_foreground():
    for grey in (0.0, 0.4, 1.0):
        assert not jax.jit(characters.two_means)(jnp.full((1, 8, 8, 3), grey), jnp.array([6])).any()


def masks():
    """Noise of several densities, a spiral (the longest way through a picture) and diagonal
    neighbours.
    """
    rng = np.random.default_rng(3)
    out = [rng.random((20, 33)) < density for density in (0.0, 0.2, 0.4, 0.5, 0.6, 1.0)]
    spiral = np.zeros((20, 33), bool)
    top, bottom, left, right = 0, 19, 0, 32
    while top <= bottom and left <= right:
        spiral[top, left : right + 1] = spiral[top : bottom + 1, right] = spiral[
            bottom, left : right + 1
        ] = True
        spiral[top + 2 : bottom + 1, left] = True
        spiral[top + 2, left : left + 2] = True
        top, bottom, left, right = top + 2, bottom - 2, left + 2, right - 2
    return np.stack([*out, spiral, np.eye(20, 33, dtype=bool)])


def test_characters_equal_scipys_components():
    """Every component of at least AREA pixels, 8-connected, left to right, the first MOST of
    them.
    """
    pictures = masks()
    ours = np.asarray(jax.jit(lambda m: characters.find(m, MOST, AREA))(jnp.asarray(pictures)))
    counts = []
    for mask, number in zip(pictures, ours):
        expected = slow_characters(mask)
        counts.append(expected.min())
        np.testing.assert_array_equal(number, expected)
    assert ours[-2].min() == 0 and len(np.unique(ours[2])) > 3  # the spiral is one, noise is many
    assert {0, MOST} <= set(counts)


def slow_characters(mask):
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    parts = [np.argwhere(labels == i + 1) for i in range(count)]
    parts = sorted((p for p in parts if len(p) >= AREA), key=lambda p: min((x, y) for y, x in p))
    out = np.full(mask.shape, MOST)
    for number, part in enumerate(parts[:MOST]):
        out[tuple(part.T)] = number
    return out


# ---- the map ----


def slow_follow(values, matrix, width, outside):
    out = np.full(values.shape, outside)
    for y in range(values.shape[0]):
        for x in range(width):
            u, v, w = np.asarray(matrix, np.float64) @ [x, y, 1]
            column, row = round(u / w), round(v / w)
            if 0 <= column < width and 0 <= row < values.shape[0]:
                out[y, x] = values[row, column]
    return out


@pytest.mark.slow
def test_characters_follow_the_view_exactly():
    _, _, _, _, batch = started()
    matrix = np.asarray(batch["matrix"])

    @jax.jit
    def everything(foreground):
        follow = lambda values, outside: characters.follow(
            values, batch["matrix"], batch["width"], outside
        )
        first = characters.find(foreground, MOST, AREA)
        return (
            first,
            follow(first, MOST),
            follow(foreground, False),
            follow(jnp.ones_like(foreground), False),
        )

    first, second, sent, real = map(np.asarray, everything(batch["foreground"]))
    for b in range(8):
        np.testing.assert_array_equal(
            second[b], slow_follow(first[b], matrix[b], int(batch["width"][b]), MOST)
        )
    # And the ink of view 2, which was drawn by bilinear resampling, lies where the map sends the
    # foreground.
    ink = np.asarray(batch["view2"])[..., 0] < 0
    moved = (np.abs(matrix - np.eye(3)).max(axis=(1, 2)) > 0) & (np.arange(8) < 7)
    match = lambda mask: np.mean((mask == ink)[moved][real[moved]])
    assert moved.sum() >= 5 and match(sent) > 0.96 > match(np.asarray(batch["foreground"])) + 0.05


def test_affine_operators_move_points_to_the_known_places():
    """A point (5, -2) from the centre (20, 15.5) of a line 41 px wide."""
    width, amount = jnp.array([41]), lambda value: jnp.array([value], jnp.float32)
    slant = math.tan(math.radians(30.0))
    made = {
        (20 + 10, 15.5 - 1): geometry.scale(HEIGHT, width, across=amount(2.0), down=amount(0.5)),
        (20 + 5 - 2 * slant, 15.5 - 2): geometry.shear(
            HEIGHT, width, degrees_x=amount(30), degrees_y=amount(0)
        ),
        (20 + 5, 15.5 - 2 + 5 * slant): geometry.shear(
            HEIGHT, width, degrees_x=amount(0), degrees_y=amount(30)
        ),
        (20 - 5, 15.5 - 2): geometry.flip(
            HEIGHT, width, across=jnp.array([True]), down=jnp.array([False])
        ),
        (20 + 5, 15.5 + 2): geometry.flip(
            HEIGHT, width, across=jnp.array([False]), down=jnp.array([True])
        ),
    }
    both = {"degrees_x": amount(20), "degrees_y": amount(-15)}
    a, b = (math.tan(math.radians(v)) for v in (20, -15))
    made[(20 + 5 - 2 * a, 15.5 - 2 + 5 * b)] = geometry.shear(HEIGHT, width, **both)
    for place, matrix in made.items():  # maps send a place of the result to its source
        np.testing.assert_allclose(np.asarray(matrix[0]) @ [*place, 1], [25, 13.5, 1], atol=1e-4)


def test_every_line_and_step_draws_its_own_map():
    """Published bug: one generator of a fixed seed. A line's map hangs on its key and place, not on
    the batch size.
    """
    width = jnp.full(64, 50)
    drawn = jax.jit(lambda key, width: geometry.random_affine(key, HEIGHT, width, ccd.AFFINE))
    draw = lambda seed, width: np.asarray(drawn(jax.random.key(seed), width))
    one, two = draw(0, width), draw(1, width)
    assert (
        len(np.unique(one.round(6), axis=0)) == 64
        and np.abs(one - two).max(axis=(1, 2)).min() > 1e-3
    )
    np.testing.assert_array_equal(one[:5], draw(0, width[:5]))
    np.testing.assert_allclose(one[:, 2], np.broadcast_to([0, 0, 1], (64, 3)))
    assert (np.linalg.det(one) > 0).all() and np.linalg.det(
        one
    ).max() > 1.5  # scales reach well below 1


# ---- the loss ----


@pytest.mark.slow
def test_losses_centre_and_figures_equal_slow_loops():
    """From the paper's equations, character by character and pixel by pixel; only what the networks
    answer is taken over.
    """
    method, params, teacher, center, batch = started()
    (loss, aux), _ = evaluate()
    parts = {"student": params, "teacher": {n: teacher[n] for n in ccd.Method.teacher_parts}}
    apply = lambda who, f, *args: method.network.apply({"params": parts[who]}, *args, method=f)

    @jax.jit
    def encoded(batch):
        tokens = {who: apply(who, ccd.Network.encode_views, batch) for who in parts}
        return tokens, apply("student", ccd.Network.segment, tokens["student"], (4, 8))

    tokens, logits = jax.tree.map(lambda x: np.asarray(x, np.float64), encoded(batch))
    width, foreground = np.asarray(batch["width"]), np.asarray(batch["foreground"])
    features, pixels = {"student": ([], []), "teacher": ([], [])}, []
    for b in np.flatnonzero(np.asarray(batch["valid"])):
        inside = np.broadcast_to(np.arange(WIDTH) < width[b], (HEIGHT, WIDTH))
        matrix, real = batch["matrix"][b], width[b]
        warp = lambda values, outside: slow_follow(values, matrix, real, outside)  # noqa: B023
        maps = (
            slow_characters(foreground[b] & inside),
            warp(slow_characters(foreground[b] & inside), MOST),
        )
        for number in range(MOST):
            if all((view == number).any() for view in maps):
                for v, view in enumerate(maps):
                    places = [x // 8 * 4 + y // 8 for y, x in np.argwhere(view == number)]
                    for who in parts:
                        features[who][v].append(tokens[who][b, v, places].mean(axis=0))
        for v, (wanted, real) in enumerate(
            ((foreground[b], inside), (warp(foreground[b], False), warp(inside, False)))
        ):
            paper, ink = logits[b, v, ..., 0][real], logits[b, v, ..., 1][real]
            pixels += list(np.logaddexp(paper, ink) - np.where(wanted[real], ink, paper))
    project = jax.jit(
        lambda x: {who: apply(who, lambda net, x: net.projector(x), x[who]) for who in parts}
    )
    heads = project(
        {who: jnp.asarray(np.array(rows), jnp.float32) for who, rows in features.items()}
    )
    heads = jax.tree.map(lambda x: np.asarray(x, np.float64), heads)  # (2, count, prototypes)
    count = len(features["student"][0])
    total = 0.0
    for ours, theirs in ((0, 1), (1, 0)):
        for s, t in zip(heads["student"][ours], heads["teacher"][theirs]):
            wanted = np.exp((t - center) / 0.04)
            log = s / 0.1 - np.log(np.exp(s / 0.1).sum())
            total -= (wanted / wanted.sum() * log).sum() / count / 2
    assert count > 20
    metrics = aux.metrics
    np.testing.assert_allclose(metrics["distillation"], total, rtol=2e-4)
    np.testing.assert_allclose(metrics["segmentation"], np.mean(pixels), rtol=1e-5)
    np.testing.assert_allclose(metrics["characters"], count / 7, rtol=1e-6)
    np.testing.assert_allclose(loss, metrics["distillation"] + metrics["segmentation"], rtol=1e-6)
    expected = 0.9 * center + 0.1 * heads["teacher"].mean(axis=(0, 1))
    np.testing.assert_allclose(aux.mutable["center"], expected, atol=2e-5)


def test_start_is_near_the_logarithm_of_the_prototypes():
    method, params, _, _, _ = started()
    teacher = method.init_teacher(params)
    (_, aux), _ = evaluate(teacher=teacher, center=jnp.zeros(SMALL["prototypes"]))
    assert (
        abs(aux.metrics["distillation"] - math.log(SMALL["prototypes"]))
        < 250 / SMALL["projector_dim"]
    )
    assert abs(aux.metrics["segmentation"] - math.log(2)) < 0.4
    assert 0.3 < aux.metrics["t_std"] * math.sqrt(SMALL["prototypes"]) <= 1.001


def test_a_right_segmentation_costs_nothing():
    """Published bug: with the softmax taken twice no segmentation can cost less than log(1 + 1/e) =
    0.31.
    """
    method, _, _, _, batch = started()

    @jax.jit
    def cost(size):
        second = characters.follow(batch["foreground"], batch["matrix"], batch["width"], False)
        wanted = jnp.stack([batch["foreground"], second], 1)
        return method._segmentation(
            size * jnp.stack([1.0 - 2.0 * wanted, 2.0 * wanted - 1.0], -1), batch
        )

    assert cost(9.0) < 1e-6
    np.testing.assert_allclose(cost(-9.0), 18.0, rtol=1e-5)


def test_no_character_no_loss_and_the_switch_to_the_learned_map():
    """Published bug: slots that nothing fills enter loss and centre. The k-means foreground counts
    up to kmeans_frac.
    """
    _, _, teacher, center, batch = started()
    empty = {**batch, "foreground": jnp.zeros_like(batch["foreground"])}
    (_, aux), grads = evaluate(empty)
    assert aux.metrics["distillation"] == 0 and aux.metrics["characters"] == 0
    np.testing.assert_array_equal(aux.mutable["center"], center)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    learned = evaluate(empty, progress=0.3)[0][1].metrics
    assert learned["characters"] > 0 and learned["distillation"] > 0


# ---- what may not reach the loss ----


def test_gradients_reach_what_they_may_only():
    """None the teacher, none padding and rows that are not valid."""
    _, _, teacher, _, batch = started()
    (loss, _), (grads, theirs, images) = evaluate()
    assert all((g == 0).all() for g in jax.tree.leaves(theirs))
    other = jax.tree.map(lambda x: np.asarray(x) * 1.5, teacher)
    assert evaluate(teacher=other)[0][0] != loss
    real = (np.arange(WIDTH) < np.asarray(batch["width"])[:, None]) & np.asarray(batch["valid"])[
        :, None
    ]
    for name, grad in images.items():
        grad = np.abs(np.asarray(grad)).max(axis=(1, 3))  # (B, W)
        assert np.isfinite(grad).all() and (grad[~real] == 0).all() and grad[real].max() > 0, name
    grads = jax.tree.map(lambda g: float(np.abs(g).max()), grads)
    assert min(grads["projector"][name] for name in ("prototypes", "scale")) > 0


def test_padding_and_filler_rows_change_nothing():
    _, _, _, _, batch = started()
    junk = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, batch["view1"].shape), jnp.float32)
    real = (jnp.arange(WIDTH)[None] < batch["width"][:, None]) & batch["valid"][:, None]
    real = real[:, None, :, None]
    other = {name: jnp.where(real, batch[name], junk) for name in ("view1", "view2")}
    other["foreground"] = jnp.where(real[..., 0], batch["foreground"], junk[..., 0] > 0)
    other["matrix"] = batch["matrix"].at[5].set(jnp.eye(3))
    (loss, aux), (grads, *_) = evaluate({**batch, **other})
    same(((loss, aux), grads), (evaluate()[0], evaluate()[1][0]))


@pytest.mark.slow
def test_one_device_and_eight_agree():
    """Losses, figures and the next centre; the components, too, end together."""
    method, *arrays = started()
    (params, teacher, center), batch = checks.on_eight_devices(arrays[:3], arrays[3])
    state = types.SimpleNamespace(teacher=teacher, mutable={"center": center})
    eight = jax.jit(lambda batch: method.loss(params, state, batch, jax.random.key(5), 0.1))(batch)
    same(jax.device_get(eight), evaluate()[0], rtol=2e-5)


# ---- teacher, augment, encode ----


def test_teacher_moves():
    method, params, teacher, _, _ = started()
    assert set(teacher) == {"encoder", "projector"}
    moved = jax.jit(method.update_teacher)(teacher, params, jnp.float32(0.5))
    momentum = float(base.cosine_momentum(0.5, 0.9995))
    assert momentum == pytest.approx(0.99975) and set(moved) == set(teacher)
    for name in ccd.Method.teacher_parts:
        mixed = lambda xi, theta: momentum * np.asarray(xi) + (1 - momentum) * np.asarray(theta)
        same(moved[name], jax.tree.map(mixed, teacher[name], params[name]), rtol=1e-6)


def test_augment_and_encode():
    _, _, _, batch, pictures, out = prepared()
    raw = lines()
    plain = np.asarray(raw["image"]) / 127.5 - 1
    np.testing.assert_allclose(batch["view1"], plain, atol=1e-6)  # this recipe changes no pixel
    changed = np.abs(batch["view2"] - plain).max(axis=(1, 2, 3)) > 0.1
    moved = np.abs(np.asarray(batch["matrix"]) - np.eye(3)).max(axis=(1, 2)) > 0
    assert (changed == moved)[
        :7
    ].all() and 0 < moved.sum() < 8  # 9 of 10 lines; the rest is the bare image
    padding = np.broadcast_to(
        (np.arange(WIDTH) >= np.asarray(raw["width"])[:, None])[:, None, :, None], plain.shape
    )
    np.testing.assert_allclose(np.asarray(batch["view2"])[padding], plain[padding], atol=1e-6)
    assert out["tokens"].shape == (8, 32, 32) and out["frames"].shape == (8, 8, 128)
    assert list(out["frame_length"]) == [8, 7, 5, 8, 6, 8, 2, 8]
    assert set(pictures) == {"masked", "output", "original"}
    np.testing.assert_array_equal(pictures["masked"][..., 0] > 0.5, batch["foreground"])
    assert all(p.shape == plain.shape and p.min() >= 0 and p.max() <= 1 for p in pictures.values())


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"momentum": 1.5}, r"momentum is 1\.5.*\[0, 1\].*method.momentum"),
        ({"kmeans_frac": -0.1}, r"kmeans_frac is -0\.1.*method.kmeans_frac"),
        ({"characters": 0}, "characters is 0.*method.characters.*1 or more"),
        ({"min_area_px": 0}, "min_area_px is 0"),
        ({"affine": {"skew": (0, 1)}}, "'skew'.*method.affine.*shear_x"),
        ({"affine": {"degrees": (3, -3)}}, r"degrees is \(3, -3\).*lowest, highest"),
        ({"recipe": "digg"}, "recipe is 'digg'"),
        ({"column_offset_max": -1}, "column_offset_max is -1.*0 or more"),
        ({"channels": 3}, "images have 1 channels.*method.channels"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes).augment(jax.random.key(0), lines())


def test_without_a_recipe_the_views_are_the_line_itself():
    made = jax.jit(make(recipe=None, affine_p=0.0).augment)(jax.random.key(0), lines())
    np.testing.assert_allclose(made["view1"], made["view2"], atol=1e-6)


# ---- learning ----


@pytest.mark.slow
def test_characters_can_be_told_apart():
    """Fixed views, 600 steps: at first the centre takes everything, up to ln K = 4.16; then the
    loss falls, no collapse.
    """
    method = make(prototypes=64, projector_dim=64, momentum=0.99, kmeans_frac=1.0)
    tx = optax.adam(1e-3)

    @jax.jit
    def run(raw):
        batch = method.augment(jax.random.key(0), raw)
        variables = method.init(jax.random.key(1), batch)

        def one(carry, i):
            params, teacher, mutable, opt_state = carry
            teacher = method.update_teacher(teacher, params, i / 600)
            state = types.SimpleNamespace(teacher=teacher, mutable=mutable)
            (_, aux), grads = jax.value_and_grad(method.loss, has_aux=True)(
                params, state, batch, jax.random.key(0), i / 600
            )
            updates, opt_state = tx.update(grads, opt_state)
            return (
                optax.apply_updates(params, updates),
                teacher,
                aux.mutable,
                opt_state,
            ), aux.metrics

        params = variables["params"]
        carry = params, method.init_teacher(params), variables["mutable"], tx.init(params)
        return jax.lax.scan(one, carry, jnp.arange(600.0))[1]

    history = jax.tree.map(np.asarray, run(lines()))
    print({name: values[[0, 20, 100, 300, -1]] for name, values in history.items()})
    assert history["distillation"][20:100].max() > 4.1 and history["distillation"][-1] < 3.2
    assert history["t_std"][-1] > 0.5 / 8 and history["segmentation"][-1] < 0.3
