"""pages/clean: every stage mends its fault and leaves the letters."""

import cv2
import numpy as np
import pytest

from dig_jax.pages import clean, compose
from tests.pages import composed


@pytest.fixture(scope="module")
def page():
    """u8[h, w]: a level page without faults."""
    return composed.page(gap=(0.3, 0.5)).image


def ink(image):
    return image < 128


def kept(image, page):
    """Share of the letters' ink that is still dark."""
    return float(ink(image)[ink(page)].mean())


@pytest.mark.parametrize("degrees", [-4.3, 0.0, 1.7, 5.0])
def test_the_skew_is_found(degrees):
    image = composed.page(skew_degrees=degrees).image
    assert abs(clean.skew_degrees(image) - degrees) < 0.2


def test_places_are_traced_back(page):
    """A dot of the new picture lies where the matrix says it lay on the old one."""
    dotted = np.full_like(page[:301, :401], 255)
    cv2.circle(dotted, (120, 80), 5, 0, -1)
    turns = [clean.quarter(dotted, n) for n in range(4)] + [clean.rotate(dotted, 7.0)]
    for image, matrix in turns:
        y, x = (float(axis.mean()) for axis in np.nonzero(image < 128))
        assert np.abs(matrix @ (x, y, 1) - (120, 80, 1)).max() < 0.6
    assert clean.quarter(dotted, 1)[0].shape == (401, 301)


def test_white_on_black_is_turned_round(page):
    assert (clean.polarity(255 - page)[0] == page).all()
    assert (clean.polarity(page)[0] == page).all()


def test_a_shadow_is_lifted(page):
    shade = np.linspace(0.3, 1.0, page.shape[1])[None, :]
    image, _ = clean.illumination((page * shade).astype(np.uint8))
    assert np.percentile(image[~ink(page)], 10) > 235
    assert kept(image, page) > 0.93  # edges of letters are lifted with the paper


def test_specks_go_and_dots_stay(page):
    rng = np.random.default_rng(0)
    specks = rng.random(page.shape) < 0.0005
    specks &= ~cv2.dilate(ink(page).astype(np.uint8), np.ones((5, 5))).astype(bool)
    image, _ = clean.despeckle(np.where(specks, np.uint8(0), page))
    assert specks.sum() > 50 and not ink(image)[specks].any()
    assert kept(image, page) == 1.0


def test_a_black_border_goes(page):
    framed = cv2.copyMakeBorder(page, 60, 0, 90, 0, cv2.BORDER_CONSTANT, value=10)
    image, _ = clean.border(framed)
    assert not ink(image[:, :80]).any() and not ink(image[:50]).any()
    assert kept(image[60:, 90:], page) == 1.0


def test_a_line_that_fills_its_picture_is_no_border():
    for line in composed.lines():
        tight = line[:, np.ptp(line, axis=0) > 0]
        assert (clean.border(tight)[0] == tight).all()


def test_rules_go_and_strokes_across_them_stay(page):
    ruled, rows = page.copy(), range(40, page.shape[0] - 10, 31)
    for row in rows:
        ruled[row : row + 2] = np.minimum(ruled[row : row + 2], 120)
    image, _ = clean.rules(ruled)
    alone = ink(ruled) & ~cv2.dilate(ink(page).astype(np.uint8), np.ones((5, 5))).astype(bool)
    assert ink(image)[alone].mean() < 0.02
    assert kept(image, page) > 0.97


def test_a_page_without_rules_is_left_alone(page):
    assert kept(clean.rules(page)[0], page) > 0.999


def test_a_short_stroke_at_the_edge_is_no_rule(page):
    """A picture narrower than a rule has none, and one that starts at its edge must be as long."""
    part = page[:, 50:170].copy()
    part[100:102, :20] = 0
    assert (clean.rules(part)[0] == part).all()


def test_a_page_on_its_side_is_turned(page):
    assert clean.orientation(page)[0].shape == page.shape
    side = np.ascontiguousarray(np.rot90(page))
    image, matrix = clean.orientation(side)
    assert (image == page).all()
    assert clean.orientation(composed.page(columns=2, skew_degrees=4).image)[1] is clean.SAME


def test_stages_can_be_left_out_and_kept(page):
    cleaned = clean.clean(page, skip=["deskew", "rules"], keep_steps=True)
    assert list(cleaned.steps) == [n for n in clean.STAGES if n not in ("deskew", "rules")]
    nothing = clean.clean(page, skip=list(clean.STAGES))
    assert (nothing.image == page).all() and (nothing.back == np.eye(3)[:2]).all()


def test_composed_pages_are_the_same_again():
    one, other = composed.page(kind="all", columns=2), composed.page(kind="all", columns=2)
    assert (one.image == other.image).all() and (one.polygons == other.polygons).all()
    with pytest.raises(ValueError, match="kind is 'odd': choose one of plain"):
        composed.page(kind="odd")
    assert set(compose.HARD) <= set(compose.KINDS)
