"""The lines of an evaluation: from all hosts, into the work folder."""

from __future__ import annotations

import base64
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from dig_jax import hosts
from dig_jax.evaluators import scoring
from dig_jax.models.decoders.places import places
from dig_jax.workdir import readings


class Text(NamedTuple):
    """What one head read in one line, and how sure it is of it (0 to 1, None = it does not say).

    characters: [(char, confidence, frame where it was seen)]; of lines that are shown, else None.
    """

    text: str
    confidence: float | None
    characters: list[tuple[str, float, int]] | None = None


class Line(NamedTuple):
    """One record: its number, the source's id, its text in normal form (None = unlabelled), whether
    it could not be decoded, and what every head read.
    """

    index: int
    path: str
    truth: str | None
    unread: bool
    texts: dict[str, Text]

    def pair(self, head: str) -> scoring.Pair:
        """Truth and reading; an unread record was read as nothing."""
        return self.truth or "", "" if self.unread else self.texts[head].text


def over_hosts(lines: list[Line], counts: bool) -> list[Line]:
    """The lines of all hosts in order of their number, the same on each of them.

    counts: False on a host whose rows another host counts, see `sharding.HostShard`.
    """
    if jax.process_count() > 1:
        lines = unpack(hosts.gather(pack(lines if counts else [])))
    return sorted(lines, key=lambda line: line.index)


def pack(lines: Sequence[Line]) -> bytes:
    """Lines as JSON, to travel between hosts."""
    return json.dumps(lines).encode()


def unpack(parts: Iterable[bytes]) -> list[Line]:
    """The lines of several `pack`, one after the other."""
    return [
        Line(*line, {head: Text(*text) for head, text in texts.items()})
        for part in parts
        for *line, texts in json.loads(part)
    ]


def save_readings(path: pathlib.Path, head: str, labelled: Sequence[Line]) -> None:
    """Writes readings-<name>.tsv."""
    edits = scoring.count(line.pair(head) for line in labelled)[:, scoring.COLUMNS.index("edits")]
    readings.write(
        path,
        (
            readings.Reading(
                line.path, *line.pair(head), int(n), None if line.unread else line.texts[head][1]
            )
            for line, n in zip(labelled, edits)
        ),
    )


def placed(characters: Sequence[tuple[str, float, int]], frames: float) -> list[list]:
    """[[char, confidence, left, right]]: the places as shares, 0 to 1, of a line of so many
    frames.
    """
    edges = np.clip(places(np.array([frame for *_, frame in characters], int)) / frames, 0, 1)
    return [
        [char, round(sure, 4), round(left, 4), round(right, 4)]
        for (char, sure, _), (left, right) in zip(characters, edges.tolist())
    ]


def as_png(image: np.ndarray) -> str:
    """u8[H, W], [H, W, 1] or RGB [H, W, 3] -> a PNG in base64."""
    import cv2  # here: bench_step runs without it

    ok, png = cv2.imencode(".png", image[..., ::-1] if image.shape[2:] == (3,) else image)
    if not ok:
        raise OSError(f"could not encode a picture of shape {image.shape}")
    return base64.b64encode(png.tobytes()).decode()


def save_samples(
    folder: pathlib.Path,
    name: str,
    step: int,
    head: str,
    samples: list,
    frame_px: int,
    looked: Sequence[np.ndarray | None],
) -> None:
    """Writes readings-<name>.json; the file appears whole or not at all. frame_px: how wide a frame
    of the encoder is. looked: of `evaluators/attention.py`, one a sample.
    """
    lines = []
    for (line, image), weights in zip(samples, looked):
        read = line.texts[head]
        shown = {"index": line.index, "truth": line.truth or "", "reading": read.text}
        frames = image.shape[1] / frame_px
        if read.characters is not None:
            shown["characters"] = placed(read.characters, frames)
        if weights is not None and weights.size:
            shown |= {"frames": round(frames, 3), "attention": as_png(weights)}
        lines.append(shown | {"png": as_png(image)})
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"readings-{name}.partial"
    content = {"dataset": name, "step": step, "head": head, "lines": lines}
    partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    partial.replace(folder / f"readings-{name}.json")
