"""The light probe learns what features give away, tells good ones from bad ones, and is the same at
every call.
"""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax import sharding
from dig_jax.data import writer
from dig_jax.evaluators import probe
from dig_jax.evaluators.probe import Lines
from dig_jax.text import Charset
from tests.evaluators.lines import BLOCK, CHARSET, DATA, HEIGHT, SHADE, draw
from tests.jaxprs import equations

WORDS = [
    "tent",
    "list",
    "tin",
    "note",
    "inlet",
    "see",
    "toe",
    "solo",
    "nest",
    "sun",
    "unit",
    "lens",
]
OPTIONS = {"steps": 60, "batch_size": 4, "rates": (1e-3, 1e-1), "encode_batch": 8}


class Encoder:
    """Frames = one-hot class of each block, scaled and shifted by `params` a channel; 0 hides
    everything.
    """

    def encode(self, params, batch):
        ids = batch["image"][:, HEIGHT // 2, BLOCK // 2 :: BLOCK, 0].astype(jnp.int32) // SHADE
        frames = (ids[..., None] == jnp.arange(CHARSET.size)[None, None]).astype(jnp.float32)
        frames = (
            frames * (params * (1.0 + jnp.arange(CHARSET.size, dtype=jnp.float32)))[None, None]
            + 30.0
        )
        return {"tokens": frames, "frames": frames, "frame_length": -(-batch["width"] // BLOCK)}


def records(tmp_path, validation=WORDS, broken=()):
    lines = [("train", draw(word), word) for word in WORDS * 2] + [
        ("train", b"no image", word) for word in broken
    ]
    lines += [("validation", draw(word), word) for word in validation]
    writer.write(
        tmp_path / "words",
        ((split, image, text, str(i)) for i, (split, image, text) in enumerate(lines)),
    )
    return {"train": str(tmp_path / "words")} | DATA


def make(data, devices=8, **options):
    mesh = sharding.make_mesh(devices)
    return probe.Evaluator(
        method=Encoder(), mesh=mesh, workdir=None, data=data, **OPTIONS | options
    )


def cer(evaluator, params):
    metrics = evaluator.run(types.SimpleNamespace(params=params), 0)
    assert metrics.keys() == {"probe/words/cer"}
    return metrics["probe/words/cer"]


def test_good_features_are_read_and_blind_ones_are_not(tmp_path):
    evaluator = make(records(tmp_path, broken=["tin"]))
    good = cer(evaluator, 1.0)
    assert good < 0.05 and cer(evaluator, 0.0) > 0.8
    assert cer(evaluator, 1.0) == good  # deterministic
    assert (
        abs(cer(evaluator, 1e-3) - good) < 0.05
    )  # standardised: the scale of features is no merit


def test_a_long_probe_says_once_that_it_begins(tmp_path, capsys):
    data, said = records(tmp_path), "the light probe of words begins, 60 steps at 2 rates; that"
    evaluator = make(data)
    for _ in range(2):
        cer(evaluator, 1.0)
    assert capsys.readouterr().err.count(said) == 1
    cer(make(data, steps=2), 1.0)
    assert "begins" not in capsys.readouterr().err


def test_the_figure_does_not_depend_on_the_number_of_devices(tmp_path):
    data = records(tmp_path)
    assert cer(make(data, devices=1), 1.0) == cer(make(data, devices=8), 1.0)


def test_lines_that_ctc_cannot_learn_are_not_trained_on(tmp_path, monkeypatch):
    data = records(tmp_path)
    batch = [("train", draw("tin"), "tin" * 9, "too long"), ("train", draw("tin"), "tin", "a")]
    writer.write(tmp_path / "b" / "words", batch + [("validation", draw("tin"), "tin", "b")])
    seen = []
    fit = probe.fit
    monkeypatch.setattr(
        probe, "fit", lambda lines, *rest: seen.extend(lines.texts) or fit(lines, *rest)
    )
    cer(make(data | {"train": str(tmp_path / "b" / "words")}), 1.0)
    assert seen == ["tin"]


def test_validation_lines_are_not_trained_on(tmp_path):
    """A character that only validation has cannot be learnt."""
    data = records(tmp_path, validation=["5555"])
    assert cer(make(data), 1.0) >= 1.0


def test_subset_and_lines_kept(tmp_path):
    data = records(tmp_path, broken=["tin"] * 3)
    lines = probe.read_lines(data["train"] + "@train", 10, 0, Charset("a"), 8, data)
    assert sum(len(batch["valid"]) for batch, _, _ in lines) == 16  # 10 lines in batches of 8
    for batch, keep, texts in lines:
        assert batch["valid"][keep].all() and len(keep) == len(texts) == batch["valid"].sum()


def test_infeasible_lines_are_left_out():
    label = np.array([[1, 1, 0], [1, 2, 0], [1, 2, 3], [0, 0, 0]])
    lines = Lines(np.zeros((4, 3, 1)), np.array([2, 2, 2, 0]), label, ["aa", "ab", "abc", ""])
    kept, left_out = probe.feasible(lines)
    assert kept.texts == ["ab", ""] and left_out == 2 and len(kept.frames) == 2


def test_moments_over_real_frames_only():
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((3, 4, 2)).astype(np.float32) * 5 + 100
    length = np.array([4, 1, 2])
    real = np.concatenate([frame[:n] for frame, n in zip(frames, length)]).astype(np.float64)
    frames[1, 1:] = 1e9
    mean, std = probe.moments(Lines(frames, length, np.zeros((3, 1)), []))
    np.testing.assert_allclose(mean, real.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, real.std(axis=0), rtol=1e-4)


def test_training_records_without_labels_get_no_probe(tmp_path, caplog):
    """The main use of pre-training must not fail for the lack of labels; sets named on purpose must
    have them.
    """
    labelled = records(tmp_path)
    images = [("train", draw("tin"), None, "a"), ("validation", draw("tin"), None, "b")]
    writer.write(tmp_path / "images", images)
    writer.write(tmp_path / "split", [("train", draw("tin"), "tin", "a")])
    for name in ("images", "split"):
        data = labelled | {"train": f"{labelled['train']},{tmp_path / name}"}
        assert cer(make(data), 1.0) < 0.05
        assert f"no light probe on {name}" in caplog.text and "probe=none" in caplog.text
        caplog.clear()
        alone = make(data | {"train": str(tmp_path / name)})
        assert alone.run(types.SimpleNamespace(params=1.0), 0) == {}
        with pytest.raises(ValueError, match=f"config.evals.probe.sets.*{name}"):
            make(data, sets=str(tmp_path / name))


def test_many_classes_are_never_held_for_all_rates_lines_and_frames_at_once():
    """5,000 classes: no array of a program is larger than one batch's (or one line's) logits."""
    rates, count, batch, frames, width, classes = 3, 64, 4, 50, 8, 5000
    shape = jax.ShapeDtypeStruct
    lines = Lines(
        shape((count, frames, width), jnp.float32),
        shape((count,), jnp.int32),
        shape((count, 6), jnp.int32),
        None,
    )
    order, sweep = shape((5, batch), jnp.int32), shape((rates,), jnp.float32)
    fitted = jax.make_jaxpr(probe._fit, static_argnums=3)(lines, order, sweep, classes)
    heads = {
        "kernel": shape((rates, width, classes), jnp.float32),
        "bias": shape((rates, classes), jnp.float32),
    }
    read = jax.make_jaxpr(probe.read)(heads, lines.frames)
    limits = {"fit": batch * frames * classes, "read": max(frames, rates * width) * classes}
    for (name, limit), program in zip(limits.items(), (fitted, read)):
        assert largest(program.jaxpr) <= limit, name


def largest(jaxpr) -> int:
    """Numbers in the largest array that a program makes, in the programs inside it too."""
    return max(
        (math.prod(var.aval.shape) for eqn in equations(jaxpr) for var in eqn.outvars), default=0
    )


def test_products_are_exact_on_every_device():
    """ "highest" on the product; the default is bfloat16 or TF32 on accelerators."""
    frames, head = jnp.zeros((2, 3)), {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}
    text = str(jax.make_jaxpr(probe._logits)(head, frames))
    assert "HIGHEST" in text


def test_no_readable_line_is_a_sentence(tmp_path):
    data = records(tmp_path)
    evaluator = make(data)
    charset, train, validation = evaluator.sets["words"]
    nothing = [(batch, keep[:0], []) for batch, keep, _ in train]
    with pytest.raises(ValueError, match="labelled records"):
        evaluator.cer(1.0, charset, nothing, validation)


def test_labels_from_right_to_left_are_learnt_in_the_order_of_the_picture(tmp_path):
    """Latin letters stand for the glyphs, of which the first of a word is drawn on the right."""
    glyphs = dict(zip("אבגדהוזח", CHARSET.chars[1:]))
    words = ["אבג", "דהוז", "חאב", "הגדבא", "זחו"]
    drawn = lambda word: draw("".join(glyphs[letter] for letter in reversed(word)))
    rows = [("train", drawn(w), w) for w in words * 8] + [
        ("validation", drawn(w), w) for w in words
    ]
    writer.write(tmp_path / "words", ((*row, str(i)) for i, row in enumerate(rows)))
    data = {"train": str(tmp_path / "words")} | DATA
    assert cer(make(data, steps=200), 1.0) < 0.05


def test_two_sets_of_one_name_and_too_few_lines_are_sentences(tmp_path):
    data = records(tmp_path)
    writer.write(tmp_path / "b/words", [("train", draw("on"), "on", "0")] * 2)
    both = {**data, "train": f"{data['train']},{tmp_path}/b/words"}
    with pytest.raises(ValueError, match="would both be called words: rename one"):
        make(both)
    with pytest.raises(ValueError, match="train_lines is 1: set config.evals.probe.train_lines"):
        make(data, train_lines=1)


def test_validation_by_another_name_is_a_probe_too(tmp_path):
    rows = [("train", draw(word), word) for word in WORDS * 2]
    rows += [("val", draw(word), word) for word in WORDS]
    writer.write(tmp_path / "words", ((*row, str(i)) for i, row in enumerate(rows)))
    assert probe.unlabelled(str(tmp_path / "words")) == ""
    assert cer(make({"train": str(tmp_path / "words")} | DATA), 1.0) < 0.05
    writer.write(tmp_path / "none", ((*row, str(i)) for i, row in enumerate(rows[:9])))
    assert probe.unlabelled(str(tmp_path / "none")) == "no split 'validation'"
