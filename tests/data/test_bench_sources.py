"""tests/bench_sources: every layout that it makes is read whole."""

import json

import pytest

from tests import bench_sources


@pytest.mark.slow
@pytest.mark.parametrize("name", [*bench_sources.SOURCES, *bench_sources.GENERATED])
def test_every_line_of_a_layout_becomes_a_record(name, tmp_path, capsys):
    bench_sources.main(["--count=20", f"--only={name}", f"--output={tmp_path / 'scratch'}"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["source"] == name and said["records"] == 20 and said["per_processor_s"] > 0
    assert not (tmp_path / "scratch").exists()


def test_listing_finds_every_file(tmp_path, capsys):
    argv = ["--count=30", "--listing", "--only=pairs", f"--output={tmp_path / 'scratch'}"]
    bench_sources.main(argv)
    said = json.loads(capsys.readouterr().out)
    assert said["found"] == said["files"] == 30
