"""How well a recogniser reads: character and word error rate and word accuracy, over every record
exactly once.

    eval/<dataset>/cer                  edits between truth and reading / characters of the truth, sums over all records
    eval/<dataset>/wer                  the same over words, split at whitespace
    eval/<dataset>/word_accuracy        share of records read without any error. A record is a word in sets of words and
                                        a whole line in sets of lines, where it is line accuracy
    eval/<dataset>/cer_alnum,           the usual rule of scene text (methods.md 14.4): only 0-9, a-z, A-Z, lower case.
        word_accuracy_alnum             It drops accents and punctuation, so it never stands alone
    eval/<dataset>/unknown_chars        characters of the truth that the charset lacks: no reading can get them right
    eval/<dataset>/lines                records that count in the rates above
    eval/<dataset>/unread               records that cannot be decoded, named in the log: an empty reading in the rates
                                        where the text is known, only this count where it is lost, too (a damaged shard)
    eval/<dataset>/unlabelled           readable records without a text: in none of the rates
    eval/<dataset>/cer_even, cer_odd    cer over the records of even and of odd number, of validation sets: a step chosen on
                                        one half is judged on the other (`workdir/read.py`)
    eval/cer                            mean cer of the validation sets: what "best checkpoint" can go by; no test set counts

The rates are quotients of sums, not means of the lines' rates, so they do not depend on batches,
devices or hosts. They are strict: truth and reading are compared as they are, the truth in its
normal form, as in training (`text.normalize`). A rate can pass 1 where a reading is longer than its
truth. Truths without any (alphanumeric) character: 0 edits of 0 characters are 0.

Several heads (a sweep, `methods/recognize.py`): `eval/<dataset>/cer@<head>` for each. Everything
else is of one head: on a validation set of the head with the lowest CER there, on a test set of the
head with the lowest mean CER over the validation sets. A test set alone cannot choose.

WORKDIR/pictures/readings-<dataset>.json: {"dataset", "step", "head", "lines": [{"index", "truth",
"reading", "png"}]}, png in base64; records at even distances through the set, not picked.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping

import cv2
import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from rapidfuzz.distance import Levenshtein

from dig_jax import hosts, sharding
from dig_jax.data import pipeline, records
from dig_jax.text import Charset, alphanumeric, normalize
from dig_jax.train.feature_cache import FeatureCache
from dig_jax.workdir.datasets import may_choose, named_sets


@dataclasses.dataclass
class Score:
    """Sums over lines; two scores add up number by number."""

    lines: int = 0
    exact: int = 0
    exact_alnum: int = 0
    edits: int = 0
    chars: int = 0
    edits_alnum: int = 0
    chars_alnum: int = 0
    edits_words: int = 0
    words: int = 0
    edits_even: int = 0
    chars_even: int = 0

    def add(self, truth: str, reading: str, even: bool = False) -> None:
        """One line; even: whether its record has an even number."""
        self.lines += 1
        self.exact += truth == reading
        edits = Levenshtein.distance(truth, reading)
        self.edits += edits
        self.chars += len(truth)
        self.edits_even += edits * even
        self.chars_even += len(truth) * even
        words = truth.split()
        self.edits_words += Levenshtein.distance(words, reading.split())
        self.words += len(words)
        truth, reading = alphanumeric(truth), alphanumeric(reading)
        self.exact_alnum += truth == reading
        self.edits_alnum += Levenshtein.distance(truth, reading)
        self.chars_alnum += len(truth)

    def rates(self) -> dict[str, float]:
        return {
            "cer": self.edits / max(self.chars, 1),
            "wer": self.edits_words / max(self.words, 1),
            "word_accuracy": self.exact / max(self.lines, 1),
            "cer_alnum": self.edits_alnum / max(self.chars_alnum, 1),
            "word_accuracy_alnum": self.exact_alnum / max(self.lines, 1),
        }

    def halves(self) -> dict[str, float]:
        """Character error rates of the records of even and of odd number."""
        odd_edits, odd_chars = self.edits - self.edits_even, self.chars - self.chars_even
        return {
            "cer_even": self.edits_even / max(self.chars_even, 1),
            "cer_odd": odd_edits / max(odd_chars, 1),
        }


@dataclasses.dataclass
class Counts:
    """What was met on the way: `rows` every record once, whatever became of it."""

    rows: int = 0
    unread: int = 0
    unlabelled: int = 0
    unknown_chars: int = 0


class Evaluator:
    """datasets: {name in the metrics: records spec}, or one spec of which every part is a data set
    of its own, or None: the validation split of every part of data["train"] (`named_sets`).
    batch_size: over all devices, rounded up to a multiple of them. pictures: sample lines to save a
    data set. Raises ValueError and FileNotFoundError for data sets that are not there or empty.
    """

    def __init__(
        self,
        *,
        method,
        mesh: Mesh,
        workdir,
        data: Mapping,
        datasets: Mapping[str, str] | str | None = None,
        batch_size: int = 64,
        pictures: int = 12,
    ):
        self.charset: Charset = method.charset
        self.mesh = mesh
        self.folder = pathlib.Path(workdir) / "pictures"
        self.predict = jax.jit(method.predict, out_shardings=sharding.batch_sharding(mesh))
        self.pictures = pictures
        self.named: set[str] = set()  # errors already logged
        self.workers = data.get("workers", "auto")
        batch_size += -batch_size % mesh.size
        specs = named_sets(datasets, data)
        self.validation = [name for name, spec in specs.items() if may_choose(spec)]
        others = [name for name in specs if name not in self.validation]
        self.sets = {
            name: open_set(specs[name], batch_size, data, mesh)
            for name in [*self.validation, *others]  # a head is chosen before a test set is read
        }
        cached = method.frozen_features and jax.process_count() == 1
        self.features = {name: FeatureCache(method, mesh) for name in self.sets} if cached else {}

    def run(self, state, step) -> dict[str, float]:
        metrics: dict[str, float] = {}
        cers: list[dict[str, float]] = []  # {head: CER} of each validation set
        for name in self.sets:
            scores, counts, samples = self.score(name, state)
            by_head = {head: score.rates()["cer"] for head, score in scores.items()}
            cers += [by_head] if name in self.validation else []
            head = lowest([by_head] if name in self.validation or len(by_head) == 1 else cers)
            figures = self.figures(name, head, scores, counts)
            metrics |= {f"eval/{name}/{key}": float(value) for key, value in figures.items()}
            if hosts.is_lead():
                samples = sorted(samples, key=lambda sample: sample[0])[: self.pictures]
                save_samples(self.folder, name, int(step), head, samples)
        if self.validation:
            means = [metrics[f"eval/{name}/cer"] for name in self.validation]
            metrics["eval/cer"] = sum(means) / len(means)
        return metrics

    def score(self, name: str, state) -> tuple[dict[str, Score], Counts, list]:
        """Sums of one data set for each head, and sample lines. Raises RuntimeError if any record
        was met twice or not at all.
        """
        _, size = self.sets[name]
        scores: dict[str, Score] = {}
        counts, samples = Counts(), []
        shown = set(
            np.linspace(0, size - 1, min(size, self.pictures * jax.process_count()))
            .astype(int)
            .tolist()
        )
        for host, image, widths, readings in self.readings(name, state):
            self.log(host["errors"])
            for head in readings:
                scores.setdefault(
                    head, Score()
                )  # also where this host has only rows that fill the batch
            for row, index in enumerate(host["index"].tolist()):
                if index < 0:  # only fills the batch
                    continue
                line = {head: texts[row] for head, texts in readings.items()}
                truth = host["text"][row]
                truth = None if truth is None else normalize(truth)
                self.count(counts, scores, truth, line, not widths[row], index % 2 == 0)
                if index in shown:
                    samples.append((index, truth, line, image[row, :, : max(widths[row], 1)]))
        scores, counts = over_hosts(scores, counts, self.mesh)
        if counts.rows != size:
            raise RuntimeError(
                f"{counts.rows} records of {name} were evaluated but it holds {size}: a pipeline bug"
            )
        return scores, counts, samples

    def readings(
        self, name, state
    ) -> Iterator[tuple[dict, np.ndarray, np.ndarray, dict[str, list[str]]]]:
        """(host, images u8[b,H,W,C], width i32[b] with 0 in rows that are not valid, {head:
        readings}) of this host's rows.

        One batch ahead: the device reads while the host decodes images.
        """
        waiting = None
        with pipeline.iterate(self.sets[name][0], 0, workers=self.workers) as batches:
            for batch, host in batches:
                told = (
                    self.features[name](state.params, batch, host)
                    if name in self.features
                    else batch
                )
                predicted = self.predict(
                    state.params, state.mutable, sharding.to_global(told, self.mesh)
                )
                if len(predicted) > 1 and not self.validation:
                    raise ValueError(
                        f"{len(predicted)} heads and no validation set to choose one by: add one "
                        "to config.evals.recognition.datasets, as in PATH@validation,PATH@test"
                    )
                if waiting is not None:
                    yield self.as_text(*waiting)
                waiting = batch, host, predicted
        if waiting is not None:
            yield self.as_text(*waiting)

    def as_text(self, batch, host, predicted):
        texts = {}
        for head, frames in predicted.items():
            rows = zip(local_rows(frames["ids"]), local_rows(frames["length"]))
            texts[head] = [
                self.charset.decode(self.charset.ctc_collapse(ids, int(length)))
                for ids, length in rows
            ]
        return host, batch["image"], np.where(batch["valid"], batch["width"], 0), texts

    def count(
        self,
        counts: Counts,
        scores: dict[str, Score],
        truth: str | None,
        line: dict[str, str],
        unread: bool,
        even: bool,
    ) -> None:
        """Adds one record: `line` is its reading by every head."""
        counts.rows += 1
        counts.unread += unread
        counts.unlabelled += truth is None and not unread
        counts.unknown_chars += len(self.charset.encode(truth)[1]) if truth is not None else 0
        for head, reading in line.items():
            if truth is not None:
                scores[head].add(truth, "" if unread else reading, even)

    def log(self, errors: list[str]) -> None:
        for error in errors:
            if error not in self.named:
                self.named.add(error)
                logging.warning("evaluation: counted as unread: %s", error)

    def figures(self, name: str, head: str, scores: dict[str, Score], counts: Counts) -> dict:
        """The metrics of one data set: those of `head`, and the CER of every head."""
        if not scores[head].lines:
            raise ValueError(
                f"none of the {counts.rows} records of {name} has a text: "
                "evaluate on labelled records"
            )
        result: dict[str, float] = {}
        for other, score in scores.items():
            cers = {"cer": score.rates()["cer"]}
            cers |= score.halves() if name in self.validation else {}
            if len(scores) > 1:
                result |= {f"{key}@{other}": value for key, value in cers.items()}
            if other == head:
                result |= cers | score.rates()
        return result | {
            "unknown_chars": counts.unknown_chars,
            "lines": scores[head].lines,
            "unread": counts.unread,
            "unlabelled": counts.unlabelled,
        }


def lowest(cers: list[dict[str, float]]) -> str:
    """The head with the lowest mean of {head: CER} over data sets; of equals the first by name."""
    return min(cers[0], key=lambda head: (sum(by_head[head] for by_head in cers), head))


def open_set(spec: str, batch_size: int, data: Mapping, mesh: Mesh):
    """(evaluation data set of this host, number of records). An empty one is a ValueError."""
    mixture = records.open_sets(spec)
    if not len(mixture):
        raise ValueError(
            f"{spec} holds no record to evaluate on: name another split, as in PATH@validation"
        )
    dataset = pipeline.evaluation(  # no charset: texts stay on the host, and unlabelled records are met and counted
        mixture,
        batch_size=batch_size,
        **sharding.host_shard(mesh).of_data(),
        **{
            name: data[name]
            for name in ("height_px", "channels", "max_pixels", "squeeze_px", "contrast")
            if name in data
        },
    )
    return dataset, len(mixture)


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of a batch-sharded array that lie on this host, in order; copies on several devices
    count once.
    """
    if array.is_fully_addressable:
        return np.asarray(array)
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def over_hosts(
    scores: dict[str, Score], counts: Counts, mesh: Mesh
) -> tuple[dict[str, Score], Counts]:
    """Sums of all hosts, the same on each of them."""
    by_head = {head: dataclasses.asdict(score) for head, score in scores.items()}
    sums = hosts.sum_hosts(
        {"counts": dataclasses.asdict(counts), "scores": by_head}, sharding.host_shard(mesh).counts
    )
    return {head: Score(**score) for head, score in sums["scores"].items()}, Counts(
        **sums["counts"]
    )


def save_samples(folder: pathlib.Path, name: str, step: int, head: str, samples: list) -> None:
    """Writes readings-<name>.json; the file appears whole or not at all."""
    lines = []
    for index, truth, line, image in samples:
        ok, png = cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)
        if not ok:
            raise OSError(
                f"could not encode the picture of record {index} of {name}, shape {image.shape}"
            )
        png = base64.b64encode(png.tobytes()).decode()
        lines.append({"index": index, "truth": truth or "", "reading": line[head], "png": png})
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"readings-{name}.partial"
    content = {"dataset": name, "step": step, "head": head, "lines": lines}
    partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    partial.replace(folder / f"readings-{name}.json")
