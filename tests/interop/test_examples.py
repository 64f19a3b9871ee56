"""The runners of examples/ read as dig_jax does, without what they do not need."""

import dataclasses
import importlib
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from rapidfuzz.distance import Levenshtein
from safetensors.numpy import load_file

from dig_jax import load
from dig_jax.data import writer
from dig_jax.interop import export, parity
from dig_jax.interop import model as models
from tests import readers
from tests.interop import test_onnx
from tests.tiers import tiers

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
WITHOUT = """
import runpy, sys
for name in {blocked}:
    sys.modules[name] = None
sys.path.insert(0, {folder!r})
sys.argv = ["", *{given!r}]
runpy.run_path({file!r}, run_name="__main__")
"""


def run(file, given, blocked):
    given = [str(x) for x in given]
    fill = {"blocked": blocked, "folder": str(EXAMPLES), "given": given}
    code = WITHOUT.format(**fill, file=str(EXAMPLES / file))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def one_width():
    """Exports prove themselves on lines of one width here: tests of theirs take three."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "BATCHES", 1)
        yield


@pytest.fixture(scope="module")
def lines():
    return [readers.model().preparation(image) for image in readers.images()[:3]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    (folder / "lines").mkdir()
    readers.files(folder / "lines")
    return folder


def check(output, model, paths):
    """Pillow rounds a pixel otherwise than OpenCV, and random weights are near every border."""
    rows = [line.split("\t") for line in output.rstrip("\n").split("\n")]
    want = load.Reader(model).read(paths, 1)
    assert [row[0] for row in rows] == [str(path) for path in paths]
    wrong = sum(Levenshtein.distance(row[1], line.text) for row, line in zip(rows, want))
    total = sum(len(line.text) for line in want)
    assert total and wrong <= max(2, 0.05 * total), (rows, want)


@pytest.mark.parametrize("kind", ["grey", "16 bits", "12 bits", "RGBA", "LA", "white on nothing"])
@pytest.mark.parametrize("channels", [1, 3])
def test_runners_prepare_every_kind_of_image_as_dig_jax_does(kind, channels, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    common = importlib.import_module("common")
    grey = np.full((32, 90), 230, np.uint8)
    grey[10:22, 20:70:6] = 20
    alpha = np.full_like(grey, 255)
    alpha[:, 40:] = 0
    made = {
        "grey": lambda: Image.fromarray(grey),
        "16 bits": lambda: Image.fromarray(grey.astype(np.uint16) * 257),
        "12 bits": lambda: Image.fromarray(grey.astype(np.uint16) * 16),
        "RGBA": lambda: Image.fromarray(np.dstack([grey, grey, grey, alpha]), "RGBA"),
        "LA": lambda: Image.fromarray(np.dstack([grey, alpha]), "LA"),
        "white on nothing": lambda: Image.fromarray(
            np.dstack([np.full_like(grey, 255), np.where(grey < 99, 255, 0).astype(np.uint8)]), "LA"
        ),
    }[kind]()
    made.save(tmp_path / "line.png")
    prepared = dataclasses.replace(readers.model().preparation, channels=channels)
    want = prepared(str(tmp_path / "line.png")).pixels.astype(int)
    data = dataclasses.asdict(prepared)
    found = common.prepared(tmp_path / "line.png", data).astype(int)
    assert found.shape == want.shape and np.abs(found - want).max() <= 2 and np.ptp(want) > 100


def test_runners_refuse_kinds_of_numbers_that_they_do_not_know(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    common = importlib.import_module("common")
    Image.fromarray(np.ones((32, 90), np.float32)).save(tmp_path / "line.tif")
    config = {"data": dataclasses.asdict(readers.model().preparation)}
    with pytest.raises(SystemExit, match="1 of 1 images could not be read"):
        list(common.batches([tmp_path / "line.tif"], config, 32))
    assert "line.tif is left out: pixels of kind F are not read here" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", tiers(["vit", "cnn bilstm", "vit rows"]))
def test_numpy_alone_reads_an_export_to_safetensors(name, folder, lines):
    model = test_onnx.random(name)
    if name == "vit rows":
        changed = model.options | {"frames": "concat"}
        changed["encoder"] = changed["encoder"] | {"scan": False}
        model = test_onnx.random_of("reader", changed)
    output = folder / name.replace(" ", "_")
    export.write(model, "safetensors", output, lines)
    paths = sorted((folder / "lines").glob("*.png"))[:2]
    blocked = ("jax", "dig_jax", "cv2", "onnxruntime")
    check(run("read_safetensors.py", [output, *paths], blocked), model, paths)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, said",
    [
        ("stem", "has no stem of convolutions"),
        ("attention", "reads by CTC, from the last block"),
        ("mix", "reads by CTC, from the last block"),
        ("crnn", "has no encoder of the kind crnn"),
    ],
)
def test_numpy_refuses_what_it_does_not_compute(folder, lines, name, said):
    encoder = test_onnx.VIT | {"patch": [32, 4], "stem": [8] * 5}
    options = {"encoder": encoder, "heads": readers.OPTIONS["heads"]}
    kind, options = ("reader", options) if name == "stem" else test_onnx.CASES[name]
    export.write(test_onnx.random_of(kind, options), "safetensors", folder / name, lines)
    program = [sys.executable, EXAMPLES / "read_safetensors.py", folder / name, "a.png"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"this example {said}"), done.stderr


@pytest.mark.slow
def test_onnxruntime_reads_an_export_to_onnx(folder, lines):
    pytest.importorskip("onnxruntime", reason='pip install "dig_jax[onnx]"')
    model = test_onnx.random("cnn bilstm")
    export.write(model, "onnx", folder / "onnx", lines)
    paths = sorted((folder / "lines").glob("*.png"))[:3]
    output = run("read_onnx.py", [folder / "onnx", *paths], ("jax", "dig_jax", "cv2"))
    check(output, model, paths)


@pytest.mark.slow
def test_onnxruntime_reads_what_decodes_inside(folder, lines):
    """Character by character a rounded pixel would tell: these lines need no resizing."""
    pytest.importorskip("onnxruntime", reason='pip install "dig_jax[onnx]"')
    model = test_onnx.random("attention")
    export.write(model, "onnx", folder / "inside", lines)
    paths = [folder / f"high_{i}.png" for i in range(3)]
    for path, line in zip(paths, lines, strict=True):
        path.write_bytes(writer.encode_image(line.pixels, "png"))
    output = run("read_onnx.py", [folder / "inside", *paths], ("jax", "dig_jax", "cv2"))
    for row, line in zip(output.splitlines(), load.Reader(model).read(paths, 3), strict=True):
        assert row.split("\t")[1:] == [line.text, f"{line.confidence:.4f}"]


@pytest.mark.slow
def test_jax_alone_reads_an_export_to_stablehlo(folder, lines):
    model = test_onnx.random("vit")
    export.write(model, "stablehlo", folder / "hlo", lines)
    paths = sorted((folder / "lines").glob("*.png"))[:2]
    output = run("read_stablehlo.py", [folder / "hlo", *paths], ("dig_jax", "cv2", "flax"))
    check(output, model, paths)


def of_six_px(squeeze_px=None):
    """A reader with columns of 6 px, as the bundled `fraktur`: 96 px are no multiple of theirs."""
    encoder = readers.ENCODER | {"pools": [[2, 2], [2, 3], [2, 1], [2, 1], [1, 1]]}
    model = test_onnx.random_of("reader", {"encoder": encoder, "heads": readers.OPTIONS["heads"]})
    preparation = dataclasses.replace(model.preparation, squeeze_px=squeeze_px)
    return dataclasses.replace(model, preparation=preparation)


@pytest.fixture
def common(monkeypatch):
    """The module of the runners."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("common")


@pytest.mark.parametrize("squeeze_px", [None, 120])
def test_an_export_says_which_widths_it_takes(squeeze_px, common):
    described = models.described(of_six_px(squeeze_px), "onnx", "0")
    want = {"multiple_px": squeeze_px or 36, "widest_px": squeeze_px}
    assert want.items() <= described["export"].items()
    described["method"]["encoder"] = {}  # so the columns are not looked up
    widths = common.usual_widths(described)
    assert widths == ((120, 120) if squeeze_px else (108, None))
    older = models.described(of_six_px(squeeze_px), "onnx", "0")
    older["export"] = {}
    assert common.usual_widths(older) == widths


@pytest.mark.slow
@pytest.mark.parametrize("squeeze_px", [None, 120])
@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_runners_pad_to_whole_columns(format, squeeze_px, folder, lines):
    if format == "onnx":
        pytest.importorskip("onnxruntime", reason='pip install "dig_jax[onnx]"')
    model, output = of_six_px(squeeze_px), folder / f"six_{format}_{squeeze_px}"
    own = [model.preparation(image) for image in readers.images()[:3]]
    export.write(model, format, output, own)
    paths = sorted((folder / "lines").glob("*.png"))[:2]
    check(run(f"read_{format}.py", [output, *paths], ("dig_jax", "cv2", "flax")), model, paths)


def test_lines_wider_than_the_reader_takes_are_named(common):
    pixels = np.zeros((32, 130, 1), np.uint8)
    config = {"export": {"multiple_px": 8, "widest_px": 200}, "data": {}}
    config["method"] = {"encoder": {}}
    assert common.padded(pixels, *common.usual_widths(config))[0].shape == (1, 32, 192, 1)
    assert common.padded(pixels, 96, 136)[0].shape == (1, 32, 136, 1)
    with pytest.raises(ValueError, match="it is 130 px wide at height 32, and 128 is the most"):
        common.padded(pixels, 96, 128)


def mistake(file, *given):
    done = subprocess.run([sys.executable, EXAMPLES / file, *given], capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("file", tiers(["read_safetensors.py", "read_onnx.py", "load_orbax.py"]))
def test_runners_say_how_they_are_run(file, tmp_path):
    if file == "read_onnx.py":
        pytest.importorskip("onnxruntime", reason='pip install "dig_jax[onnx]"')
    used = f"python examples/{file} EXPORT"
    code, said, _ = mistake(file, "--help")
    assert code == 0 and used in said
    code, _, said = mistake(file)
    assert code == 1 and used in said
    given = [tmp_path / "no", "a.png"][: 1 if file == "load_orbax.py" else 2]
    code, _, said = mistake(file, *given)
    assert code == 1 and said.startswith("there is no ") and str(tmp_path / "no") in said


def test_runners_refuse_exports_of_other_formats(common, lines, tmp_path):
    export.write(readers.model(), "safetensors", tmp_path / "there", lines)
    assert common.opened(tmp_path / "there", "safetensors", "weights.safetensors")[1]
    for file, format, said in (
        ("model.onnx", "onnx", "kind reader to safetensors: name a reader that was exported to"),
        ("gone", "safetensors", "there is no .*gone: export the reader again"),
    ):
        with pytest.raises(SystemExit, match=said):
            common.opened(tmp_path / "there", format, file)
    (tmp_path / "there" / "config.json").write_text("{}")
    with pytest.raises(SystemExit, match="kind None to None: name a reader"):
        common.opened(tmp_path / "there", "onnx", "model.onnx")


def test_runners_leave_a_bad_image_out_and_read_the_others(common, tmp_path, capsys):
    good = readers.files(tmp_path)[:2]
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "half.png").write_bytes(good[0].read_bytes()[:200])
    bad = [tmp_path, tmp_path / "text.png", tmp_path / "half.png", tmp_path / "gone.png"]
    config = {"data": readers.DATA, "export": {}, "method": {"encoder": {}}}
    read = []
    with pytest.raises(SystemExit, match="4 of 6 images could not be read"):
        for path, _, _ in common.batches([good[0], *bad, good[1]], config):
            read.append(path)
    assert read == good
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" is left out: ")[0] for line in said] == [str(path) for path in bad]


@pytest.mark.slow
def test_plain_orbax_opens_an_export_to_orbax(folder, lines):
    export.write(readers.model(), "orbax", folder / "orbax", lines)
    output = run("load_orbax.py", [folder / "orbax"], ("dig_jax", "cv2", "flax"))
    assert "encoder" in output and "heads" in output


@pytest.mark.parametrize("name", ["imported", "vit"])
def test_a_state_dict_goes_back_to_pytorch(name, folder, lines):
    """The export proves itself by the importer; where torch is installed, by the example, too."""
    model = test_onnx.random(name)
    output = folder / f"torch_{name}"
    found = export.write(model, "torch", output, lines)  # of a reader the encoder
    assert max(found["float32"]["difference"].values()) < 1e-5
    config = json.loads((output / "config.json").read_text())
    assert config["export"]["kind"] == "encoder" and config["method"].keys() == {"encoder"}
    assert not (output / "charset.json").exists()
    card = (output / "card.md").read_text()
    assert "# Encoder" in card and "tokens f32[B, rows * columns, D]" in card
    assert "heads" not in card and "confidence" not in card.split("## Proof")[0]
    assert "by `pixels / 127.5 - 1`" in card and "scales pixels" not in card  # as below
    state = load_file(output / "model.safetensors")
    width = state["pos_embed"].shape[-1]
    assert not state["blocks.0.attn.qkv.bias"][width : 2 * width].any()
    torch = pytest.importorskip("torch", reason='pip install "dig_jax[torch]"')
    sys.path.insert(0, str(EXAMPLES))
    import torch_encoder

    pixels = lines[2].pixels[:, : lines[2].pixels.shape[1] // 32 * 32]
    image = pixels[None].astype(np.float32) / 127.5 - 1
    with torch.no_grad():
        theirs = torch_encoder.load(output)(torch.tensor(image).permute(0, 3, 1, 2)).numpy()
    encoder, params = model.encoder(), model.weights["params"]["encoder"]
    ours = jax.jit(encoder.apply)({"params": params}, image, np.full(1, image.shape[2]))
    rows = 32 // encoder.patch[0]
    ours = np.asarray(ours).reshape(1, -1, rows, width).swapaxes(1, 2).reshape(theirs.shape)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_what_is_no_vit_has_no_state_dict(folder, lines):
    with pytest.raises(ValueError, match="of a ViT"):
        export.write(readers.model(), "torch", folder / "no", lines)
