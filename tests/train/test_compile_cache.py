"""dig_jax.train.compile_cache: which folder, how large, and that JAX fills it."""

import os
import subprocess
import sys

import pytest

from dig_jax.train import compile_cache


def test_the_folder_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = tmp_path / "cache" / "dig_jax" / "programs" / compile_cache.processor()
    assert compile_cache.folder("auto", None) == str(own) and own.is_dir()
    assert compile_cache.folder("auto", "known") is None  # JAX was told by its own variable
    assert compile_cache.folder("none", None) is None and compile_cache.folder("", None) is None
    assert compile_cache.folder(str(tmp_path / "mine"), "known") == str(tmp_path / "mine")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compile_cache.folder("auto", None) is None
    with pytest.raises(ValueError, match="cannot be made .* name another, or none"):
        compile_cache.folder(str(tmp_path / "file" / "x"), None)


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    for age, name in enumerate("cab"):  # b was used last
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 + age, 1000))
    compile_cache.prune(str(tmp_path), bound=300)
    assert len(list(tmp_path.iterdir())) == 3
    compile_cache.prune(str(tmp_path), bound=250)
    assert {file.name for file in tmp_path.iterdir()} == {"a", "b"}
    compile_cache.prune(str(tmp_path), bound=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_jax_keeps_what_it_compiles_by_default(tmp_path):
    code = (
        "from dig_jax.train import compile_cache; compile_cache.keep('auto')\n"
        "import jax; jax.jit(lambda x: x + 1)(1.0)"
    )
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert list((tmp_path / "dig_jax" / "programs" / compile_cache.processor()).glob("jit_*"))
