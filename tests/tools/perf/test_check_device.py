"""check_device: what it compares, what it calls too far, and how it ends."""

import json
import math
import subprocess
import types

import jax
import numpy as np
import pytest

from dig_jax.models import transformer
from dig_jax.tools.perf import check_device, workload
from dig_jax.train import command_line


def test_every_method_and_decoder_has_its_case():
    cases = check_device.cases()
    methods = {p.stem for p in (command_line.CONFIGS / "pretrain").glob("[!_]*.py")}
    assert set(cases) == methods | {f"reader {name}" for name in check_device.DECODERS}
    for text in cases.values():
        assert command_line.load(text).batch_size == 8


def test_distance_is_relative_and_over_the_whole_tree():
    right = {"a": np.array([3.0]), "b": np.array([0.0, 4.0])}
    wrong = {"a": np.array([3.0]), "b": np.array([0.0, 4.5])}
    assert check_device.distance(right, right) == 0
    assert check_device.distance(wrong, right) == pytest.approx(0.1)
    assert math.isnan(check_device.distance({"a": np.array([np.nan])}, {"a": np.array([1.0])}))


def test_views_are_judged_by_their_worst_array():
    image, mask = np.linspace(0, 1, 100), np.arange(100) % 2 > 0
    views = {"view": image, "mask": mask}
    assert check_device.unlike(views, views) == 0
    assert check_device.unlike({"view": image + 0.005, "mask": mask}, views) == 0
    assert check_device.unlike({"view": image, "mask": mask ^ (np.arange(100) < 3)}, views) == 0.03
    assert check_device.unlike({"view": np.where(mask, np.nan, image), "mask": mask}, views) == 0.5


def run(monkeypatch, capsys, only, seconds=math.inf, jobs=None):
    given = {"only": only, "seconds": seconds, "dtypes": list(check_device.BOUNDS), "jobs": jobs}
    monkeypatch.setattr(check_device, "FLAGS", types.SimpleNamespace(**given))
    code = check_device.main(["check_device"])
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]), out, err


def test_attention_that_is_wrong_in_one_form_is_named(monkeypatch, capsys):
    monkeypatch.setattr(check_device, "TOKENS", (65,))
    code, found, _, err = run(monkeypatch, capsys, ["attention 65"])
    assert code == 0 and "no accelerator" in err and not found["failed"] and not found["left"]
    figures = found["cases"]["attention 65"]
    assert set(figures) == {
        f"{f} {d}" for f in ("plain", "blocks", "xla") for d in check_device.ATTENTION_BOUNDS
    }
    assert figures["plain float32"] == {"value": 0, "gradient": 0}
    assert 0 < figures["xla bfloat16"]["gradient"] < 0.01

    right = transformer.attend
    wrong = lambda q, k, v, lengths, dtype, form: right(
        q, k, v, lengths + (form == "xla"), dtype, form
    )
    monkeypatch.setattr(transformer, "attend", wrong)
    code, found, out, err = run(monkeypatch, capsys, ["attention 65"])
    assert code == 1 and found["failed"] == [
        "attention 65 xla float32",
        "attention 65 xla bfloat16",
    ]
    assert (
        "TOO FAR: value, gradient" in out
        and "error: failed or too far apart: attention 65 xla" in err
    )


def test_a_gradient_that_differs_between_the_devices_is_named(monkeypatch, capsys):
    right, made = workload.gradient, []

    def gradient(experiment):
        call, first = right(experiment), not made
        made.append(experiment)

        def scaled(state, views):
            out, grads = call(state, views)
            return out, grads if first else jax.tree.map(lambda g: 1.4 * g, grads)

        return scaled

    code, found, _, _ = run(monkeypatch, capsys, ["rotation"])
    figures = found["cases"]["rotation"]
    assert code == 0 and figures["float32"] == {"views": 0, "loss": 0, "gradient": 0}
    for dtype in ("bfloat16", "bfloat16_stored"):
        assert 0 < figures[dtype]["gradient"] < check_device.BOUNDS[dtype]["gradient"]
    monkeypatch.setattr(workload, "gradient", gradient)
    code, found, out, err = run(monkeypatch, capsys, ["rotation"])
    assert code == 1 and found["failed"] == [f"rotation {name}" for name in check_device.BOUNDS]
    assert found["cases"]["rotation"]["float32"]["gradient"] == pytest.approx(0.4, rel=1e-3)
    assert "TOO FAR: gradient" in out and "rotation float32" in err


def test_what_there_was_no_time_for_is_said(monkeypatch, capsys):
    code, found, _, err = run(monkeypatch, capsys, ["simclr"], seconds=-1.0)
    assert code == 0 and found["left"] == ["simclr"] and not found["cases"]
    assert "not checked, no time left: simclr" in err
    with pytest.raises(ValueError, match="--only=nothing: the cases are attention 64, .*simclr"):
        run(monkeypatch, capsys, ["simclr", "nothing"])


def test_a_word_that_is_a_name_is_that_case_alone():
    names = lambda *only: [name for name, _ in check_device.rows(list(only), [], None)]
    assert names("moco") == ["moco"] and names("mocov3", "moco") == ["moco", "mocov3"]
    assert names("moco", "convolution 48") == [
        "convolution 48 2x2",
        "convolution 48 2x3",
        "moco",
    ]


def test_cases_side_by_side_are_those_in_turn(monkeypatch, capsys):
    """Real processes, with the same figures; one that dies is named, and costs no other."""
    only = ["convolution 8 2x2", "convolution 96 2x1"]
    code, alone, _, _ = run(monkeypatch, capsys, only)
    assert (code, *run(monkeypatch, capsys, only, jobs=2)[:2]) == (0, 0, alone)
    assert list(alone["cases"]) == only

    class Dying(subprocess.CompletedProcess):
        def __init__(self, command, **_):
            super().__init__(command, -11, "", "" if "8 2x2" in command[-1] else "E0 no memory\n")

    monkeypatch.setattr(check_device.subprocess, "run", Dying)
    code, found, out, _ = run(monkeypatch, capsys, only, jobs=2)
    assert code == 1 and found["failed"] == only and not found["cases"]
    assert "8 2x2     FAILED: exit code -11\n" in out and "FAILED: E0 no memory\n" in out
    code, found, _, _ = run(monkeypatch, capsys, only, seconds=-1.0, jobs=2)
    assert code == 0 and found["left"] == only


def test_a_case_that_fails_is_named_and_the_next_begins(monkeypatch, capsys):
    def attend(*_):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such kernel\nand more")

    monkeypatch.setattr(check_device, "TOKENS", (65, 192))
    monkeypatch.setattr(transformer, "attend", attend)
    code, found, out, err = run(monkeypatch, capsys, ["attention 65", "attention 192"])
    assert code == 1 and found["failed"] == ["attention 65", "attention 192"]
    assert "attention 65          FAILED: UNIMPLEMENTED: no such kernel\n" in out
    assert "failed or too far apart: attention 65, attention 192" in err


def test_a_number_that_is_not_finite_is_too_far_and_json_stays_json(monkeypatch, capsys):
    monkeypatch.setattr(check_device, "TOKENS", (65,))
    figures = {"plain bfloat16": {"value": math.nan, "gradient": 0.0}}
    monkeypatch.setattr(check_device, "attention_figures", lambda *_: figures)
    code, found, _, _ = run(monkeypatch, capsys, ["attention 65"])
    assert code == 1 and found["failed"] == ["attention 65 plain bfloat16"]
    assert found["cases"]["attention 65"]["plain bfloat16"]["value"] == "nan"


def test_without_a_cpu_a_sentence_says_what_to_set(monkeypatch, capsys):
    monkeypatch.setattr(check_device, "jax", types.SimpleNamespace(
        config=types.SimpleNamespace(jax_platforms="cuda")))  # fmt: skip
    with pytest.raises(ValueError, match="JAX_PLATFORMS is cuda: set it to cuda,cpu"):
        run(monkeypatch, capsys, [])
