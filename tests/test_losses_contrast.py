"""One among many: official numbers, chunks of keys, memory, meshes, top-1, and values known
beforehand.

The slow loops from the equations are in test_losses.py.
"""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax import losses, sharding
from tests.tiers import tiers

GOLDEN = pathlib.Path(__file__).parent / "data" / "contrast_golden.npz"
PAIRED = {"info_nce": losses.info_nce, "nt_xent": losses.nt_xent}
queue_nce = jax.jit(losses.queue_nce, static_argnums=3)


def pair(rows, dim, seed=0):
    """Two views f32[2, rows, dim], half alike."""
    x = np.random.default_rng(seed).normal(size=(3, rows, dim)).astype(np.float32)
    return jnp.asarray(np.stack([x[0] + x[2], x[1] + x[2]]))


@functools.cache
def jitted(name, chunk=None):
    """jitted (pair, valid) -> (loss, top1) at temperature 0.2."""
    return jax.jit(lambda x, valid=None: PAIRED[name](*x, 0.2, valid, chunk))


@functools.cache
def both_sides(name, temperature, chunk=None):
    """jitted (pair, valid) -> ((loss, top1), gradient of the pair)."""
    loss = functools.partial(PAIRED[name], temperature=temperature, chunk=chunk)
    return jax.jit(jax.value_and_grad(lambda x, valid: loss(*x, valid=valid), has_aux=True))


def close(actual, expected, share):
    """Equal to `share` of the largest expected value."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=share * np.abs(expected).max())


# ---- official numbers (shared/golden/README.md) ----


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return {name: jnp.asarray(arrays[name]) for name in arrays.files if name != "config"}


@pytest.mark.parametrize("chunk", [None, 7])
def test_agrees_with_seqclr_and_moco_v3(golden, chunk):
    views = jnp.stack([golden["q"], golden["k"]])
    (loss, _), grad = both_sides("nt_xent", 0.1, chunk)(views, None)
    np.testing.assert_allclose(loss, golden["nt_xent"], rtol=1e-5)
    close(grad[0], golden["nt_xent_grad_q"], 1e-4)
    close(grad[1], golden["nt_xent_grad_k"], 1e-4)
    (loss, _), grad = both_sides("info_nce", 0.2, chunk)(views, None)
    np.testing.assert_allclose(loss, golden["info_nce"], rtol=1e-5)
    close(grad[0], golden["info_nce_grad_q"], 1e-4)


def test_agrees_with_simsiam(golden):
    def simsiam(p1):
        z1, z2 = map(jax.lax.stop_gradient, (golden["z1"], golden["z2"]))
        return (losses.negative_cosine(p1, z2) + losses.negative_cosine(golden["p2"], z1)) / 2

    loss, grad = jax.jit(jax.value_and_grad(simsiam))(golden["p1"])
    np.testing.assert_allclose(loss, golden["simsiam"], rtol=1e-5)
    close(grad, golden["simsiam_grad_p1"], 1e-4)


# ---- chunks of keys ----


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("temperature, chunk", [(0.2, 1), (0.01, 8), (0.2, 37)])
def test_chunked_equals_plain(name, temperature, chunk):
    """37 rows, a prime, of which whole chunks are not real, the first among them; T = 0.01 makes
    logits of 100.
    """
    x = pair(37, 16)
    some = jnp.asarray([8 <= i < 16 or 19 <= i < 30 for i in range(37)])
    for valid in (jnp.ones(37, bool), some, jnp.zeros(37, bool)):
        (loss, top1), grad = both_sides(name, temperature)(x, valid)
        (loss_chunked, top1_chunked), grad_chunked = both_sides(name, temperature, chunk)(x, valid)
        np.testing.assert_allclose(loss_chunked, loss, rtol=2e-6, atol=1e-7)
        assert top1_chunked == top1
        close(grad_chunked, grad, 2e-6)


@pytest.mark.parametrize("name", tiers(PAIRED))
def test_chunked_memory_grows_with_the_batch_not_with_its_square(name):
    def temporary(rows, chunk):
        shape = jax.ShapeDtypeStruct((2, rows, 16), jnp.float32)
        compiled = both_sides(name, 0.2, chunk).lower(shape, None).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporary(2048, 64), temporary(8192, 64)
    assert large < 5 * small  # four times the rows
    assert large < temporary(2048, None)


def test_chunked_gradient_of_one_side_only():
    """As the methods use it: the keys are stopped."""
    x = pair(20, 8)
    step = jax.jit(
        jax.grad(lambda q: losses.info_nce(q, jax.lax.stop_gradient(x[1]), 0.2, chunk=6)[0])
    )
    close(step(x[0]), both_sides("info_nce", 0.2)(x, None)[1][0], 2e-6)


@pytest.mark.parametrize("name", tiers(PAIRED))
def test_eight_devices_give_what_one_gives(name):
    x, valid = pair(40, 8), jnp.arange(40) % 7 != 3
    (loss, top1), grad = both_sides(name, 0.2)(x, valid)
    mesh = sharding.make_mesh(8)
    spread = jax.device_put(x, jax.NamedSharding(mesh, jax.P(None, "data")))
    for chunk in (None, 12):
        on_eight = both_sides(name, 0.2, chunk)(
            spread, jax.device_put(valid, sharding.batch_sharding(mesh))
        )
        (loss_spread, top1_spread), grad_spread = on_eight
        assert len(grad_spread.sharding.device_set) == 8
        np.testing.assert_allclose(loss_spread, loss, rtol=2e-6)
        assert top1_spread == top1
        close(grad_spread, grad, 2e-6)


# ---- values known beforehand (reference/methods.md 15.2) ----


@pytest.mark.parametrize("rows, chunk", [(4, None), (64, None), (64, 20)])
def test_info_nce_of_orthonormal_pairs(rows, chunk):
    """q = k orthonormal, T = 0.2: 2T ln(1 + (M - 1) exp(-1/T))."""
    eye = jnp.eye(rows)
    loss, top1 = jitted("info_nce", chunk)(jnp.stack([eye, 3.0 * eye]))
    np.testing.assert_allclose(loss, 2 * 0.2 * math.log(1 + (rows - 1) * math.exp(-5)), rtol=1e-5)
    assert top1 == 1


@pytest.mark.slow
def test_losses_of_unrelated_rows_start_where_chance_puts_them():
    rng = np.random.default_rng(2)
    q, k = x = jnp.asarray(rng.normal(size=(2, 512, 256)), jnp.float32)
    loss, top1 = jitted("info_nce")(x)
    np.testing.assert_allclose(loss, 0.4 * math.log(512), rtol=0.02)
    assert top1 < 0.03
    loss, top1 = queue_nce(q[:64], k[:64], k[64:], 0.2)
    np.testing.assert_allclose(loss, math.log(1 + 448), rtol=0.02)
    assert top1 < 0.1
    np.testing.assert_allclose(jax.jit(losses.n_pair)(0.05 * q, 0.05 * k), math.log(512), rtol=0.02)
    z1, z2 = jnp.asarray(
        rng.normal(size=(2, 304 * 5, 64)), jnp.float32
    )  # SeqCLR: 304 lines of 5 windows, 8.02
    loss, top1 = jax.jit(lambda z1, z2: losses.nt_xent(z1, z2, 1.0, chunk=1000))(z1, z2)
    np.testing.assert_allclose(loss, math.log(2 * 304 * 5 - 1), rtol=0.002)
    assert top1 < 0.01


# ---- top-1 ----


@pytest.mark.slow
def test_top1_counts_the_rows_whose_own_partner_is_nearest():
    x = np.asarray(pair(30, 4))
    valid = np.arange(30) % 4 != 1
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    real = np.flatnonzero(valid)
    found = [real[np.argmax([unit[0, i] @ unit[1, j] for j in real])] == i for i in real]
    expected = np.mean(found)
    assert 0.1 < expected < 0.9
    both = unit.reshape(-1, 4)
    rows = [*real, *(30 + real)]
    others = {i: [j for j in rows if j != i] for i in rows}
    partner = [
        others[i][np.argmax([both[i] @ both[j] for j in others[i]])] == (i + 30) % 60 for i in rows
    ]
    nearer = [
        unit[0, i] @ unit[1, i] > (unit[0, i] @ unit[1, :20].T).max() for i in real if i >= 20
    ]
    assert 0 < np.mean(partner) < 1 and 0 < np.mean(nearer) < 1
    x, valid = jnp.asarray(x), jnp.asarray(valid)
    for chunk in (None, 7):
        np.testing.assert_allclose(jitted("info_nce", chunk)(x, valid)[1], expected, rtol=1e-6)
        np.testing.assert_allclose(
            jitted("nt_xent", chunk)(x, valid)[1], np.mean(partner), rtol=1e-6
        )
    top1 = queue_nce(x[0], x[1], x[1, :20], 0.2, valid & (jnp.arange(30) >= 20))[1]
    np.testing.assert_allclose(top1, np.mean(nearer), rtol=1e-6)


def test_a_collapse_is_no_success():
    """All rows one vector: every key is as near as the own one."""
    ones = jnp.ones((2, 16, 4))
    for name in PAIRED:
        for chunk in (None, 7):
            assert jitted(name, chunk)(ones)[1] <= 1 / 16
    assert queue_nce(*ones, ones[0], 0.2)[1] == 0


@pytest.mark.parametrize("name", tiers(["info_nce", "info_nce chunked", "nt_xent", "queue_nce"]))
def test_a_loss_near_zero_keeps_its_digits(name):
    """At T 0.07 a positive stands some 14 nats above its negatives: against float64."""
    rng, temperature = np.random.default_rng(5), 0.07
    q = np.linalg.qr(rng.normal(size=(64, 64)))[0][:12]  # rows of length 1, at right angles
    k = q + 0.01 * rng.normal(size=q.shape)
    queue = np.linalg.qr(rng.normal(size=(64, 64)))[0][:20] * 0.1 + rng.normal(size=(20, 64))
    f32 = lambda *arrays: [jnp.asarray(x, jnp.float32) for x in arrays]
    wide = lambda x: np.asarray(x, np.float32).astype(np.float64)
    unit = lambda x: wide(x) / np.linalg.norm(wide(x), axis=1, keepdims=True)
    if name == "nt_xent":
        rows = keys = np.concatenate([unit(q), unit(k)])
        own, scale = np.roll(np.arange(24), -12), 1.0
        ours = losses.nt_xent(*f32(q, k), temperature)[0]
    elif name == "queue_nce":
        rows, own, scale = unit(q), np.zeros(12, int), 1.0
        ours = losses.queue_nce(*f32(q, k, queue), temperature)[0]
    else:
        rows, keys, own, scale = unit(q), unit(k), np.arange(12), 2 * temperature
        chunk = 5 if "chunked" in name else None
        ours = losses.info_nce(*f32(q, k), temperature, chunk=chunk)[0]
    each = []
    for i, row in enumerate(rows):
        if name == "queue_nce":
            positive, others = row @ unit(k)[i], unit(queue) @ row
        else:
            positive = row @ keys[own[i]]
            left_out = {own[i], i} if name == "nt_xent" else {own[i]}
            others = np.delete(keys, sorted(left_out), axis=0) @ row
        each.append(np.log1p(np.exp((others - positive) / temperature).sum()))
    wanted = scale * np.mean(each)
    assert 1e-7 < wanted < 1e-3
    np.testing.assert_allclose(ours, wanted, rtol=5e-6)
