"""tools/show_readings: every mistake of a reading is red, and every line is in the picture."""

import numpy as np

from dig_jax.tools import show_readings


def test_mistakes_are_marked_and_nothing_is_lost():
    pieces = show_readings.marked("ein Glas", "eim las!")
    assert pieces == [
        ("ei", False), ("m", True), (" ", False), ("\N{MIDDLE DOT}", True), ("las", False),
        ("!", True),
    ]  # fmt: skip
    assert show_readings.marked("gut", "gut") == [("gut", False)]


def test_every_line_is_drawn_red_where_it_is_wrong():
    line = np.full((48, 300, 3), 255, np.uint8)
    line[10:20] = 0
    right = show_readings.drawn([(line, "gut", "gut"), (line, "gut", "gut")]).astype(int)
    wrong = show_readings.drawn([(line, "gut", "gut"), (line, "gut", "bös")]).astype(int)
    red = lambda picture: (picture[..., 2] > 150) & (picture[..., :2].max(-1) < 90)
    assert not red(right).any() and red(wrong).any()
    assert not red(wrong)[: wrong.shape[0] // 2].any()  # the first line is right
    assert (right == 0).all(-1).sum() == 2 * 10 * 300
