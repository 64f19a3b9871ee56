"""Rates against a slow edit distance and by hand; every record once, on any number of devices; what
cannot be read.
"""

import base64
import json
import types

import cv2
import numpy as np
import pytest

from dig_jax import sharding
from dig_jax.data import writer
from dig_jax.evaluators import recognition
from dig_jax.evaluators.recognition import Score
from dig_jax.workdir import datasets
from tests.evaluators.lines import CHARSET, DATA, Reader, draw, write

STATE = types.SimpleNamespace(params={}, mutable={})
WORDS = [
    "tent",
    "list",
    "lost tin",
    "silent note",
    "no. 5",
    "inlet",
    "see",
    "toe",
    "solo",
    "nest",
    "tin",
    "sun",
    "it",
]


def distance(a, b):
    """Levenshtein's recurrence, cell by cell."""
    cost = [[i + j for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            change = cost[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            cost[i][j] = min(change, cost[i - 1][j] + 1, cost[i][j - 1] + 1)
    return cost[-1][-1]


def evaluate(folder, heads=None, devices=8, batch_size=8, step=3, **options):
    evaluator = recognition.Evaluator(
        method=Reader(heads), mesh=sharding.make_mesh(devices), workdir=folder.parent,
        data=DATA | {"train": str(folder)}, batch_size=batch_size, **options,
    )  # fmt: skip
    return evaluator.run(STATE, step)


def test_rates_by_hand():
    score = Score()
    score.add(
        "No. 5", "no5"
    )  # 3 edits of 5 characters, both words wrong, the same in the usual rule
    score.add("tin sun", "tin sun")
    assert score.rates() == {
        "cer": 3 / 12, "wer": 2 / 4, "word_accuracy": 1 / 2, "cer_alnum": 0, "word_accuracy_alnum": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "truth, reading, equal", [("It's", "ITS", 1), ("No. 5", "no5", 1), ("?", "", 1), ("a", "b", 0)]
)
def test_unit_vectors_of_the_usual_rule(truth, reading, equal):
    score = Score()
    score.add(truth, reading)
    assert score.rates()["word_accuracy_alnum"] == equal and score.rates()["word_accuracy"] == 0


def test_scores_equal_a_slow_loop():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ab 1."), rng.integers(0, 12))) for _ in range(40)]
    pairs = list(zip(texts[::2], texts[1::2]))
    score = Score()
    for truth, reading in pairs:
        score.add(truth, reading)
    rates = score.rates()
    assert rates["cer"] == sum(distance(*p) for p in pairs) / sum(len(t) for t, _ in pairs)
    words = [(t.split(), r.split()) for t, r in pairs]
    assert rates["wer"] == sum(distance(*p) for p in words) / sum(len(t) for t, _ in words)


@pytest.mark.parametrize("devices, batch_size", [(1, 3), (8, 8), (8, 9)])
def test_every_record_once_on_any_number_of_devices(tmp_path, devices, batch_size):
    """13 lines of several widths: each is wrong in its own way, so a line met twice or not at all
    moves the rates.
    """
    pairs = [(word, word[: i % 4] + "u" * (i % 3)) for i, word in enumerate(WORDS)]
    folder = write(tmp_path / "words", pairs)
    metrics = evaluate(folder, devices=devices, batch_size=batch_size)
    score = Score()
    for truth, reading in pairs:
        score.add(truth, reading)
    for name, value in score.rates().items():
        assert metrics[f"eval/words/{name}"] == value
    assert metrics["eval/words/lines"] == 13 and metrics["eval/cer"] == metrics["eval/words/cer"]
    assert 0 < metrics["eval/words/cer"] and all(
        isinstance(value, float) for value in metrics.values()
    )


def test_a_record_too_few_is_a_bug_that_shows(tmp_path, monkeypatch):
    folder = write(tmp_path / "words", [(word, word) for word in WORDS])
    whole = recognition.pipeline.evaluation
    monkeypatch.setattr(recognition.pipeline, "evaluation", lambda *a, **k: whole(*a, **k)[:1])
    with pytest.raises(RuntimeError, match="8 records of words"):
        evaluate(folder)


def test_the_best_head_is_chosen_by_raw_cer_and_all_are_reported(tmp_path):
    folder = write(tmp_path / "words", [(word, word) for word in WORDS])
    metrics = evaluate(folder, heads={"lr_1": 2, "lr_2": 1, "lr_3": 5})
    chars = sum(map(len, WORDS))
    assert metrics["eval/words/cer@lr_2"] == metrics["eval/words/cer"] == len(WORDS) / chars
    assert metrics["eval/words/cer@lr_1"] == 2 * len(WORDS) / chars < metrics["eval/words/cer@lr_3"]
    assert json.loads((tmp_path / "pictures/readings-words.json").read_text())["head"] == "lr_2"
    assert not any("@" in name for name in evaluate(folder))


def test_halves_are_of_even_and_odd_records_and_add_up(tmp_path):
    folder = write(tmp_path / "words", [("tin", "tin"), ("toes", "tos"), ("sun", "su")])
    metrics = evaluate(folder)
    assert metrics["eval/words/cer_even"] == 1 / 6 and metrics["eval/words/cer_odd"] == 1 / 4


def test_only_validation_sets_choose(tmp_path):
    """The mean and the head come from validation, whatever would be best on the test set."""
    folder = tmp_path / "words"
    pairs = {"validation": [("tint", "tint")], "test": [("sun", "unnn")], "train": [("it", "")]}
    examples = [
        (split, draw(reading), truth, f"{split} {i}")
        for split, lines in pairs.items()
        for i, (truth, reading) in enumerate(lines)
    ]
    writer.write(folder, examples)
    heads = {"lr_1": 1, "lr_2": 0}  # lr_1 misses the first character: better on the test line
    every = f"{folder}@test,{folder}@train,{folder}"  # without a split: validation
    metrics = evaluate(folder, heads=heads, datasets=every)
    assert metrics["eval/cer"] == metrics["eval/words/cer"] == 0
    assert metrics["eval/words-test/cer"] == metrics["eval/words-test/cer@lr_2"] == 1.0
    assert metrics["eval/words-test/cer@lr_1"] < 1.0
    assert "eval/words-test/cer_even" not in metrics
    assert "eval/cer" not in evaluate(folder, datasets=f"{folder}@test")
    with pytest.raises(ValueError, match="2 heads and no validation set"):
        evaluate(folder, heads=heads, datasets=f"{folder}@test")


def test_what_cannot_be_read_counts_as_an_error_and_is_named(tmp_path, caplog):
    pairs = [("tent", "tent"), ("lost", None), (None, "tin"), (None, None), ("toe", "toe")]
    folder = write(tmp_path / "words", pairs)
    with caplog.at_level("WARNING", logger="absl"):
        metrics = evaluate(folder)
    assert metrics["eval/words/cer"] == 4 / 11 and metrics["eval/words/word_accuracy"] == 2 / 3
    counts = [metrics[f"eval/words/{name}"] for name in ("lines", "unread", "unlabelled")]
    assert counts == [3, 2, 1]  # the fourth cannot be decoded: that is what is said of it
    assert sum(counts) == len(pairs) + 1  # "lost" counts in the rates, too
    assert "line 1" in caplog.text and "line 3" in caplog.text and "array_record#" in caplog.text


def test_characters_outside_the_charset_count_as_errors(tmp_path):
    folder = write(tmp_path / "words", [("tînt", "tint"), ("§§", ""), ("toe", "toe")])
    metrics = evaluate(folder)
    assert metrics["eval/words/unknown_chars"] == 3 and metrics["eval/words/cer"] == 3 / 9
    assert CHARSET.encode("î")[1] == ["î"]


def test_unlabelled_data_is_a_sentence(tmp_path):
    folder = write(tmp_path / "words", [(None, "tin"), (None, "sun")])
    with pytest.raises(ValueError, match="labelled records"):
        evaluate(folder)


def test_readings_are_saved_for_the_report(tmp_path):
    folder = write(tmp_path / "words", [(word, word + "u") for word in WORDS])
    evaluate(folder, step=40, pictures=5)
    saved = json.loads((tmp_path / "pictures/readings-words.json").read_text(encoding="utf-8"))
    assert (saved["dataset"], saved["step"], saved["head"]) == ("words", 40, "ctc")
    assert [line["index"] for line in saved["lines"]] == [0, 3, 6, 9, 12]
    for line in saved["lines"]:
        truth = WORDS[line["index"]]
        assert (line["truth"], line["reading"]) == (truth, truth + "u")
        image = cv2.imdecode(
            np.frombuffer(base64.b64decode(line["png"]), np.uint8), cv2.IMREAD_GRAYSCALE
        )
        assert image.shape == (8, 8 * (len(truth) + 1))  # the line without its padding


def test_names_of_data_sets():
    named = datasets.named_sets
    assert named(None, {"train": "x/a*3,y/b@train"}) == {
        "a": "x/a@validation",
        "b": "y/b@validation",
    }
    assert named("x/a@test,x/a", {}) == {"a-test": "x/a@test", "a": "x/a@validation"}
    assert named({"mine": "x/a@test,y/b"}, {}) == {"mine": "x/a@test,y/b@validation"}
    with pytest.raises(ValueError, match="rename"):
        named("x/a@test,y/a@test", {})


@pytest.mark.parametrize(
    "spec, may",
    [("a", True), ("a@val", True), ("a@test", False), ("a,b@test_2", False), ("a@train", False)],
)
def test_no_choice_by_test_or_training_lines(spec, may):
    assert datasets.may_choose(spec) is may
