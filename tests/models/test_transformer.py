"""dig_jax.models.transformer: attention in blocks of queries, against the library and in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.models import transformer

BLOCK = 8


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(transformer, "BLOCK", BLOCK)
    monkeypatch.setattr(transformer, "LONG", 1)


def inputs(tokens, dtype="float32"):
    """Query, key, value and a weight of every output, [2, tokens, 2, 8]; one line is shorter."""
    rng = np.random.default_rng(tokens)
    parts = (rng.normal(size=(2, tokens, 2, 8)).astype(np.float32) for _ in range(4))
    return [jnp.asarray(x).astype(dtype) for x in parts], jnp.array([tokens, (tokens + 1) // 2])


def run(implementation, tokens, dtype="float32", stored="float32"):
    """(output, gradients of query, key and value), as numpy arrays in float64."""
    (*parts, weight), lengths = inputs(tokens, stored)

    def loss(*parts):
        out = transformer.attend(*parts, lengths, jnp.dtype(dtype), implementation)
        return jnp.sum(out * weight), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*parts)
    return [np.asarray(x, np.float64) for x in (out, *grads)]


@pytest.mark.parametrize("tokens", [1, BLOCK, BLOCK + 1, 3 * BLOCK + 3])
def test_blocks_equal_the_library_in_values_and_gradients(tokens):
    for ours, library in zip(run("blocks", tokens), run("xla", tokens)):
        np.testing.assert_allclose(ours, library, atol=5e-6)


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_bfloat16_rounds_as_all_at_once_does(stored):
    """Sums over keys and over queries may differ in order alone, so by float32's error; a gradient
    that leaves in bfloat16 by one rounding."""
    atol = 5e-5 if stored == "float32" else 0.03
    for blocks, plain in zip(*(run(a, 27, "bfloat16", stored) for a in ("blocks", "plain"))):
        np.testing.assert_allclose(blocks, plain, atol=atol)


def test_a_key_past_the_length_moves_nothing():
    (query, key, value, _), lengths = inputs(19)
    call = lambda key, value: transformer.attend(
        query, key, value, lengths, jnp.dtype("float32"), "blocks"
    )
    beyond = (jnp.arange(19)[None, :] >= lengths[:, None])[..., None, None]
    spoilt = call(jnp.where(beyond, 1e9, key), jnp.where(beyond, -1e9, value))
    np.testing.assert_array_equal(spoilt, call(key, value))


def test_memory_grows_with_the_tokens_and_not_with_their_square():
    @functools.cache
    def temporary(implementation, tokens):
        of = jax.ShapeDtypeStruct((1, tokens, 1, 8), jnp.float32)
        lengths = jax.ShapeDtypeStruct((1,), jnp.int32)
        loss = lambda q, k, v, n: jnp.sum(
            transformer.attend(q, k, v, n, jnp.dtype("float32"), implementation) ** 2
        )
        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(of, of, of, lengths).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary("blocks", 2048) < 2.2 * temporary("blocks", 1024)
    assert temporary("blocks", 2048) < temporary("plain", 2048) / 20


@pytest.mark.parametrize("tokens", [64, 65])
def test_cudnn_is_given_an_even_number_of_tokens(monkeypatch, tokens):
    """Its kernels refuse 65. The padded key is behind every length, the padded query is cut off."""
    library, seen = jax.nn.dot_product_attention, []

    def kernel(query, key, value, *, key_value_seq_lengths, implementation):
        assert implementation == "cudnn" and query.shape == key.shape == value.shape
        seen.append(query.shape[1])
        return library(query, key, value, key_value_seq_lengths=key_value_seq_lengths)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    found = run("cudnn", tokens, "bfloat16")
    assert set(seen) == {64 if tokens == 64 else 66}
    for ours, expected in zip(found, run("plain", tokens, "bfloat16"), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16_stored"])
def test_what_is_kept_is_not_shared_with_the_forward_pass(monkeypatch, dtype):
    """Without barriers XLA stores the normalised rows and GELU's erf for the backward pass."""

    def temporary():
        sizes = {"heads": 2, "hidden": 256, "gelu": "exact", "stochastic": False}
        block = transformer.Block(dtype=dtype, implementation="plain", **sizes)
        x, lengths = jnp.zeros((8, 32, 64)), jnp.full(8, 32)
        params = block.init(jax.random.key(0), x, 0.0, lengths)
        loss = lambda params, x: jnp.sum(block.apply(params, x, 0.0, lengths)[0] ** 2)
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(params, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    ours = temporary()
    monkeypatch.setattr(jax.lax, "optimization_barrier", lambda x: x)
    assert ours < 0.95 * temporary()
