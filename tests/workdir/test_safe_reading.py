"""Nothing that is read from disk can run code: no such call stands in the package, and files that
try are refused.

Config files are Python that the user chooses to run (`--config=...`), and modules are imported from
the package by name; both are outside this rule.
"""

import ast
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dig_jax.data import manifest, records, transforms, writer
from dig_jax.data.sizes import BadRecord

ROOT = Path(__file__).parents[2]
FILES = sorted(
    [
        *(ROOT / "dig_jax").rglob("*.py"),
        *(ROOT / "configs").rglob("*.py"),
        *(ROOT / "launch").rglob("*.py"),
    ]
)

MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "jsonpickle",
    "code",
    "codeop",
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    "read_pickle",
    "to_pickle",
    "extractall",
    "unsafe_load",
    "full_load",
    "system",
    "popen",
    "exec_module",
}
REQUIRED = {  # (modules, function) -> keyword with its value
    (("np", "numpy", "jnp"), "load"): ("allow_pickle", False),
    (("torch",), "load"): ("weights_only", True),
}


def faults(source: str) -> list[str]:
    """What in this source could run code that stands in a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = [a.name for a in node.names]
            module = (node.module or "").split(".")[0]
            found += [module] if module in MODULES else []
            if module in ("numpy", "torch", "yaml"):
                found += [
                    f"from {module} import {name}" for name in names if name.startswith("load")
                ]
        elif isinstance(node, ast.Call):
            given = {k.arg: k.value for k in node.keywords}
            value = given.get("shell")
            if value is not None and not (isinstance(value, ast.Constant) and value.value is False):
                found.append("shell=")
            value = given.get("allow_pickle")
            if value is not None and not (isinstance(value, ast.Constant) and value.value is False):
                found.append("allow_pickle=")
            if isinstance(node.func, ast.Name) and node.func.id in BUILTINS:
                found.append(node.func.id)
            elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                owner, name = node.func.value.id, node.func.attr
                for (owners, function), (keyword, wanted) in REQUIRED.items():
                    if owner in owners and name == function:
                        value = given.get(keyword)
                        if not (isinstance(value, ast.Constant) and value.value is wanted):
                            found.append(f"{owner}.{name} without {keyword}={wanted}")
                if owner == "yaml" and name.startswith("load"):
                    found.append(f"yaml.{name}")
                if name in ATTRIBUTES:
                    found.append(f"{owner}.{name}")
    return found


# Beam itself sends pickles to the workers of a pipeline; the file of jobs is theirs, too.
OWN = {"dig_jax/data/beam.py": ["pickle"]}


def test_no_call_that_runs_what_a_file_says():
    found = {str(path.relative_to(ROOT)): faults(path.read_text("utf-8")) for path in FILES}
    assert len(found) > 50 and {path: calls for path, calls in found.items() if calls} == OWN


@pytest.mark.parametrize("source", [
    "import pickle", "from pickle import loads", "import marshal", "import shelve", "eval(x)", "exec(x)", "__import__(x)",
    "compile(x, '', 'exec')", "np.load(f)", "np.load(f, allow_pickle=True)", "np.load(f, allow_pickle=flag)", "torch.load(f)",
    "torch.load(f, weights_only=False)", "yaml.load(f)", "yaml.load_all(f)", "pandas.read_pickle(f)", "os.system(x)",
    "subprocess.run(x, shell=True)", "archive.extractall()", "from numpy import load", "np.savez(f, allow_pickle=True)",
])  # fmt: skip
def test_the_rule_sees_each_of_them(source):
    assert faults(source)
    allowed = "np.load(f, allow_pickle=False); torch.load(f, weights_only=True); yaml.safe_load(f); model.eval(); re.compile(x)"
    assert not faults(allowed)


# ---- files that try ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    image = writer.encode_image(np.full((10, 20), 128, np.uint8), "png")
    writer.write(tmp_path / "set", (("train", image, "x", str(i)) for i in range(4)), shards=2)
    return tmp_path / "set"


def npy(about: bytes, body: bytes) -> bytes:
    return np.lib.format.magic(1, 0) + struct.pack("<H", len(about)) + about + body


@pytest.mark.parametrize("form", ["objects in the npz", "a bare pickle"])
def test_a_pickle_in_the_index_is_refused_and_not_run(folder, form):
    touch = b"cos\nsystem\n(S'touch " + bytes(folder / "executed") + b"'\ntR."
    index = folder / "index-train.npz"
    if form == "a bare pickle":
        index.write_bytes(touch)
    else:
        with zipfile.ZipFile(index, "w") as archive:
            for name in manifest.INDEX:
                archive.writestr(
                    f"{name}.npy",
                    npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (4,), }\n", touch),
                )
    with pytest.raises(ValueError, match="index-train.npz does not fit"):
        records.RecordSet(folder)
    assert not (folder / "executed").exists()


def test_an_index_that_would_unpack_to_gigabytes_is_refused_before_it_is_unpacked(
    folder, monkeypatch
):
    bomb = npy(b"{'descr': '<u2', 'fortran_order': False, 'shape': (5000000,), }\n", bytes(10**7))
    with zipfile.ZipFile(folder / "index-train.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in manifest.INDEX:
            archive.writestr(f"{name}.npy", bomb)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(ValueError, match="which are not 4 numbers"):
        records.RecordSet(folder)


def test_postscript_never_reaches_an_interpreter(monkeypatch, tmp_path):
    from PIL import EpsImagePlugin

    from dig_jax.data.images import BadImage, Store

    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("ran Ghostscript")
    )
    data = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 40\n%%EndComments\n(x) run quit\n%%EOF\n"
    )
    with pytest.raises(BadRecord, match="not an image"):
        transforms.decode(data, 1)
    with pytest.raises(BadImage, match="not an image"):
        Store().decode(data)
