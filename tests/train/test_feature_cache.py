"""Features of a frozen encoder: the same from memory as from the encoder, and computed once a
record.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax import sharding
from dig_jax.train.feature_cache import FeatureCache


def lines(numbers, width_px):
    """(batch, host) of lines whose pixels and real width follow from their number; number -1 only
    fills the batch.
    """
    numbers = np.asarray(numbers)
    image = np.zeros((len(numbers), 2, width_px, 1), np.uint8)
    for row, number in enumerate(numbers):
        image[row, :, : 3 + number] = 10 + number
    width = np.where(numbers < 0, 1, 3 + numbers).astype(np.int32)
    return {"image": image, "width": width, "valid": numbers >= 0}, {
        "index": numbers.astype(np.int64)
    }


@pytest.fixture
def method():
    calls = []

    def frozen_features(params, batch):
        calls.append(batch["image"].shape)  # once a compilation
        frames = batch["image"].astype(jnp.float32).sum(axis=1) * params
        return {"frames": frames, "frame_length": batch["width"]}

    return types.SimpleNamespace(frozen_features=frozen_features, calls=calls)


def test_recalled_features_equal_fresh_ones_in_narrower_and_wider_batches(method):
    mesh = sharding.make_mesh(1)
    cache = FeatureCache(method, mesh)
    cache.fill(2.0, [lines([0, 1], 8), lines([4, 5], 12)])
    # From here on nothing may be encoded.
    cache.compute = types.SimpleNamespace(eval_shape=jax.jit(method.frozen_features).eval_shape)
    for numbers, width_px in (([5, 0], 16), ([1, 0], 6), ([4, -1], 12)):
        batch, host = lines(numbers, width_px)
        told = cache(2.0, batch, host)
        fresh = method.frozen_features(2.0, batch)
        assert set(told) == {"width", "valid", "frames", "frame_length"}
        real = host["index"] >= 0
        for name in fresh:
            np.testing.assert_array_equal(told[name][real], np.asarray(fresh[name])[real])


def test_an_unknown_record_is_encoded_and_kept(method):
    cache = FeatureCache(method, sharding.make_mesh(1))
    batch, host = lines([3, 7], 12)
    first = cache(1.0, batch, host)
    assert sorted(cache.rows) == [3, 7]
    second = cache(
        5.0, batch, host
    )  # other parameters: whoever asks twice vouches that the encoder stands still
    np.testing.assert_array_equal(first["frames"], second["frames"])


def test_beyond_its_room_nothing_is_kept_and_everything_still_answered(method):
    cache = FeatureCache(method, sharding.make_mesh(1), max_bytes=1)
    cache.fill(1.0, [lines([0], 8), lines([1], 8)])
    assert sorted(cache.rows) == [0]
    batch, host = lines([1, 2], 8)
    np.testing.assert_array_equal(
        cache(1.0, batch, host)["frames"], method.frozen_features(1.0, batch)["frames"]
    )
    assert sorted(cache.rows) == [0]
