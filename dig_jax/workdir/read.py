"""What a work folder says about itself: its config, its curves, and which cell of a results table
it fills.

Read by `report` (one page a comparison) and `results` (their table), so that both name things
alike.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dig_jax import trees
from dig_jax.config import NEUTRAL_KEYS
from dig_jax.data import records
from dig_jax.workdir import bucket, datasets, metrics
from dig_jax.workdir import starts as provenance

METRIC = "cer"
OWN_READINGS = " and own readings"  # of a student: behind its number of labelled lines


class Candidate(NamedTuple):
    """One evaluation of one head: its row of the log, the figure that a choice goes by, and the CER
    to report. Also the CER of each half of the lines where that was logged."""

    row: Mapping
    by: float | None
    cer: float
    even: float | None = None
    odd: float | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """One work folder: `config` (expanded), `history` (one dict a logged step, in order of
    step).
    """

    path: pathlib.Path
    config: Mapping
    history: list
    title: str = ""  # what `told_apart` calls it

    @property
    def name(self) -> str:
        return self.title or self.path.name

    @property
    def starts(self) -> list[dict]:
        """Its starts, one a line of starts.jsonl; none where they were not recorded."""
        path = self.path / provenance.NAME
        return metrics.read_jsonl(path) if path.exists() else []

    @property
    def origin(self) -> str | None:
        """Commits, devices and machine of its starts, in one phrase; None where they were not
        recorded.
        """
        if not self.starts:
            return None
        commits = dict.fromkeys(start["commit"] or "no checkout" for start in self.starts)
        places = dict.fromkeys(
            f"{start['devices']} ({start['machine']}), JAX {start['jax']}" for start in self.starts
        )
        return f"{', '.join(commits)} on {', '.join(places)}"

    @property
    def is_recogniser(self) -> bool:
        return "heads" in self.config["method"]

    @property
    def trained(self) -> bool:
        """False for a run that only evaluates another's weights."""
        return self.config.get("total", {}).get("steps") != 0  # an import was trained, too

    @property
    def last_step(self) -> int:
        """The last step that was logged; 0 before the first."""
        return self.history[-1]["step"] if self.history else 0

    @property
    def total(self) -> int:
        """How many steps it was to make; 0 where that is a number of epochs that no start noted."""
        noted = [start["total"] for start in self.starts if start.get("total") is not None]
        own = self.config.get("total", {}).get("steps")  # an import has none
        return own or (noted[-1] if noted else 0)

    @property
    def finished(self) -> bool:
        """Whether the log reaches the last step."""
        return self.last_step >= self.total

    @property
    def state(self) -> str:
        """ "" of a finished run; of another, how far it came."""
        return "" if self.finished else f"unfinished: step {self.last_step} of {self.total}"

    @functools.cached_property
    def trainer(self) -> "Run | None":
        """The run that trained its recogniser: itself, or where it only evaluates, the one whose
        weights it took. None where that run cannot be read any more.
        """
        if self.trained or not self.config.get("init_from"):
            return self
        path = bucket.path(self.config["init_from"])
        return load(path).trainer if read_config(path) is not None else None

    @property
    def reader(self) -> Mapping | None:
        """The config of its `trainer`."""
        return self.trainer and self.trainer.config

    @property
    def start(self) -> str:
        """What the encoder started from: `random`, or the method (and its half) that pre-trained
        it. Of a recogniser, the records that it learnt to read, behind its own start: `gen, reader
        of print`.
        """
        return "unknown" if self.reader is None else _start(self.reader)

    @property
    def protocol(self) -> str:
        """How the recogniser was trained on top: frozen with which head, or fine-tuned as a
        whole.
        """
        method = self.config["method"]
        kinds = sorted({head.get("kind", "linear") for head in method["heads"].values()})
        head = {"linear": "linear CTC", "bilstm": "BiLSTM CTC"}.get(
            "+".join(kinds), "+".join(kinds)
        )
        block = method.get("block", "last")
        head += "" if block in (None, "last") else f" on block {block}"
        return f"frozen, {head}" if method.get("frozen") else f"fine-tuned, {head}"

    @functools.cached_property
    def label_count(self) -> Mapping[str, int] | None:
        """{"true": n, "read": n}: how many labelled lines its recogniser learnt from, and how many
        that a teacher had read. None where neither its starts nor the records tell.
        """
        if self.trainer is None:
            return None
        noted = [start["labels"] for start in self.trainer.starts if start.get("labels")]
        if noted:
            return noted[-1]
        data = self.trainer.config["data"]
        try:
            return records.count_labels(data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            subset = data.get("subset")  # the records lie elsewhere by now
            return {"true": subset, "read": 0} if isinstance(subset, int) else None

    @property
    def labels(self) -> str:
        """How many labelled lines its recogniser was trained with."""
        if self.reader is None or "imported" in self.reader:
            return "unknown"
        if self.label_count and self.label_count["read"]:
            return f"{self.label_count['true']} lines{OWN_READINGS}"
        subset = self.reader["data"].get("subset")
        if subset is None or subset == 1.0:
            return "100 %"
        return f"{subset * 100:g} %" if subset < 1 else f"{subset:g} lines"

    def series(self, name: str) -> tuple[list, list]:
        """Steps and values of one metric, where it was logged."""
        points = [(row["step"], row[name]) for row in self.history if row.get(name) is not None]
        return [step for step, _ in points], [value for _, value in points]

    def names(self) -> list[str]:
        return sorted({name for row in self.history for name in row if name != "step"})

    def datasets(self) -> list[str]:
        return sorted(
            {
                name.split("/")[1]
                for name in self.names()
                if name.startswith("eval/") and name.count("/") == 2
            }
        )

    def last(self, dataset: str, name: str) -> float | None:
        """The last value of `eval/<dataset>/<name>`."""
        values = self.series(f"eval/{dataset}/{name}")[1]
        return values[-1] if values else None

    @functools.cached_property
    def validation(self) -> set[str]:
        """Those of its data sets by which a step may be chosen."""
        specs: dict[str, str] = {}
        for name, options in (self.config.get("evals") or {}).items():
            if (options.get("evaluator") or name) == "recognition":
                specs |= datasets.named_sets(options.get("datasets"), self.config["data"])
        # A set that no config names, as in logs that were put together by hand: by its name.
        return {
            name for name in self.datasets() if datasets.may_choose(specs.get(name) or _spec(name))
        }

    def candidates(self, dataset: str) -> list[Candidate]:
        """What a choice for this data set chooses from: each evaluation, and of several heads each.

        On a validation set the choice goes by its own CER. On a test set it goes by the validation
        set of the same folder, else by the mean over all validation sets. `Candidate.by` is None
        where none was evaluated along with it.
        """
        rows = [row for row in self.history if row.get(f"eval/{dataset}/{METRIC}") is not None]
        if dataset not in self.validation:
            own = self.validation & {dataset.rsplit("-", 1)[0]}
            return [
                Candidate(row, _mean(row, own or self.validation), row[f"eval/{dataset}/{METRIC}"])
                for row in rows
            ]
        result = []
        for row in rows:
            halves = ("cer_even", "cer_odd")
            prefix = f"eval/{dataset}/"
            heads = sorted(
                name[len(prefix) + 3 :] for name in row if name.startswith(prefix + "cer@")
            )
            for head in heads or [""]:
                cer, even, odd = (row.get(prefix + name + head) for name in (METRIC, *halves))
                result.append(Candidate(row, cer, cer, even, odd))
        return result

    def chosen(self, dataset: str) -> Candidate | None:
        """The evaluation that validation chooses; the last one where there was no validation."""
        return choose(self.candidates(dataset))

    def at_best(self, dataset: str, name: str) -> float | None:
        """`eval/<dataset>/<name>` at the evaluation that validation chooses."""
        candidate = self.chosen(dataset)
        return candidate.row.get(f"eval/{dataset}/{name}") if candidate else None


def _spec(name: str) -> str:
    """The split that the name of a data set tells: "a-test" -> "a@test"."""
    return "@".join(name.rsplit("-", 1)) if name.endswith(("-test", "-train")) else name


def _mean(row: Mapping, names: Iterable[str]) -> float | None:
    values = [row.get(f"eval/{name}/{METRIC}") for name in names]
    return None if not values or None in values else sum(values) / len(values)


def choose(candidates: list[Candidate]) -> Candidate | None:
    """The candidate with the lowest `by`, of equals the first; without any `by` the last one."""
    judged = [candidate for candidate in candidates if candidate.by is not None]
    if judged:
        return min(judged, key=lambda candidate: candidate.by)
    return candidates[-1] if candidates else None


def lowest(cers: list[dict[str, float]]) -> str:
    """The head with the lowest mean of {head: CER} over data sets; of equals the first by name."""
    return min(cers[0], key=lambda head: (sum(by_head[head] for by_head in cers), head))


def honest(candidates: list[Candidate]) -> float | None:
    """The cross-validated CER: each half of the lines, read by the candidate with the lowest CER on
    the other half; the mean of the two. None where halves were not logged.
    """
    if not candidates or any(None in (c.even, c.odd) for c in candidates):
        return None
    by_even = min(candidates, key=lambda candidate: candidate.even)
    by_odd = min(candidates, key=lambda candidate: candidate.odd)
    return (by_even.odd + by_odd.even) / 2


# What runs of one cell of a table may differ in: seeds, the learning rate, and keys that change no
# number of a step.
FREE = (
    *NEUTRAL_KEYS,
    "seed",
    "data.subset_seed",
    "optim.lr",
    "init_from",
    "shape_from",
    "like",  # what shape_from was called
    "inherit",
    "evals.recognition.batch_size",
    "evals.recognition.pictures",
)


def _start(config: Mapping) -> str:
    if "imported" in config:  # called by the path that it came from
        return pathlib.Path(config["imported"]).name
    if not config.get("init_from"):
        return "random"
    source = read_config(bucket.path(config["init_from"]))
    if source is None:
        return bucket.path(config["init_from"]).name
    if "imported" in source:
        return _start(source)
    if "heads" not in source["method"]:
        name = source["method"].get("objective", source["method"]["name"])
        return pathlib.Path(name).name  # of an older import a path, too
    sets = (pathlib.Path(path).name for path, *_ in records.parse_spec(source["data"]["train"]))
    before = _start(source)
    return f"{'' if before == 'random' else f'{before}, '}reader of {' + '.join(sets)}"


def settings(config: Mapping) -> dict:
    """{"a.b": value} of everything that must be equal in runs of one cell. The run that it starts
    from counts with its own settings, "init_from.a.b", or with its path where it cannot be read.
    Heads and rules count without their rates.
    """
    result = {
        key: value
        for key, value in trees.flatten(config).items()
        if not trees.lies_under(key, FREE)
    }
    if heads := config["method"].get("heads"):
        result = {
            key: value for key, value in result.items() if not key.startswith("method.heads.")
        }
        result["method.heads"] = sorted(
            {json.dumps(head, sort_keys=True) for head in heads.values()}
        )
    rules = config.get("optim", {}).get("rules") or ()
    rules = [
        (pattern, {k: v for k, v in rule.items() if k != "lr_scale"}) for pattern, rule in rules
    ]
    result["optim.rules"] = [(pattern, rule) for pattern, rule in rules if rule]
    if start := config.get("init_from"):
        source = read_config(bucket.path(start))
        result["init_from"] = "a run" if source else str(bucket.whole(start))
        # Nothing sweeps the rate of a pre-training for a table: there it is a choice like any
        # other.
        theirs = (
            settings(source) | {"optim.lr": source.get("optim", {}).get("lr")} if source else {}
        )
        result |= {
            f"init_from.{key}": value
            for key, value in theirs.items()
            if not key.startswith("evals.")
        }
    return result


def differences(one: Run, two: Run) -> list[str]:
    """Keys of `settings` in which two runs differ. A key that only one of them states is passed
    over: configs grow.
    """
    mine, other = settings(one.config), settings(two.config)
    return sorted(key for key in mine.keys() & other.keys() if mine[key] != other[key])


def read_config(workdir: pathlib.Path) -> Mapping | None:
    """`WORKDIR/config.json`, or None where there is none."""
    try:
        return json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def load(workdir) -> Run:
    """Reads one work folder. Raises FileNotFoundError with one sentence where it is not one."""
    path = bucket.path(workdir)
    config = read_config(path)
    if config is None:
        raise FileNotFoundError(
            f"{path} has no config.json: name a work folder that dig_jax.main has trained in"
        )
    log = path / "metrics.jsonl"  # not there before the first logged step
    return Run(bucket.whole(path), config, metrics.read_jsonl(log) if log.exists() else [])


def told_apart(many: Iterable[Run]) -> list[Run]:
    """The runs, those of one name called by as much of their paths as tells them apart."""
    many = list(many)
    for depth in range(1, max((len(run.path.parts) for run in many), default=0)):
        titles = ["/".join(run.path.parts[-depth:]) for run in many]
        if len(set(titles)) == len({run.path for run in many}):
            return [dataclasses.replace(run, title=title) for run, title in zip(many, titles)]
    return many
