"""Jigsaw: the permutation set against exhaustive search, and that views are the windows in the
order of the answer.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.methods import jigsaw

ENCODER = {"patch": (8, 4), "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}
WINDOWS = {"window_px": 16, "gap_px": 6, "jitter_px": 4}


def distances(table):
    """Hamming distances of all pairs, slow loop."""
    return [sum(a != b for a, b in zip(p, q)) for p, q in itertools.combinations(table, 2)]


def test_permutations_are_as_far_apart_as_they_can_be():
    # Latin squares, the even permutations of four, the 120 of six that move any three places to any
    # three (PGL(2, 5)).
    for length, count, least in [
        (3, 3, 3),
        (4, 4, 4),
        (4, 12, 3),
        (5, 5, 5),
        (5, 22, 3),
        (6, 6, 6),
        (6, 120, 4),
    ]:
        table = jigsaw.choose_permutations(length, count).tolist()
        assert all(sorted(p) == list(range(length)) for p in table) and table[0] == list(
            range(length)
        )
        assert min(distances(table)) == least, (length, count)
    every = jigsaw.choose_permutations(4, 24)
    assert sorted(map(tuple, every)) == list(itertools.permutations(range(4)))


def test_every_choice_is_the_farthest_that_is_left():
    table = jigsaw.choose_permutations(4, 10).tolist()
    for i in range(1, len(table)):
        left = [list(p) for p in itertools.permutations(range(4)) if list(p) not in table[:i]]
        far = [[sum(a != b for a, b in zip(p, q)) for q in table[:i]] for p in left]
        assert left[max(range(len(left)), key=lambda j: (min(far[j]), sum(far[j]), -j))] == table[i]


def test_views_are_the_windows_in_the_order_of_the_answer():
    method = jigsaw.Method(encoder=ENCODER, channels=1, windows=4, permutations=7, **WINDOWS)
    image = np.broadcast_to(np.arange(128, dtype=np.uint8)[None, None, :, None], (300, 8, 128, 1))
    raw = {"image": jnp.asarray(image), "width": jnp.full(300, 128), "valid": jnp.ones(300, bool)}
    batch = jax.jit(method.augment)(jax.random.key(0), raw)
    assert batch["answer"].shape == (300, 1) and set(np.unique(batch["answer"])) == set(range(7))
    start = np.stack(
        [np.asarray(batch[f"view{i}"])[:, 0, 0, 0] * 127.5 + 127.5 for i in (1, 2, 3, 4)], axis=1
    )
    order = method.permutations[np.asarray(batch["answer"])[:, 0]]
    np.testing.assert_array_equal(np.argsort(np.argsort(start, axis=1), axis=1), order)
    assert batch["valid"].all() and not set(batch) & {"image"}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"windows": 1}, r"windows is 1; set config.method.windows to 2\.\.9"),
        ({"windows": 10}, "windows is 10"),
        (
            {"windows": 3, "permutations": 7},
            "permutations is 7 and 3 windows have 6.*config.method.permutations",
        ),
        ({"permutations": 1}, "permutations is 1"),
        ({"window_px": 18}, "window_px is 18.*multiple of the patch width, 4"),
        ({"jitter_px": 7}, "jitter_px is 7 and gap_px 6"),
        ({"tile_width": -1}, "tile_width is -1.*config.method.tile_width to 0 or more"),
        (
            {"tile_width": 0, "context_free": False},
            "tile_width is 0.*config.method.tile_width above 0, or config.method.context_free",
        ),
        ({"recipe": "digg"}, "recipe is 'digg'.*config.method.recipe"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        jigsaw.Method(encoder=ENCODER, channels=1, **{**WINDOWS, **changes})
