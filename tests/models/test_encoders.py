"""What "auto" stands for on each device, and that tracing does not ask this machine."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.models import encoders
from dig_jax.train import experiment
from tests.jaxprs import equations

VIT = {"patch": (8, 4), "width": 64, "depth": 1, "heads": 2, "dtype": "auto", "attention": "auto"}
CRNN = {
    "kind": "crnn", "height_px": 32, "stem": 8, "stages": (8, 8, 8, 8), "blocks": (1, 1, 1, 1),
    "width": 16, "layers": 1, "dtype": "auto",
}  # fmt: skip


@pytest.mark.parametrize(
    ("platform", "capability", "head_width", "dtype", "attention"),
    [
        ("cpu", None, 64, "float32", "blocks"),
        ("tpu", None, 64, "bfloat16", "flash"),
        ("tpu", None, 60, "bfloat16", "flash"),
        ("gpu", "7.0", 64, "float32", "blocks"),
        ("gpu", "7.5", 64, "float32", "blocks"),
        ("gpu", "8.0", 64, "bfloat16_stored", "cudnn"),
        ("gpu", "8.6", 128, "bfloat16_stored", "cudnn"),
        ("gpu", "8.9", 136, "bfloat16_stored", "blocks"),
        ("gpu", "9.0", 256, "bfloat16_stored", "cudnn"),
        ("gpu", "9.0", 264, "bfloat16_stored", "blocks"),
        ("gpu", "9.0", 60, "bfloat16_stored", "blocks"),
        ("gpu", "10.0", 256, "bfloat16_stored", "cudnn"),
        ("gpu", "gfx90a", 64, "bfloat16", "blocks"),
        ("gpu", None, 64, "bfloat16", "blocks"),
    ],
)
def test_auto_on_each_device(platform, capability, head_width, dtype, attention):
    options = {**VIT, "width": 2 * head_width}
    found = encoders.resolve(options, platform, capability)
    assert (found["dtype"], found["attention"]) == (dtype, attention)
    assert options["dtype"] == "auto", "the options are left as they were"
    assert encoders.resolve(CRNN, platform, capability)["dtype"] == dtype.removesuffix("_stored")
    assert "attention" not in encoders.resolve(CRNN, platform, capability)


def test_what_is_stated_stays_and_float32_takes_no_kernel():
    assert encoders.resolve({**VIT, "dtype": "float32"}, "tpu")["attention"] == "blocks"
    stated = {**VIT, "dtype": "bfloat16_stored", "attention": "plain"}
    assert encoders.resolve(stated, "gpu", "9.0") == stated
    assert encoders.resolve({**VIT, "dtype": "float32"}, "gpu", "9.0")["attention"] == "blocks"
    assert (
        encoders.resolve({**VIT, "dtype": "bfloat16_stored"}, "gpu", "9.0")["attention"] == "cudnn"
    )


@pytest.mark.parametrize(("kernel", "home"), [("flash", "tpu"), ("cudnn", "gpu")])
def test_a_kernel_of_another_platform_is_refused_by_training_and_left_out_by_reading(kernel, home):
    stated = {**VIT, "attention": kernel}
    for platform in ("cpu", "gpu", "tpu"):
        if platform == home:
            encoders.check_kernel(stated, platform)
            assert encoders.readable(stated, platform) == stated
            continue
        with pytest.raises(ValueError, match=f"{kernel}', a kernel of {home.upper()}s, .*'auto'"):
            encoders.check_kernel(stated, platform)
        assert encoders.readable(stated, platform) == VIT
    for own in ({}, VIT, {**VIT, "attention": "plain"}):
        encoders.check_kernel(own, "cpu")
        assert encoders.readable(own, "cpu") == own


def test_a_run_goes_on_from_one_that_stated_a_kernel_of_another_platform():
    method = {"encoder": {**VIT, "dtype": "bfloat16", "attention": "flash"}}
    inherited = {"method": method, "inherit": ("method.encoder",)}
    assert experiment.encoder_for(inherited, ("cpu", None))["attention"] == "blocks"
    assert experiment.encoder_for(inherited, ("tpu", None))["attention"] == "flash"
    with pytest.raises(ValueError, match="a kernel of TPUs"):
        experiment.encoder_for({**inherited, "inherit": ()}, ("cpu", None))


def test_a_decoder_with_wide_heads_leaves_cudnn():
    vit = encoders.create({**VIT, "dtype": "bfloat16", "attention": "cudnn"})
    found = [vit.form(width)["attention"] for width in (32, 128, 36, 256)]
    assert found == ["cudnn", "cudnn", "blocks", "blocks"]
    with pytest.raises(ValueError, match=r"attention is 'sparse'; set config\.method\.encoder"):
        trace(encoders.create({**VIT, "attention": "sparse"}))


def trace(module):
    image, width = jnp.zeros((2, 32, 32, 1)), jnp.array([32, 9])
    params = jax.eval_shape(module.init, jax.random.key(0), image, width)
    return jax.make_jaxpr(module.apply)(params, image, width)


@pytest.mark.parametrize("options", [VIT, CRNN], ids=["vit", "crnn"])
def test_tracing_for_a_tpu_on_this_cpu(options, monkeypatch):
    module = encoders.create(encoders.resolve(options, "tpu"))
    monkeypatch.setattr(jax, "default_backend", lambda: pytest.fail("tracing asked the host"))
    products = [
        equation
        for equation in equations(trace(module).jaxpr)
        if equation.primitive.name in ("dot_general", "conv_general_dilated")
    ]
    assert products
    for equation in products:
        assert {x.aval.dtype.name for x in equation.invars} == {"bfloat16"}, equation


@pytest.mark.slow
def test_lstms_of_a_cnn_drop_in_training_only():
    small = {"channels": (8,) * 5, "hidden": 4, "layers": 2}
    encoder = encoders.create({"size": "cnn_lstm", **small})
    given = jax.random.uniform(jax.random.key(1), (1, 32, 24, 1)), jnp.array([24])
    params = jax.jit(encoder.init)(jax.random.key(0), *given)

    @functools.partial(jax.jit, static_argnums=0)
    def train(net, seed):
        keys = {"drop_path": jax.random.key(seed)}
        return net.apply(params, *given, deterministic=False, rngs=keys)

    still = jax.jit(encoder.apply)(params, *given)
    assert not np.allclose(train(encoder, 1), train(encoder, 2))
    np.testing.assert_allclose(train(encoder.copy(dropout=0.0), 1), still, atol=1e-5)
