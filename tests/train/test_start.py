"""What a run starts from: weights of another run, inherited config, feature statistics."""

import json
import os
import shutil

import numpy as np
import pytest
from ml_collections.config_dict import placeholder

from dig_jax import hosts, trees
from dig_jax.data import writer
from dig_jax.train import run as train
from dig_jax.train import state as states
from dig_jax.train.experiment import Experiment
from dig_jax.train.start import first_batches
from dig_jax.workdir import checkpoint, folder
from tests.tiers import tiers
from tests.toy import crops, make_config, rows_of, same, whole_lines, write_lines

pytestmark = pytest.mark.usefixtures("toys")


def test_init_from_takes_the_encoder_and_the_teacher_follows(lines, tmp_path):
    source = train.run(make_config(lines, 2), str(tmp_path / "a"))
    config = make_config(lines, 0, init_from=str(tmp_path / "a"), seed=1)
    state = train.run(config, str(tmp_path / "b"))
    assert same(state.params["encoder"], source.params["encoder"])
    assert same(state.teacher, source.params["encoder"]) and not same(
        source.teacher, source.params["encoder"]
    )
    assert not same(state.params["head"], source.params["head"])
    trained = train.run(
        make_config(lines, 1, init_from=str(tmp_path / "a"), seed=1), str(tmp_path / "c")
    )
    assert int(trained.step) == 1
    config = make_config(
        lines, 0, init_from=str(tmp_path / "a"), method={"name": "toy", "width": 5}
    )
    with pytest.raises(ValueError, match=r"bias is \(4,\) there and \(5,\) here"):
        train.run(config, str(tmp_path / "d"))
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        train.run(make_config(lines, 0, init_from=str(tmp_path / "nowhere")), str(tmp_path / "e"))


def test_a_whole_recogniser_is_taken_over_with_its_charset(lines, tmp_path):
    source = train.run(
        make_config(lines, 1, data=whole_lines(lines)),
        str(tmp_path / "a"),
    )
    other = write_lines(tmp_path / "one", count=1)  # has "a" only
    config = make_config(other, 0, data=whole_lines(other), init_from=str(tmp_path / "a"))
    config.init_parts = ("params", "mutable")
    state = train.run(config, str(tmp_path / "b"))
    assert same(state.params, source.params) and same(state.mutable, source.mutable)
    assert json.loads((tmp_path / "b" / "charset.json").read_text())["chars"] == "ab"


def recogniser(spec, **changes):
    """A config of one step with a rate of 0: what was taken over stays."""
    changes |= {"data": whole_lines(spec), "optim": {"lr": 0.0}, "mesh.data": 1}
    config = make_config(spec, 1, **changes)
    encoder = {"patch": (8, 4), "width": 8, "depth": 0, "heads": 1}
    heads = {"read": {"kind": "attention", "hidden": 8}}
    config.method = {"name": "recognize", "encoder": encoder, "heads": heads}
    config.calibrate_batches = 1
    return config


@pytest.mark.parametrize(
    "optim, fits",
    [
        ({"weight_decay": 0.1}, False),
        ({"weight_decay": 0.0}, True),
        ({"weight_decay": 0.1, "rules": (("^heads/", {}), ("", {"freeze": True}))}, True),
    ],
)
def test_a_training_that_would_move_a_frozen_encoder_is_refused(lines, optim, fits):
    config = recogniser(lines)
    config.method.frozen = True
    config.optim = {"lr": 0.1, **optim}
    if fits:
        Experiment.from_config(config.to_dict())
        return
    with pytest.raises(ValueError, match="weight decay would move the encoder"):
        Experiment.from_config(config.to_dict())
    config.total = {"steps": 0}  # nothing moves
    Experiment.from_config(config.to_dict())


def test_features_that_nobody_measured_are_a_sentence(lines, tmp_path):
    config = recogniser(lines)
    config.calibrate_batches = 0
    with pytest.raises(ValueError, match="calibrate_batches is 0.*such as 100"):
        train.run(config, str(tmp_path))


@pytest.mark.slow
def test_new_characters_extend_the_classes_of_an_old_recogniser(lines, tmp_path, capsys):
    """Old classes keep their numbers and their weights; the new ones are counted and said."""
    old = train.run(recogniser(lines), str(tmp_path / "a")).params["heads"]["read"]
    image = writer.encode_image(np.full((8, 24, 1), 9, np.uint8), "png")
    texts = ["cab", "b\u00e4c", "B"]
    writer.write(tmp_path / "more", (("train", image, text, text) for text in texts))
    config = recogniser(str(tmp_path / "more"), init_from=str(tmp_path / "a"))
    config.init_parts = ("params", "mutable")
    new = train.run(config, str(tmp_path / "b")).params["heads"]["read"]
    assert json.loads((tmp_path / "b" / "charset.json").read_text())["chars"] == "abBc\u00e4"
    said = capsys.readouterr().err
    assert (
        "3 characters" in said and "'B' 'c' '\u00e4'" in said and "Its 3 classes are kept" in said
    )
    new, old = trees.named_leaves(new), trees.named_leaves(old)
    axes = {"classify/kernel": 1, "classify/bias": 0, "characters": 0}
    for name, leaf in new.items():
        kept = np.take(np.asarray(leaf), np.arange(3), axes[name]) if name in axes else leaf
        np.testing.assert_array_equal(kept, old[name], err_msg=name)
    assert new["classify/kernel"].shape[1] == 6 and new["characters"].shape[0] == 6
    assert np.abs(new["characters"][3:]).min() > 0  # they start as they would anew
    config.total.steps = 2
    assert int(train.run(config, str(tmp_path / "b")).step) == 2  # resumes


def test_right_to_left_labels_are_learnt_in_the_order_of_the_picture(tmp_path, capsys):
    image = writer.encode_image(np.full((8, 24, 1), 9, np.uint8), "png")
    word = "\u05e9\u05dc\u05d5\u05dd"
    writer.write(tmp_path / "hebrew", iter([("train", image, word, "a")]))
    data = Experiment.from_config(recogniser(str(tmp_path / "hebrew")).to_dict()).data
    assert data.charset.base == "R" and "readings are turned back" in capsys.readouterr().err
    batch, _ = data.dataset[0]
    ids = batch["label"][0, : batch["label_length"][0]]
    assert [data.charset.chars[i - 1] for i in ids] == list(word[::-1])
    assert data.charset.decode(ids) == word


@pytest.mark.parametrize("key", tiers(["init_from", "shape_from"]))
def test_what_is_left_open_is_inherited(lines, tmp_path, key):
    """None = the value of that run; given values stay; `shape_from` takes no weights."""
    source = train.run(
        make_config(lines, 1, method={"name": "toy", "encoder": {"patch": (4, 4)}}),
        str(tmp_path / "a"),
    )
    open_keys = ("method.encoder", "data.height_px", "data.width_px")
    method = {"name": "toy", "encoder": placeholder(object)}
    config = make_config(
        lines, 0, method=method, inherit=open_keys, seed=1, **{key: str(tmp_path / "a")}
    )
    config.data.width_px, config.data.height_px = 24, placeholder(int)
    state = train.run(config, str(tmp_path / "b"))
    written = checkpoint.read_config(str(tmp_path / "b"))
    assert {"patch": [4, 4], "final_norm": False}.items() <= written["method"]["encoder"].items()
    assert (written["data"]["height_px"], written["data"]["width_px"]) == (8, 24)
    assert same(state.params["encoder"], source.params["encoder"]) is (key == "init_from")
    with pytest.raises(
        ValueError, match=r"config.method.encoder is not set: .*init_from=DIR.*shape_from=DIR"
    ):
        train.run(make_config(lines, 0, method=method, inherit=open_keys), str(tmp_path / "c"))


def test_calibrate_runs_once_before_the_first_step(lines, tmp_path):
    first = train.run(make_config(lines, 1, calibrate_batches=2), str(tmp_path))
    assert float(first.mutable["seen"]) == 1601.0  # two batches of 8
    later = train.run(make_config(lines, 2, calibrate_batches=2), str(tmp_path))
    assert float(later.mutable["seen"]) == 1602.0


def test_statistics_of_an_epoch_count_every_labelled_line_once(lines):
    """20 lines in batches of 8: the last training batch is filled with 4 lines that have been
    there.
    """
    config = make_config(lines, 1, data=whole_lines(lines))
    experiment = Experiment.from_config(config.to_dict())
    batches = first_batches(experiment, 9, None)
    assert iter(batches) is batches  # one by one, never all on the device
    assert [int(batch["valid"].sum()) for batch in batches] == [8, 8, 4]
    assert [int(batch["valid"].sum()) for batch in first_batches(experiment, 2, None)] == [8, 8]


def test_a_teacher_can_be_the_start(lines, tmp_path):
    source = train.run(make_config(lines, 2), str(tmp_path / "a"))
    parts = ("teacher->params/encoder",)
    state = train.run(
        make_config(lines, 0, init_from=str(tmp_path / "a"), init_parts=parts), str(tmp_path / "b")
    )
    assert same(state.params["encoder"], source.teacher) and not same(
        source.teacher, source.params["encoder"]
    )
    assert same(state.teacher, source.teacher)
    with pytest.raises(ValueError, match=r"config.init_parts .*'params/body'"):
        parts = ("teacher->params/body",)
        train.run(
            make_config(lines, 0, init_from=str(tmp_path / "a"), init_parts=parts),
            str(tmp_path / "c"),
        )


@pytest.mark.slow
def test_best_and_last_checkpoint_as_a_start(lines, tmp_path, capsys):
    """The toy error is smallest at step 4 of 6."""
    changes = {"evals": {"toy": {"every_steps": 1}}, "checkpoint.best_metric": "eval/toy0/cer"}
    four = train.run(
        make_config(lines, 4, **changes, **{"optim.schedule": "constant"}), str(tmp_path / "a")
    )
    six = train.run(
        make_config(lines, 6, **changes, **{"optim.schedule": "constant"}), str(tmp_path / "a")
    )
    for which, source, step in (("last", six, 6), ("best", four, 4)):
        config = make_config(lines, 0, init_from=str(tmp_path / "a"), init_checkpoint=which)
        state = train.run(config, str(tmp_path / which))
        assert same(state.params["encoder"], source.params["encoder"])
        assert f"step {step} of {tmp_path / 'a'}" in capsys.readouterr().err
    with pytest.raises(ValueError, match="init_checkpoint is 'first'.*'best'"):
        train.run(
            make_config(lines, 0, init_from=str(tmp_path / "a"), init_checkpoint="first"),
            str(tmp_path / "d"),
        )


def test_best_is_the_last_where_nothing_was_measured(lines, tmp_path):
    source = train.run(make_config(lines, 2), str(tmp_path / "a"))
    config = make_config(lines, 0, init_from=str(tmp_path / "a"), init_checkpoint="best")
    assert same(train.run(config, str(tmp_path / "b")).params["encoder"], source.params["encoder"])


@pytest.mark.slow
def test_where_weights_came_from_is_written_as_a_whole_path(lines, tmp_path, monkeypatch):
    train.run(make_config(lines, 1), str(tmp_path / "a"))
    monkeypatch.chdir(tmp_path)
    train.run(make_config(lines, 1, init_from="a"), "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["init_from"] == str(
        tmp_path / "a"
    )
    train.run(
        make_config(lines, 2, init_from=os.path.join("..", tmp_path.name, "a")), "b"
    )  # the same folder
    assert max(row["step"] for row in rows_of("b")) == 2


def test_what_the_named_run_lacks_is_said_so(lines, tmp_path):
    train.run(make_config(lines, 1), str(tmp_path / "a"))
    config = make_config(
        lines, 0, inherit=("data.width", "method.frames"), init_from=str(tmp_path / "a")
    )
    config.method = {"name": "toy", "frames": placeholder(object)}
    with config.unlocked():
        config.data.width = placeholder(int)
    with pytest.raises(
        ValueError, match=rf"config.data.width is not set and {tmp_path / 'a'} has none: give it"
    ):
        train.run(config, str(tmp_path / "b"))


def opened(config):
    return Experiment.from_config(config.to_dict()).data


def test_the_longest_label_and_the_largest_image_can_be_set(lines, tmp_path):
    config = make_config(lines, 1, data=whole_lines(lines))
    config.update_from_flattened_dict({"data.max_label_length": 1})
    with pytest.raises(ValueError, match="max_label_length=1: raise it"):
        train.run(config, str(tmp_path))
    config.update_from_flattened_dict(
        {"data.max_label_length": 5, "data.multiple_px": 8, "data.max_pixels": 1000}
    )
    batch = opened(config).dataset[0][0]
    assert batch["label"].shape == (8, 5) and batch["image"].shape[2] == 24
    config.data = crops(lines)
    config.data.max_pixels = 10
    assert len(opened(config).dataset[0][1]["errors"]) == 8


def test_config_and_charset_are_written(lines, tmp_path):
    config = make_config(lines, 1, data=whole_lines(lines))
    train.run(config, str(tmp_path))
    written = json.loads((tmp_path / "config.json").read_text())
    assert written == checkpoint.read_config(str(tmp_path))
    stated, complete = trees.flatten(json.loads(config.to_json())), trees.flatten(written)
    assert stated.items() <= complete.items() and complete["data.max_bad_share"] == 0.01
    assert json.loads((tmp_path / "charset.json").read_text())["chars"] == "ab"
    assert checkpoint.read_meta(str(tmp_path))["charset"] == (tmp_path / "charset.json").read_text()


@pytest.mark.slow
def test_moved_records_and_a_moved_start_resume(lines, tmp_path):
    """The same contents at another place; other contents are refused."""
    train.run(make_config(lines, 1), str(tmp_path / "a"))
    changes = {"init_from": str(tmp_path / "a")}
    train.run(make_config(lines, 1, **changes), str(tmp_path / "b"))
    moved = shutil.copytree(lines, tmp_path / "moved")
    shutil.move(tmp_path / "a", tmp_path / "elsewhere")
    changes = {"init_from": str(tmp_path / "elsewhere")}
    state = train.run(make_config(str(moved), 2, **changes), str(tmp_path / "b"))
    assert int(state.step) == 2
    other = write_lines(tmp_path / "other", count=19)
    with pytest.raises(ValueError, match=r"data.train was '.*moved' and is '.*other'"):
        train.run(make_config(other, 3, **changes), str(tmp_path / "b"))
    train.run(make_config(lines, 1, seed=1), str(tmp_path / "c"))
    changes = {"init_from": str(tmp_path / "c")}
    with pytest.raises(ValueError, match=r"init_from was '.*elsewhere' and is '.*c'"):
        train.run(make_config(str(moved), 3, **changes), str(tmp_path / "b"))


def test_a_run_of_an_older_layout_starts_another_and_does_not_resume(lines, tmp_path, monkeypatch):
    """Its meta says layout 1, or none, and its config has the keys of then."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "LAYOUT", 1)
        describe = folder.describe

        def as_then(*args):
            meta = describe(*args)
            del meta["sources"], meta["config"]["shape_from"]
            meta["config"] |= {"like": "", "accumulate": None}
            return meta

        patch.setattr(folder, "describe", as_then)
        old = train.run(make_config(lines, 1), str(tmp_path / "old"))
    with pytest.raises(
        ValueError, match=r"older dig_jax \(checkpoint layout 1.*--config.init_from="
    ):
        train.run(make_config(lines, 2), str(tmp_path / "old"))
    state = train.run(make_config(lines, 0, init_from=str(tmp_path / "old")), str(tmp_path / "new"))
    assert same(state.params["encoder"], old.params["encoder"])


def bare(experiment, raw):
    """Experiment.create of a method that keeps nothing."""
    state = states.create(experiment.method, experiment.optimizer.tx, experiment.variables(raw))
    return state.replace(mutable={})


def test_statistics_that_were_taken_over_are_not_measured_again(lines, tmp_path, monkeypatch):
    """And weights without the statistics that belong to them are refused."""
    data = {"data": whole_lines(lines), "calibrate_batches": 2}
    source = train.run(make_config(lines, 1, **data), str(tmp_path / "a"))
    whole = {"init_from": str(tmp_path / "a"), "init_parts": ("params", "mutable")}
    state = train.run(make_config(lines, 0, **data, **whole), str(tmp_path / "b"))
    assert same(state.mutable, source.mutable)
    whole["init_parts"] = ("params",)
    with pytest.raises(ValueError, match=r"but not 'mutable'.*init_parts=\('params','mutable'\)"):
        train.run(make_config(lines, 0, **data, **whole), str(tmp_path / "c"))
    # Nor may a reader of standardised features go on with features as they are.
    whole["init_parts"] = ("params", "mutable")
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "create", lambda self, raw: bare(self, raw))
        with pytest.raises(ValueError, match="were standardised.*method.standardize=True"):
            train.run(make_config(lines, 0, **data, **whole), str(tmp_path / "d"))
    whole["init_parts"] = ("params",)
    # The other way round, too.
    monkeypatch.setattr(checkpoint, "has_subtree", lambda *_: False)
    with pytest.raises(ValueError, match="were not standardised.*method.standardize=False"):
        train.run(make_config(lines, 0, **data, **whole), str(tmp_path / "e"))


def test_epochs_and_steps_exclude_each_other(lines, tmp_path):
    config = make_config(lines, 3, **{"total.epochs": 2.0})
    with pytest.raises(ValueError, match="config.total says steps=3 and epochs=2.0: set"):
        train.run(config, str(tmp_path))


def test_init_from_takes_the_step_that_the_lead_sees(lines, tmp_path, monkeypatch, capsys):
    kept = {"checkpoint.every_steps": 2, "checkpoint.keep_last": 2}
    source = train.run(make_config(lines, 4, **kept), str(tmp_path / "a"))
    monkeypatch.setattr(hosts, "broadcast", lambda number: 2 if number == 4 else number)
    state = train.run(make_config(lines, 0, init_from=str(tmp_path / "a")), str(tmp_path / "b"))
    assert "starting from step 2 of" in capsys.readouterr().err
    assert not same(state.params["encoder"], source.params["encoder"])


def test_a_step_that_a_host_does_not_see_is_a_sentence(lines, tmp_path):
    train.run(make_config(lines, 1), str(tmp_path))
    checkpoint.await_step(str(tmp_path), 1, seconds=0.1)
    with pytest.raises(FileNotFoundError, match=f"does not see step 2 of {tmp_path}"):
        checkpoint.await_step(str(tmp_path), 2, seconds=0.1)


def test_records_are_written_as_whole_paths(lines, tmp_path, monkeypatch):
    monkeypatch.chdir(os.path.dirname(lines))
    monkeypatch.setenv("HOME", os.path.dirname(lines))
    name = os.path.basename(lines)
    for number, spec in enumerate((name, f"~/{name}@train*2,{name}*0.5")):
        train.run(make_config(spec, 1), str(tmp_path / str(number)))
    assert checkpoint.read_config(str(tmp_path / "0"))["data"]["train"] == lines
    written = checkpoint.read_config(str(tmp_path / "1"))["data"]["train"]
    assert written == f"{lines}@train*2,{lines}*0.5"
