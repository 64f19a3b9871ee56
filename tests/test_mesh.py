"""One loss and one set of gradients on every mesh; every config's state is covered by the rules;
batches in parts.

Nano networks, no augmentation (its tests compare devices themselves), each mesh compiled once.
"""

import functools
import importlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dig_jax import config as build
from dig_jax import sharding
from dig_jax.methods import denoising, dig, recognize, seqclr, simmim
from dig_jax.methods.shared import base
from dig_jax.text import Charset
from dig_jax.train import accumulate, optim
from dig_jax.train import state as states
from dig_jax.train.experiment import completed
from tests import test_configs
from tests.methods import checks, pairs
from tests.tiers import tiers

KEY = jax.random.key(5)
ENCODER = {**pairs.ENCODER, "depth": 2, "scan": True, "remat": True}
ROWS = 16


class Case:
    """A method, its state without an optimiser, and an augmented batch of 16 rows, one of them not
    valid.
    """

    def __init__(self, method, views):
        self.method, self.views = method, views
        made = jax.jit(method.init)(jax.random.key(1), views)
        teacher = checks.shifted(jax.device_get(method.init_teacher(made["params"])))
        self.state = states.TrainState(jnp.int32(0), made["params"], teacher, (), made["mutable"])

    @functools.cache  # noqa: B019  a handful of cases, for the length of the module
    def on(self, sizes=(("data", 1),), parts=1):
        """(loss, metrics, gradients as they lie there), and the program as text."""
        mesh = sharding.make_mesh(dict(sizes))
        shardings = sharding.state_sharding(self.state, mesh)
        rows, everywhere = sharding.batch_sharding(mesh), sharding.everywhere(mesh)

        def loss_and_gradients(state, views):
            params, teacher = sharding.gather(
                (state.params, state.teacher), (shardings.params, shardings.teacher)
            )
            whole = state.replace(params=params, teacher=teacher)
            return accumulate.loss_and_gradients(self.method, whole, views, KEY, 0.0, parts)

        run = jax.jit(
            loss_and_gradients,
            in_shardings=(shardings, rows),
            out_shardings=(everywhere, base.Aux(everywhere, shardings.mutable), shardings.params),
        )
        given = jax.device_put(self.state, shardings), jax.device_put(self.views, rows)
        compiled = run.lower(*given).compile()
        loss, aux, grads = compiled(*given)
        return (loss, aux.metrics, grads), compiled.as_text()


def views():
    made = dict(pairs.batch(ROWS))
    grid = (pairs.HEIGHT // pairs.PATCH[0], pairs.WIDTH // pairs.PATCH[1])
    mask = np.random.default_rng(1).random((ROWS, grid[0] * grid[1])) < 0.5
    return made, {**made, "mask": jnp.asarray(mask)}


@functools.cache
def case(name):
    plain, masked = views()
    if name == "dig":
        widths = {
            "projector_width": 64,
            "projector_dim": 32,
            "pix_projector_width": 32,
            "decoder_width": 48,
        }
        return Case(
            dig.Method(encoder=ENCODER, channels=1, recipe=pairs.BLUR, window_px=16, **widths),
            masked,
        )
    if name == "seqclr":
        return Case(
            seqclr.Method(encoder=ENCODER, channels=1, recipe=pairs.BLUR, window_px=16), plain
        )
    if name in ("gen", "simmim"):
        one = {key: x for key, x in masked.items() if key != "view2"} | {
            "column_offset": masked["column_offset"][:, :1]
        }
        if name == "simmim":
            return Case(simmim.Method(encoder=ENCODER, channels=1), one)
        return Case(dig.Method(encoder=ENCODER, channels=1, objective="gen", decoder_width=48), one)
    if name == "denoising":
        one = {key: plain[key] for key in ("view1", "width", "valid")} | {"target": plain["view2"]}
        return Case(denoising.Method(encoder=ENCODER, channels=1, decoder_width=48), one)
    heads = {"ctc": {"kind": "linear"}}
    lines = {name: plain[name] for name in ("width", "valid")} | {"image": plain["view1"]}
    # Some labels are longer than their line has frames.
    label = np.resize(
        np.array([[1, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], np.int32), (ROWS, 4)
    )
    lines |= {
        "label": jnp.asarray(label),
        "label_length": jnp.asarray((label > 0).sum(1).astype(np.int32)),
    }
    charset, as_they_are = Charset.from_texts(["abc"]), {"standardize": False}
    return Case(
        recognize.Method(charset=charset, encoder=ENCODER, heads=heads, **as_they_are), lines
    )


def agree(found, wanted, rtol=2e-5):
    """Every array equal to rtol of its largest number (or of 1e-3: what only rounding leaves of a
    zero).
    """
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True
    ):
        a, b = np.asarray(a), np.asarray(b)
        scale = max(float(np.abs(b).max()), 1e-3)
        np.testing.assert_allclose(
            a, b, rtol=0, atol=rtol * scale, err_msg=jax.tree_util.keystr(path)
        )


SOME = (("data", 8),), (("data", 1), ("fsdp", 8)), (("data", 2), ("fsdp", 2), ("tensor", 2))
# The same axes, cut otherwise: half of DiG compiles in a third of the time.
MORE = (("data", 2),), (("data", 1), ("fsdp", 4)), (("data", 4), ("tensor", 2))


def name_of(sizes):
    return ",".join(f"{axis}={size}" for axis, size in sizes)


@pytest.mark.parametrize(
    "method, sizes",
    tiers(
        [
            ("recognize", SOME[-1]),
            ("dig", SOME[-1]),
            *(("dig", sizes) for sizes in SOME[:-1]),
            *(("gen", sizes) for sizes in MORE),
            ("seqclr", SOME[-1]),
        ]
    ),
    ids=lambda value: value if isinstance(value, str) else name_of(value),
)
def test_loss_and_gradients_do_not_depend_on_the_mesh(method, sizes):
    found, text = case(method).on(sizes)
    agree(found, case(method).on()[0])
    kernel = found[2]["encoder"]["blocks"]["mlp"]["fc1"][
        "kernel"
    ]  # (2, 32, 128): cut over fsdp and tensor
    shape = {"fsdp": 1, "tensor": 1} | dict(sizes)
    assert kernel.addressable_shards[0].data.shape == (
        2,
        32 // shape["fsdp"],
        128 // shape["tensor"],
    )
    # Parameters travel, never the activations of all rows, here of the encoder: 16 lines, one
    # or two views, 12 tokens.
    assert not re.findall(r"f32\[(?:16|32|16,[12]),12,\d+\]\S* all-gather", text)


# ---- parts


@pytest.mark.parametrize(
    "method, parts, sizes",
    tiers(
        [
            ("recognize", 2, (("data", 1),)),
            ("recognize", 4, SOME[-1]),
            *((name, 4, (("data", 1),)) for name in ("gen", "simmim", "denoising")),
        ]
    ),
)
def test_parts_of_a_batch_are_the_batch(method, parts, sizes):
    """Of lines that fit their frames, of hidden and of real pixels, the parts hold different
    numbers.
    """
    made = case(method)
    cut = accumulate.microbatches(made.views, parts)
    assert len(set(cut["valid"].sum(1).tolist())) > 1
    pixels = (cut["width"] * cut["valid"]).sum(1) / cut["valid"].sum(1)
    assert pixels.max() > 1.2 * pixels.min() or parts == 2
    (loss, metrics, grads), (whole, wanted, whole_grads) = made.on(sizes, parts)[0], made.on()[0]
    metrics, wanted = (
        {k: v for k, v in x.items() if k != "infeasible_frac"} for x in (metrics, wanted)
    )  # of other lines
    agree((loss, metrics, grads), (whole, wanted, whole_grads))


def test_parts_keep_the_rows_of_a_line_together_and_on_their_device():
    halves = jnp.arange(32)  # two rows of each of 16 lines, next to each other
    cut = accumulate.microbatches({"valid": jnp.arange(16), "halves": halves}, 4)
    assert cut["valid"].tolist() == [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]
    assert cut["halves"][1].tolist() == [2, 3, 10, 11, 18, 19, 26, 27]
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2})
    rows = sharding.batch_sharding(mesh)
    parts = jax.sharding.NamedSharding(mesh, P(None, ("data", "fsdp")))
    compiled = jax.jit(
        functools.partial(accumulate.microbatches, count=4), in_shardings=rows, out_shardings=parts
    )
    text = compiled.lower({"valid": jnp.arange(16), "halves": halves}).compile().as_text()
    assert not re.findall(r"all-to-all|all-gather|collective-permute|all-reduce", text)
    with pytest.raises(ValueError, match=r"do not divide into 3 parts: set config.accumulate"):
        accumulate.microbatches({"valid": jnp.arange(16)}, 3)


@pytest.mark.slow
def test_lines_that_meet_each_other_are_not_cut():
    accumulate.check(1, case("dig").method)
    accumulate.check(4, case("recognize").method)
    with pytest.raises(ValueError, match=r"config.accumulate is 4.*contrast, batch norm"):
        accumulate.check(4, case("dig").method)


# ---- every config

CASES = [(file, arg) for file, arg in test_configs.CASES if file.startswith("pretrain/")]
CASES += [("recognize/scratch", "")]
# The cpu preset of each method runs in tests/test_configs.py.
FIRST = [("pretrain/dig", "preset=words"), ("recognize/scratch", "")]


@pytest.mark.parametrize(
    "file, arg", tiers([*FIRST, *(case for case in CASES if case not in FIRST)], len(FIRST))
)
def test_every_preset_has_a_loss_and_rules_that_cover_its_state(file, arg):
    """No leaf without a rule, and most of the bytes are cut; who says that parts add up has no
    batch norm.
    """
    module = importlib.import_module(f"dig_jax.configs.{file.replace('/', '.')}")
    cfg = completed(module.get_config(f"{arg},records=r,quick".lstrip(",")).to_dict())
    charset = Charset.from_texts(["abc"]) if file.startswith("recognize") else None
    method = build.method(cfg["method"], charset, cfg["method"]["encoder"])
    shape = (8, cfg["data"]["height_px"], cfg["data"].get("width_px", 64), cfg["data"]["channels"])
    raw = {
        "image": jnp.zeros(shape, jnp.uint8),
        "width": jnp.full(8, shape[2]),
        "valid": jnp.ones(8, bool),
    }
    raw |= {"label": jnp.ones((8, 3), jnp.int32), "label_length": jnp.full(8, 3)} if charset else {}

    views = jax.eval_shape(method.augment, KEY, raw)
    made = jax.eval_shape(method.init, KEY, views)
    tx = build.call(
        optim.create,
        "config.optim",
        cfg["optim"],
        params=made["params"],
        total_steps=10**6,
        batch_size=8,
    ).tx

    def create(views, made):
        state = states.create(method, tx, made)
        return state, method.loss(state.params, state, views, KEY, 0.5)

    state, (loss, aux) = jax.eval_shape(create, views, made)
    assert loss.shape == () and all(figure.shape == () for figure in aux.metrics.values())
    assert jax.tree.structure(aux.mutable) == jax.tree.structure(state.mutable)
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    pairs_of = list(
        zip(
            jax.tree.leaves(state),
            jax.tree.leaves(sharding.state_sharding(state, mesh)),
            strict=True,
        )
    )
    total = sum(leaf.size for leaf, _ in pairs_of)
    here = sum(math.prod(cut.shard_shape(leaf.shape)) for leaf, cut in pairs_of)
    queue = sum(leaf.size for leaf in jax.tree.leaves(state.mutable))  # lies whole on every device
    assert here - queue < 0.35 * (total - queue)
    names = [
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.params)
    ]
    assert not method.loss_is_mean or not [name for name in names if re.search(r"\['norm_\d", name)]
