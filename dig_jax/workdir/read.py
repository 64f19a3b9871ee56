"""What a work folder says about itself: its config, its curves, and which cell of a results table
it fills.

Read by `report` (one page a comparison) and `results` (the README's table), so that both name
things alike.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

from dig_jax import trees
from dig_jax.config import NEUTRAL_KEYS
from dig_jax.workdir import metrics
from dig_jax.workdir import starts as provenance

METRIC = "cer"


@dataclasses.dataclass(frozen=True)
class Run:
    """One work folder: `config` (expanded), `history` (one dict a logged step, in order of
    step).
    """

    path: pathlib.Path
    config: Mapping
    history: list

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def origin(self) -> str | None:
        """Commits, devices and machine of its starts, in one phrase; None where they were not
        recorded.
        """
        path = self.path / provenance.NAME
        starts = metrics.read_jsonl(path) if path.exists() else []
        if not starts:
            return None
        commits = dict.fromkeys(start["commit"] or "no checkout" for start in starts)
        places = dict.fromkeys(
            f"{start['devices']} ({start['machine']}), JAX {start['jax']}" for start in starts
        )
        return f"{', '.join(commits)} on {', '.join(places)}"

    @property
    def is_recogniser(self) -> bool:
        return "heads" in self.config["method"]

    @property
    def trained(self) -> bool:
        """False for a run that only evaluates another's weights."""
        return self.config["total"].get("steps") != 0

    @property
    def last_step(self) -> int:
        """The last step that was logged; 0 before the first."""
        return self.history[-1]["step"] if self.history else 0

    @property
    def finished(self) -> bool:
        """True where the log reaches the number of steps that the config states (a length in epochs
        is not checked).
        """
        return self.last_step >= (self.config["total"].get("steps") or 0)

    @property
    def start(self) -> str:
        """What the encoder started from: `random`, or the method (and its half) that pre-trained
        it.
        """
        init_from = self.config.get("init_from")
        if not init_from:
            return "random"
        config = read_config(pathlib.Path(init_from))
        if config is None:
            return pathlib.Path(init_from).name
        return config["method"].get("objective", config["method"]["name"])

    @property
    def protocol(self) -> str:
        """How the recogniser was trained on top: frozen with which head, or fine-tuned as a
        whole.
        """
        kinds = sorted(
            {head.get("kind", "linear") for head in self.config["method"]["heads"].values()}
        )
        head = {"linear": "linear CTC", "bilstm": "BiLSTM CTC"}.get(
            "+".join(kinds), "+".join(kinds)
        )
        return f"frozen, {head}" if self.config["method"].get("frozen") else f"fine-tuned, {head}"

    @property
    def labels(self) -> str:
        """How many labelled lines it was given, as the config states it."""
        subset = self.config["data"].get("subset")
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

    def best(self, name: str) -> float | None:
        """The lowest value of an error rate along the run (chosen on that validation set), or None
        if never logged.
        """
        values = self.series(name)[1]
        return min(values) if values else None

    def at_best(self, dataset: str, name: str) -> float | None:
        """`eval/<dataset>/<name>` at the evaluation with the lowest character error rate."""
        rows = [row for row in self.history if row.get(f"eval/{dataset}/{METRIC}") is not None]
        return (
            min(rows, key=lambda row: row[f"eval/{dataset}/{METRIC}"]).get(f"eval/{dataset}/{name}")
            if rows
            else None
        )


# What runs of one cell of a table may differ in: seeds, the learning rate, and keys that change no
# number of a step.
FREE = (
    *NEUTRAL_KEYS,
    "seed",
    "data.subset_seed",
    "optim.lr",
    "init_from",
    "like",
    "inherit",
    "evals.recognition.batch_size",
    "evals.recognition.pictures",
)


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
        source = read_config(pathlib.Path(start))
        result["init_from"] = "a run" if source else str(pathlib.Path(start).resolve())
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
    path = pathlib.Path(workdir)
    config = read_config(path)
    if config is None:
        raise FileNotFoundError(
            f"{path} has no config.json: name a work folder that dig_jax.main has trained in"
        )
    log = path / "metrics.jsonl"  # not there before the first logged step
    return Run(path.resolve(), config, metrics.read_jsonl(log) if log.exists() else [])
