"""The notebooks run from top to bottom as they are, at a tiny budget, and are stored without
outputs.
"""

import json
import os
import pathlib
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
TINY = {"LINES": 24, "VALIDATION": 8, "PRETRAIN": "preset=demo,probe=none,quick", "PROBE": "quick"}


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
        compile(
            source, path.name, "exec"
        )  # no magics, so that the test below runs what a reader runs
        assert "/root" not in source and "/home" not in source and "/tmp" not in source


@pytest.mark.slow
def test_the_linear_probe_runs(tmp_path, monkeypatch, capfd):
    shown = []
    stand_in = types.SimpleNamespace(
        HTML=lambda text: ("html", text), Image=lambda path: ("image", path), display=shown.append
    )
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=stand_in))
    monkeypatch.setitem(sys.modules, "IPython.display", stand_in)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.chdir(tmp_path)
    seen = {"__name__": "__main__"}
    for source, tags in code_cells(ROOT / "colab" / "linear_probe.ipynb"):
        if "install" in tags:
            continue
        exec(compile(source, "linear_probe.ipynb", "exec"), seen)
        if "parameters" in tags:
            assert TINY.keys() <= seen.keys()
            seen.update(TINY)
    out = capfd.readouterr().out
    assert (
        "probe_of_dig" in out
        and "probe_of_random" in out
        and "report: dig_jax_probe/report.html" in out
    )
    made = {"batch.png", "dig", "probe_of_dig", "probe_of_random", "records", "report.html"}
    assert set(os.listdir("dig_jax_probe")) == made
    pictures = [pathlib.Path(path) for kind, path in shown if kind == "image"]
    assert [path.name for path in pictures] == ["batch.png", "reconstruction-00000002.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    *lines, report = [text for kind, text in shown if kind == "html"]
    assert lines and all(
        "data:image/png;base64," in text and "<td>random</td>" in text for text in lines
    )
    assert "srcdoc=" in report and "Comparison" in report
