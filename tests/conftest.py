"""Strict switches for every test: 8 simulated devices, rank promotion is an error, a compile cache
between runs.
"""

import getpass
import os
import tempfile

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# One cache a user: a folder that another user made could not be written.
jax.config.update(
    "jax_compilation_cache_dir",
    os.path.join(tempfile.gettempdir(), f"dig_jax_test_cache_{getpass.getuser()}"),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def toys(monkeypatch):
    """Configs may name the method and the evaluator "toy"."""
    from tests import toy  # late: not before the switches above

    toy.install(monkeypatch)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Records that the toy method trains on."""
    from tests import toy

    return toy.write_lines(tmp_path_factory.mktemp("records") / "toy")
