"""The pretext tasks together: their shared parts against slow loops, and what holds for all five
alike: what may not reach the loss, chance at the start, and that each can be learnt."""

from __future__ import annotations

import functools
import importlib
import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dig_jax.methods.shared import pretext
from dig_jax.models import cnn, crnn, vit
from tests.methods import checks
from tests.methods.checks import same
from tests.tiers import tiers

HEIGHT, WIDTH, PATCH = 16, 64, (8, 4)
ENCODER = {"patch": PATCH, "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}
WINDOWS = {
    "window_px": 16,
    "gap_px": 4,
    "jitter_px": 4,
    "tile_width": 24,
    "projector_width": 32,
}  # 60 px for three
CHOICES = {
    "rotation": 4,
    "jigsaw": 6,
    "relative_position": 2,
    "jigsaw, seen whole": 6,
}  # method: number of answers
METHODS = {
    "rotation": {"classes": 4, "square_cells": True},
    "jigsaw": {"windows": 3, "permutations": 6, **WINDOWS},
    "relative_position": {"reach": 1, **WINDOWS},
    "jigsaw, seen whole": {"windows": 3, "permutations": 6, **WINDOWS, "context_free": False},
    "colorization": {"channels": 3, "decoder_width": 24},
    "denoising": {"drop": 0.5, "noise_sigma": 0.2, "decoder_width": 24},
}
STEPS = {"jigsaw": 80}  # until it is learnt, else 60
COUNT, UNREAL, NARROW = 16, 5, 6  # lines, one that is not valid, one too narrow for three windows


def lines(channels, seed=0):
    """Lines that grow brighter to the right, darker at their foot, with some grain; colours follow
    from the brightness.
    """
    rng = np.random.default_rng(seed)
    width = np.resize([WIDTH, 61, WIDTH, 62], COUNT)
    width[NARROW] = 37
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    grey = 20 + 2.5 * x - 40 * (y > HEIGHT / 2) + 40 * (y <= HEIGHT / 2)
    image = np.clip(grey[None] + rng.normal(0, 6, (COUNT, HEIGHT, WIDTH)), 0, 255)[..., None]
    if channels == 3:
        image = np.concatenate([image, np.full_like(image, 128), 255 - image], axis=-1)
    image = np.where((x[0] < width[:, None])[:, None, :, None], image, 255)
    valid = np.arange(COUNT) != UNREAL
    return jax.tree.map(
        jnp.asarray,
        {"image": image.astype(np.uint8), "width": width.astype(np.int32), "valid": valid},
    )


def pictures_of(batch):
    """What the encoder reads and what it shall paint."""
    return {name: x for name, x in batch.items() if name.startswith("view") or name == "target"}


def module_of(name):
    return importlib.import_module(f"dig_jax.methods.{name.split(',')[0]}")


@functools.cache
def made(name):
    """method, raw batch, first parameters, jitted augment and (params, batch) -> loss, metrics,
    gradients of both.
    """
    options = {"channels": 1, "column_offset_max": 5, **METHODS[name]}
    method = module_of(name).Method(encoder=ENCODER, **options)
    augment = jax.jit(method.augment)
    raw = lines(options["channels"])
    state = types.SimpleNamespace(mutable={})

    def loss(params, images, batch):
        return method.loss(params, state, {**batch, **images}, jax.random.key(5), 0.0)

    gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    def evaluate(params, batch):
        (value, aux), grads = gradients(params, pictures_of(batch), batch)
        return value, aux.metrics, *grads

    params = jax.jit(method.init)(jax.random.key(1), augment(jax.random.key(0), raw))["params"]
    return method, raw, params, augment, evaluate


# ---- shared parts against slow loops ----


def test_cross_entropy_equals_the_slow_loop_and_reads_valid_lines_only():
    rng = np.random.default_rng(0)
    logits, answer = rng.normal(size=(5, 3, 4)).astype(np.float32), rng.integers(0, 4, (5, 3))
    valid = np.array([True, False, True, True, False])
    nats, right = [], []
    for b in np.flatnonzero(valid):
        for q in range(3):
            chances = np.exp(logits[b, q].astype(np.float64))
            nats.append(-math.log(chances[answer[b, q]] / chances.sum()))
            right.append(int(np.argmax(chances)) == answer[b, q])
    junk = np.where(valid[:, None, None], logits, np.nan)
    value = jax.jit(jax.value_and_grad(pretext.cross_entropy, has_aux=True))
    (loss, accuracy), grad = value(jnp.asarray(junk), jnp.asarray(answer), jnp.asarray(valid))
    np.testing.assert_allclose(loss, np.mean(nats), rtol=1e-6)
    np.testing.assert_allclose(accuracy, np.mean(right), rtol=1e-6)
    assert (
        (grad[~valid] == 0).all()
        and np.isfinite(grad).all()
        and (np.abs(grad[valid]).max(axis=(1, 2)) > 0).all()
    )
    (loss, accuracy), grad = value(jnp.asarray(junk), jnp.asarray(answer), jnp.zeros(5, bool))
    assert loss == 0 and accuracy == 0 and (grad == 0).all()


@pytest.mark.parametrize("tile", [0, 8])
def test_only_a_tile_layer_knows_where_in_a_window_something_lies(tile):
    """The mean of tokens is the same in any order; the layer of the papers' networks reads them
    from left to right.
    """

    class Tokens(nn.Module):
        patch: tuple = PATCH
        dtype: str = "float32"

        def __call__(self, image, width, *_, **__):
            return vit.patchify(image, PATCH)

    network = pretext.Classifier(encoder=Tokens(), views=2, classes=3, hidden=0, tile=tile)
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 4, 8, 16, 1)).astype(np.float32)
    rows = {
        "width": jnp.full(4, 16),
        "valid": jnp.ones(4, bool),
        "answer": jnp.zeros((4, 1), jnp.int32),
    }
    batch = {"view1": jnp.asarray(one), "view2": jnp.asarray(two), **rows}
    turned = {**batch, "view2": jnp.asarray(np.concatenate([two[:, :, 8:], two[:, :, :8]], axis=2))}
    logits, params = network.init_with_output(jax.random.key(0), batch)
    change = np.abs(network.apply(params, turned) - logits).max(axis=(1, 2))
    assert (change > 1e-2).all() if tile else (change < 1e-5).all()


def test_paint_is_the_mean_square_over_real_pixels_of_valid_lines():
    rng = np.random.default_rng(1)
    target, baseline = rng.uniform(-1, 1, (2, 3, 8, 12, 2)).astype(np.float32)
    said = rng.uniform(0, 1, (3, 8, 12, 2)).astype(np.float32)  # in grey of [0, 1]
    width, valid = np.array([12, 5, 9]), np.array([True, True, False])
    squares = {"pixel": [], "baseline": []}
    for b in np.flatnonzero(valid):
        for x in range(width[b]):
            grey = target[b, :, x] / 2 + 0.5
            squares["pixel"] += list((said[b, :, x] - grey).ravel() ** 2)
            squares["baseline"] += list((baseline[b, :, x] / 2 + 0.5 - grey).ravel() ** 2)
    # One patch a column of 4 px and row of 8: the prediction in reading order, written out.
    patches = np.stack([said[:, :, x : x + 4].reshape(3, -1) for x in (0, 4, 8)], axis=1)
    batch = {
        "target": jnp.asarray(target),
        "width": jnp.asarray(width),
        "valid": jnp.asarray(valid),
    }
    how = {"baseline": jnp.asarray(baseline), "patch": (8, 4), "kind": "pixel", "floor": 0.0}
    loss, metrics, count = pretext.paint_loss(jnp.asarray(patches), batch, **how)
    assert count == len(squares["pixel"])
    for name, values in squares.items():
        np.testing.assert_allclose(metrics[name], np.mean(values), rtol=1e-5)
    assert loss == metrics["pixel"]


def numbered(width, canvas_px, height=2):
    """Raw lines whose pixels hold the number of their column; 255 in the padding."""
    x = np.broadcast_to(np.arange(canvas_px), (len(width), height, canvas_px))
    image = np.where(x < width[:, None, None], x, 255)[..., None].astype(np.uint8)
    return jax.tree.map(
        jnp.asarray, {"image": image, "width": width, "valid": np.ones(len(width), bool)}
    )


def test_windows_lie_in_their_cells_anywhere_in_the_line_and_never_in_padding():
    layout = pretext.Layout(cells=4, window_px=8, gap_px=5, jitter_px=3)
    assert layout.span_px == 4 * 8 + 3 * 5 + 3
    width = np.resize([layout.span_px, 99, layout.span_px - 1, 60, 3], 400).astype(np.int32)
    raw = numbered(width, 120)
    raw["valid"] = raw["valid"].at[0].set(False)
    rng = np.random.default_rng(0)
    cells = rng.permuted(np.tile(np.arange(4), (400, 1)), axis=1)[:, :3]
    out = jax.jit(lambda key: pretext.cut(key, raw, jnp.asarray(cells), layout, None, 7))(
        jax.random.key(0)
    )
    assert (out["valid"] == ((width >= layout.span_px) & (np.arange(400) > 0))).all()
    assert (out["width"] == 8).all() and out["column_offset"].shape == (400, 3)
    assert set(np.unique(out["column_offset"])) == set(range(8))
    views = np.stack([np.asarray(out[f"view{i}"]) for i in (1, 2, 3)], axis=1) * 127.5 + 127.5
    columns = np.rint(views[:, :, 0, :, 0]).astype(int)  # (B, V, w)
    assert (views.max(axis=2) == views.min(axis=2)).all()
    start = columns[..., 0]
    counts = width >= layout.span_px
    assert (columns == start[..., None] + np.arange(8))[counts].all()
    assert (columns.max(axis=(1, 2)) < width)[counts].all()
    left = start - cells * 13  # of the row, pushed by 0..3
    assert (np.ptp(left, axis=1) <= 3)[counts].all() and np.ptp(left[counts], axis=1).max() == 3
    tight = width == layout.span_px
    assert set(np.unique(left[tight])) == {0, 1, 2, 3}
    assert left[width == 99].max() > 40  # anywhere, up to 99 - 50


@pytest.mark.parametrize("context_free", tiers([True, False]))
def test_windows_meet_in_the_classifier_alone_or_in_the_encoder(context_free):
    """Up to a linear classifier, what two windows say together is the sum of what each says only
    where none sees the other.
    """
    encoder = vit.Vit(**{**ENCODER, "depth": 2})
    network = pretext.Classifier(
        encoder=encoder, views=2, classes=3, hidden=0, tile=8, context_free=context_free
    )
    rng = np.random.default_rng(0)
    one, two, other_one, other_two = jnp.asarray(
        rng.normal(size=(4, 4, HEIGHT, 16, 1)), jnp.float32
    )
    rows = {
        "width": jnp.full(4, 16),
        "valid": jnp.ones(4, bool),
        "answer": jnp.zeros((4, 1), jnp.int32),
    }
    rows["column_offset"] = jnp.asarray(rng.integers(0, 9, (4, 2)))
    params = jax.jit(network.init)(jax.random.key(0), {"view1": one, "view2": two, **rows})
    say = jax.jit(lambda one, two: network.apply(params, {"view1": one, "view2": two, **rows}))
    left = say(one, two) + say(other_one, other_two) - say(one, other_two) - say(other_one, two)
    assert np.abs(say(one, two) - say(other_one, two)).max() > 1e-2
    assert np.abs(left).max() < 1e-5 if context_free else np.abs(left).max() > 1e-2


def test_an_augmentation_is_of_every_window_alone_or_of_the_whole_line():
    raw = {
        "image": jnp.full((20, 8, 64, 1), 100, jnp.uint8),
        "width": jnp.full(20, 64),
        "valid": jnp.ones(20, bool),
    }
    brighter = {
        "some_of": (1, 1),
        "operators": (("brightness", {"factor": (0.5, 2.0)}),),
        "jitter": None,
        "grayscale_p": 0.0,
    }
    layout, cells = pretext.Layout(3, 16, 0, 0), jnp.tile(jnp.array([2, 0, 1]), (20, 1))
    cut = jax.jit(
        lambda key, raw, cells, context_free: pretext.cut(
            key, raw, cells, layout, brighter, 0, context_free
        ),
        static_argnums=3,
    )
    for context_free in (True, False):
        out = cut(jax.random.key(0), raw, cells, context_free)
        tones = np.stack([np.asarray(out[f"view{i}"]).mean(axis=(1, 2, 3)) for i in (1, 2, 3)])
        assert (
            (np.ptp(tones, axis=0) > 1e-3).all()
            if context_free
            else np.ptp(tones, axis=0).max() < 1e-6
        )
        assert np.ptp(tones[0]) > 0.1  # and every line has its own


def test_layouts_that_cannot_be_are_refused_in_a_sentence():
    for layout, words in [
        (
            pretext.Layout(2, 10, 2, 2),
            "window_px is 10.*multiple of the patch width, 4.*config.method.window_px",
        ),
        (pretext.Layout(2, 8, 2, 3), "jitter_px is 3 and gap_px 2.*config.method.jitter_px"),
        (pretext.Layout(2, 8, 2, -1), "jitter_px is -1"),
    ]:
        with pytest.raises(ValueError, match=words):
            layout.check(4)
    raw = numbered(np.array([30]), 32)
    with pytest.raises(
        ValueError,
        match="32 px wide and 3 windows of 16 px take 60 px.*config.data.width_px.*window_px",
    ):
        pretext.cut(
            jax.random.key(0),
            raw,
            jnp.zeros((1, 3), jnp.int32),
            pretext.Layout(3, 16, 4, 4),
            None,
            0,
        )


# ---- all five ----


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_nothing_passes_through_padding_or_lines_that_do_not_count(name):
    """Other pixels there change neither loss nor gradients, and no gradient comes out there; all of
    the encoder learns.
    """
    method, raw, params, augment, evaluate = made(name)
    key = jax.random.key(3)
    batch = augment(key, raw)
    loss, metrics, grads, image_grads = evaluate(params, batch)
    assert evaluate(params, {**batch, "column_offset": batch["column_offset"] + 3})[0] != loss
    real = np.arange(WIDTH)[None] < np.asarray(raw["width"])[:, None]
    real &= np.asarray(raw["valid"])[:, None]
    counts = np.arange(COUNT) != UNREAL
    if "window_px" in METHODS[name]:
        counts[NARROW] = False
        real &= counts[:, None]
        np.testing.assert_allclose(metrics["used"], 14 / 16)
    junk = np.random.default_rng(9).integers(0, 256, raw["image"].shape, np.uint8)
    spoilt = {**raw, "image": jnp.where(real[:, None, :, None], raw["image"], junk)}
    same(evaluate(params, augment(key, spoilt))[:3], (loss, metrics, grads), rtol=1e-6)
    for view, grad in image_grads.items():
        grad = np.abs(np.asarray(grad)).max(axis=(1, 3))  # (B, w)
        inside = real if grad.shape[1] == WIDTH else np.broadcast_to(counts[:, None], grad.shape)
        assert (grad[~inside] == 0).all() and np.isfinite(grad).all(), view
        assert (grad.max(axis=1) > 0)[counts].all(), view
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert (np.abs(grad).max() > 0) != ("mask_token" in jax.tree_util.keystr(path)), (
            jax.tree_util.keystr(path)
        )


@pytest.mark.parametrize("name", tiers(CHOICES))
def test_classifiers_start_at_chance_and_questions_do_not_depend_on_what_counts(name):
    method, raw, params, augment, evaluate = made(name)
    classes, figures, answers = CHOICES[name], [], []
    for i in range(6):
        batch = augment(jax.random.key(i), raw)
        loss, metrics, *_ = evaluate(params, batch)
        figures.append((float(loss), float(metrics["accuracy"])))
        answers.append(np.asarray(batch["answer"]))
        assert (batch["valid"] == augment(jax.random.key(99), raw)["valid"]).all()
    loss, accuracy = np.mean(figures, axis=0)
    assert math.log(classes) - 0.05 < loss < math.log(classes) + 0.3
    assert abs(accuracy - 1 / classes) < 0.2
    share = np.bincount(np.ravel(answers), minlength=classes) / np.size(answers)
    assert len(share) == classes and (np.abs(share - 1 / classes) < 0.15).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jigsaw", "denoising"])  # one of each kind
def test_one_device_and_eight_agree(name):
    """From the raw batch to the loss."""
    method, raw, params, augment, evaluate = made(name)

    @jax.jit
    def loss(params, raw):
        batch = method.augment(jax.random.key(2), raw)
        return method.loss(
            params, types.SimpleNamespace(mutable={}), batch, jax.random.key(5), 0.0
        )[0]

    eight = loss(*checks.on_eight_devices(params, raw))
    np.testing.assert_allclose(
        eight, evaluate(params, augment(jax.random.key(2), raw))[0], rtol=2e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_task_can_be_learnt(name):
    """New questions about the same lines at every step: clearly above chance, or below what is
    known without learning.
    """
    method, raw, params, augment, evaluate = made(name)
    tx = optax.adam(3e-3)
    opt_state = tx.init(params)
    update = jax.jit(tx.update)
    history = []
    for i in range(STEPS.get(name, 60)):
        _, metrics, grads, _ = evaluate(params, augment(jax.random.key(100 + i), raw))
        updates, opt_state = update(grads, opt_state)
        params = jax.tree.map(jnp.add, params, updates)
        history.append({name: float(x) for name, x in metrics.items()})
    last = {metric: np.mean([row[metric] for row in history[-10:]]) for metric in history[0]}
    print(name, history[0], last)
    if name in CHOICES:
        assert last["accuracy"] > (1 + 2 / CHOICES[name]) / 3 + 0.1
    else:
        assert last["pixel"] < 0.5 * last["baseline"]


@pytest.mark.slow
def test_encoders_of_all_are_the_same_tree_and_read_whole_lines():
    trees = {name: jax.tree.structure(made(name)[2]["encoder"]) for name in METHODS}
    assert len(set(trees.values())) == 1
    method, raw, params, *_ = made("jigsaw")
    out = jax.jit(method.encode)(params, raw)
    assert out["tokens"].shape == (COUNT, 2 * WIDTH // 4, 32) and out["frames"].shape == (
        COUNT,
        WIDTH // 4,
        64,
    )
    assert list(out["frame_length"][:2]) == [16, 16] and out["frame_length"][NARROW] == 10


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_classifiers_take_a_cnn_as_well(name):
    """The encoder of the official rotation is one: there every array of it learns; of the others
    the shapes.
    """
    encoder = {"kind": "crnn", "height_px": HEIGHT, "dtype": "float32", **crnn.SIZES["crnn_nano"]}
    method = module_of(name).Method(encoder=encoder, channels=1, **METHODS[name])
    state = types.SimpleNamespace(mutable={})

    def step(raw, key):
        batch = method.augment(key, raw)
        params = method.init(key, batch)["params"]
        return (
            params,
            method.loss(params, state, batch, key, 0.0)[0],
            method.encode(params, raw)["frames"],
        )

    params, loss, frames = jax.eval_shape(step, lines(1), jax.random.key(0))
    assert "encoder" in params and loss.shape == () and frames.shape[:2] == (COUNT, WIDTH // 4)
    if name != "rotation":
        return
    batch = jax.jit(method.augment)(jax.random.key(0), lines(1))
    params = jax.jit(method.init)(jax.random.key(0), batch)["params"]
    grads = jax.jit(
        jax.grad(lambda params: method.loss(params, state, batch, jax.random.key(0), 0.0)[0])
    )(params)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)


@pytest.mark.parametrize("name, values", [("colorization", 2), ("denoising", 1)])
def test_a_cnn_paints_a_column_from_each_of_its_frames(name, values):
    """Every array of it learns, and what lies right of a line plays no part."""
    encoder = {"kind": "cnn", "height_px": 32, "dtype": "float32", **cnn.SIZES["cnn_nano"]}
    options = {"channels": 1, **METHODS[name]}
    method = module_of(name).Method(encoder=encoder, **options)
    rng, width = np.random.default_rng(0), np.array([64, 40, 12])
    image = rng.integers(60, 200, (3, 32, 64, options["channels"]), np.uint8)
    raw = {"image": jnp.asarray(image), "width": jnp.asarray(width), "valid": jnp.ones(3, bool)}
    batch = jax.jit(method.augment)(jax.random.key(0), raw)
    params = jax.jit(method.init)(jax.random.key(1), batch)["params"]
    state = types.SimpleNamespace(mutable={})
    loss = lambda params, batch: method.loss(params, state, batch, jax.random.key(0), 0.0)[0]
    step = jax.jit(jax.value_and_grad(loss))
    value, grads = step(params, batch)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads["encoder"]):
        assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)
    painted = jax.eval_shape(lambda params: method.apply(params, "__call__", batch), params)
    assert painted.shape == (3, 64 // method.patch[1], values * math.prod(method.patch))
    outside = np.arange(64)[None, None, :, None] >= width[:, None, None, None]
    other = batch | {name: jnp.where(outside, 0.3, batch[name]) for name in ("view1", "target")}
    np.testing.assert_allclose(step(params, other)[0], value, rtol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_wrong_offsets_and_channels_are_refused_in_a_sentence(name):
    module, options = module_of(name), {"channels": 1, **METHODS[name]}
    with pytest.raises(
        ValueError, match="column_offset_max is -1.*config.method.column_offset_max to 0 or more"
    ):
        module.Method(encoder=ENCODER, **options, column_offset_max=-1)
    raw = lines(1 if options["channels"] == 3 else 3)
    with pytest.raises(ValueError, match=r"images have . channels.*config.method.channels"):
        module.Method(encoder=ENCODER, **options).augment(jax.random.key(0), raw)
