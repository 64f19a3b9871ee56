"""Every program explains itself with exit code 0, and a mistake ends in one sentence."""

import errno
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from dig_jax import __main__ as overview
from dig_jax.tools import program

ROOT = pathlib.Path(__file__).parents[2]
# Imports once what all of them need, then runs each in a fork: their flags are global.
RUN = """
import json, os, runpy, sys
import jax, cv2, grain, matplotlib
from ml_collections import config_flags
import dig_jax.load, dig_jax.train.run  # they define no flags
result = {}
for command in json.loads(sys.argv[1]):
    out, back = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(back, 1), os.dup2(back, 2)
        sys.argv = command
        code = 0
        try:
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):
                print(code)
                code = 1
        except BaseException as error:
            print("Traceback", repr(error))
            code = 99
        sys.stdout.flush()
        os._exit(code or 0)
    os.close(back)
    text = open(out, encoding="utf-8", errors="replace").read()
    result[" ".join(command)] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text
print(json.dumps(result))
"""


HELP = [[name, "--help"] for name in overview.programs()]
DEFINED = re.compile(r'(?:DEFINE_\w+|define_path)\(\s*"(\w+)"')
MAPS = [["dig_jax"], ["dig_jax.tools"], ["dig_jax.train"]]
CONFIG = "--config=dig:preset=cpu"
TOOLS = "dig_jax.tools."
MISTAKES = [
    ("show_batch", [CONFIG], "config.data.train is not set"),
    ("show_batch", [CONFIG, "--config.data.train=nowhere"], "/nowhere"),
    ("show_batch", [CONFIG, "--config.data.train=RECORDS@none"], "it has: train"),
    ("show_batch", [CONFIG, "--config.data.train=RECORDS@"], "PATH[@SPLIT]"),
    ("show_batch", [CONFIG, "--config.optim.rate=1"], "error: the command line"),
    ("perf.bench_input", ["--records=RECORDS@none"], "it has: train"),
    ("perf.bench_input", ["--records=nowhere"], "bench_input: No record set at nowhere"),
    ("perf.bench_loss", ["--instances=64,x"], "error: --instances is '64,x'; it must be"),
    (
        "perf.plan",
        [CONFIG + ",quick", "--mesh=data=3"],
        "error: batch size 8 does not divide over 3",
    ),
    ("make_records", ["--source=x", "--output=y"], "make_records: --source is 'x'"),
    ("perf.bench_step", ["--config=nowhere.py"], "nowhere.py"),
    ("report", ["s3://bucket/run"], "address of an object store"),
    ("report", ["~/no/such/run"], "has no config.json"),
    ("results", ["s3://x"], "address of an object store"),
    ("show_augment", ["--input=gs://a/b", "--output=a.png"], "address of an object store"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory, lines):
    """{command: (exit code, all that it printed)} of all commands above, from one process."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "RECORDS").symlink_to(lines)
    commands = [*HELP, *MAPS, *([TOOLS + tool, *given] for tool, given, _ in MISTAKES)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, json.dumps(commands)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert not done.returncode, done.stderr
    assert os.listdir(folder) == ["RECORDS"]  # no folder called ~ or gs:
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.slow
def test_every_program_answers_help_with_its_docstring(answers):
    assert len(HELP) > 10
    for command in HELP:
        code, text = answers[" ".join(command)]
        words = overview.programs()[command[0]]
        assert code == 0 and words[:40] in " ".join(text.split()), (command, code, text)


@pytest.mark.slow
def test_help_lists_every_argument_and_shows_an_example(answers):
    seen = 0
    for command in HELP:
        _, text = answers[" ".join(command)]
        source = ROOT.joinpath(*command[0].split(".")).with_suffix(".py").read_text("utf-8")
        names = DEFINED.findall(source) + ["config"] * ("define_config(" in source)
        missing = [name for name in names if not re.search(rf"\n  --(\[no\])?{name}:", text)]
        assert not missing, (command, missing)
        assert re.search(rf"\n +(\w+=\S+ +)*python -m {command[0]} ", text), command
        seen += len(names)
    assert seen > 50


@pytest.mark.slow
def test_the_map_names_every_program_and_training_by_the_wrong_name_is_an_error(answers):
    code, text = answers["dig_jax"]
    assert code == 0 and answers["dig_jax.tools"] == [0, text]
    assert all(name in text for name in overview.programs())
    code, text = answers["dig_jax.train"]
    assert code == 1 and "python -m dig_jax.main" in text


@pytest.mark.slow
def test_mistakes_are_one_sentence(answers):
    for tool, given, words in MISTAKES:
        code, text = answers[" ".join([TOOLS + tool, *given])]
        assert code == 1 and words in text and "Traceback" not in text, (tool, given, text)
        assert len(text.strip().splitlines()) == 1, (tool, given, text)


def test_paths_of_home_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert program.path("~/a", "--output") == pathlib.Path("/home/me/a")
    with pytest.raises(ValueError, match="--output is ~nobody_is_called_so/a.*no such user"):
        program.path("~nobody_is_called_so/a", "--output")


def test_a_folder_and_its_name_are_told_apart_by_what_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "c/lr=0.1", "lr=0.1"):
        (tmp_path / folder).mkdir(parents=True)
    for text, name, folder in (
        ("a", "", "a"),
        ("A=a", "A", "a"),
        ("=a", "", "a"),
        ("~0 lines=a", "~0 lines", "a"),
        ("c/lr=0.1", "", "c/lr=0.1"),
        ("lr=0.1", "", "lr=0.1"),
        ("A=c/lr=0.1", "A", "c/lr=0.1"),
        ("lr=0.1=a", "lr=0.1", "a"),
        ("lr=0.1=c/lr=0.1", "lr=0.1", "c/lr=0.1"),
        ("A=gone/lr=0.1", "A", "gone/lr=0.1"),
        ("gone", "", "gone"),
    ):
        assert program.named_folder(text, "RUN") == (name, pathlib.Path(folder)), text
    with pytest.raises(ValueError, match="s3://b/lr=0.1"):
        program.named_folder("lr=1=s3://b/lr=0.1", "RUN")


def test_a_picture_that_cannot_be_written_is_a_sentence(tmp_path):
    picture = np.zeros((2, 2, 3), np.uint8)
    assert program.write_picture(str(tmp_path / "new" / "a.png"), picture).is_file()
    with pytest.raises(ValueError, match="name of a .png file"):
        program.write_picture(str(tmp_path / "a.what"), picture)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_disk_that_takes_no_picture_is_named_with_the_reason(tmp_path, monkeypatch, number):
    """Of a full disk the system names no file."""

    def write(path, data):
        raise OSError(number, os.strerror(number), *[str(path)] * (number == errno.EROFS))

    monkeypatch.setattr(pathlib.Path, "write_bytes", write)
    with pytest.raises(OSError) as caught:
        program.write_picture(str(tmp_path / "a.png"), np.zeros((2, 2, 3), np.uint8))
    reason = os.strerror(number).lower()
    assert program.sentence(caught.value) == f"{tmp_path}/a.png: {reason}"


def test_help_shows_the_text_of_the_config(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text('"""My experiment.\n\nExpected: 3 %."""\n')
    for argv in ([f"--config={file}:quick", "--help"], ["--config", str(file), "--help"]):
        assert "Expected: 3 %." in program.config_text(argv)
    assert program.config_text(["--help"]) == ""
