"""make_records as the tests of the sources call it, and pictures to feed it."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

import cv2
import numpy as np

from dig_jax.data import records
from dig_jax.data.writer import encode_image
from dig_jax.tools import make_records


class Made(NamedTuple):
    """rows: {id: (split, image bytes, text or None)} in order; reasons of what was left out."""

    rows: dict[str, tuple[str, bytes, str | None]]
    manifest: dict[str, Any]
    reasons: dict[str, int]
    printed: str

    @property
    def texts(self) -> dict[str, str | None]:
        return {id: text for id, (_, _, text) in self.rows.items()}

    @property
    def splits(self) -> dict[str, str]:
        return {id: split for id, (split, _, _) in self.rows.items()}

    def image(self, id: str) -> np.ndarray:
        return pixels(self.rows[id][1])


def make(output: Any, source: str, *flags: str, check: bool = True) -> Made:
    """Runs make_records --source=SOURCE; AssertionError with its sentence where it refuses."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = make_records.main(
            [f"--source={source}", f"--output={output}", "--workers=0", *flags]
        )
    assert not check or code == 0, err.getvalue()
    if code:
        return Made({}, {}, {}, err.getvalue())
    manifest = json.loads((output / "records.json").read_text("utf-8"))
    rows = {}
    for split, entry in manifest["splits"].items():
        for record in records.open_sets(f"{output}@{split}").read(range(entry["count"])):
            assert record.error is None and record.id not in rows
            rows[record.id] = split, record.image, record.text
    return Made(rows, manifest, manifest["skipped"]["reasons"], out.getvalue())


def refused(output: Any, source: str, *flags: str) -> str:
    """The one sentence of a refusal."""
    made = make(output, source, *flags, check=False)
    assert not made.rows and made.printed.count("\n") == 1, made.printed
    assert not output.exists()
    return made.printed.strip()


def picture(seed: int = 0, width: int = 60, height: int = 24) -> np.ndarray:
    """u8[height, width] with strokes that differ from seed to seed."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width), 220, np.uint8)
    for x in rng.integers(2, max(3, width - 4), 5):
        image[height // 4 : -height // 4, x : x + 2] = int(rng.integers(0, 90))
    return image


def png(seed: int = 0, width: int = 60, height: int = 24) -> bytes:
    return encode_image(picture(seed, width, height), "png")


def pixels(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
