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


USUAL = "train=4000,validation=400"  # of generated lines


def sizes_of(splits: str, count: int | None = None) -> dict[str, int]:
    """ "train=4000,validation=400" -> {"train": 4000, "validation": 400}; count: {"train": count}.
    ValueError for another form, or for both."""
    if count and count < 0:
        raise ValueError(f"--count is {count}: give how many lines, above 0")
    if count and splits != USUAL:
        raise ValueError(
            f"--count={count} is short for --splits=train={count}: give one of the two"
        )
    sizes: dict[str, int] = {}
    for part in (f"train={count}" if count else splits).split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if (
            not re.fullmatch(r"[\w.-]+", name)
            or not re.fullmatch(r"[1-9]\d*", number)
            or name in sizes
        ):
            raise ValueError(
                f"Cannot read '{part}' in --splits={splits}; write NAME=COUNT,NAME2=COUNT2, counts "
                "above 0."
            )
        sizes[name] = int(number)
    return sizes
