"""The picture holds the three rows of each line, in the order masked, output, original."""

import types

import cv2
import numpy as np

from dig_jax import sharding
from dig_jax.evaluators import reconstruction
from dig_jax.methods.shared import base
from tests.evaluators.lines import DATA, write


class Painter:
    """masked black, output grey of the parameter, original white."""

    def reconstruct(self, params, batch, key):
        image = batch["image"] * 0.0
        return {"masked": image, "output": image + params, "original": image + 1.0}


def make(tmp_path, method, **options):
    folder = write(tmp_path / "words", [("tin", "tin"), ("solo", "solo")], split="train")
    data = DATA | {"train": str(folder), "width_px": 32}
    mesh = sharding.make_mesh(8)
    return reconstruction.Evaluator(
        method=method, mesh=mesh, workdir=tmp_path, data=data, **options
    )


def test_rows_of_the_picture(tmp_path):
    made = make(tmp_path, Painter(), lines=3)
    assert made.run(types.SimpleNamespace(params=0.4), 12) == {}
    picture = cv2.imread(
        str(tmp_path / "pictures" / "reconstruction-00000012.png"), cv2.IMREAD_GRAYSCALE
    )
    stack = 3 * 9 + reconstruction.GAP_PX  # three rows of 8 px and a line below each
    assert picture.shape == (
        2 * stack,
        2 * (32 + reconstruction.GAP_PX),
    )  # three lines, two abreast
    for top in (0, stack):
        assert [int(picture[top + row, 5]) for row in (2, 11, 20)] == [0, 102, 255]
    assert (picture[stack:, 36:] == reconstruction.GAP_GREY).all()


def test_colour_keeps_its_order():
    red = np.zeros((1, 4, 4, 3))
    red[..., 0] = 1
    picture = reconstruction.sheet({"masked": red, "output": red, "original": red})
    assert picture[0, 0].tolist() == [255, 0, 0]


def test_written_png_is_rgb(tmp_path):
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    reconstruction.write_png(tmp_path / "a" / "red.png", red)
    assert cv2.imread(str(tmp_path / "a" / "red.png"))[0, 0].tolist() == [
        0,
        0,
        255,
    ]  # OpenCV: blue, green, red
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["red.png"]


def test_a_method_that_draws_nothing_gives_no_picture(tmp_path):
    assert make(tmp_path, base.Method()).run(types.SimpleNamespace(params=0.0), 0) == {}
    assert not list(tmp_path.glob("**/*.png"))
