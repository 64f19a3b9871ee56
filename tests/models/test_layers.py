"""dig_jax.models.layers against slow loops and float32 references."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dig_jax.models import layers
from tests.jaxprs import equations

PRODUCTS = {
    "dense": ((3, 5, 8), (8, 6), (((2,), (0,)), ((), ()))),
    "scores": ((2, 5, 3, 4), (2, 7, 3, 4), (((3,), (3,)), ((0, 2), (0, 2)))),
    "values": ((2, 3, 5, 7), (2, 7, 3, 4), (((3,), (1,)), ((0, 1), (0, 2)))),
    "two contracted, right out of order": (
        (4, 5, 6, 2),
        (6, 3, 2, 5),
        (((1, 2), (3, 0)), ((3,), (2,))),
    ),
    "two contracted, left out of order": (
        (4, 5, 6, 2),
        (6, 3, 2, 5),
        (((2, 1), (0, 3)), ((3,), (2,))),
    ),
}


def operands(name):
    lhs, rhs, numbers = PRODUCTS[name]
    a, b = (
        jax.random.normal(k, s) for k, s in zip(jax.random.split(jax.random.key(1)), (lhs, rhs))
    )
    return a, b, numbers


@pytest.mark.parametrize("name", PRODUCTS)
def test_float32_dot_is_the_plain_one(name):
    a, b, numbers = operands(name)
    ours, pull = jax.vjp(lambda a, b: layers.dot_f32acc(a, b, numbers, jnp.float32), a, b)
    plain, reference = jax.vjp(lambda a, b: lax.dot_general(a, b, numbers), a, b)
    np.testing.assert_allclose(ours, plain, rtol=1e-6, atol=1e-6)
    g = jax.random.normal(jax.random.key(2), plain.shape)
    for gradient, true in zip(pull(g), reference(g), strict=True):
        np.testing.assert_allclose(gradient, true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PRODUCTS)
def test_bfloat16_dot_rounds_the_operands_and_nothing_else(name):
    """Forward and both gradients equal float32 products of rounded operands; any other rounding
    would show as 1e-3.
    """
    a, b, numbers = operands(name)
    rounded = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in (a, b)]
    out, pull = jax.vjp(lambda a, b: layers.dot_f32acc(a, b, numbers), a, b)
    expected, reference = jax.vjp(lambda a, b: lax.dot_general(a, b, numbers), *rounded)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    g = jax.random.normal(jax.random.key(2), out.shape)
    for ours, true in zip(
        pull(g), reference(g.astype(jnp.bfloat16).astype(jnp.float32)), strict=True
    ):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, true, rtol=1e-5, atol=1e-5)


def test_stored_results_are_rounded_once_and_weights_keep_full_gradients():
    """bfloat16_stored: the result is the float32 sum rounded to bfloat16, so is the gradient of a
    bfloat16 operand; that of a float32 weight is not rounded."""
    a, b, numbers = operands("dense")
    a = a.astype(jnp.bfloat16)
    out, pull = jax.vjp(
        lambda a, b: layers.dot_f32acc(a, b, numbers, jnp.bfloat16, jnp.bfloat16), a, b
    )
    full, reference = jax.vjp(
        lambda a, b: layers.dot_f32acc(a, b, numbers), a.astype(jnp.float32), b
    )
    assert (
        out.dtype == jnp.bfloat16
        and layers.stored_dtype("bfloat16") == layers.stored_dtype("float32") == jnp.float32
    )
    np.testing.assert_array_equal(out, full.astype(jnp.bfloat16))
    g = jax.random.normal(jax.random.key(2), out.shape).astype(jnp.bfloat16)
    (d_a, d_b), (true_a, true_b) = pull(g), reference(g.astype(jnp.float32))
    assert (d_a.dtype, d_b.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_array_equal(d_a, true_a.astype(jnp.bfloat16))
    np.testing.assert_array_equal(d_b, true_b)
    layer = layers.Dense(6, dtype="bfloat16_stored", out=layers.stored_dtype("bfloat16_stored"))
    assert layer.apply(layer.init(jax.random.key(0), a), a).dtype == jnp.bfloat16


def test_all_three_products_of_a_step_are_bfloat16_to_float32():
    layer = layers.Dense(6, dtype="bfloat16")
    x = jnp.ones((2, 3, 4))
    params = layer.init(jax.random.key(0), x)
    step = jax.grad(lambda p, x: jnp.sum(layer.apply(p, x) ** 2), (0, 1))
    found = [
        eqn
        for eqn in equations(jax.make_jaxpr(step)(params, x).jaxpr)
        if eqn.primitive.name == "dot_general"
    ]
    assert len(found) == 3
    for eqn in found:
        assert {v.aval.dtype for v in eqn.invars} == {jnp.dtype("bfloat16")}
        assert eqn.outvars[0].aval.dtype == jnp.float32


def test_dense_starts_xavier_uniform_with_zero_bias():
    params = layers.Dense(300).init(jax.random.key(0), jnp.ones((1, 200)))["params"]
    bound = np.sqrt(6 / 500)
    assert 0.98 * bound < np.abs(params["kernel"]).max() <= bound
    assert not params["bias"].any()


def test_uniform_fan_in_has_pytorchs_interval():
    draw = layers.uniform_fan_in()(jax.random.key(0), (100, 300))
    assert 0.0995 < np.abs(draw).max() <= 0.1


def test_compute_dtype():
    assert layers.compute_dtype("float32") == jnp.float32
    assert layers.compute_dtype("bfloat16") == jnp.bfloat16
    for name in ("half", "auto"):  # "auto" is resolved before anything is traced
        with pytest.raises(ValueError, match=f"dtype='{name}'"):
            layers.compute_dtype(name)


def test_layer_norm_against_numpy_at_a_large_mean():
    x = np.random.default_rng(0).normal(1000.0, 0.5, (3, 4, 32)).astype(np.float32)
    params = {"scale": jnp.linspace(0.5, 2.0, 32), "bias": jnp.linspace(-1.0, 1.0, 32)}
    ours = layers.LayerNorm().apply({"params": params}, jnp.asarray(x, jnp.float32))
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    expected = expected * np.asarray(params["scale"], np.float64) + np.asarray(
        params["bias"], np.float64
    )
    np.testing.assert_allclose(ours, expected, atol=2e-3)  # the input itself is known to 6e-5 only


@pytest.mark.parametrize("out", ["float32", "bfloat16"])
def test_layer_norm_has_the_gradient_of_its_formula(out):
    x, g = jax.random.normal(jax.random.key(0), (2, 3, 5, 8)) * 3.0 + 1.0
    params = {"scale": jnp.linspace(-1.0, 2.0, 8), "bias": jnp.linspace(-1.0, 1.0, 8)}

    def formula(params, x):
        normal = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return normal * params["scale"][None, None] + params["bias"][None, None]

    layer = layers.LayerNorm(out=jnp.dtype(out))
    ours, pull = jax.vjp(lambda params, x: layer.apply({"params": params}, x), params, x)
    expected, reference = jax.vjp(formula, params, x)
    assert ours.dtype == jnp.dtype(out)
    np.testing.assert_array_equal(ours, layer.apply({"params": params}, x))
    near = {"rtol": 1e-5, "atol": 1e-5} if out == "float32" else {"rtol": 1e-2, "atol": 1e-2}
    np.testing.assert_allclose(ours.astype(jnp.float32), expected, **near)
    g = g.astype(out)
    for found, true in zip(
        jax.tree.leaves(pull(g)), jax.tree.leaves(reference(g.astype(jnp.float32))), strict=True
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, true, rtol=1e-4, atol=1e-5)


def test_a_bias_of_bfloat16_results_has_a_float32_gradient():
    x, bias = jnp.zeros((4093, 2), jnp.bfloat16), jnp.array([0.25, -0.5])
    out, pull = jax.vjp(layers.add_bias, x, bias)
    assert out.dtype == jnp.bfloat16 and (out == bias[None]).all()
    d_x, d_bias = pull(jnp.full(x.shape, 1.0078125, jnp.bfloat16))
    assert d_x.dtype == jnp.bfloat16 and d_bias.dtype == jnp.float32
    np.testing.assert_array_equal(d_bias, [4093 * 1.0078125] * 2)  # rounded it would be 4128


@pytest.mark.parametrize(
    ("dtype", "out"),
    [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")],
)
def test_the_parts_of_a_product_are_the_product_cut(dtype, out):
    x = jax.random.normal(jax.random.key(0), (3, 5, 8))
    kernel, numbers = jax.random.normal(jax.random.key(1), (8, 12)), (((2,), (0,)), ((), ()))
    whole = lambda x, kernel: layers.dot_f32acc(x, kernel, numbers, dtype, jnp.dtype(out))
    parts = lambda x, kernel: layers.dots_f32acc(x, kernel, 3, dtype, jnp.dtype(out))
    found, pull = jax.vjp(parts, x, kernel)
    expected, reference = jax.vjp(whole, x, kernel)
    assert {part.dtype for part in found} == {jnp.dtype(out)}
    np.testing.assert_allclose(jnp.concatenate(found, -1), expected, rtol=1e-6, atol=1e-6)
    g = jax.random.normal(jax.random.key(2), expected.shape).astype(out)
    for ours, true in zip(pull(tuple(jnp.split(g, 3, -1))), reference(g), strict=True):
        np.testing.assert_allclose(ours, true, rtol=1e-6, atol=1e-6)


def test_norm_and_gelu_keep_their_input_and_nothing_as_wide():
    x = jnp.zeros((4, 7, 32), jnp.bfloat16)
    (kept,) = jax.tree.leaves(jax.vjp(layers.gelu, x)[1])
    assert (kept.shape, kept.dtype) == (x.shape, x.dtype)
    layer = layers.LayerNorm()
    params = layer.init(jax.random.key(0), x)
    kept = jax.tree.leaves(jax.vjp(lambda x: layer.apply(params, x), x)[1])
    wide = [array for array in kept if array.size >= x.size]
    assert [(array.shape, array.dtype) for array in wide] == [(x.shape, x.dtype)]
    assert sum(array.size for array in kept) <= x.size + 2 * 4 * 7 + 32


@pytest.mark.parametrize("form", ["exact", "tanh"])
def test_gelu_has_the_gradient_of_the_librarys(form):
    x = jnp.linspace(-8.0, 8.0, 1001)
    ours = jax.vmap(jax.grad(lambda x: layers.gelu(x, form)))(x)
    true = jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, form == "tanh")))(x)
    np.testing.assert_allclose(ours, true, atol=2e-6)
    assert (
        jax.vjp(lambda x: layers.gelu(x, form), x.astype(jnp.bfloat16))[1](
            jnp.ones(x.shape, jnp.bfloat16)
        )[0].dtype
        == jnp.bfloat16
    )


def test_gelu_forms():
    x = jnp.linspace(-4.0, 4.0, 101)
    expected = np.array(
        [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in np.asarray(x, np.float64)]
    )
    np.testing.assert_allclose(layers.gelu(x), expected, atol=1e-6)
    gap = np.abs(layers.gelu(x, "tanh") - expected).max()
    assert 1e-5 < gap < 6e-4
    assert layers.gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="quick"):
        layers.gelu(x, "quick")


def test_drop_path_drops_whole_lines_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 3))
    out = np.asarray(layers.DropPath().apply({}, x, 0.25, rngs={"drop_path": jax.random.key(0)}))
    lines = out.reshape(4000, -1)
    assert (lines == lines[:, :1]).all(), "a line is dropped as a whole"
    np.testing.assert_allclose(np.unique(lines), [0.0, 4 / 3], rtol=1e-6)
    dropped = (lines[:, 0] == 0).mean()
    assert abs(dropped - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)


def test_sincos_2d_against_a_slow_loop():
    rows, cols, dim = [0, 3, 7.0], [0.0, 12.5, 31.0], 24
    ours = np.asarray(layers.sincos_2d(jnp.array(rows), jnp.array(cols), dim))
    for i in range(3):
        for k in range(dim // 4):
            omega = 1 / 10000 ** (k / (dim / 4))
            expected = [np.sin(cols[i] * omega), np.cos(cols[i] * omega), np.sin(rows[i] * omega)]
            expected.append(np.cos(rows[i] * omega))
            got = [ours[i, q * dim // 4 + k] for q in range(4)]
            np.testing.assert_allclose(got, expected, atol=5e-6)
    with pytest.raises(ValueError, match="26"):
        layers.sincos_2d(jnp.array(rows), jnp.array(cols), 26)


def test_sincos_flat_against_a_slow_loop():
    dim = 10
    ours = np.asarray(layers.sincos_flat(np.arange(256), dim))
    for n in range(256):
        for j in range(dim):
            angle = n / 10000 ** (2 * (j // 2) / dim)
            expected = np.sin(angle) if j % 2 == 0 else np.cos(angle)
            assert abs(ours[n, j] - expected) < 1e-7
    with pytest.raises(ValueError, match="odd"):
        layers.sincos_flat(np.arange(4), 5)
