"""The trainer with a toy method: resume, devices, bad numbers, evaluations, sentences. Real
records, real pipeline.
"""

import collections
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax import main, prng, sharding
from dig_jax.data import pipeline, records
from dig_jax.methods.shared import base
from dig_jax.train import optim
from dig_jax.train import run as train
from dig_jax.train import state as states
from dig_jax.train.experiment import Experiment
from dig_jax.train.step import make_train_step
from dig_jax.workdir import checkpoint
from tests.toy import Evaluator, Toy, make_config, rows_of, same, wrap_step, write_lines

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("toys")


def spy_on_data(monkeypatch):
    """The record numbers of every batch that the loop counts."""
    seen = []
    original = pipeline.ErrorBudget.add
    monkeypatch.setattr(
        pipeline.ErrorBudget,
        "add",
        lambda self, host: (seen.append(host["index"].tolist()), original(self, host)),
    )
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [{"mesh.data": 1}, {"mesh.data": -1}, {"mesh.data": 2, "mesh.fsdp": 4}]
)
def test_a_step_writes_over_the_state_it_was_given(mesh, lines, tmp_path, monkeypatch):
    """Donated whole, on any mesh: a leaf that XLA cannot use again would cost its memory twice."""
    kept = []

    def spy(step):
        def call(state, batch):
            new = step(state, batch)
            if isinstance(state.step, jax.Array) and not isinstance(state.step, jax.core.Tracer):
                leaves = jax.tree_util.tree_leaves_with_path(state)
                kept.append(
                    [
                        jax.tree_util.keystr(path)
                        for path, leaf in leaves
                        if leaf.size > 1 and not leaf.is_deleted()  # JAX 0.11 keeps the first step
                    ]
                )
            return new

        return call

    wrap_step(monkeypatch, spy)
    train.run(make_config(lines, 3, **mesh), str(tmp_path / "run"))
    assert kept == [[], [], []]


@pytest.mark.parametrize("changes", [{}, {"optim.average": 8.0}], ids=["plain", "average"])
def test_resume_is_bit_exact(lines, tmp_path, monkeypatch, changes):
    """4 steps = 2 steps, SIGTERM, 2 steps: same state, same records, same metrics.jsonl."""
    seen = spy_on_data(monkeypatch)
    whole = train.run(make_config(lines, 4, **changes), str(tmp_path / "whole"))
    whole_seen = seen[:]
    seen.clear()

    def stop_at_two(step, local):
        return step == 2

    with monkeypatch.context() as patch:
        patch.setattr(train.hosts, "stop_requested", stop_at_two)
        with pytest.raises(SystemExit) as stopped:
            train.run(make_config(lines, 4, **changes), str(tmp_path / "parts"))
    assert stopped.value.code == 143
    assert checkpoint.steps(str(tmp_path / "parts")) == [2]
    resumed = train.run(make_config(lines, 4, **changes), str(tmp_path / "parts"))
    assert int(resumed.step) == 4
    assert same(whole, resumed)
    assert seen == whole_seen and len({tuple(s) for s in seen}) == 4
    logs = [
        [{k: v for k, v in r.items() if k != "train/lines_per_s"} for r in rows_of(tmp_path / d)]
        for d in ("whole", "parts")
    ]
    assert logs[0] == logs[1] and [r["step"] for r in logs[0]] == [1, 2, 3, 4]


def test_a_run_is_judged_by_the_average_of_its_weights(lines, tmp_path, monkeypatch):
    """The average changes nothing that is trained; evaluators see it, and it is what is saved."""
    plain = train.run(make_config(lines, 4), str(tmp_path / "plain"))
    seen = []
    spy = lambda self, state, step: seen.append(state.params) or {}
    monkeypatch.setattr("tests.toy.Evaluator.run", spy)
    changes = {"optim.average": 1.0, "evals.toy": {"every_steps": 0}}
    beside = train.run(make_config(lines, 4, **changes), str(tmp_path / "average"))
    losses = [[r["train/loss"] for r in rows_of(tmp_path / d)] for d in ("plain", "average")]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    for got, want in zip(*map(jax.tree.leaves, (beside.opt_state.moving, plain.params))):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    assert not same(beside.params, plain.params)
    assert len(seen) == 1 and same(seen[0], beside.params)
    saved = checkpoint.load_subtree(str(tmp_path / "average"), "params", beside.params, 4)
    assert same(saved, beside.params)


def test_the_state_moves(lines, tmp_path):
    """What the test above compares does change: parameters, teacher, moments, mutable."""
    one = train.run(make_config(lines, 1), str(tmp_path / "a"))
    two = train.run(make_config(lines, 2), str(tmp_path / "b"))
    for part in ("params", "teacher", "opt_state", "mutable"):
        assert not same(getattr(one, part), getattr(two, part)), part


def test_one_and_eight_devices_agree(lines, tmp_path):
    results = []
    for devices in (1, 8):
        train.run(make_config(lines, 3, **{"mesh.data": devices}), str(tmp_path / str(devices)))
        results.append(rows_of(tmp_path / str(devices)))
    for one, eight in zip(*results, strict=True):
        for name in ("train/loss", "train/grad_norm", "train/features", "train/lr"):
            assert one[name] == pytest.approx(eight[name], rel=1e-5, abs=1e-7), name


@pytest.mark.slow
def test_a_run_resumes_on_another_mesh(lines, tmp_path):
    train.run(make_config(lines, 2), str(tmp_path))
    state = train.run(make_config(lines, 3, **{"mesh.data": 2}), str(tmp_path))
    assert int(state.step) == 3 and len(state.step.sharding.device_set) == 2


class Keeper(Toy):
    """Remembers the last batch, which XLA would leave where its rows were computed."""

    def init(self, key, batch):
        return super().init(key, batch) | {
            "mutable": {"seen": jnp.zeros(()), "queue": jnp.zeros(batch["x"].shape)}
        }

    def loss(self, params, state, batch, key, progress):
        loss, aux = super().loss(params, state, batch, key, progress)
        return loss, base.Aux(aux.metrics, aux.mutable | {"queue": batch["x"]})


@pytest.mark.slow
def test_a_step_leaves_the_state_where_it_lies(lines, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dig_jax.methods.toy", types.SimpleNamespace(Method=Keeper))
    config = make_config(lines, 2, mesh={"data": 2, "fsdp": 2, "tensor": 2})
    state = train.run(config, str(tmp_path))
    wanted = sharding.state_sharding(state, sharding.make_mesh(config.mesh.to_dict()))
    for leaf, layout in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding.is_equivalent_to(layout, leaf.ndim), (leaf.shape, leaf.sharding)
    assert state.mutable["queue"].sharding.is_fully_replicated
    assert state.params["head"]["kernel"].addressable_shards[0].data.shape == (2, 4)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim == 2]
    assert len(moments) == 4 and all(
        leaf.addressable_shards[0].data.size == leaf.size // 4 for leaf in moments
    )


class Probe:
    """A figure of a step that tells when it is waited for or fetched."""

    def __init__(self, value, step, tell):
        self.value, self.step, self.tell = value, step, tell

    def block_until_ready(self):
        self.tell("waits", self.step)
        return self

    def __array__(self, *args, **kwargs):
        self.tell("fetches", self.step)
        return np.asarray(self.value)


def test_the_device_never_waits_for_logging(lines, tmp_path, monkeypatch):
    """Between log steps nothing of a step is fetched, and at a log step two later ones are in
    flight already; never more than these, else a log interval of batches lies on the device, and a
    run asked to stop has to compute it first."""
    started, told = [0], set()

    def wrapped(step):
        def run(state, batch):
            if isinstance(state.step, jax.core.Tracer):  # shapes only, before the first step
                return step(state, batch)
            started[0] += 1
            state, values = step(state, batch)
            tell = lambda what, of: told.add((what, started[0], of))
            return state, {name: Probe(value, started[0], tell) for name, value in values.items()}

        return run

    wrap_step(monkeypatch, wrapped)
    train.run(make_config(lines, 12, **{"log.every_steps": 5}), str(tmp_path))
    fetches = {("fetches", 7, of) for of in range(1, 6)} | {
        ("fetches", 12, of) for of in range(6, 13)
    }
    waits = {("waits", 1, 1)} | {
        ("waits", step, step - 2) for step in range(3, 13)
    }  # the first: the compilation
    assert told == waits | fetches  # step 5 once 7 has started; the rest at the end


@pytest.mark.slow
def test_a_trace_of_some_steps_on_demand(lines, tmp_path, capsys):
    train.run(make_config(lines, 4, profile="2-3"), str(tmp_path))
    assert [
        path for path in (tmp_path / "profile").rglob("*.xplane.pb") if path.stat().st_size > 1000
    ]
    assert f"wrote the trace of steps 2-3 to {tmp_path}" in capsys.readouterr().err
    train.run(
        make_config(lines, 5, profile="2-3"), str(tmp_path)
    )  # resumed behind them, and free to change


def test_nan_stops_with_step_records_and_checkpoint(lines, tmp_path, monkeypatch):
    """Named: the step, every record of its batch, the last good checkpoint. Nothing bad on disk."""
    seen = spy_on_data(monkeypatch)
    config = make_config(
        lines, 6, **{"method": {"name": "toy", "nan_at": 3}, "checkpoint.every_steps": 1}
    )
    with pytest.raises(train.Stopped) as stopped:
        train.run(config, str(tmp_path))
    sentence = str(stopped.value)
    assert "step 4 " in sentence and "nan" in sentence  # state.step 3 is the fourth step
    assert (
        checkpoint.steps(str(tmp_path)) == [3] and str(tmp_path / "checkpoints" / "3") in sentence
    )
    names = (tmp_path / "bad_step_4.txt").read_text().split()
    mixture = records.open_sets(lines)
    assert names == [mixture.where(i) for i in seen[3]] and names[0] in sentence
    assert max(row["step"] for row in rows_of(tmp_path)) == 3
    assert (
        "config.optim.lr" in sentence and f"--config.init_from={tmp_path}" in sentence
    )  # the way out


def test_nan_is_found_before_a_save_between_log_steps(lines, tmp_path):
    config = make_config(
        lines,
        6,
        **{
            "method": {"name": "toy", "nan_at": 2},
            "checkpoint.every_steps": 4,
            "log.every_steps": 100,
        },
    )
    with pytest.raises(train.Stopped, match="step 3 .*none was saved"):
        train.run(config, str(tmp_path))
    assert checkpoint.steps(str(tmp_path)) == []


def test_a_bad_step_leaves_the_state_alone(lines):
    experiment = Experiment.from_config(make_config(lines, 6, **{"mesh.data": 1}).to_dict())
    batch = sharding.to_global(experiment.data.dataset[0][0], experiment.mesh)
    state = experiment.create(batch)
    for method, finite in ((Toy(), True), (Toy(nan_at=0), False)):
        step = make_train_step(method, experiment.optimizer, 0)
        after, values = jax.jit(step)(state, batch)
        assert bool(values["finite"]) is finite
        assert same(after, state) is not finite


def test_seed_length_and_rate_compile_to_one_program(lines):
    """So a second seed, or a sweep of rates, finds its program in the compile cache; and each of
    them counts."""
    base = make_config(lines, 6, **{"mesh.data": 1})
    changes = {"none": {}, "seed": {"seed": 7}}
    changes |= {"length": {"total.steps": 9}, "rate": {"optim.lr": 0.02}}
    texts, found = set(), {}
    for name, change in changes.items():
        config = base.copy_and_resolve_references()
        config.update_from_flattened_dict(change)
        experiment = Experiment.from_config(config.to_dict())
        if not found:
            batch = sharding.to_global(experiment.data.dataset[0][0], experiment.mesh)
            state = experiment.create(batch).replace(step=jnp.int32(2))
            constant = make_train_step(experiment.method, experiment.optimizer, 0)
            expected = jax.jit(constant)(state, batch)[1]
        texts.add(experiment.step.lower(experiment.placed, batch, mesh=experiment.mesh).as_text())
        found[name] = experiment.step(jax.tree.map(jnp.copy, state), batch)[1]
    assert len(texts) == 1
    for figure, value in expected.items():
        np.testing.assert_allclose(found["none"][figure], value, rtol=1e-6)
    # Not by the bit: the toy's teacher is a mean weighed by progress, which rounds with the length.
    moved = lambda figure: {
        name
        for name in found
        if not np.isclose(found[name][figure], found["none"][figure], rtol=1e-6, atol=0)
    }
    assert moved("lr") == {"length", "rate"} and moved("loss") == {"seed"}


def test_frozen_parameters_stay_and_cost_nothing(lines, tmp_path):
    rules = (("^encoder/", {"freeze": True}), (".*", {}))
    first = train.run(make_config(lines, 0), str(tmp_path / "none"))
    last = train.run(make_config(lines, 3, **{"optim.rules": rules}), str(tmp_path / "probe"))
    assert same(first.params["encoder"], last.params["encoder"])
    assert not same(first.params["head"], last.params["head"])
    sizes = [leaf.shape for leaf in jax.tree.leaves(last.opt_state) if leaf.ndim]
    assert sizes == [(4, 8), (4, 8)]  # moments of the head only


class Witness(base.Method):
    """Reports what the step hands it."""

    def init(self, key, batch):
        return {"params": {"encoder": {"w": jnp.ones(())}}, "mutable": {}}

    def augment(self, key, batch):
        return batch | {"draw": jax.random.uniform(key)}

    def loss(self, params, state, batch, key, progress):
        seen = {
            "augment": batch["draw"],
            "draw": jax.random.uniform(key),
            "teacher": state.teacher["w"],
            "progress": progress,
        }
        return params["encoder"]["w"] ** 2, base.Aux(seen, {})

    def init_teacher(self, params):
        return params["encoder"]

    def update_teacher(self, teacher, params, progress):
        return {"w": teacher["w"] + 10 + progress}

    def schedules(self, progress):
        return {"momentum": progress}


def test_a_step_gives_fresh_keys_and_the_moved_teacher():
    """The teacher moves before the loss (the order of DiG); it and the loss know step / total; no
    key is used twice.
    """
    method, batch = Witness(), {"image": jnp.zeros((8, 8, 16, 1), jnp.uint8)}
    made = method.init(None, None)
    optimizer = optim.create(params=made["params"], total_steps=4, batch_size=8, lr=0.1)
    state = states.create(method, optimizer.tx, made)
    seen = []
    for _ in range(2):
        state, values = make_train_step(method, optimizer, 0)(state, batch)
        seen.append(values)
    assert [float(values["teacher"]) for values in seen] == [11.0, 21.25]
    for name in ("momentum", "progress"):
        assert [float(values[name]) for values in seen] == [0.0, 0.25], name
    assert len({float(values[name]) for values in seen for name in ("augment", "draw")}) == 4
    _, values = make_train_step(method, optimizer, 1)(state.replace(step=jnp.int32(0)), batch)
    assert float(values["draw"]) != float(seen[0]["draw"])  # another seed


def test_a_run_traces_its_parameters_once_and_its_views_once_more(lines, tmp_path, monkeypatch):
    """Tracing a large network takes longer than two steps of it: shapes and values share one."""
    calls = collections.Counter()
    for name in ("init", "augment"):
        called = getattr(Toy, name)
        spy = lambda *given, n=name, f=called: (calls.update([n]), f(*given))[1]
        monkeypatch.setattr(Toy, name, spy)
    train.run(make_config(lines, 2), str(tmp_path))
    assert calls == {"init": 1, "augment": 2}


def test_all_that_a_run_traces_knows_its_mesh(lines, tmp_path, monkeypatch):
    """A fused kernel is called on each device of it (models/flash.py)."""
    known = collections.defaultdict(set)
    mesh = lambda: jax.sharding.get_abstract_mesh().shape_tuple
    for name in ("init", "augment", "loss"):
        called = getattr(Toy, name)
        spy = lambda *given, n=name, f=called: (known[n].add(mesh()), f(*given))[1]
        monkeypatch.setattr(Toy, name, spy)
    train.run(make_config(lines, 2), str(tmp_path))
    assert set(map(tuple, known.values())) == {((("data", 8), ("fsdp", 1), ("tensor", 1)),)}
    assert len(known) == 3


@pytest.mark.slow
def test_the_backward_pass_of_what_is_frozen_is_dropped():
    batch = {"image": jnp.zeros((8, 8, 16, 1), jnp.uint8)}
    method = Toy()
    made = method.init(jax.random.key(0), batch)

    def flops(rules):
        optimizer = optim.create(
            params=made["params"], total_steps=2, batch_size=8, lr=0.1, rules=rules
        )
        state = states.create(method, optimizer.tx, made)
        return (
            jax.jit(make_train_step(method, optimizer, 0))
            .lower(state, batch)
            .compile()
            .cost_analysis()["flops"]
        )

    head_only = flops((("^encoder/", {"freeze": True}), (".*", {})))
    product = (
        2 * 8 * 8 * 4
    )  # rows, pixels, width: each of the two products of the encoder's backward pass
    assert flops(()) - head_only > 2 * product


def test_evaluations_come_when_due_and_at_the_end(lines, tmp_path):
    evals = {"toy": {"every_steps": 2}, "other": {"evaluator": "toy", "offset": 1.0}}
    train.run(make_config(lines, 5, evals=evals), str(tmp_path))
    assert sorted(Evaluator.calls) == [(0.0, 2), (0.0, 4), (0.0, 5), (1.0, 5)]
    logged = {row["step"]: row for row in rows_of(tmp_path) if "eval/toy0/cer" in row}
    assert set(logged) == {2, 4, 5} and logged[5]["eval/toy1/cer"] == 2.0


def test_zero_steps_only_evaluate(lines, tmp_path):
    train.run(make_config(lines, 0, evals={"toy": {"every_steps": 2}}), str(tmp_path))
    assert Evaluator.calls == [(0.0, 0)]
    assert checkpoint.steps(str(tmp_path)) == [] and [row["step"] for row in rows_of(tmp_path)] == [
        0
    ]
    train.run(make_config(lines, 0, evals={"toy": {"offset": 1.0}}), str(tmp_path))
    train.run(make_config(lines, 0, evals={"toy": {"offset": 1.0}}), str(tmp_path))
    names = [name for row in rows_of(tmp_path) for name in row if name != "step"]
    assert sorted(names) == [
        "eval/toy0/cer",
        "eval/toy1/cer",
    ]  # the later figure stands for the earlier


@pytest.mark.slow
def test_best_checkpoint_stays_across_a_restart(lines, tmp_path):
    """The toy error is smallest at step 4; the run is cut in two after it."""
    changes = {"evals": {"toy": {"every_steps": 1}}, "checkpoint.best_metric": "eval/toy0/cer"}
    train.run(make_config(lines, 6, **changes), str(tmp_path))
    assert checkpoint.steps(str(tmp_path)) == [4, 6]
    train.run(make_config(lines, 8, **changes), str(tmp_path))
    assert checkpoint.steps(str(tmp_path)) == [4, 8]


def test_a_finished_run_says_so(lines, tmp_path, capsys):
    train.run(make_config(lines, 2), str(tmp_path))
    told = capsys.readouterr().err
    assert told.count("training data:") == told.count("compiling the training step") == 1
    assert "compiled for" in told
    before = rows_of(tmp_path)
    train.run(make_config(lines, 2), str(tmp_path))
    assert "finished" in capsys.readouterr().err and rows_of(tmp_path) == before


@pytest.mark.parametrize("total", [0, 2])
def test_fewer_steps_than_it_has_are_refused_and_change_nothing(lines, tmp_path, total):
    train.run(make_config(lines, 3), str(tmp_path))
    before = (tmp_path / "config.json").read_text(), rows_of(tmp_path)
    with pytest.raises(
        ValueError, match=f"finished 3 steps .* asks for {total}: .*another --workd"
    ):
        train.run(make_config(lines, total), str(tmp_path))
    assert ((tmp_path / "config.json").read_text(), rows_of(tmp_path)) == before


def test_epochs_become_steps_of_the_global_batch(lines, tmp_path):
    config = make_config(lines, 0)
    config.total = {"epochs": 1.5}
    state = train.run(config, str(tmp_path))  # 20 lines, batches of 8: 3 steps an epoch
    assert int(state.step) == 5


def test_another_config_in_the_same_workdir_is_refused(lines, tmp_path):
    train.run(make_config(lines, 1), str(tmp_path))
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.01 and is 0\.02"):
        train.run(make_config(lines, 2, **{"optim.lr": 0.02}), str(tmp_path))
    free = {"log.every_steps": 2, "checkpoint.every_steps": 1, "data.max_bad_share": 0.5}
    train.run(make_config(lines, 2, **free), str(tmp_path))  # these may change


def test_bad_records_are_counted_and_stop_the_run_past_their_share(tmp_path):
    spec = write_lines(tmp_path / "records", broken=range(12))
    config = make_config(spec, 2, **{"data.max_bad_share": 1.0})
    train.run(config, str(tmp_path / "a"))
    counts = [row["train/bad_records"] for row in rows_of(tmp_path / "a")]
    data = Experiment.from_config(config.to_dict()).data
    expected = [len(data.dataset[step][1]["errors"]) for step in range(2)]
    assert counts == expected and min(expected) > 0
    with pytest.raises(train.Stopped, match="max_bad_share"):
        train.run(make_config(spec, 4), str(tmp_path / "b"))


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"method": {"name": "toy", "wdth": 3}}, r"'wdth'.*did you mean 'width'"),
        ({"method": {"name": "toi"}}, r"config.method.name is 'toi'"),
        ({"optim.learning_rate": 1.0}, r"has the key 'learning_rate'.*did you mean 'lr'"),
        ({"data.kind": "words"}, r"'crops'.*'lines'"),
        ({"batch_size": 12}, r"batch size 12 does not divide over 8 devices.*8 or 16"),
        ({"mesh": {"data": 9}}, r"config.mesh is data=9.* there are 8 devices"),
        ({"mesh": {"fsdp": 3}}, r"config.mesh is data=-1, fsdp=3.* does not divide 8 devices"),
        ({"mesh": {"dta": 8}}, r"config.mesh has no axis 'dta'"),
        ({"accumulate": 0}, r"config.accumulate is 0"),
        ({"optim.rules": (("x",),)}, r"optim.rules has the rule \('x',\): write \('PATTERN', {"),
        (
            {"optim.rules": (("^a(", {}),)},
            r"'\^a\(' of config.optim.rules is no regular expression",
        ),
        ({"optim.rules": (("", {"lr_scale": "a"}),)}, r"has lr_scale='a': set it to 0 or more"),
        ({"optim.rules": (("", {"freeze": "no"}),)}, r"has freeze='no': set it to True or False"),
        ({"optim.rules": (("", {"freeze_frac": 7}),)}, r"has freeze_frac=7: set it to a share"),
        ({"sharding": (("", (3,)),)}, r"has 3 for an axis: write one of data, fsdp, tensor"),
        ({"sharding": (("a(", ()),)}, r"'a\(' of config.sharding is no regular expression"),
        ({"inherit": ("foo.bar",)}, r"inherit names 'foo.bar', and the config has no 'foo'"),
        ({"data.subset": "10%"}, r"subset is '10%', but must be a fraction"),
        ({"accumulate": 2, "batch_size": 16}, r"config.accumulate is 2.*contrast, batch norm"),
        (
            {"accumulate": 3},
            r"batch size 8 does not divide over 8 devices in 3 parts .*multiple of 24",
        ),
        ({"profile": "20-10"}, r"config.profile is '20-10'"),
        ({"evals": {"toy": {"ofset": 1}}}, r"config.evals.toy has the key 'ofset'.*'offset'"),
        ({"evals": {"nothing": {}}}, r"dig_jax.evaluators.nothing"),
        ({"checkpoint.best_mode": "lowest"}, r"'min' or 'max'"),
        ({"total.steps": None}, r"neither steps nor epochs"),
    ],
)
def test_mistakes_become_sentences(lines, tmp_path, change, sentence):
    config = make_config(lines, 1)
    with config.unlocked():
        config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=sentence):
        train.run(config, str(tmp_path))


def test_a_set_that_is_not_there_leaves_no_work_folder(lines, tmp_path):
    """It is found before Orbax opens the folder, and the lock alone does not stay either."""
    evals = {"probe": {"sets": str(tmp_path / "none")}}
    with pytest.raises((OSError, ValueError), match="none"):
        train.run(make_config(lines, 1, evals=evals), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises((OSError, ValueError), match="none"):
        train.run(make_config(lines, 1, evals=evals), str(tmp_path / "mine"))
    assert os.listdir(tmp_path / "mine") == [".lock"]


def test_metrics_are_means_over_the_log_interval(lines, tmp_path):
    train.run(make_config(lines, 5), str(tmp_path / "each"))
    train.run(make_config(lines, 5, **{"log.every_steps": 2}), str(tmp_path / "two"))
    each = [row["train/loss"] for row in rows_of(tmp_path / "each")]
    two = {row["step"]: row["train/loss"] for row in rows_of(tmp_path / "two")}
    assert two == {
        2: pytest.approx(np.mean(each[:2])),
        4: pytest.approx(np.mean(each[2:4])),
        5: pytest.approx(each[4]),
    }


def command_line(tmp_path, spec, python, devices=8):
    """The real command with the toy method, for other processes: command without --config, config
    file, environment.
    """
    script = tmp_path / "go.py"
    script.write_text(
        "import sys, types, jax\n"
        "jax.config.update('jax_platforms', 'cpu')\n"
        f"jax.config.update('jax_num_cpu_devices', {devices})\n"
        "from tests import toy\n"
        "sys.modules['dig_jax.methods.toy'] = types.SimpleNamespace(Method=toy.Toy)\n"
        "from dig_jax import main\n"
        "main.cli()\n"
    )
    config = tmp_path / "config.py"
    config.write_text(
        f"from tests import toy\ndef get_config(steps):\n    return toy.make_config({spec!r}, "
        "int(steps))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return [python, str(script), f"--workdir={tmp_path / 'run'}"], config, environment


@pytest.mark.slow
def test_sigterm_ends_a_real_process_with_143(lines, tmp_path, python):
    """Killed while it trains, it saves; run again, it goes on; a mistake is one sentence and exit
    code 1.
    """
    command, config, environment = command_line(tmp_path, lines, python)
    process = subprocess.Popen(
        [*command, f"--config={config}:1000000"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    for line in process.stderr:
        if re.match(r"5/1000000 .*loss.*lines/s.*ETA", line):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 143, rest
    (step,) = checkpoint.steps(str(tmp_path / "run"))
    assert f"saved step {step}" in rest
    options = {
        "capture_output": True,
        "text": True,
        "env": environment,
        "cwd": ROOT,
        "timeout": 120,
    }
    again = subprocess.run(
        [*command, f"--config={config}:1000000", f"--config.total.steps={step + 2}"], **options
    )
    assert again.returncode == 0, again.stderr
    assert f"starting at {step}" in again.stderr and checkpoint.steps(str(tmp_path / "run")) == [
        step + 2
    ]
    wrong = subprocess.run(
        [*command, f"--config={config}:8", "--config.method.name=toi"], **options
    )
    assert wrong.returncode == 1 and wrong.stderr.splitlines()[-1].startswith(
        "error: config.method.name is 'toi'"
    )
    assert "Traceback" not in wrong.stderr
    absent = subprocess.run([*command, "--config=/no/such/file.py"], **options)
    assert (
        absent.returncode == 1
        and absent.stderr.count("\n") == 1
        and "/no/such/file.py" in absent.stderr
    )
    stray = subprocess.run([*command, f"--config={config}:8", "--config.optim.lrr=3"], **options)
    assert stray.returncode == 1 and "did you mean 'lr'" in stray.stderr.splitlines()[-1]
    assert "Traceback" not in stray.stderr


def test_no_method_or_evaluator_is_named_in_the_trainer():
    words = [
        p.stem for kind in ("methods", "evaluators") for p in (ROOT / "dig_jax" / kind).glob("*.py")
    ]
    words = [w for w in words if w not in ("__init__", "lines")] + [
        "dis",
        "gen",
        "probe",
        "vit",
    ]
    for path in (*(ROOT / "dig_jax/train").glob("*.py"), *(ROOT / "dig_jax").glob("*.py")):
        text = path.read_text() if path.name != "__main__.py" else ""  # a page of help
        code = re.sub(r'"""(.|\n)*?"""|#.*', "", text).replace("dig_jax", "")
        named = [w for w in words if re.search(rf"['\"./_]{w}['\"./_]", code)]
        assert not named, (path, named)


def test_keys_of_the_step_do_not_repeat():
    keys = [prng.stream(0, name, step) for name in ("augment", "loss", "init") for step in range(3)]
    assert len({jax.random.key_data(k).tobytes() for k in keys}) == 9


def test_main_refuses_stray_arguments(capsys):
    assert main.main(["main", "stray"]) == 1
    assert "stray" in capsys.readouterr().err
