"""Types of the public surface: `make types`."""

import getpass
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_mypy_finds_nothing():
    pytest.importorskip("mypy", reason="pip install 'dig_jax[test]'")
    cache = os.path.join(tempfile.gettempdir(), f"dig_jax_mypy_{getpass.getuser()}")
    command = [sys.executable, "-m", "mypy", "--cache-dir", cache]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
