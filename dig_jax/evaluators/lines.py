"""The lines of an evaluation: from all hosts, into the work folder."""

from __future__ import annotations

import base64
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax

from dig_jax import hosts
from dig_jax.evaluators import scoring
from dig_jax.workdir import readings


class Text(NamedTuple):
    """What one head read in one line, and how sure it is of it (0 to 1, None = it does not say)."""

    text: str
    confidence: float | None


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


def save_samples(folder: pathlib.Path, name: str, step: int, head: str, samples: list) -> None:
    """Writes readings-<name>.json; the file appears whole or not at all."""
    import cv2  # here: bench_step runs without it

    lines = []
    for line, image in samples:
        ok, png = cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)
        if not ok:
            raise OSError(
                f"could not encode the picture of record {line.index} of {name}, "
                f"shape {image.shape}"
            )
        png = base64.b64encode(png.tobytes()).decode()
        reading = line.texts[head].text
        lines.append(
            {"index": line.index, "truth": line.truth or "", "reading": reading, "png": png}
        )
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"readings-{name}.partial"
    content = {"dataset": name, "step": step, "head": head, "lines": lines}
    partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    partial.replace(folder / f"readings-{name}.json")
