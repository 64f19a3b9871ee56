"""Imported ViTs give the features of the networks that they come from.

The networks are in torch_networks.py. What they gave is kept in tests/data/imports, so that it is
checked without torch, too. Where torch is installed: DIG_WRITE_GOLDEN=1 writes these files anew,
and every run checks networks with other weights.
"""

import dataclasses
import os
import pathlib
import subprocess

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dig_jax
from dig_jax.data import line_images
from dig_jax.interop import export, import_vit, state_dict
from dig_jax.models import encoders, vit
from dig_jax.tools import import_weights, pseudo_label
from dig_jax.train import command_line, experiment
from dig_jax.workdir import read as runs
from dig_jax.workdir.checkpoint import read_config
from tests import readers
from tests.interop.import_cases import CASES, HEADS, HEIGHT, PATCH, WIDE

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "imports"
SEED = 20


def given(name, live):
    if not live:
        if os.environ.get("DIG_WRITE_GOLDEN"):
            from tests.interop import torch_networks

            GOLDEN.mkdir(parents=True, exist_ok=True)
            save_file(torch_networks.write(name, 0), GOLDEN / f"{name}.safetensors")
        return load_file(GOLDEN / f"{name}.safetensors")
    pytest.importorskip("torch", reason='pip install "dig_jax[torch]": the live networks need it')
    from tests.interop import torch_networks

    return torch_networks.write(name, SEED)


def state_of(arrays):
    return {k.removeprefix("state/"): v for k, v in arrays.items() if k.startswith("state/")}


def convert(name, state, **options):
    options = {"heads": HEADS, "trained_px": (HEIGHT, WIDE)} | options
    return import_vit.convert(state, CASES[name].layout, **options)


def features(found, image):
    """Tokens in the projects' order, row by row, of u8[B, 3, H, W]."""
    encoder = encoders.create(found.encoder | {"dtype": "float32"})
    pixels = np.moveaxis(image, 1, 3).astype(np.float32) / 127.5 - 1
    width = np.full(len(image), image.shape[3], np.int32)
    tokens = np.asarray(jax.jit(encoder.apply)({"params": found.params}, pixels, width))
    rows = image.shape[2] // PATCH
    return (
        tokens.reshape(len(image), -1, rows, tokens.shape[-1]).swapaxes(1, 2).reshape(tokens.shape)
    )


@pytest.mark.parametrize("live", [False, True], ids=["kept", "live"])
@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_the_original(name, live):
    arrays = given(name, live)
    found = convert(name, state_of(arrays))
    apart = np.abs(features(found, arrays["image"]) - arrays["tokens"]).max()
    print(f"{name}: {apart:.1e}")
    assert apart < 1e-5
    case = CASES[name]
    assert found.encoder["position"] == case.position and found.prefix == case.prefix
    assert found.encoder.get("class_token", False) == (case.token == "read")
    assert found.encoder["final_norm"] == case.norm


def test_tables_of_the_projects_size_are_recognised():
    def waves(position, dim):
        angle = np.asarray(position, np.float64)[..., None] / 10000.0 ** (np.arange(dim) / dim)
        return np.concatenate([np.sin(angle), np.cos(angle)], -1)

    def two_d(rows, columns, dim):
        row, column = np.divmod(np.arange(rows * columns), columns)
        return np.concatenate([waves(column, dim // 4), waves(row, dim // 4)], -1)

    for table, name in ((two_d(8, 32, 384), "sincos_2d"), (two_d(16, 16, 384), "square_2d")):
        assert import_vit._code_of(table.reshape(8, 32, 384), 384) == name
    assert import_vit._code_of(two_d(16, 16, 384).reshape(8, 32, 384) * 1.01, 384) is None


def test_a_table_is_stretched_to_another_grid():
    state = state_of(given("parseq", live=False))
    rows, columns = np.mgrid[0:2, 0:8]
    state["encoder.pos_embed"] = np.repeat(
        (rows + 10 * columns).reshape(1, 16, 1), 8, 2
    ) + np.zeros(1, np.float32)
    found = convert("parseq", state, for_px=(HEIGHT, 2 * WIDE))
    table = found.params["position"].reshape(16, 2, 8)[:, :, 0]
    np.testing.assert_allclose(table[:, 1] - table[:, 0], 1, atol=0.2)
    np.testing.assert_allclose(np.diff(table[3:-3, 0]), 5, atol=0.3)
    assert found.encoder["flat_columns"] == 16
    encoder = encoders.create(found.encoder | {"dtype": "float32"})
    image = np.zeros((1, HEIGHT, 3 * WIDE, 3), np.float32)
    with pytest.raises(ValueError, match="table of 16 columns"):
        encoder.apply({"params": found.params}, image, np.full(1, 96))
    apply = jax.jit(encoder.apply)
    part = apply({"params": found.params}, image[:, :, :40], np.full(1, 30))
    whole = apply({"params": found.params}, image[:, :, :64], np.full(1, 30))
    np.testing.assert_allclose(part[:, :16], whole[:, :16], atol=1e-6)  # padding moves nothing


def test_grey_lines_are_read_as_grey_colours_were():
    arrays = given("ccd", live=False)
    grey = np.repeat(arrays["image"][:, :1], 3, 1)
    one, three = (convert("ccd", state_of(arrays), channels=n) for n in (1, 3))
    np.testing.assert_allclose(features(one, grey[:, :1]), features(three, grey), atol=2e-6)


def test_what_does_not_fit_is_named():
    state = state_of(given("mae", live=False))
    convert_as = lambda layout, state, **more: import_vit.convert(
        state, layout, heads=HEADS, **more
    )
    wrong = [
        (
            lambda: convert_as("dig", state),
            "encoder under 'encoder.', and this file has encoders under 'model.'",
        ),
        (lambda: convert_as("mae", state), "17 places, and the images of this layout 8 x 32"),
        (lambda: convert("mae", state | {"model.norm2.x": np.ones(2)}), "knows no norm2.x"),
        (
            lambda: convert("mae", {k: v for k, v in state.items() if "1.mlp.fc2.b" not in k}),
            "has no model.blocks.1.mlp.fc2.bias",
        ),
        (lambda: convert("mae", state, heads=None), "state it with --heads"),
        (lambda: convert("mae", state, prefix="x."), "encoders under 'model.'"),
        (
            lambda: convert("mae", state, heads=3),
            "heads is 3, which does not divide the width of 8",
        ),
        (lambda: convert("mae", state, heads=0), "heads is 0"),
    ]
    for call, words in wrong:
        with pytest.raises(ValueError) as error:
            call()
        assert words in str(error.value), str(error.value)


def test_flags_that_an_export_has_no_use_for_are_refused(tmp_path, python):
    command = [python, "-m", "dig_jax.tools.import_weights", "--layout=dig_jax", "--input=gen48"]
    command += [f"--output={tmp_path}/run", "--channels=3", "--heads=5"]
    done = subprocess.run(command, capture_output=True, text=True)
    said = "--heads, --channels: --layout=dig_jax takes an export as it is, so leave it out"
    assert done.returncode == 1 and said in done.stderr and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_program_makes_a_work_folder_that_starts_runs(tmp_path, python):
    arrays = given("maerec", live=False)
    save_file(state_of(arrays), tmp_path / "theirs.safetensors")
    flags = [
        "--layout=maerec",
        f"--input={tmp_path}/theirs.safetensors",
        f"--heads={HEADS}",
        f"--trained_px={HEIGHT}x{WIDE}",
    ]
    command = [
        python,
        "-m",
        "dig_jax.tools.import_weights",
        *flags,
        f"--output={tmp_path}/run",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    image = np.moveaxis(arrays["image"], 1, 3)
    found = dig_jax.load_encoder(tmp_path / "run")(list(image))
    tokens = np.stack([line.tokens for line in found]).reshape(2, 8, 2, 8).swapaxes(1, 2)
    np.testing.assert_allclose(tokens.reshape(2, 16, 8), arrays["tokens"], atol=1e-5)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1 and "exists" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.slow
def test_bundled_weights_become_a_work_folder_with_the_same_features(tmp_path, python):
    """`--layout=dig_jax`: by name, so that a run can start from weights that ship."""
    command = [python, "-m", "dig_jax.tools.import_weights", "--layout=dig_jax"]
    command += ["--input=gen48", f"--output={tmp_path}/run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    line = np.random.default_rng(0).integers(0, 256, (48, 90), np.uint8)
    ours, theirs = (dig_jax.load_encoder(name)(line)[0] for name in (tmp_path / "run", "gen48"))
    np.testing.assert_allclose(ours.frames, theirs.frames, atol=1e-5)
    assert read_config(str(tmp_path / "run"))["data"]["contrast"] == "stretch"


def test_an_export_of_a_reader_becomes_a_run_that_reads_and_goes_on(tmp_path, monkeypatch):
    """Head, characters and the scale of its features come along; an encoder stays an encoder."""
    lines = [line_images.Preparation.of(readers.DATA)(image) for image in readers.images()[:4]]
    export.write(readers.model(), "safetensors", tmp_path / "export", lines)
    told = import_weights.of_export(tmp_path / "run", str(tmp_path / "export"))
    assert f"--config=finetune:reader --config.init_from={tmp_path}/run goes on" in told
    want, found = (dig_jax.load_reader(tmp_path / name) for name in ("export", "run"))
    assert found.charset == want.charset
    assert found.model.options.keys() == want.model.options.keys()
    assert found.model.origin == want.model.origin and want.model.origin["run"]  # for its card
    read = [[line.text for line in one.read(readers.images(), 4)] for one in (want, found)]
    assert read[0] == read[1] and len(set(read[0])) > 3
    with pytest.raises(ValueError, match="names no lines that it was trained on: .* --lines"):
        pseudo_label.data_of(str(tmp_path / "run"))
    spec = readers.records(tmp_path / "records")
    config = command_line.load("finetune:reader,steps=1")
    config.init_from, config.data.train = str(tmp_path / "run"), spec
    complete = experiment.completed(config.to_dict())
    assert complete["method"]["heads"] == readers.OPTIONS["heads"]
    assert complete["method"]["standardize"] is True and complete["data"]["contrast"] == "stretch"
    judged = command_line.load(f"evaluate:records={spec}@validation")
    judged.init_from = str(tmp_path / "run")
    complete = experiment.completed(judged.to_dict())
    assert complete["data"]["train"] is None  # nothing of it is read
    run = runs.load(tmp_path / "run")
    assert (run.start, run.labels, run.trained) == ("export", "unknown", True)
    program = dataclasses.replace(found.model, program=lambda batch: {})
    monkeypatch.setattr("dig_jax.interop.model.open_model", lambda *given: program)
    with pytest.raises(ValueError, match="is a program, and its weights cannot be taken out"):
        import_weights.of_export(tmp_path / "none", "onnx")
    monkeypatch.undo()
    alone = export.write(found.model.alone(), "safetensors", tmp_path / "encoder", lines)
    assert alone and "start from it" in import_weights.of_export(
        tmp_path / "features", str(tmp_path / "encoder")
    )
    with pytest.raises(ValueError, match="a pre-training|no reader"):
        dig_jax.load_reader(tmp_path / "features")


def test_files_that_are_no_weights_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        state_dict.read(tmp_path / "none.pth")
    for name in ("a.safetensors", "a.pth"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ValueError, match="cannot be read|more than weights|install it with"):
            state_dict.read(tmp_path / name)
    (tmp_path / "a.png").write_bytes(b"a picture")
    with pytest.raises(ValueError, match=r"a.png is no state dict by its name: .*\(.pth, .pt\)"):
        state_dict.read(tmp_path / "a.png")


def test_a_checkpoint_of_torch_is_read_and_code_in_it_is_not(tmp_path):
    torch = pytest.importorskip("torch", reason='pip install "dig_jax[torch]"')
    import argparse

    content = {"model": {"a.b": torch.ones(2, dtype=torch.float16)}, "epoch": 3}
    torch.save(content | {"args": argparse.Namespace(lr=1)}, tmp_path / "good.pth")
    found = state_dict.read(tmp_path / "good.pth")
    assert list(found) == ["model.a.b"] and found["model.a.b"].dtype == np.float32
    torch.save({"x": pathlib.Path("/tmp")}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="more than weights"):
        state_dict.read(tmp_path / "bad.pth")


def test_a_learnt_table_and_a_class_token_are_parameters_like_others():
    options = {"patch": (4, 4), "width": 8, "depth": 1, "heads": 2, "position": "learned"}
    encoder = vit.Vit(**options, flat_columns=8, class_token=True)
    image = jax.random.normal(jax.random.key(0), (2, 8, 32, 1))
    params = jax.jit(encoder.init)(jax.random.key(1), image, np.full(2, 32))["params"]
    assert params["position"].shape == (16, 8) and params["cls_token"].shape == (8,)
    tokens = lambda p: encoder.apply({"params": p}, image, np.full(2, 32))
    assert jax.eval_shape(tokens, params).shape == (2, 16, 8)
    moved = jax.jit(jax.grad(lambda p: (tokens(p) ** 2)[0, 3, 1]))(params)
    assert np.abs(moved["cls_token"]).max() > 0 and np.abs(moved["position"]).max() > 0
