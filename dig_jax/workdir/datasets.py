"""The record sets that an evaluation reads: their names, and by which of them a run may choose.

A step, a learning rate or a head is chosen on validation sets alone. Test sets are reported where
that choice fell; so are training sets, which say nothing about unseen lines.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from dig_jax.data import records

SPLIT = "validation"  # read where a spec names no split


def named_sets(datasets: Mapping[str, str] | str | None, data: Mapping) -> dict[str, str]:
    """{name: spec} of `config.evals.recognition.datasets`, every split written out.

    A mapping states its names. In a spec every part PATH@SPLIT is a set of its own, named by its
    folder, with -SPLIT behind it where that is not "validation". None: the validation splits of the
    training records. Raises ValueError where two sets would have one name.
    """
    if isinstance(datasets, Mapping):
        return {name: ",".join(_parts(spec)) for name, spec in datasets.items()}
    if datasets is None:
        paths = [path for path, _, _ in records.parse_spec(data["train"])]
        parts = [f"{path}@{SPLIT}" for path in paths]
    else:
        parts = _parts(datasets)
    sets: dict[str, str] = {}
    for part in dict.fromkeys(parts):
        path, _, split = part.rpartition("@")
        name = pathlib.Path(path).name + ("" if split == SPLIT else f"-{split}")
        if name in sets:
            raise ValueError(f"{sets[name]} and {part} would both be called {name}: rename one")
        sets[name] = part
    return sets


def _parts(spec: str) -> list[str]:
    """ "a@test,b" -> ["a@test", "b@validation"]."""
    return [f"{path}@{split}" for path, split, _ in records.parse_spec(spec, split=SPLIT)]


def may_choose(spec: str) -> bool:
    """Whether a run may be chosen by its error on this set: no part is of train or of a test."""
    splits = [split for _, split, _ in records.parse_spec(spec, split=SPLIT)]
    return not any(split == "train" or split.startswith("test") for split in splits)
