"""Every config: its expanded text equals a golden file, it runs two steps at `quick`, and mistakes
become sentences.

Where a change of a config is meant, write the golden files anew and read what `git diff
tests/golden_configs` says:

    DIG_WRITE_GOLDEN=1 python -m pytest tests/test_configs.py -k golden
"""

import difflib
import functools
import importlib
import json
import math
import os
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dig_jax.augment import recipes
from dig_jax.configs import common
from dig_jax.data import records, writer
from dig_jax.data.sources import lines
from dig_jax.methods import recognize
from dig_jax.models import decoders, encoders
from dig_jax.train import command_line, defaults
from dig_jax.train import run as train
from dig_jax.workdir import checkpoint, metrics
from dig_jax.workdir import starts as provenance
from tests import toy
from tests.methods import pairs
from tests.tiers import tiers
from tests.train.test_run import spy_on_data

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden_configs"
FILES = sorted(
    str(path.relative_to(ROOT / "configs").with_suffix(""))
    for path in (ROOT / "configs").glob("*/[!_]*.py")
)

METHODS = {
    path: importlib.import_module(f"dig_jax.configs.{path.replace('/', '.')}")
    for path in FILES
    if path.startswith("pretrain")
}

# Every file with the arguments that choose another experiment; a preset added to PRESETS comes in
# by itself.
CASES = [
    *((file, f"preset={name}") for file, module in METHODS.items() for name in module.PRESETS),
    *(("pretrain/dig", f"preset=cpu,objective={name}") for name in ("dis", "gen")),
    *(("recognize/probe", f"head={name}") for name in common.READERS),
    ("recognize/probe", "decoder=attention,block=mix"),
    ("recognize/finetune", "decoder=transformer,layer_decay=0.75,drop_path=0.1,order=first"),
    ("recognize/finetune", ""),
    ("recognize/finetune", "preset=words_cpu"),
    ("recognize/finetune", "preset=dig"),
    ("recognize/scratch", ""),
    ("recognize/scratch", "preset=words_cpu"),
    ("recognize/scratch", "preset=plain,size=micro"),
    ("recognize/evaluate", ""),
]


def build(file, arg=None):
    """What the file states."""
    return importlib.import_module(f"dig_jax.configs.{file.replace('/', '.')}").get_config(arg)


def golden_file(file, arg):
    return GOLDEN / f"{re.sub('[^a-z0-9_]+', '-', f'{file} {arg}').strip('-')}.txt"


def expanded(config):
    """Sorted JSON with all defaults of the code; a value that is left open is null."""
    cfg = defaults.filled(config.to_dict())
    if cfg["method"].get("encoder"):
        cfg["method"]["encoder"] = encoders.sized(cfg["method"]["encoder"])
    return json.dumps(cfg, indent=1, sort_keys=True) + "\n"


def different_at_quick():
    """Arguments of pretrain/dig without those whose quick run is another's (words_paper: other
    epochs), nor "preset=cpu", which the fixture `pretrained` runs."""
    texts = {
        expanded(build(file, f"{arg},quick")): arg
        for file, arg in reversed(CASES)
        if file == "pretrain/dig"
    }
    return sorted(set(texts.values()) - {"preset=cpu"})


# --- the golden files


@pytest.mark.parametrize("file, arg", CASES)
def test_expanded_text_equals_the_golden_file(file, arg):
    path, text = golden_file(file, arg), expanded(build(file, arg))
    if os.environ.get("DIG_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    if text != old:
        change = "".join(
            difflib.unified_diff(old.splitlines(True), text.splitlines(True), "golden", "now", n=1)
        )
        command = "DIG_WRITE_GOLDEN=1 python -m pytest tests/test_configs.py -k golden"
        pytest.fail(
            f"{file}.py:{arg} is not what {path.name} says. If that is meant: {command}\n{change}",
            pytrace=False,
        )


def test_every_config_has_a_golden_file_and_no_other_is_left():
    assert {file for file, _ in CASES} == set(FILES)
    expected = {golden_file(file, arg).name for file, arg in CASES}
    assert len(expected) == len(CASES)
    if os.environ.get("DIG_WRITE_GOLDEN"):
        for path in GOLDEN.glob("*.txt"):
            if path.name not in expected:
                path.unlink()
    assert {path.name for path in GOLDEN.iterdir()} == expected


# --- two steps


@pytest.fixture(scope="module")
def lines_set(tmp_path_factory):
    """A few rendered lines with labels."""
    folder = tmp_path_factory.mktemp("records") / "lines"
    options = {
        "splits": "train=16,validation=8",
        "fonts": "bundled",
        "max_words": 1,
        "height_px": 32,
        "workers": 0,
    }
    records.write(folder, lines.examples(report=writer.Report(), **options))
    return str(folder)


def run_quick(file, arg, workdir, **changes):
    """The last state, and {metric: last value} of the run; an encoder that is trained has one
    block, and heads of the official width are narrow."""
    quick = "" if file == "recognize/evaluate" else f"{arg},quick"
    config = command_line.complete(build(file, quick))
    config.unlock()
    if file.startswith("pretrain/"):
        changes = {"method.encoder.depth": 1, **changes}
        changes |= {"method.projector_width": 64} if "words" in arg else {}
    elif file != "recognize/evaluate":
        changes = {"data.buckets_px": 1, **changes}  # a step is compiled for every width
    config.update_from_flattened_dict({"mesh.data": 1, **changes})
    if (
        config.data.kind == "crops" and "gap_px" not in config.method
    ):  # rows of windows with gaps need all of their width
        config.data.width_px = 64
        config.data.squeeze_px = config.data.squeeze_px and 64
    for head in config.method.get("heads") or {}:
        if "hidden" in config.method.heads[head]:
            config.method.heads[head].hidden = 16
    if "probe" in config.evals:
        config.evals.probe.update(steps=2, train_lines=8, eval_lines=8)
    state = train.run(config, str(workdir))
    values = {}
    for row in metrics.read_jsonl(os.path.join(workdir, "metrics.jsonl")):
        values.update(row)
    return state, values


def check_pretraining(arg, workdir, state, values, steps=(2,)):
    assert int(state.step) == steps[-1] and checkpoint.steps(str(workdir)) == list(steps)
    wanted = {"train/loss", "train/grad_norm", "collapse/std"}
    wanted |= set() if "words" in arg else {"probe/lines/cer"}
    assert wanted <= values.keys()
    assert all(math.isfinite(value) for value in values.values())
    pictures = sorted(Path(workdir, "pictures").glob("reconstruction-*.png"))
    assert len(pictures) == (0 if "dis" in arg else 1)
    for path in pictures:
        assert Image.open(path).width >= 64


FOUR = {"total.steps": 4, "checkpoint.every_steps": 2, "checkpoint.keep_last": 2}


def cpu_preset(file, records):
    """The light probe is judged in DiG's run: it reads every method by the same `encode`."""
    probe = "" if file == "pretrain/dig" else ",probe=none"
    return f"preset=cpu,records={records}{probe}"


def four_steps(file, records, workdir):
    """Four steps of the cpu preset: (workdir, state, values, record numbers of each step, the
    compiled step)."""
    with pytest.MonkeyPatch.context() as patch:
        seen, made = spy_on_data(patch), []
        toy.wrap_step(patch, lambda step: made.append(step) or step)
        state, values = run_quick(file, cpu_preset(file, records), workdir, **FOUR)
    return workdir, state, values, seen, made[0]


@pytest.fixture(scope="module")
def pretrained(lines_set, tmp_path_factory):
    """Four steps of DiG, which the recognisers start from."""
    return four_steps("pretrain/dig", lines_set, tmp_path_factory.mktemp("pretrained") / "cpu")


@pytest.fixture(scope="module")
def finetuned(pretrained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finetuned") / "ctc"
    return workdir, *run_quick("recognize/finetune", "", workdir, init_from=str(pretrained[0]))


@pytest.mark.slow
def test_the_cpu_preset_runs(pretrained):
    check_pretraining("preset=cpu", *pretrained[:3], steps=(2, 4))


@pytest.mark.slow
@pytest.mark.parametrize("arg", different_at_quick())
def test_pretraining_runs(arg, lines_set, tmp_path, monkeypatch):
    # The run of `pretrained` has the recipe itself.
    monkeypatch.setitem(recipes.RECIPES, "lines_light", pairs.BLUR)
    check_pretraining(
        arg, tmp_path, *run_quick("pretrain/dig", f"{arg},records={lines_set}", tmp_path)
    )


# DiG stands for all in `make test`: it has masks, a teacher and a contrast.
@pytest.mark.parametrize("file", tiers(sorted(METHODS, key=lambda name: name != "pretrain/dig"), 1))
def test_every_method_runs_and_resumes_bit_for_bit(
    file, lines_set, pretrained, tmp_path, monkeypatch
):
    """Four steps of its cpu preset, the collapse figures, pictures where the
    method draws any; then steps 3 and 4 again from the checkpoint of step 2: same state, same
    records, same figures of training."""
    if file == "pretrain/dig":
        run = pretrained
    else:  # a recipe that compiles quickly: they have tests of their own
        for name in ("lines_light", "seqclr_2"):
            monkeypatch.setitem(recipes.RECIPES, name, pairs.BLUR)
        run = four_steps(file, lines_set, tmp_path / "whole")
    whole, first, values, before, step = run
    assert (
        int(first.step) == 4
        and "encoder" in first.params
        and checkpoint.steps(str(whole)) == [2, 4]
    )
    assert {"train/loss", "train/grad_norm", "collapse/std"} <= values.keys()
    assert all(math.isfinite(value) for value in values.values())

    parts, made = tmp_path / "parts", []
    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "checkpoints" / "4")
    after = spy_on_data(monkeypatch)
    toy.wrap_step(monkeypatch, lambda _: made.append(step) or step)  # compiled already
    again, _ = run_quick(file, cpu_preset(file, lines_set), parts, **FOUR, evals={})
    assert int(again.step) == 4 and made == [step]
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(again), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    assert len(before) == 4 and after == before[2:]
    assert [row["step"] for row in metrics.read_jsonl(str(parts / provenance.NAME))] == [0, 2]
    rows = [
        [training_figures(row) for row in metrics.read_jsonl(str(run / "metrics.jsonl"))]
        for run in (whole, parts)
    ]
    assert [row for row in rows[0] if row] == [row for row in rows[1] if row] and len(rows[0]) >= 4

    # At step 0 the schedules stand where they start.
    start, method = rows[0][0], checkpoint.read_config(str(whole))["method"]
    if "train/teacher_momentum" in start:
        assert start["train/teacher_momentum"] == pytest.approx(method["momentum"], rel=1e-6)
    assert start.get("train/weight_contrast", 0.0) == 0.0


def training_figures(row):
    return {
        name: value
        for name, value in row.items()
        if name.startswith("train/") and name != "train/lines_per_s"
    }


def check_recogniser(workdir, state, values, steps=2):
    assert int(state.step) == steps
    assert checkpoint.steps(str(workdir)) == ([steps] if steps else [])
    assert values["eval/lines/lines"] == 8 and values["eval/lines/unread"] == 0
    assert values["eval/cer"] == values["eval/lines/cer"] > 0
    assert all(math.isfinite(value) for value in values.values())
    assert Path(workdir, "pictures", "readings-lines.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("head", tiers(common.READERS))
def test_probe_runs(head, pretrained, tmp_path):
    arg = f"decoder=ctc,head={head},rates=1e-2+3e-3"  # two, because every head is compiled
    state, values = run_quick("recognize/probe", arg, tmp_path, init_from=str(pretrained[0]))
    check_recogniser(tmp_path, state, values)
    assert set(state.params["heads"]) == {"lr_1e-2", "lr_3e-3"}
    assert {"eval/lines/cer@lr_1e-2", "eval/lines/cer@lr_3e-3"} <= values.keys()


@pytest.mark.slow
def test_features_that_are_kept_change_no_figure(pretrained, tmp_path, monkeypatch):
    """The same probe, once with the features of every line kept, once with the encoder run at every
    step.
    """
    arg, source = "decoder=ctc,rates=1e-2", {"init_from": str(pretrained[0])}
    _, kept = run_quick("recognize/probe", arg, tmp_path / "kept", **source)
    init = recognize.Method.__init__

    @functools.wraps(init)
    def without(self, **options):
        init(self, **options)
        assert self.frozen_features is not None
        self.frozen_features = None

    monkeypatch.setattr(recognize.Method, "__init__", without)
    _, fresh = run_quick("recognize/probe", arg, tmp_path / "fresh", **source)
    assert kept.keys() == fresh.keys()
    for name in ("train/loss", "train/grad_norm", "eval/cer", "eval/lines/wer"):
        assert kept[name] == pytest.approx(fresh[name], rel=1e-4), name


def test_finetune_runs(finetuned, pretrained):
    check_recogniser(*finetuned)
    theirs, ours = (
        checkpoint.read_config(str(workdir)) for workdir in (pretrained[0], finetuned[0])
    )
    same = {name for name in theirs["method"]["encoder"] if name != "final_norm"}
    assert all(
        theirs["method"]["encoder"][name] == ours["method"]["encoder"][name] for name in same
    )
    assert theirs["data"]["train"] == ours["data"]["train"]


@pytest.mark.parametrize("like", tiers([False, True], 0))
def test_scratch_runs(like, pretrained, lines_set, tmp_path):
    arg = f"shape_from={pretrained[0]}" if like else f"size=micro,patch=32x4,records={lines_set}"
    changes = {} if like else {"method.encoder.depth": 1}
    check_recogniser(tmp_path, *run_quick("recognize/scratch", arg, tmp_path, **changes))


@pytest.mark.parametrize(
    "file, arg",
    [("dig", "preset=cpu"), ("simmim", "preset=words_simmim"), ("mocov3", "preset=words")],
)
def test_a_cnn_of_another_height_takes_windows_and_squeeze_with_it(file, arg):
    """What is 4 columns of a ViT's patches, or the width of a word, is so on lines 48 px high."""
    config = build(f"pretrain/{file}", f"{arg},size=cnn48,records=here")
    assert (config.data.height_px, config.data.width_px) == (48, 192)
    assert config.data.get("squeeze_px") == (192 if "words" in arg else None)
    assert config.method.get("window_px") == (48 if file == "dig" else None)


def test_no_step_is_a_number_of_steps():
    assert build("pretrain/dig", "preset=cpu,steps=0").total.steps == 0
    assert build("pretrain/dig", "preset=cpu").total.steps == 12000
    with pytest.raises(ValueError, match="steps=-5: give 0 or more"):
        build("pretrain/dig", "preset=cpu,steps=-5")


def test_evaluate_repeats_the_figure_of_the_run_it_is_given(finetuned, tmp_path):
    """No step, no checkpoint, the same weights: the same rates."""
    state, values = run_quick("recognize/evaluate", "", tmp_path, init_from=str(finetuned[0]))
    check_recogniser(tmp_path, state, values, steps=0)
    rates = [name for name in values if name.startswith("eval/")]
    assert {name: values[name] for name in rates} == {name: finetuned[2][name] for name in rates}


def test_evaluate_reads_no_training_record(finetuned, lines_set, tmp_path):
    """The training records are gone; another set is read, and without a split its validation."""
    moved = tmp_path / "moved"
    shutil.copytree(finetuned[0], moved)
    config = json.loads((moved / "config.json").read_text())
    config["data"]["train"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(config))
    changes = {"init_from": str(moved), "evals.recognition.datasets": str(lines_set)}
    changes["data.train"] = str(tmp_path / "gone")
    _, values = run_quick("recognize/evaluate", "", tmp_path / "e", **changes)
    assert values["eval/lines/cer"] == finetuned[2]["eval/lines/cer"]


def test_evaluate_says_that_a_pretraining_has_no_recogniser(pretrained, tmp_path):
    message = "is a pre-training or an imported encoder, so it has no recogniser: train one first"
    with pytest.raises(ValueError, match=message):
        run_quick("recognize/evaluate", "", tmp_path, init_from=str(pretrained[0]))


# --- arguments


def test_a_preset_of_a_recogniser_changes_defaults_and_yields_to_arguments():
    make = lambda arg: importlib.import_module("dig_jax.configs.recognize.scratch").get_config(arg)
    words, plain = make("preset=words_cpu,steps=7"), make("preset=plain")
    assert (words.total.steps, words.optim.lr, words.data.squeeze_px) == (7, 2e-3, 128)
    assert words.method.encoder.size == "crnn_micro" and words.method.heads.ctc.kind == "bilstm"
    assert make("preset=words_cpu,head=linear").method.heads.ctc.kind == "linear"
    assert make("preset=words_cpu,lr=1e-3").optim.lr == plain.optim.lr == 1e-3
    assert "squeeze_px" not in plain.data or plain.data.squeeze_px is None
    with pytest.raises(ValueError, match="preset=words: choose one of strong, plain, words_cpu"):
        make("preset=words")


@pytest.mark.parametrize(
    "file, arg, weight",
    [
        ("scratch", "", 0.3),
        ("scratch", "head=linear", None),
        ("scratch", "shortcut=0", None),
        ("finetune", "decoder=attention", 0.3),
        ("finetune", "decoder=transformer,preset=words_cpu", 0.3),
        ("finetune", "decoder=transformer,preset=dig", None),  # as the authors
        ("finetune", "decoder=attention,preset=plain", None),
        ("finetune", "decoder=glimpse,shortcut=0.5", 0.5),
        ("finetune", "decoder=attention,shortcut=0", None),  # no key, as in older runs
        ("probe", "decoder=attention", 0.3),
        ("probe", "decoder=attention,shortcut=0", None),
        ("probe", "decoder=ctc,head=bilstm2", None),
    ],
)
def test_a_reader_has_the_shortcut_that_it_needs(file, arg, weight):
    heads = build(f"recognize/{file}", arg).method.heads.to_dict()
    assert {head.get("shortcut") for head in heads.values()} == {weight}


def test_a_reader_is_as_wide_as_asked_for_or_says_that_it_cannot():
    head = lambda arg: next(iter(build("recognize/probe", arg).method.heads.values())).to_dict()
    for reader in ("head=bilstm", "decoder=attention", "decoder=glimpse"):
        assert head(f"{reader},hidden=64")["hidden"] == 64
    for arg, words in (
        ("head=linear,hidden=64", "hidden, which kind 'linear' does not know: it takes dropout"),
        ("decoder=transformer,hidden=64", "hidden, which kind 'transformer' does not know"),
        ("head=linear,shortcut=0.5", "shortcut, which kind 'linear' does not know"),
    ):
        with pytest.raises(ValueError, match=words):
            decoders.create(5, **head(arg))


def test_arguments_take_the_type_of_their_default():
    args = common.parse_arg(
        " size=B , lr=1e-3,steps=5,quick,", size="S", lr=0.0, steps=0, quick=False, dtype="auto"
    )
    assert args.to_dict() == {"size": "B", "lr": 1e-3, "steps": 5, "quick": True, "dtype": "auto"}
    assert common.parse_arg(None, quick=True).quick is True
    assert common.parse_arg("quick=False", quick=True).quick is False
    assert common.parse_arg("records=a=b", records="").records == "a=b"


@pytest.mark.parametrize(
    "arg, sentence",
    [
        ("objectiv=gen", r"no argument 'objectiv': did you mean 'objective'\?.*'preset'"),
        ("zzz", r"no argument 'zzz': It has \["),
        ("steps=many", r"steps=many: give a number such as 1000"),
        ("steps=1.5", r"steps=1.5: give a number"),
        ("steps", r"steps=True: give a number"),
        ("lr=fast", r"lr=fast: give a number such as 0.0"),
        ("quick=perhaps", r"quick=perhaps: give true or false"),
        ("preset=wrods", r"preset=wrods: choose one of words, "),
        ("size=XXL", r"no encoder size 'XXL': choose one of .*'base768'"),
    ],
)
def test_wrong_arguments_become_sentences(arg, sentence):
    with pytest.raises(ValueError, match=sentence):
        expanded(build("pretrain/dig", arg))


def test_the_views_of_can_may_have_another_recipe():
    assert build("pretrain/mae", "preset=cpu,can,recipe=lines_strong").method.can.recipe == (
        "lines_strong"
    )
    with pytest.raises(ValueError, match="recipe=a.b: mae takes one name$"):
        build("pretrain/mae", "preset=cpu,can,recipe=a+b")


def test_a_reader_goes_on_with_its_own_head_and_characters(finetuned, tmp_path):
    """Whatever finetune would build, it is the reader of init_from that is trained on."""
    source = str(finetuned[0])  # its head has 16 units, finetune's own would have 160
    wide = build("recognize/finetune", "reader,labels=2")
    assert wide.method.heads is None and {"method.heads", "method.frames"} <= {*wide.inherit}
    with pytest.raises(ValueError, match="reader takes over a whole recogniser"):
        build("recognize/finetune", "reader,decoder=attention")
    with pytest.raises(ValueError, match="shortcut=-2: give 0 for none"):
        build("recognize/finetune", "shortcut=-2")
    state, values = run_quick("recognize/finetune", "reader,labels=2", tmp_path, init_from=source)
    theirs, ours = (checkpoint.read_config(path) for path in (source, str(tmp_path)))
    assert ours["method"]["heads"] == theirs["method"]["heads"]
    old = json.loads((finetuned[0] / "charset.json").read_text())["chars"]
    assert json.loads((tmp_path / "charset.json").read_text())["chars"].startswith(old)
    check_recogniser(tmp_path, state, values)


def test_a_student_has_the_encoder_and_the_pictures_of_its_fixed_teacher(pretrained, tmp_path):
    source = str(pretrained[0])
    config = command_line.complete(build("pretrain/latent", f"preset=cpu,teacher={source},quick"))
    config.unlock()
    config.update_from_flattened_dict({"mesh.data": 1, "data.width_px": 64})
    config.data.train = checkpoint.read_config(source)["data"]["train"]
    if "probe" in config.evals:
        del config.evals.probe
    state = train.run(config, str(tmp_path))
    assert toy.same(state.teacher["encoder"], pretrained[1].params["encoder"])
    assert {"data.height_px", "data.channels", "data.contrast"} <= set(config.inherit)
    theirs, ours = (checkpoint.read_config(path) for path in (source, str(tmp_path)))
    assert ours["method"]["encoder"]["width"] == theirs["method"]["encoder"]["width"]
    for name in ("height_px", "channels", "contrast"):
        assert ours["data"][name] == theirs["data"][name]


def test_a_recipe_may_be_named():
    build_method = lambda file, arg: build(f"pretrain/{file}", f"preset=words,{arg}").method
    assert build_method("moco", "recipe=simclr").recipe == "simclr"
    assert build_method("mocov3", "").recipes == ("mocov3_1", "mocov3_2")
    assert build_method("mocov3", "recipe=dig").recipes == ("dig", "dig")
    assert build_method("mocov3", "recipe=dig+lines_light").recipes == ("dig", "lines_light")
    for file, arg, sentence in (
        ("ssm", "recipe=dig", "recipe=dig: ssm augments by no recipe"),
        ("moco", "recipe=dig+dig", r"recipe=dig\+dig: moco takes one name$"),
        ("mocov3", "recipe=dig+dig+dig", r"mocov3 takes one name, or two as A\+B"),
    ):
        with pytest.raises(ValueError, match=sentence):
            build_method(file, arg)


def test_quick_shortens_the_light_probe():
    """As it is, it takes minutes on the records of a real project."""
    probe = build("pretrain/dig", "preset=cpu,probe=records/a,quick").evals.probe
    assert probe.to_dict() == {
        **{"every_steps": 0, "sets": "records/a", "steps": 2, "rates": (0.01,)},
        **{"train_lines": 16, "eval_lines": 16},
    }
    assert "probe" not in build("pretrain/dig", "preset=cpu,probe=none,quick").evals


def test_quick_has_a_toy_of_every_encoder():
    """Of the height and the columns that its size reads."""
    for size in sorted(encoders.SIZES):
        config = build("recognize/scratch", f"size={size},patch=8x4,quick")
        toy, full = config.method.encoder, build("recognize/scratch", f"size={size},patch=8x4")
        assert encoders.column_px(toy) == encoders.column_px(full.method.encoder), size
        assert config.data.height_px == common.height_of(size), size


def test_every_contrast_states_how_far_text_may_go_sideways():
    """Pixels, in each view; only the official DiG and SSM know no bound. CCD's views follow one
    map, so nothing is apart, and the windows of the pretext tasks are never compared place by
    place."""
    bound = {}
    for file, module in METHODS.items():
        for preset in module.PRESETS:
            method = build(file, f"preset={preset}").method
            if "max_shift_px" in method or {"recipe", "recipes"} & set(method):
                bound.setdefault(method.name, {})[preset] = method.get("max_shift_px", "not stated")
    silent = {name for name, presets in bound.items() if "not stated" in presets.values()}
    assert silent == {"ccd", "jigsaw", "relative_position"}
    bound = {name: presets for name, presets in bound.items() if name not in silent}
    free = {
        (name, preset)
        for name, presets in bound.items()
        for preset, px in presets.items()
        if px is None
    }
    assert free == {("dig", "words"), ("dig", "words_paper"), ("ssm", "words")}
    assert all(
        0 < px <= 8 for presets in bound.values() for px in presets.values() if px is not None
    )


@pytest.mark.parametrize("file", FILES)
def test_every_config_refuses_an_argument_that_it_lacks(file):
    with pytest.raises(ValueError, match="no argument 'recods': did you mean 'records'"):
        build(file, "recods")


@pytest.mark.parametrize(
    ("file", "arg", "words"),
    [
        *(
            ("recognize/probe", f"rates={text}", "rates has .* give numbers above 0")
            for text in ("abc", "0", "-1e-3", "nan", "inf", "1e-400", "1e400", "1e-3+", "1e-3+0")
        ),
        ("recognize/probe", "steps=-1", "steps=-1: give 0 or more"),
        ("recognize/finetune", "steps=-3", "steps=-3: give 0 or more"),
        ("recognize/probe", "decoder=glimpse,head=linear", "head=linear: decoder=glimpse has no"),
        ("recognize/scratch", "decoder=attention,head=bilstm", "head=bilstm: decoder=attention"),
        ("recognize/scratch", "shape_from=x,size=T,height=64", "size=T, height=64: the encoder is"),
        ("recognize/probe", "patch=4x4,shape_from=x", "patch=4x4: the encoder is that of shape"),
        ("recognize/finetune", "reader,head=linear", "head=linear: reader takes over a whole"),
        ("recognize/finetune", "reader,preset=dig", "preset=dig: reader takes over a whole"),
        ("recognize/finetune", "reader,teacher,block=2", "teacher, block=2: reader takes over"),
        ("pretrain/latent", "teacher=x,target=ema", "target=ema: teacher= is the target"),
    ],
)
def test_an_argument_that_is_wrong_or_would_change_nothing_is_refused(file, arg, words):
    with pytest.raises(ValueError, match=words):
        build(file, arg)


@pytest.mark.parametrize("file", ["probe", "finetune", "scratch"])
def test_readers_and_label_subsets(file):
    for arg in ("head=lstm", "decoder=rnn"):
        with pytest.raises(ValueError, match=r"one of decoder=ctc, .* one of head=linear, bilstm"):
            build(f"recognize/{file}", arg)
    subsets = [
        build(f"recognize/{file}", arg).data.subset for arg in ("labels=0.1", "labels=340", None)
    ]
    assert subsets == [0.1, 340, None] and [type(subset) for subset in subsets[:2]] == [float, int]
