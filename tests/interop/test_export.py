"""Exports: come back as they were, prove themselves or disappear, need no Grain, TFDS or Orbax."""

import dataclasses
import functools
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export as jax_export
from orbax.checkpoint import v1 as ocp
from rapidfuzz.distance import Levenshtein
from safetensors.numpy import load_file, save_file

import dig_jax
from dig_jax import load
from dig_jax.data.line_images import Preparation
from dig_jax.interop import export, onnx, parity, safetensors, stablehlo
from dig_jax.interop import model as models
from dig_jax.tools import export as tool
from tests import compiled, readers
from tests.tiers import tiers

BLOCKED = """
import sys
for name in ("grain", "tensorflow_datasets", "orbax", "array_record", "ml_collections"):
    sys.modules[name] = None
import dig_jax
print(dig_jax.load_reader(sys.argv[1]).read(sys.argv[2], batch_size=1)[0].text)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def lines():
    return [readers.model().preparation(image) for image in readers.images()]


@pytest.fixture(scope="module")
def texts():
    """Of the first lines, which fit into one batch."""
    return [reading.text for reading in load.Reader(readers.model()).read(readers.images()[:3], 4)]


@pytest.fixture(scope="module")
def exported(folder, lines):
    return export.write(readers.model(), "safetensors", folder / "safe", lines, "typeset lines")


def test_safetensors_come_back_as_they_were(folder, exported, texts):
    assert exported["float32"]["difference"]["confidence"] == 0
    back = dig_jax.load_reader(folder / "safe").read(readers.images()[:3], 4)
    assert [reading.text for reading in back] == texts
    kept = json.loads((folder / "safe" / "parity.json").read_text())
    assert (
        kept["lines"] == len(readers.TEXTS)
        and len({tuple(shape) for shape in kept["batches"]}) == 3
    )
    card = (folder / "safe" / "card.md").read_text()
    assert "step 7 of the run tiny" in card and "2nd percentile" in card
    arrays = load_file(folder / "safe" / "weights.safetensors")  # as the card says
    modes = {file.stat().st_mode for file in (folder / "safe").iterdir()}
    assert len(modes) == 1, "who may read the card may read the weights"
    assert "params/encoder/conv_0/conv/kernel" in arrays or any(
        name.startswith("params/encoder/") for name in arrays
    )


def test_an_export_brings_its_n_gram_along(lines, texts, tmp_path):
    """It is read with, unless another search is asked for; a program without frames has none."""
    given = {"beam": 4, "lm": 3, "lm_weight": 2.0, "lm_bonus": 1.5, "texts": readers.TEXTS}
    model = tool.with_ngram(readers.model(), given)
    assert model.search["lm"].order == 3 and model.search["beam"] == 4
    export.write(model, "safetensors", tmp_path / "safe", lines)
    images = readers.images()[:3]
    read = lambda **search: [
        line.text for line in dig_jax.load_reader(tmp_path / "safe", **search).read(images, 4)
    ]
    want = [line.text for line in load.Reader(readers.model(), **given).read(images, 4)]
    assert read() == want != texts
    assert read(beam=1) == texts == read(lm=0)
    narrow = load.Reader(readers.model(), **given | {"beam": 2}).read(images, 4)
    assert read(beam=2) == [line.text for line in narrow]  # of its own n-gram, narrower
    assert read(**given | {"lm_weight": 0.0, "lm_bonus": 9.0}) != want
    again = models.open_model(tmp_path / "safe", "reader")
    assert again.search["lm_weight"] == 2.0 and not again.alone().search
    card = (tmp_path / "safe" / "card.md").read_text()
    assert "an n-gram of characters, of order 3" in card and "lm_weight 2, lm_bonus 1.5" in card
    left_out = "leave it out with --lm=0, or export a reader with CTC to safetensors, orbax, onnx"
    with pytest.raises(ValueError, match=left_out):
        export.write(model, "stablehlo", tmp_path / "hlo", lines)
    unset = dict.fromkeys(given)
    for some in ({"lm": 0}, {"beam": 1}, {"beam": 1, "lm": 0}):
        assert not tool.with_ngram(model, unset | some).search
    assert tool.with_ngram(model, unset).search == model.search
    with pytest.raises(ValueError, match="give --texts"):
        tool.with_ngram(model, unset | {"lm": 0, "lm_weight": 1.0})
    with pytest.raises(ValueError, match="learnt of texts for a reader: give --texts"):
        tool.with_ngram(readers.model(), given | {"texts": None})
    (tmp_path / "safe" / models.NGRAM).write_bytes(b"none")
    with pytest.raises(ValueError, match="ngram.npz cannot be read .*: export it again"):
        dig_jax.load_reader(tmp_path / "safe")


@pytest.mark.slow
def test_an_export_is_read_without_grain_tfds_and_orbax(folder, exported, texts, tmp_path):
    path = readers.files(tmp_path)[1]
    command = [sys.executable, "-c", BLOCKED, str(folder / "safe"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip("\n") == texts[1]


def test_orbax_comes_back_and_opens_with_orbax_alone(folder, lines, texts):
    found = export.write(readers.model(), "orbax", folder / "orbax", lines)
    assert max(found["float32"]["difference"].values()) == 0
    back = dig_jax.load_reader(folder / "orbax").read(readers.images()[:3], 4)
    assert [reading.text for reading in back] == texts
    weights = ocp.load((folder / "orbax" / "weights").resolve())
    kernel = readers.weights()["params"]["heads"]["ctc"]["classify"]["kernel"]
    np.testing.assert_array_equal(weights["params"]["heads"]["ctc"]["classify"]["kernel"], kernel)


def test_lines_that_ship_with_a_model_prove_its_export(tmp_path):
    (tmp_path / "lines").mkdir()
    readers.files(tmp_path / "lines")
    lines, about = tool.proof_lines(readers.model(), [], tmp_path)
    assert about == "lines of the model" and len(lines) == len(readers.TEXTS)
    for beside in (None, tmp_path / "lines"):
        assert tool.proof_lines(readers.model(), [], beside)[1] == "typeset lines"


def test_an_encoder_that_a_tpu_trained_is_read_elsewhere(tmp_path):
    """A kernel that the run stated and this machine lacks does not keep anybody from reading."""
    network = {"kind": "vit", "patch": (32, 4), "width": 16, "depth": 1, "heads": 2}
    network |= {"dtype": "float32", "attention": "blocks"}
    preparation = dataclasses.replace(readers.model().preparation, height_px=32)
    shapes = models.shapes({"encoder": network}, None, preparation)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    here = models.Model("encoder", {"encoder": network}, preparation, weights, None, {})
    lines = [preparation(image) for image in readers.images()]
    export.write(here, "safetensors", tmp_path / "there", lines)
    described = json.loads((tmp_path / "there" / "config.json").read_text())
    described["method"]["encoder"]["attention"] = "flash"
    (tmp_path / "there" / "config.json").write_text(json.dumps(described))
    read = dig_jax.load_encoder(tmp_path / "there")(readers.images()[:1])
    np.testing.assert_array_equal(
        read[0].frames, load.Encoder(here)(readers.images()[:1])[0].frames
    )


def encoder_of_one_width(position, squeeze_px=None, columns=32):
    """An encoder whose positions end, as imports have it."""
    network = {"kind": "vit", "patch": (32, 4), "width": 16, "depth": 1, "heads": 2}
    network |= {"dtype": "float32", "position": position, "flat_columns": columns}
    preparation = Preparation(height_px=32, channels=1, squeeze_px=squeeze_px)
    shapes = models.shapes({"encoder": network}, None, preparation)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    weights = {"mutable": {}} | weights
    return models.Model("encoder", {"encoder": network}, preparation, weights, None, {})


@pytest.mark.parametrize("format", tiers(["safetensors", "torch", "onnx", "stablehlo"], first=3))
@pytest.mark.parametrize(
    "position, squeeze_px, columns",
    [("flat_1d", 128, 32), ("learned", 128, 32), ("learned", None, 50)],
)
def test_encoders_whose_positions_end_are_exported(format, position, squeeze_px, columns, tmp_path):
    """Squeezed, as imports are, or with a table of a width of one's own."""
    if format == "onnx":
        pytest.importorskip("onnxruntime", reason=onnx.INSTALL)
    model = encoder_of_one_width(position, squeeze_px, columns)
    lines, _ = tool.proof_lines(model, [])
    found = export.write(model, format, tmp_path / "out", lines)
    wide = {shape[2] for shape in found["batches"]}
    assert wide == {128} if squeeze_px else max(wide) <= 200 and len(wide) > 1
    assert len({tuple(shape) for shape in found["batches"]}) == parity.BATCHES
    if format in ("onnx", "stablehlo"):
        said = "the width is 128 px" if squeeze_px else "a multiple of 8 px, up to 200 px"
        card = (tmp_path / "out" / "card.md").read_text()
        assert said in card and f"image = np.full((1, 32, {128 if squeeze_px else 8}, 1)" in card


def test_a_line_wider_than_the_table_is_named_and_the_others_do_not_suffer(tmp_path):
    """200 px are exactly what was asked for, and no multiple of the usual 32."""
    grey = lambda wide: np.random.default_rng(0).integers(0, 256, (32, wide), np.uint8)
    model = encoder_of_one_width("learned", columns=50)
    narrow, exact, wide = load.Encoder(model)([grey(100), grey(200), grey(400)])
    assert (len(narrow.frames), len(exact.frames)) == (25, 50)
    assert "400 px wide" in wide.error and "end at 200 px: cut it" in wide.error
    lines = [model.prepared(grey(wide)) for wide in (20, 40, 60)]
    small = encoder_of_one_width("learned", columns=25)  # narrower than what shapes are made of
    export.write(small, "safetensors", tmp_path / "small", lines)
    (found,) = dig_jax.load_encoder(tmp_path / "small")(grey(100))
    assert found.frames.shape == (25, 16) and not found.error


@pytest.mark.slow
def test_an_encoder_is_exported_alone(folder, lines):
    model = readers.model().alone()
    export.write(model, "safetensors", folder / "encoder", lines)
    one, other = (
        encoder(readers.images()[:2], 2)
        for encoder in (dig_jax.load_encoder(folder / "encoder"), load.Encoder(model))
    )
    np.testing.assert_array_equal(one[1].frames, other[1].frames)
    with pytest.raises(ValueError, match="an encoder and no reader"):
        dig_jax.load_reader(folder / "encoder")


@pytest.mark.slow
def test_a_stablehlo_program_reads_lines_of_any_number_and_width(folder, lines):
    found = export.write(readers.model(), "stablehlo", folder / "hlo", lines)
    assert found["float32"]["ids_differ"] == 0 and found["bfloat16"]["ids"] > 50
    program = jax_export.deserialize(bytearray((folder / "hlo" / "model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    plain = stablehlo.of_dtype(readers.model(), "float32")
    jit = functools.partial(jax.jit, compiler_options=compiled.FOR_USERS)
    ours, theirs = jit(plain.function()), jit(program.call)
    narrow = parity.batches(lines, plain.multiple_px)[:1]
    found = parity.compare(
        lambda batch: ours(plain.weights, dict(batch)),
        lambda batch: theirs(batch["image"], batch["width"]),
        narrow,
    )
    assert found["difference"]["confidence"] < 1e-5 and found["ids"] > 10
    image = np.full((5, 32, 96, 1), 255, np.uint8)
    reading = program.call(image, np.full(5, 90, np.int32))
    assert reading["ids"].shape[0] == 5 and set(reading) == {
        "ids",
        "length",
        "confidence",
        "frame",
        "line",
    }
    with pytest.raises(ValueError, match="holds a compiled program"):
        dig_jax.load_reader(folder / "hlo")


def test_the_help_says_that_graphs_decode_inside():
    assert "onnxruntime; decoding inside, by CTC logits, too" in tool.__doc__


def test_a_program_with_an_lstm_has_free_rows_and_width():
    heads = {"ctc": {"kind": "bilstm", "hidden": 8}}
    model = readers.model(options=readers.OPTIONS | {"heads": heads})
    shapes = models.shapes(model.options, model.charset, model.preparation)
    weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    model = dataclasses.replace(model, weights=weights)
    (batch, width), _ = jax.tree.flatten(stablehlo.exported(model).in_avals)
    assert str(batch.shape) == "(b, 32, 32*w, 1)" and str(width.shape) == "(b,)"


def test_a_program_of_positions_that_end_takes_any_narrower_width():
    for position, columns, width in (("flat_1d", 32, "32*w"), ("learned", 50, "8*w")):
        program = stablehlo.exported(encoder_of_one_width(position, columns=columns))
        (batch, _), _ = jax.tree.flatten(program.in_avals)
        assert str(batch.shape) == f"(b, 32, {width}, 1)"


@pytest.mark.slow
def test_an_export_that_differs_is_deleted(folder, lines, monkeypatch):
    def damaged(where, weights, *more):
        head = weights["params"]["heads"]["ctc"]["classify"]
        bent = {"ctc": {"classify": {"kernel": head["kernel"] * 1.01, "bias": head["bias"]}}}
        write(where, weights | {"params": weights["params"] | {"heads": bent}}, *more)

    write = safetensors.write
    monkeypatch.setattr(safetensors, "write", damaged)
    with pytest.raises(parity.Differs, match="the export"):
        export.write(readers.model(), "safetensors", folder / "bad", lines)
    monkeypatch.setattr(stablehlo, "PROGRAMS", {"float32": ("model.stablehlo", -1.0, 0.0)})
    with pytest.raises(parity.Differs):
        export.write(readers.model(), "stablehlo", folder / "bad", lines)
    assert not (folder / "bad").exists() and not (folder / "bad.partial").exists()


def reading(ids, length, confidence):
    outputs = {"ids": [ids], "length": [length], "confidence": [confidence]}
    return {name: np.array(value) for name, value in outputs.items()}


def test_what_lies_behind_a_line_does_not_count_and_nan_does():
    ours = reading([1, 2, 3], 2, [1.0, 1.0, 1.0])
    compare = lambda theirs: parity.compare(lambda b: ours, lambda b: theirs, [None])
    found = compare(reading([1, 2, 9], 2, [1.0, 0.5, 0.1]))
    assert found["difference"]["confidence"] == 0.5
    assert found["ids_differ"] == 0 and found["ids"] == 2
    found = compare(reading([1, 2, 9], 3, [0.0, 0.0, 0.0]))  # another text: only that counts
    assert found["ids_differ"] == 1 and not found["difference"]
    with pytest.raises(parity.Differs, match="reads 1 of 2 characters otherwise"):
        parity.check(found, 1.0, 0.1)
    with pytest.raises(parity.Differs, match="confidence by inf"):
        parity.check(compare(reading([1, 2, 0], 2, [np.nan, 1.0, 1.0])), 1e9)


def test_bundled_weights_are_halves_with_a_card(folder, lines, texts, exported, monkeypatch):
    about = "## Licence\n\nCC BY 4.0, from the scans of NAME."
    monkeypatch.setitem(export.STORED, "float16", (0.05, 0.1))  # random weights read near borders
    given = (readers.model(), "safetensors", folder / "bundled" / "tiny", lines, "", "float16")
    found = export.write(*given, about)
    assert 0 < found["float16"]["difference"]["confidence"] < 0.05
    monkeypatch.setattr(models, "BUNDLED", folder / "bundled")
    back = dig_jax.load_reader("tiny").read(readers.images()[:3], 4)
    wrong = sum(Levenshtein.distance(line.text, text) for line, text in zip(back, texts))
    assert wrong <= 0.1 * len("".join(texts))
    whole, half = (
        (folder / name / "weights.safetensors").stat().st_size for name in ("safe", "bundled/tiny")
    )
    assert half < 0.6 * whole
    assert about in (folder / "bundled" / "tiny" / "card.md").read_text()
    with pytest.raises(FileNotFoundError, match=r"bundled weights \(tiny\)"):
        dig_jax.load_reader("tinny")
    with pytest.raises(ValueError, match="float16"):
        export.write(readers.model(), "orbax", folder / "half", lines, "", "float16")


def test_weights_that_ship_have_a_card_with_licence_and_are_small():
    folders = [models.BUNDLED / name for name in models.bundled()]
    for one in folders:
        described = json.loads((one / "config.json").read_text())
        assert described["export"]["format"] == "safetensors"
        card = (one / "card.md").read_text()
        assert "**Licence" in card and ("CC BY 4.0" in card or "generated" in card)
        for text in (card, (one / "config.json").read_text()):
            assert not re.search(r"/(root|home|work|tmp|Users)/", text), "a folder of one machine"
    sizes = [file.stat().st_size for one in folders for file in one.rglob("*")]
    assert sum(sizes) < 25e6


KINDS = {
    "attention": {"kind": "attention", "hidden": 8, "reach": 1},
    "transformer": {"kind": "transformer", "width": 8, "depth": 1, "heads": 2, "inner": 16},
    "glimpse": {"kind": "glimpse", "hidden": 8},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiers(KINDS))
def test_a_program_holds_the_loop_of_other_readers(kind, folder, lines, monkeypatch):
    """Greedy decoding, whose number of steps depends on the line, is inside."""
    options = readers.OPTIONS | {"heads": {"ar": KINDS[kind]}}
    shapes = models.shapes(options, readers.CHARSET, readers.model().preparation)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), shapes)
    model = readers.model(options=options, weights=weights)
    only = {"float32": stablehlo.PROGRAMS["float32"]}
    monkeypatch.setattr(stablehlo, "PROGRAMS", only)
    monkeypatch.setattr(parity, "BATCHES", 2)
    found = export.write(model, "stablehlo", folder / kind, lines[:3])
    assert found["float32"]["ids_differ"] == 0 and found["float32"]["ids"] > 10
    assert found["float32"]["difference"]["confidence"] < 1e-4
    program = jax_export.deserialize(bytearray((folder / kind / "model.stablehlo").read_bytes()))
    (batch, _), _ = jax.tree.flatten(program.in_avals)
    assert str(batch.shape) == "(b, 32, 32*w, 1)"


def test_what_is_wrong_is_said_in_one_sentence(folder, exported, lines, tmp_path):
    with pytest.raises(FileExistsError, match="exists"):
        export.write(readers.model(), "orbax", folder / "safe", lines)
    with pytest.raises(ValueError, match="give at least 3"):
        export.write(readers.model(), "orbax", tmp_path / "few", lines[:2])
    program = readers.model(weights={}, program=lambda batch: {})
    with pytest.raises(ValueError, match="is a program, so there are no weights"):
        export.write(program, "safetensors", tmp_path / "program", lines)
    for name in ("config.json", "charset.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((folder / "safe" / name).read_bytes())
    arrays = load_file(tmp_path / "weights.safetensors")
    bias = next(name for name in arrays if name.endswith("bias"))
    for broken in ({**arrays, "extra": arrays[bias]}, {**arrays, bias: arrays[bias][:1]}):
        save_file(broken, tmp_path / "weights.safetensors")
        with pytest.raises(ValueError, match="do not fit its config.json"):
            dig_jax.load_reader(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="cannot be read"):
        dig_jax.load_reader(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["export"]["layout"] = 99
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="layout 99"):
        dig_jax.load_reader(tmp_path)
