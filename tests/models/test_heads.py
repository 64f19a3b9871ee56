"""dig_jax.models.heads: batch norm against numpy and on a mesh, windows, LSTM, published parameter
counts.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dig_jax.models import heads


def test_batch_norm_against_numpy_with_rows_left_out():
    rng = np.random.default_rng(0)
    x = rng.normal(5.0, 2.0, (4, 6, 3)).astype(np.float32)
    weight = rng.random((4, 6)) < 0.6
    x[~weight] = 1e3  # padding: must not matter
    params = {"scale": jnp.array([0.5, 1.0, 2.0]), "bias": jnp.array([1.0, 0.0, -1.0])}
    ours = np.asarray(
        heads.BatchNorm().apply({"params": params}, jnp.asarray(x), jnp.asarray(weight))
    )
    rows = x[weight].astype(np.float64)
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    expected = expected * np.asarray(params["scale"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(ours[weight], expected, atol=1e-5)
    assert np.isfinite(ours).all()
    free = heads.BatchNorm(affine=False)
    assert not free.init(jax.random.key(0), jnp.asarray(x))
    np.testing.assert_allclose(free.apply({}, jnp.asarray(x)).mean((0, 1)), 0.0, atol=1e-5)


def test_batch_norm_without_a_valid_row_is_finite():
    out, grad = jax.value_and_grad(
        lambda x: heads.BatchNorm(affine=False).apply({}, x, jnp.zeros(4)).sum()
    )(jnp.ones((4, 3)))
    assert np.isfinite(out) and np.isfinite(grad).all()


def test_batch_norm_on_eight_devices_equals_one():
    module = heads.Mlp((12, 5), dtype="float32")
    x = jax.random.normal(jax.random.key(0), (16, 4, 7)) + 3.0
    weight = jax.random.bernoulli(jax.random.key(1), 0.7, (16, 4)).at[0, 0].set(True)
    params = jax.jit(module.init)(jax.random.key(2), x, weight)

    @jax.jit
    def step(params, x, weight):
        return jax.value_and_grad(lambda p: jnp.sum(jnp.sin(module.apply(p, x, weight))))(params)

    alone = step(params, x, weight)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shard = lambda a: jax.device_put(a, NamedSharding(mesh, PartitionSpec("data")))
    spread = step(
        jax.device_put(params, NamedSharding(mesh, PartitionSpec())), shard(x), shard(weight)
    )
    assert len(shard(x).sharding.device_set) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), alone, spread)


@pytest.mark.parametrize(
    ("module", "inputs", "millions"),
    [
        (
            heads.Mlp((4096, 4096, 256)),
            384,
            "19.42",
        ),  # table: 19.40 without the norms' scales and biases
        (heads.Mlp((4096, 256)), 256, "2.11"),
        (heads.Mlp((512, 512, 384)), 384, "0.66"),
        (heads.PixelDecoder(48), 384, "0.12"),
    ],
)
def test_parameter_counts_of_digs_small_heads(module, inputs, millions):
    tree = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((2, inputs)))["params"]
    assert f"{sum(x.size for x in jax.tree.leaves(tree)) / 1e6:.2f}" == millions


def test_mlp_is_dense_norm_relu_and_a_bare_last_norm():
    module = heads.Mlp((9, 8, 5), dtype="float32")
    x = jax.random.normal(jax.random.key(0), (6, 7))
    params = jax.jit(module.init)(jax.random.key(1), x)["params"]
    assert set(params) == {"dense_0", "norm_0", "dense_1", "norm_1", "dense_2"}
    assert all(set(params[f"dense_{i}"]) == {"kernel"} for i in range(3))
    norm = lambda y: (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5)
    y = np.asarray(x, np.float64)
    for i in range(3):
        y = norm(y @ np.asarray(params[f"dense_{i}"]["kernel"], np.float64))
        y = np.maximum(y, 0) if i < 2 else y
    np.testing.assert_allclose(module.apply({"params": params}, x), y, atol=2e-5)


@pytest.mark.parametrize(
    "hidden_norm, last_norm, layer_0, layer_1",
    [
        ("affine", "scale", {"kernel"}, {"kernel"}),  # SimCLR's projector
        ("affine", None, {"kernel"}, {"kernel", "bias"}),  # SimSiam's predictor
        (None, None, {"kernel", "bias"}, {"kernel", "bias"}),  # the head of MoCo v2
    ],
)
def test_mlp_has_a_batch_norm_or_a_bias_behind_each_layer(hidden_norm, last_norm, layer_0, layer_1):
    module = heads.Mlp((9, 5), "float32", hidden_norm, last_norm)
    x, weight = jax.random.normal(jax.random.key(0), (6, 7)), jnp.arange(6) != 2
    params = jax.jit(module.init)(jax.random.key(1), x, weight)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(p + rng.normal(size=p.shape), jnp.float32), params)
    kinds = {"affine": {"scale", "bias"}, "scale": {"scale"}}
    named = {
        "dense_0": layer_0,
        "dense_1": layer_1,
        "norm_0": kinds.get(hidden_norm),
        "norm_1": kinds.get(last_norm),
    }
    assert {name: set(part) for name, part in params.items()} == {
        name: part for name, part in named.items() if part
    }
    y = np.asarray(x, np.float64)[np.asarray(weight)]
    for i in range(2):
        dense, norm = params[f"dense_{i}"], params.get(f"norm_{i}")
        y = y @ np.asarray(dense["kernel"], np.float64) + np.asarray(
            dense.get("bias", 0.0), np.float64
        )
        if norm:
            y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5) * np.asarray(norm["scale"]) + np.asarray(
                norm.get("bias", 0.0)
            )
        y = np.maximum(y, 0) if i == 0 else y
    np.testing.assert_allclose(
        module.apply({"params": params}, x, weight)[np.asarray(weight)], y, atol=2e-5
    )


def test_mlp_starts_its_biases_as_pytorch_does():
    params = jax.jit(heads.Mlp((400,), last_norm=None).init)(jax.random.key(0), jnp.ones((1, 64)))[
        "params"
    ]["dense_0"]
    for leaf in params.values():
        assert 0.98 < np.abs(leaf).max() * 8 <= 1.0


def test_pixel_decoder_starts_as_pytorch_does():
    params = jax.jit(heads.PixelDecoder(48, hidden=100).init)(jax.random.key(0), jnp.ones((1, 64)))[
        "params"
    ]
    assert set(params["dense_0"]) == set(params["dense_1"]) == {"kernel"}
    for leaf, fan_in in ((params["dense_0"]["kernel"], 64), (params["dense_2"]["kernel"], 100)):
        assert 0.98 < np.abs(leaf).max() * np.sqrt(fan_in) <= 1.0
    bias = np.abs(params["dense_2"]["bias"])
    assert (
        params["dense_2"]["bias"].shape == (48,)
        and 0.03 < bias.max() <= 0.1
        and len(np.unique(bias)) == 48
    )


@pytest.mark.slow
def test_prototypes_are_cosines_whatever_the_lengths():
    """The head of DINO in numpy; its size for a ViT-S; zeros, as missing characters have, are
    finite forwards and backwards.
    """
    head = heads.Prototypes(7, hidden=6, features=5, dtype="float32", gelu="tanh")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    params = jax.jit(head.init)(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda p: p * 3 + 0.1, params)
    run = jax.jit(
        jax.value_and_grad(
            lambda p, x: (lambda y: (y.sum(), y))(head.apply({"params": p}, x)),
            (0, 1),
            has_aux=True,
        )
    )
    hidden, p = np.asarray(x, np.float64), jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    for i in range(3):
        hidden = hidden @ p[f"dense_{i}"]["kernel"] + p[f"dense_{i}"]["bias"]
        if i < 2:
            hidden = (
                0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
            )
    unit = lambda v, axis: v / np.linalg.norm(v, axis=axis, keepdims=True)
    expected = unit(hidden, 1) @ unit(p["prototypes"], 0) * p["scale"]
    np.testing.assert_allclose(run(params, x)[0][1], expected, atol=1e-5)
    longer = {
        **params,
        "prototypes": params["prototypes"] * 5,
        "dense_2": jax.tree.map(lambda p: p * 2, params["dense_2"]),
    }
    np.testing.assert_allclose(run(longer, x)[0][1], expected, atol=1e-5)
    nothing = run(jax.tree.map(jnp.zeros_like, params), jnp.zeros((4, 3)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nothing))
    shapes = jax.eval_shape(heads.Prototypes(65536).init, jax.random.key(0), jnp.zeros((1, 384)))[
        "params"
    ]
    assert (
        sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        == 788_480 + 4_196_352 + 524_544 + 256 * 65536 + 65536
    )
    fixed = heads.Prototypes(7, 6, 5, learn_length=False)
    assert "scale" not in jax.eval_shape(fixed.init, jax.random.key(0), x)["params"]


# ---- windows -------------------------------------------------------------------------------------


def test_windows_of_dig():
    """Unit vector of the reference: x = column index gives 3.5, 11.5, 19.5, 27.5."""
    tokens = jnp.repeat(jnp.arange(32.0), 8)[None, :, None]
    pooled, valid = heads.pool_windows(tokens, jnp.array([128]), (8, 32), (4, 4), 32)
    np.testing.assert_allclose(pooled[0, :, 0], [3.5, 11.5, 19.5, 27.5])
    assert valid.all()


def test_windows_of_lines_of_many_widths_against_a_slow_loop():
    rows, cols, each = 2, 10, 4  # 10 columns: the last window is short
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(4, rows * cols, 3)).astype(np.float32)
    width = [40, 16, 17, 1]
    pooled, valid = heads.pool_windows(
        jnp.asarray(tokens), jnp.array(width), (rows, cols), (8, 4), 16
    )
    assert pooled.shape == (4, 3, 3)
    for b in range(4):
        for w in range(3):
            real = [c for c in range(each * w, min(each * w + each, cols)) if 4 * c < width[b]]
            assert bool(valid[b, w]) == bool(real)
            if real:
                mean = np.mean([tokens[b, c * rows + r] for c in real for r in range(rows)], 0)
                np.testing.assert_allclose(pooled[b, w], mean, atol=1e-6)
    np.testing.assert_array_equal(valid.sum(1), [3, 1, 2, 1])


@pytest.mark.slow
def test_windows_ignore_padding_and_pass_it_no_gradient():
    tokens = jax.random.normal(jax.random.key(0), (1, 20, 3))
    run = lambda t: heads.pool_windows(t, jnp.array([17]), (2, 10), (8, 4), 16)[0]
    np.testing.assert_array_equal(run(tokens), run(tokens.at[:, 10:].set(jnp.nan)))
    grad = np.asarray(jax.grad(lambda t: run(t).sum())(tokens))
    assert not grad[:, 10:].any() and (grad[:, :10] != 0).all()


def test_windows_must_be_whole_patches():
    with pytest.raises(ValueError, match="30 px"):
        heads.pool_windows(jnp.zeros((1, 64, 2)), jnp.array([128]), (2, 32), (8, 4), 30)


# ---- LSTM ----------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow_lstm(params, x, direction, size):
    """One direction over one line's real frames x [S, F], in plain numpy."""
    part = slice(4 * size * direction, 4 * size * (direction + 1))
    kernel, bias = (
        np.asarray(params["input_0"][k], np.float64)[..., part] for k in ("kernel", "bias")
    )
    recurrent = np.asarray(params["recurrent_0"][direction], np.float64)
    hidden, cell, out = np.zeros(size), np.zeros(size), []
    for frame in x if direction == 0 else x[::-1]:
        write, forget, new, show = np.split(frame @ kernel + bias + hidden @ recurrent, 4)
        cell = sigmoid(forget + 1) * cell + sigmoid(write) * np.tanh(new)
        hidden = sigmoid(show) * np.tanh(cell)
        out.append(hidden)
    return np.stack(out if direction == 0 else out[::-1])


def test_bilstm_against_a_slow_loop_and_padding_does_not_matter():
    size, lengths = 5, [9, 4, 1]
    module = heads.BiLstm(size, dtype="float32")
    x = np.random.default_rng(0).normal(size=(3, 9, 4)).astype(np.float32)
    params = jax.jit(module.init)(jax.random.key(0), jnp.asarray(x), jnp.array(lengths))["params"]
    ours = np.asarray(jax.jit(module.apply)({"params": params}, jnp.asarray(x), jnp.array(lengths)))
    for b, length in enumerate(lengths):
        slow = np.concatenate([slow_lstm(params, x[b, :length], d, size) for d in (0, 1)], -1)
        np.testing.assert_allclose(ours[b, :length], slow, atol=1e-5)
        assert not ours[b, length:].any()
    wide = np.pad(x, ((0, 0), (0, 7), (0, 0)), constant_values=9.0)
    wider = np.asarray(
        jax.jit(module.apply)({"params": params}, jnp.asarray(wide), jnp.array(lengths))
    )
    np.testing.assert_allclose(wider[:, :9], ours, atol=1e-6)


def test_orthogonal_is_flax_s_without_lapack():
    """LAPACK's factorisations in one program can wait for each other for ever."""
    key, shape = jax.random.key(3), (48, 48)
    draw = jax.jit(heads.orthogonal, static_argnums=(1, 2))
    expected = jax.nn.initializers.orthogonal()(key, shape)
    np.testing.assert_allclose(draw(key, shape, "float32"), expected, atol=2e-5)
    args = (jax.random.key(1), jnp.zeros((2, 8, 4)), jnp.array([8, 3]))
    program = jax.jit(heads.BiLstm(6, layers=2).init).lower(*args).as_text()
    assert "custom_call" not in program and "lapack" not in program


@pytest.mark.slow
def test_two_layer_bilstm_ignores_padding_and_starts_orthogonal():
    module = heads.BiLstm(6, layers=2, dtype="float32")
    x, lengths = jax.random.normal(jax.random.key(0), (2, 8, 4)), jnp.array([8, 3])
    params = jax.jit(module.init)(jax.random.key(1), x, lengths)
    apply = jax.jit(module.apply)
    out = apply(params, x, lengths)
    np.testing.assert_allclose(out[1:, :3], apply(params, x[1:, :3], lengths[1:]), atol=1e-6)
    grad = np.asarray(
        jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(module.apply(params, x, lengths)))))(x)
    )
    assert not grad[1, 3:].any() and grad[1, :3].all()
    squares = (
        np.asarray(params["params"]["recurrent_1"])
        .reshape(2, 6, 4, 6)
        .transpose(0, 2, 1, 3)
        .reshape(8, 6, 6)
    )
    for square in squares:
        np.testing.assert_allclose(square @ square.T, np.eye(6), atol=1e-5)
