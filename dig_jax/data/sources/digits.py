"""Source: numbers composed of handwritten digits, 1,797 of 13 writers, that scikit-learn brings.

    --splits=train=4000,validation=400 --seed=0 --min_chars=4 --max_chars=6

The digits are those of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI
1998 (CC BY 4.0): 8 x 8 px, here enlarged. Each split has its own run of them, so no picture of a
digit stands in two splits. The extra is digits.

Number i of a split is a function of (seed, splits, i) and the flags, whatever the number of
processes.
"""

import dataclasses
import zlib
from collections.abc import Iterator

import cv2
import numpy as np

from dig_jax.data.examples import Example, Report
from dig_jax.data.extras import need
from dig_jax.data.images import Store
from dig_jax.data.split_names import USUAL, sizes_of

HEIGHT_PX, MARGIN_PX = 48, 4
TRAIN_SHARE = 0.6  # of the digits; the other splits have equal parts of the rest


def examples(
    *,
    report: Report,
    splits: str = USUAL,
    count: int | None = None,
    seed: int = 0,
    min_chars: int = 4,
    max_chars: int = 6,
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text, "split/0000000"). ValueError for what a user can mend,
    RuntimeError where the package is missing."""
    bundled = need("sklearn.datasets", "digits").load_digits()
    if not 1 <= min_chars <= max_chars <= 20:
        raise ValueError(
            f"min_chars is {min_chars}, max_chars {max_chars}; 1 <= min_chars <= max_chars <= 20 "
            "must hold."
        )
    sizes = sizes_of(splits, count)
    if len(sizes) > 20:
        raise ValueError(f"--splits names {len(sizes)} splits; the digits suffice for 20.")
    report.total = sum(sizes.values())
    report.about.update(
        source=f"numbers of handwritten digits (UCI, Alpaydin and Kaynak 1998), seed {seed}",
        licence="CC BY 4.0",
    )
    ink = (bundled.images / bundled.images.max()).astype(np.float32)
    make = Maker(ink, bundled.target, runs(list(sizes), len(ink)), (min_chars, max_chars), seed,
                 store or Store())  # fmt: skip
    jobs = ((split, index) for split, size in sizes.items() for index in range(size))
    yield from report.work(make, jobs, workers)


def runs(splits: list[str], count: int) -> dict[str, tuple[int, int]]:
    """Each split's own digits, [first, last): runs, since neighbours may come from one writer."""
    rest = [name for name in splits if name != "train"]
    first = int(count * TRAIN_SHARE) if rest and "train" in splits else 0
    bounds = {} if "train" not in splits else {"train": (0, first or count)}
    edges = np.linspace(first, count, len(rest) + 1).astype(int).tolist()
    return bounds | dict(zip(rest, zip(edges, edges[1:])))


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes number `index` of `split`, a pure function of that pair and its fields. Pickles."""

    ink: np.ndarray
    """f32[digits, 8, 8], 1 is ink."""
    target: np.ndarray
    """i64[digits], what each says."""
    runs: dict[str, tuple[int, int]]
    chars: tuple[int, int]
    seed: int
    store: Store

    def __call__(self, job: tuple[str, int]) -> list[Example]:
        """One (split, encoded image, text, id)."""
        split, index = job
        rng = np.random.default_rng([self.seed, zlib.crc32(split.encode()), index])
        length = int(rng.integers(self.chars[0], self.chars[1] + 1))
        chosen = rng.integers(*self.runs[split], size=length)
        kept, _ = self.store(draw(rng, self.ink[chosen]))
        return [(split, kept, "".join(map(str, self.target[chosen])), f"{split}/{index:07d}")]


def draw(rng: np.random.Generator, ink: np.ndarray) -> np.ndarray:
    """u8[48, w, 3], the digits f32[n, 8, 8] one after the other: dark on paper, of sizes, heights
    and gaps of their own."""
    boxes = []
    for digit in ink:
        columns = np.flatnonzero(digit.any(0))
        digit = digit[:, columns[0] : columns[-1] + 1]
        height = int(rng.integers(28, HEIGHT_PX - 2 * MARGIN_PX + 1))
        width = round(digit.shape[1] * height / 8 * rng.uniform(0.8, 1.1))
        top = int(rng.integers(MARGIN_PX, HEIGHT_PX - MARGIN_PX - height + 1))
        drawn = cv2.resize(digit, (width, height), interpolation=cv2.INTER_CUBIC)
        gap = int(rng.integers(0, 9))
        boxes.append(np.pad(drawn, ((top, HEIGHT_PX - top - height), (0, gap))))
    line = np.pad(np.concatenate(boxes, 1), ((0, 0), (MARGIN_PX, MARGIN_PX))).clip(0, 1)
    paper = rng.uniform(190, 250)
    grey = paper - line * (paper - rng.uniform(20, 90)) + rng.normal(0, 4, line.shape)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, 2)
