"""Spread and effective rank of features whose values are known; padding and invalid rows do not
count.
"""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax import sharding
from dig_jax.evaluators import collapse
from tests.evaluators.lines import DATA, write

TOKENS = np.random.default_rng(0).standard_normal((64, 6))


def with_singular_values(values, rows=40):
    """f64[rows, D] whose centred form has exactly these singular values."""
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(np.c_[np.ones(rows), rng.standard_normal((rows, len(values)))])[0][
        :, 1:
    ]  # no mean left
    turn = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return basis @ np.diag(values) @ turn + rng.standard_normal(len(values))


@pytest.mark.parametrize(
    "values, rank",
    [
        ([1, 1, 1, 1], 4),
        ([1, 0, 0, 0], 1),
        ([3, 3, 0, 0], 2),
        ([4, 2, 1, 1], 2**1.75),  # entropy of (1/2, 1/4, 1/8, 1/8) is 1.75 bits
    ],
)
def test_effective_rank_of_known_singular_values(values, rank):
    np.testing.assert_allclose(
        collapse.effective_rank(with_singular_values(values)), rank, rtol=1e-6
    )


def test_effective_rank_of_float32_tokens_on_a_line_is_one():
    tokens = np.random.default_rng(0).standard_normal((500, 1)) * np.ones((1, 64)) + 3
    np.testing.assert_allclose(collapse.effective_rank(tokens.astype(np.float32)), 1, atol=1e-2)
    assert collapse.effective_rank(np.ones((9, 4))) == 1


def test_spread_is_one_on_the_sphere_and_zero_when_collapsed():
    around = np.random.default_rng(0).standard_normal((20000, 32))
    np.testing.assert_allclose(collapse.spread(around * 7), 1, atol=0.01)
    assert collapse.spread(np.ones((5, 8))) == 0
    np.testing.assert_allclose(collapse.spread(np.c_[[1.0, -1.0], [0.0, 0.0]]), 0.5 * np.sqrt(2))


def test_position_share_is_the_adjusted_r_squared_of_a_regression_on_places():
    rng = np.random.default_rng(2)
    place = rng.integers(0, 5, 200)
    tokens = rng.standard_normal((200, 6)) + 2 * rng.standard_normal((5, 6))[place]
    design = np.eye(5)[place]
    residual = tokens - design @ np.linalg.lstsq(design, tokens, rcond=None)[0]
    share = np.square(residual).sum() / np.square(tokens - tokens.mean(0)).sum()
    np.testing.assert_allclose(collapse.position_share(tokens, place), 1 - share * 199 / 195)


def test_neighbour_share_against_all_pairs():
    """By loops over every pair; noise has no neighbours, lines of one frame repeated are all
    neighbour.
    """
    rng = np.random.default_rng(2)
    frames, length = rng.normal(size=(5, 7, 3)).cumsum(axis=1), np.array([7, 4, 1, 0, 6])
    rows = [frames[b, s] for b in range(5) for s in range(length[b])]
    far = np.mean(
        [np.sum((x - y) ** 2) for x in rows for y in rows]
    )  # of any two, each with itself too
    near = np.mean(
        [
            np.sum((frames[b, s + 1] - frames[b, s]) ** 2)
            for b in range(5)
            for s in range(length[b] - 1)
        ]
    )
    np.testing.assert_allclose(collapse.neighbour_share(frames, length), near / far)
    assert collapse.neighbour_share(rng.normal(size=(50, 30, 4)), np.full(50, 30)) == pytest.approx(
        1, abs=0.05
    )
    assert collapse.neighbour_share(np.repeat(frames[:, :1], 7, axis=1), np.full(5, 7)) == 0
    assert (
        collapse.neighbour_share(np.ones((2, 3, 4)), np.full(2, 3))
        == 0
        == collapse.neighbour_share(frames, np.ones(5))
    )


def test_position_share_between_codes_alone_and_content_alone():
    place = np.arange(400) % 8
    codes = np.random.default_rng(3).standard_normal((8, 16))[place]
    content = np.random.default_rng(4).standard_normal((400, 16))
    assert collapse.position_share(codes, place) == pytest.approx(1)
    assert abs(collapse.position_share(content, place)) < 0.02  # what chance fits is taken off
    assert collapse.position_share(np.ones((8, 3)), np.arange(8)) == 0


class Encoder:
    """Tokens from a table of 64, two a column of 4 px; what padding and missing lines get would be
    seen.
    """

    def encode(self, params, batch):
        rows, columns = batch["image"].shape[0], batch["image"].shape[2] // 4
        tokens = jnp.asarray(TOKENS, jnp.float32)[jnp.arange(rows * columns * 2) % 64].reshape(
            rows, -1, 6
        )
        length = -(-batch["width"] // 4)
        real = (jnp.arange(columns * 2)[None] < 2 * length[:, None]) & batch["valid"][:, None]
        tokens = jnp.where(real[..., None], tokens * params, 1e6)
        return {
            "tokens": tokens,
            "frames": tokens.reshape(rows, columns, -1),
            "frame_length": length,
        }


def test_figures_over_the_real_tokens_of_readable_lines(tmp_path):
    folder = write(
        tmp_path / "words", [("tin", "tin"), (None, None), ("solo", "solo")] * 4, split="train"
    )
    data = DATA | {"train": str(folder), "width_px": 32}
    made = collapse.Evaluator(
        method=Encoder(), mesh=sharding.make_mesh(8), workdir=tmp_path, data=data, lines=16
    )
    one, two = (made.run(types.SimpleNamespace(params=scale), 0) for scale in (1.0, 5.0))
    names = ("std", "effective_rank", "position_share", "neighbour_share")
    assert one.keys() == {f"collapse/{name}" for name in names}
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4)  # a scale is no spread
    assert 0.5 < one["collapse/std"] < 1.2 and 5 < one["collapse/effective_rank"] < 6
    squeezed = collapse.Evaluator(
        method=Encoder(),
        mesh=sharding.make_mesh(8),
        workdir=tmp_path,
        data=data | {"squeeze_px": 32},
        lines=16,
    )
    widths = lambda made: np.unique(made.batch["width"][made.batch["valid"]]).tolist()
    assert widths(made) == [24, 32] and widths(squeezed) == [32]
    flat = made.run(types.SimpleNamespace(params=0.0), 0)
    assert flat == {f"collapse/{name}": float(name == "effective_rank") for name in names}
