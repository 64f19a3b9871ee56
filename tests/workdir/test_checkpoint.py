"""Save and restore: exact, on any mesh, best and last, a part of it, and what it says when it does
not fit.
"""

import asyncio
import os
import signal
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint._src.path import temporary_paths

from dig_jax import sharding
from dig_jax.train.state import TrainState
from dig_jax.workdir import checkpoint

META = {"config": {"seed": 1, "nothing": None, "sizes": [4, 4], "empty": {}}, "charset": None}


def make_state(value, width=4, mesh=None):
    params = {
        "encoder": {
            "kernel": jnp.full((8, width), value),
            "bias": jnp.arange(width, dtype=jnp.float32),
        },
        "head": {"w": jnp.ones((2,))},
    }
    state = TrainState(
        jnp.int32(value),
        params,
        {"kernel": params["encoder"]["kernel"] + 1},
        optax.adamw(0.1).init(params),
        {},
    )
    return jax.device_put(
        state, sharding.state_sharding(state, mesh or sharding.make_mesh(8), ((".*", ()),))
    )


def abstract_of(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return all(
        np.array_equal(x, y) and x.dtype == y.dtype
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))
    )


def save_all(workdir, errors, **options):
    """One checkpoint a step, with these error rates (None: not evaluated)."""
    checkpoints = checkpoint.Checkpoints(str(workdir), best_metric="eval/x/cer", **options)
    for step, error in errors.items():
        checkpoints.save(
            step,
            make_state(step),
            {} if error is None else {"eval/x/cer": error, "other": 1.0},
            META,
        )
    best = checkpoints.best_step()
    checkpoints.close()
    return checkpoint.steps(str(workdir)), best


def test_closing_waits_until_the_folder_is_tidied(tmp_path, monkeypatch):
    """An interpreter that ends meanwhile writes 40 lines of Orbax behind the sentence of an error."""
    tidied, original = [], temporary_paths.cleanup_temporary_paths

    async def slow(*args, **kwargs):
        await asyncio.sleep(0.5)
        await original(*args, **kwargs)
        tidied.append(1)

    monkeypatch.setattr(temporary_paths, "cleanup_temporary_paths", slow)
    checkpoint.Checkpoints(str(tmp_path)).close()
    assert tidied


def test_round_trip_onto_another_mesh(tmp_path):
    checkpoints = checkpoint.Checkpoints(str(tmp_path))
    assert checkpoints.latest_step() is None
    assert checkpoints.save(3, make_state(3), {}, META)
    checkpoints.wait()
    assert not checkpoints.save(3, make_state(3), {}, META)  # there already
    wanted = abstract_of(make_state(0, mesh=sharding.make_mesh(2)))
    restored = checkpoints.restore(wanted, 3)
    assert (
        same(restored, make_state(3)) and len(restored.params["head"]["w"].sharding.device_set) == 2
    )
    checkpoints.close()
    assert (
        checkpoint.read_meta(str(tmp_path)) == META
        and checkpoint.read_config(str(tmp_path)) == META["config"]
    )


def test_the_state_may_be_donated_while_it_is_saved(tmp_path):
    checkpoints = checkpoint.Checkpoints(str(tmp_path))
    state = make_state(5)
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpoints.save(5, state, {}, META)
    for _ in range(3):
        state = advance(state)
    checkpoints.wait()
    assert same(checkpoints.restore(abstract_of(make_state(0)), 5), make_state(5))
    checkpoints.close()


def test_best_and_last_stay(tmp_path):
    assert save_all(tmp_path, {1: 0.5, 2: 0.2, 3: 0.4, 4: 0.3}) == ([2, 4], 2)


def test_best_survives_restarts(tmp_path):
    """Orbax v0 forgot the metrics here and deleted the best (stack.md 3.3)."""
    save_all(tmp_path, {1: 0.5, 2: 0.2})
    assert save_all(tmp_path, {3: 0.4, 4: None}) == ([2, 4], 2)
    assert save_all(tmp_path, {5: 0.3, 6: float("nan")}) == ([2, 6], 2)
    assert save_all(tmp_path, {7: 0.1, 8: 0.3}) == ([7, 8], 7)


def test_larger_can_be_better(tmp_path):
    assert save_all(tmp_path, {1: 0.5, 2: 0.9, 3: 0.4}, best_mode="max") == ([2, 3], 2)


def test_due(tmp_path):
    checkpoints = checkpoint.Checkpoints(str(tmp_path), every_steps=10, best_metric="cer")
    assert (
        checkpoints.due(10, {})
        and not checkpoints.due(11, {})
        and checkpoints.due(11, {"cer": 0.5})
    )
    checkpoints.save(11, make_state(1), {"cer": 0.5}, META)
    checkpoints.wait()
    assert checkpoints.due(12, {"cer": 0.4}) and not checkpoints.due(12, {"cer": 0.6})
    checkpoints.close()


def test_a_subtree_for_another_run(tmp_path):
    checkpoints = checkpoint.Checkpoints(str(tmp_path))
    checkpoints.save(2, make_state(2), {}, META)
    checkpoints.close()
    wanted = abstract_of(make_state(0, mesh=sharding.make_mesh(4)).params["encoder"])
    loaded = checkpoint.load_subtree(str(tmp_path), "params/encoder", wanted)
    assert (
        same(loaded, make_state(2).params["encoder"])
        and len(loaded["bias"].sharding.device_set) == 4
    )
    assert checkpoint.has_subtree(str(tmp_path), "params/head") and not checkpoint.has_subtree(
        str(tmp_path), "params/he"
    )
    other = abstract_of(make_state(0, width=5).params["encoder"])
    with pytest.raises(
        ValueError,
        match=r"bias is \(4,\) there and \(5,\) here; kernel is \(8, 4\) there and \(8, 5\) here",
    ):
        checkpoint.load_subtree(str(tmp_path), "params/encoder", other)
    with pytest.raises(ValueError, match="norm is missing there"):
        checkpoint.load_subtree(str(tmp_path), "params/encoder", wanted | {"norm": wanted["bias"]})
    with pytest.raises(ValueError, match="kernel is only there"):
        checkpoint.load_subtree(str(tmp_path), "params/encoder", {"bias": wanted["bias"]})
    with pytest.raises(ValueError, match="no 'params/body'"):
        checkpoint.load_subtree(str(tmp_path), "params/body", wanted)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoint.load_subtree(str(tmp_path / "x"), "params/encoder", wanted)


def test_a_state_of_another_shape_is_refused(tmp_path):
    checkpoints = checkpoint.Checkpoints(str(tmp_path))
    checkpoints.save(2, make_state(2), {}, META)
    checkpoints.wait()
    with pytest.raises(
        ValueError, match=r"/encoder/bias is \(4,\) there and \(5,\) here.* and 3 more"
    ):
        checkpoints.restore(abstract_of(make_state(0, width=5)), 2)
    checkpoints.close()


def test_mistakes_become_sentences(tmp_path):
    with pytest.raises(ValueError, match="'min' or 'max'"):
        checkpoint.Checkpoints(str(tmp_path), best_mode="least")
    with pytest.raises(ValueError, match="keep_last"):
        checkpoint.Checkpoints(str(tmp_path), keep_last=0)
    with pytest.raises(FileNotFoundError, match="no work folder"):
        checkpoint.read_config(str(tmp_path / "x"))


SCRIPT = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
sys.path.insert(0, sys.argv[2])
import test_checkpoint as t
from dig_jax.workdir import checkpoint
checkpoints = checkpoint.Checkpoints(sys.argv[1])
for step in range(1, 10_000):
    checkpoints.save(step, t.make_state(step), {}, t.META)
    print(step, flush=True)
"""


@pytest.mark.slow
def test_kill_leaves_a_whole_checkpoint(tmp_path, python):
    """kill -9 while saves run: the last committed step restores, exact, and the debris goes."""
    command = [python, "-c", SCRIPT, str(tmp_path), os.path.dirname(__file__)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    for line in process.stdout:
        if int(line) >= 5:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    checkpoints = checkpoint.Checkpoints(str(tmp_path))
    step = checkpoints.latest_step()
    assert step >= 4
    assert same(checkpoints.restore(abstract_of(make_state(0)), step), make_state(step))
    checkpoints.close()
    assert not [p for p in (tmp_path / "checkpoints").iterdir() if "tmp" in p.name]
