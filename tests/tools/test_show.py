"""The contact sheets have the right size and show what they should."""

import cv2
import numpy as np
import pytest

from dig_jax.augment import recipes
from dig_jax.tools import show_augment, show_batch
from tests import toy

HEIGHT, WIDTH, PATCH, CAPTION = 8, 16, (4, 4), 26


def batch_and_views():
    """Two lines; the second ends after 9 px. The left half of the first one is masked."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, HEIGHT, WIDTH, 1), dtype=np.uint8)
    batch = {"image": image, "width": np.array([16, 9], np.int32)}
    mask = np.zeros((2, 8), bool)
    mask[0, :4] = True  # tokens go column by column, two rows each
    view = image / np.float32(127.5) - 1
    return batch, {**batch, "view1": view, "view2": -view, "mask": mask}


def test_show_batch_puts_a_line_and_its_views_side_by_side():
    batch, views = batch_and_views()
    picture = show_batch.sheet(batch, {"text": [None, None]}, views, PATCH, rows=5)
    scale, gap = show_batch.SCALE, show_batch.GAP_PX
    wide, high = WIDTH * scale + gap, HEIGHT * scale + gap
    assert picture.dtype == np.uint8 and picture.shape == (CAPTION + 2 * high, 3 * wide, 3)
    # (line, panel) -> the picture in it
    panel = {
        (i, k): picture[CAPTION + i * high :, k * wide :][: HEIGHT * scale, : WIDTH * scale]
        for i in range(2)
        for k in range(3)
    }
    plain = np.kron(batch["image"][0], np.ones((scale, scale, 1), np.uint8))
    assert np.array_equal(panel[0, 0], np.broadcast_to(plain, panel[0, 0].shape))
    seen = WIDTH * scale // 2
    assert np.abs(panel[0, 1][:, seen:].astype(int) - panel[0, 0][:, seen:]).max() <= 1
    assert (panel[0, 1][:, :seen, 2] > panel[0, 1][:, :seen, 0]).all()  # hidden: reddish
    assert np.abs(panel[0, 2].astype(int) - (255 - panel[0, 0].astype(int))).max() <= 1
    for k in range(3):
        assert (panel[1, k][:, 9 * scale :] == show_batch.PADDING).all()


def test_show_batch_writes_labels_and_as_many_rows_as_asked():
    batch, views = batch_and_views()
    batch["label"] = np.zeros((2, 3), np.int32)
    picture = show_batch.sheet(
        batch, {"text": ["abc", None]}, {"mask": views["mask"]}, PATCH, rows=1
    )
    wide, high = (
        WIDTH * show_batch.SCALE + show_batch.GAP_PX,
        HEIGHT * show_batch.SCALE + show_batch.GAP_PX,
    )
    assert picture.shape == (CAPTION + high + CAPTION, wide, 3)
    assert picture[-CAPTION:].min() < 128  # something is written there


@pytest.fixture
def few_operators(monkeypatch):
    """Two operators instead of all: each costs seconds to compile, and tests/augment tries every
    one.
    """
    short = {
        name: {**recipe, "some_of": (0, 1), "operators": recipe["operators"][:1]}
        for name, recipe in (("dig", recipes.DIG), ("lines_light", recipes.LINES_LIGHT))
    }
    monkeypatch.setattr(recipes, "RECIPES", short)
    return {name for recipe in short.values() for name, _ in recipe["operators"]}


@pytest.mark.slow
def test_show_augment_draws_a_row_for_each_operator_and_recipe(tmp_path, capsys, few_operators):
    for name, width in (("long", 90), ("short", 11)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((16, width), 200, np.uint8))
    output = tmp_path / "out" / "sheet.png"
    sizes = ["--height_px=8", "--width_px=24", "--channels=1", "--rows=1"]
    assert show_augment.main([f"--input={tmp_path}", f"--output={output}", *sizes]) == 0, (
        capsys.readouterr().err
    )
    picture = cv2.imread(str(output))
    rows = (
        1 + 2 * len(few_operators) + 3
    )  # the input, both ends of each operator, jitter and two recipes
    label_px, gap_px, padding_px = show_augment.LABEL_PX, 4, 12
    sections = 2 + 3  # lines, operators, jitter and two recipes
    widths = [24, min(24, 6 + padding_px)]  # 11 x 16 px are 6 x 8
    assert picture.shape == (
        rows * (8 + gap_px) + sections * show_augment.HEADING_PX,
        label_px + sum(widths) + 2 * gap_px,
        3,
    )
    assert (picture == show_augment.PADDING[::-1]).all(-1).sum() >= rows * 8 * padding_px
    assert show_augment.main([f"--input={tmp_path / 'out' / 'none'}", f"--output={output}"]) == 1
    assert "There is no image in" in capsys.readouterr().err


def test_every_picture_that_a_method_makes_is_shown():
    """As SSM's: all patches are painted, so none is dark, and the pictures that the networks read
    have other names.
    """
    batch = {"image": np.full((1, 32, 64, 1), 200, np.uint8), "width": np.array([64], np.int32)}
    views = {
        name: np.zeros((1, 32, 64, 1), np.float32) for name in ("mixed", "moved", "view1", "view2")
    }
    views |= {
        "image": batch["image"],
        "colours": np.zeros((1, 32, 64, 2), np.float32),
        "mask": np.ones((1, 16), bool),
    }
    assert [name for name, _ in show_batch.panels(batch, views, (32, 4), 0)] == [
        "image",
        "mixed",
        "moved",
        "view1",
        "view2",
    ]


def test_masks_of_both_views_are_shown():
    """mask bool[B,V,N], as iBOT's: the first column of view1 is dark, the last of view2."""
    batch = {"image": np.full((1, 32, 64, 1), 200, np.uint8), "width": np.array([64], np.int32)}
    views = {name: np.ones((1, 32, 64, 1), np.float32) for name in ("view1", "view2")}
    views["mask"] = np.stack([np.arange(16)[None] == column for column in (0, 15)], 1)
    shown = dict(show_batch.panels(batch, views, (32, 4), 0))
    assert list(shown) == ["image", "view1 (masked)", "view2 (masked)"]
    for picture, columns in zip(list(shown.values())[1:], (range(0, 8), range(120, 128))):
        assert (picture[0, :, 0] < 255).nonzero()[0].tolist() == list(columns)


def test_windows_and_several_rows_of_a_line_are_shown_beside_it():
    """Two lines of 64 px; a method that makes two rows of each (view1) and cuts a window of 16 px
    (view2).
    """
    batch = {"image": np.full((2, 32, 64, 1), 200, np.uint8), "width": np.array([64, 40], np.int32)}
    views = {
        "view1": np.zeros((4, 32, 64, 1), np.float32),
        "view2": np.ones((2, 32, 16, 1), np.float32),
    }
    shown = show_batch.panels(batch, views, (32, 4), 1)
    assert [(name, picture.shape) for name, picture in shown] == [
        ("image", (64, 128, 3)), ("view1", (64, 128, 3)), ("view1", (64, 128, 3)), ("view2", (64, 32, 3)),
    ]  # fmt: skip
    sheet = show_batch.sheet(batch, {}, views, (32, 4), 2)
    assert sheet.shape == (
        26 + 2 * (64 + show_batch.GAP_PX),
        3 * 128 + 32 + 4 * show_batch.GAP_PX,
        3,
    )


def test_amounts_are_written_with_their_units():
    amounts = {
        "right_px": -2.0,
        "degrees": 10.0,
        "invert_above_p": 1.0,
        "sigma": 0.25,
        "kelvin": 3000.0,
    }
    assert list(map(show_augment.in_words, amounts.items())) == [
        *("right -2 px", "10 degrees", "chance of invert_above 1", "sigma 0.25", "3000 K")
    ]


def test_a_sheet_of_a_batch_has_a_title_and_a_legend_of_what_occurs():
    plain = np.full((10, 20, 3), 255, np.uint8)
    both = show_batch.headed(plain, "dig: step 0", masked=True, padded=True)
    assert both.shape == (10 + 2 * CAPTION, show_batch.HEAD_PX, 3)
    assert both[:CAPTION].min() < 128  # the title
    colours = {tuple(pixel) for pixel in both[CAPTION : 2 * CAPTION].reshape(-1, 3).tolist()}
    assert {tuple(show_batch.MASKED), tuple(show_batch.PADDING)} <= colours
    none = show_batch.headed(plain, "recognize: step 0", masked=False, padded=False)
    assert none.shape == (10 + CAPTION, show_batch.HEAD_PX, 3)


def test_show_batch_draws_whatever_the_schedule(lines, toys):
    """A short run of the large preset, as in the help, has more steps of warm-up than steps."""
    config = toy.make_config(lines, 1, **{"optim.warmup_steps": 5000, "optim.min_lr": 1.0})
    experiment = show_batch.opened(config)
    assert experiment.total == 1 and experiment.data.dataset[0][0]["image"].shape[0] == 8
    assert config.optim.warmup_steps == 5000
