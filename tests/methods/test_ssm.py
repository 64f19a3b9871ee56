"""SSM: the superimposed input, the losses against slow loops, the mended bugs, what may not reach
the loss.
"""

from __future__ import annotations

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.augment import geometry
from dig_jax.methods import ssm
from dig_jax.methods.shared import base
from dig_jax.models import vit
from tests.methods import checks
from tests.methods.checks import same

PATCH, HEIGHT, WIDTH, WINDOW = (8, 8), 32, 64, 16
ENCODER = {"patch": PATCH, "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}
SMALL = {
    "decoder_width": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "projector_width": 64,
    "projector_dim": 48,
}
IMAGES = ("view1", "view2", "mixed", "moved")


def make(**changes):
    encoder = {**ENCODER, **changes.pop("encoder", {})}
    return ssm.Method(encoder=encoder, **{"channels": 1, "window_px": WINDOW, **SMALL, **changes})


def lines(count=16, seed=0):
    """A raw batch of smooth noise of every kind of width; one row is not valid."""
    rng = np.random.default_rng(seed)
    width = np.resize([WIDTH, 37, WIDTH, 9, 56, 1, WIDTH, 24], count).astype(np.int32)
    image = np.cumsum(rng.normal(size=(count, HEIGHT, WIDTH, 1)), axis=2) * 20 + 128
    image = np.clip(image, 0, 255).astype(np.uint8)
    image[np.broadcast_to((np.arange(WIDTH) >= width[:, None])[:, None, :, None], image.shape)] = (
        255
    )
    return {
        "image": jnp.asarray(image),
        "width": jnp.asarray(width),
        "valid": jnp.ones(count, bool).at[2].set(False),
    }


@functools.cache
def prepared():
    """(params, teacher that differs from the student, augmented batch, pictures, codes); one
    compilation for all.
    """

    @jax.jit
    def run(raw):
        method = make()
        batch = method.augment(jax.random.key(0), raw)
        params = method.init(jax.random.key(1), batch)["params"]
        teacher = checks.shifted(method.init_teacher(params))
        return (
            params,
            teacher,
            batch,
            method.reconstruct(params, raw, jax.random.key(0)),
            method.encode(params, raw),
        )

    return run(lines())


@jax.jit
def step(params, teacher, batch, images, progress):
    """((loss, Aux), gradients with respect to the parameters, the teacher and all pictures),
    compiled once.
    """

    def loss(params, teacher, images):
        state = types.SimpleNamespace(teacher=teacher, mutable={})
        return make().loss(params, state, {**batch, **images}, jax.random.key(5), progress)

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(params, teacher, images)


def evaluate(batch=None, params=None, teacher=None, progress=1.0):
    ours, theirs, augmented, *_ = prepared()
    batch = augmented if batch is None else batch
    images = {name: batch[name] for name in IMAGES}
    return step(params or ours, teacher or theirs, batch, images, jnp.float32(progress))


# ---- augment ----


@pytest.mark.slow
def test_the_real_part_is_mirrored_and_laid_on_the_line():
    _, _, batch, _, _ = prepared()
    raw = lines()
    plain = np.asarray(raw["image"]) / 127.5 - 1
    np.testing.assert_allclose(batch["view1"], plain, atol=1e-6)
    for b, (width, direction) in enumerate(
        zip(np.asarray(raw["width"]), np.asarray(batch["direction"]))
    ):
        expected = plain[b].copy()
        real = plain[b][:, :width]
        expected[:, :width] = {1: real[:, ::-1], 2: real[::-1], 3: real[::-1, ::-1]}[direction]
        np.testing.assert_allclose(batch["view2"][b], expected, atol=1e-6)
        np.testing.assert_allclose(batch["mixed"][b], (plain[b] + expected) / 2, atol=1e-6)
        np.testing.assert_allclose(
            np.asarray(batch["moved"])[b, :, width:], plain[b][:, width:], atol=1e-6
        )
    assert set(np.asarray(batch["direction"])) == {1, 2, 3} and np.asarray(batch["mask"]).all()


@pytest.mark.slow
def test_the_teacher_sees_both_pictures_through_one_map_of_this_line_and_step():
    """Published bug: the generator is seeded with the place in the batch. Both pictures through one
    map = X through it.
    """
    method = make(affine={"right": (-0.1, 0.1)}, column_offset_max=9)
    raw = {**lines(), "width": jnp.full(16, WIDTH)}
    raw["image"] = jnp.broadcast_to(raw["image"][:1], raw["image"].shape)
    augment, shifts = jax.jit(method.augment), []
    for seed in (0, 1):
        batch = augment(jax.random.key(seed), raw)
        mixed, moved = (np.asarray(batch[name])[..., 0] for name in ("mixed", "moved"))
        candidates = np.linspace(-6.4, 6.4, 257)
        for b in range(16):
            seen = [
                [np.interp(np.arange(8, 56) - s, np.arange(WIDTH), row) for row in mixed[b]]
                for s in candidates
            ]
            error = np.abs(np.array(seen) - moved[b, None, :, 8:56]).mean(axis=(1, 2))
            assert (
                error.min() < 0.02 < error.mean()
            )  # two maps, or none, would leave the error of a random shift
            shifts.append(candidates[error.argmin()])
    assert (
        len(np.unique(np.round(shifts, 1))) > 16
        and np.abs(np.subtract(shifts[:16], shifts[16:])).min() > 0
    )
    offset = np.asarray(batch["column_offset"])
    assert offset.shape == (16, 2) and offset.max() <= 9 and len(np.unique(offset)) > 3


def test_shear_goes_both_ways():
    """Published bug: the tuple (-25, -25, -10, 10) always slants by -25 degrees."""
    shear = {"shear_x": ssm.AFFINE["shear_x"]}
    draw = jax.jit(lambda key: geometry.random_affine(key, HEIGHT, jnp.full(64, 50), shear))
    matrix = np.asarray(draw(jax.random.key(0)))
    slant = np.degrees(np.arctan(-matrix[:, 0, 1]))
    assert (
        slant.min() < -20
        and slant.max() > 20
        and np.abs(slant).max() <= 25.001
        and len(np.unique(slant)) == 64
    )
    with pytest.raises(ValueError, match=r"shear_x is \(-25, -25, -10, 10\).*\(lowest, highest\)"):
        make(affine={"shear_x": (-25, -25, -10, 10)})


def test_nearest_sampling_is_the_authors():
    """torchvision's affine map, point by point: shear along x, then along y, then the turn; the
    nearest pixel of both pictures, 0 (black) beyond the line.
    """
    degrees_x, degrees_y, turn = 20.0, 9.0, 7.0
    affine = {"shear_x": (degrees_x,) * 2, "shear_y": (degrees_y,) * 2, "degrees": (turn,) * 2}
    method = make(affine=affine, sampling="nearest", grayscale_p=0.0)
    batch = jax.device_get(jax.jit(method.augment)(jax.random.key(3), lines(4)))
    a, b, t = np.radians([degrees_x, degrees_y, turn])
    shear_x, shear_y = np.array([[1, np.tan(a)], [0, 1]]), np.array([[1, 0], [np.tan(b), 1]])
    rotation = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    back = np.linalg.inv(rotation @ shear_y @ shear_x)
    black = 0
    for i, width in enumerate(batch["width"]):
        centre = np.array([(width - 1) / 2, (HEIGHT - 1) / 2])
        places = np.stack(np.meshgrid(np.arange(width), np.arange(HEIGHT)), axis=-1)
        at = (places - centre) @ back.T + centre
        sure = (np.abs(at % 1 - 0.5) > 1e-3).all(axis=-1)  # else two pixels are equally near
        column, row = np.moveaxis(np.round(at).astype(int), -1, 0)
        inside = (0 <= column) & (column < width) & (0 <= row) & (row < HEIGHT)
        mixed = batch["mixed"][i, row.clip(0, HEIGHT - 1), column.clip(0, width - 1), 0]
        expected, moved = np.where(inside, mixed, -1.0), batch["moved"][i, :, :, 0]
        np.testing.assert_allclose(moved[:, :width][sure], expected[sure], atol=1e-5)
        np.testing.assert_array_equal(moved[:, width:], batch["view1"][i, :, width:, 0])
        black += (~inside).sum()
    assert black > 100
    with pytest.raises(ValueError, match="sampling is 'cubic'; set config.method.sampling"):
        make(sampling="cubic")
    with pytest.raises(ValueError, match="max_shift_px is 4.*to None"):
        make(sampling="nearest", max_shift_px=4)


# ---- the loss ----


@pytest.mark.slow
def test_pixel_loss_and_contrast_equal_slow_loops():
    params, teacher, batch, _, _ = prepared()
    (loss, aux), _ = evaluate()
    method = make()

    @jax.jit
    def parts(batch):
        apply = lambda tree, f, *args: method.network.apply({"params": tree}, *args, method=f)
        theirs = {name: teacher[name] for name in ssm.Method.teacher_parts}
        features = apply(params, ssm.Network.features, batch, "mixed")
        z, real = apply(params, ssm.Network.project, features, batch)
        keys, _ = apply(
            theirs, ssm.Network.project, apply(theirs, ssm.Network.features, batch, "moved"), batch
        )
        return (
            apply(params, ssm.Network.paint, features),
            apply(params, ssm.Network.predict, z, real),
            keys,
        )

    painted, queries, keys = (np.asarray(x, np.float64) for x in parts(batch))
    width, valid = np.asarray(batch["width"]), np.asarray(batch["valid"])
    errors, pixel = ([], []), 0.0
    for v, name in enumerate(("view1", "view2")):
        picture = np.asarray(vit.unpatchify(jnp.asarray(painted[:, v]), PATCH, (4, 8)))
        for b in np.flatnonzero(valid):
            target = np.asarray(batch[name])[b, :, : width[b]] * 0.5 + 0.5
            errors[v].extend(((picture[b, :, : width[b]] - target) ** 2).ravel())
        pixel += np.mean(errors[v])
    np.testing.assert_allclose(aux.metrics["pixel"], pixel, rtol=1e-5)

    contrast, found, rows = (
        0.0,
        [],
        [(b, s) for b in np.flatnonzero(valid) for s in range(-(-width[b] // WINDOW))],
    )
    for v in range(2):
        q, k = (
            np.array([x[b, v, s] / np.linalg.norm(x[b, v, s]) for b, s in rows])
            for x in (queries, keys)
        )
        logits = q @ k.T / 0.2
        for i in range(len(rows)):
            contrast += 2 * 0.2 * (np.log(np.exp(logits[i]).sum()) - logits[i, i]) / len(rows)
            found.append(logits[i].argmax() == i)
    np.testing.assert_allclose(aux.metrics["contrast"], contrast, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["top1"], np.mean(found), atol=1e-6)
    np.testing.assert_allclose(
        loss, aux.metrics["pixel"] + 0.25 * aux.metrics["contrast"], rtol=1e-6
    )


@pytest.mark.parametrize("progress, weight", [(0.0, 0.0), (0.49, 0.0), (0.75, 0.125), (1.0, 0.25)])
def test_contrast_counts_late(progress, weight):
    """Published bug: the loss starts as nothing at all. Until half time it is the pixel loss
    alone.
    """
    _, teacher, _, _, _ = prepared()
    (loss, aux), _ = evaluate(progress=progress)
    np.testing.assert_allclose(
        loss, aux.metrics["pixel"] + weight * aux.metrics["contrast"], rtol=1e-6
    )
    np.testing.assert_allclose(
        make().schedules(jnp.float32(progress))["weight_contrast"], weight, atol=1e-7
    )


def test_start():
    params, teacher, batch, _, _ = prepared()
    same_teacher = {name: params[name] for name in ssm.Method.teacher_parts}
    (_, aux), _ = evaluate(teacher=same_teacher)
    rows = sum(-(-int(w) // WINDOW) for w, valid in zip(batch["width"], batch["valid"]) if valid)
    np.testing.assert_allclose(aux.metrics["contrast"], 4 * 0.2 * math.log(rows), rtol=0.25)
    assert aux.metrics["top1"] < 0.3 and 0.5 < aux.metrics["q_std"] * math.sqrt(48) <= 1.001


def test_the_direction_token_says_which_picture():
    """Another direction of a line changes its second features alone; both directions of a line
    differ.
    """
    params, _, batch, _, _ = prepared()
    features = jax.jit(
        lambda batch: make().network.apply(
            {"params": params}, batch, "mixed", method=ssm.Network.features
        )
    )
    first = np.asarray(features(batch))
    assert np.abs(first[0, 0] - first[0, 1]).max() > 0.01
    turned = {**batch, "direction": batch["direction"].at[0].set(batch["direction"][0] % 3 + 1)}
    changed = np.abs(np.asarray(features(turned)) - first).max(axis=(2, 3)) > 1e-3
    assert changed[0, 1] and changed.sum() == 1
    real = np.asarray(vit.token_valid(batch["width"], PATCH, (4, 8)))
    assert (first[:, 0][~real] == 0).all()


# ---- what may not reach the loss ----


def test_gradients_reach_what_they_may_only():
    """None the teacher, none padding and rows that are not valid; the student's pictures are not
    the teacher's.
    """
    _, teacher, batch, _, _ = prepared()
    (loss, aux), (grads, theirs, images) = evaluate()
    assert all((g == 0).all() for g in jax.tree.leaves(theirs))
    other = jax.tree.map(lambda x: np.asarray(x) * 1.5, teacher)
    assert evaluate(teacher=other)[0][0] != loss  # it is read all the same
    assert all((g != 0).any() for g in jax.tree.leaves(grads["decoder"]["directions"]))
    real = (np.arange(WIDTH) < np.asarray(batch["width"])[:, None]) & np.asarray(batch["valid"])[
        :, None
    ]
    for name, grad in images.items():
        grad = np.abs(np.asarray(grad)).max(axis=(1, 3))  # (B, W)
        assert np.isfinite(grad).all() and (grad[~real] == 0).all() and grad[real].max() > 0, name
    (_, _), (grads, _, images) = evaluate(progress=0.2)
    assert (images["moved"] == 0).all() and (np.asarray(images["mixed"]) != 0).any()
    assert all(
        (g == 0).all() for part in ("projector", "predictor") for g in jax.tree.leaves(grads[part])
    )
    swapped = evaluate({**batch, "moved": batch["view1"]})[0][1].metrics
    assert (
        swapped["pixel"] == aux.metrics["pixel"] and swapped["contrast"] != aux.metrics["contrast"]
    )


def test_padding_and_filler_rows_change_nothing():
    _, _, batch, _, _ = prepared()
    junk = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, batch["view1"].shape), jnp.float32)
    real = ((jnp.arange(WIDTH)[None] < batch["width"][:, None]) & batch["valid"][:, None])[
        :, None, :, None
    ]
    other = {name: jnp.where(real, batch[name], junk) for name in IMAGES}
    other["direction"] = batch["direction"].at[2].set(1 + batch["direction"][2] % 3)
    (loss, aux), (grads, *_) = evaluate({**batch, **other})
    same(((loss, aux), grads), (evaluate()[0], evaluate()[1][0]))


@pytest.mark.slow
def test_one_device_and_eight_agree():
    params, teacher, batch, _, _ = prepared()
    (params, state), batch = checks.on_eight_devices(
        (params, {"teacher": teacher, "mutable": {}}), batch
    )
    loss = jax.jit(
        lambda batch: make().loss(
            params, types.SimpleNamespace(**state), batch, jax.random.key(5), 1.0
        )
    )
    same(jax.device_get(loss(batch)), evaluate()[0], rtol=2e-5)


# ---- teacher, encode, pictures ----


def test_every_part_of_the_teacher_moves_once():
    """Published bug: the decoder's blocks move twice a step, m^2; and its table does not start as
    the student's.
    """
    params, teacher, _, _, _ = prepared()
    method = make(momentum=0.8)
    start = method.init_teacher(params)
    assert set(start) == {"encoder", "decoder", "projector"}
    assert all(
        jax.tree.leaves(jax.tree.map(lambda a, b: a is b, start["decoder"], params["decoder"]))
    )
    moved = jax.jit(method.update_teacher)(teacher, params, jnp.float32(0.5))
    momentum = float(base.cosine_momentum(0.5, 0.8))
    assert momentum == pytest.approx(0.9) and set(moved) == set(teacher)
    mixed = lambda xi, theta: momentum * np.asarray(xi) + (1 - momentum) * np.asarray(theta)
    for name in ssm.Method.teacher_parts:
        same(moved[name], jax.tree.map(mixed, teacher[name], params[name]), rtol=1e-6)


def test_encode_reads_the_line_as_it_is_and_pictures_show_both():
    params, _, batch, pictures, out = prepared()
    assert out["tokens"].shape == (16, 32, 32) and out["frames"].shape == (16, 8, 128)
    assert list(out["frame_length"][:8]) == [8, 5, 8, 2, 7, 1, 8, 3]
    encoder = vit.Vit(**ENCODER)
    tokens = jax.jit(encoder.apply)({"params": params["encoder"]}, batch["view1"], batch["width"])
    np.testing.assert_allclose(out["tokens"], tokens, atol=1e-5)
    real = np.broadcast_to(
        (np.arange(WIDTH) < np.asarray(batch["width"])[:, None])[:, None, :, None],
        batch["view1"].shape,
    )
    np.testing.assert_allclose(
        pictures["original"], np.asarray(batch["view1"]) * 0.5 + 0.5, atol=1e-6
    )
    np.testing.assert_allclose(
        pictures["masked"], np.asarray(batch["mixed"]) * 0.5 + 0.5, atol=1e-6
    )
    output = np.asarray(pictures["output"])
    np.testing.assert_allclose(output[~real], np.asarray(pictures["original"])[~real], atol=1e-6)
    assert (
        output.min() >= 0
        and output.max() <= 1
        and np.abs(output - pictures["original"])[real].mean() > 0.05
    )


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"target": "raw"}, "target is 'raw'.*method.target.*pixel, normalized"),
        ({"momentum": 1.5}, r"momentum is 1\.5.*\[0, 1\].*method.momentum"),
        ({"contrast_from": 1.0}, r"contrast_from is 1\.0.*method.contrast_from"),
        ({"affine": {"skew": (0, 1)}}, "'skew'.*method.affine.*shear_x"),
        ({"decoder_heads": 3}, "decoder_width of 16.*3 heads.*method.decoder_width"),
        ({"decoder_width": 6}, "decoder_width of 6 does not divide by 4.*method.decoder_width"),
        ({"column_offset_max": -1}, "column_offset_max is -1.*0 or more"),
        ({"channels": 3}, "images have 1 channels.*method.channels"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes).augment(jax.random.key(0), lines())


@pytest.mark.slow
def test_keys_may_be_compared_in_chunks():
    params, teacher, batch, *_ = prepared()
    state = types.SimpleNamespace(teacher=teacher, mutable={})
    with pytest.raises(ValueError, match="chunk is 0"):
        jax.eval_shape(
            lambda p: make(loss_chunk=0).loss(p, state, batch, jax.random.key(0), 0.0), params
        )
