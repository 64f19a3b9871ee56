"""What the trainer makes of records that cannot be learnt: known before anything compiles."""

import numpy as np
import pytest

from dig_jax import sharding
from dig_jax.data import limits, pipeline, records
from dig_jax.train import defaults, experiment, run
from tests import toy

GIVEN = ("mixture", "batch_size", "charset", "seed", "process_index", "process_count")


def config(folder, head="linear", **data):
    lines = {
        **defaults.READING,
        **defaults.options(records.open_sets, *experiment.SETS),
        **defaults.options(pipeline.recognition, *GIVEN),
        **defaults.options(limits.learnable, "frame_px", "ctc"),
        **{"kind": "lines", "train": str(folder), "height_px": 8, "channels": 1, **data},
    }
    method = {"encoder": {"patch": (8, 4)}, "heads": {"one": {"kind": head}}}
    total = {"steps": 1, "epochs": None}
    whole = {"data": lines, "method": method, "total": total, "batch_size": 2, "seed": 0}
    return whole | {"init_from": "", "init_parts": ()}


def opened(folder, head="linear", **data):
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
    return experiment.open_data(config(folder, head, **data), mesh)


def write(folder, texts, width=40):
    image = records.encode_image(np.full((8, width), 128, np.uint8), "png")
    records.write(folder, (("train", image, text, str(i)) for i, text in enumerate(texts)))


def test_labels_are_drawn_among_labelled_lines(tmp_path, capsys):
    write(tmp_path / "a", [str(i) if i % 5 == 0 else None for i in range(50)])
    data = opened(tmp_path / "a", subset=10)
    assert len(data.mixture) == 10 and data.steps_per_epoch == 5
    with pytest.raises(ValueError, match="asks for 20, .* only 10 labelled lines"):
        opened(tmp_path / "a", subset=20)


def test_what_ctc_cannot_learn_is_told_or_refused(tmp_path, capsys):
    write(tmp_path / "a", ["ab"] * 9 + ["x" * 5000])
    data = opened(tmp_path / "a")
    assert len(data.mixture) == 9 and data.dataset[0][0]["label"].shape == (2, 2)
    assert "warning: 1 of 10 labels (10.0%) need more frames" in capsys.readouterr().err
    write(tmp_path / "b", ["x" * 30] * 3)
    with pytest.raises(ValueError, match="so nothing can be learnt"):
        opened(tmp_path / "b")


def test_equal_characters_need_a_frame_between_them_for_ctc_alone(tmp_path, capsys):
    """Ten frames: one a character is enough for attention, CTC needs nineteen."""
    write(tmp_path / "a", ["ab"] * 9 + ["x" * 10])
    for head, lines in (("linear", 9), ("bilstm", 9), ("attention", 10), ("transformer", 10)):
        assert len(opened(tmp_path / "a", head).mixture) == lines, head


def test_out_of_memory_is_a_sentence():
    with (
        pytest.raises(run.Stopped, match="widest batch of this host is 8 lines of 32 x 12800 px"),
        run.explain_memory((8, 32, 12800, 1)),
    ):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")


def test_rehearsed_records_are_opened_beside_the_labelled_ones(toys, tmp_path, monkeypatch):
    """From any folder, and `subset` counts the lines of data.train alone."""
    for name in ("own", "other"):
        toy.write_lines(tmp_path / name / "rec")
    monkeypatch.chdir(tmp_path)
    given = toy.make_config("own/rec@train").to_dict()
    given["data"] |= {"rehearse": "other/rec@train", "subset": 5}
    data = experiment.completed(given)["data"]
    assert data["rehearse"] == f"{tmp_path}/other/rec@train"
    names = ("subset", "rehearse", "rehearse_share")
    mixture = records.open_sets(data["train"], **{name: data[name] for name in names})
    assert len(mixture) == 5 + 20 and mixture.weights == (0.5, 0.5)


def test_a_comma_in_a_path_survives_as_a_whole_path(toys, tmp_path, monkeypatch):
    """What config.json holds: each part as a whole path, commas inside a folder's name kept."""
    for name in ("a,b", "c"):
        toy.write_lines(tmp_path / name / "rec")
    monkeypatch.chdir(tmp_path)
    given = toy.make_config(" a,b/rec@train*2 , c/rec@train ").to_dict()
    spec = experiment.completed(given)["data"]["train"]
    assert spec == f"{tmp_path}/a,b/rec@train*2,{tmp_path}/c/rec@train"
    assert [len(part) for part in records.open_sets(spec).sets] == [20, 20]
