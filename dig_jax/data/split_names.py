"""Names that data sets give their splits, and the ones that dig_jax knows."""

import re
from collections.abc import Iterable

SPLITS = {
    **dict.fromkeys(("train", "training", "trainset", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validationset", "dev", "va"), "validation"),
    **dict.fromkeys(("test", "testing", "testset", "eval", "evaluation", "te"), "test"),
}


def split_named(name: str, default: str = "train") -> str:
    """The split of a name such as "Training", "validationset1" or "val"; `default` for others."""
    return SPLITS.get(re.sub(r"[\d_]+$", "", name.lower()), default)


def split_of(parts: Iterable[str], default: str = "train") -> str:
    """The split that the first telling part of a path names."""
    return next((found for part in parts if (found := split_named(part, ""))), default)
