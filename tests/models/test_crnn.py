"""CNN + BiLSTM: the interface of the ViT, and lines that know nothing of their padding and
neighbours.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.models import cnn, crnn, encoders, vit
from tests.tiers import tiers

COMMON = {"height_px": 32, "dtype": "float32", "patch": (32, 4)}
SIZES = {
    "crnn": {"kind": "crnn", **COMMON, **crnn.SIZES["crnn_nano"]},
    "cnn": {"kind": "cnn", **COMMON, **cnn.SIZES["cnn_nano"]},
}
SIZE = SIZES["crnn"]


@pytest.fixture(scope="module", params=tiers(sorted(SIZES)))
def network(request):
    module = encoders.create(SIZES[request.param])
    image = jax.random.uniform(jax.random.key(1), (3, 32, 64, 1), minval=-1.0)
    width = jnp.array([64, 37, 9])
    params = jax.jit(module.init)(jax.random.key(0), image, width)
    return jax.jit(lambda image, width: module.apply(params, image, width)), image, width


@pytest.mark.slow
def test_one_token_a_column_of_four_pixels(network):
    encode, image, width = network
    tokens = encode(image, width)
    assert tokens.shape == (3, 16, 32) and tokens.dtype == jnp.float32
    assert vit.columns(width, 4).tolist() == [16, 10, 3]
    dead = np.asarray(jnp.abs(tokens).max(-1) == 0)
    np.testing.assert_array_equal(dead, ~np.asarray(vit.token_valid(width, (32, 4), (1, 16))))


def test_features_do_not_move_with_padding_content_or_neighbours(network):
    encode, image, width = network
    tokens = np.asarray(encode(image, width))
    wider = jnp.pad(image, ((0, 0), (0, 0), (0, 32), (0, 0)), constant_values=0.3)
    np.testing.assert_allclose(np.asarray(encode(wider, width))[:, :16], tokens, atol=2e-5)
    beyond = jnp.arange(64)[None, :] >= width[:, None]
    other = jnp.where(beyond[:, None, :, None], -0.7, image)
    np.testing.assert_allclose(np.asarray(encode(other, width)), tokens, atol=1e-6)
    np.testing.assert_allclose(np.asarray(encode(image[1:2], width[1:2])), tokens[1:2], atol=2e-5)


def test_every_real_pixel_counts(network):
    """Gradient of the sum of squares of one line's tokens reaches all its real pixels and nothing
    else.
    """
    encode, image, width = network
    grad = jax.grad(
        lambda image: jnp.sum(jnp.square(encode(image, width)[1]) * jnp.arange(32.0)[None, :])
    )(image)
    grad = np.abs(np.asarray(grad))[..., 0]
    assert (grad[[0, 2]] == 0).all() and (grad[1, :, 37:] == 0).all()
    assert (grad[1, :, :37].max(0) > 0).all()


@pytest.mark.slow
def test_hidden_columns_of_a_cnn_say_nothing():
    """What lies under the mask changes no token; what lies beside it does."""
    module = encoders.create({**SIZES["cnn"], "hidden": 8, "layers": 1})
    image = jax.random.uniform(jax.random.key(1), (1, 32, 64, 1), minval=-1.0)
    width, mask = jnp.array([64]), (jnp.arange(16) // 4 == 1)[None]
    params = jax.jit(module.init)(jax.random.key(0), image, width)
    encode = jax.jit(lambda image: module.apply(params, image, width, mask))
    hidden = jnp.repeat(mask, 4, 1)[:, None, :, None]
    tokens = encode(image)
    assert tokens.shape == (1, 16, 16) == (1, 16, module.width)
    np.testing.assert_array_equal(encode(jnp.where(hidden, -image, image)), tokens)
    assert (np.abs(encode(jnp.where(hidden, image, -image)) - tokens).max(-1) > 1e-3).all()


def test_mistakes_become_sentences():
    image, width = jnp.zeros((1, 32, 32, 1)), jnp.array([32])
    with pytest.raises(ValueError, match="CNN has no mask tokens"):
        encoders.create(SIZE).init(jax.random.key(0), image, width, jnp.zeros((1, 8), bool))
    with pytest.raises(ValueError, match="height_px is 24.*multiple of 16"):
        encoders.create({**SIZE, "height_px": 24, "patch": (24, 4)}).init(
            jax.random.key(0), image[:, :24], width
        )
    with pytest.raises(ValueError, match="kind is 'rnn'.*vit, crnn, cnn"):
        encoders.create({**SIZE, "kind": "rnn"})
    with pytest.raises(ValueError, match="kind is 'crnn'.*needs the tokens of a ViT"):
        encoders.create_vit(SIZE)
    with pytest.raises(ValueError, match="kind is 'cnn'.*needs the tokens of a ViT"):
        encoders.create_vit({"size": "cnn"})  # the kind follows from the size
    with pytest.raises(ValueError, match="^an encoder of kind vit lacks patch: state it in config"):
        encoders.create({"size": "micro"})
    with pytest.raises(ValueError, match="kind crnn lacks .*stages"):
        encoders.create({"kind": "crnn", "height_px": 32})
    with pytest.raises(ValueError, match=r"patch is \(8, 4\).*\(32, 4\)"):
        encoders.create({**SIZE, "patch": (8, 4)})
