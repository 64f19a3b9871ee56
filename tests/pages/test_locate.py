"""pages/locate and pages/order: lines are found where they were laid, and in their order."""

import numpy as np
import pytest

from dig_jax.pages import locate, order, read
from dig_jax.tools.perf import bench_pages
from tests.pages import composed


def placed(found):
    """Polygons on the page as given."""
    back = found.cleaned.back
    return [line.polygon @ back[:, :2].T + back[:, 2] for line in found.lines]


CASES = [
    ("plain", 1, -4.0),
    ("noise", 2, 3.0),
    ("ruled", 1, 1.0),
    ("stains", 1, 0.0),
    ("shadow", 1, -2.0),
    ("all", 2, 2.0),
]


@pytest.mark.parametrize("kind, columns, skew", CASES)
def test_every_line_is_found_once_and_in_order(kind, columns, skew):
    # Rings of stains that join close lines make one of them; the benchmark counts how often.
    gap = (0.3, 0.5) if kind == "stains" else (0.1, 0.4)
    page = composed.page(kind=kind, columns=columns, skew_degrees=skew, gap=gap)
    polygons = placed(read.find("page", page.image))
    counts = bench_pages.localisation(page.polygons, polygons)
    wrong = {name: counts[name] for name in ("missed", "split", "merged", "false")}
    assert not any(wrong.values()), wrong
    assert counts["iou"] / counts["lines"] > 0.75
    numbers = [own[0] for own in bench_pages.owned(page.polygons, polygons)]
    assert numbers == sorted(numbers)


def test_counts_of_localisation_by_hand():
    box = lambda x, y, w, h: np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], float)
    truth = [box(0, 0, 100, 20), box(0, 30, 100, 20), box(0, 60, 100, 20), box(0, 90, 100, 20)]
    found = [
        box(0, 0, 100, 20),  # exact
        box(0, 30, 50, 20),  # half of the second line
        box(60, 30, 40, 20),  # and the rest
        box(0, 60, 100, 50),  # two lines in one
        box(300, 300, 50, 20),  # nothing
    ]
    counts = bench_pages.localisation(truth, found)
    names = ("lines", "polygons", "missed", "split", "merged", "false")
    assert [counts[name] for name in names] == [4, 5, 0, 1, 2, 1]
    assert abs(counts["iou"] - (1 + 0.5 + 0.4 + 0.4)) < 0.12  # drawn polygons include their edge
    assert bench_pages.localisation(truth, [])["missed"] == 4
    assert bench_pages.owned(truth, found) == [[0], [1, 2], [3], []]


def test_what_touches_a_neighbour_is_cut():
    """A descender that meets the next line's ascender makes no line of two."""
    page = composed.page(gap=(0.25, 0.3))
    image = page.image.copy()
    (x, y), bottom = page.polygons[2][0].astype(int), int(page.polygons[3][2][1])
    image[y + 5 : bottom - 5, x + 40 : x + 43] = 0  # one stroke through two lines
    counts = bench_pages.localisation(page.polygons, placed(read.find("page", image)))
    assert not counts["merged"] and not counts["missed"]


def test_a_bent_line_is_made_straight():
    line = composed.lines()[4]
    h, w = line.shape
    image = np.full((h + 60, w + 40), 255, np.uint8)
    for x in range(w):
        top = 20 + round(12 * (2 * x / w - 1) ** 2)
        image[top : top + h, 20 + x] = line[:, x]
    (found,) = locate.locate(image)
    assert len(found.polygon) > 4
    assert found.image.shape[0] < h + 8 < np.ptp(found.polygon[:, 1])
    quad = found.quad(0, 20)
    assert np.ptp(quad[:, 0]) == 20 and (quad[:2, 1] < quad[2:, 1]).all()


def test_a_heading_is_a_line_among_small_ones():
    small, large = composed.page(gap=(0.3, 0.4)).image, composed.lines(120)[3]
    top = np.full((large.shape[0] + 60, small.shape[1]), 255, np.uint8)
    width = min(large.shape[1], small.shape[1] - 60)
    top[30 : 30 + large.shape[0], 50 : 50 + width] = large[:, :width]
    found = read.find("page", np.vstack([top, small]))
    assert len(found.lines) == 11 and found.lines[0].image.shape[0] > 60


def boxes(*rows):
    return np.array(rows, float)


def test_columns_are_read_one_after_the_other():
    heading, footer = (0, 0, 200, 20), (0, 200, 200, 220)
    left = [(0, y, 90, y + 20) for y in (30, 60, 90)]
    right = [(110, y, 200, y + 20) for y in (28, 58, 88)]
    mixed = boxes(right[0], footer, left[2], right[2], left[0], heading, right[1], left[1])
    assert order.reading_order(mixed) == [5, 4, 7, 2, 0, 6, 3, 1]
    assert order.reading_order(mixed, right_to_left=True) == [5, 0, 6, 3, 4, 7, 2, 1]
    numbers = order.blocks(mixed, order.reading_order(mixed))
    assert numbers[4] == numbers[7] == numbers[2] != numbers[0] == numbers[6] == numbers[3]
    assert order.reading_order(np.zeros((0, 4))) == []


def test_pieces_of_one_row_are_read_from_left_to_right():
    row = boxes((0, 0, 40, 20), (60, 1, 100, 21), (0, 30, 100, 50))
    assert order.reading_order(row) == [0, 1, 2]


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_even_page_has_no_line(value):
    assert locate.locate(np.full((300, 300), value, np.uint8)) == []


def by_triples(boxes):
    """spanned[a, b] written out: some line lies between the rows of a and b and spans both."""
    left, top, right, bottom = boxes.T
    spare = order.SPARE * (right - left)
    left, right, middle = left + spare, right - spare, (top + bottom) / 2
    share = lambda a, b: left[a] < right[b] and left[b] < right[a]
    n, before = len(boxes), np.zeros((len(boxes),) * 2, bool)
    for a in range(n):
        for b in range(n):
            low, high = sorted((middle[a], middle[b]))
            spanned = any(low < middle[c] < high and share(a, c) and share(b, c) for c in range(n))
            before[a, b] = share(a, b) and middle[a] < middle[b]
            before[a, b] |= right[a] <= left[b] and not spanned
    waiting, found = set(range(n)), []
    while waiting:
        free = [b for b in waiting if not any(before[a, b] for a in waiting)]
        found.append(min(free or waiting, key=lambda b: (middle[b], b)))
        waiting.remove(found[-1])
    return found


@pytest.mark.parametrize("seed", range(6))
def test_the_order_is_that_of_the_rules_written_out(seed):
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 200, (25, 2))
    found = np.concatenate([start, start + rng.integers(5, 120, (25, 2)) * (1, 0.2)], 1)
    assert order.reading_order(found) == by_triples(found)
