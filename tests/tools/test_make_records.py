"""The command line of make_records: exit codes, one-sentence errors, the summary, and a real
subprocess.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from dig_jax.data import spool
from dig_jax.data.records import RecordSet, encode_image, open_sets
from dig_jax.tools import make_records


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    (root / "splits").mkdir(parents=True)
    for i in range(6):
        image = np.full((60, 100 + i), 200, np.uint8)
        image[20:40, 30:40] = 0
        (root / f"{i}.png").write_bytes(encode_image(image, "png"))
    (root / "labels.tsv").write_text("".join(f"{i}.png\tline {i}\n" for i in range(6)))
    (root / "splits" / "train.txt").write_text("0.png\n1.png\n2.png\n3.png\ngone.png\n")
    (root / "splits" / "test.txt").write_text("4.png\n5.png\n")
    (root / "SOURCE.md").write_text("- License: MIT\n")
    return root


def run(capsys, *argv):
    code = make_records.main([*argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_folder_end_to_end(data, tmp_path, capsys):
    out = tmp_path / "deep" / "set"
    code, text, err = run(
        capsys, f"--input={data}", f"--output={out}", "--shards=2", "--workers=0", "--name=mine"
    )
    assert code == 0 and err == ""
    last = text.strip().splitlines()[-1]
    assert (
        f"{out}: 6 records: test 2 (2 labelled), train 4 (4 labelled)" in last
        and "1 left out" in last
    )
    assert "1 x split names a missing image, such as splits/train.txt line 5: gone.png" in text
    manifest = json.loads((out / "records.json").read_text())
    assert (manifest["name"], manifest["licence"], manifest["channels"]) == ("mine", "MIT", 1)
    assert (manifest["codec"], manifest["quality"], manifest["height_px"]) == ("jpeg", 95, 48)
    assert manifest["skipped"]["count"] == 1 and len(manifest["splits"]["train"]["shards"]) == 2
    assert [r.text for r in open_sets(f"{out}@test").read([0, 1])] == ["line 4", "line 5"]
    assert RecordSet(out).index["height_px"].tolist() == [48] * 4


def test_lines_end_to_end(tmp_path, capsys):
    options = [
        "--source=lines",
        "--fonts=bundled",
        "--workers=0",
        "--seed=3",
        "--height_px=32",
        "--max_words=2",
    ]
    for name in ("a", "b"):
        code, text, _ = run(
            capsys, *options, "--splits=train=9,validation=3", f"--output={tmp_path / name}"
        )
        assert code == 0 and "12 records: train 9 (9 labelled), validation 3 (3 labelled)" in text
    a, b = ((tmp_path / n / "train-00000-of-00001.array_record").read_bytes() for n in "ab")
    assert a == b  # bit for bit, the file itself
    assert json.loads((tmp_path / "a" / "records.json").read_text())["source"].startswith(
        "rendered lines, seed 3"
    )
    assert run(capsys, *options, "--count=2", f"--output={tmp_path / 'c'}")[0] == 0
    assert len(RecordSet(tmp_path / "c")) == 2


def test_help_tells_what_a_source_reads(capsys):
    code, text, _ = run(capsys, "--help")
    assert code == 0 and "  lmdb        LMDB databases" in text and "--[no]straighten" in text
    code, text, _ = run(capsys, "--source=iam", "--help")
    assert code == 0 and "train.uttlist" in text and "LMDB databases" not in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--output is missing"),
        (
            ["--output={out}", "--source=lmdbx"],
            "--source is 'lmdbx', but must be one of: ",
        ),
        (["--output={out}"], "--input is ''"),
        (["--output={out}", "--input=/nowhere"], "--input is '/nowhere'"),
        (
            ["--output={out}", "--input={data}", "--seed=1"],
            "--seed means nothing to --source=folder",
        ),
        (["--output={out}", "--input={data}", "--max_words=1"], "--max_words means nothing"),
        (
            ["--output={out}", "--source=lines", "--max_pixels=9"],
            "--max_pixels means nothing to --source=lines",
        ),
        (["--output={out}", "--source=lines", "--splits=train"], "Cannot read 'train'"),
        (["--output={out}", "--outptu=x"], "Unknown command line flag 'outptu'"),
        (["--output={out}", "--shards=-1"], "--shards=-1"),
        (["--output={out}", "--codec=gif"], "codec"),
        (["--output={out}", "--input={data}", "--channels=2"], "channels is 2"),
        (["--output={out}", "input"], "'input' is no option"),
        (
            ["--output={data}", "--input={data}", "--workers=0"],
            "is no records folder; it is left alone",
        ),
    ],
)
def test_user_errors_are_one_sentence_and_exit_1(data, tmp_path, capsys, argv, message):
    before = sorted(p.name for p in data.iterdir())
    code, text, err = run(capsys, *(a.format(out=tmp_path / "out", data=data) for a in argv))
    assert code == 1 and text == "" and message in err
    assert err.startswith("make_records: ") and err.count("\n") == 1 and "Traceback" not in err
    assert not (tmp_path / "out").exists() and sorted(p.name for p in data.iterdir()) == before


def test_existing_sets_are_kept_unless_told(data, tmp_path, capsys):
    options = [f"--input={data}", f"--output={tmp_path / 'set'}", "--workers=0"]
    assert run(capsys, *options)[0] == 0
    code, _, err = run(capsys, *options)
    assert code == 1 and "--overwrite" in err
    (data / "splits" / "test.txt").unlink()
    assert run(capsys, *options, "--overwrite")[0] == 0
    assert list(json.loads((tmp_path / "set" / "records.json").read_text())["splits"]) == ["train"]


def test_a_folder_without_one_usable_image_is_an_error(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(b"")
    code, _, err = run(
        capsys, f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--workers=0"
    )
    assert code == 1 and "1 x empty file" in err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_as_a_program_with_worker_processes(data, tmp_path):
    command = [sys.executable, "-m", "dig_jax.tools.make_records"]
    done = subprocess.run(
        [*command, f"--input={data}", f"--output={tmp_path / 'out'}", "--workers=2"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == ""  # no progress bar where there is no terminal
    assert "6 records" in done.stdout.splitlines()[-1]


def unsplit(data):
    for file in (data / "splits").iterdir():
        file.unlink()
    (data / "splits").rmdir()
    for i in range(6, 40):
        (data / f"{i}.png").write_bytes((data / "0.png").read_bytes())
    (data / "labels.tsv").write_text("".join(f"{i}.png\tline {i}\n" for i in range(30)))
    return data


def test_lines_are_held_back_for_validation(data, tmp_path, capsys):
    unsplit(data)
    kept = []
    for name, more in (("a", []), ("b", []), ("c", ["--seed=1"])):
        out = tmp_path / name
        options = ["--validation=0.1", "--workers=0", f"--output={out}", *more]
        code, text, err = run(capsys, f"--input={data}", *options)
        assert code == 0 and "3 of 30 labelled lines are held back" in text, err
        assert "train 37 (27 labelled), validation 3 (3 labelled)" in text
        kept.append(list(open_sets(f"{out}@validation").texts()))
        assert not set(kept[-1]) & set(open_sets(str(out)).texts())
    assert kept[0] == kept[1] != kept[2]


def test_validation_is_refused_where_there_is_one(tmp_path, capsys):
    options = ["--source=lines", "--fonts=bundled", "--workers=0", "--validation=0.1"]
    options += ["--splits=train=4,validation=2"]
    code, _, err = run(capsys, *options, f"--output={tmp_path / 'x'}")
    assert code == 1 and "has a split 'validation': leave the option out" in err


def test_paths_of_home_and_of_stores(data, tmp_path, capsys, monkeypatch):
    for flag in ("--output", "--input"):
        paths = {"--output": str(tmp_path / "x"), "--input": str(data), flag: "gs://bucket/x"}
        code, _, err = run(capsys, *(f"{name}={path}" for name, path in paths.items()))
        assert code == 1 and f"{flag} is gs://bucket/x, the address of an object store" in err
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = run(capsys, "--input=~/data", "--output=~/made", "--workers=0")
    assert code == 0 and (tmp_path / "made" / "records.json").is_file(), err


def test_a_full_disk_is_named(data, tmp_path, capsys, monkeypatch):
    """ArrayRecord speaks of chunk writers, NumPy names no file."""

    class Full:
        def __init__(self, path, options):
            self.said = f"write() failed: No space left on device; writing {path}; at byte 307200"

        def write(self, value):
            raise RuntimeError(f"{self.said}; Failed to close chunk_writer")

        close = lambda self: self.write(b"")

    monkeypatch.setattr(spool, "open_writer", lambda file: Full(file, None))
    code, _, err = run(capsys, f"--input={data}", f"--output={tmp_path / 'x'}", "--workers=0")
    named = f"{tmp_path / 'x'} cannot be written (no space left on device): free some room and"
    assert code == 1 and err.startswith(f"make_records: {named}") and "chunk" not in err
