"""Which of many alike cases `make test` runs; `make test-slow` runs the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def tiers(cases: Iterable[Any], first: int = 1) -> list[Any]:
    """Cases for `pytest.mark.parametrize`: all after the `first` are slow tests."""
    slow = lambda case: pytest.param(
        *(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow
    )
    return [case if i < first else slow(case) for i, case in enumerate(cases)]
