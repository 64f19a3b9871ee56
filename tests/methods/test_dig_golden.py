"""One step of DiG against the numbers of the official PyTorch network (float64), loaded weight by
weight.

Differences of form: tokens run column by column here and row by row there (a permutation), the
position code is the official flat one, kernels are stored transposed. `golden.py` says how the
numbers are stored.
"""

from __future__ import annotations

import json
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.methods import dig
from tests.methods import golden

PATH = pathlib.Path(__file__).parents[1] / "data" / "dig_golden.npz"
STUDENT = {
    "encoder": "encoder",
    "projector": "encoder_projection_layer",
    "predictor": "predictor",
    "pix_projector": "pix_projector",
    "pix_decoder": "pix_decoder",
}
TEACHER = {
    "encoder": "momentum_encoder",
    "projector": "momentum_projection_layer",
    "pix_projector": "pix_projector_m",
}


def _official_name(part: str, path: tuple[str, ...]) -> str:
    """Name inside a part of the official network for one of our parameters, as ("block_0", "norm1",
    "scale").
    """
    leaf = {"kernel": "weight", "scale": "weight"}.get(path[-1], path[-1])
    if part == "encoder":
        head = path[0].replace("block_", "blocks.")
        head = "patch_embed.proj" if head == "patch_embed" else head
        return ".".join([head, *path[1:-1], leaf]) if len(path) > 1 else leaf
    if part == "pix_decoder":
        place = {"dense_0": 0, "dense_1": 1, "norm": 2, "dense_2": 4}[path[0]]
    else:  # dense, norm, ReLU, dense, norm, ReLU, dense, norm
        kind, number = path[0].split("_")
        place = 3 * int(number) + (kind == "norm")
    return f"{place}.{leaf}"


def _to_official(tree, names: dict[str, str], patch_shape) -> dict[str, np.ndarray]:
    """Our parameters (or gradients) under the official names, in the official layout."""
    out = {}
    for keys, value in jax.tree_util.tree_leaves_with_path(tree):
        part, *path = (key.key for key in keys)
        value = np.asarray(value)
        if path[-2:] == ["patch_embed", "kernel"]:
            value = value.reshape(*patch_shape, -1).transpose(
                3, 2, 0, 1
            )  # (ph, pw, C, D) -> (D, C, ph, pw)
        elif path[-1] == "kernel":
            value = value.T
        elif path[-1] == "mask_token":
            value = value[None, None]
        out[f"{names[part]}.{_official_name(part, tuple(path))}"] = value
    return out


def _from_official(numbers, group, template, names, patch_shape):
    """The official numbers of a group ("start") in a tree shaped like ours. Every name of a part
    must be used.
    """
    used = set()

    def pick(keys, leaf):
        part, *path = (key.key for key in keys)
        name = f"{group}/{names[part]}.{_official_name(part, tuple(path))}"
        value = numbers[name]
        used.add(name)
        if path[-2:] == ["patch_embed", "kernel"]:
            value = value.transpose(2, 3, 1, 0).reshape(leaf.shape)
        elif path[-1] == "kernel":
            value = value.T
        assert value.size == leaf.size, name
        return jnp.asarray(value.reshape(leaf.shape))

    tree = jax.tree_util.tree_map_with_path(pick, template)
    prefixes = tuple(f"{group}/{name}." for name in names.values())
    assert used == {name for name in numbers if name.startswith(prefixes)}
    return tree


def _reading_order(tokens: np.ndarray) -> np.ndarray:
    """[B, 256, ...] row by row -> column by column."""
    return np.swapaxes(tokens.reshape(tokens.shape[0], 8, 32, *tokens.shape[2:]), 1, 2).reshape(
        tokens.shape
    )


@pytest.fixture(scope="module")
def step():
    """One official step through our method: everything the tests compare."""
    numbers = golden.unpack(PATH)
    config = json.loads(str(numbers["config"]))
    patch = (config["patch_size"],) * 2
    method = dig.Method(
        encoder={
            "patch": patch,
            "width": config["encoder_embed_dim"],
            "depth": config["encoder_depth"],
            "heads": config["encoder_num_heads"],
            "position": "flat_1d",
            "dtype": "float32",
        },
        channels=3,
        temperature=config["T"],
        momentum=config["momentum"],
        window_px=config["img_size"][1] // config["num_windows"],
        projector_width=config["mlp_dim"],
        projector_dim=config["dim"],
        decoder_width=config["decoder_embed_dim"],
        weight_pixel=config["weights"]["pixel"],
        weight_contrast=config["weights"]["contrast"],
    )
    lines = len(numbers["image"])
    batch = {
        "view1": jnp.asarray(numbers["image"].transpose(0, 2, 3, 1)),
        "view2": jnp.asarray(numbers["aug_image"].transpose(0, 2, 3, 1)),
        "mask": jnp.asarray(_reading_order(numbers["mask"])),
        "width": jnp.full((lines,), config["img_size"][1], jnp.int32),
        "valid": jnp.ones((lines,), bool),
    }
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), batch))["params"]
    patch_shape = (*patch, 3)
    params = _from_official(numbers, "start", shapes, STUDENT, patch_shape)
    teacher = _from_official(numbers, "start", method.init_teacher(shapes), TEACHER, patch_shape)

    def one_step(params, teacher):
        teacher = method.update_teacher(
            teacher, params, jnp.float32(0)
        )  # progress 0: m is the start value
        state = types.SimpleNamespace(teacher=teacher, mutable={})
        (loss, aux), grads = jax.value_and_grad(method.loss, has_aux=True)(
            params, state, batch, jax.random.key(0), 0.0
        )
        features = method.network.apply({"params": params}, batch, method=dig.Network.encode_views)[
            :, 0
        ]
        return loss, aux.metrics, grads, teacher, features

    loss, metrics, grads, teacher, features = jax.jit(one_step)(params, teacher)
    return types.SimpleNamespace(
        numbers=numbers,
        loss=loss,
        metrics=metrics,
        features=np.asarray(features),
        grads=_to_official(grads, STUDENT, patch_shape),
        teacher=_to_official(teacher, TEACHER, patch_shape),
    )


def test_losses_agree_to_1e_minus_5(step):
    for name, ours in {
        "loss_pixel": step.metrics["pixel"],
        "loss_contrast": step.metrics["contrast"],
        "loss": step.loss,
    }.items():
        official = float(step.numbers[name])
        print(
            f"{name}: official {official:.9f}, off by {abs(float(ours) / official - 1):.1e} of it"
        )
        np.testing.assert_allclose(float(ours), official, rtol=1e-5, err_msg=name)


def test_every_gradient_agrees_to_1e_minus_4_of_its_largest_value(step):
    official = {name[5:]: value for name, value in step.numbers.items() if name.startswith("grad/")}
    assert official.keys() == step.grads.keys()
    off = {}
    for name, value in official.items():
        assert value.shape == step.grads[name].shape, name
        off[name] = float(np.abs(step.grads[name] - value).max() / np.abs(value).max())
    worst = max(off, key=off.get)
    print(f"{len(off)} gradients, worst {worst}: {off[worst]:.1e} of its largest value")
    assert off[worst] <= 1e-4, worst


def test_the_teacher_after_the_step_agrees(step):
    official = {
        name[14:]: value
        for name, value in step.numbers.items()
        if name.startswith("teacher_after/")
    }
    assert official.keys() == step.teacher.keys()
    off = {
        name: float(
            np.abs(golden.teacher_sample(step.teacher[name]) - value).max() / np.abs(value).max()
        )
        for name, value in official.items()
        if np.abs(value).max() > 0
    }
    worst = max(off, key=off.get)
    print(f"{len(off)} arrays of the teacher, worst {worst}: {off[worst]:.1e}")
    assert off[worst] <= 1e-6, worst


def test_features_of_the_masked_view_agree(step):
    official = _reading_order(step.numbers["features_masked_view"])
    off = float(np.abs(step.features - official).max() / np.abs(official).max())
    print(f"features off by {off:.1e} of the largest")
    assert off <= 5e-5  # 1.5e-5 of it is how the numbers are stored
