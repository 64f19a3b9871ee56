"""MAE: the official network's numbers, what the encoder may read, static shapes on ragged lines,
and what enters the loss.
"""

from __future__ import annotations

import functools
import json
import math
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.configs.pretrain import mae as config
from dig_jax.methods import dig, mae
from dig_jax.models import vit
from tests.methods import checks, golden, pairs
from tests.methods.checks import PATCH, ROWS, grown, inside, lines, pixels_of, same

PATH = pathlib.Path(__file__).parents[1] / "data" / "mae_golden.npz"
ENCODER = {"patch": PATCH, "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}
SMALL = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "target_floor": 0.05}
STATE = types.SimpleNamespace(teacher=None, mutable={})


def make(**changes):
    """A small MAE that reads grey lines."""
    return mae.Method(
        encoder={**ENCODER, **changes.pop("encoder", {})}, **{"channels": 1, **SMALL, **changes}
    )


@functools.cache
def loss_and_grads(method):
    """jitted (params, batch) -> (loss, gradients)."""
    return jax.jit(
        jax.value_and_grad(lambda p, b: method.loss(p, STATE, b, jax.random.key(5), 0.0)[0])
    )


@functools.cache
def forward(method):
    """jitted (params, batch) -> (tokens of the encoder, prediction)."""
    apply = method.network.apply
    return jax.jit(
        lambda p, b: (apply({"params": p}, b, method=mae.Network.encode), apply({"params": p}, b))
    )


@functools.cache
def small():
    """(method, params as they are drawn, params with every array random, augmented batch), which
    most tests share; row 4 of the batch is filler."""
    return checks.started(make(column_offset_max=9))


@functools.cache
def pixel_gradients():
    """f32[B,H,W] of the encoder's tokens (of a sum with random weights) and of the loss, by the
    pixels of `small`.
    """
    method, _, params, batch = small()

    def tokens(image):
        x = method.network.apply(
            {"params": params}, {**batch, "view1": image}, method=mae.Network.encode
        )
        return jnp.sum(x * jnp.sin(jnp.arange(x.size).reshape(x.shape)))

    loss = lambda image: method.loss(
        params, STATE, {**batch, "view1": image}, jax.random.key(5), 0.0
    )[0]
    grads = jax.jit(lambda image: (jax.grad(tokens)(image), jax.grad(loss)(image)))(batch["view1"])
    return tuple(np.asarray(grad)[..., 0] for grad in grads)


# ---- the official network ----


def _official_name(path: tuple[str, ...]) -> str:
    """Name in the official network of one of our parameters, as ("decoder", "block_0", "norm1",
    "scale").
    """
    *modules, leaf = path
    part = modules[0] if modules else ""
    name = ".".join([*modules[1:], {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)])
    name = (
        name.replace("block_", "blocks.")
        .replace("patch_embed", "patch_embed.proj")
        .replace("pixels", "pred")
    )
    return f"decoder_{name}" if part == "decoder" and name != "mask_token" else name


def _to_official(tree) -> dict[str, np.ndarray]:
    """Our parameters (or gradients) under the official names, in the official layout; keys without
    their idle bias.
    """
    out = {}
    for keys, value in jax.tree_util.tree_leaves_with_path(tree):
        path, value = tuple(key.key for key in keys), np.asarray(value)
        if path[-2:] == ("patch_embed", "kernel"):
            value = value.reshape(4, 4, 3, -1).transpose(
                3, 2, 0, 1
            )  # (ph, pw, C, D) -> (D, C, ph, pw)
        elif path[-1] == "kernel":
            value = value.T
        elif path[-1].endswith("_token"):
            value = value[None, None]
        if path != (
            "encoder",
            "mask_token",
        ):  # the official encoder has none; ours is there and idle
            out[_official_name(path)] = value
    for name in [name for name in out if name.endswith("q_bias")]:
        q, v = out.pop(name), out.pop(name.replace("q_bias", "v_bias"))
        out[name.replace("q_bias", "qkv.bias")] = np.concatenate([q, np.zeros_like(q), v])
    return out


def _from_official(numbers, shapes):
    """The official start in a tree shaped like ours."""

    def pick(keys, leaf):
        path = tuple(key.key for key in keys)
        if path == ("encoder", "mask_token"):
            return jnp.zeros(leaf.shape)
        name = f"start/{_official_name(path)}"
        if path[-1] in ("q_bias", "v_bias"):
            value = np.split(numbers[name.replace(path[-1], "qkv.bias")], 3)[
                {"q_bias": 0, "v_bias": 2}[path[-1]]
            ]
        elif path[-2:] == ("patch_embed", "kernel"):
            value = numbers[name].transpose(2, 3, 1, 0)
        else:
            value = numbers[name].T if path[-1] == "kernel" else numbers[name]
        return jnp.asarray(value.reshape(leaf.shape))

    return jax.tree_util.tree_map_with_path(pick, shapes)


def _reading_order(tokens):
    """[B, 256, ...] row by row -> column by column."""
    return np.swapaxes(tokens.reshape(len(tokens), 8, 32, *tokens.shape[2:]), 1, 2).reshape(
        tokens.shape
    )


@pytest.fixture(scope="module")
def official():
    """One official step through our method, with its weights and its draw of patches."""
    numbers = golden.unpack(PATH)
    config = json.loads(str(numbers["config"]))
    method = mae.Method(
        encoder={
            "patch": (config["patch_size"],) * 2,
            "width": config["embed_dim"],
            "depth": config["depth"],
            "heads": config["num_heads"],
            "position": "square_2d",
            "dtype": "float32",
        },
        channels=3,
        mask_ratio=config["mask_ratio"],
        decoder_width=config["decoder_embed_dim"],
        decoder_depth=config["decoder_depth"],
        decoder_heads=config["decoder_num_heads"],
        cls=True,
    )
    rows = len(numbers["image"])
    order = np.argsort(numbers["noise"], axis=1)
    removed = np.ones((rows, 256), bool)
    np.put_along_axis(removed, order[:, : int(256 * (1 - config["mask_ratio"]))], False, axis=1)
    assert (removed == (numbers["mask"] == 1)).all()
    batch = {
        "view1": jnp.asarray(numbers["image"].transpose(0, 2, 3, 1)),
        "mask": jnp.asarray(_reading_order(removed)),
        "width": jnp.full((rows,), 128, jnp.int32),
        "valid": jnp.ones((rows,), bool),
    }
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), batch))["params"]
    params = _from_official(numbers, shapes)
    step = jax.jit(
        lambda p, b: (loss_and_grads(method)(p, b), method.network.apply({"params": p}, b))
    )
    (loss, grads), prediction = step(params, batch)
    return types.SimpleNamespace(numbers=numbers, loss=loss, grads=grads, prediction=prediction)


def test_loss_and_prediction_are_the_official_ones(official):
    expected = float(official.numbers["loss"])
    print(
        f"loss: official {expected:.9f}, off by {abs(float(official.loss) / expected - 1):.1e} of "
        "it"
    )
    np.testing.assert_allclose(float(official.loss), expected, rtol=1e-5)
    prediction = _reading_order(official.numbers["prediction"])
    off = np.abs(np.asarray(official.prediction) - prediction).max() / np.abs(prediction).max()
    print(f"prediction off by {off:.1e} of the largest")
    assert off <= 1e-5


def test_every_gradient_is_the_official_one_to_1e_minus_4_of_its_largest_value(official):
    expected = {
        name[5:]: value for name, value in official.numbers.items() if name.startswith("grad/")
    }
    ours, off = _to_official(official.grads), {}
    assert expected.keys() == ours.keys()
    for name, value in expected.items():
        assert value.shape == ours[name].shape, name
        off[name] = float(np.abs(ours[name] - value).max() / np.abs(value).max())
    worst = max(off, key=off.get)
    print(f"{len(off)} gradients, worst {worst}: {off[worst]:.1e} of its largest value")
    assert off[worst] <= 1e-4, worst
    assert not np.asarray(official.grads["encoder"]["mask_token"]).any()


def test_position_codes_are_the_official_tables(official):
    for name, prefix in (("pos_embed", 1), ("decoder_pos_embed", 1)):
        table = official.numbers[f"start/{name}"]
        assert not table[:, :prefix].any()  # the CLS token has none
        codes = vit.position_codes("square_2d", (8, 32), table.shape[-1])
        np.testing.assert_allclose(codes, _reading_order(table[:, prefix:]), atol=2e-6)


# ---- what the encoder reads ----


@pytest.mark.slow
def test_nothing_of_removed_patches_reaches_the_encoder_and_every_other_patch_does():
    method, _, params, batch = small()
    removed = pixels_of(batch["mask"])
    assert removed.any() and not removed.all()
    dirty = {**batch, "view1": np.where(removed[..., None], np.float32(np.nan), batch["view1"])}
    clean = forward(method)(params, batch)
    jax.tree.map(np.testing.assert_array_equal, forward(method)(params, dirty), clean)
    read = inside(batch) & ~removed
    grad, _ = pixel_gradients()
    assert (grad[~read] == 0).all() and (grad[read] != 0).all()


@pytest.mark.slow
def test_encoder_reads_k_tokens_and_its_cost_falls():
    """In the traced shapes: no block of the encoder sees more than the quarter that is visible."""
    method, _, params, batch = small()
    options = {"capture_intermediates": True, "mutable": "intermediates"}
    shapes = jax.eval_shape(
        lambda p: method.network.apply({"params": p}, batch, **options)[1], params
    )["intermediates"]
    # 32 tokens, of which int(0.75 * 32) are removed
    assert {x.shape[1] for x in jax.tree.leaves(shapes["encoder"])} == {8}
    assert {x.shape[1] for x in jax.tree.leaves(shapes["decoder"]["block_0"])} == {32}

    def flops(keep):
        wide = vit.Vit(**{**ENCODER, "width": 128, "depth": 4})
        tree = jax.eval_shape(wide.init, jax.random.key(0), batch["view1"], batch["width"])
        lowered = jax.jit(wide.apply).lower(
            tree, batch["view1"], batch["width"], None, None, True, keep
        )
        return lowered.cost_analysis()["flops"]

    assert flops(jnp.zeros((8, 8), jnp.int32)) < 0.27 * flops(None)


def test_every_line_removes_the_same_share_of_its_real_patches():
    method, _, params, batch = small()
    mask, columns = batch["mask"], -(-batch["width"] // PATCH[1])
    assert (mask.sum(1) == [int(0.75 * ROWS * c) for c in columns]).all()
    assert not mask[np.arange(32)[None] >= (ROWS * columns)[:, None]].any()
    filled = (np.asarray(forward(method)(params, batch)[0]) != 0).any(axis=-1)
    assert (filled.sum(1) == ROWS * columns - mask.sum(1)).all() and filled.shape == (8, 8)
    assert (np.diff(filled.astype(int), axis=1) <= 0).all()  # empty places last


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["block", "mixed"])
def test_other_masks_keep_every_visible_patch(kind):
    """The places of the encoder are enough for whatever the masks leave."""
    method = make(mask_kind=kind, mask_span=2, mask_ratio=0.5)

    @jax.jit
    def read(key):
        batch = method.augment(key, lines(64))
        params = method.init(jax.random.key(0), batch)["params"]
        return method.network.apply({"params": params}, batch, method=mae.Network.encode), batch

    tokens, batch = read(jax.random.key(1))
    filled = (np.asarray(tokens) != 0).any(axis=-1).sum(1)
    real = ROWS * -(-np.asarray(batch["width"]) // PATCH[1])
    np.testing.assert_array_equal(filled, real - np.asarray(batch["mask"]).sum(1))


@pytest.mark.parametrize("cls, line, columns", [(False, 1, 5), (True, 2, 3)])
def test_a_line_is_encoded_and_rebuilt_as_it_would_be_alone(cls, line, columns):
    """Another canvas has another K: neither empty places nor padding tell."""
    method, _, params, batch = small()
    if cls:
        method, params = (
            make(cls=True),
            {**params, "cls_token": np.cos(np.arange(32, dtype=np.float32))},
        )
    tokens, prediction = forward(method)(params, batch)
    alone = jax.tree.map(lambda x: x[line : line + 1], batch)
    alone |= {
        "view1": alone["view1"][:, :, : columns * PATCH[1]],
        "mask": alone["mask"][:, : ROWS * columns],
    }
    here, rebuilt = forward(method)(params, alone)
    seen = int(cls) + int((~alone["mask"]).sum())
    assert here.shape[1] < tokens.shape[1]
    np.testing.assert_allclose(here[0, :seen], tokens[line, :seen], atol=1e-5)
    np.testing.assert_allclose(rebuilt[0], prediction[line, : ROWS * columns], atol=1e-5)


def test_encoder_is_that_of_any_other_method():
    shape_of = lambda x: jax.tree.map(lambda y: (y.shape, y.dtype), x)
    trees, with_token = [], make(cls=True)
    for method in (make(), with_token, dig.Method(encoder=ENCODER, channels=1, objective="gen")):
        init = lambda raw, m=method: m.init(jax.random.key(0), m.augment(jax.random.key(1), raw))[
            "params"
        ]
        params = jax.eval_shape(init, jax.eval_shape(lines))
        trees.append(shape_of(params["encoder"]))
        assert ("cls_token" in params) == (method is with_token)
    assert trees[0] == trees[1] == trees[2]


# ---- what enters the loss ----


def test_loss_is_the_papers_over_removed_real_pixels():
    """A slow loop: every removed patch, its own mean and deviation, squares of its real pixels."""
    method, _, params, batch = small()
    prediction = np.asarray(forward(method)(params, batch)[1])
    image, squares = np.asarray(batch["view1"], np.float64), []
    for b, n in np.argwhere(np.asarray(batch["mask"])):
        if not batch["valid"][b]:
            continue
        y, x = n % ROWS * PATCH[0], n // ROWS * PATCH[1]
        real = min(PATCH[1], int(batch["width"][b]) - x)
        patch = image[b, y : y + PATCH[0], x : x + real, 0] / 2  # [0, 1] is half as wide as [-1, 1]
        target = (patch - patch.mean()) / math.sqrt(patch.var(ddof=1) + 0.05**2)
        squares.append((prediction[b, n].reshape(PATCH)[:, :real] - target) ** 2)
    expected = np.concatenate([x.ravel() for x in squares]).mean()
    np.testing.assert_allclose(loss_and_grads(method)(params, batch)[0], expected, rtol=1e-5)


def test_nothing_passes_through_padding_or_rows_that_are_not_valid():
    (_, _, _, batch), (_, grad) = small(), pixel_gradients()
    entering = inside(batch) & np.asarray(batch["valid"])[:, None, None]
    assert np.isfinite(grad).all() and (grad[~entering] == 0).all()
    assert (grad.max(axis=(1, 2)) > 0).tolist() == entering.any(axis=(1, 2)).tolist()


def test_loss_does_not_move_when_padding_grows_rows_fill_up_and_devices_share_them():
    """Wider canvas (and so more places), other pixels in the padding, eight more rows that are not
    valid, all of it over eight devices.
    """
    method, _, params, batch = small()
    eight = loss_and_grads(method)(*checks.on_eight_devices(params, grown(batch, more=8)))
    same(jax.device_get(eight), loss_and_grads(method)(params, batch), rtol=2e-5)


def test_a_normalised_target_starts_near_one():
    """Targets have mean 0 and, but for the floor, variance 1, and know nothing of the first
    prediction.
    """
    method, drawn, _, batch = small()
    prediction = np.asarray(forward(method)(drawn, batch)[1])[
        batch["mask"] & batch["valid"][:, None]
    ]
    np.testing.assert_allclose(
        loss_and_grads(method)(drawn, batch)[0], 1 + np.mean(prediction**2), rtol=0.1
    )


# ---- CAN ----


@pytest.mark.slow
def test_can_is_three_losses_of_two_masked_and_noisy_views():
    """Each against a slow loop over what the network says; nothing of removed patches is read."""
    can = {"recipe": pairs.BLUR, "projector_width": 24, "projector_dim": 16}
    method = make(can=can, mask_ratio=0.5, column_offset_max=9)
    raw = {**lines(), "valid": np.arange(8) != 4}
    batch = jax.device_get(jax.jit(method.augment)(jax.random.key(0), raw))
    params = checks.shaken(jax.jit(method.init)(jax.random.key(1), batch)["params"])

    @jax.jit
    def step(params, batch):
        def loss(params, views):
            given = {**batch, **views}
            value, aux = method.loss(params, STATE, given, None, 0.0)
            return value, (aux.metrics, method.apply(params, "__call__", given))

        views = {name: batch[name] for name in ("view1", "view2")}
        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, views)

    (loss, (metrics, (said, z))), (grads, by_pixel) = jax.device_get(step(params, batch))
    said, z = said.reshape(8, 2, 32, 2, *PATCH), z.reshape(8, 2, 16)
    squares, grains = [], []
    for b, v, n in np.ndindex(8, 2, 32):
        y, x = n % ROWS * PATCH[0], n // ROWS * PATCH[1]
        real = min(PATCH[1], int(batch["width"][b]) - x)
        if not batch["valid"][b] or real <= 0:
            continue
        cut = np.s_[b, y : y + PATCH[0], x : x + real, 0]
        noise = batch["noise"][:, v][cut]
        if not batch["mask"][b, v, n]:
            grains.append((said[b, v, n, 1][:, :real] - noise) ** 2)
            continue
        clean = (batch[f"view{v + 1}"][cut] - batch["strength"][b, v] * noise) / 2
        target = (clean - clean.mean()) / math.sqrt(clean.var(ddof=1) + 0.05**2)
        squares.append((said[b, v, n, 0][:, :real] - target) ** 2)
    mean = lambda parts: np.concatenate([x.ravel() for x in parts]).mean()
    one, two, top1 = pairs.nt_xent(*z[batch["valid"]].transpose(1, 0, 2).astype(np.float64), 0.1)
    expected = {"pixel": mean(squares), "noise": mean(grains), "contrast": np.mean(one + two)}
    expected["top1"] = top1
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4, err_msg=name)
    total = 0.7 * expected["pixel"] + 0.27 * expected["noise"] + 0.03 * expected["contrast"]
    np.testing.assert_allclose(loss, total, rtol=2e-4)
    assert (batch["mask"][:, 0] != batch["mask"][:, 1]).any() and not method.loss_is_mean
    assert 0 <= batch["strength"].min() and 0.01 < batch["strength"].max() <= 0.05
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        idle = "encoder" in jax.tree_util.keystr(path) and "mask_token" in str(path)
        assert np.isfinite(grad).all() and np.any(grad) != idle, jax.tree_util.keystr(path)
    assert not by_pixel["view2"][4].any() and by_pixel["view2"][0].any()
    dirty = {}
    for v, name in enumerate(("view1", "view2")):
        removed = pixels_of(batch["mask"][:, v])[..., None]
        dirty[name] = np.where(removed, np.float32(np.nan), batch[name])
    again = jax.jit(lambda b: method.apply(params, "__call__", b))({**batch, **dirty})
    np.testing.assert_allclose(again[1].reshape(z.shape), z, atol=1e-5)
    shapes = jax.eval_shape(method.reconstruct, params, lines(), jax.random.key(0))
    assert {name: x.shape for name, x in shapes.items()}["output"] == (8, 32, 64, 1)


def test_can_has_a_config_and_refuses_what_it_lacks():
    options = config.get_config("preset=cpu,can").method
    assert options.can.weight_pixel == 0.7 and options.mask_ratio == 0.5
    assert "can" not in config.get_config("preset=cpu").method
    with pytest.raises(ValueError, match="can has noize; config.method.can has recipe, max_shift"):
        make(can={"noize": 1})


# ---- augment, encode, reconstruct ----


def test_column_offset_moves_both_position_codes_of_its_line():
    method, _, params, batch = small()
    offset = batch["column_offset"]
    assert (
        offset.shape == (8, 1)
        and offset.min() >= 0
        and offset.max() <= 9
        and len(np.unique(offset)) > 3
    )
    moved = offset + 4 * (np.arange(8) == 2)[:, None]
    changed = lambda new, old: (np.abs(np.subtract(new, old)).max(axis=(1, 2)) > 1e-4).tolist()
    tokens, prediction = forward(method)(params, batch)
    assert changed(forward(method)(params, {**batch, "column_offset": moved})[0], tokens) == [
        i == 2 for i in range(8)
    ]

    @jax.jit
    def decode(offset):  # the same encoded patches at other places
        real = vit.token_valid(batch["width"], PATCH, (ROWS, 8))
        args = tokens, real & ~batch["mask"], real, (ROWS, 8), offset
        return method.network.decoder.apply({"params": params["decoder"]}, *args)

    np.testing.assert_allclose(decode(offset[:, 0]), prediction, atol=1e-5)
    assert changed(decode(moved[:, 0]), prediction) == [i == 2 for i in range(8)]


def test_encode_reads_every_patch():
    method, _, params, _ = small()
    out = jax.eval_shape(method.encode, params, lines())
    assert {name: x.shape for name, x in out.items()} == {
        "tokens": (8, 32, 32),
        "frames": (8, 8, ROWS * 32),
        "frame_length": (8,),
    }


def test_pictures_change_removed_patches_only():
    method, _, params, batch = small()  # of key 0
    raw = lines()
    pictures = jax.tree.map(np.asarray, jax.jit(method.reconstruct)(params, raw, jax.random.key(0)))
    removed = pixels_of(batch["mask"]) & inside(batch)
    original = np.asarray(raw["image"]) / 255
    for name in ("masked", "output", "original"):
        np.testing.assert_allclose(pictures[name][~removed], original[~removed], atol=1e-6)
    assert (pictures["masked"][removed] == 0.5).all() and np.ptp(pictures["output"][removed]) > 0.1


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"mask_ratio": 1.0}, r"mask_ratio is 1\.0.*method.mask_ratio"),
        ({"mask_span": 0}, "not 0: change method.mask_span"),
        ({"decoder_heads": 3}, "decoder_width of 16.*by 4 and into 3 heads.*method.decoder_width"),
        ({"target": "raw"}, "target is 'raw'.*method.target.*normalized_joint"),
        ({"column_offset_max": -1}, "column_offset_max is -1.*0 or more"),
        ({"target_floor": 0.0}, r"target_floor is 0.0.*config.method.target_floor above 0"),
        ({"encoder": {"position": "learned"}}, "decoder of MAE has no table"),
        ({"channels": 3}, "images have 1 channels.*method.channels"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes).augment(jax.random.key(0), lines())
