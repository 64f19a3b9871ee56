"""The Beam pipeline makes the record set of a conversion on one machine, and is started again."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dig_jax.data import beam
from dig_jax.data.examples import Report, Skipped
from dig_jax.data.record_set import RecordSet
from dig_jax.data.spool import Spool
from dig_jax.data.writer import encode_image, write
from dig_jax.tools import make_records

IMAGE = encode_image(np.full((10, 30), 128, np.uint8), "png")


def job(number):
    """No, one or two records, in two splits; some things are left out."""
    split = "test" if number % 5 == 0 else "train"
    lines = [(split, IMAGE, f"{number} {i}", f"{number}/{i}") for i in range(number % 3)]
    return [*lines, *([Skipped(str(number), "odd")] if number % 4 == 0 else [])]


def failing(number):
    if number == 30:
        raise OSError("the machine went away")
    return job(number)


def fingerprints(folder):
    splits = json.loads((folder / "records.json").read_text())["splits"]
    return {split: RecordSet(folder, split).fingerprint for split in splits}


def by_parts(folder, function=job, order=1):
    """The pipeline without Beam: parts in any order, gathered."""

    def fill(spool, examples, report, moved):
        assert not list(examples)
        starts, _ = beam.write_jobs(spool.folder / beam.JOBS, report)
        for group in list(enumerate(starts))[::order]:
            beam.make_part(group, str(spool.folder), report.function)
            beam.make_part(group, str(spool.folder), report.function)  # made again: nothing
        return beam.gather(spool, len(starts), report)

    report = beam.Listing()
    rows = report.work(function, range(50))
    return write(folder, rows, report=report, asked={"a": 1}, fill=fill, name="x", shards=2)


def test_parts_in_any_order_make_the_set_of_one_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "GROUP", 7)
    report = Report()
    rows = report.work(job, range(50), workers=0)
    alone = write(tmp_path / "alone", rows, report=report, name="x", shards=2)
    assert by_parts(tmp_path / "parts", order=-1) == alone
    assert fingerprints(tmp_path / "parts") == fingerprints(tmp_path / "alone")
    names = ["alone", "parts"]
    assert sorted(os.listdir(tmp_path)) == names
    with pytest.raises(OSError, match="went away"):
        by_parts(tmp_path / "again", failing)
    kept = sorted((tmp_path / ".again.unfinished").glob("part-0*"))
    dates = {part: part.stat().st_mtime_ns for part in kept if (part / "progress.json").is_file()}
    assert len(dates) == 4  # those before the failure
    made = []
    monkeypatch.setattr(beam, "take_in", lambda *a: made.append(1) or TAKE_IN(*a))
    by_parts(tmp_path / "again")
    assert len(made) == 4 and fingerprints(tmp_path / "again") == fingerprints(tmp_path / "alone")


TAKE_IN = beam.take_in


def test_a_source_without_jobs_and_a_missing_package_are_one_sentence(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(beam, "need", lambda *names: None)
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", type(os)("apache_beam"))
    options = type(os)("options")
    options.PipelineOptions = None
    name = "apache_beam.options.pipeline_options"
    monkeypatch.setitem(__import__("sys").modules, "apache_beam.options", type(os)("options"))
    monkeypatch.setitem(__import__("sys").modules, name, options)
    rows = [("train", IMAGE, "a", "a")]
    with pytest.raises(ValueError, match="works in one process only: leave out --runner"):
        beam.Pipeline("direct")(Spool(tmp_path), rows, beam.Listing(), 0.0)
    monkeypatch.undo()
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        out = [f"--input={tmp_path}", f"--output={tmp_path / 'x'}", "--runner=direct"]
        assert make_records.main(out) == 1
        assert "pip install 'dig_jax[beam]'" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_direct_runner_makes_the_same_set(tmp_path):
    pytest.importorskip("apache_beam", reason="pip install 'dig_jax[beam]'")
    data = tmp_path / "data"
    data.mkdir()
    for i in range(40):
        line = np.full((30, 60 + i), 230, np.uint8)
        line[5:20, 5 : 10 + i] = 20
        Path(data, f"{i:02d}.png").write_bytes(encode_image(line, "png"))
    (data / "labels.tsv").write_text("".join(f"{i:02d}.png\t{i}\n" for i in range(40)))
    (data / "bad.png").write_bytes(b"")
    made = {}
    for name, more in (("alone", ["--workers=0"]), ("beam", ["--runner=direct"])):
        out = tmp_path / name
        options = [f"--input={data}", f"--output={out}", "--name=x", "--validation=0.2"]
        assert make_records.main([*options, "--shards=3", *more]) == 0
        made[name] = (fingerprints(out), json.loads((out / "records.json").read_text()))
    assert made["alone"] == made["beam"] and made["beam"][1]["skipped"]["count"] == 1
