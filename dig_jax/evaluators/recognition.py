"""How well a recogniser reads: character and word error rate and word accuracy, over every record
exactly once.

    eval/<dataset>/cer, wer,            rates of `evaluators/scoring.py` under the rule `raw`. A
        word_accuracy, one_minus_ned    record is a word in sets of words and a line in sets of
                                        lines, so there word_accuracy is line accuracy
    eval/<dataset>/cer_alnum,           the same under the rule `waics`, the usual one of scene
        word_accuracy_alnum             text. It drops accents and punctuation, so it never stands
                                        alone
    eval/<dataset>/unknown_chars        characters of the truth that the charset lacks: no reading
                                        can get them right; named once on the terminal
    eval/<dataset>/lines                records that count in the rates above
    eval/<dataset>/unread               records that cannot be decoded, named in the log: an empty
                                        reading in the rates where the text is known, only this
                                        count where it is lost, too (a damaged shard)
    eval/<dataset>/unlabelled           readable records without a text: in none of the rates
    eval/<dataset>/cer_even, cer_odd    cer over the records of even and of odd number, of
                                        validation sets: a step chosen on one half is judged on the
                                        other (`workdir/read.py`)
    eval/cer, eval/word_accuracy        means over the validation sets; cer is what "best
                                        checkpoint" can go by. No test set counts
    eval/cer_weighted,                  of several validation sets: every line alike, not every set
        word_accuracy_weighted

The rates are quotients of sums, not means of the lines' rates, so they do not depend on batches,
devices or hosts. A rate can pass 1 where a reading is longer than its truth.

Several heads (a sweep, `methods/recognize.py`): `eval/<dataset>/cer@<head>` for each. Everything
else is of one head. On a validation set it is the head with the lowest CER there, on a test set the
head with the lowest mean CER over the validation sets. A test set alone cannot choose.

WORKDIR/readings-<dataset>.tsv: every labelled record with its reading (`workdir/readings.py`), of
the evaluation that validation chooses so far, so of the one that the tables report.
WORKDIR/pictures/readings-<dataset>.json: {"dataset", "step", "head", "lines": [{"index", "truth",
"reading", "characters", "png"}]}, png in base64; records at even distances through the set, not
picked, of the last evaluation. characters: [[char, confidence, left, right]], where each was seen,
as shares of the picture's width; of the reading before a lexicon mends it. Of a reader that looks
around also "attention", a PNG u8[T, S]: how much character t looked at frame s, 255 being the most
of its row; "frames": how many of them the picture is wide.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from dig_jax import hosts, sharding
from dig_jax.data import pipeline, records
from dig_jax.evaluators import scoring
from dig_jax.evaluators.as_texts import Texts
from dig_jax.evaluators.attention import Attention
from dig_jax.evaluators.lines import Line, Text, over_hosts, save_readings, save_samples
from dig_jax.text import Charset, normalize
from dig_jax.train.feature_cache import FeatureCache
from dig_jax.workdir import metrics as log
from dig_jax.workdir import readings
from dig_jax.workdir.datasets import may_choose, named_sets
from dig_jax.workdir.read import Run, lowest

PLATEAU = 0.9  # share of equal readings from which on a reader counts as stuck


class Evaluator:
    """datasets: {name in the metrics: records spec}, or one spec of which every part is a data set
    of its own. None: the validation split of every part of data["train"] (`named_sets`).
    batch_size: over all devices, rounded up to a multiple of them. pictures: sample lines to save a
    data set. beam, lm, lm_weight, lm_bonus, lexicon, texts: see `Texts`. Raises ValueError and
    FileNotFoundError for data sets that are not there or empty.
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
        beam: int = 1,
        lm: int = 0,
        lm_weight: float = 0.2,
        lm_bonus: float = 0.4,
        lexicon: int = 0,
        texts: str | None = None,
    ):
        self.charset: Charset = method.charset
        self.mesh = mesh
        self.workdir = pathlib.Path(workdir)
        search = {"beam": beam, "lm": lm, "lm_weight": lm_weight, "lm_bonus": lm_bonus}
        self.texts = Texts(method, data, lexicon=lexicon, texts=texts, **search)
        self.predict = jax.jit(self.texts.predict, out_shardings=sharding.batch_sharding(mesh))
        self.pictures, self.frame_px = pictures, method.encoder.patch[1]
        self.attention = Attention(method, mesh, data)
        self.named: set[str] = set()  # what was told already
        self.workers = data.get("workers", "auto")
        batch_size += -batch_size % mesh.size
        self.specs = named_sets(datasets, data)
        self.validation = [name for name, spec in self.specs.items() if may_choose(spec)]
        others = [name for name in self.specs if name not in self.validation]
        self.sets = {
            name: open_set(self.specs[name], batch_size, data, mesh)
            for name in [*self.validation, *others]  # a head is chosen before a test set is read
        }
        cached = method.frozen_features and jax.process_count() == 1
        self.features = {name: FeatureCache(method, mesh) for name in self.sets} if cached else {}

    def run(self, state, step) -> dict[str, float]:
        metrics: dict[str, float] = {}
        found: dict[str, tuple[str, list[Line]]] = {}  # {data set: (head, labelled lines)}
        cers: list[dict[str, float]] = []  # {head: CER} of each validation set
        for name in self.sets:
            lines, samples = self.evaluated(name, state)
            labelled = [line for line in lines if line.truth is not None]
            if not labelled:
                raise ValueError(
                    f"none of the {len(lines)} records of {name} has a text: "
                    "evaluate on labelled records"
                )
            counts = {
                head: scoring.count(line.pair(head) for line in labelled)
                for head in sorted(labelled[0].texts)
            }
            by_head = {head: float(cer(rows)) for head, rows in counts.items()}
            cers += [by_head] if name in self.validation else []
            head = lowest([by_head] if name in self.validation or len(by_head) == 1 else cers)
            found[name] = head, labelled
            figures = self.figures(name, head, lines, labelled, counts)
            metrics |= {f"eval/{name}/{key}": float(value) for key, value in figures.items()}
            self.tell(name, head, labelled)
            if hosts.is_lead():
                samples = sorted(samples, key=lambda sample: sample[0].index)[: self.pictures]
                folder = self.workdir / "pictures"
                looked = self.attention(state, head, samples)
                save_samples(folder, name, int(step), head, samples, self.frame_px, looked)
        metrics |= self.averages(metrics)
        if hosts.is_lead():
            for name, (head, labelled) in found.items():
                if self.is_chosen(name, metrics, int(step)):
                    save_readings(readings.file_of(self.workdir, name), head, labelled)
        return metrics

    def averages(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Means over the validation sets: of sets, and where there are several, of lines, too."""
        result = {}
        sizes = {name: metrics[f"eval/{name}/lines"] for name in self.validation}
        for rate in ("cer", "word_accuracy") if sizes else ():
            values = {name: metrics[f"eval/{name}/{rate}"] for name in sizes}
            means = scoring.averages(values, sizes)
            result[f"eval/{rate}"] = means["plain"]
            if len(sizes) > 1:
                result[f"eval/{rate}_weighted"] = means["weighted"]
        return result

    def is_chosen(self, name: str, metrics: Mapping[str, float], step: int) -> bool:
        """Whether the tables would report this evaluation, of all those up to this step."""
        file = self.workdir / "metrics.jsonl"
        before = log.read_jsonl(file) if file.exists() else []
        rows = [*(row for row in before if row["step"] < step), {"step": step, **metrics}]
        config = {"evals": {"recognition": {"datasets": self.specs}}, "data": {}}
        return Run(self.workdir, config, rows).chosen(name).row is rows[-1]

    def evaluated(self, name: str, state) -> tuple[list[Line], list]:
        """All lines of one data set in order, the same on every host, and sample lines of this
        host. Raises RuntimeError if any record was met twice or not at all.
        """
        _, size = self.sets[name]
        shown = min(size, self.pictures * jax.process_count())
        shown = set(np.linspace(0, size - 1, shown).astype(int).tolist())
        lines, samples = [], []
        for host, image, widths, texts in self.batches(name, state):
            self.warn_unread(host["errors"])
            for row, index in enumerate(host["index"].tolist()):
                if index < 0:  # only fills the batch
                    continue
                truth = host["text"][row]
                truth = None if truth is None else normalize(truth)
                path = host["id"][row] or f"record {index}"
                each = {head: rows[row] for head, rows in texts.items()}
                line = Line(index, path, truth, not widths[row], each)
                if index in shown:
                    samples.append((line, image[row, :, : max(widths[row], 1)]))
                light = {head: text._replace(characters=None) for head, text in each.items()}
                lines.append(line._replace(texts=light))
        lines = over_hosts(lines, sharding.host_shard(self.mesh).counts)
        if [line.index for line in lines] != list(range(size)):
            raise RuntimeError(
                f"{len(lines)} records of {name} were evaluated but it holds {size}: a pipeline bug"
            )
        return lines, samples

    def batches(
        self, name, state
    ) -> Iterator[tuple[dict, np.ndarray, np.ndarray, dict[str, list[Text]]]]:
        """(host, images u8[b,H,W,C], width i32[b] with 0 in rows that are not valid, {head:
        texts}) of this host's rows.

        One batch ahead: the device reads while the host decodes images.
        """
        waiting = None
        with pipeline.iterate(self.sets[name][0], 0, workers=self.workers) as batches:
            for batch, host in batches:
                features = self.features.get(name)
                given = features(state.params, batch, host) if features else batch
                given = sharding.to_global(given, self.mesh)
                predicted = self.predict(state.params, state.mutable, given)
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
        texts = {
            head: self.texts.of({name: local_rows(rows) for name, rows in reading.items()})
            for head, reading in predicted.items()
        }
        return host, batch["image"], np.where(batch["valid"], batch["width"], 0), texts

    def warn_unread(self, errors: list[str]) -> None:
        for error in errors:
            if error not in self.named:
                self.named.add(error)
                logging.warning("evaluation: counted as unread: %s", error)

    def figures(
        self,
        name: str,
        head: str,
        lines: Sequence[Line],
        labelled: Sequence[Line],
        counts: Mapping[str, np.ndarray],
    ) -> dict[str, float]:
        """The metrics of one data set: those of `head`, and the CER of every head."""
        result: dict[str, float] = {}
        even = np.array([line.index % 2 == 0 for line in labelled])
        for other, rows in counts.items():
            cers = {"cer": cer(rows)}
            if name in self.validation and 0 < even.sum() < len(even):  # no CER of no line
                cers |= {"cer_even": cer(rows[even]), "cer_odd": cer(rows[~even])}
            if len(counts) > 1:
                result |= {f"{key}@{other}": value for key, value in cers.items()}
            if other == head:
                result |= scoring.rates(rows.sum(axis=0)) | cers
        alnum = scoring.score((line.pair(head) for line in labelled), "waics")
        lacking = scoring.lacking((line.truth for line in labelled), self.charset)
        return result | {
            "cer_alnum": alnum["cer"],
            "word_accuracy_alnum": alnum["word_accuracy"],
            "unknown_chars": lacking.total(),
            "lines": len(labelled),
            "unread": sum(line.unread for line in lines),
            "unlabelled": sum(line.truth is None and not line.unread for line in lines),
        }

    def tell(self, name: str, head: str, labelled: Sequence[Line]) -> None:
        """What a user should know at once: characters that cannot be read, a reader that is
        stuck."""
        lacking = scoring.lacking((line.truth for line in labelled), self.charset)
        if lacking and name not in self.named:
            self.named.add(name)
            chars = ", ".join(f"{scoring.named(char)} ({n})" for char, n in lacking.most_common(20))
            more = f" and {len(lacking) - 20} more" if len(lacking) > 20 else ""
            hosts.report(
                f"{name}: {lacking.total()} characters of the truth are not in the charset, so "
                f"they count as errors: {chars}{more}"
            )
        reading, share = scoring.commonest_reading([line.pair(head) for line in labelled])
        if share >= PLATEAU:
            hosts.report(
                f"{name}: {100 * share:.0f} % of the lines are read as "
                f"{repr(reading) if reading else 'nothing'}. The reader is still on a plateau, "
                "where it says the same of every line. Most leave it with time: train "
                "longer (config.total.steps), or raise config.optim.lr two- or threefold. A "
                "shortcut ends it sooner (head=bilstm2, or decoder=attention). If train/loss has "
                "not moved for long, use more labels, or init_from a pre-training"
            )


def cer(rows: np.ndarray) -> np.ndarray:
    """Character error rate of rows of `scoring.count`."""
    return scoring.rates(rows.sum(axis=0))["cer"]


def open_set(spec: str, batch_size: int, data: Mapping, mesh: Mesh):
    """(evaluation data set of this host, number of records). An empty one is a ValueError."""
    mixture = records.open_sets(spec)
    if not len(mixture):
        raise ValueError(
            f"{spec} holds no record to evaluate on: name another split, as in PATH@validation"
        )
    # No charset: texts stay on the host, and unlabelled records are met and counted.
    dataset = pipeline.evaluation(
        mixture,
        batch_size=batch_size,
        **sharding.host_shard(mesh).of_data(),
        **pipeline.options(data, pipeline.WHOLE),
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
