"""The optimiser against AdamW written out in numpy, the schedule point by point, the rules and
their errors.
"""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dig_jax import trees
from dig_jax.train import optim, param_groups

SIZES = {"total_steps": 10, "batch_size": 4}


def tree(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {
        "encoder": {"block_0": {"kernel": draw(3, 4), "bias": draw(4)}},
        "head": {"kernel": draw(4, 2)},
    }


def adamw_by_hand(params, grads_per_step, rates, decay, scale, b1=0.9, b2=0.98, eps=1e-6):
    """p <- p - s lr (m^ / (sqrt(v^) + eps) + w p), one array, float64."""
    p = np.asarray(params, np.float64)
    m = v = np.zeros_like(p)
    for t, (g, lr) in enumerate(zip(grads_per_step, rates), start=1):
        g = np.asarray(g, np.float64)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        direction = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * p
        p = p - scale * lr * direction
    return p


def test_against_adamw_by_hand():
    """Decay on matrices only, the scale multiplies rate and decay, a frozen array does not move."""
    params = tree()
    rules = (("block_0/kernel", {"lr_scale": 0.5}), ("head", {"freeze": True}), (".*", {}))
    optimizer = optim.create(
        params=params, total_steps=6, batch_size=512, lr=0.01, lr_per=256, min_lr=1e-3, warmup_steps=2, b2=0.98,
        eps=1e-6, weight_decay=0.3, rules=rules,
    )  # fmt: skip
    rates = [0.0, 0.02] + [
        1e-3 + 0.5 * (0.02 - 1e-3) * (1 + math.cos(math.pi * i / 4)) for i in range(4)
    ]
    grads = [tree(seed) for seed in range(1, 7)]
    state, new = optimizer.tx.init(params), params
    for g in grads:
        updates, state = optimizer.tx.update(g, state, new)
        new = optax.apply_updates(new, updates)
    block = lambda t, name: t["encoder"]["block_0"][name]
    for name, decay, scale in (("kernel", 0.3, 0.5), ("bias", 0.0, 1.0)):
        expected = adamw_by_hand(
            block(params, name), [block(g, name) for g in grads], rates, decay, scale
        )
        np.testing.assert_allclose(block(new, name), expected, rtol=2e-5, atol=1e-6)
    assert np.array_equal(new["head"]["kernel"], params["head"]["kernel"])
    assert optimizer.trainable == {
        "encoder": {"block_0": {"kernel": True, "bias": True}},
        "head": {"kernel": False},
    }


def test_against_sgd_by_hand():
    """PyTorch's: clipped, then the decay as part of the gradient, then the momentum, which keeps
    old rates out; the rate falls in steps; a stacked array has a rate for each block; what is
    frozen stands still."""

    def stacked(seed):
        blocks = [tree(seed + number)["head"]["kernel"] for number in (50, 70)]
        return {"encoder": {"blocks": {"kernel": jnp.stack(blocks)}}, "head": tree(seed)["head"]}

    params, grads = stacked(0), [stacked(seed) for seed in range(1, 9)]
    rules = (("head", {"freeze": True}), ("", {"weight_decay": 0.2}))
    optimizer = optim.create(
        params=params, total_steps=8, batch_size=512, name="sgd", lr=0.05, lr_per=256, schedule="steps", drops=(0.25, 0.75),
        drop=0.2, momentum=0.8, clip_norm=1.5, layer_decay=0.5, rules=rules,
    )  # fmt: skip
    state, new = optimizer.tx.init(params), params
    for g in grads:
        updates, state = optimizer.tx.update(g, state, new)
        new = optax.apply_updates(new, updates)
    rates = [0.1, 0.1, 0.02, 0.02, 0.02, 0.02, 0.004, 0.004]
    np.testing.assert_allclose([optimizer.schedule(step) for step in range(8)], rates, rtol=1e-6)
    p, v = np.asarray(params["encoder"]["blocks"]["kernel"], np.float64), 0.0
    for step, rate in enumerate(rates):
        g = np.asarray(grads[step]["encoder"]["blocks"]["kernel"], np.float64)
        g = g * min(1.0, 1.5 / np.linalg.norm(g))  # of what trains
        v = 0.8 * v + g + 0.2 * p
        p = p - np.array([0.25, 0.5]).reshape(2, 1, 1) * rate * v
    np.testing.assert_allclose(new["encoder"]["blocks"]["kernel"], p, rtol=2e-5, atol=1e-6)
    assert np.array_equal(new["head"]["kernel"], params["head"]["kernel"])


def test_schedule_points():
    """DiG (methods.md 1.8): linspace(0, base, warmup) with its end included, then cosine to an
    absolute minimum.
    """
    rate = optim.make_schedule(6e-4, 50_000, 5_000, 1e-5, "cosine")
    np.testing.assert_allclose(rate(0), 0.0)
    np.testing.assert_allclose(rate(2_500), 6e-4 * 2_500 / 4_999, rtol=1e-6)
    np.testing.assert_allclose([rate(4_999), rate(5_000)], 6e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(27_500), 1e-5 + 0.5 * 5.9e-4, rtol=1e-5)
    last = 1e-5 + 0.5 * 5.9e-4 * (1 + math.cos(math.pi * 44_999 / 45_000))
    np.testing.assert_allclose(rate(49_999), last, rtol=1e-5)
    one = optim.make_schedule(0.1, 10, 1, 0.0, "constant")  # both ends of one step are the peak
    np.testing.assert_allclose([one(0), one(1)], 0.1, rtol=1e-6)
    flat = optim.make_schedule(0.1, 10, 2, 0.0, "constant")
    np.testing.assert_allclose([flat(0), flat(1), flat(9)], [0.0, 0.1, 0.1], rtol=1e-6)
    assert float(optim.make_schedule(0.1, 10, 0, 0.0, "cosine")(0)) == pytest.approx(0.1)


def test_rate_scales_with_the_global_batch():
    create = lambda **o: optim.create(params=tree(), total_steps=10, lr=1.5e-4, **o).schedule(0)
    assert float(create(batch_size=1024, lr_per=256)) == pytest.approx(6e-4)
    assert float(create(batch_size=1024)) == pytest.approx(1.5e-4)


def test_layer_decay_table():
    """methods.md 15.2: twelve blocks, 0.75."""
    names = [
        "encoder/patch_embed/kernel",
        "encoder/mask_token",
        *(f"encoder/block_{i}/mlp/kernel" for i in range(12)),
    ]
    names += ["encoder/norm/scale", "heads/ctc/kernel"]
    scales = param_groups.layer_scales({n: jnp.zeros((2, 2)) for n in names}, 0.75)
    table = [
        0.0238,
        0.0317,
        0.0422,
        0.0563,
        0.0751,
        0.1001,
        0.1335,
        0.1780,
        0.2373,
        0.3164,
        0.4219,
        0.5625,
        0.75,
        1.0,
    ]
    got = [
        scales["encoder/patch_embed/kernel"],
        *(scales[f"encoder/block_{i}/mlp/kernel"] for i in range(12)),
        scales["heads/ctc/kernel"],
    ]
    np.testing.assert_allclose(got, table, atol=5e-5)
    assert scales["encoder/mask_token"] == got[0] and scales["encoder/norm/scale"] == 1.0
    stacked = {
        "encoder/blocks/mlp/kernel": jnp.zeros((12, 3, 4)),
        "encoder/patch_embed/kernel": jnp.zeros((3, 4)),
    }
    scales = param_groups.layer_scales(stacked, 0.75)
    assert scales["encoder/blocks/mlp/kernel"].shape == (12, 1, 1)
    np.testing.assert_allclose(scales["encoder/blocks/mlp/kernel"].ravel(), table[1:13], atol=5e-5)
    with pytest.raises(ValueError, match="layer_decay"):
        param_groups.layer_scales({"head/kernel": jnp.zeros((2, 2))}, 0.75)


def test_layer_decay_reaches_the_update():
    """Stacked and separate blocks move alike, by their own scale."""
    kernels = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    separate = {"encoder": {f"block_{i}": {"kernel": jnp.asarray(kernels[i])} for i in range(2)}}
    stacked = {"encoder": {"blocks": {"kernel": jnp.asarray(kernels)}}}
    moved = []
    for params in (separate, stacked):
        tx = optim.create(params=params, lr=0.1, weight_decay=0.5, layer_decay=0.5, **SIZES).tx
        moved.append(tx.update(params, tx.init(params), params)[0])
    for i in range(2):
        np.testing.assert_allclose(
            moved[0]["encoder"][f"block_{i}"]["kernel"],
            moved[1]["encoder"]["blocks"]["kernel"][i],
            rtol=1e-6,
        )
    expected = (
        -0.1 * 0.25 * (np.sign(kernels[0]) + 0.5 * kernels[0])
    )  # first step of Adam: the sign
    np.testing.assert_allclose(moved[0]["encoder"]["block_0"]["kernel"], expected, rtol=1e-4)


def test_weight_decay_falls_on_matrices_only():
    """Also where scan gives biases and norms a second dimension, and where a rule says
    otherwise.
    """
    params = {
        "encoder": {
            "blocks": {
                "kernel": jnp.ones((2, 3, 3)),
                "q_bias": jnp.ones((2, 3)),
                "scale": jnp.ones((2, 3)),
            }
        },
        "table": jnp.ones((3, 3)),
        "vector": jnp.ones(3),
        "mask_token": jnp.ones(3),
    }
    found = param_groups.param_groups(
        params,
        0.1,
        (("mask_token", {"weight_decay": 0.2}), (".*", {"weight_decay": None})),
        None,
        10,
    )
    decays = jax.tree.map(lambda t: t.weight_decay, found)
    assert decays["encoder"]["blocks"] == {"kernel": 0.1, "q_bias": 0.0, "scale": 0.0}
    assert (decays["table"], decays["vector"], decays["mask_token"]) == (0.1, 0.0, 0.2)


def test_first_matching_rule_decides():
    found = param_groups.param_groups(
        tree(),
        0.0,
        (("bias", {"lr_scale": 2.0}), ("^encoder", {"lr_scale": 3.0}), (".*", {})),
        None,
        10,
    )
    assert found["encoder"]["block_0"]["bias"].lr_scale == 2.0
    assert found["encoder"]["block_0"]["kernel"].lr_scale == 3.0
    assert found["head"]["kernel"].lr_scale == 1.0


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"rules": (("^encoder", {"freeze": True}),)}, r"1 parameters have no rule.*'head/kernel'"),
        ({"rules": (("^encodr", {"freeze": True}), (".*", {}))}, r"'\^encodr'.*no parameter"),
        ({"rules": ((".*", {}), ("^encoder", {"freeze": True}))}, r"'\^encoder'.*took them all"),
        ({"rules": ((".*", {"frozen": True}),)}, r"'frozen'"),
        ({"warmup_steps": 10}, r"warmup_steps is 10 but the run has 10"),
        ({"min_lr": 1.0}, r"min_lr is 1, above"),
        ({"schedule": "cosin"}, r"'constant' or 'steps'"),
        ({"name": "adam"}, r"'adamw'"),
        ({"clip_norm": 1.0, "clip_norm_each": 1.0}, "both clip_norm and clip_norm_each"),
        ({"weight_decay_end": 0.4}, "weight_decay_end is 0.4 and weight_decay 0"),
        ({"rules": ((".*", {"schedule": "flat"}),)}, r"'constant' or 'steps'"),
    ],
)
def test_mistakes_become_sentences(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        optim.create(params=tree(), lr=0.1, **SIZES, **options)


def test_clipping_sees_only_what_trains():
    """A huge gradient of a frozen array must not shrink the others' steps: seen in Adam's first
    moment.
    """
    params = tree()
    grads = jax.tree.map(jnp.ones_like, params)
    grads["head"]["kernel"] = 1e6 * grads["head"]["kernel"]
    tx = optim.create(
        params=params,
        lr=0.1,
        clip_norm=2.0,
        rules=(("head", {"freeze": True}), (".*", {})),
        **SIZES,
    ).tx
    state = tx.update(grads, tx.init(params), params)[1]
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (3, 4)]
    np.testing.assert_allclose(moments[0], 0.1 * 2.0 / 4.0, rtol=1e-5)  # 16 ones have norm 4


def moved(steps, **options):
    """Parameters after `steps` steps of optim.create under the gradients tree(1), tree(2), ..."""
    tx = optim.create(params=tree(), lr=0.1, schedule="cosine", **{**SIZES, **options}).tx
    params, state = tree(), tx.init(tree())
    for seed in range(1, steps + 1):
        updates, state = tx.update(tree(seed), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_a_rule_may_keep_its_rate_while_the_others_fall():
    """SimSiam's --fix-pred-lr: warm-up alike, then the peak for one and the cosine for the
    others.
    """
    rules = (("head", {"schedule": "constant", "lr_scale": 0.5}), (".*", {}))
    options = {"rules": rules, "warmup_steps": 2, "b2": 0.98, "eps": 1e-6}
    new = moved(6, **options)
    grads = [tree(seed)["head"]["kernel"] for seed in range(1, 7)]
    expected = adamw_by_hand(tree()["head"]["kernel"], grads, [0.0] + [0.1] * 5, 0.0, 0.5)
    np.testing.assert_allclose(new["head"]["kernel"], expected, rtol=2e-5, atol=1e-6)
    usual = moved(6, **{**options, "rules": ()})
    jax.tree.map(np.testing.assert_array_equal, new["encoder"], usual["encoder"])
    text = optim.create(params=tree(), lr=0.1, rules=rules, **SIZES).describe()
    assert "lr x 0.5, weight decay 0, constant rate" in text


def test_weight_decay_may_rise_on_a_cosine():
    """DINO's schedule, by hand; what a rule states rises by the same factor, biases still have
    none.
    """
    rules = (("head", {"weight_decay": 0.02}), (".*", {}))
    new = moved(5, rules=rules, weight_decay=0.04, weight_decay_end=0.4, b2=0.98, eps=1e-6)
    rates = [0.05 * (1 + math.cos(math.pi * i / 10)) for i in range(5)]
    decays = [0.4 - 0.18 * (1 + math.cos(math.pi * i / 10)) for i in range(5)]
    assert decays[0] == pytest.approx(0.04)
    for path, half in (
        ("encoder/block_0/kernel", 1.0),
        ("head/kernel", 0.5),
        ("encoder/block_0/bias", 0.0),
    ):
        p = np.asarray(trees.named_leaves(tree())[path], np.float64)
        m = v = np.zeros_like(p)
        for t in range(1, 6):
            g = np.asarray(trees.named_leaves(tree(t))[path], np.float64)
            m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
            direction = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.98**t)) + 1e-6)
            p = p - rates[t - 1] * (direction + half * decays[t - 1] * p)
        np.testing.assert_allclose(
            trees.named_leaves(new)[path], p, rtol=2e-5, atol=1e-6, err_msg=path
        )
    kept = moved(5, weight_decay=0.04, weight_decay_end=0.04)
    jax.tree.map(np.testing.assert_array_equal, kept, moved(5, weight_decay=0.04))


@pytest.mark.parametrize("power", [0.0, 8.0])
def test_the_average_of_the_weights_goes_beside_those_that_move(power):
    """Shamir and Zhang 2013: x_t = (1 - c) x_(t-1) + c p_t, c = (power + 1) / (power + t). At 0 it
    is the plain mean. The gradients of a step are those of the weights that move."""
    rules = (("bias", {"freeze": True}), ("", {}))
    options = {"params": tree(), "lr": 0.1, "weight_decay": 0.1, "rules": rules, **SIZES}
    plain, both = optim.create(**options), optim.create(**options, average=power)
    params, state = tree(), plain.tx.init(tree())
    other = jax.tree.map(lambda x: x + 1.0, tree())  # what init_from puts in their place
    average, beside = tree(), both.tx.init(other)
    grad = lambda at, t: jax.tree.map(lambda x, g: x * 0.1 + g, at, tree(t))
    seen = []
    for t in range(1, 6):
        moving = both.moving(beside, average)
        jax.tree.map(np.testing.assert_array_equal, moving, params)
        updates, state = plain.tx.update(grad(params, t), state, params)
        params = optax.apply_updates(params, updates)
        nearer, beside = both.tx.update(grad(moving, t), beside, average)
        average = optax.apply_updates(average, nearer)
        seen.append(params)
        if power == 0:
            mean = jax.tree.map(lambda *each: sum(each) / len(each), *seen)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), average, mean)
    by_hand = seen[0]
    for t in range(2, 6):
        share = (power + 1) / (power + t)
        by_hand = jax.tree.map(lambda x, p, c=share: (1 - c) * x + c * p, by_hand, seen[t - 1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), average, by_hand
    )
    kept = average["encoder"]["block_0"]["bias"]
    np.testing.assert_array_equal(kept, tree()["encoder"]["block_0"]["bias"])
    assert plain.moving(state, params) is params


def test_every_array_may_be_clipped_by_its_own_norm():
    """DINO's clip_gradients, seen in Adam's first moment; stacked blocks each by themselves, small
    gradients stay.
    """
    blocks = jnp.stack([jnp.full((2, 2), 5.0), jnp.full((2, 2), 0.1)])
    grads = {"encoder": {"blocks": {"kernel": blocks}}, "head": jnp.full(4, 3.0)}
    tx = optim.create(params=grads, lr=0.1, clip_norm_each=2.0, **SIZES).tx
    state = tx.update(grads, tx.init(grads), grads)[1]
    first = {
        leaf.shape: leaf for leaf in jax.tree.leaves(state)[::-1] if leaf.ndim
    }  # reversed: mu stands before nu
    np.testing.assert_allclose(first[(2, 2, 2)][0], 0.1 * 1.0, rtol=1e-5)  # norm 10 becomes 2
    np.testing.assert_allclose(first[(2, 2, 2)][1], 0.1 * 0.1, rtol=1e-5)
    np.testing.assert_allclose(first[(4,)], 0.1 * 1.0, rtol=1e-5)  # norm 6 becomes 2


def test_description_counts_parameters():
    text = optim.create(
        params=tree(), lr=0.1, rules=(("head", {"freeze": True}), (".*", {})), **SIZES
    ).describe()
    assert "1 arrays            8 parameters  frozen" in text and "lr x 1, weight decay 0" in text


def test_freeze_frac_holds_moments_count_and_decay():
    """PyTorch's AdamW for a parameter whose gradient is None at first, as CCD's prototypes: its
    first step is a first step, while the schedule and the decay's growth have gone on.
    """
    params, grads = tree(0), [tree(seed) for seed in range(1, 9)]
    rules = (("head/kernel", {"freeze_frac": 0.3, "weight_decay": 0.2}), ("", {}))
    optimizer = optim.create(
        params=params, lr=0.05, weight_decay=0.1, weight_decay_end=0.4, rules=rules, total_steps=8,
        batch_size=1,
    )  # fmt: skip
    state, new, history = optimizer.tx.init(params), params, []
    for g in grads:
        updates, state = optimizer.tx.update(g, state, new)
        new = optax.apply_updates(new, updates)
        history.append(new["head"]["kernel"])
    p, mu, nu, count = np.asarray(params["head"]["kernel"], np.float64), 0.0, 0.0, 0
    for step in range(8):
        if step >= 3:  # ceil(0.3 * 8): progress has reached 0.3
            count += 1
            g = np.asarray(grads[step]["head"]["kernel"], np.float64)
            mu, nu = 0.9 * mu + 0.1 * g, 0.999 * nu + 0.001 * g * g
            move = mu / (1 - 0.9**count) / (np.sqrt(nu / (1 - 0.999**count)) + 1e-8)
            rate = 0.05 * 0.5 * (1 + math.cos(math.pi * step / 8))
            decay = 2 * (0.4 - 0.15 * (1 + math.cos(math.pi * step / 8)))
            p = p - rate * (move + decay * p)
        np.testing.assert_allclose(history[step], p, rtol=2e-5, atol=1e-6, err_msg=str(step))
    assert "from step 3" in optimizer.describe()
    with pytest.raises(ValueError, match="freeze_frac.*adamw"):
        optim.create(params=params, name="sgd", lr=0.1, rules=rules, total_steps=8, batch_size=1)


@pytest.mark.parametrize(
    ("config", "preset", "decays"),
    [
        ("ccd", "words", {"projector/scale": 0.04, "projector/prototypes": 0.04}),
        ("ccd", "cpu", {"projector/scale": 0.05, "encoder/norm/scale": 0.0}),
        ("mocov3", "words", {"encoder/norm/scale": 0.1, "projector/bias": 0.1}),
        ("mocov3", "cpu", {"encoder/norm/scale": 0.0, "projector/bias": 0.0}),
        ("simmim", "words_simmim", {"encoder/mask_token": 0.05, "encoder/norm/scale": 0.0}),
        ("dig", "words", {"encoder/mask_token": 0.1, "encoder/norm/scale": 0.0}),
        ("mae", "words_union14m", {"encoder/mask_token": 0.05, "encoder/norm/scale": 0.0}),
    ],
)
def test_what_decays_as_in_the_authors_code(config, preset, decays):
    """Their groups go by the number of dimensions, and tokens and row lengths have two or more."""
    module = importlib.import_module(f"dig_jax.configs.pretrain.{config}")
    options = module.get_config(f"preset={preset}").optim
    vector = jnp.zeros(3)
    params = {
        "encoder": {
            "patch_embed": {"bias": vector},
            "mask_token": vector,
            "norm": {"scale": vector},
        },
        "projector": {"scale": vector, "prototypes": jnp.zeros((3, 3)), "bias": vector},
    }
    groups = param_groups.param_groups(params, options.weight_decay, options.rules, None, 1000)
    groups = trees.named_leaves(groups)
    assert {name: groups[name].weight_decay for name in decays} == decays
    if config == "ccd":
        assert [groups[f"projector/{n}"].start for n in ("scale", "prototypes", "bias")] == [
            10,
            10,
            0,
        ]
