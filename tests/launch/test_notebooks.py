"""The notebooks run from top to bottom in a clean kernel, at a tiny budget, and are stored without
outputs.
"""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types
import zipfile
import zlib

import pytest
from PIL import Image

from dig_jax.interop import export
from tests import readers

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
# In a process of its own: argv are the notebook, where to write it with its outputs, and lines of
# Python that stand in for what a user types into the form.
RUN = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
at = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
notebook.cells.insert(at[0] + 1, nbformat.v4.new_code_cell(sys.argv[3]))
try:
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
finally:
    nbformat.write(notebook, sys.argv[2])
"""


def code_cells(path):
    """[(source, tags)]"""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        ("".join(c["source"]), c["metadata"].get("tags", []))
        for c in cells
        if c["cell_type"] == "code"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_plain_python_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
    for source, _ in code_cells(path):
        compile(source, path.name, "exec")  # no magics: plain Python runs it, too
        assert "/root" not in source and "/home" not in source and "/tmp" not in source
    assert f"blob/main/colab/{path.name})" in "".join(notebook["cells"][0]["source"])  # the badge


def test_all_notebooks_begin_with_the_same_installation():
    first = {code_cells(path)[0][0] for path in NOTEBOOKS}
    assert len(first) == 1 and len(NOTEBOOKS) == 3
    assert all("install" in code_cells(path)[0][1] for path in NOTEBOOKS)


def test_the_installation_knows_the_runtime(tmp_path, monkeypatch):
    """CUDA 13 needs driver 580; a backend that JAX does not see is one sentence."""
    source = code_cells(NOTEBOOKS[0])[0][0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("COLAB_TPU_ADDR", raising=False)
    monkeypatch.delenv("TPU_NAME", raising=False)
    asked = source.replace('BACKEND = "auto"', 'BACKEND = "tpu"')
    seen = {"__name__": "__main__"}
    with pytest.raises(AssertionError, match="JAX does not see the tpu: choose another runtime"):
        exec(compile(asked, "install", "exec"), seen)
    assert seen["PYTHON"] == sys.executable  # it is installed here, so nothing is
    smi = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for driver, packages in (
        ("550.54.15", "[cuda12]"),
        ("580.65.06", "[cuda13]"),
        ("1000.1", "[cuda13]"),
        ("99.9", "[cuda12]"),
        ("", "[cuda12]"),
    ):
        smi.write_text(f"#!/bin/sh\necho {driver}\n")
        smi.chmod(0o755)
        assert seen["device"]() == "gpu" and seen["extra"]("gpu") == packages
    assert (seen["extra"]("tpu"), seen["extra"]("cpu")) == ("[tpu]", "")
    monkeypatch.setattr(sys, "version_info", (3, 10))
    with pytest.raises(AssertionError, match=r"dig_jax needs Python 3\.11 or newer, and this is 3"):
        exec(compile(asked, "install", "exec"), seen)


def cell(name, title):
    """The source of a cell, by the beginning of its title."""
    sources = (source for source, _ in code_cells(ROOT / "colab" / name))
    return next(source for source in sources if source.startswith(f"# @title {title}"))


@pytest.fixture
def helpers(tmp_path):
    """What the first cell defines, with a WORK of the test's own; `call` notes its flags in `told`
    and makes the folder of --output."""
    install, told = code_cells(NOTEBOOKS[0])[0][0], []
    found = {"pathlib": pathlib, "shutil": shutil, "subprocess": subprocess, "zlib": zlib}
    exec(install[install.index("def key(") : install.rindex("print(")], found)

    def call(program, *flags):
        told.append((program, *map(str, flags)))
        pathlib.Path(told[-1][-1].partition("=")[2]).mkdir(parents=True, exist_ok=True)

    (tmp_path / "work").mkdir()
    return found | {"call": call, "told": told, "WORK": tmp_path / "work", "PYTHON": "python"}


@pytest.mark.parametrize("name", ["linear_probe.ipynb", "pretrain_dig.ipynb"])
def test_other_lines_are_other_records(name, helpers, tmp_path):
    """The second run of a notebook takes what its form says now."""
    bring, make = (cell(name, title) for title in ("Your lines", "Records"))
    usual = {"YOUR_LINES": "", "UPLOAD": False, "RECORDS": "", "HELD_OUT": 0.2, "boxes": {}}
    for one in "ab":
        (tmp_path / one).mkdir()
        (tmp_path / one / "labels.tsv").write_text(f"1.png\t{one}\n")
        with zipfile.ZipFile(tmp_path / f"{one}.zip", "w") as packed:
            packed.writestr(f"{one}.png", one)
            packed.writestr("labels.tsv", f"{one}.png\t{one}\n")

    def records(**typed):
        form = helpers | usual | {"RENDERED_LINES": 9} | typed
        exec(bring, form)
        exec(make, form)
        (form["records"] / "records.json").touch()
        return form["records"]

    folder = {"YOUR_LINES": str(tmp_path / "a")}
    made = [records(), records(RENDERED_LINES=8), records(**folder), records(HELD_OUT=0.1)]
    (tmp_path / "a/labels.tsv").write_text("1.png\tc\n")
    made += [records(**folder), records(YOUR_LINES=str(tmp_path / "b"))]
    made += [records(YOUR_LINES=str(tmp_path / f"{one}.zip")) for one in "ab"]
    assert len(set(made)) == len(made) == len(helpers["told"])
    assert records() == made[0] and len(helpers["told"]) == len(made)
    *_, brought = helpers["told"]  # of b.zip: nothing of a.zip lies among its lines
    (lines,) = (flag.partition("=")[2] for flag in brought if flag.startswith("--input="))
    assert sorted(path.name for path in pathlib.Path(lines).iterdir()) == ["b.png", "labels.tsv"]
    assert records(RECORDS=str(tmp_path)) == tmp_path


def test_another_encoder_is_judged_by_runs_of_its_own(helpers, tmp_path):
    usual = {"STEPS": 2, "SEED": 0, "LABELS": 0, "records": tmp_path / "records"}

    def runs(**typed):
        form = helpers | usual | typed
        exec(cell("linear_probe.ipynb", "Train the probe"), form)
        return form["runs"], form["encoder"]

    found = [runs(ENCODER=name) for name in ("gen48", "mae32")]
    assert len(set(found)) == 2 and found[0][1] != found[1][1]
    assert len({told[-1] for told in helpers["told"] if told[0] == "main"}) == 4
    for changed in ({"STEPS": 3}, {"LABELS": 5}, {"SEED": 1}, {"records": tmp_path}):
        assert runs(ENCODER="gen48", **changed) == runs(ENCODER="gen48", **changed)
        assert runs(ENCODER="gen48", **changed)[0] != found[0][0]


def test_another_model_is_another_export(helpers):
    """Its lines, too: those of the first model are not read with the second."""
    source = cell("export_and_use.ipynb", "Lines to read")
    helpers["environment"] = {}
    helpers["subprocess"] = types.SimpleNamespace(
        run=lambda command, **_: pathlib.Path(command[-1]).mkdir(parents=True)
    )

    def exported(model):
        form = helpers | {"MODEL": model, "IMAGES": ""}
        onnx = helpers["WORK"] / helpers["key"](model, ([], [])) / "exports/onnx"
        onnx.mkdir(parents=True, exist_ok=True)
        (onnx / "card.md").touch()
        exec(source, form)
        return form["images"], form["work"]

    assert len({*exported("fraktur"), *exported("print")}) == 4
    calls = helpers["told"]
    assert [told[1] for told in calls] == ["--model=fraktur", "--model=print"]
    assert exported("fraktur") == exported("fraktur") and len(calls) == 2


def test_images_of_any_folder_and_suffix_are_read(helpers, tmp_path):
    source = cell("export_and_use.ipynb", "A reader of")
    (tmp_path / "images").mkdir()
    form = helpers | {"images": tmp_path / "images", "work": tmp_path}
    with pytest.raises(AssertionError, match="images holds no image .*set IMAGES"):
        exec(source, form)
    (tmp_path / "images/below").mkdir()
    for name in ("a.PNG", "b.Jpeg", "below/c.TIF", "text.txt"):
        (tmp_path / "images" / name).touch()
    ran = []
    done = types.SimpleNamespace(stdout="", stderr="", returncode=0)
    form["subprocess"] = types.SimpleNamespace(run=lambda command, **_: ran.append(command) or done)
    exec(source, form)
    names = [pathlib.Path(path).name for path in ran[0][3:]]
    assert names == ["a.PNG", "b.Jpeg", "c.TIF"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny exports, "encoder" and "reader", and lines.zip with labels.tsv: what a user brings."""
    folder = tmp_path_factory.mktemp("models")
    lines = list(zip(readers.images(), readers.TEXTS)) * 2
    with zipfile.ZipFile(folder / "lines.zip", "w") as packed:
        for i, (image, _) in enumerate(lines):
            packed.writestr(f"mine/{i}.png", image)
        labels = "".join(f"{i}.png\t{text}\n" for i, (_, text) in enumerate(lines))
        packed.writestr("mine/labels.tsv", labels)
    (folder / "images").mkdir()
    for i, (image, _) in enumerate(lines[:4]):  # of the reader's height: random weights see
        picture = Image.open(io.BytesIO(image)).convert("L")  # how another library resizes
        below = folder / "images" / f"{i}"
        below.mkdir()
        picture.resize((picture.width, 32)).save(below / "line.PNG")
    (folder / "images" / "bad.jpg").write_text("no image")
    reader = readers.model()
    proof = [reader.preparation(image) for image in readers.images()[:3]]
    for name, model in (("reader", reader), ("encoder", reader.alone())):
        export.write(model, "safetensors", folder / name, proof, "typeset lines", "float32", "")
    return folder


def executed(name, folder, python, **typed):
    """Runs a notebook in `folder` with values typed into its form, and its programs by `python`.
    -> (all it printed, outputs)."""
    pytest.importorskip("nbclient", reason="pip install 'dig_jax[test]'")
    typed["PYTHON"] = python
    lines = "\n".join(f"{key} = {value!r}" for key, value in typed.items())
    done = folder / name
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", RUN, str(ROOT / "colab" / name), str(done), lines],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    cells = json.loads(done.read_text(encoding="utf-8"))["cells"]
    outputs = [one for cell in cells for one in cell.get("outputs", [])]
    text = "".join("".join(one["text"]) for one in outputs if one["output_type"] == "stream")
    shown = [one["data"] for one in outputs if one["output_type"] == "display_data"]
    return text, shown


@pytest.mark.slow
def test_the_linear_probe_takes_lines_of_ones_own(tmp_path, models, python):
    typed = {"YOUR_LINES": str(models / "lines.zip"), "ENCODER": str(models / "encoder")}
    text, shown = executed("linear_probe.ipynb", tmp_path, python, **typed, STEPS=2, HELD_OUT=0.25)
    assert "dig_jax runs on this cpu" in text
    assert "16 records: train 12 (12 labelled), validation 4 (4 labelled)" in text
    assert "step 2: eval/records/" in text and "neighbours.png: 8 windows of 12 lines" in text
    assert sum("image/png" in data for data in shown) == 1
    pages = ["".join(data["text/html"]) for data in shown if "text/html" in data]
    assert len(pages) == 5 and all("<td>random</td>" in page for page in pages[:-1])
    assert "srcdoc=" in pages[-1] and "Confusions" in pages[-1]


@pytest.mark.slow
def test_pretraining_takes_lines_without_text(tmp_path, models, python):
    with zipfile.ZipFile(models / "lines.zip") as packed:
        images = [name for name in packed.namelist() if name.endswith(".png")]
        packed.extractall(tmp_path / "brought", images)
    typed = {"PRESET": "cpu", "SIZE": "nano,quick", "OBJECTIVE": "gen", "STEPS": 2, "BATCH": 8}
    typed |= {"FLAGS": "--config.evals.collapse.every_steps=0"}
    lines = str(tmp_path / "brought")
    text, shown = executed("pretrain_dig.ipynb", tmp_path, python, **typed, YOUR_LINES=lines)
    assert f"{len(images)} records: train {len(images)} (0 labelled)" in text
    assert sum("image/png" in data for data in shown) == 1  # the batch: nothing to type into
    assert "dig_jax_pretrain/gen-0/report.html" in text


@pytest.mark.slow
def test_pretraining_goes_on_where_it_stopped(tmp_path, python):
    typed = {"PRESET": "cpu", "SIZE": "nano,quick", "RENDERED_LINES": 24, "OBJECTIVE": "gen"}
    typed |= {"FLAGS": "--config.evals.collapse.every_steps=0", "STEPS": 2, "BATCH": 8}
    text, shown = executed("pretrain_dig.ipynb", tmp_path, python, **typed)
    assert sum("image/png" in data for data in shown) == 1  # the batch
    (page,) = ("".join(data["text/html"]) for data in shown if "text/html" in data)
    assert "srcdoc=" in page and "Reconstructions" in page and "Nearest neighbours" in page
    assert "dig_jax_pretrain/gen-0/report.html" in text
    assert (tmp_path / "dig_jax_pretrain" / "gen-0" / "checkpoints").is_dir()


@pytest.mark.slow
def test_exports_read_without_jax(tmp_path, models):
    pytest.importorskip("onnxruntime")
    typed = {"MODEL": str(models / "reader"), "IMAGES": str(models / "images")}
    # A fresh Python: the notebook reads the graph where nothing has imported JAX.
    text, shown = executed("export_and_use.ipynb", tmp_path, sys.executable, **typed)
    assert len([data for data in shown if "image/png" in data]) == 4
    same = int(text.split(" of 4 lines have the same text in both")[0].split()[-1])
    assert same >= 3 and "bad.jpg is left out: " in text
    with zipfile.ZipFile(io.BytesIO((tmp_path / "dig_jax_export/exports.zip").read_bytes())) as got:
        names = got.namelist()
    assert "exports/onnx/model.onnx" in names and "exports/safetensors/card.md" in names
