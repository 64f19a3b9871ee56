"""Work folders in a bucket, against an emulator on loopback (tests/bucket_server.py)."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags

from dig_jax import load
from dig_jax.data.extras import MissingExtra
from dig_jax.tools import compare, report, results
from dig_jax.train import run as train
from dig_jax.workdir import (
    bucket,
    checkpoint,
    checksums,
    folder,
    lease,
    metrics,
    mirror,
    readings,
    stored,
)
from dig_jax.workdir import read as runs
from tests import bucket_server, readers, toy

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    bool(bucket_server.missing()),
    reason=f"no emulator: {bucket_server.missing()} is not installed (pip install 'dig_jax[test]')",
)


@pytest.fixture(scope="module")
def server():
    with bucket_server.serving() as url:
        yield url


@pytest.fixture
def top(server, monkeypatch, request):
    """An address of which nothing exists yet."""
    bucket_server.use(monkeypatch, server)
    monkeypatch.setenv("DIG_LEASE_S", "1.5")  # the tests of living ones: 6
    return f"gs://bucket/{request.node.name}"


def upload(local, address):
    """Copies a folder into the bucket, as `gcloud storage cp -r` does."""
    files = [path for path in local.rglob("*") if path.is_file()]
    there = [f"{address}/{path.relative_to(local)}" for path in files]
    bucket.path(address)
    bucket.store().put([str(path) for path in files], there)


# ---- addresses


def test_only_folders_of_buckets_are_taken(monkeypatch, tmp_path):
    for address in ("s3://bucket/run", "az://x/y"):
        with pytest.raises(ValueError, match=f"{address} is .* Orbax cannot save to.*gs://BUCKET"):
            folder.whole_path(address)
    for address in ("gs://bucket", "gs://", "gs:///run"):
        with pytest.raises(ValueError, match="names no folder in a bucket: write gs://BUCKET/"):
            bucket.path(address)
    assert folder.whole_path("gs://bucket/run/") == "gs://bucket/run"
    assert bucket.path(tmp_path) == tmp_path and bucket.whole(tmp_path) == tmp_path.resolve()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingExtra, match=r"gcsfs.*pip install 'dig_jax\[gcs\]'"):
        bucket.path("gs://bucket/run")


def test_orbax_takes_other_addresses_for_paths():
    """Where this fails, Orbax has learnt a store, and the refusal in bucket.py lost its reason."""
    from orbax.checkpoint._src.serialization import tensorstore_utils

    assert tensorstore_utils.build_kvstore_tspec("gs://bucket/run")["base"]["driver"] == "gcs"
    for scheme in ("s3", "az"):
        with pytest.raises(ValueError, match=f"should be absolute. Got {scheme}:/bucket/run"):
            tensorstore_utils.build_kvstore_tspec(f"{scheme}://bucket/run")


def test_a_bucket_that_is_not_there_is_told_in_a_sentence(top, toys, lines):
    with pytest.raises(ValueError, match=r"--workdir=gs://no-bucket/run cannot be written \(404"):
        train.run(toy.make_config(lines), "gs://no-bucket/run")


# ---- the lease


def test_of_two_runs_one_wins_and_the_other_names_it(top):
    leases = [lease.Lease(top) for _ in range(4)]
    won = []
    threads = [threading.Thread(target=lambda one=one: won.append(one._write(0))) for one in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False, False, False, True]
    told = json.loads((bucket.path(top) / lease.NAME).read_text())
    assert told["holder"] == f"process {os.getpid()} on {os.uname().nodename}"


def test_a_second_run_is_refused_while_the_first_lives(top, monkeypatch):
    monkeypatch.setenv("DIG_LEASE_S", "6")
    with lease.held(top):
        words = rf"in use by process {os.getpid()} on .* since .* \(last heartbeat .* UTC\): wait"
        with pytest.raises(ValueError, match=words):
            lease.Lease(top).take()
    with lease.held(top) as second:  # the first has let go: nobody waits
        second.renew()


def test_a_dead_lease_expires_and_its_holder_saves_no_more(top, capsys):
    dead = lease.Lease(top)
    dead.take()
    with lease.held(top) as next_one:
        assert "waiting 1.5 s to see whether that run is alive" in capsys.readouterr().err
        with pytest.raises(lease.Lost, match="was taken over by process .* ends without a save"):
            dead.renew()
        dead.release()  # not its own any more
        next_one.renew()


def test_a_lost_answer_does_not_lose_the_lease(top):
    mine = lease.Lease(top)
    mine.take()
    before = mine._generation
    mine.renew()
    mine._generation = before  # as where the answer to that heartbeat never came
    mine.renew()


def test_a_wrong_life_is_refused(monkeypatch):
    for text in ("x", "0", "-1", "nan"):
        monkeypatch.setenv("DIG_LEASE_S", text)
        with pytest.raises(ValueError, match=f"DIG_LEASE_S is '{text}': set it to a number"):
            lease.life_s()


# ---- files


def test_files_are_copied_when_they_change_and_lines_come_back(top, server):
    with mirror.mirrored(top) as files:
        path = os.path.join(files.folder, "metrics.jsonl")
        os.makedirs(os.path.join(files.folder, "pictures"))
        for name, text in (("metrics.jsonl", '{"step": 1}\n'), ("pictures/a.png", "a")):
            with open(os.path.join(files.folder, name), "w") as file:
                file.write(text)
        assert not (bucket.path(top) / "metrics.jsonl").exists()
        files.publish()
        before = bucket.inventory(top)
        assert {"metrics.jsonl", "pictures/a.png", lease.NAME} == before.keys()
        with open(path, "a") as file:
            file.write('{"step": 2}\n')
    name = top.removeprefix("gs://bucket/")
    assert bucket_server.read(server, f"{name}/metrics.jsonl") == b'{"step": 1}\n{"step": 2}\n'
    assert not os.path.exists(files.folder)
    assert lease.NAME not in bucket.inventory(top)
    with mirror.mirrored(top) as files:
        assert os.listdir(files.folder) == ["metrics.jsonl"]
        assert len(metrics.read_jsonl(os.path.join(files.folder, "metrics.jsonl"))) == 2


def test_objects_that_change_or_go_are_named(top):
    step = bucket.path(top) / "checkpoints" / "4"
    for name in ("state/a", "state/b"):
        (step / name).write_text("as it was")
    checksums.write(str(step))
    assert checksums.exist(str(step)) and checksums.fault(str(step)) is None
    (step / "state/b").write_text("otherwise")
    assert checksums.fault(str(step)) == "state/b has other contents than were written"
    (step / "state/b").write_text("longer than it was")
    assert checksums.fault(str(step)) == "state/b has 18 bytes instead of 9"
    (step / "state/b").unlink()
    assert checksums.fault(str(step)) == "state/b is missing"


# ---- runs


@pytest.fixture(scope="module")
def trained(server, lines):
    """(address of a run of four steps, saved at two and at four; its last state)."""
    address = "gs://bucket/runs/first"
    with pytest.MonkeyPatch.context() as patch:
        bucket_server.use(patch, server)
        toy.install(patch)
        return address, train.run(config(lines), address)


def config(lines, steps=4, **changes):
    return toy.make_config(lines, steps, **{"checkpoint.every_steps": 2} | changes)


def test_what_a_run_leaves_in_a_bucket(trained, top, toys, lines):
    address, last = trained
    names = bucket.inventory(address)
    assert {"config.json", "metrics.jsonl", "starts.jsonl"} < names.keys()
    assert len([name for name in names if name.startswith("tensorboard/events")]) == 1
    assert lease.NAME not in names
    assert stored.steps(address) == [4] and checksums.exist(f"{address}/checkpoints/4")
    assert toy.same(train.run(config(lines), address), last)  # read back: it has finished


@pytest.mark.slow
def test_a_run_in_a_bucket_is_reported_and_started_from(
    trained, top, toys, lines, tmp_path, capsys
):
    address, _ = trained
    run = runs.load(address)
    assert run.name == "first" and len(run.history) == run.last_step == 4 and len(run.starts) == 1
    flags.FLAGS.mark_as_parsed()
    report.main(["report", address])
    assert f"report: {address}/report.html" in capsys.readouterr().out
    assert b"<html" in (bucket.path(address) / "report.html").read_bytes()
    found = bucket.named("gs://bucket/runs", "config.json")
    assert [path.parent.name for path in found] == ["first"]
    train.run(
        config(lines, 2, init_from=address, init_parts=("params", "mutable")),
        str(tmp_path / "next"),
    )
    assert f"starting from step 4 of {address}" in capsys.readouterr().err
    meta = checkpoint.read_meta(str(tmp_path / "next"))
    assert meta["sources"] == {"init_from": folder.identity(address)} != {"init_from": None}


def test_results_and_compare_read_a_bucket(top, tmp_path, capsys):
    config = {"method": {"name": "recognize", "frozen": True, "heads": {"ctc": {}}}}
    config |= {"init_from": f"{top}/dig", "seed": 0, "batch_size": 8, "total": {"steps": 10}}
    config |= {"data": {"train": "lines@train", "subset": None}}
    method = {"name": "dig", "objective": "gen"}
    for name, said in (("probe", config), ("dig", config | {"method": method, "init_from": ""})):
        (bucket.path(top) / name / "config.json").write_text(json.dumps(said))
        row = {"step": 10, "eval/val/cer": 0.25, "eval/val/wer": 0.5}
        (bucket.path(top) / name / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    lines = [readings.Reading("a.png", "truth", "trust", 2, 0.5)]
    readings.write(tmp_path / "readings-val.tsv", lines)
    upload(tmp_path, f"{top}/probe")
    flags.FLAGS.mark_as_parsed()
    results.main(["results", top])
    assert "gen" in (told := capsys.readouterr().out) and "25.0" in told
    compare.main(["compare", f"{top}/probe"])
    assert "40.0" in capsys.readouterr().out


def test_a_second_run_in_one_bucket_is_refused(trained, top, toys, lines, monkeypatch):
    monkeypatch.setenv("DIG_LEASE_S", "6")
    address, _ = trained
    with lease.held(address), pytest.raises(ValueError, match="in use by process .*heartbeat"):
        train.run(config(lines, 6), address)


def test_a_save_without_its_commit_file_does_not_count(trained, top):
    address, _ = trained
    for name in bucket.inventory(f"{address}/checkpoints/4"):
        if name not in (stored.COMMITTED, checksums.NAME):
            whole = (bucket.path(f"{address}/checkpoints/4") / name).read_bytes()
            (bucket.path(f"{top}/checkpoints/4") / name).write_bytes(whole)
    assert stored.steps(top) == []


def test_a_damaged_step_is_named_before_anything_compiles(trained, top, toys, lines):
    address, _ = trained
    step = f"{address}/checkpoints/4"
    broken = next(name for name in bucket.inventory(step) if name.startswith("state/d/"))
    whole = bucket.path(f"{step}/{broken}").read_bytes()
    bucket.path(f"{step}/{broken}").write_bytes(whole[:-1] + b"?")
    with pytest.raises(checkpoint.Damaged, match=f"{broken} has other contents"):
        train.run(config(lines, 6), address)
    bucket.path(f"{step}/{broken}").write_bytes(whole)


@pytest.mark.slow
def test_a_reader_copied_into_a_bucket_is_the_one_on_disk(top, tmp_path):
    readers.run(tmp_path / "run", "nowhere")
    upload(tmp_path / "run", top)
    here, there = (load.load_reader(place).model for place in (tmp_path / "run", top))
    jax.tree.map(np.testing.assert_array_equal, here.weights, there.weights)
    assert there.charset.chars == here.charset.chars and top.endswith(there.origin["run"])


@pytest.mark.slow
def test_runs_that_are_killed_in_a_bucket_end_like_one_that_is_left_alone(python):
    """Two kill -9; `python -m tests.kill_bucket --kills=30` is the whole of it."""
    command = [python, "-m", "tests.kill_bucket", "--kills=2", "--seed=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] == 2 and result["different"] == 0
