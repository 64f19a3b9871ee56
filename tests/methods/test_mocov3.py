"""MoCo v3: the loss against numpy and the reference, batch norms view by view, the teacher, the
frozen embedding.
"""

import math
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax import trees
from dig_jax.configs.pretrain import dig as dig_config
from dig_jax.configs.pretrain import mocov3 as config
from dig_jax.methods import dig, mocov3
from dig_jax.train import param_groups
from tests.methods import pairs


def make(**changes):
    recipe = changes.pop("recipe", pairs.BLUR)
    small = {
        "projector_width": 28,
        "projector_dim": 16,
        "predictor_width": 20,
        "recipes": (recipe, recipe),
    }
    return mocov3.Method(**{"encoder": pairs.ENCODER, "channels": 1, **small, **changes})


@pytest.fixture(scope="module")
def case():
    return pairs.Case(make(window_px=16))


def slow_ctr(q, k, temperature):
    """2T * mean_i -log( exp(q_i.k_i / T) / sum_j exp(q_i.k_j / T) ), and how often its own key is
    nearest.
    """
    scores = pairs.unit(q) @ pairs.unit(k).T / temperature
    terms = [pairs.cross_entropy(list(row), i) for i, row in enumerate(scores)]
    return 2 * temperature * np.mean(terms), np.mean(scores.argmax(1) == np.arange(len(q)))


def test_loss_equals_the_slow_loop(case):
    """Windows of 16 px; every batch norm sees one view, the teacher has no predictor."""
    params, teacher, _ = case.state
    q, k = [], []
    for view in (0, 1):
        z = pairs.mlp(params["projector"], case.means(params, view, 16), True, True)
        q.append(pairs.mlp(params["predictor"], z, True, True))
        k.append(pairs.mlp(teacher["projector"], case.means(teacher, view, 16), True, True))
    assert len(q[0]) == 15 and set(params["projector"]) == {
        "dense_0",
        "norm_0",
        "dense_1",
        "norm_1",
        "dense_2",
    }
    (one, top_one), (two, top_two) = slow_ctr(q[0], k[1], 0.2), slow_ctr(q[1], k[0], 0.2)
    np.testing.assert_allclose(case.out["loss"], one + two, rtol=2e-4)
    expected = {
        "contrast": one + two,
        "top1": (top_one + top_two) / 2,
        "q_std": pairs.spread(np.concatenate(q)),
    }
    assert set(case.out["metrics"]) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(case.out["metrics"][name], value, rtol=2e-4, err_msg=name)


@pytest.mark.parametrize("chunk", [None, 7])
def test_loss_and_gradients_equal_the_reference(chunk):
    """The official one-directional loss, float64, in both directions: keys take no gradient."""
    q, k, value, grad_q = pairs.golden("q", "k", "info_nce", "info_nce_grad_q")
    method = make(loss_chunk=chunk)
    both = lambda x: jnp.stack([x, x], axis=1)[:, :, None]
    real = jnp.ones((24, 2, 1), bool)
    method.network = pairs.Given(
        lambda p: (both(p["q"]), None, real) if "q" in p else (both(p["k"]), real)
    )

    def loss(params, teacher):
        return method.loss(
            params, types.SimpleNamespace(teacher=teacher, mutable={}), {}, None, 0.0
        )[0]

    loss, (grads, teacher) = jax.jit(jax.value_and_grad(loss, (0, 1)))({"q": q}, {"k": k})
    np.testing.assert_allclose(loss, 2 * value, rtol=1e-5)
    pairs.same(grads["q"], 2 * grad_q, rtol=1e-4)
    assert (teacher["k"] == 0).all()


@pytest.mark.slow
def test_loss_starts_where_chance_puts_it():
    """Unrelated queries and keys: 4T ln M, top-1 near chance."""
    method = make()
    q, k = jax.random.normal(jax.random.key(0), (2, 256, 2, 1, 256))
    real = jnp.ones((256, 2, 1), bool)
    method.network = pairs.Given(lambda p: (q, None, real) if p else (k, real))
    params = {"encoder": {"patch_embed": {}}}
    state = types.SimpleNamespace(teacher={}, mutable={})
    loss, aux = jax.jit(lambda: method.loss(params, state, {}, None, 0.0))()
    np.testing.assert_allclose(loss, 4 * 0.2 * math.log(256), rtol=0.02)
    assert aux.metrics["top1"] < 0.03


# ---- what takes no gradient ----


def test_every_parameter_learns(case):
    """The patch embedding is frozen by a rule of the optimiser, not by its gradient."""
    pairs.prove_parameters_learn(case)


def test_the_rule_of_the_config_freezes_the_patch_embedding(case):
    """Weight decay and moments, too; without freezing there is no rule."""
    options = config.get_config("preset=cpu").to_dict()
    treatments = param_groups.param_groups(
        case.params, options["optim"]["weight_decay"], options["optim"]["rules"], None, 10
    )
    for path, treatment in trees.named_leaves(treatments).items():
        assert treatment.freeze == path.startswith("encoder/patch_embed/"), path
    for other in ("freeze_patch_embed=false", "size=cnn48_lstm"):  # a CNN has none
        assert not config.get_config(f"preset=cpu,{other}").optim.rules


def test_what_stands_above_a_block_cannot_be_frozen_in_scanned_blocks():
    with pytest.raises(ValueError, match="the blocks are scanned, .*encoder.scan=False"):
        make(encoder={**pairs.ENCODER, "depth": 2, "scan": True}, block=1)


@pytest.mark.slow
def test_a_contrast_on_a_middle_block_is_that_of_an_encoder_that_ends_there():
    """block=1 of 2, against an encoder of one block without a last norm; what stands above it takes
    no gradient, and the config's rules freeze it at any depth."""
    deep = {**pairs.ENCODER, "depth": 2}
    case = pairs.Case(make(encoder=deep, block=1, window_px=16))
    short = make(encoder={**pairs.ENCODER, "final_norm": False}, window_px=16)
    keep = lambda params: (
        params
        | {"encoder": {n: x for n, x in params["encoder"].items() if n not in ("block_1", "norm")}}
    )
    params, teacher, mutable = case.state
    gen = dig.Method(encoder=deep, channels=1, objective="gen")
    made = gen.augment(jax.random.key(0), pairs.raw())
    theirs = jax.eval_shape(gen.init, jax.random.key(0), made)["params"]["encoder"]
    assert jax.tree.map(jnp.shape, params["encoder"]) == jax.tree.map(lambda x: x.shape, theirs)
    out = pairs.stepper(short)(keep(params), keep(teacher), mutable, case.batch)
    pick = lambda out: (out["loss"], out["metrics"], keep(out["grads"]["params"]))
    pairs.same(jax.device_get(pick(out)), pick(case.out))
    pairs.prove_parameters_learn(case, but=("encoder/block_1", "encoder/norm"))

    options = config.get_config("preset=cpu,block=1,layer_decay=0.5").to_dict()
    assert options["method"]["block"] == "1" and options["optim"]["layer_decay"] == 0.5
    groups = param_groups.param_groups(params, 0.05, options["optim"]["rules"], 0.5, 10)
    for path, group in trees.named_leaves(groups).items():
        above = path.startswith(("encoder/block_1/", "encoder/norm/"))
        assert group.freeze == (above or path.startswith("encoder/patch_embed/")), path
        if path.startswith("encoder/block_0/"):
            assert group.lr_scale == 0.5  # the block that is read, as the highest of all
    eleven = dig_config.get_config("preset=cpu,objective=dis,block=11").optim.rules[0][0]
    above = [i for i in range(13) if re.search(eleven, f"encoder/block_{i}/mlp/fc1/kernel")]
    assert above == [11, 12] and re.search(eleven, "encoder/norm/scale")


def test_teacher_gets_no_gradient_and_follows_the_cosine(case):
    params, teacher, _ = case.state
    assert set(teacher) == {"encoder", "projector"} and set(params) == {
        "encoder",
        "projector",
        "predictor",
    }
    assert all((grad == 0).all() for grad in jax.tree.leaves(case.out["grads"]["teacher"]))
    for progress, momentum in ((0.0, 0.99), (0.5, 0.995), (1.0, 1.0)):
        moved = case.method.update_teacher(teacher, params, jnp.float32(progress))
        student = {name: params[name] for name in teacher}
        blend = lambda xi, theta, m=momentum: m * xi + (1 - m) * theta
        expected = jax.tree.map(blend, teacher, student)
        pairs.same(moved, expected, rtol=1e-6)
        np.testing.assert_allclose(
            case.method.schedules(jnp.float32(progress))["teacher_momentum"], momentum, rtol=1e-6
        )


def test_nothing_passes_through_padding_or_rows_that_are_not_valid(case):
    pairs.prove_no_gradient_through_padding(case)
    pairs.prove_padding_does_not_matter(case)


@pytest.mark.slow
def test_loss_does_not_move_when_padding_grows_rows_fill_up_and_devices_share_them(case):
    pairs.prove_growth_and_devices_do_not_matter(case)


def test_augment_encode_and_sentences(case):
    pairs.prove_augment(make)
    pairs.prove_encode(make)
    assert "norm" in case.params["encoder"]  # the official encoder keeps its final norm
    pairs.prove_sentences(
        make,
        [
            ({"recipes": "dig"}, "recipes is 'dig'.*method.recipes to a pair"),
            ({"recipes": ("dig",)}, r"recipes is \('dig',\).*a pair"),
            ({"recipes": ("dig", "digg")}, "recipe is 'digg'"),
            ({"projector_dim": 0}, "projector_dim is 0.*method.projector_dim to 1 or more"),
            ({"momentum": -0.1}, r"momentum is -0\.1.*method.momentum"),
            ({"block": 2}, "config.method.block is 2: set it to 'last' or a number from 1 to 1"),
            ({"block": 1, "encoder": pairs.CNN}, "method.block is 1, and only a ViT has blocks"),
        ],
    )


@pytest.mark.slow
def test_a_cnn_learns():
    pairs.prove_a_cnn_learns(make)
