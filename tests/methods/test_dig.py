"""DiG: what may and what may not reach the loss, the teacher's schedule, the halves, and sanity at
the start.

Agreement with the official network is test_dig_golden.py's part, the loss equation itself
test_losses.py's.
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

from dig_jax.augment import views
from dig_jax.methods import dig
from dig_jax.methods.shared import base, pixels
from dig_jax.models import encoders, vit
from tests.methods import checks
from tests.methods.checks import same
from tests.tiers import tiers

PATCH = (8, 8)
HEIGHT, WIDTH, WINDOW = 32, 64, 16
ENCODER = {"patch": PATCH, "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}
SMALL = {"projector_width": 48, "projector_dim": 24, "pix_projector_width": 40, "decoder_width": 24}


BLUR = views.only("blur", sigma=(0.5, 1.5))  # quick to compile; the recipes have tests of their own


def make(**changes):
    """A small DiG that reads grey lines."""
    encoder = {**ENCODER, **changes.pop("encoder", {})}
    return dig.Method(
        encoder=encoder, **{"channels": 1, "window_px": WINDOW, "recipe": BLUR, **SMALL, **changes}
    )


def lines(count=6, width_px=WIDTH, ragged=True, seed=0, channels=1):
    """A raw batch of noise; when ragged, of every kind of width: full, a part of a patch, a part of
    a window.
    """
    rng = np.random.default_rng(seed)
    width = (
        np.resize([width_px, 37, 24, 9, width_px - 8, 1], count)
        if ragged
        else np.full(count, width_px)
    )
    image = rng.integers(0, 256, (count, HEIGHT, width_px, channels), np.uint8)
    image[
        np.broadcast_to((np.arange(width_px) >= width[:, None])[:, None, :, None], image.shape)
    ] = 255
    batch = {"image": image, "width": width.astype(np.int32), "valid": np.ones(count, bool)}
    return batch


def start(method, raw, seed=0):
    """(params, state with a teacher that differs from the student, augmented batch)."""
    batch = jax.jit(method.augment)(jax.random.key(seed), raw)
    params = jax.jit(method.init)(jax.random.key(seed + 1), batch)["params"]
    teacher = method.init_teacher(params)
    if teacher is not None:
        teacher = checks.shifted(jax.device_get(teacher))
    return params, types.SimpleNamespace(teacher=teacher, mutable={}), batch


def stepper(method):
    """jitted (params, teacher, batch) -> (loss, metrics, gradients of params, teacher, views)."""

    def loss(params, teacher, images, batch):
        state = types.SimpleNamespace(teacher=teacher, mutable={})
        return method.loss(params, state, {**batch, **images}, jax.random.key(5), 0.0)

    @jax.jit
    def step(params, teacher, batch):
        images = {name: batch[name] for name in ("view1", "view2") if name in batch}
        (value, aux), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
            params, teacher, images, batch
        )
        return value, aux.metrics, grads

    return step


@functools.cache
def case(objective="dig", target="pixel"):
    """(method, params, state, batch, step): a step is compiled once for all tests."""
    method = make(objective=objective, target=target, target_floor=0.05)
    return method, *start(method, lines()), stepper(method)


# ---- losses ----


@pytest.mark.slow
def test_losses_start_where_chance_puts_them():
    """L_con near 2 * 2T ln M with M windows, top-1 near chance, raw pixel loss near the mean square
    of the pixels.
    """
    method = make(encoder={"width": 64}, projector_width=256, projector_dim=256)
    params, state, batch = start(method, lines(32, ragged=False))
    state.teacher = method.init_teacher(params)
    forward = jax.jit(lambda p: method.loss(p, state, batch, jax.random.key(5), 0.0))
    loss, aux = forward(params)
    metrics = aux.metrics
    windows = 32 * WIDTH // WINDOW
    np.testing.assert_allclose(metrics["contrast"], 2 * 2 * 0.2 * math.log(windows), rtol=0.1)
    assert metrics["top1"] < 0.2
    assert (
        0.5 / 16 < metrics["q_std"] <= 1 / 16 * 1.001
    )  # of unit vectors in 256 dimensions: at most 1/16
    grey = np.asarray(batch["view1"]) * 0.5 + 0.5
    assert 0.5 * np.mean(grey**2) < metrics["pixel"] < 2.5 * np.mean(grey**2)
    np.testing.assert_allclose(loss, metrics["pixel"] + 0.1 * metrics["contrast"], rtol=1e-6)


@pytest.mark.slow
def test_weights_are_those_of_the_config():
    _, params, state, batch, step = case()
    loss, metrics, _ = step(params, state.teacher, batch)
    np.testing.assert_allclose(loss, metrics["pixel"] + 0.1 * metrics["contrast"], rtol=1e-6)
    other = make(weight_pixel=0.25, weight_contrast=3.0)
    loss, aux = jax.jit(lambda p: other.loss(p, state, batch, jax.random.key(5), 0.0))(params)
    for name in ("pixel", "contrast"):
        np.testing.assert_allclose(aux.metrics[name], metrics[name], rtol=1e-5)
    np.testing.assert_allclose(loss, 0.25 * metrics["pixel"] + 3.0 * metrics["contrast"], rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_target_equals_the_slow_loop(channels):
    """Every patch and channel by itself, unbiased variance, real pixels only."""
    raw = lines(6, channels=channels)
    image, width = np.asarray(raw["image"]) / 127.5 - 1, np.asarray(raw["width"])
    floor, view = 0.05, jnp.asarray(image, jnp.float32)
    made = jax.jit(
        lambda view: pixels.pixel_target(view, raw["width"], PATCH, "normalized", floor)
    )(view)
    target, mean, deviation, real = (np.asarray(x) for x in made)
    rows = HEIGHT // PATCH[0]
    for b in range(len(image)):
        for n in range(target.shape[1]):
            y, x = (n % rows) * PATCH[0], (n // rows) * PATCH[1]
            columns = [i for i in range(x, x + PATCH[1]) if i < width[b]]
            inside = np.zeros((*PATCH, channels), bool)
            inside[:, : len(columns)] = True
            assert (real[b, n] == inside.reshape(-1)).all()
            if not columns:
                continue
            grey = (
                image[b, y : y + PATCH[0], columns[0] : columns[-1] + 1] * 0.5 + 0.5
            )  # (ph, real columns, C)
            expected = np.stack(
                [
                    (grey[..., c] - grey[..., c].mean())
                    / math.sqrt(grey[..., c].var(ddof=1) + floor**2)
                    for c in range(channels)
                ],
                axis=-1,
            )
            np.testing.assert_allclose(
                target[b, n][inside.reshape(-1)], expected.reshape(-1), atol=2e-5
            )
    grey = np.asarray(vit.patchify(view * 0.5 + 0.5, PATCH))
    np.testing.assert_allclose((target * deviation + mean)[real], grey[real], atol=1e-5)


# ---- what may not reach the loss ----


def test_no_gradient_reaches_the_teacher():
    _, params, state, batch, step = case()
    loss, _, (_, grads, _) = step(params, state.teacher, batch)
    assert all((grad == 0).all() for grad in jax.tree.leaves(grads))
    larger = jax.tree.map(lambda x: np.asarray(x) * np.float32(1.5), state.teacher)
    assert step(params, larger, batch)[0] != loss  # it is read all the same


def test_only_hidden_patches_of_valid_rows_enter_the_pixel_loss():
    method = make(objective="gen", mask_ratio=0.5)
    params, _, batch = start(method, lines(6))
    batch["valid"] = np.arange(6) != 4
    tokens = jax.jit(
        lambda p, b: method.network.apply({"params": p}, b, method=dig.Network.encode_views)
    )(params, batch)

    @jax.jit
    def loss(tokens, batch):
        prediction = method.apply(params, "decode", tokens, batch)
        return pixels.masked_loss(prediction, batch, PATCH, "pixel", 1e-6)

    counts = np.asarray(batch["mask"]) & batch["valid"][:, None]
    assert counts.any() and not counts.all()
    grad = np.abs(np.asarray(jax.grad(loss)(tokens, batch)))[:, 0].max(axis=-1)  # (B, N)
    assert (grad[~counts] == 0).all() and (grad[counts] > 0).all()
    # The target: other pixels in visible patches, on padding and in rows that are not valid change
    # nothing.
    patches = vit.patchify(batch["view1"], PATCH)
    _, _, _, real = pixels.pixel_target(batch["view1"], batch["width"], PATCH, "pixel", 0)
    entering = counts[..., None] & np.asarray(real)
    grid = vit.grid(batch["view1"].shape, PATCH)

    def with_target(changed):
        view = vit.unpatchify(jnp.where(changed, -patches, patches), PATCH, grid)
        return loss(tokens, {**batch, "view1": view})

    assert with_target(~entering) == loss(tokens, batch)
    assert with_target(entering) != loss(tokens, batch)


@pytest.mark.slow
def test_blocks_behind_the_encoder_learn_and_read_no_padding():
    """decoder_blocks=2 of "gen": the encoder is what it was, and a line on a wider canvas is
    rebuilt alike."""
    method = make(objective="gen", decoder_blocks=2)
    params, _, batch = start(method, lines(6))
    assert set(params["pix_blocks"]) == {"block_0", "block_1", "norm"}
    plain = make(objective="gen")
    tree = lambda m: jax.eval_shape(m.init, jax.random.key(0), batch)["params"]["encoder"]
    assert jax.tree.structure(params["encoder"]) == jax.tree.structure(tree(plain))

    @jax.jit
    def step(params, batch):
        def loss(params):
            tokens = method.apply(params, "encode_views", batch)
            said = method.apply(params, "decode", tokens, batch)
            return pixels.masked_loss(said, batch, PATCH, "pixel", 1e-6), said

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, said), grads = step(params, batch)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)
    wide = {"mask": np.pad(batch["mask"], ((0, 0), (0, 8)))}
    noise = np.random.default_rng(1).uniform(-1, 1, (6, HEIGHT, 2 * PATCH[1], 1))
    wide["view1"] = np.concatenate([batch["view1"], noise.astype(np.float32)], 2)
    (_, other), wide_grads = step(params, {**batch, **wide})
    real = np.asarray(vit.token_valid(batch["width"], PATCH, (4, 8)))
    np.testing.assert_allclose(np.asarray(other)[:, :32][real], said[real], atol=1e-5)
    same(wide_grads, grads, rtol=5e-5)
    cnn = {"kind": "cnn", "height_px": HEIGHT, **encoders.sized({"size": "cnn_nano"})}
    behind = dig.Method(encoder=cnn, channels=1, objective="gen", decoder_blocks=1)
    raw = jax.eval_shape(behind.augment, jax.random.key(0), lines(2))
    shapes = jax.eval_shape(behind.init, jax.random.key(0), raw)["params"]
    assert set(shapes["pix_blocks"]) == {"block_0", "norm"}


OBJECTIVES = [("dig", "pixel"), ("gen", "normalized"), ("dis", "pixel"), ("dig", "normalized")]


@pytest.mark.parametrize("objective, target", tiers(OBJECTIVES))
def test_nothing_passes_through_padding_or_rows_that_are_not_valid(objective, target):
    _, params, state, batch, step = case(objective, target)
    valid = np.arange(len(batch["valid"])) != 1
    _, _, (_, _, grads) = step(params, state.teacher, {**batch, "valid": valid})
    assert set(grads) == {"view1", "view2"} & set(batch)
    inside = np.arange(WIDTH)[None] < np.asarray(batch["width"])[:, None]
    inside &= valid[:, None]
    for name in grads:
        grad = np.abs(np.asarray(grads[name])).max(axis=(1, 3))  # (B, W)
        assert np.isfinite(grad).all() and (grad[~inside] == 0).all(), name
        assert grad[inside].max() > 0, name


@pytest.mark.parametrize("objective, target", tiers(OBJECTIVES[1:]))
def test_loss_does_not_move_when_padding_grows_rows_fill_up_and_devices_share_them(
    objective, target
):
    """Wider canvas, other pixels in the padding, two more rows that are not valid, over eight
    devices: same loss, same gradients.
    """
    _, params, state, batch, step = case(objective, target)
    grown, more = 3 * WINDOW, 2
    fill = np.random.default_rng(7)

    def view(image):
        image = np.asarray(image)
        junk = fill.uniform(-1, 1, (len(image) + more, HEIGHT, WIDTH + grown, 1))
        junk = junk.astype(np.float32)
        inside = (
            np.arange(WIDTH)[None, None, :, None] < np.asarray(batch["width"])[:, None, None, None]
        )
        junk[: len(image), :, :WIDTH] = np.where(inside, image, junk[: len(image), :, :WIDTH])
        return junk

    wide = {name: view(batch[name]) for name in ("view1", "view2") if name in batch}
    if "mask" in batch:
        tokens = grown // PATCH[1] * (HEIGHT // PATCH[0])
        wide["mask"] = np.pad(batch["mask"], ((0, more), (0, tokens)))
        wide["mask"][-1] = True
    wide["width"] = np.append(batch["width"], [WIDTH + grown, 20]).astype(np.int32)
    wide["valid"] = np.pad(batch["valid"], (0, more))
    pick = lambda out: (*out[:2], out[2][0])  # loss, metrics, gradients of the parameters
    there = checks.on_eight_devices((params, state.teacher), wide)
    eight = jax.device_get(step(*there[0], there[1]))
    same(pick(eight), pick(step(params, state.teacher, batch)), rtol=2e-5)


# ---- teacher ----


@pytest.mark.parametrize(
    "progress, momentum", [(0.0, 0.99), (0.5, 0.995), (1.0, 1.0), (1 / 3, 0.9925)]
)
def test_momentum_follows_the_cosine(progress, momentum):
    np.testing.assert_allclose(
        base.cosine_momentum(jnp.float32(progress), 0.99), momentum, rtol=1e-6
    )


def test_teacher_moves_towards_the_student_and_holds_no_predictor():
    method, (_, params, state, *_) = make(momentum=0.9), case()
    assert set(state.teacher) == {"encoder", "projector", "pix_projector"}
    moved = method.update_teacher(state.teacher, params, jnp.float32(0.5))
    expected = jax.tree.map(
        lambda xi, theta: 0.95 * xi + 0.05 * theta,
        state.teacher,
        {name: params[name] for name in state.teacher},
    )
    same(moved, expected, rtol=1e-6)


# ---- halves ----


@pytest.mark.slow
def test_halves_own_only_what_they_use():
    trees, metrics = {}, {}
    assert set(dig.TEACHER_PARTS) == {objective for objective, _ in OBJECTIVES}
    for objective, target in OBJECTIVES[:3]:
        method = make(objective=objective, target=target)
        batch = jax.eval_shape(method.augment, jax.random.key(0), lines())
        params = jax.eval_shape(method.init, jax.random.key(1), batch)["params"]
        teacher = method.init_teacher(params)
        trees[objective] = (set(params), teacher and set(teacher), set(batch))
        metrics[objective] = set(jax.eval_shape(stepper(method), params, teacher, batch)[1])
        assert ("norm" in params["encoder"]) == (objective == "gen")
    common, contrast = {"view1", "width", "valid"}, {"contrast", "top1", "q_std"}
    assert trees["dig"] == (
        {"encoder", "projector", "predictor", "pix_projector", "pix_decoder"},
        {"encoder", "projector", "pix_projector"},
        common | {"view2", "mask"},
    )
    assert trees["dis"] == (
        {"encoder", "projector", "predictor"},
        {"encoder", "projector"},
        common | {"view2"},
    )
    assert trees["gen"] == ({"encoder", "pix_decoder"}, None, common | {"mask"})
    assert metrics == {"dig": contrast | {"pixel"}, "dis": contrast, "gen": {"pixel"}}


def test_the_official_small_heads_have_the_official_number_of_parameters():
    """methods.md 1.1 and 1.3, where heads are counted without the scales and biases of their batch
    norms.
    """
    method = dig.Method(
        encoder={"patch": (4, 4), "position": "flat_1d", **vit.SIZES["S"]}, channels=3
    )
    raw = jax.eval_shape(lambda: lines(2, 128, ragged=False, channels=3))
    shapes = jax.eval_shape(
        lambda raw: method.init(jax.random.key(0), method.augment(jax.random.key(1), raw)), raw
    )
    count = {
        name: sum(
            math.prod(x.shape)
            for x in jax.tree.leaves(part)
            if name == "encoder" or len(x.shape) > 1
        )
        for name, part in shapes["params"].items()
    }
    millions = {
        "projector": 19.40,
        "predictor": 2.10,
        "pix_projector": 0.66,
        "pix_decoder": 0.12,
        "encoder": 21.31,
    }
    assert {name: round(n / 1e6, 2) for name, n in count.items()} == millions


# ---- augment, encode, reconstruct ----


def test_augment_makes_views_and_masks_on_real_tokens_only():
    method = make(column_offset_max=9, mask_ratio=0.7, recipe="dig")
    raw, augment = lines(), jax.jit(method.augment)
    batch = augment(jax.random.key(3), raw)
    np.testing.assert_allclose(batch["view1"], np.asarray(raw["image"]) / 127.5 - 1, atol=1e-6)
    assert batch["view2"].shape == batch["view1"].shape and batch["view2"].dtype == jnp.float32
    assert (np.abs(batch["view2"]) <= 1 + 1e-6).all()
    assert (np.abs(batch["view2"] - batch["view1"])[0].max(axis=(0, 2)) > 0).any()
    rows, columns = HEIGHT // PATCH[0], np.maximum(-(-np.asarray(raw["width"]) // PATCH[1]), 1)
    assert (np.asarray(batch["mask"]).sum(1) == [int(0.7 * rows * c) for c in columns]).all()
    assert not np.asarray(batch["mask"])[
        np.arange(batch["mask"].shape[1])[None] >= (rows * columns)[:, None]
    ].any()
    offset = np.asarray(batch["column_offset"])
    assert (
        offset.shape == (6, 2)
        and offset.min() >= 0
        and offset.max() <= 9
        and len(np.unique(offset)) > 3
    )
    again, other = augment(jax.random.key(3), raw), augment(jax.random.key(4), raw)
    assert (again["mask"] == batch["mask"]).all() and not (other["mask"] == batch["mask"]).all()


def test_column_offset_moves_the_position_code_of_each_view_alone():
    method, params, _, batch, _ = case()

    @jax.jit
    def apply(offset):
        given = {**batch, "column_offset": offset}
        return method.network.apply({"params": params}, given, method=dig.Network.encode_views)

    offset = np.zeros((6, 2), np.int32)
    still = np.asarray(apply(offset))
    offset[2, 1] = 4
    changed = np.abs(np.asarray(apply(offset)) - still).max(axis=(2, 3)) > 1e-4
    assert changed[2, 1] and changed.sum() == 1


@pytest.mark.parametrize("objective", ["dig", "gen"])
def test_encode_reads_whole_lines_and_no_padding(objective):
    method, params, *_ = case(objective, "pixel" if objective == "dig" else "normalized")
    raw = lines()
    encode = jax.jit(method.encode)
    out = encode(params, raw)
    rows = HEIGHT // PATCH[0]
    assert out["tokens"].shape == (6, rows * WIDTH // PATCH[1], 32)
    assert out["frames"].shape == (6, WIDTH // PATCH[1], rows * 32)
    assert list(out["frame_length"]) == [8, 5, 3, 2, 7, 1]
    grown = np.pad(raw["image"], ((0, 0), (0, 0), (0, 24), (0, 0)), constant_values=9)
    wide = encode(params, {**raw, "image": grown})
    real = np.arange(out["frames"].shape[1])[None] < np.asarray(out["frame_length"])[:, None]
    np.testing.assert_allclose(
        np.asarray(wide["frames"])[:, : real.shape[1]][real], out["frames"][real], atol=1e-5
    )


@pytest.mark.parametrize("target", tiers(["pixel", "normalized"]))
def test_pictures_change_hidden_patches_only(target):
    method = make(target=target, target_floor=0.05, column_offset_max=3)
    raw, params = lines(), case("dig", target)[1]
    key = jax.random.key(8)
    pictures = jax.jit(method.reconstruct)(params, raw, key)
    original = np.asarray(raw["image"]) / 255
    np.testing.assert_allclose(pictures["original"], original, atol=1e-6)
    mask = np.asarray(jax.jit(method.augment)(key, raw)["mask"])
    hidden = np.asarray(vit.unpatchify(jnp.repeat(mask[..., None], 64, -1), PATCH, (4, 8)))
    hidden = hidden & (
        np.arange(WIDTH)[None, None, :, None] < np.asarray(raw["width"])[:, None, None, None]
    )
    for name in ("masked", "output"):
        picture = np.asarray(pictures[name])
        assert picture.min() >= 0 and picture.max() <= 1
        np.testing.assert_allclose(picture[~hidden], original[~hidden], atol=1e-6)
    assert (np.asarray(pictures["masked"])[hidden] == 0.5).all()
    assert (
        np.abs(np.asarray(pictures["output"]) - np.asarray(pictures["masked"]))[hidden].max() > 0.01
    )
    assert make(objective="dis").reconstruct(params, raw, key) == {}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"objective": "both"}, "objective is 'both'.*method.objective.*dig, dis, gen"),
        ({"target": "raw"}, "target is 'raw'.*method.target.*pixel, normalized"),
        ({"momentum": 1.5}, r"momentum is 1\.5.*\[0, 1\].*method.momentum"),
        ({"mask_ratio": 1.0}, r"mask_ratio is 1\.0.*method.mask_ratio"),
        ({"decoder_blocks": -1}, "decoder_blocks is -1 with objective 'dig'.*to 0 or more"),
        ({"block": 1}, "block is 1 with objective 'dig': only 'dis'.*method.block to 'last'"),
        ({"recipe": "digg"}, "recipe is 'digg'.*method.recipe.*dig, lines_light"),
        ({"column_offset_max": -1}, "column_offset_max is -1.*0 or more"),
        ({"target": "normalized", "target_floor": 0.0}, "config.method.target_floor above 0"),
        ({"channels": 3}, "images have 1 channels.*method.channels"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes).augment(jax.random.key(0), lines())


# ---- learning ----


@pytest.mark.slow
def test_sixteen_lines_can_be_learnt_by_heart():
    """Fixed views and masks: the reconstruction falls below 1/20 of its start, and most windows
    find their pair.
    """
    method = make(
        encoder={"width": 64},
        projector_width=128,
        projector_dim=64,
        weight_contrast=1.0,
    )
    params, state, batch = start(method, lines(16, ragged=False, seed=3))
    batch = {**batch, "view1": batch["view1"] * 0.3, "view2": batch["view2"] * 0.3}
    teacher, tx = method.init_teacher(params), optax.adam(2e-3)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, teacher, opt_state, progress):
        teacher = method.update_teacher(teacher, params, progress)
        state = types.SimpleNamespace(teacher=teacher, mutable={})
        (loss, aux), grads = jax.value_and_grad(method.loss, has_aux=True)(
            params, state, batch, jax.random.key(0), 0.0
        )
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), teacher, opt_state, loss, aux.metrics

    history = []
    for i in range(200):
        params, teacher, opt_state, loss, metrics = step(
            params, teacher, opt_state, jnp.float32(i / 200)
        )
        history.append(
            {"loss": float(loss), **{name: float(value) for name, value in metrics.items()}}
        )
    first, last = history[0], history[-1]
    print(first, last)
    assert last["pixel"] < first["pixel"] / 20
    assert last["contrast"] < 0.55 * first["contrast"] and last["top1"] > 0.7
    assert last["q_std"] > 0.3 / math.sqrt(64)  # no collapse


@pytest.mark.slow
def test_keys_may_be_compared_in_chunks():
    """config.method.loss_chunk reaches the loss, which is the same to rounding."""
    q, k = jax.random.normal(jax.random.key(0), (2, 9, 5))
    whole, parts = (make(loss_chunk=chunk).contrast_loss(q, k) for chunk in (None, 4))
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
    _, params, state, batch, _ = case()
    with pytest.raises(ValueError, match="chunk is 0"):
        jax.eval_shape(
            lambda p: make(loss_chunk=0).loss(p, state, batch, jax.random.key(0), 0.0), params
        )
