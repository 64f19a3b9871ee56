"""Readers and encoders of images: the evaluator's numbers, any kind of image, bad ones named."""

import json
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

import dig_jax
from dig_jax import load, sharding
from dig_jax.data.line_images import Preparation
from dig_jax.evaluators import recognition
from dig_jax.interop import model
from dig_jax.models.decoders.search import Search
from dig_jax.train import experiment
from tests import readers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines")
    spec = readers.records(folder / "records")
    readers.run(folder / "run", spec)
    readers.files(folder)
    return folder


@pytest.fixture(scope="module")
def reader(folder):
    return dig_jax.load_reader(folder / "run")


@pytest.fixture(scope="module")
def read(folder, reader):
    return reader.read(sorted(folder.glob("*.png")), batch_size=4)


def test_importing_is_cheap():
    code = (
        "import sys, dig_jax; assert not {'jax', 'numpy', 'grain'} & set(sys.modules);"
        "assert dig_jax.__version__ and 'load_reader' in dir(dig_jax)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_gives_the_numbers_of_the_evaluator(folder, read):
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    given = {"mesh": mesh, "workdir": folder / "eval", "data": readers.DATA}
    spec = {"lines": f"{folder / 'records'}@validation"}
    evaluator = recognition.Evaluator(method=readers.method(), datasets=spec, batch_size=3, **given)
    lines, _ = evaluator.evaluated("lines", readers.state())
    assert len({line.texts["ctc"].text for line in lines}) > 4  # it does read
    for line, reading in zip(lines, read, strict=True):
        assert reading.text == line.texts["ctc"].text
        assert reading.confidence == pytest.approx(line.texts["ctc"].confidence, abs=1e-5)


def test_a_beam_reads_as_the_evaluator_does(folder, read, tmp_path):
    """With an n-gram of texts that are named, of a file or of records, or given as they are."""
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(readers.TEXTS), encoding="utf-8")
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    given = {"mesh": mesh, "workdir": tmp_path, "data": readers.DATA | {"train": "unused"}}
    given["datasets"] = {"lines": f"{folder / 'records'}@validation"}
    search = {"beam": 4, "lm": 3, "lm_weight": 2.0, "lm_bonus": 1.5}
    evaluator = recognition.Evaluator(method=readers.method(), batch_size=3, **given)
    evaluator.texts.search = Search(readers.CHARSET, True, readers.TEXTS, **search)
    evaluator.predict = jax.jit(evaluator.texts.search.predict(readers.method()))
    lines, _ = evaluator.evaluated("lines", readers.state())
    paths = sorted(folder.glob("*.png"))
    for source in (texts, f"{folder / 'records'}@validation", readers.TEXTS):
        reader = dig_jax.load_reader(folder / "run", texts=source, **search)
        found = reader.read(paths, batch_size=4)
        for line, reading in zip(lines, found, strict=True):
            assert reading.text == line.texts["ctc"].text
            assert reading.confidence == pytest.approx(line.texts["ctc"].confidence, abs=1e-5)
            assert len(reading.characters) == len(reading.text)
            assert all(0 <= c.left < c.right for c in reading.characters)
    assert [one.text for one in found] != [one.text for one in read]  # the n-gram does choose
    (nothing,) = reader.read([b"no image"])
    assert "not an image" in nothing.error


def test_a_search_that_cannot_be_is_a_sentence(folder):
    for words, search in (
        ("lm is 4 and there are no texts .* texts=records/mine", {"lm": 4, "beam": 8}),
        ("texts are for an n-gram, and lm is 0", {"texts": ["a"], "lm": 0}),
        ("lm is 4 and beam is 1: set lm to 0, or beam to 8", {"beam": 1, "texts": ["a"]}),
        ("beam is 0: set it to 1", {"beam": 0}),
        ("lm_weight is 2.0 and there is no n-gram that it weighs", {"lm_weight": 2.0, "beam": 8}),
        ("lm_bonus is 1.0 and there is no n-gram that it weighs", {"lm_bonus": 1.0}),
        ("order 9: set lm to a number from 1 to 6", {"lm": 9, "beam": 2, "texts": ["a"]}),
    ):
        with pytest.raises(ValueError, match=words):
            dig_jax.load_reader(folder / "run", **search)
    with pytest.raises(FileNotFoundError):
        dig_jax.load_reader(folder / "run", lm=4, beam=8, texts=folder / "none.txt")


def test_a_reading_does_not_depend_on_its_batch(folder, reader, read):
    again = reader.read(sorted(folder.glob("*.png"))[::-1], batch_size=64)[::-1]
    for one, other in zip(read, again, strict=True):
        assert one.name == other.name and one.text == other.text
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


def test_few_programs_are_compiled(folder, reader):
    reader.read(sorted(folder.glob("*.png")), batch_size=4)
    before = len(reader.lines.programs)
    reader.read(sorted(folder.glob("*.png")), batch_size=4)
    assert len(reader.lines.programs) == before <= 4
    widths = np.random.default_rng(0).integers(40, 900, 500)
    plan = list(load.batches(widths, 32))
    assert sorted(np.concatenate([lines for lines, _ in plan])) == list(range(500))
    assert len({width for _, width in plan}) <= load.WIDTHS
    assert all((widths[lines] <= width).all() and len(lines) <= 32 for lines, width in plan)


def test_a_program_of_any_shape_gets_small_batches_without_slack():
    widths = np.random.default_rng(0).integers(40, 900, 50)
    plan = list(load.narrow_batches(widths, 32, 32))
    assert sorted(np.concatenate([lines for lines, _ in plan])) == list(range(50))
    for lines, width_px in plan:
        assert len(lines) <= load.PROGRAM_ROWS and 0 <= width_px - widths[lines].max() < 32
    assert not list(load.narrow_batches([], 32, 32))


def test_all_kinds_of_images_are_read_alike(folder, reader, read):
    path = sorted(folder.glob("*.png"))[1]
    data = path.read_bytes()
    grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    alpha = np.dstack([grey, np.full_like(grey, 255)])
    kinds = [str(path), data, grey, grey[:, :, None], np.dstack([grey] * 3), opaque, alpha]
    kinds += [grey / 255, grey.astype(np.uint16) * 257, Image.open(path)]
    for reading in reader.read(kinds, batch_size=4):
        assert not reading.error and reading.text == read[1].text, reading.name
    for alone in (path, data, memoryview(data), grey, opaque, alpha, Image.open(path)):
        assert [x.text for x in reader.read(alone, batch_size=4)] == [read[1].text], type(alone)
    column = np.empty(2, object)
    column[:] = [grey, data]
    for several in (np.array([str(path)] * 2), np.array([path, path]), column):
        assert [x.text for x in reader.read(several, batch_size=4)] == [read[1].text] * 2
    (found,) = reader.read(np.zeros(4), batch_size=4)
    assert "shape (4,) is no image" in found.error
    stack = np.stack([grey, grey])
    assert [x.text for x in reader.read(stack, batch_size=4)] == [read[1].text] * 2


def test_colours_become_greys_as_those_of_files_do(folder):
    colours = np.random.default_rng(0).integers(0, 256, (9, 30, 3), np.uint8)
    stored = cv2.imencode(".png", colours[:, :, ::-1])[1].tobytes()
    grey, colour = (Preparation(height_px=9, channels=n) for n in (1, 3))
    for prepare in (grey, colour):
        np.testing.assert_array_equal(prepare(colours).pixels, prepare(stored).pixels)
    assert colour(colours[:, :, 0]).pixels.shape == (9, 30, 3)


def test_bad_images_are_named_and_stop_nothing(folder, reader, read):
    wide = np.zeros((1, 3000), np.uint8)
    bad = [folder / "none.png", b"no image", np.zeros((2, 3, 5)), np.zeros((0, 4)), wide, b"", 3]
    good = sorted(folder.glob("*.png"))[:2]
    found = reader.read([*bad, *good], batch_size=4)
    words = ["No such file", "not an image", "shape (2, 3, 5)", "shape (0, 4", "wider", "empty"]
    for reading, word in zip(found, [*words, "shape ()"]):
        assert word in reading.error and not reading.text and not reading.characters
    assert [x.text for x in found[len(bad) :]] == [x.text for x in read[:2]]
    assert found[0].name.endswith("none.png") and found[1].name == "image 1"


def test_characters_stand_in_pixels_of_the_image_as_given(folder, reader, read):
    path = sorted(folder.glob("*.png"))[2]
    grey = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    for reading in read:
        assert "".join(c.char for c in reading.characters) == reading.text
        edges = [(c.left, c.right) for c in reading.characters]
        assert all(left <= right for left, right in edges) and edges == sorted(edges)
    last = read[2].characters[-1].right
    assert 0.7 * grey.shape[1] < last <= grey.shape[1]
    prepared = reader.lines.prepare(path).pixels[:, :, 0]  # what the network saw, itself an image
    plain = load.Reader(readers.model(preparation=Preparation(height_px=32, channels=1)))
    (small,) = plain.read([prepared], batch_size=1)
    assert small.text == read[2].text
    ratio = grey.shape[1] / prepared.shape[1]
    assert last == pytest.approx(small.characters[-1].right * ratio, abs=1e-3)


def test_neighbours_meet_halfway():
    assert load.places(np.array([], int)).shape == (0, 2)
    np.testing.assert_allclose(load.places(np.array([3])), [[2.5, 4.5]])
    np.testing.assert_allclose(
        load.places(np.array([1, 3, 7])), [[0.5, 2.5], [2.5, 5.5], [5.5, 9.5]]
    )


def test_an_encoder_gives_the_features_of_each_line(folder, reader):
    encoder = dig_jax.load_encoder(folder / "run")
    with pytest.raises(ValueError, match="an encoder, which reads no text"):
        load.Reader(encoder.model)
    paths = sorted(folder.glob("*.png"))[:3]
    found = encoder([*paths, b"no image"], batch_size=4)
    for features, path in zip(found, paths):
        columns = -(-reader.lines.prepare(path).pixels.shape[1] // 4)
        assert features.frames.shape[0] == columns and not features.error
        assert features.tokens.shape == (columns * encoder.rows, encoder.model.encoder().width)
    assert "not an image" in found[3].error and not len(found[3].tokens)


def test_wrong_sources_are_refused_in_one_sentence(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        dig_jax.load_reader(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        dig_jax.load_encoder(tmp_path)
    with pytest.raises(ValueError, match="no head 'x': it has ctc"):
        dig_jax.load_reader(folder / "run", head="x")
    with pytest.raises(ValueError, match="^checkpoint is 'first': choose 'best' or 'last'$"):
        dig_jax.load_reader(folder / "run", checkpoint="first")
    with pytest.raises(ValueError, match="fraktur is an export, which holds one step: leave"):
        dig_jax.load_reader("fraktur", checkpoint="last")
    with pytest.raises(ValueError, match="fraktur has no head 'nonsense': it has"):
        dig_jax.load_reader("fraktur", head="nonsense")
    with pytest.raises(ValueError, match="has no head 'ctc': it is read as an encoder, so leave"):
        model.open_model(folder / "run", "encoder", head="ctc")
    with pytest.raises(ValueError, match="batch_size is 0"):
        dig_jax.load_reader(folder / "run").read([b""], batch_size=0)


def test_the_head_is_the_one_that_the_table_reports(tmp_path):
    """Of the step that is loaded, by the mean over all validation sets."""
    specs = {"a": "a@validation", "b": "b@validation", "c": "c@test"}
    config = {"method": {}, "data": {}, "evals": {"recognition": {"datasets": specs}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    cers = {5: {"a": (0.10, 0.11), "b": (0.50, 0.20), "c": (0.0, 0.9)}, 10: {}, 20: {}}
    cers[20] = {"a": (0.12, 0.30), "b": (0.25, 0.30)}
    for step, sets in cers.items():
        row = {"step": step} | {
            f"eval/{name}/cer{head}": value
            for name, (one, two) in sets.items()
            for head, value in (("", min(one, two)), ("@h1", one), ("@h2", two))
        }
        with open(tmp_path / "metrics.jsonl", "a") as log:
            log.write(json.dumps(row) + "\n")
    chosen = lambda step, asked=None: model.chosen_head(tmp_path, ["h1", "h2"], asked, step)
    assert [chosen(5), chosen(10), chosen(20)] == ["h2", "h2", "h1"]
    assert chosen(20, "h2") == "h2"
    with pytest.raises(ValueError, match="2 heads and no evaluation up to step 4 .* h1, h2"):
        chosen(4)


def test_columns_of_six_pixels_are_loaded_and_evaluated(monkeypatch):
    """cnn48: a width of 128 px is no whole number of its columns."""
    preparation = Preparation.of({"height_px": 48, "channels": 1})
    shapes = model.shapes({"encoder": {"size": "cnn48"}}, None, preparation)
    assert shapes["params"]["encoder"]["conv_0"]["kernel"].shape == (3, 3, 1, 16)
    monkeypatch.setattr(experiment, "taken_charset", lambda cfg: readers.CHARSET.to_json())
    data = {"squeeze_px": None, "height_px": 48, "channels": 1}
    cfg = {"data": data, "batch_size": 2, "method": {"encoder": {"size": "cnn48"}}}
    assert experiment.unread_data(cfg).raw["image"].shape == (2, 48, 132, 1)


def test_a_card_names_record_sets_and_no_folder_of_a_machine():
    assert model.set_names("/home/me/records/a@train*0.5,b,../c") == "a@train*0.5,b,c"
    assert model.set_names(None) is None
