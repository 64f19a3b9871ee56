"""What goes wrong around a run: kills, signals, full disks, broken files, a second run, other
records.
"""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from orbax.checkpoint import v1 as ocp

from dig_jax import hosts, main
from dig_jax.data import records
from dig_jax.train import run as train
from dig_jax.workdir import checkpoint, checksums, folder, metrics
from tests import toy
from tests.toy import make_config, rows_of, same, write_lines
from tests.workdir.test_checkpoint import META, abstract_of, make_state, save_all

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("toys")


@pytest.mark.slow
def test_runs_that_are_killed_end_like_one_that_is_left_alone(python):
    """Five kill -9, in processes of their own; `python -m tests.kill_runs --kills=100` is the whole
    of it.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [python, "-m", "tests.kill_runs", "--kills=5", "--seed=1"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] == 5 and result["different"] == 0


# --- signals


def interrupt_at(monkeypatch, step, *numbers):
    """The evaluation of this step sends these signals to the process."""
    original = toy.Evaluator.run

    def run(self, state, done):
        for number in numbers if done == step else ():
            os.kill(os.getpid(), number)
        return original(self, state, done)

    monkeypatch.setattr(toy.Evaluator, "run", run)


@pytest.mark.parametrize(
    "numbers, code",
    [((signal.SIGTERM,), 143), ((signal.SIGTERM, signal.SIGTERM), 143), ((signal.SIGINT,), 130)],
    ids=["SIGTERM", "SIGTERM twice", "Ctrl-C"],
)
def test_a_signal_saves_and_leaves(lines, tmp_path, monkeypatch, numbers, code):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    interrupt_at(monkeypatch, 2, *numbers)
    config = make_config(lines, 5, evals={"toy": {"every_steps": 2}})
    with pytest.raises(SystemExit) as stopped:
        train.run(config, str(tmp_path))
    assert stopped.value.code == code and checkpoint.steps(str(tmp_path)) == [
        3
    ]  # the step after the evaluation
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert int(train.run(config, str(tmp_path)).step) == 5


def test_a_second_ctrl_c_ends_at_once(lines, tmp_path, monkeypatch, capsys):
    interrupt_at(monkeypatch, 2, signal.SIGINT, signal.SIGINT)
    config = make_config(
        lines, 5, **{"evals": {"toy": {"every_steps": 2}}, "checkpoint.every_steps": 1}
    )
    with pytest.raises(KeyboardInterrupt):
        train.run(config, str(tmp_path))
    assert checkpoint.steps(str(tmp_path)) == [1]

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.hosts, "initialize", stopped)
    assert (
        main.main(["main"]) == 130 and "goes on from the last checkpoint" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_log_lines_that_straddle_a_restart_are_whole(lines, tmp_path, monkeypatch):
    """Means over steps 1-3 and 4-6 are the same where the run was cut after step 2."""
    train.run(make_config(lines, 6, **{"log.every_steps": 3}), str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(hosts, "stop_requested", lambda step, local: step == 2)
        with pytest.raises(SystemExit):
            train.run(make_config(lines, 6, **{"log.every_steps": 3}), str(tmp_path / "parts"))
    train.run(make_config(lines, 6, **{"log.every_steps": 3}), str(tmp_path / "parts"))
    whole, parts = (
        [
            {k: v for k, v in row.items() if k != "train/lines_per_s"}
            for row in rows_of(tmp_path / name)
        ]
        for name in ("whole", "parts")
    )
    assert whole == parts and [row["step"] for row in whole] == [3, 6]


# --- one run a folder

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit(9)
file.write("process 1 on elsewhere since noon")
file.flush()
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_run_is_refused_until_the_first_is_dead(lines, tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / folder.LOCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            ValueError, match="is in use by process 1 on elsewhere since noon: wait for that run"
        ):
            train.run(make_config(lines, 1), str(tmp_path))
        assert os.listdir(tmp_path) == [folder.LOCK]
        other.send_signal(signal.SIGKILL)
        other.wait()
    with folder.lock_workdir(str(tmp_path)):
        assert subprocess.run(command).returncode == 9
        assert str(os.getpid()) in (tmp_path / folder.LOCK).read_text()
    assert int(train.run(make_config(lines, 1), str(tmp_path)).step) == 1


def test_where_nothing_can_be_locked_a_line_says_so(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folder.fcntl, "lockf", no_locks)
    with folder.lock_workdir(str(tmp_path)):
        assert "see to it that no second run uses" in capsys.readouterr().err


# --- broken checkpoints


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A work folder with the sealed steps 1 and 2, and the files of step 2."""
    folder = tmp_path_factory.mktemp("two")
    assert save_all(folder, {1: 0.5, 2: 0.6}, keep_last=2)[0] == [1, 2]
    step = folder / "checkpoints" / "2"
    files = sorted(
        str(p.relative_to(step))
        for p in step.rglob("*")
        if p.is_file() and p.name != checksums.NAME
    )
    assert len(files) == 12 and (step / checksums.NAME).exists()
    return folder, files


def spoil(path, how):
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


SPOILT = {"missing": "is missing", "truncated": "bytes instead of", "flipped": "other contents"}


@pytest.mark.parametrize("how, words", SPOILT.items())
def test_every_broken_file_is_named_and_the_older_step_goes_on(two_steps, tmp_path, how, words):
    source, files = two_steps
    for number, name in enumerate(files):
        workdir = tmp_path / str(number)
        shutil.copytree(source, workdir)
        spoil(workdir / "checkpoints" / "2" / name, how)
        with pytest.raises(checkpoint.Damaged) as broken:
            checkpoint.Checkpoints(str(workdir), keep_last=2)
        sentence = str(broken.value)
        assert f"{workdir}/checkpoints/2 is broken ({name} " in sentence and words in sentence
        assert "nothing was changed; step 1 is whole" in sentence and "\n" not in sentence
        with pytest.raises(checkpoint.Damaged):
            checkpoint.load_subtree(str(workdir), "params", None)
    command = re.search(r"\((mv .*?)\)", sentence)[1].split()
    subprocess.run(command, check=True)  # as it says
    checkpoints = checkpoint.Checkpoints(str(workdir), keep_last=2)
    assert checkpoints.latest_step() == 1 and same(
        checkpoints.restore(abstract_of(make_state(0)), 1), make_state(1)
    )
    checkpoints.close()


def test_the_only_step_broken(two_steps, tmp_path):
    shutil.copytree(two_steps[0], tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "checkpoints" / "1")
    (tmp_path / "a" / "checkpoints" / "2" / checksums.NAME).write_text("{")
    with pytest.raises(
        checkpoint.Damaged, match=r"\(checksums.json cannot be read\).*no other whole one"
    ):
        checkpoint.Checkpoints(str(tmp_path / "a"))


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "state/_METADATA", "state"])
def test_a_step_without_a_seal_is_still_read_with_care(two_steps, tmp_path, name):
    """Killed before the seal, or of an older program: whole, it resumes; without a file it is
    broken, not absent.
    """
    workdir = tmp_path / "a"
    shutil.copytree(two_steps[0], workdir)
    (workdir / "checkpoints" / "2" / checksums.NAME).unlink()
    assert checkpoint.read_meta(str(workdir)) == META
    path = workdir / "checkpoints" / "2" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(checkpoint.Damaged, match="checkpoints/2 is broken .*step 1 is whole"):
        checkpoint.read_meta(str(workdir))
        checkpoints = checkpoint.Checkpoints(str(workdir))
        try:
            checkpoints.restore(abstract_of(make_state(0)), 2)
        finally:
            checkpoints.close()


def test_a_later_layout_is_refused(tmp_path):
    checkpoints = checkpoint.Checkpoints(str(tmp_path))
    checkpoints.save(1, make_state(1), {}, META | {"layout": 99})
    checkpoints.close()
    with pytest.raises(
        ValueError, match=rf"layout 99 and this program reads up to {checkpoint.LAYOUT}"
    ):
        checkpoint.read_meta(str(tmp_path))


# --- disks


def test_a_save_that_fails_stops_the_run_and_leaves_the_last_one(lines, tmp_path, monkeypatch):
    """The failure comes from the writing thread; the next look of the trainer finds it."""
    config = {"checkpoint.every_steps": 2}
    train.run(make_config(lines, 2, **config), str(tmp_path))

    class Full:
        def result(self):
            raise ValueError("a page of tensorstore's words") from OSError(
                errno.ENOSPC, os.strerror(errno.ENOSPC)
            )

    with monkeypatch.context() as patch:
        patch.setattr(
            ocp.training.Checkpointer,
            "save_checkpointables_async",
            lambda *_, **__: Full(),
        )
        with pytest.raises(checkpoint.SaveFailed) as failed:
            train.run(make_config(lines, 9, **config), str(tmp_path))
    sentence = str(failed.value)
    assert (
        "step 4 could not be saved" in sentence
        and "(no space left on device)" in sentence
        and "\n" not in sentence
    )
    assert f"the last good checkpoint is {tmp_path}/checkpoints/2" in sentence
    assert int(train.run(make_config(lines, 9, **config), str(tmp_path)).step) == 9


def test_a_full_disk_under_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "_open", lambda path: open("/dev/full", "ab", buffering=0))
    writer = metrics.Writer(str(tmp_path))
    with pytest.raises(
        OSError,
        match=r"metrics.jsonl cannot be written \(no space left on device\): mend that and run",
    ):
        writer.write(1, {"a": 1.0})
    writer.close()


@pytest.mark.slow
def test_a_disk_that_is_really_full_and_one_that_is_read_only(lines, tmp_path):
    """A file system of 400 kB, too small for the second checkpoint; needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        config = {"method": {"name": "toy", "width": 256}, "checkpoint.every_steps": 1}
        state = train.run(make_config(lines, 1, **config), str(disk / "run"))
        (disk / "ballast").write_bytes(b"x" * max(0, shutil.disk_usage(disk).free - 60_000))
        with pytest.raises(
            checkpoint.SaveFailed,
            match=r"step 2 could not .*no space left.*good checkpoint is \S+/1:",
        ):
            train.run(make_config(lines, 4, **config), str(disk / "run"))
        (disk / "ballast").unlink()
        assert same(
            checkpoint.load_subtree(str(disk / "run"), "params", abstract_of(state.params)),
            state.params,
        )
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(
            ValueError,
            match=r"run cannot be written \(read-only file system\): name another folder",
        ):
            train.run(make_config(lines, 4, **config), str(disk / "run"))
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert int(train.run(make_config(lines, 2, **config), str(disk / "run")).step) == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- another run in this folder


def test_records_made_again_are_noticed(tmp_path):
    spec = write_lines(tmp_path / "records")
    train.run(make_config(spec, 1), str(tmp_path / "run"))
    shutil.move(spec, tmp_path / "moved")
    write_lines(tmp_path / "records", count=21)
    with pytest.raises(ValueError, match=rf"records {spec}@train have changed since the run in"):
        train.run(make_config(spec, 2), str(tmp_path / "run"))
    shutil.rmtree(spec)
    shutil.copytree(tmp_path / "moved", spec)  # a copy is the same records
    assert int(train.run(make_config(spec, 2), str(tmp_path / "run")).step) == 2


def test_a_version_that_chooses_other_lines_of_the_same_records_is_noticed(tmp_path, monkeypatch):
    """As where a reader keeps lines that it left out before. Runs that noted no number go on."""
    spec = write_lines(tmp_path / "records")
    train.run(make_config(spec, 1), str(tmp_path / "run"))
    describe = folder.describe
    noted = {"lines": 7}
    monkeypatch.setattr(folder, "describe", lambda *given: describe(*given) | noted)
    with pytest.raises(
        ValueError, match="reads 20 lines .* would give it 7: use another --workdir"
    ):
        train.run(make_config(spec, 2), str(tmp_path / "run"))
    noted["lines"] = None
    assert int(train.run(make_config(spec, 2), str(tmp_path / "run")).step) == 2


def test_one_changed_label_changes_the_fingerprint(tmp_path):
    """Of equal length, so that neither the index nor the size of a shard moves."""
    image = toy.writer.encode_image(jax.device_get(jax.numpy.zeros((8, 8, 1), "uint8")), "png")
    prints = set()
    for name, text in (("a", "ab"), ("b", "ab"), ("c", "ba")):
        toy.writer.write(tmp_path / name, iter([("train", image, text, "x")]))
        prints.add(records.RecordSet(tmp_path / name).fingerprint)
    assert len(prints) == 2


@pytest.mark.slow
def test_a_longer_total_says_that_the_schedule_moves(lines, tmp_path, capsys):
    train.run(make_config(lines, 2), str(tmp_path))
    assert "config.total" not in capsys.readouterr().err
    train.run(make_config(lines, 4), str(tmp_path))
    said = capsys.readouterr().err
    assert (
        "config.total was 2 steps and is 4: from step 2 on every schedule" in said
        and "learning rate 0.005 here" in said
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", ['{"step": 3, "train', '{"step": 3', "\x00\x00\x00", '{"step": 2, "a": 1}']
)
def test_a_torn_last_line_of_the_log_is_dropped_or_finished(lines, tmp_path, line):
    train.run(make_config(lines, 2), str(tmp_path))
    before = rows_of(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(line)
    train.run(make_config(lines, 3), str(tmp_path))
    rows = rows_of(tmp_path)
    assert (
        rows[:2] == before
        and rows[-1]["step"] == 3
        and len(rows) == (4 if line.endswith("}") else 3)
    )


def test_a_line_without_a_step_is_named(tmp_path):
    for line in ("[1]", '{"a": 1}', '{"step": "x"}'):
        (tmp_path / "metrics.jsonl").write_text(f'{line}\n{{"step": 2}}\n')
        with pytest.raises(
            ValueError, match="line 1 is no JSON object with a step: remove that line"
        ):
            metrics.Writer(str(tmp_path))
