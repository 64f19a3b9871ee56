"""Every start of a run notes its commit and machine, and the results' table names them."""

import json
import re
import subprocess

from dig_jax.tools import results
from dig_jax.workdir import metrics
from dig_jax.workdir import read as runs
from dig_jax.workdir import starts as provenance


def record(origin):
    figures = [["fine-tuned, linear CTC", "10 %", "val", 0.1, origin]]
    return {"start": "dig", "seed": 0, "crops": 64, "pretrained": None, "figures": figures}


def test_starts_are_added_one_by_one_and_named_in_one_phrase(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"method": {"name": "dig"}, "total": {"steps": 1}})
    )
    (tmp_path / "metrics.jsonl").touch()
    assert runs.load(tmp_path).origin is None and results.origins([record(None)]) == ""
    for step, commit in ((0, "1234567"), (5, "1234567"), (9, None)):
        labels = {"true": step, "read": 2}
        provenance.note(str(tmp_path), step, commit, 9, labels)
        with open(tmp_path / provenance.NAME, "a") as file:
            file.write('{"step": 7, "comm')  # killed half way
    assert [row["step"] for row in metrics.read_jsonl(tmp_path / provenance.NAME)] == [0, 5, 9]
    assert runs.load(tmp_path).label_count == {"true": 9, "read": 2}
    origin = runs.load(tmp_path).origin
    assert re.fullmatch(r"1234567, no checkout on 8 x cpu \(.+\), JAX [\d.]+", origin)
    text = results.origins([record(origin)])
    assert (
        text
        == f"Commit and machine of the runs of dig: {origin} (1 figure); not recorded (1 pre-training)."
    )


def test_commit_of_a_checkout_and_of_an_installed_copy(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "dig_jax"
    package.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "workdir" / "starts.py"))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C"]
    for folder in (
        tmp_path,
        package.parent,
    ):  # first another's repository around the copy, then its own
        assert provenance.commit() is None
        (folder / "file").write_text("one")
        for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "first"]):
            subprocess.run([*git, str(folder), *command], check=True)
    assert re.fullmatch("[0-9a-f]{7}", provenance.commit())
    (package.parent / "file").write_text("two")
    assert provenance.commit().endswith("+")


def test_processor_by_the_name_that_linux_gives(tmp_path):
    (tmp_path / "cpuinfo").write_text(
        "flags: x\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Some CPU @ 2 GHz\n"
    )
    assert provenance.processor(str(tmp_path / "cpuinfo")) == "Some CPU @ 2 GHz"
    assert provenance.processor(str(tmp_path / "none"))
