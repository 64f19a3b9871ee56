"""What probe, fine-tune, scratch and evaluate state, and how their arguments become config."""

import importlib

import jax.numpy as jnp
import pytest

from dig_jax.configs import common
from dig_jax.train import command_line, experiment, param_groups


def build(name, arg=None):
    """The config with all its options, as the command line has it."""
    return command_line.complete(
        importlib.import_module(f"dig_jax.configs.recognize.{name}").get_config(arg)
    )


@pytest.mark.parametrize("name", ["finetune", "scratch"])
def test_what_is_taken_over_by_evaluate_is_stated(name):
    taken = importlib.import_module("dig_jax.configs.recognize.evaluate").METHOD
    assert set(taken) <= set(build(name).method) and not build(name).method.frozen
    assert set(taken) <= set(build("probe").method)


@pytest.mark.parametrize("name", ["finetune", "scratch"])
def test_presets_of_a_recogniser_that_trains_as_a_whole(name):
    """strong is the default; plain repeats the tables before it; an argument beats its preset."""
    strong, plain = build(name), build(name, "preset=plain")
    assert (strong.method.recipe, strong.batch_size, strong.optim.lr) == ("lines_strong", 8, 2e-3)
    assert (strong.optim.warmup_steps, strong.optim.min_lr, strong.optim.rules) == (285, 1e-5, ())
    assert (plain.method.recipe, plain.batch_size, plain.optim.lr) == (None, 32, 1e-3)
    assert (plain.optim.b2, plain.optim.clip_norm, plain.optim.rules) == (0.98, 1.0, ())
    assert build(name, "preset=plain,batch=8,head=bilstm").batch_size == 8
    assert strong.method.heads.ctc.layers == 2
    with pytest.raises(ValueError, match="preset=weak: choose one of strong, plain"):
        build(name, "preset=weak")


def test_scratch_stretches_contrast_and_fine_tuning_follows_its_pre_training():
    assert build("scratch").data.contrast == "stretch"
    assert build("scratch", "preset=plain").data.contrast is None is build("finetune").data.contrast
    assert "data.contrast" in build("finetune").inherit


@pytest.mark.parametrize("name", ["finetune", "scratch"])
def test_encoder_rate(name):
    rules = build(name, "preset=plain,encoder_lr=0.1").optim.rules
    params = {part: {"kernel": jnp.ones((2, 2))} for part in ("encoder", "norm", "heads")}
    treated = param_groups.param_groups(params, 0.05, rules, None, 10)
    scales = {part: treated[part]["kernel"].lr_scale for part in params}
    assert scales == {"encoder": 0.1, "norm": 1.0, "heads": 1.0}
    assert all(treated[part]["kernel"].weight_decay == 0.05 for part in params)


def test_start_of_fine_tuning():
    assert build("finetune").init_parts == ("params/encoder",)
    assert build("finetune", "teacher").init_parts == ("teacher/encoder->params/encoder",)


def test_checkpoint_to_evaluate():
    assert [build("evaluate", arg).init_checkpoint for arg in (None, "checkpoint=last")] == [
        "best",
        "last",
    ]
    assert build("finetune").init_checkpoint == "last"
    with pytest.raises(ValueError, match="checkpoint=first: give best or last"):
        build("evaluate", "checkpoint=first")


def test_another_seed_is_another_choice_of_lines_everywhere():
    assert [
        build(name, "seed=3").data.subset_seed for name in ("probe", "finetune", "scratch")
    ] == [3] * 3


@pytest.mark.parametrize("text", ["1", "1e2", "10%", "0", "-3", "some"])
def test_numbers_of_labels_that_say_nothing_clear(text):
    with pytest.raises(ValueError, match=f"labels={text}: give a share such as 0.1"):
        common.label_subset(text)


def test_labels_as_a_share_or_a_number():
    values = [common.label_subset(text) for text in ("", "0.1", "1.0", "100")]
    assert (
        values == [None, 0.1, 1.0, 100]
        and isinstance(values[2], float)
        and isinstance(values[3], int)
    )


def test_everything_that_shapes_encoder_and_data_is_in_the_locked_config():
    from dig_jax.configs.pretrain import dig

    config = command_line.complete(dig.get_config("preset=cpu"))
    config.update_from_flattened_dict(
        {"method.encoder.drop_path": 0.1, "data.max_pixels": 10, "optim.rules": ()}
    )
    assert {"attention", "mlp_ratio"} <= set(config.method.encoder)
    assert {"max_label_length", "multiple_px", "max_pixels"} <= set(build("finetune").data)


def test_batches_of_lines_are_whole_columns_wide():
    """cnn48 has columns of 6 px, so its widths are multiples of 36 and not of 32; so are those of
    its evaluations."""
    for arg, multiple, high in (("", 32, 32), ("size=cnn48", 36, 48), ("size=micro", 32, 32)):
        cfg = experiment.completed(build("scratch", f"records=r,{arg}").to_dict())
        assert (cfg["data"]["multiple_px"], cfg["data"]["height_px"]) == (multiple, high)
        assert experiment.whole_columns(cfg, 32) == multiple
    cfg["method"]["encoder"] |= {"position": "flat_1d", "flat_columns": 50}  # of 4 px
    assert experiment.whole_columns(cfg, 32) == 8  # a line may be 200 px wide, as its positions
