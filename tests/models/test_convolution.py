"""Convolution, norm + ReLU + pooling and recurrence: values and gradients of the plain layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dig_jax import trees
from dig_jax.models import convolution, crnn
from dig_jax.models.convolution import conv3x3, norm_relu_pool
from dig_jax.models.recurrence import recurrence
from dig_jax.tools.perf import workload
from dig_jax.train import command_line

KEYS = jax.random.split(jax.random.key(0), 6)


def assert_same(mine, plain, arguments, atol=5e-5):
    """Value and gradients of a wavy sum of what two functions return."""

    def wavy(function):
        total = lambda *x: jnp.sum(jnp.sin(function(*x)))
        return jax.jit(jax.value_and_grad(total, range(len(arguments))))(*arguments)

    same = lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5)
    jax.tree.map(same, wavy(mine), wavy(plain))


@pytest.mark.parametrize("channels", [1, 5])
def test_convolution_is_laxs(channels):
    x = jax.random.normal(KEYS[0], (2, 6, 9, channels))
    kernel = jax.random.normal(KEYS[1], (3, 3, channels, 4))
    plain = lambda x, kernel: lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert_same(conv3x3, plain, (x, kernel))


@pytest.mark.parametrize("channels", [1, 5])
def test_a_convolution_of_bfloat16_rounds_operands_and_result_alone(channels):
    x = jax.random.normal(KEYS[0], (2, 6, 9, channels)).astype(jnp.bfloat16)
    kernel = jax.random.normal(KEYS[1], (3, 3, channels, 4))
    as_float = lambda x: x.astype(jnp.bfloat16).astype(jnp.float32)
    exact = conv3x3(as_float(x), as_float(kernel))
    np.testing.assert_allclose(conv3x3(x, kernel).astype(jnp.float32), exact, rtol=2**-8, atol=0)
    ones = jnp.ones_like(exact)  # exact in bfloat16, so the gradient's products are, too
    gradient = jax.vjp(lambda kernel: conv3x3(x, kernel), kernel)[1](ones.astype(jnp.bfloat16))[0]
    same = jax.vjp(lambda kernel: conv3x3(as_float(x), kernel), kernel)[1](ones)[0]
    np.testing.assert_allclose(gradient, same, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", [(1, 1), (2, 2), (2, 1)])
def test_norm_relu_pool_is_the_three_layers(pool):
    """Scales of both signs, a line shorter than its canvas."""
    x = jax.random.normal(KEYS[2], (2, 4, 12, 8)) * 3 + 1
    scale, bias = jax.random.normal(KEYS[3], (2, 8))
    real = jnp.arange(12)[None] < jnp.array([12, 8])[:, None]

    def plain(x, scale, bias):
        x = crnn.LineNorm(groups=4).apply({"params": {"scale": scale, "bias": bias}}, x, real)
        return nn.max_pool(jax.nn.relu(x) * real[:, None, :, None], pool, pool)

    mine = lambda *x: norm_relu_pool(*x, real.astype(jnp.float32), 4, pool)
    assert_same(mine, plain, (x, scale, bias))


@pytest.mark.slow
def test_recurrence_is_a_loop_over_frames():
    """Two lines of different length; each direction written out frame by frame."""
    size, lengths = 3, (5, 2)
    gates = jax.random.normal(KEYS[4], (5, 2, 8 * size))
    weights = jax.random.normal(KEYS[5], (2, size, 4 * size))
    real = (jnp.arange(5)[:, None] < jnp.array(lengths)[None]).astype(jnp.float32)

    def plain(gates, weights):
        out = jnp.zeros((5, 2, 2 * size))
        for line, length in enumerate(lengths):
            for side, order in enumerate((range(length), reversed(range(length)))):
                hidden = cell = jnp.zeros(size)
                part = slice(4 * size * side, 4 * size * (side + 1))
                for frame in order:
                    sums = gates[frame, line, part] + hidden @ weights[side]
                    write, forget, new, show = jnp.split(sums, 4)
                    cell = jax.nn.sigmoid(forget + 1) * cell + jax.nn.sigmoid(write) * jnp.tanh(new)
                    hidden = jax.nn.sigmoid(show) * jnp.tanh(cell)
                    out = out.at[frame, line, size * side : size * (side + 1)].set(hidden)
        return out

    assert_same(lambda *x: recurrence(*x, real, jnp.float32), plain, (gates, weights))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("scratch:quick", True),
        ("dig:quick,size=micro_stem,patch=32x4", True),
        ("dig:quick", False),
    ],
)
def test_a_run_on_a_gpu_is_told_to_check_its_convolutions(config, told):
    work = workload.open_workload(command_line.load(config).to_dict())
    paths = trees.named_leaves(jax.eval_shape(work.create, work.data.raw).params)
    assert bool(convolution.caution(paths, "gpu")) == told
    assert convolution.caution(paths, "cpu") == ""
