"""tools/show_neighbours: windows are means, neighbours are the most alike of other lines."""

import numpy as np

from dig_jax.tools import show_neighbours


def test_windows_are_means_of_neighbouring_frames():
    frames = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    found = show_neighbours.windows(frames, 3)
    slow = np.stack([frames[i : i + 3].mean(axis=0) for i in range(5)])
    np.testing.assert_allclose(found, slow, atol=1e-6)


def test_neighbours_are_the_most_alike_one_of_each_other_line():
    rng = np.random.default_rng(1)
    rows, line = rng.normal(size=(30, 4)).astype(np.float32), np.repeat(np.arange(5), 6)
    found = show_neighbours.nearest(np.array([3, 20]), rows, line, 4)
    centred = rows - rows.mean(axis=0)
    for query, near in zip((3, 20), found):
        best = []
        for other in set(line.tolist()) - {line[query]}:
            each = {
                i: centred[i] @ centred[query] / np.linalg.norm(centred[i])
                for i in np.flatnonzero(line == other)
            }
            best.append(max((value, i) for i, value in each.items()))
        assert near.tolist() == [i for _, i in sorted(best, reverse=True)]


def test_pieces_show_their_window_in_the_middle():
    picture = np.full((48, 60, 3), 255, np.uint8)
    picture[:, 12:18] = np.array([10, 20, 30])  # the third column of 6 px
    found = show_neighbours.pieces(picture, 9, 2, 6.0)  # windows 12 px wide, margins of 3
    assert {piece.shape for piece in found} == {(48, 18, 3)}
    assert (found[2][:, 3:9] == [10, 20, 30]).all() and (found[2][:, 9:] == 255).all()
    high = show_neighbours.sheet([[found[0], found[1]], [found[2], found[3]]])
    assert high.shape == (2 * 48 + show_neighbours.GAP_PX, 2 * 18 + 4 * show_neighbours.GAP_PX, 3)


def test_the_picture_of_a_run_goes_where_the_report_looks(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert show_neighbours.output_of(str(tmp_path)) == tmp_path / "pictures" / "neighbours.png"
    assert str(show_neighbours.output_of("gen48")) == "neighbours.png"
