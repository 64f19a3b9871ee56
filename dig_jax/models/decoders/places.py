"""From the frames at which a decoder saw characters to where those stand in the line."""

import numpy as np


def places(frames: np.ndarray) -> np.ndarray:
    """Frames at which characters were seen, i[n] -> where each begins and ends, f64[n, 2].

    A decoder sees a character in a frame or two. So two neighbours meet halfway between their
    frames, and the first and last reach as far outwards as inwards. A frame before that of the
    character before it, as attention may look back, counts as that one.
    """
    if not len(frames):
        return np.zeros((0, 2))
    peaks = np.maximum.accumulate(frames)
    centre = peaks + 0.5
    half = np.diff(centre) / 2 if len(peaks) > 1 else np.array([1.0])
    middle = centre[: len(half)] + half if len(peaks) > 1 else np.zeros(0)
    edges = np.concatenate([[centre[0] - half[0]], middle, [centre[-1] + half[-1]]])
    return np.stack([edges[:-1], edges[1:]], axis=1)
