"""The glimpse reader reads strings of handwritten digits (scikit-learn's, 8 x 8 px) from columns of
their pixels, without an encoder: the task of Ba et al. 2015, section 4, in small."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dig_jax.models import decoders

FRAMES, LONGEST, COLUMN = 22, 4, 2


def strings(digits, chosen, rows, rng):
    """Lines of 1 to LONGEST digits with gaps of 0 to 3 px: what a decoder's loss takes."""
    images, classes = digits.images / 8.0 - 1.0, digits.target + 1
    frames = np.full((rows, FRAMES, 8 * COLUMN), -1.0, np.float32)
    label, count = np.zeros((rows, LONGEST), np.int32), rng.integers(1, LONGEST + 1, rows)
    length = np.zeros(rows, np.int32)
    for row, n in enumerate(count):
        picked = rng.choice(chosen, n)
        label[row, :n] = classes[picked]
        gaps = rng.integers(0, 4, n)
        strip = [
            np.pad(images[i], ((0, 0), (0, gap)), constant_values=-1)
            for i, gap in zip(picked, gaps)
        ]
        strip = np.concatenate(strip, 1)[:, : FRAMES * COLUMN]
        length[row] = strip.shape[1] // COLUMN
        strip = strip[:, : length[row] * COLUMN].reshape(8, -1, COLUMN)
        frames[row, : length[row]] = strip.transpose(1, 0, 2).reshape(length[row], -1)
    return tuple(map(jnp.asarray, (frames, length, label, count.astype(np.int32))))


@pytest.mark.slow
def test_the_glimpse_reader_learns_to_read_digits():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits.images))
    decoder = decoders.create(11, "glimpse", hidden=96, stride=4.0)
    held_out = strings(digits, order[1400:], 100, np.random.default_rng(9))
    params = jax.jit(decoder.init)(jax.random.key(0), *held_out[:2])
    rate = optax.cosine_decay_schedule(3e-3, 400)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    @jax.jit
    def step(params, state, *lines):
        grads = jax.grad(lambda p: decoder.loss(p, *lines)[0].mean())(params)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state

    state = jax.jit(tx.init)(params)
    for _ in range(400):
        params, state = step(params, state, *strings(digits, order[:1400], 32, rng))
    reading = jax.jit(decoder.read)(params, *held_out[:2])
    right = [
        np.array_equal(ids[:n], label[:count])
        for ids, n, label, count in zip(
            *map(np.asarray, (reading["ids"], reading["length"], *held_out[2:]))
        )
    ]
    assert np.mean(right) > 0.7
    # The second network has learnt where the digits stand: places move on through the line.
    for frame, n, length in zip(
        *map(np.asarray, (reading["frame"], reading["length"], held_out[1]))
    ):
        assert (np.diff(frame[:n]) > 0).all() and frame[:n].max(initial=0) > length / 2 - 4
