"""Features of a frozen encoder: the same from memory as from the encoder, and computed once a
record.
"""

import gc
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax import sharding
from dig_jax.train import feature_cache
from dig_jax.train.feature_cache import FeatureCache


@pytest.fixture(autouse=True)
def no_other_caches(monkeypatch):
    monkeypatch.setattr(feature_cache, "_caches", weakref.WeakSet())


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


def test_beyond_its_room_nothing_is_kept_and_everything_still_answered(method, monkeypatch):
    monkeypatch.setattr(feature_cache, "MAX_BYTES", 1)
    cache = FeatureCache(method, sharding.make_mesh(1))
    cache.fill(1.0, [lines([0], 8), lines([1], 8)])
    assert sorted(cache.rows) == [0]
    batch, host = lines([1, 2], 8)
    np.testing.assert_array_equal(
        cache(1.0, batch, host)["frames"], method.frozen_features(1.0, batch)["frames"]
    )
    assert sorted(cache.rows) == [0]


def test_missing_rows_are_encoded_alone(method):
    """Of a batch of eight lines whose last three are not known, four rows are encoded."""
    cache = FeatureCache(method, sharding.make_mesh(1))
    cache.fill(1.0, [lines([0, 1, 2, 3, 4], 12)])
    method.calls.clear()
    batch, host = lines([0, 1, 2, 3, 4, 5, 6, 7], 12)
    told = cache(1.0, batch, host)
    encoded = {shape[0] for shape in method.calls} - {8}  # of eight only the shape was asked
    assert encoded == {4}
    fresh = method.frozen_features(1.0, batch)
    np.testing.assert_array_equal(told["frames"], fresh["frames"])
    np.testing.assert_array_equal(told["frame_length"], fresh["frame_length"])


def test_the_caches_of_a_process_share_one_budget(method, monkeypatch):
    monkeypatch.setattr(feature_cache, "free_bytes", lambda: 1e12)
    first, second = (FeatureCache(method, sharding.make_mesh(1)) for _ in range(2))
    first.fill(1.0, [lines([0, 1], 8)])
    monkeypatch.setattr(feature_cache, "MAX_BYTES", first.nbytes)
    second.fill(1.0, [lines([0, 1], 8)])
    assert not second.rows and feature_cache.room() == 0
    del first
    gc.collect()
    second.fill(1.0, [lines([0, 1], 8)])
    assert sorted(second.rows) == [0, 1]


def test_the_budget_is_half_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(feature_cache, "free_bytes", lambda: 1000)
    assert feature_cache.room() == 500


def test_free_memory_of_the_machine_and_of_the_container(tmp_path):
    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert feature_cache.free_bytes(tmp_path) == np.inf
    write("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:   2000 kB\n")
    assert feature_cache.free_bytes(tmp_path) == 2000 * 1024
    write("sys/fs/cgroup/memory.max", "max\n")
    write("sys/fs/cgroup/memory.current", "700\n")
    assert feature_cache.free_bytes(tmp_path) == 2000 * 1024
    write("sys/fs/cgroup/memory.max", "1000\n")
    write("sys/fs/cgroup/memory.stat", "anon 1\ninactive_file 100\n")
    assert feature_cache.free_bytes(tmp_path) == 400
