"""A search against what it is made of: the beam of frames, the device's beam, greedy confidences."""

import types

import jax
import numpy as np
import pytest

from dig_jax import load
from dig_jax.data import records
from dig_jax.models.decoders import ctc
from dig_jax.models.decoders.beam import NGram, prefix_beam
from dig_jax.models.decoders.search import Search, log_softmax
from dig_jax.text import Charset
from tests import readers

CHARSET = Charset("abc ")
TEXTS = ["ab ab", "abc", "ca b"]


def line(seed, frames=30):
    logits = 3.0 * np.random.default_rng(seed).normal(size=(frames + 5, CHARSET.size))
    return {"logits": logits.astype(np.float32), "length": np.int32(frames)}


@pytest.mark.parametrize("seed", range(4))
def test_a_reading_is_that_of_the_beam_with_its_weights_in_their_places(seed):
    """weight and bonus differ, so that they cannot change places unseen."""
    row = line(seed)
    search = Search(CHARSET, True, TEXTS, beam=5, lm=3, lm_weight=1.5, lm_bonus=0.25)
    lm = NGram([CHARSET.encode(text)[0] for text in TEXTS], CHARSET.size, 3)
    want = prefix_beam(log_softmax(row["logits"][:30]), 5, lm, weight=1.5, bonus=0.25)
    found = search.reading(row)
    assert found["ids"].tolist() == list(want.ids) and found["length"] == len(want.ids) > 3
    assert found["frame"].tolist() == list(want.frames) != list(range(len(want.frames)))
    np.testing.assert_allclose(found["confidence"], want.confidence, rtol=1e-6)
    assert found["line"] == pytest.approx(np.mean(want.confidence), rel=1e-6)
    of_program = {"logits": row["logits"], "length": np.int32(2), "frame_length": np.int32(30)}
    assert search.reading(of_program)["ids"].tolist() == list(want.ids)


def test_a_beam_that_reads_what_the_best_classes_say_is_as_sure_of_it():
    """Sharp frames: then places and confidences are those of `ctc.collapse`."""
    compared = 0
    for seed in range(8):
        row = line(seed)
        logits = 4.0 * row["logits"][None, :30]
        length = np.array([30])
        best = ctc.collapse(ctc.greedy(logits, length), ctc.confidence(logits), length)
        best = jax.tree.map(lambda x: np.asarray(x[0]), best)
        count = int(best["length"])
        found = Search(CHARSET, True, beam=8).reading({"logits": logits[0], "length": length[0]})
        if found["ids"].tolist() != best["ids"][:count].tolist():
            continue
        compared += 1
        np.testing.assert_allclose(found["confidence"], best["confidence"][:count], rtol=1e-5)
        assert found["line"] == pytest.approx(float(best["line"]), rel=1e-5)
    assert compared > 4


def test_a_reader_that_writes_character_by_character_searches_on_the_device():
    heads = {"ctc": {"kind": "attention", "hidden": 16}}
    options = readers.OPTIONS | {"standardize": False, "heads": heads}
    plain = readers.model(options=options)
    shape = {"image": np.zeros((1, 32, 64, 1), np.float32), "width": np.full(1, 64, np.int32)}
    state = jax.jit(plain.method().init)(jax.random.key(0), shape)
    weights = {"params": jax.tree.map(lambda x: 4.0 * x, state["params"]), "mutable": {}}
    model = readers.model(options=options, weights=weights)
    asked = []
    method = types.SimpleNamespace(predict=lambda *given, **options: asked.append(options))
    for beam in (1, 4):
        search = {"beam": beam} if beam > 1 else {}
        Search(readers.CHARSET, False, beam=beam).predict(method)(1, 2, 3)
        assert asked.pop() == search
        reader = load.Reader(model, beam=beam)
        pixels = reader.lines.prepare(readers.images()[1]).pixels
        width = -(-pixels.shape[1] // model.multiple_px) * model.multiple_px
        image = np.full((1, 32, width, 1), 255, np.uint8)
        image[0, :, : pixels.shape[1]] = pixels
        batch = {"image": image, "width": np.array([pixels.shape[1]], np.int32)}
        want = model.method().predict(weights["params"], {}, batch, **search)["ctc"]
        ids = np.asarray(want["ids"][0])[: int(want["length"][0])]
        (found,) = reader.read([readers.images()[1]])
        assert found.text == readers.CHARSET.decode(ids)
        assert found.confidence == pytest.approx(float(want["line"][0]), abs=1e-5)


def test_texts_that_teach_nothing_are_refused(tmp_path):
    for texts in ([], [""], ["\u05d0\u05d1\u05d2", "a"]):
        with pytest.raises(
            ValueError, match="texts are for an n-gram, .* name texts of its script"
        ):
            Search(CHARSET, True, texts, beam=4, lm=3)
    Search(CHARSET, True, ["ab\u05d0"], beam=4, lm=3)  # one that it lacks is left out
    for wrong in (float("nan"), -1.0, float("inf")):
        with pytest.raises(ValueError, match="lm_weight is .*: give a number from 0 on"):
            Search(CHARSET, True, TEXTS, beam=4, lm=3, lm_weight=wrong)
    for source in ("gs://bucket/texts.txt", "a line\nand another"):
        with pytest.raises(ValueError, match="names no texts: name labelled records"):
            records.texts_of(source)
    (tmp_path / "bom.txt").write_text("\ufeffab\n\ncd\n", encoding="utf-8")
    assert records.texts_of(f"{tmp_path}/bom.txt") == ["ab", "cd"]
