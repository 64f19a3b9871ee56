"""tools/pseudo_label: true labels of what was learnt, the reader's own for the rest."""

import collections
import hashlib
import json
import types

import pytest

from dig_jax import load
from dig_jax.data import records
from dig_jax.tools import pseudo_label
from tests import readers

LINES = len(readers.TEXTS)


def reading(name, image):
    """What the reader of these tests makes of an image: by its bytes alone."""
    digest = hashlib.sha256(image).hexdigest()
    return load.Reading(name, f"read {digest[:4]}", int(digest[:6], 16) / 16**6, [])


class Reader:
    def stream(self, images, batch_size):
        return (reading(name, image) for name, image in images)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder, what was learnt, the rest, own labels and report of a reader that learnt 3 lines."""
    folder = tmp_path_factory.mktemp("pseudo")
    readers.records(folder / "lines")
    data = {"train": f"{folder / 'lines'}@validation", "subset": 3, "subset_seed": 1}
    learnt, rest = pseudo_label.split_lines(data)
    report = records.Report()
    own = pseudo_label.own_labels(Reader(), rest, 0.6, 4, report)
    rows = list(pseudo_label.examples(learnt, rest, own, [], report))
    records.write(folder / "own", rows, report=report)
    return folder, learnt, rest, own, report


def test_learnt_lines_keep_their_labels_and_the_rest_is_read(made):
    folder, learnt, rest, own, _ = made
    assert len(learnt) == 3 and len(rest) == LINES - 3
    written = records.open_sets(str(folder / "own"))
    got = [(r.image, r.text) for r in written.read(range(len(written)))]
    true = [(r.image, r.text) for r in learnt.read(range(3))]
    images = [r.image for r in rest.read(sorted(own))]
    assert got == true + [(image, reading("", image).text) for image in images]


def test_the_least_confident_are_left_out_and_counted(made):
    folder, _, rest, own, report = made
    sure = {n: reading("", r.image).confidence for n, r in enumerate(rest.read(range(len(rest))))}
    least = sorted(sure, key=sure.get)[: len(rest) - len(own)]
    assert len(own) == round(0.6 * len(rest)) and set(own) == set(sure) - set(least)
    assert report.reasons == collections.Counter({"read with too little confidence": len(least)})
    assert any(f"{len(own)} lines carry labels of a reader" in note for note in report.notes)
    skipped = json.loads((folder / "own" / "records.json").read_text())["skipped"]
    assert skipped["count"] == len(least)


def test_damaged_records_are_counted_and_named(made):
    folder, learnt, rest, _, _ = made

    class Damaged:
        def stream(self):
            good, _ = learnt.read([0, 1])
            return [good, records.Record(b"", None, "bad line", "the shard is damaged here")]

    report = records.Report()
    rows = list(pseudo_label.examples(Damaged(), rest, {}, [Damaged()], report))
    assert [row[0] for row in rows] == ["train", "validation"]
    assert report.reasons == {"the shard is damaged here": 2}
    assert {entry["name"] for entry in report.first} == {"bad line"}


@pytest.fixture(scope="module")
def both(made):
    """The lines in two splits, half of them each."""
    lines = records.open_sets(f"{made[0] / 'lines'}@validation").read(range(LINES))
    rows = [(("train", "validation")[i % 2], r.image, r.text, r.id) for i, r in enumerate(lines)]
    records.write(made[0] / "both", rows, name="lines")
    return made[0] / "both"


def test_the_new_records_bear_the_name_of_the_old(both, tmp_path):
    """So that teacher and student can be compared on the validation lines that both have."""
    data = {"train": str(both), "subset": 3, "subset_seed": 1}
    learnt, rest = pseudo_label.split_lines(data)
    said = pseudo_label.make(Reader(), learnt, rest, tmp_path / "self", keep=0.6, batch_size=4)
    manifest, before = (
        json.loads((folder / "records.json").read_text()) for folder in (tmp_path / "self", both)
    )
    assert manifest["name"] == before["name"] != "self"
    assert (
        manifest["splits"]["validation"]["count"] == LINES // 2
        and "3 lines with true labels" in said
    )
    assert manifest["true_labels"] == 3


def test_lines_of_other_records_are_read_without_a_true_label(made, tmp_path):
    rest = records.open_sets(f"{made[0] / 'lines'}@validation")
    said = pseudo_label.make(Reader(), None, rest, tmp_path / "self", keep=0.5, batch_size=4)
    assert "0 lines with true labels" in said
    written = records.open_sets(str(tmp_path / "self"))
    got = written.read(range(len(written)))
    assert len(got) == LINES // 2
    assert [record.text for record in got] == [reading("", r.image).text for r in got]


@pytest.mark.parametrize("mode", ["lines", "run"])
def test_no_line_is_trained_on_and_validated_on(both, tmp_path, mode, capsys):
    """Whatever the spelling of the path; what is not trained on is copied."""
    spec = f"{both}/../both@validation"
    if mode == "run":
        learnt, rest = pseudo_label.split_lines({"train": f"{both},{spec}", "subset": 3})
    else:
        learnt, rest = None, records.open_sets(f"{both},{spec}")
    pseudo_label.make(Reader(), learnt, rest, tmp_path / "self", keep=1.0, batch_size=4)
    manifest = json.loads((tmp_path / "self" / "records.json").read_text())
    assert {name: split["count"] for name, split in manifest["splits"].items()} == {"train": LINES}
    said = capsys.readouterr().err
    assert "validation is trained on" in said and "no line is there to validate on" in said
    rest = records.open_sets(str(both))
    pseudo_label.make(Reader(), None, rest, tmp_path / "apart", keep=1.0, batch_size=4)
    parts = [records.open_sets(f"{tmp_path}/apart@{name}") for name in ("train", "validation")]
    ids = [{record.id for record in part.read(range(len(part)))} for part in parts]
    assert len(ids[0]) == len(ids[1]) == LINES // 2 and not ids[0] & ids[1]


def test_lines_without_true_labels_have_no_first_run(monkeypatch):
    flags = types.SimpleNamespace(keep=0.8, model="runs/b", first="runs/a", lines="records/a")
    monkeypatch.setattr(pseudo_label, "FLAGS", flags)
    with pytest.raises(ValueError, match="--first says .* --lines that none has: give one"):
        pseudo_label.main(["pseudo_label"])


def test_a_further_round_takes_the_true_labels_of_the_first(made, tmp_path, monkeypatch):
    """The student learnt from `own`, whose labels are mostly not true: only `first` knows which."""
    lines = f"{made[0] / 'lines'}@validation"
    configs = {
        "first": {"train": lines, "subset": 3, "subset_seed": 1},
        "student": {"train": str(made[0] / "own")},
    }
    monkeypatch.setattr(pseudo_label.checkpoint, "steps", lambda run: [7])
    monkeypatch.setattr(pseudo_label.checkpoint, "choose_step", lambda run, which: 7)
    monkeypatch.setattr(
        pseudo_label.checkpoint, "read_meta", lambda run, step: {"config": {"data": configs[run]}}
    )
    learnt, rest = pseudo_label.split_lines(pseudo_label.data_of("first"))
    assert (learnt.chosen == made[1].chosen).all() and len(rest) == LINES - 3
    with pytest.raises(ValueError, match="learnt from all"):
        pseudo_label.split_lines(pseudo_label.data_of("student"))


def test_an_n_gram_does_not_learn_the_labels_that_are_not_to_be_read(made, tmp_path):
    folder, _, rest, _, _ = made
    for texts in (f"{folder / 'lines'}", f"{folder / 'own'},{folder}/own/../lines@validation"):
        with pytest.raises(ValueError, match="--texts has .*lines, whose lines are to be labelled"):
            pseudo_label.check_texts(texts, rest)
    for texts in (None, f"{folder / 'own'}", "other.txt"):
        pseudo_label.check_texts(texts, rest)
    with pytest.raises(ValueError, match="is no run that learnt from lines: .* --lines"):
        pseudo_label.data_of(str(tmp_path))


def test_a_reader_of_all_lines_leaves_nothing(made):
    with pytest.raises(ValueError, match="learnt from all"):
        pseudo_label.split_lines({"train": f"{made[0] / 'lines'}@validation"})
