"""The wheel: configs come along inside the package, and a `configs` of the user's is left alone."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from dig_jax import __main__

ROOT = pathlib.Path(__file__).parents[1]
LOAD = """
import pathlib, sys
import dig_jax
from dig_jax.train import command_line
assert str(pathlib.Path(dig_jax.__file__).parent) == sys.argv[1]
name = command_line.load("mae:preset=cpu,records=x")
path = command_line.load("configs/pretrain/mae.py:preset=cpu,records=x")
assert name.to_dict() == path.to_dict() and name.method.encoder.size == "micro"
assert command_line.load("mine.py").seed == 7
assert "configs" not in sys.modules
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what the wheel holds, and nothing else."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    source.mkdir()
    left_out = shutil.ignore_patterns("__pycache__")
    for name in ("dig_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    done = subprocess.run(
        [*command, "-w", str(root), str(source)], capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = root.glob("*.whl")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target"]
    done = subprocess.run(
        [*command, str(root / "site"), str(wheel)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return root / "site"


@pytest.mark.slow
def test_a_wheel_holds_the_configs_inside_the_package(installed):
    assert not (installed / "configs").exists()
    for path in (ROOT / "configs").rglob("*.py"):
        assert (installed / "dig_jax" / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_configs_load_by_name_and_by_path_beside_a_package_of_that_name(installed, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise ImportError('not this one')")
    (tmp_path / "mine.py").write_text(
        "from dig_jax.configs.pretrain import mae\n"
        "def get_config():\n"
        "    config = mae.get_config('preset=cpu')\n"
        "    config.seed = 7\n"
        "    return config\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(installed / "dig_jax")],
        env={**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_console_script_opens_the_programs(installed, tmp_path):
    code = (
        "import dig_jax, importlib.metadata as m; print(dig_jax.__version__, m.version('dig_jax'))"
    )
    commands = [[sys.executable, "-c", code]]
    commands += [
        [str(installed / "bin" / "dig-jax"), *given]
        for given in ([], ["predict"], ["x"], ["import"])
    ]
    answers = [
        subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        for command in commands
    ]
    version, overview, predict, unknown, imports = answers
    assert imports.returncode == 1 and "--layout" in imports.stderr
    assert len(set(version.stdout.split())) == 1, version.stderr
    assert overview.returncode == 0 and "dig_jax.tools.predict" in overview.stdout
    assert predict.returncode == 1 and "--model" in predict.stderr
    assert unknown.returncode == 1 and "there is no 'x'" in unknown.stderr
    assert not any("Traceback" in answer.stderr for answer in answers)


def test_every_command_of_the_console_script_is_a_program():
    assert set(__main__.COMMANDS.values()) <= set(__main__.programs())
