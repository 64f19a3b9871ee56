"""check_tpu: its cases, and what it says of the three ways that a compilation ends."""

import json
import subprocess
import types

import pytest

from dig_jax.configs import common
from dig_jax.tools.perf import check_tpu
from dig_jax.train import command_line

FITS = {
    "fits": True, "over_bytes": 0, "batch_size": 64, "devices": 4, "peak_bytes": 2e9,
    "bytes": {"temporary": 1e9, "total": 3e9}, "collectives": {"all-reduce": {"bytes": 5e6}},
    "gflop_a_device": 1234.0, "compile_s": 61.0,
}  # fmt: skip


def test_every_method_has_its_cases():
    cases = check_tpu.cases(64)
    methods = {p.stem for p in (command_line.CONFIGS / "pretrain").glob("[!_]*.py")}
    assert {name.split()[0] for name in cases} == methods | {"long"}
    assert "dig words" in cases and "mae words_union14m" in cases and "dig words_paper" not in cases
    for name, (config, *_) in cases.items():
        cfg = command_line.load(config.removeprefix("--config="))
        assert cfg.batch_size == (8 if name == "long lines" else 64)
    widest = cfg.data.height_px // 4 * 1792 // 4
    assert widest == 8 * (common.COLUMN_OFFSET_MAX + 64)


@pytest.fixture
def plans(monkeypatch):
    """What plan ends with, by the name of the config; every command that was run."""
    ends, asked = {}, []

    def run(command, timeout, env, **_):
        assert float(env["JAX_EXEC_TIME_OPTIMIZATION_EFFORT"]) == -1
        config = next(w for w in command if w.startswith("--config=")).partition("=")[2]
        asked.append(command)
        end = ends.get(config.split(":")[0], FITS)
        if end is None:
            raise subprocess.TimeoutExpired(command, timeout)
        code = 0 if isinstance(end, dict) else end
        out = "a table\n" + (json.dumps(end) if code == 0 else "")
        return types.SimpleNamespace(returncode=code, stdout=out)

    monkeypatch.setattr(check_tpu.subprocess, "run", run)
    return ends, asked


def check(monkeypatch, capsys, **given):
    values = {"only": [], "device": "v5e", "chips": 4, "limit_s": 60.0} | given
    monkeypatch.setattr(check_tpu, "FLAGS", types.SimpleNamespace(**values))
    code = check_tpu.main(["check_tpu"])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_table_an_object_and_names_of_what_failed(plans, monkeypatch, capsys):
    ends, asked = plans
    code, out, err = check(monkeypatch, capsys)
    assert code == 0 and not err and len(asked) == len(check_tpu.cases(64))
    assert all("--compiler=tpu" in command and "--mesh=data=4" in command for command in asked)
    head, *rows, last = out.splitlines()
    assert len(rows) == len(asked) and json.loads(last)["failed"] == []
    assert rows[0].split()[-9:] == "16 2.0 GB 1.0 GB 5.0 MB 1,234 61 s".split()[-9:]
    assert check(monkeypatch, capsys, only=["dig"], device="h100", chips=1)[0] == 0
    assert "--compiler=gpu" in asked[-1] and "--mesh=data=1" in asked[-1]
    assert "--config.method.encoder.attention=blocks" in asked[-1]
    ends |= {"mae": {**FITS, "fits": False, "over_bytes": 20.1e9}, "ccd": None, "dig": 1}
    code, out, err = check(monkeypatch, capsys, only=["lines"])
    assert code == 1 and json.loads(out.splitlines()[-1])["failed"] == [
        "ccd lines", "dig lines", "mae lines",
    ]  # fmt: skip
    assert "does not fit: 20.1 GB too many" in out and "not compiled within 60 s" in out
    assert "exit code 1" in out and "ccd lines, dig lines, mae lines" in err
    with pytest.raises(ValueError, match="--only=nothing: no case is called so"):
        check(monkeypatch, capsys, only=["nothing"])
