"""Strict switches for every test: 8 simulated devices, rank promotion is an error.

Compiling is most of the work. So XLA optimises nothing and emits the plainest code, and what it
made is kept in one cache a user. Programs that a test starts inherit all of it. Where that is the
wrong choice, a test takes tests/compiled.py.
"""

import gc
import getpass
import os
import tempfile

from tests import compiled

# Tracing makes many objects that stay. To look through them took a fifteenth of the time.
gc.set_threshold(50_000, 20, 50)

os.environ |= {
    # A folder that another user made could not be written.
    "JAX_COMPILATION_CACHE_DIR": os.path.join(
        tempfile.gettempdir(), f"dig_jax_test_cache_{getpass.getuser()}"
    ),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
} | ({"XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false"} if compiled.CHOOSES_EMITTERS else {})

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that none is left over for one worker at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """Stands in for sys.executable where a program of dig_jax is started: it starts at once."""
    from tests import forks

    with forks.python(tmp_path_factory.mktemp("python")) as executable:
        yield executable


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
