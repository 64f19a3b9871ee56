"""Source: captchas, drawn with the package captcha (the extra captcha).

    --splits=train=4000,validation=400 --seed=0 --characters=0123456789 --min_chars=4 --max_chars=6
    --styles=plain,dense,tilted,bare,dark    the looks to draw from

Captcha i of a split is a function of (seed, split, i) and the flags, whatever the number of
processes. The package draws from the system's randomness; here it draws from a seeded generator.
"""

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dig_jax.data.examples import Example, Report
from dig_jax.data.extras import need
from dig_jax.data.images import Store
from dig_jax.data.split_names import USUAL, sizes_of
from dig_jax.data.typeset import bundled_fonts

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@dataclasses.dataclass(frozen=True)
class Style:
    """rotate_deg: of a character, at most. warp: share of its size. dots, curves: how many. dark:
    light characters on a dark ground. fonts: others than the package's own."""

    rotate_deg: int = 30
    warp: float = 0.3
    dots: int = 30
    curves: int = 1
    dark: bool = False
    fonts: bool = False


STYLES = {
    "plain": Style(),
    "dense": Style(dots=120, curves=3),
    "tilted": Style(rotate_deg=50, warp=0.5, fonts=True),
    "bare": Style(rotate_deg=8, warp=0.1, dots=0, curves=0, fonts=True),
    "dark": Style(dark=True, curves=2, fonts=True),
}


def examples(
    *,
    report: Report,
    splits: str = USUAL,
    count: int | None = None,
    seed: int = 0,
    characters: str = CHARACTERS,
    min_chars: int = 4,
    max_chars: int = 6,
    styles: str = ",".join(STYLES),
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text, "split/0000000 style"). ValueError for what a user can
    mend, RuntimeError where the package is missing."""
    need("captcha.image", "captcha")
    chosen = [name.strip() for name in styles.split(",") if name.strip()]
    if not chosen or not set(chosen) <= set(STYLES):
        raise ValueError(f"--styles is '{styles}', but must be of {', '.join(STYLES)}.")
    if not 1 <= min_chars <= max_chars <= 20:
        raise ValueError(
            f"min_chars is {min_chars}, max_chars {max_chars}; 1 <= min_chars <= max_chars <= 20 "
            "must hold."
        )
    letters = "".join(dict.fromkeys(characters))
    if not letters or any(not c.isprintable() or c.isspace() for c in letters):
        raise ValueError(f"--characters is '{characters}', but must be letters, digits, signs.")
    sizes = sizes_of(splits, count)
    report.total = sum(sizes.values())
    report.about.update(
        source=f"captchas drawn with the package captcha, seed {seed}, styles {', '.join(chosen)}",
        licence="generated",
    )
    make = Maker(letters, (min_chars, max_chars), tuple(chosen), seed, store or Store())
    jobs = ((split, index) for split, size in sizes.items() for index in range(size))
    yield from report.work(make, jobs, workers)


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes captcha `index` of `split`, a pure function of that pair and its fields. Pickles."""

    letters: str
    chars: tuple[int, int]
    styles: tuple[str, ...]
    seed: int
    store: Store

    def __call__(self, job: tuple[str, int]) -> list[Example]:
        """One (split, encoded image, text, id)."""
        split, index = job
        rng = np.random.default_rng([self.seed, zlib.crc32(split.encode()), index])
        name = self.styles[int(rng.integers(len(self.styles)))]
        length = int(rng.integers(self.chars[0], self.chars[1] + 1))
        text = "".join(self.letters[i] for i in rng.integers(len(self.letters), size=length))
        kept, _ = self.store(draw(rng, text, STYLES[name]))
        return [(split, kept, text, f"{split}/{index:07d} {name}")]


def draw(rng: np.random.Generator, text: str, style: Style) -> np.ndarray:
    """u8[60, w, 3], the picture of a text."""
    image = need("captcha.image", "captcha")
    fonts = [str(file) for file in bundled_fonts()] if style.fonts else None
    width = 40 + 30 * len(text)
    drawer = image.ImageCaptcha(width, 60, fonts=fonts, font_sizes=(38, 44, 50))
    drawer.character_rotate = -style.rotate_deg, style.rotate_deg
    drawer.character_warp_dx = drawer.character_warp_dy = 0.0, style.warp
    light = tuple(int(v) for v in rng.integers(215, 256, 3))
    deep = tuple(int(v) for v in rng.integers(0, 130, 3))
    ground, ink = (deep, light) if style.dark else (light, deep)
    before, image.secrets = image.secrets, Seeded(rng)
    try:
        picture = drawer.create_captcha_image(text, (*ink, 255), ground)
        drawer.create_noise_dots(picture, ink, number=style.dots)
        for _ in range(style.curves):
            drawer.create_noise_curve(picture, ink)
    finally:
        image.secrets = before
    return np.asarray(picture.convert("RGB"))


class Seeded:
    """What the package takes from Python's `secrets`, from a seeded generator."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def randbelow(self, limit: int) -> int:
        return int(self.rng.integers(limit))

    def randbits(self, bits: int) -> int:
        return int(self.rng.integers(1 << bits))

    def choice(self, values: Sequence[Any]) -> Any:
        return values[self.randbelow(len(values))]
