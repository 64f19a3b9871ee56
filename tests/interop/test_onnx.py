"""Exports to ONNX give what the network gives, and are read without JAX."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import dig_jax
from dig_jax import load
from dig_jax.data.line_images import Preparation
from dig_jax.interop import export, onnx, parity
from dig_jax.interop import model as models
from tests import readers
from tests.tiers import tiers

pytest.importorskip("onnxruntime", reason=onnx.INSTALL)
VIT = {"kind": "vit", "width": 16, "depth": 2, "heads": 2, "dtype": "float32"}
BILSTM = {"ctc": {"kind": "bilstm", "hidden": 8, "layers": 2, "shortcut": 0.3}}
CRNN = {"kind": "crnn", "height_px": 32, "stem": 8, "stages": [8, 16, 16, 16], "width": 16}
CRNN |= {"blocks": [1, 1, 1, 2], "layers": 2, "dtype": "float32"}
ATTENTION = {"kind": "attention", "hidden": 8, "reach": 2}
TRANSFORMER = {"kind": "transformer", "width": 8, "depth": 2, "heads": 2, "inner": 16}
GLIMPSE = {"kind": "glimpse", "hidden": 8}
# Seed, gain and end, see `lively`.
LIVELY = {"attention": (1, 2.0, 0), "transformer": (4, 2.0, 23), "glimpse": (1, 2.0, 21)}
LIVELY |= {"told attention": (1, 2.0, 0), "told transformer": (4, 2.0, 23)}
CASES = {
    "cnn bilstm": ("reader", {"encoder": readers.ENCODER, "heads": BILSTM, "standardize": True}),
    "vit": ("reader", {"encoder": VIT | {"patch": [32, 4]}, "heads": readers.OPTIONS["heads"]}),
    "vit rows": (
        "reader",
        {
            "encoder": VIT | {"patch": [8, 8], "final_norm": False, "scan": True},
            "heads": readers.OPTIONS["heads"],
            "frames": "mean",
        },
    ),
    "stem": ("encoder", {"encoder": VIT | {"patch": [32, 4], "stem": [8] * 5}}),
    "attention": (
        "reader",
        {"encoder": readers.ENCODER, "heads": {"ar": ATTENTION}, "standardize": True},
    ),
    "transformer": (
        "reader",
        {"encoder": VIT | {"patch": [32, 4]}, "heads": {"ar": TRANSFORMER}, "standardize": False},
    ),
    "glimpse": (
        "reader",
        {"encoder": VIT | {"patch": [32, 8]}, "heads": {"ar": GLIMPSE}, "standardize": False},
    ),
    **{
        f"told {head['kind']}": (
            "reader",
            {"encoder": VIT | {"patch": [32, 8]}, "heads": {"ar": head | {"shortcut": 0.3}}}
            | {"standardize": False},
        )
        for head in (ATTENTION, TRANSFORMER)
    },
    "mix": (
        "reader",
        {"encoder": VIT | {"patch": [16, 8]}, "heads": readers.OPTIONS["heads"], "block": "mix"}
        | {"standardize": True},
    ),
    "block": (
        "reader",
        {"encoder": VIT | {"patch": [32, 8]}, "heads": readers.OPTIONS["heads"], "block": 1},
    ),
    "crnn": ("reader", {"encoder": CRNN, "heads": readers.OPTIONS["heads"]}),
    "rectified": ("encoder", {"encoder": CRNN | {"fiducials": 6, "blocks": [1] * 4, "layers": 1}}),
    "imported": (
        "encoder",
        {
            "encoder": VIT
            | {"patch": [8, 4], "position": "learned", "flat_columns": 256, "class_token": True}
        },
    ),
    "cnn_lstm": ("encoder", {"encoder": readers.ENCODER | {"hidden": 8, "layers": 1}}),
}


@pytest.fixture(scope="module")
def lines():
    return [readers.model().preparation(image) for image in readers.images()[:4]]


def random(name):
    return random_of(*CASES[name])


def random_of(kind, options):
    """A model of which every parameter is random, so that none can hide."""
    charset = readers.CHARSET if kind == "reader" else None
    options = {"name": "recognize"} | options if kind == "reader" else options
    preparation, rng = Preparation.of(readers.DATA), np.random.default_rng(1)
    shapes = models.shapes(options, charset, preparation)
    weights = jax.tree.map(lambda leaf: rng.normal(0.1, 0.4, leaf.shape).astype(np.float32), shapes)
    if "scale" in weights.get("mutable", {}):
        weights["mutable"]["scale"]["std"] = np.abs(weights["mutable"]["scale"]["std"]) + 0.1
    weights = {"mutable": {}} | weights
    heads = weights["params"].get("heads", {})
    if "ar" in heads:
        head = options["heads"]["ar"]
        told = "told " if "shortcut" in head else ""
        heads["ar"] = lively(heads["ar"], *LIVELY[told + head["kind"]])
    return models.Model(kind, options, preparation, weights, charset, {"run": "tiny", "step": 7})


def lively(head, seed, gain, end):
    """Weights of a reader that does not fall into one character, and ends where it would have
    written the class `end`. At larger gains glimpses are chaotic: the network itself, its weights
    moved by the last bit, then reads with other confidences."""
    rng = np.random.default_rng(seed)
    spread = {"bias": (0, 0.3), "scale": (1, 0.3)}

    def drawn(path, leaf):
        usual = (0, gain / leaf.shape[0] ** 0.5) if path[-1].key == "kernel" else (0, 1)
        return rng.normal(*spread.get(path[-1].key, usual), leaf.shape).astype(np.float32)

    head = jax.tree_util.tree_map_with_path(drawn, head)
    order = np.arange(readers.CHARSET.size)
    order[[0, end]] = end, 0
    classify = {name: x[..., order] for name, x in head["classify"].items()}
    return head | {"classify": classify}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.mark.parametrize("name", tiers(CASES))
def test_a_graph_gives_what_the_network_gives(name, lines, folder):
    out = folder / name.replace(" ", "_")
    found = export.write(random(name), "onnx", out, lines)
    print(name, found["float32"])
    # A place far right in a line, in pixels, has few digits behind its point left.
    bound = 1e-3 if name == "rectified" else 1e-4
    assert max(found["float32"]["difference"].values()) < bound
    if CASES[name][0] == "reader":
        assert found["float32"]["ids"] and not found["float32"]["ids_differ"]
    if name in LIVELY:
        run, model = onnx.outputs(out / "model.onnx"), random(name)
        batches = parity.batches(lines, model.multiple_px)
        read = [(run(batch), -(-batch["width"] // model.encoder().patch[1])) for batch in batches]
        assert len({i for one, _ in read for i in one["ids"].ravel()}) > 2
        early = any(((0 < one["length"]) & (one["length"] < n)).any() for one, n in read)
        assert early == (name not in ("attention", "told attention"))


@pytest.mark.slow
def test_a_graph_that_differs_is_deleted(lines, folder, monkeypatch):
    monkeypatch.setattr(onnx, "LOGITS_BOUND", -1.0)
    with pytest.raises(parity.Differs, match="differs from the network"):
        export.write(readers.model(), "onnx", folder / "bad", lines)
    assert not (folder / "bad").exists() and not (folder / "bad.partial").exists()


def test_what_is_not_installed_is_said(lines, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"needs onnxruntime.*dig_jax\[onnx\]"):
        export.write(readers.model(), "onnx", folder / "none", lines)
    assert not (folder / "none").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn bilstm", "attention"])
def test_a_graph_is_a_source_of_readers(name, folder, lines):
    output = folder / ("attention" if name == "attention" else "reader")
    if not output.exists():
        export.write(random(name), "onnx", output, lines)
    images = readers.images()[:3]
    want = load.Reader(random(name)).read(images, 4)
    for one, other in zip(dig_jax.load_reader(output).read(images), want, strict=True):
        assert one.text == other.text
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)
        assert [c.left for c in one.characters] == [c.left for c in other.characters]
    with pytest.raises(ValueError, match="cannot be taken out"):
        dig_jax.load_encoder(output)
    search = {"beam": 4, "lm": 3, "texts": readers.TEXTS}
    if name == "attention":
        with pytest.raises(ValueError, match="takes the best characters: load the run"):
            dig_jax.load_reader(output, beam=4)
        return
    want = load.Reader(random(name), **search).read(images, 4)
    for one, other in zip(dig_jax.load_reader(output, **search).read(images), want, strict=True):
        assert one.text == other.text
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


def test_the_card_says_how_it_is_run(folder, lines):
    if not (folder / "reader").exists():
        export.write(random("cnn bilstm"), "onnx", folder / "reader", lines)
    card = (folder / "reader" / "card.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder / "reader"
    )
    assert done.returncode == 0 and "logits" in done.stdout, done.stderr
    assert json.loads((folder / "reader" / "parity.json").read_text())["float32"]["bound"]
