"""Every record once, on any number of devices; what cannot be read; what is told and written."""

import base64
import json
import types

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax import sharding
from dig_jax.data import writer
from dig_jax.evaluators import lines, recognition, scoring
from dig_jax.workdir import datasets, readings
from dig_jax.workdir.read import Candidate, honest
from tests.evaluators.lines import CHARSET, DATA, Reader, draw, frames_of, write

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


def evaluate(folder, heads=None, devices=8, batch_size=8, step=3, **options):
    evaluator = recognition.Evaluator(
        method=Reader(heads), mesh=sharding.make_mesh(devices), workdir=folder.parent,
        data=DATA | {"train": str(folder)}, batch_size=batch_size, **options,
    )  # fmt: skip
    return evaluator.run(STATE, step)


@pytest.mark.parametrize("devices, batch_size", [(1, 3), (8, 8), (8, 9)])
def test_every_record_once_on_any_number_of_devices(tmp_path, devices, batch_size):
    """13 lines of several widths: each is wrong in its own way, so a line met twice or not at all
    moves the rates.
    """
    pairs = [(word, word[: i % 4] + "u" * (i % 3)) for i, word in enumerate(WORDS)]
    folder = write(tmp_path / "words", pairs)
    metrics = evaluate(folder, devices=devices, batch_size=batch_size)
    for name, value in scoring.score(pairs).items():
        assert metrics[f"eval/words/{name}"] == value
    usual = scoring.score(pairs, "waics")
    assert metrics["eval/words/cer_alnum"] == usual["cer"] > 0
    assert metrics["eval/words/word_accuracy_alnum"] == usual["word_accuracy"]
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


def test_one_half_without_a_line_has_no_figure(tmp_path):
    """Of even records alone there is no cross-validated figure, rather than one of zero."""
    folder = write(tmp_path / "words", [("tin", "tin"), (None, "toes"), ("sun", "su")])
    metrics = evaluate(folder)
    assert metrics["eval/words/cer"] == 1 / 6 and "eval/words/cer_odd" not in metrics
    assert honest([Candidate(metrics, 1 / 6, 1 / 6)]) is None


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


class Looking(Reader):
    """Says that it looked at the block of each character, and a fifth as much at the one behind."""

    head = types.SimpleNamespace(attention=None, on_host=False)

    def attention(self, params, mutable, batch, head, ids):
        assert head == "ctc" and batch["image"].shape[2] % 32 == 0
        place, frame = jnp.arange(ids.shape[1])[:, None], jnp.arange(ids.shape[1])[None]
        weights = (frame == 2 * place) * 0.6 + (frame == 2 * place + 1) * 0.12
        return jnp.where(ids[..., None] > 0, weights[None], 7.0)  # behind the reading: never shown


@pytest.mark.parametrize("devices", [1, 8])
def test_what_a_reader_looked_at_is_kept_for_the_lines_that_are_shown(tmp_path, devices):
    folder = write(tmp_path / "words", [(word, word) for word in WORDS] + [("tin", "")])
    evaluator = recognition.Evaluator(
        method=Looking(), mesh=sharding.make_mesh(devices), workdir=tmp_path,
        data=DATA | {"train": str(folder)}, batch_size=8, pictures=14,
    )  # fmt: skip
    evaluator.run(STATE, 1)
    shown = json.loads((tmp_path / "pictures/readings-words.json").read_text())["lines"]
    assert [line["reading"] for line in shown] == [*WORDS, ""]
    assert "attention" not in shown[-1]
    for line in shown[:-1]:
        data = np.frombuffer(base64.b64decode(line["attention"]), np.uint8)
        weights = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        count = len(line["reading"])
        assert weights.shape == (count, 2 * count) and line["frames"] == 2 * count
        for row, columns in enumerate(weights.tolist()):
            assert columns[2 * row : 2 * row + 2] == [255, 51] and sum(columns) == 306


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
        seen = line["characters"]
        assert "".join(char for char, *_ in seen) == truth + "u"
        # A character is every second block, and so begins and ends half a block beside its own.
        left = np.array([left for *_, left, _ in seen]) * 2 * len(seen)
        np.testing.assert_allclose(left, [max(2 * i - 0.5, 0) for i in range(len(seen))], atol=0.01)
        assert all(sure == 0.5 for _, sure, *_ in seen)


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


def test_every_labelled_line_is_written(tmp_path):
    pairs = [("tent", "tent"), ("lost", None), (None, "tin"), ("no. 5", "no 5")]
    folder = write(tmp_path / "words", pairs)
    metrics = evaluate(folder)
    found = readings.read(tmp_path / "readings-words.tsv")
    expected = [
        ("line 0", "tent", "tent", 0, 0.5),
        ("line 1", "lost", "", 4, None),  # cannot be decoded
        ("line 3", "no. 5", "no 5", 1, 0.5),
    ]
    assert found == expected
    edits, chars = sum(line.edits for line in found), sum(len(line.truth) for line in found)
    assert metrics["eval/words/cer"] == edits / chars


def test_the_readings_are_of_the_evaluation_that_the_tables_report(tmp_path):
    """Validation is lowest at step 20; there the test set is worse than at step 10, and is kept."""
    folder, log = tmp_path / "words", tmp_path / "metrics.jsonl"
    writer.write(
        folder, [("validation", draw("tint"), "tint", "v"), ("test", draw("sun"), "it", "t")]
    )
    read = []
    for step, missed in ((10, 2), (20, 1), (30, 1), (40, 2)):
        specs = f"{folder}@validation,{folder}@test"
        metrics = evaluate(folder, heads={"ctc": missed}, step=step, datasets=specs)
        with open(log, "a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        tables = (readings.file_of(tmp_path, name) for name in ("words", "words-test"))
        read.append([readings.read(table)[0].reading for table in tables])
    assert read == [["nt", "n"], ["int", "un"], ["int", "un"], ["int", "un"]]


def test_averages_over_validation_sets_are_plain_and_weighted(tmp_path):
    write(tmp_path / "a", [("tin", "tin")])
    write(tmp_path / "b", [("tin", "ti")] * 3)
    metrics = evaluate(tmp_path / "a", datasets=f"{tmp_path / 'a'},{tmp_path / 'b'}")
    assert metrics["eval/word_accuracy"] == 1 / 2 and metrics["eval/cer"] == 1 / 6
    assert metrics["eval/word_accuracy_weighted"] == 1 / 4
    assert "eval/cer_weighted" not in evaluate(tmp_path / "a")


def test_a_reader_of_blanks_is_told_what_to_do(tmp_path, capsys):
    folder = write(tmp_path / "words", [(word, "") for word in WORDS[:-1]] + [("it", "it")])
    evaluate(folder)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "words: 92 % of the lines are read as nothing" in told
    assert "config.total.steps" in told and "config.optim.lr" in told
    write(tmp_path / "more", [(word, "" if i % 2 else "t") for i, word in enumerate(WORDS)])
    evaluate(tmp_path / "more")
    assert not capsys.readouterr().err


def test_characters_outside_the_charset_are_listed_once(tmp_path, capsys):
    folder = write(tmp_path / "words", [("tînt", "tint"), ("§§ a\u0364", "t"), ("toe", "toe")])
    evaluator = recognition.Evaluator(
        method=Reader(), mesh=sharding.make_mesh(8), workdir=tmp_path,
        data=DATA | {"train": str(folder)}, batch_size=8,
    )  # fmt: skip
    evaluator.run(STATE, 1)
    evaluator.run(STATE, 2)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "5 characters of the truth are not in the charset" in told
    assert "§ (2)" in told and "î (1)" in told and "COMBINING LATIN SMALL LETTER E" in told


def test_lines_travel_between_hosts():
    texts = {"a": lines.Text("tin\t", 0.25), "b": lines.Text("", None)}
    one = lines.Line(3, "x\n§", "tin", False, texts)
    two = lines.Line(1, "y", None, True, texts)
    assert lines.unpack([lines.pack([one]), lines.pack([]), lines.pack([two])]) == [one, two]
    assert lines.over_hosts([one, two], True) == [two, one]


class Unsure(Reader):
    """CTC that takes "l" and "i" for equally likely, so that greedy reading says "i"."""

    head = types.SimpleNamespace(on_host=True)

    def logits(self, params, mutable, batch):
        ids = frames_of(batch["image"])
        hot = jax.nn.one_hot(ids, CHARSET.size) * 0.98
        i, l = (CHARSET.encode(char)[0][0] for char in "il")
        either = (hot[..., i] + hot[..., l]) / 2
        hot = hot.at[..., i].set(either * 1.01).at[..., l].set(either)
        log_p = jnp.log(hot + 1e-3)
        return {"ctc": {"logits": log_p, "length": jnp.full(len(ids), ids.shape[1])}}


def test_a_beam_with_a_language_model_reads_as_the_training_texts_are_written(tmp_path):
    words = ["list", "lost", "silent", "it"] * 3
    folder = tmp_path / "words"
    examples = [("train", draw(word), word, f"t{i}") for i, word in enumerate(words)]
    examples += [("validation", draw(word), word, f"v{i}") for i, word in enumerate(words)]
    writer.write(folder, iter(examples))
    found = {}
    for options in ({"beam": 4}, {"beam": 4, "lm": 3}):
        evaluator = recognition.Evaluator(
            method=Unsure(), mesh=sharding.make_mesh(1), workdir=tmp_path,
            data=DATA | {"train": str(folder)}, batch_size=4, **options,
        )  # fmt: skip
        found["lm" in options] = evaluator.run(STATE, 1)["eval/cer"]
    assert found[False] > 0.1 and found[True] == 0


def test_spelling_is_mended_by_the_words_of_the_training_texts(tmp_path):
    folder = tmp_path / "words"
    examples = [("train", draw("x"), "silent note", "a")]
    examples += [("validation", draw("silont note 5"), "silent note 5", "b")]
    writer.write(folder, iter(examples))
    assert evaluate(folder)["eval/cer"] > 0 == evaluate(folder, lexicon=1)["eval/cer"]


@pytest.mark.parametrize("options", [{"lm": 3}, {"lm": 3, "beam": 4}])
def test_a_language_model_without_a_ctc_beam_is_a_sentence(tmp_path, options):
    folder = tmp_path / "words"
    writer.write(folder, iter([("train", draw("tin"), "tin", "a")]))
    method = Reader()
    method.head = types.SimpleNamespace(on_host=False)
    with pytest.raises(
        ValueError, match="config.evals.recognition: lm is 3 and (beam is 1|only CTC)"
    ):
        recognition.Evaluator(
            method=method, mesh=sharding.make_mesh(1), workdir=tmp_path,
            data=DATA | {"train": str(folder)}, **options,
        )  # fmt: skip
