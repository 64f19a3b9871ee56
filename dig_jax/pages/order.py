"""The order in which the lines of a page are read, and the blocks that they form."""

from __future__ import annotations

import numpy as np

SPARE = 0.05  # of a line's width at each end: that much may reach into a neighbouring column
BLOCK_GAP = 1.5  # heights of a line between two lines of one block, at most


def reading_order(boxes: np.ndarray, right_to_left: bool = False) -> list[int]:
    """boxes: f64[n, 4], left, top, right, bottom -> numbers of the boxes, first to last.

    The rules of Breuel ("High performance document layout analysis", 2003). Of two lines that
    share columns of pixels, the upper one is first. Of two that do not, the left one is first,
    unless a line between them spans both.
    """
    if not len(boxes):
        return []
    left, top, right, bottom = np.asarray(boxes, np.float64).T
    if right_to_left:
        left, right = -right, -left
    spare = SPARE * (right - left)
    left, right, middle = left + spare, right - spare, (top + bottom) / 2
    share = (left[:, None] < right) & (left < right[:, None])
    above = middle[:, None] < middle
    before = share & above
    # spanned[a, b]: some line lies between the rows of a and b and spans both. One spanning line at
    # a time, so that a page of n lines takes n^2 of memory.
    spanned = np.zeros_like(share)
    for line in range(len(middle)):
        both = np.flatnonzero(share[line] & (middle != middle[line]))
        upper, lower = both[middle[both] < middle[line]], both[middle[both] > middle[line]]
        spanned[np.ix_(upper, lower)] = spanned[np.ix_(lower, upper)] = True
    before |= (right[:, None] <= left) & ~spanned
    return _sorted(before, middle)


def _sorted(before: np.ndarray, middle: np.ndarray) -> list[int]:
    """Topological order of bool[n, n]; among those that are free, and in circles, the top one."""
    waiting, order = np.ones(len(middle), bool), []
    ahead = before.sum(axis=0)  # waiting lines that come before each
    while waiting.any():
        free = waiting & (ahead == 0)
        chosen = np.flatnonzero(free if free.any() else waiting)
        # Go on below the line just read where that is possible: columns are not mixed.
        next_one = chosen[np.argmin(middle[chosen])]
        order.append(int(next_one))
        waiting[next_one] = False
        ahead -= before[next_one]
    return order


def blocks(boxes: np.ndarray, order: list[int]) -> list[int]:
    """The number of the block of each box, from 0, in reading order; i[n] in the boxes' order.

    A line continues the block of the line read before it where it stands close below it.
    """
    number, found = -1, [0] * len(order)
    for before, line in zip([None, *order[:-1]], order):
        number += before is None or not _continues(boxes[before], boxes[line])
        found[line] = number
    return found


def _continues(one: np.ndarray, other: np.ndarray) -> bool:
    height = max(one[3] - one[1], other[3] - other[1])
    overlap = min(one[2], other[2]) - max(one[0], other[0])
    gap = other[1] - one[3]
    return overlap > 0 and -height < gap < BLOCK_GAP * height
