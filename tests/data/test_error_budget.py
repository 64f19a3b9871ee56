"""Counting unusable records, and stopping past a share of them."""

import numpy as np
import pytest

from dig_jax.data import pipeline, records, writer


def test_budget_counts_names_and_stops():
    budget = pipeline.ErrorBudget(0.1, min_count=3)
    fine = {"index": np.arange(-2, 8), "errors": [], "bad": []}  # 8 rows are real, 2 only fill
    for _ in range(3):
        budget.add(fine)
    budget.add({"index": np.arange(6), "errors": ["a#1 (x): empty"], "bad": [1]})
    budget.add(
        {"index": np.arange(6), "errors": ["a#1 (x): empty"], "bad": [1]}
    )  # 2 of 36, below the share
    assert (budget.rows, budget.bad, budget.errors) == (36, 2, {"a#1 (x): empty": 2})
    with pytest.raises(
        pipeline.TooManyBadRecords,
        match=r"5 of 40 .*12.5%.*max_bad_share=0.1 .*2 x empty.*a#1 \(x\): empty",
    ):
        budget.add({"index": np.arange(4), "errors": ["b", "c", "d"], "bad": [1, 2, 3]})


def test_budget_waits_for_a_few_and_zero_means_none():
    budget = pipeline.ErrorBudget(0.01, min_count=3)
    for _ in range(2):
        budget.add({"index": np.arange(1), "errors": ["a"], "bad": [0]})  # all bad, but only two
    with pytest.raises(pipeline.TooManyBadRecords):
        budget.add({"index": np.arange(1), "errors": ["a"], "bad": [0]})
    with pytest.raises(pipeline.TooManyBadRecords):
        pipeline.ErrorBudget(0.0, min_count=0).add(
            {"index": np.arange(500), "errors": ["a"], "bad": [0]}
        )
    pipeline.ErrorBudget(0.0, min_count=0).add({"index": np.arange(500), "errors": [], "bad": []})
    with pytest.raises(ValueError, match="max_bad_share is 3"):
        pipeline.ErrorBudget(3)


def parts(tmp_path, weights, broken):
    """Two sets, a of 40 good lines and b of 10 lines, of which `broken` cannot be decoded."""
    image = writer.encode_image(np.full((8, 20), 128, np.uint8), "png")
    writer.write(tmp_path / "a", (("train", image, "x", str(i)) for i in range(40)))
    writer.write(
        tmp_path / "b",
        (("train", b"broken" if i < broken else image, "x", str(i)) for i in range(10)),
    )
    return records.open_sets(
        ",".join(f"{tmp_path / name}*{weight}" for name, weight in zip("ab", weights))
    )


def steps(mixture, count):
    dataset = pipeline.pretrain(
        mixture, batch_size=50, height_px=8, width_px=16, channels=1, seed=0
    )
    return [dataset[step][1] for step in range(count)]


def test_a_set_that_cannot_be_read_does_not_hide_behind_its_small_weight(tmp_path):
    mixture = parts(tmp_path, (0.96, 0.04), broken=10)  # 4 % of the draws, all of them bad
    hosts = steps(mixture, 5)
    assert sum(len(host["bad"]) for host in hosts) == 10 and all(
        number >= 40 for host in hosts for number in host["bad"]
    )
    budget = pipeline.ErrorBudget(0.1, min_count=10, mixture=mixture)
    message = r"10 of 10 of the lines read from .*b@train \(100.0%\).*10 x not an image"
    with pytest.raises(pipeline.TooManyBadRecords, match=message):
        for host in hosts:
            budget.add(host)
    assert (budget.rows, budget.bad, budget.set_bad.tolist()) == (250, 10, [0, 10])
    whole = pipeline.ErrorBudget(0.1, min_count=10)  # without the sets: 4 % pass
    for host in hosts:
        whole.add(host)


def test_weights_count_draws_not_records(tmp_path):
    """One bad line of ten in a set that gives three quarters of the draws: a tenth of that set, at
    any weight.
    """
    mixture = parts(tmp_path, (0.25, 0.75), broken=1)
    hosts = steps(mixture, 8)
    budget = pipeline.ErrorBudget(0.11, mixture=mixture)
    for host in hosts:
        budget.add(host)
    assert (
        budget.set_rows.tolist() == [100, 300]
        and budget.set_bad.tolist() == [0, 30]
        and len(budget.errors) == 1
    )
    with pytest.raises(pipeline.TooManyBadRecords, match="from .*b@train"):
        strict = pipeline.ErrorBudget(0.09, mixture=mixture)
        for host in hosts:
            strict.add(host)


def test_millions_of_different_errors_take_no_memory():
    budget = pipeline.ErrorBudget(1.0)
    for start in range(0, 5000, 50):
        bad = list(range(start, start + 50))
        budget.add(
            {
                "index": np.array(bad),
                "errors": [f"s#{i} (x): truncated: {i}" for i in bad],
                "bad": bad,
            }
        )
    assert (
        len(budget.errors) == budget.KEPT == 1000
        and budget.kinds == {"truncated": 5000}
        and budget.bad == 5000
    )
