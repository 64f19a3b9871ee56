"""Planning of width buckets and epochs, and the randomness behind it."""

import numpy as np
import pytest

from dig_jax.data import buckets


def test_chosen_buckets_cost_the_least_padding():
    rng = np.random.default_rng(0)
    widths = np.concatenate([rng.integers(1, 90, 200), rng.integers(300, 420, 50)])
    edges = buckets.bounds(widths, 3, 32)
    assert edges[-1] == -(-widths.max() // 32) * 32 and len(edges) == 3 and not np.any(edges % 32)

    def cost(chosen):
        return np.array(chosen)[np.searchsorted(chosen, widths)].sum()

    tops = range(32, edges[-1], 32)
    assert cost(edges) == min(cost([a, b, edges[-1]]) for a in tops for b in tops if a < b)
    assert buckets.bounds(np.full(9, 64)).tolist() == [64]  # no more buckets than widths
    assert buckets.bounds(np.array([5, 40]), "auto", 16).tolist() == [16, 48]
    assert len(buckets.bounds(widths)) == buckets.AUTO_COUNT


@pytest.mark.parametrize("value", ["many", 0, [], [0, 32], 2.5, [64, "a"], [64.5], None])
def test_senseless_buckets_are_refused(value):
    with pytest.raises(ValueError, match="buckets_px"):
        buckets.bounds(np.array([10]), value)


@pytest.mark.parametrize(
    "count,batch_size,size", [(1, 4, 10), (3, 4, 10), (3, 7, 100), (4, 8, 3), (2, 5, 25)]
)
@pytest.mark.parametrize("fill", [True, False])
def test_batches_cover_each_record_once(count, batch_size, size, fill):
    rng = np.random.default_rng(size)
    order, bucket = rng.permutation(size), rng.integers(0, count, size)
    needs = np.empty(size, np.int64)
    needs[order] = bucket
    rows, of = buckets.batches(order, bucket, count, batch_size, fill)
    assert rows.shape == (-(-size // batch_size), batch_size)
    flat = rows.ravel()
    assert np.array_equal(np.sort(flat[:size]), np.arange(size))
    assert np.all(flat[size:] == (np.resize(order, len(flat) - size) if fill else -1))
    for row, number in zip(rows, of):
        assert np.all(needs[row[row >= 0]] <= number)


def test_randomness_is_pinned():
    """Changing these numbers changes what every resumed run reads."""
    assert buckets.permutation(6, 0, (1, 0, 0)).tolist() == [3, 1, 5, 0, 4, 2]
    assert buckets.uniform(7, (0,), np.array([0, 10**12])).tolist() == [
        0.8071279379435543,
        0.1053982524098751,
    ]
    draws = buckets.uniform(3, (0,), np.arange(100_000))
    assert np.all(np.abs(np.histogram(draws, 10, (0, 1))[0] - 10_000) < 400)
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.01


def test_shares_sum_up():
    assert buckets.shares([3, 1], 100).tolist() == [75, 25]
    assert buckets.shares([1, 1, 1], 100).sum() == 100
    assert buckets.shares([1e-9, 1], 10).tolist() == [1, 9]
    assert buckets.shares([1000, 1, 1], 100).tolist() == [98, 1, 1]
    assert buckets.shares([1, 1e-9, 5, 1e-9], 6).tolist() == [1, 1, 3, 1]
    with pytest.raises(ValueError, match="one each"):
        buckets.shares([1, 1, 1], 2)
