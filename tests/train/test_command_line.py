"""The command line: configs by name and path, options that no file states, what overrides what."""

import errno
import logging
import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from dig_jax.models import encoders
from dig_jax.train import command_line

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def parse(monkeypatch):
    """Words of a command line -> the config."""

    def call(*words):
        values = flags.FlagValues()
        argv = ["main", *words]
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.setattr(flags, "FLAGS", values)
        monkeypatch.setattr(config_flags.config_flags, "FLAGS", values)
        command_line.define_config("a config", values)
        command_line.define_path("workdir", None, "a folder", values, buckets=True)
        command_line.parse(argv)
        return command_line.config().to_dict()

    return call


def test_any_option_can_be_given(parse):
    more = ("--config.mesh.fsdp=4", "--config.method.encoder.remat=True", "--config.profile=1-2")
    cfg = parse("--config=mae:preset=words_union14m", "--config.method.encoder.width=96", *more)
    assert cfg["mesh"] == {"data": -1, "fsdp": 4, "tensor": 1} and cfg["profile"] == "1-2"
    assert cfg["method"]["encoder"]["remat"] is True and cfg["method"]["cls"] is True
    assert encoders.sized(cfg["method"]["encoder"])["width"] == 96
    assert encoders.sized(cfg["method"]["encoder"])["depth"] == 12


def test_a_config_may_state_an_encoder_in_numbers_and_no_evaluation(parse, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dig_jax.configs import common\n"
        "def get_config():\n"
        "    config = common.pretraining('mae')\n"
        "    del config.evals\n"
        "    config.method.encoder = {'patch': (8, 4), 'width': 32, 'depth': 1, 'heads': 2}\n"
        "    return config\n"
    )
    cfg = parse(f"--config={tmp_path}/mine.py", "--config.method.encoder.class_token=True")
    assert cfg["evals"] == {}
    encoder = encoders.create(encoders.sized(cfg["method"]["encoder"]))
    assert (encoder.width, encoder.class_token, encoder.final_norm) == (32, True, True)


def test_widths_of_buckets_and_none_can_be_said(parse):
    said = {"2": 2, "(128,256)": (128, 256), "[224]": [224], "224,256": (224, 256), "auto": "auto"}
    for text, value in said.items():
        assert (
            parse("--config=finetune", f"--config.data.buckets_px={text}")["data"]["buckets_px"]
            == value
        )
    assert parse("--config=mae:preset=words_union14m")["data"]["squeeze_px"] == 128
    none = "--config.data.squeeze_px=None"
    assert parse("--config=mae:preset=words_union14m", none)["data"]["squeeze_px"] is None
    assert "data.squeeze_px" in parse("--config=finetune")["inherit"]
    cfg = parse("--config=finetune", none)  # None is meant, so it is not inherited
    assert cfg["data"]["squeeze_px"] is None and "data.squeeze_px" not in cfg["inherit"]


def test_epochs_on_the_command_line_win_over_steps_of_the_file(parse):
    assert parse("--config=dig:preset=cpu")["total"] == {"steps": 12000, "epochs": None}
    cfg = parse("--config=dig:preset=cpu", "--config.total.epochs=3")
    assert cfg["total"] == {"steps": None, "epochs": 3}
    cfg = parse("--config=dig:preset=words", "--config.total.steps=7")
    assert cfg["total"] == {"steps": 7, "epochs": None}


def test_channels_of_data_and_method_are_one_option(parse):
    cfg = parse("--config=mae:preset=cpu", "--config.data.channels=3")
    assert cfg["data"]["channels"] == cfg["method"]["channels"] == 3


def test_home_is_expanded_and_stores_are_refused(parse, monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/me")
    parse("--config=mae", "--workdir=~/run")
    assert flags.FLAGS.workdir == "/home/me/run"
    parse("--config=mae", "--workdir=gs://bucket/run/")
    assert flags.FLAGS.workdir == "gs://bucket/run"
    with pytest.raises(SystemExit):
        parse("--config=mae", "--workdir=s3://bucket/run")
    assert "--workdir=s3://bucket/run: s3://bucket/run is the address" in capsys.readouterr().err


def test_help_ends_with_0_and_says_what_the_config_says(parse, capsys):
    with pytest.raises(SystemExit) as end:
        parse("--config=mae:preset=cpu", "--help")
    assert end.value.code == 0 and "MAE (arXiv 2111.06377" in capsys.readouterr().out


def test_configs_are_found_by_name_and_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name = command_line.find("probe")
    assert by_name == command_line.find("configs/recognize/probe.py") and by_name.is_file()
    assert by_name == command_line.find("recognize/probe.py")
    (tmp_path / "probe").write_text("mine")
    assert command_line.find("probe").read_text() == "mine"  # a file of the user's wins
    with pytest.raises(FileNotFoundError, match="no config file sinclr: did you mean simclr"):
        command_line.find("sinclr")


def test_details_of_other_packages_are_not_shown_wherever_they_are_installed():
    line = lambda level, file: logging.LogRecord("x", level, str(file), 1, "", (), None)
    clone = command_line.PACKAGE.parent / ".venv" / "lib" / "site-packages"
    for theirs in (clone / "jax" / "_src" / "distributed.py", "/home/me/dig_jax/.venv/jax/x.py"):
        assert not command_line.tells(line(logging.INFO, theirs))
        assert command_line.tells(line(logging.WARNING, theirs))
    assert command_line.tells(line(logging.INFO, command_line.PACKAGE / "hosts.py"))


@pytest.mark.slow
def test_a_pipe_that_closes_early_is_no_error():
    shell = f"{sys.executable} -m dig_jax.tools.benchmarks | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_is_named_by_the_flags(parse):
    """Where a file is open already, the system does not say which."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert command_line.sentence(full) == "[Errno 28] No space left on device"
    parse("--config=mae", "--workdir=runs/a")
    assert command_line.sentence(full) == "runs/a: no space left on device"
    other = OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    assert command_line.sentence(other) == "[Errno 111] Connection refused"
    with pytest.raises(OSError) as caught, command_line.naming("report.html"):
        with open("/dev/full", "w") as file:
            file.write("a page")
    assert command_line.sentence(caught.value) == "report.html: no space left on device"
