"""What a search is made of: the labels of the run, the same for a language model and a lexicon."""

import json
import types

import numpy as np
import pytest

from dig_jax.data import records as lines
from dig_jax.data import writer
from dig_jax.evaluators import as_texts
from dig_jax.text import Charset
from dig_jax.train import command_line
from dig_jax.train.experiment import completed

TEXTS = ("Das Haus steht dort", "Strasse am Wasser")


def records(folder):
    image = writer.encode_image(np.full((48, 200, 1), 200, np.uint8), "png")
    writer.write(folder, (("train", image, text, f"{i}") for i, text in enumerate(TEXTS * 20)))
    return str(folder)


def test_a_lexicon_has_its_words_beside_a_language_model_too(tmp_path):
    data = {"train": records(tmp_path / "words")}
    head = types.SimpleNamespace(on_host=True)
    method = types.SimpleNamespace(
        charset=Charset.from_texts(TEXTS), head=head, predict=None, logits=None
    )
    for options in ({"lexicon": 1}, {"lexicon": 1, "lm": 3, "beam": 16}):
        made = as_texts.Texts(method, data, **options)
        assert made.lexicon.correct("steho") == "steht", options


def test_more_texts_come_from_records_or_a_file_of_lines(tmp_path):
    data = {"train": records(tmp_path / "words")}
    (tmp_path / "more.txt").write_text("ein Schiff\n\nfa\u0308hrt\n", encoding="utf-8")
    head = types.SimpleNamespace(on_host=True)
    method = types.SimpleNamespace(
        charset=Charset.from_texts((*TEXTS, "ein Schiff f\u00e4hrt")), head=head, predict=None
    )
    made = as_texts.Texts(method, data, lexicon=1, texts=f"{tmp_path}/more.txt")
    assert {"Haus", "Schiff", "f\u00e4hrt"} <= made.lexicon.known  # in NFC, as labels are
    other = {"train": records(tmp_path / "other")}
    assert lines.texts_of(other["train"]) == list(as_texts.training_texts(other))
    head.on_host, method.logits = True, None
    options = {"lm": 3, "beam": 4, "texts": f"{tmp_path}/more.txt"}
    ids = lambda text: tuple(method.charset.encode(text)[0])
    (word,) = {ids("Schiff")}
    known, own = (
        as_texts.Texts(method, data, **more).search.options["lm"].log_p(word[:2], word[2])
        for more in (options, {"lm": 3, "beam": 4})
    )
    assert known > own + 1  # the n-gram has learnt them, too
    with pytest.raises(ValueError, match="nothing reads them: set lm to 4"):
        as_texts.Texts(method, data, texts="records/none")
    with pytest.raises(FileNotFoundError):
        lines.texts_of(f"{tmp_path}/none.txt")
    (tmp_path / "latin.txt").write_bytes("f\u00e4hrt".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.txt is not in UTF-8"):
        lines.texts_of(f"{tmp_path}/latin.txt")


def test_an_evaluation_takes_the_labels_that_the_run_had_and_no_others(tmp_path):
    """Also which line is the widest. Records that the run has not seen count as a whole."""
    run = tmp_path / "run"
    run.mkdir()
    args = (
        f"scratch:records={records(tmp_path / 'words')},labels=10,seed=3,size=cnn_nano,head=linear"
    )
    config = command_line.load(args)
    config.data.max_width_px = 900
    theirs = completed(config.to_dict())
    (run / "config.json").write_text(json.dumps(theirs))
    evaluate = command_line.load("evaluate")
    evaluate.init_from = str(run)
    data = completed(evaluate.to_dict())["data"]
    for name in ("subset", "subset_seed", "subset_order", "max_width_px", "max_pixels"):
        assert data[name] == theirs["data"][name], name
    assert len(as_texts.training_texts(data)) == 10
    evaluate.data.train = records(tmp_path / "others")  # of which that choice is none
    assert len(as_texts.training_texts(completed(evaluate.to_dict())["data"])) == 40
    assert as_texts.training_texts(data) == as_texts.training_texts(theirs["data"])
