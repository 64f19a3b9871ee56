"""Counting unusable records, and stopping past a share of them."""

import numpy as np
import pytest

from dig_jax.data import pipeline


def test_budget_counts_names_and_stops():
    budget = pipeline.ErrorBudget(0.1, min_count=3)
    fine = {"index": np.arange(-2, 8), "errors": [], "bad": []}                              # 8 rows are real, 2 only fill
    for _ in range(3):
        budget.add(fine)
    budget.add({"index": np.arange(6), "errors": ["a#1 (x): empty"], "bad": [1]})
    budget.add({"index": np.arange(6), "errors": ["a#1 (x): empty"], "bad": [1]})             # 2 of 36, below the share
    assert (budget.rows, budget.bad, budget.errors) == (36, 2, {"a#1 (x): empty": 2})
    with pytest.raises(pipeline.TooManyBadRecords, match=r"5 of 40 .*12.5%.*max_bad_share=0.1 .*2 x empty.*a#1 \(x\): empty"):
        budget.add({"index": np.arange(4), "errors": ["b", "c", "d"], "bad": [1, 2, 3]})


def test_budget_waits_for_a_few_and_zero_means_none():
    budget = pipeline.ErrorBudget(0.01, min_count=3)
    for _ in range(2):
        budget.add({"index": np.arange(1), "errors": ["a"], "bad": [0]})                      # all bad, but only two
    with pytest.raises(pipeline.TooManyBadRecords):
        budget.add({"index": np.arange(1), "errors": ["a"], "bad": [0]})
    with pytest.raises(pipeline.TooManyBadRecords):
        pipeline.ErrorBudget(0.0, min_count=0).add({"index": np.arange(500), "errors": ["a"], "bad": [0]})
    pipeline.ErrorBudget(0.0, min_count=0).add({"index": np.arange(500), "errors": [], "bad": []})
    with pytest.raises(ValueError, match="max_bad_share is 3"):
        pipeline.ErrorBudget(3)
