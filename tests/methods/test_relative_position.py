"""Relative position: what the answer says about the two windows, and that the first one lies the
same whatever it is.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.methods import relative_position

ENCODER = {"patch": (8, 4), "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}
WINDOWS = {"window_px": 16, "gap_px": 8, "jitter_px": 6}


@pytest.mark.parametrize("reach, offsets", [(1, [-1, 1]), (2, [-2, -1, 1, 2])])
def test_the_answer_is_the_number_of_cells_between_the_windows(reach, offsets):
    method = relative_position.Method(encoder=ENCODER, channels=1, reach=reach, **WINDOWS)
    span = (2 * reach + 1) * 24 - 8 + 6
    width = np.resize([span, 160, span - 1], 300)
    image = np.broadcast_to(np.arange(160, dtype=np.uint8)[None, None, :, None], (300, 8, 160, 1))
    raw = {"image": jnp.asarray(image), "width": jnp.asarray(width), "valid": jnp.ones(300, bool)}
    batch = jax.jit(method.augment)(jax.random.key(0), raw)
    assert "view3" not in batch and (batch["valid"] == (width >= span)).all()
    first, second = (
        np.rint(np.asarray(batch[name])[:, 0, 0, 0] * 127.5 + 127.5) for name in ("view1", "view2")
    )
    answer = np.asarray(batch["answer"])[:, 0]
    moved = (second - first - 24 * np.asarray(offsets)[answer])[width >= span]
    assert np.abs(moved).max() <= 6 and len(np.unique(moved)) == 13  # jitter of both
    # In a line that has room for one place only, the first window is in the middle, whatever the
    # answer.
    tight = width == span
    for value in range(2 * reach):
        places = first[tight & (answer == value)] - 24 * reach
        assert len(places) > 10 and places.min() >= 0 and places.max() <= 6


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"reach": 0}, "reach is 0; set config.method.reach to 1 or more"),
        ({"window_px": 0}, "window_px is 0.*config.method.window_px"),
        ({"gap_px": 2}, "jitter_px is 6 and gap_px 2.*config.method.jitter_px"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        relative_position.Method(encoder=ENCODER, channels=1, **{**WINDOWS, **changes})
