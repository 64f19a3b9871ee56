"""dig_jax.models.vit: geometry, position codes, padding, initial weights, forms of the block
loop.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.models import vit
from tests.tiers import tiers

TINY = {"patch": (8, 4), "width": 32, "depth": 2, "heads": 2}
WIDTHS = (60, 99, 128, 1)  # 99 and 1 end inside a patch


def lines(image_px, seed=0):
    """Four lines 16 px high, painted in noise up to their width and in paper beyond it."""
    pixels = (
        np.random.default_rng(seed).uniform(-1, 1, (len(WIDTHS), 16, 128, 1)).astype(np.float32)
    )
    image = np.ones((len(WIDTHS), 16, image_px, 1), np.float32)
    for i, width in enumerate(WIDTHS):
        image[i, :, :width] = pixels[i, :, :width]
    return jnp.asarray(image), jnp.asarray(WIDTHS, jnp.int32)


@functools.cache
def start(**options):
    """(module, params) with every array random, biases and mask token included, so that none can
    hide a mistake.
    """
    module = vit.Vit(**(TINY | options))
    image, width = lines(128)
    params = jax.jit(module.init)(jax.random.key(0), image, width)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        leaf + 0.1 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)
    ]
    return module, jax.tree.unflatten(tree, leaves)


# ---- geometry ------------------------------------------------------------------------------------


def test_patchify_against_a_slow_loop_and_back():
    image = np.random.default_rng(0).normal(size=(2, 16, 12, 3)).astype(np.float32)
    rows, cols = vit.grid(image.shape, (8, 4))
    assert (rows, cols) == (2, 3)
    ours = np.asarray(vit.patchify(jnp.asarray(image), (8, 4)))
    for n in range(rows * cols):
        row, col = n % rows, n // rows
        patch = [
            image[:, 8 * row + y, 4 * col + x, c]
            for y in range(8)
            for x in range(4)
            for c in range(3)
        ]
        np.testing.assert_array_equal(ours[:, n], np.stack(patch, -1))
    np.testing.assert_array_equal(vit.unpatchify(jnp.asarray(ours), (8, 4), (rows, cols)), image)


def test_grid_refuses_a_side_that_does_not_divide():
    with pytest.raises(ValueError, match="height of 30 px"):
        vit.grid((1, 30, 128, 1), (4, 4))
    with pytest.raises(ValueError, match="width of 126 px"):
        vit.grid((1, 32, 126, 1), (4, 4))


def test_columns_and_token_valid():
    width = jnp.array([1, 4, 5, 128])
    np.testing.assert_array_equal(vit.columns(width, 4), [1, 1, 2, 32])
    valid = np.asarray(vit.token_valid(width, (8, 4), (2, 32)))
    assert valid.shape == (4, 64)
    np.testing.assert_array_equal(valid.sum(1), [2, 2, 4, 64])
    assert (np.diff(valid.astype(int), axis=1) <= 0).all(), "real tokens are a prefix"


def test_reading_order():
    """With no blocks, a token depends on its own patch only: column n // Gh, row n % Gh."""
    module, params = start(depth=0, final_norm=False)
    image = jnp.zeros((1, 16, 12, 1))
    width = jnp.array([12])
    apply = jax.jit(module.apply)
    base = apply({"params": params}, image, width)
    for n in range(6):
        row, col = n % 2, n // 2
        changed = apply({"params": params}, image.at[0, 8 * row + 3, 4 * col + 1].set(0.5), width)
        moved = np.abs(np.asarray(changed - base))[0].max(-1) > 1e-4
        assert moved.tolist() == [i == n for i in range(6)]


def test_frames():
    tokens = jnp.arange(2 * 6 * 2.0).reshape(2, 6, 2)  # 3 columns of 2 rows
    concat = vit.frames(tokens, 2)
    np.testing.assert_array_equal(
        concat[0, 1], [4, 5, 6, 7]
    )  # tokens 2 and 3: both rows of column 1
    np.testing.assert_array_equal(vit.frames(tokens, 2, "mean")[0, 1], [5, 6])
    with pytest.raises(ValueError, match="max"):
        vit.frames(tokens, 2, "max")


# ---- position codes ------------------------------------------------------------------------------


def codes(position, image_px, offset=None, **options):
    """What the network adds to the patch embedding (all weights zero, no blocks, no norm)."""
    module = vit.Vit(**(TINY | {"depth": 0, "final_norm": False, "position": position} | options))
    image, width = jnp.zeros((2, 16, image_px, 1)), jnp.full(2, image_px)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image[:, :, :128], width)["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    return np.asarray(jax.jit(module.apply)({"params": params}, image, width, column_offset=offset))


def test_sincos_2d_codes_follow_column_and_row():
    offset = np.array([0.0, 7.5])
    ours = codes("sincos_2d", 12, jnp.asarray(offset))
    for b in range(2):
        for n in range(6):
            row, col = n % 2, n // 2 + offset[b]
            expected = []
            for value in (col, row):
                angles = [value / 10000 ** (k / 8) for k in range(8)]
                expected += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
            np.testing.assert_allclose(ours[b, n], expected, atol=5e-6)


def test_integer_offset_is_a_shift_of_the_codes():
    far, near = codes("sincos_2d", 24, None), codes("sincos_2d", 12, jnp.array([3, 3]))
    np.testing.assert_allclose(near, far[:, 6:], atol=1e-6)


def test_flat_1d_codes_follow_the_row_major_index():
    ours = codes("flat_1d", 128)[0]
    for n in range(64):
        index = 32 * (n % 2) + n // 2
        angles = [index / 10000 ** (2 * (j // 2) / 32) for j in range(32)]
        expected = [np.cos(a) if j % 2 else np.sin(a) for j, a in enumerate(angles)]
        np.testing.assert_allclose(ours[n], expected, atol=1e-6)


def test_square_2d_codes_take_the_row_major_index_for_a_place_in_a_square():
    """8 x 32 tokens as 16 x 16, as Union14M's code does: the halves of a line share their column
    codes.
    """
    ours = np.asarray(vit.position_codes("square_2d", (8, 20), 16))[0]
    for n in range(160):
        row, col = divmod(32 * (n % 8) + n // 8, 16)
        expected = []
        for value in (col, row):
            angles = [value / 10000 ** (k / 4) for k in range(4)]
            expected += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
        np.testing.assert_allclose(ours[n], expected, atol=2e-6)
    with pytest.raises(ValueError, match="numbers the tokens of 32 columns"):
        vit.position_codes("square_2d", (8, 33), 16)
    with pytest.raises(ValueError, match="as a square, and 32 are none"):
        vit.position_codes("square_2d", (1, 32), 16)


def test_flat_1d_refuses_what_would_collide():
    with pytest.raises(ValueError, match="numbers the tokens of 32 columns"):
        codes("flat_1d", 132)
    with pytest.raises(ValueError, match="without an offset"):
        codes("flat_1d", 128, jnp.array([1, 1]))
    with pytest.raises(ValueError, match="drawn"):
        codes("drawn", 128)


# ---- padding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", tiers(["xla", "plain"]))
def test_features_do_not_move_when_padding_grows(attention):
    module, params = start(attention=attention)
    outputs = []
    for px in (128, 256, 512):
        image, width = lines(px)
        outputs.append(np.asarray(jax.jit(module.apply)({"params": params}, image, width)))
    assert all(np.isfinite(out).all() for out in outputs), "a width of 1 px is a line too"
    for out in outputs[1:]:
        np.testing.assert_allclose(out[:, : outputs[0].shape[1]], outputs[0], atol=2e-5)
        assert not out[:, outputs[0].shape[1] :].any(), "tokens of padding are zero"
        for kind in ("concat", "mean"):
            near, far = (np.asarray(vit.frames(jnp.asarray(x), 2, kind)) for x in (outputs[0], out))
            np.testing.assert_allclose(far[:, : near.shape[1]], near, atol=2e-5)


def test_no_gradient_from_padding_pixels_and_some_from_every_real_one():
    module, params = start()
    image, width = lines(256)
    weights = jax.random.normal(jax.random.key(2), (4, 128, 32))
    loss = lambda image: jnp.sum(weights * module.apply({"params": params}, image, width))
    grad = np.asarray(jax.jit(jax.grad(loss))(image))[..., 0]
    for i, px in enumerate(WIDTHS):
        assert not grad[i, :, px:].any()
        assert (grad[i, :, :px] != 0).all()


def test_pixels_of_padding_cannot_reach_a_feature():
    module, params = start()
    image, width = lines(256)
    real = (jnp.arange(256)[None, :] < width[:, None])[:, None, :, None]
    dirty = jnp.where(real, image, jnp.nan)
    apply = jax.jit(module.apply)
    np.testing.assert_array_equal(
        apply({"params": params}, dirty, width), apply({"params": params}, image, width)
    )


# ---- mask ----------------------------------------------------------------------------------------


def test_hidden_patches_are_replaced_by_the_token_before_positions():
    module, params = start(depth=0, final_norm=False)
    image, width = (
        jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 12, 1)), jnp.float32),
        jnp.full(2, 12),
    )
    mask = jnp.array([[True, False, False, True, False, False], [False] * 6])
    plain = np.asarray(module.apply({"params": params}, image, width))
    masked = np.asarray(module.apply({"params": params}, image, width, mask))
    np.testing.assert_array_equal(plain[~np.asarray(mask)], masked[~np.asarray(mask)])
    position = codes("sincos_2d", 12)[0]
    np.testing.assert_allclose(
        masked[0, [0, 3]], position[[0, 3]] + np.asarray(params["mask_token"]), atol=1e-6
    )


def test_no_gradient_from_hidden_pixels():
    module, params = start()
    image, width = lines(128)
    mask = jax.random.bernoulli(jax.random.key(3), 0.5, (4, 64))
    grad = jax.jit(
        jax.grad(lambda x: jnp.sum(jnp.sin(module.apply({"params": params}, x, width, mask))))
    )(image)
    patches = np.asarray(vit.patchify(grad, (8, 4)))
    assert not patches[np.asarray(mask)].any()
    assert patches[2][~np.asarray(mask[2])].any()


# ---- a part of the patches, and tokens before them -----------------------------------------------


def test_kept_patches_in_another_order_are_the_same_tokens():
    """With every real patch kept, in any order, nothing is missing; those left out cannot reach the
    others.
    """
    module, params = start()
    image, width = lines(128)
    apply = jax.jit(lambda image, keep: module.apply({"params": params}, image, width, keep=keep))
    plain = np.asarray(jax.jit(module.apply)({"params": params}, image, width))
    keep = np.full((4, 64), 64)
    for b, px in enumerate(WIDTHS):
        real = 2 * -(-px // 4)
        keep[b, :real] = np.random.default_rng(b).permutation(real)
    filled = np.take_along_axis(plain, np.minimum(keep, 63)[..., None], 1) * (keep < 64)[..., None]
    np.testing.assert_allclose(apply(image, keep), filled, atol=2e-5)
    some = np.where(keep % 3 == 0, 64, keep)
    some.sort(axis=1)
    left_out = np.ones((4, 65), bool)
    np.put_along_axis(left_out, some, False, axis=1)
    dirty = jnp.where(left_out[:, :64, None], jnp.nan, vit.patchify(image, (8, 4)))
    tokens = np.asarray(apply(vit.unpatchify(dirty, (8, 4), (2, 32)), some))
    np.testing.assert_array_equal(tokens, apply(image, some))
    assert ((tokens != 0).any(-1) == (some < 64)).all()


@pytest.mark.slow
def test_a_prefix_is_read_along_without_a_position():
    """The embedded first tokens of a line, given as a prefix to the rest of it, make up the line
    again.
    """
    module, params = start()
    image, width = lines(128)
    width = jnp.maximum(width, 12)
    embedded = vit.Vit(**TINY | {"depth": 0, "final_norm": False}).apply(
        {"params": params}, image, width
    )
    keep = jnp.where(vit.token_valid(width, (8, 4), (2, 32)), jnp.arange(64)[None], 64)[:, 3:]
    tokens = jax.jit(lambda x: module.apply({"params": params}, image, width, keep=keep, prefix=x))(
        embedded[:, :3]
    )
    np.testing.assert_allclose(
        tokens, jax.jit(module.apply)({"params": params}, image, width), atol=2e-5
    )


# ---- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "millions"), [("T", "5.35"), ("S", "21.31"), ("B", "37.85")])
def test_parameter_counts_of_dig(size, millions):
    """The published figures hold with and without final norm (and mask token): the difference is
    below the print.
    """
    for final_norm in (True, False):
        module = vit.Vit(patch=(4, 4), final_norm=final_norm, **vit.SIZES[size])
        tree = jax.eval_shape(
            module.init, jax.random.key(0), jnp.ones((1, 32, 128, 3)), jnp.array([128])
        )
        assert f"{sum(x.size for x in jax.tree.leaves(tree)) / 1e6:.2f}" == millions


def test_initial_weights():
    module = vit.Vit(patch=(4, 4), width=64, depth=2, heads=2)
    params = jax.jit(module.init)(jax.random.key(0), jnp.ones((1, 32, 128, 3)), jnp.array([128]))[
        "params"
    ]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if "kernel" in name:
            bound = np.sqrt(
                6 / sum(leaf.shape)
            )  # patch_embed: sqrt(6 / (4 * 4 * 3 + D)), the original's
            assert 0.97 * bound < np.abs(leaf).max() <= bound, name
        else:
            assert (leaf == (1 if "scale" in name else 0)).all(), name
    assert set(params["block_0"]["attn"]) == {"qkv", "q_bias", "v_bias", "proj"}, "no bias on keys"
    assert set(params["block_0"]["attn"]["qkv"]) == {"kernel"}


@pytest.mark.parametrize("scan", [False, True])
def test_no_two_blocks_start_alike(scan):
    module = vit.Vit(**TINY | {"depth": 3, "scan": scan})
    params = jax.jit(module.init)(jax.random.key(0), *lines(128))["params"]
    blocks = (
        list(params["blocks"]["mlp"]["fc1"]["kernel"])
        if scan
        else [params[f"block_{i}"]["mlp"]["fc1"]["kernel"] for i in range(3)]
    )
    for i in range(3):
        for j in range(i):
            assert (np.asarray(blocks[i]) != np.asarray(blocks[j])).mean() > 0.99


def test_one_block_against_numpy():
    """Pre-norm attention and MLP with their residual sums, line by line over real tokens only, in
    float64.
    """
    module, params = start(depth=1)
    image, width = lines(128)
    ours = np.asarray(jax.jit(module.apply)({"params": params}, image, width))
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    block, attn = p["block_0"], p["block_0"]["attn"]
    dense = lambda x, w: x @ w["kernel"] + w["bias"]

    def norm(x, w):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * w[
            "scale"
        ] + w["bias"]

    def attention(x):
        query, key, value = np.split(x @ attn["qkv"]["kernel"], 3, -1)
        query, value = query + attn["q_bias"], value + attn["v_bias"]
        heads = []
        for h in (slice(0, 16), slice(16, 32)):
            weights = np.exp(query[:, h] @ key[:, h].T / np.sqrt(16))
            heads.append(weights / weights.sum(-1, keepdims=True) @ value[:, h])
        return dense(np.concatenate(heads, -1), attn["proj"])

    position = codes("sincos_2d", 128)[0]
    for i in range(len(WIDTHS)):
        real = 2 * -(-WIDTHS[i] // 4)
        x = (
            dense(
                np.asarray(vit.patchify(image[i : i + 1], (8, 4)), np.float64)[0], p["patch_embed"]
            )
            + position
        )
        x = x[:real] + attention(norm(x[:real], block["norm1"]))
        hidden = dense(norm(x, block["norm2"]), block["mlp"]["fc1"])
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2)))
        x = norm(x + dense(hidden, block["mlp"]["fc2"]), p["norm"])
        np.testing.assert_allclose(ours[i, :real], x, atol=2e-5)


# ---- forms of the loop, dtypes, drop path --------------------------------------------------------


def stack(params):
    """Parameters of the unrolled encoder as the scanned one holds them."""
    blocks = [params[f"block_{i}"] for i in range(TINY["depth"])]
    rest = {k: v for k, v in params.items() if not k.startswith("block_")}
    return rest | {"blocks": jax.tree.map(lambda *x: jnp.stack(x), *blocks)}


@pytest.mark.parametrize(
    "form", tiers([{"scan": True, "remat": True}, {"remat": True}, {"scan": True}])
)
def test_scan_and_remat_change_nothing(form):
    module, params = start()
    image, width = lines(128)

    def run(module, params):
        loss = lambda p: jnp.sum(jnp.sin(module.apply({"params": p}, image, width)))
        return jax.jit(lambda p: (module.apply({"params": p}, image, width), jax.grad(loss)(p)))(
            params
        )

    tokens, grads = run(module, params)
    restack = stack if form.get("scan") else lambda p: p
    other, other_grads = run(vit.Vit(**TINY | form), restack(params))
    np.testing.assert_allclose(other, tokens, atol=2e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4),
        other_grads,
        restack(grads),
    )


@pytest.mark.parametrize("scan", tiers([False, True]))
def test_drop_path_in_the_network(scan):
    module = vit.Vit(**TINY | {"scan": scan, "drop_path": 0.5})
    _, params = start()
    params = stack(params) if scan else params
    image, width = lines(128)
    still, without = (
        jax.jit(m.apply)({"params": params}, image, width)
        for m in (module, vit.Vit(**TINY | {"scan": scan}))
    )
    np.testing.assert_array_equal(still, without)

    @jax.jit
    def noisy(key):
        return module.apply(
            {"params": params}, image, width, deterministic=False, rngs={"drop_path": key}
        )

    draws = [np.asarray(noisy(jax.random.key(i))) for i in range(40)]
    np.testing.assert_array_equal(draws[0], noisy(jax.random.key(0)))
    # Rates rise from 0 in the first block to 0.5 in the last, whose two branches each stay or go:
    # about four outcomes a line, so all 40 draws stay within them, and the first block never drops
    # anything.
    outcomes = {draw[2].round(3).tobytes() for draw in draws}
    assert len(outcomes) == 4


def test_drop_path_needs_its_rng():
    module, params = vit.Vit(**TINY | {"drop_path": 0.5}), start()[1]
    with pytest.raises(Exception, match="drop_path"):
        module.apply({"params": params}, *lines(128), deterministic=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "attention"),
    [("bfloat16", "plain"), ("bfloat16", "xla"), ("bfloat16_stored", "plain")],
)
def test_bfloat16_is_close_and_returns_float32(dtype, attention):
    """Precision proof: relative error of features and of every gradient array stays near bfloat16's
    2^-8.
    """
    module, params = start()
    image, width = lines(128)

    def run(module):
        loss = lambda p: jnp.sum(jnp.sin(module.apply({"params": p}, image, width)))
        return jax.jit(lambda p: (module.apply({"params": p}, image, width), jax.grad(loss)(p)))(
            params
        )

    tokens, grads = run(module)
    low, low_grads = run(vit.Vit(**TINY | {"dtype": dtype, "attention": attention}))
    assert low.dtype == jnp.float32
    gap = lambda a, b: float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel()))
    assert 1e-5 < gap(low, tokens) < 0.02
    gaps = jax.tree.leaves(jax.tree.map(gap, low_grads, grads), is_leaf=lambda x: x is None)
    assert max(g for g in gaps if np.isfinite(g)) < 0.05
    assert {x.dtype for x in jax.tree.leaves(low_grads)} == {jnp.dtype("float32")}


def test_plain_attention_equals_the_library():
    image, width = lines(128)
    module, params = start()
    modules = [module] + [vit.Vit(**TINY | {"attention": a}) for a in ("plain", "xla")]
    auto, plain, library = (jax.jit(m.apply)({"params": params}, image, width) for m in modules)
    np.testing.assert_allclose(plain, library, atol=5e-6)
    np.testing.assert_array_equal(auto, plain)  # on a CPU


def test_wrong_options_are_sentences():
    for option, words in (
        ({"heads": 3}, "3 heads"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
        ({"dtype": "f16"}, "f16"),
    ):
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(vit.Vit(**TINY | option).init, jax.random.key(0), *lines(128))
