"""A ViT that reads the line through convolutions: the promises of `vit.Vit` hold for it, too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.interop import torch
from dig_jax.models import encoders, vit
from tests.tiers import tiers

HIGH = {32: (32, 4), 48: (48, 6)}


@pytest.fixture(scope="module", params=tiers(HIGH))
def net(request):
    high = request.param
    module = encoders.create({"size": "nano_stem", "patch": HIGH[high], "dtype": "float32"})
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(-1, 1, (3, high, 96, 1)), jnp.float32)
    width = jnp.array([96, 50, 13])
    params = jax.jit(module.init)(jax.random.key(0), image, width)
    noise = lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32)
    return module, jax.tree.map(noise, params), image, width


@pytest.mark.slow
def test_one_token_a_column_and_padding_changes_none(net):
    module, params, image, width = net
    columns = 96 // module.patch[1]
    tokens = np.asarray(jax.jit(module.apply)(params, image, width))
    assert tokens.shape == (3, columns, 64)
    wider = jnp.pad(image, ((0, 0), (0, 0), (0, 48), (0, 0)), constant_values=jnp.nan)
    wide = np.asarray(jax.jit(module.apply)(params, wider, width))
    np.testing.assert_allclose(wide[:, :columns], tokens, atol=2e-5)
    assert not wide[:, columns:].any(), "tokens of padding are zero"


def test_hidden_pixels_reach_no_feature_and_seen_ones_do(net):
    module, params, image, width = net
    columns, wide = image.shape[2] // module.patch[1], module.patch[1]
    mask = jnp.zeros((3, columns), bool).at[:, 2:5].set(True)
    loss = lambda x: jnp.sum(jnp.sin(module.apply(params, x, width, mask)))
    gradient = np.asarray(jax.jit(jax.grad(loss))(image))
    assert not gradient[:, :, 2 * wide : 5 * wide].any()
    assert gradient[0, :, : 2 * wide].any() and gradient[0, :, 5 * wide :].any()


@pytest.mark.slow
def test_hidden_tokens_are_the_mask_token_with_their_place(net):
    module, params, image, width = net
    empty = module.clone(depth=0, final_norm=False)
    mask = jnp.zeros((3, image.shape[2] // module.patch[1]), bool).at[0, 3].set(True)
    tokens = empty.apply(params, image, width, mask)
    place = vit.position_codes("sincos_2d", (1, mask.shape[1]), 64)[0, 3]
    np.testing.assert_allclose(
        tokens[0, 3], place + params["params"]["mask_token"], rtol=1e-6, atol=1e-6
    )


def test_what_a_stem_cannot_do_is_a_sentence(net):
    module, params, image, width = net
    with pytest.raises(ValueError, match="chosen patches only cannot look through convolutions"):
        module.apply(params, image, width, keep=jnp.zeros((3, 2), jnp.int32))
    with pytest.raises(ValueError, match=r"one of \[\(32, 4\), \(48, 6\)\]"):
        module.clone(patch=(8, 4)).apply(params, image, width)
    with pytest.raises(ValueError, match="stem"):
        torch.state_dict(type("Model", (), {"encoder": lambda self: module})())
