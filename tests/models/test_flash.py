"""dig_jax.models.flash: the kernels of TPUs, interpreted on a CPU, against attention written out."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu

from dig_jax import sharding
from dig_jax.configs.pretrain import dig
from dig_jax.models import flash, transformer
from dig_jax.tools.perf import compilers, workload

LINES, HEADS, WIDTH = 4, 2, 8


def run(form, tokens, dtype="float32", place=None):
    """(output, gradients of query, key and value): two of four lines are shorter."""
    rng = np.random.default_rng(tokens)
    draw = lambda: jnp.asarray(rng.normal(size=(LINES, tokens, HEADS, WIDTH)), jnp.float32)
    *parts, weight = (draw() for _ in range(4))
    lengths = jnp.array([tokens, 1, tokens // 3, tokens])
    if place is not None:
        parts, weight, lengths = jax.device_put((parts, weight, lengths), place)

    def loss(*parts):
        out = transformer.attend(*parts, lengths, jnp.dtype(dtype), form)
        return jnp.sum(out * weight), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*parts)
    return out, *grads


# Our kernel, then JAX's in one block and in two. 130 tokens are padded.
@pytest.mark.parametrize(
    ("tokens", "short", "size"), [(128, 512, 512), (130, 512, 512), (130, 0, 256), (130, 0, 128)]
)
def test_values_and_gradients_are_those_of_attention_written_out(tokens, short, size, monkeypatch):
    monkeypatch.setattr(flash, "SHORT", short)
    monkeypatch.setattr(flash, "BLOCKS", (size,))
    with tpu.force_tpu_interpret_mode():
        fused = run("flash", tokens)
    for ours, plain in zip(fused, run("plain", tokens), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=2e-6, atol=5e-6)


def test_bfloat16_rounds_the_operands_alone():
    with tpu.force_tpu_interpret_mode():
        fused = run("flash", 130, "bfloat16")
    for ours, exact in zip(fused, run("plain", 130), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0.01, atol=0.04)
        assert ours.dtype == jnp.float32 and np.abs(ours - exact).max() > 1e-4


def test_few_tokens_are_attended_to_all_at_once():
    np.testing.assert_array_equal(run("flash", 127)[0], run("plain", 127)[0])


@pytest.mark.parametrize("sizes", [{"data": 2}, {"fsdp": 2, "tensor": 2}, {"tensor": 4}])
def test_each_device_of_a_mesh_attends_for_its_own_rows_and_heads(sizes):
    """Four devices cannot share two heads: then each has both."""
    devices = jax.devices()[: int(np.prod(list(sizes.values())))]
    mesh = sharding.make_mesh({"data": 1} | sizes, devices)
    with jax.set_mesh(mesh), tpu.force_tpu_interpret_mode():
        fused = run("flash", 130, place=sharding.batch_sharding(mesh))
    for ours, plain in zip(fused, run("plain", 130), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=2e-6, atol=5e-6)
    shape = fused[0].addressable_shards[0].data.shape
    split = mesh.shape["tensor"] if mesh.shape["tensor"] <= HEADS else 1
    assert shape[::2] == (LINES // (mesh.size // mesh.shape["tensor"]), HEADS // split)


def test_a_step_of_several_tpus_knows_its_mesh(monkeypatch):
    """XLA refuses a kernel that is not called on each device: lowered for TPUs, without one."""
    monkeypatch.setattr(flash, "MULTIPLE", 32)
    config = dig.get_config("preset=cpu,quick,patch=8x4").to_dict()
    how = {"attention": "flash", "dtype": "bfloat16"}
    place = {"devices": jax.devices()[:2], "device": ("tpu", None)}
    work = workload.open_workload(config | {"mesh": {"data": 2}}, how, **place)
    lowered = lambda: work.step.func.trace(work.step.args[0], work.placed, work.data.raw).lower(
        lowering_platforms=("tpu",)
    )
    with jax.set_mesh(work.mesh):
        assert "tpu_custom_call" in lowered().as_text()
    jax.clear_caches()
    with pytest.raises(NotImplementedError, match="cannot be automatically partitioned"):
        lowered()


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="libtpu, the compiler, is absent"
)
@pytest.mark.parametrize(("tokens", "width"), [(130, 60), (512, 64), (640, 32)])
def test_the_compiler_of_tpus_takes_it_on_a_mesh(tokens, width):
    mesh = sharding.make_mesh({"data": 2, "tensor": 2}, compilers.devices("tpu", "v5e", 4))
    place = sharding.batch_sharding(mesh)
    x = jax.ShapeDtypeStruct((LINES, tokens, HEADS, width), jnp.bfloat16, sharding=place)
    lengths = jax.ShapeDtypeStruct((LINES,), jnp.int32, sharding=place)
    loss = lambda *given: jnp.sum(flash.attend(*given).astype(jnp.float32) ** 2)
    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, lengths)
    assert "tpu_custom_call" in lowered.compile().as_text()
