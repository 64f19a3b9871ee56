"""What the tests of the methods that compare two views share: batches, one jitted step, proofs, and
numpy oracles.

The oracles start from the encoder's tokens and know only of real rows and columns; everything
behind it is written anew, in float64, from the papers' equations.
"""

from __future__ import annotations

import functools
import math
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dig_jax.augment import views
from tests.methods import checks

PATCH, HEIGHT, WIDTH = (8, 8), 16, 48
ENCODER = {"patch": PATCH, "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}
BLUR = views.only("blur", sigma=(0.5, 1.5))  # quick to compile; the recipes have tests of their own
GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "contrast_golden.npz"


def batch(rows=8, width_px=WIDTH, seed=0):
    """An augmented batch: unrelated noise for views, every kind of width, one row that is not
    valid, other first columns.
    """
    rng = np.random.default_rng(seed)
    made = {
        name: rng.uniform(-1, 1, (rows, HEIGHT, width_px, 1)).astype(np.float32)
        for name in ("view1", "view2")
    }
    made["width"] = np.resize(np.array([width_px, 37, 24, 9, 40, 1, width_px, 17], np.int32), rows)
    made["valid"] = np.arange(rows) != 4
    made["column_offset"] = rng.integers(0, 6, (rows, 2)).astype(np.int32)
    return jax.tree.map(jnp.asarray, made)


def raw(rows=4):
    """A raw batch of noise in one channel, the last line half as wide."""
    image = np.random.default_rng(0).integers(0, 256, (rows, HEIGHT, WIDTH, 1), np.uint8)
    width = np.full(rows, WIDTH, np.int32)
    width[-1] //= 2
    return jax.tree.map(jnp.asarray, {"image": image, "width": width, "valid": np.ones(rows, bool)})


def start(method, given):
    """(params, teacher or None, mutable); the teacher differs from the student."""
    made = jax.jit(method.init)(jax.random.key(1), given)
    teacher = method.init_teacher(made["params"])
    if teacher is not None:
        teacher = checks.shifted(jax.device_get(teacher))
    return made["params"], teacher, made["mutable"]


def stepper(method):
    """jitted (params, teacher, mutable, batch) -> {"loss", "metrics", "mutable", "grads": of
    params, teacher and views}.
    """

    def loss(params, teacher, images, mutable, given):
        state = types.SimpleNamespace(teacher=teacher, mutable=mutable)
        return method.loss(params, state, {**given, **images}, jax.random.key(5), 0.0)

    @jax.jit
    def step(params, teacher, mutable, given):
        images = {name: given[name] for name in ("view1", "view2")}
        (value, aux), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
            params, teacher, images, mutable, given
        )
        grads = dict(zip(("params", "teacher", "views"), grads))
        return {"loss": value, "metrics": aux.metrics, "mutable": aux.mutable, "grads": grads}

    return step


class Case:
    """A method, its state, a batch, and one step of it; `step` compiles once for all tests that
    keep the shapes.
    """

    def __init__(self, method, **more):
        """more: what the method's `augment` adds to the views."""
        self.method, self.batch, self.step = method, batch() | more, stepper(method)
        self.state = start(method, self.batch)
        self.out = jax.device_get(self.step(*self.state, self.batch))
        self.params = self.state[0]
        self.encode = jax.jit(lambda p, *given: method.encoder.apply({"params": p}, *given))
        self.valid, self.width = np.asarray(self.batch["valid"]), np.asarray(self.batch["width"])

    def tokens(self, params, view):
        """The encoder's tokens of view 0 or 1, numpy [B,N,D]."""
        image, offset = self.batch[f"view{view + 1}"], self.batch["column_offset"][:, view]
        return np.asarray(self.encode(params["encoder"], image, self.batch["width"], None, offset))

    def means(self, params, view, window_px=None):
        """The mean token of every real window of every valid row, float64 [M,D], rows first, then
        windows.
        """
        rows, each = HEIGHT // PATCH[0], (window_px or WIDTH) // PATCH[1]
        tokens, found = self.tokens(params, view), []
        for b in np.flatnonzero(self.valid):
            for first in range(0, WIDTH // PATCH[1], each):
                inside = [
                    c
                    for c in range(first, min(first + each, WIDTH // PATCH[1]))
                    if c * PATCH[1] < self.width[b]
                ]
                if inside:
                    found.append(
                        np.mean(
                            [tokens[b, c * rows + r] for c in inside for r in range(rows)], axis=0
                        )
                    )
        return np.asarray(found, np.float64)


same = functools.partial(
    checks.same, rtol=5e-5, floor=0.1
)  # before a batch norm some gradients are noise


# ---- proofs ----


def prove_no_gradient_through_padding(case, views=("view1", "view2")):
    """No pixel of padding or of a row that is not valid has a gradient, and some of the others
    have, in each of `views`.
    """
    inside = (np.arange(WIDTH)[None] < case.width[:, None]) & case.valid[:, None]
    for name in views:
        grad = np.abs(case.out["grads"]["views"][name]).max(axis=(1, 3))
        assert np.isfinite(grad).all() and (grad[~inside] == 0).all(), name
        assert (grad[inside.any(1)].max(axis=1) > 0).all(), name


def prove_padding_does_not_matter(case):
    """Other pixels in padding and in rows that are not valid: not one bit of loss, metrics,
    gradients or state moves.
    """
    inside = (np.arange(WIDTH)[None] < case.width[:, None]) & case.valid[:, None]
    junk = jax.random.uniform(jax.random.key(9), case.batch["view1"].shape)
    changed = {
        name: jnp.where(inside[:, None, :, None], case.batch[name], junk)
        for name in ("view1", "view2")
    }
    other = jax.device_get(case.step(*case.state, {**case.batch, **changed}))
    for tree in (case.out, other):
        for name in ("view1", "view2"):  # their gradients are another test's part
            tree["grads"]["views"][name] = np.where(
                inside[:, None, :, None], tree["grads"]["views"][name], 0
            )
    jax.tree.map(np.testing.assert_array_equal, other, case.out)


def prove_growth_and_devices_do_not_matter(case):
    """A wider canvas, as many rows again that are not valid, all of it over eight devices: same
    loss, metrics and gradients of parameters. Returns the result as it lies there."""
    rows, grown, rng = len(case.valid), 2 * PATCH[1], np.random.default_rng(7)
    wide = {
        name: jnp.pad(x, [(0, rows)] + [(0, 0)] * (x.ndim - 1)) for name, x in case.batch.items()
    }
    wide["width"] = wide["width"].at[rows:].set(20)
    if "mask" in wide:  # bool[B,V,N]
        more = grown // PATCH[1] * HEIGHT // PATCH[0]
        wide["mask"] = jnp.pad(wide["mask"], ((0, 0), (0, 0), (0, more)))
    for name in ("view1", "view2"):
        noise = jnp.asarray(rng.uniform(-1, 1, (2 * rows, HEIGHT, WIDTH + grown, 1)), jnp.float32)
        wide[name] = noise.at[:rows, :, :WIDTH].set(case.batch[name])
    state, wide = checks.on_eight_devices(case.state, wide)
    eight = case.step(*state, wide)
    pick = lambda out: (out["loss"], out["metrics"], out["grads"]["params"])
    same(jax.device_get(pick(eight)), pick(case.out))
    return eight


def prove_parameters_learn(case, but=()):
    """Every array of the parameters has a finite gradient that is not all 0, except the mask token
    and those under `but`.
    """
    for path, grad in jax.tree_util.tree_leaves_with_path(case.out["grads"]["params"]):
        name = "/".join(key.key for key in path)
        assert np.isfinite(grad).all(), name
        assert np.any(grad) != ("mask_token" in name or any(part in name for part in but)), name


def prove_augment(make):
    """Two different views of one line, with a first column of its own each; other images than asked
    for are refused.
    """
    given = raw()
    made = jax.jit(make(recipe=BLUR, column_offset_max=9).augment)(jax.random.key(3), given)
    assert set(made) == {"view1", "view2", "width", "valid", "column_offset"}
    for name in ("view1", "view2"):
        assert made[name].shape == given["image"].shape and made[name].dtype == jnp.float32
        assert np.abs(made[name]).max() <= 1 + 1e-6
    assert (np.abs(made["view1"] - made["view2"]).max(axis=(1, 2, 3)) > 0.01).all()
    assert made["column_offset"].shape == (4, 2) and len(np.unique(made["column_offset"])) > 2
    plain = jax.eval_shape(make(recipe=BLUR).augment, jax.random.key(3), given)
    assert set(plain) == {"view1", "view2", "width", "valid"}


def prove_sentences(make, cases):
    """(changes, words): making the method or augmenting with it raises ValueError with these
    words.
    """
    common = [
        ({"channels": 3}, "images have 1 channels.*made for 3.*config.method.channels"),
        ({"column_offset_max": -1}, "column_offset_max is -1.*0 or more"),
    ]
    for changes, words in [*common, *cases]:
        with pytest.raises(ValueError, match=words):
            make(**changes).augment(jax.random.key(0), raw())


CNN = {
    "kind": "crnn",
    "height_px": HEIGHT,
    "stem": 8,
    "stages": (16, 8, 8, 8),
    "blocks": (1, 0, 0, 0),  # one block with a shortcut: the others are alike
    "width": 8,
    "layers": 1,
}


def prove_encode(make):
    """The features of `base.encode_lines`, whatever heads there are, from a ViT as from a CNN."""
    for encoder, rows, columns, width in ((ENCODER, 2, 6, 32), (CNN, 1, 12, 8)):
        method = make(encoder=encoder)
        params = jax.eval_shape(method.init, jax.random.key(0), batch())["params"]
        shapes = jax.eval_shape(method.encode, params, raw())
        assert shapes["tokens"].shape == (4, rows * columns, width) and shapes["frames"].shape == (
            4,
            columns,
            rows * width,
        )


def prove_a_cnn_learns(make):
    """A step on a CNN + BiLSTM: finite, padding in no gradient of the heads' loss, and every array
    of the encoder learns.
    """
    case = Case(make(encoder=CNN))
    prove_padding_does_not_matter(case)
    for path, grad in jax.tree_util.tree_leaves_with_path(case.out["grads"]["params"]["encoder"]):
        assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)


class Proofs:
    """What holds for every method without a teacher, as tests of a module that has a fixture
    `case`.
    """

    def test_every_parameter_learns_and_padding_does_not(self, case):
        prove_parameters_learn(case)
        prove_no_gradient_through_padding(case)
        assert case.out["mutable"] == {} and case.method.init_teacher(case.params) is None

    def test_padding_and_rows_that_are_not_valid_do_not_matter(self, case):
        prove_padding_does_not_matter(case)

    def test_loss_does_not_move_when_padding_grows_rows_fill_up_and_devices_share_them(self, case):
        prove_growth_and_devices_do_not_matter(case)


def prove_chance(loss, instances, expected):
    """Unrelated rows in 512 dimensions: `loss`, a function of z f32[B,V,S,512] -> (f32[], Aux), is
    what chance expects.
    """
    z = jax.random.normal(jax.random.key(0), (*instances, 512))
    value, aux = jax.jit(loss)(z)
    np.testing.assert_allclose(value, expected, rtol=0.01)
    assert aux.metrics["top1"] < 0.05
    np.testing.assert_allclose(aux.metrics["q_std"], 512**-0.5, rtol=0.01)


class Given:
    """Stands for a network: what `loss` would get from it is what the parameters (or the teacher)
    hold.
    """

    def __init__(self, answer):
        self.answer = answer

    def apply(self, variables, *args, **kwargs):
        return self.answer(variables["params"])


def golden(*names):
    """Arrays of the reference numbers (../shared/golden/README.md)."""
    with np.load(GOLDEN) as stored:
        return [jnp.asarray(stored[name]) for name in names]


# ---- oracles ----


def unit(x):
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


def batch_norm(x, params=None):
    """Statistics of the rows of x [M,D]; params: {"scale"} and perhaps {"bias"}."""
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    params = params or {}
    return x * np.asarray(params.get("scale", 1.0), np.float64) + np.asarray(
        params.get("bias", 0.0), np.float64
    )


def mlp(params, x, hidden_norm, last_norm):
    """heads.Mlp on real rows x [M,D]: dense, batch norm where there is one, ReLU between."""
    last = max(int(name.split("_")[1]) for name in params if name.startswith("dense"))
    for i in range(last + 1):
        dense = {
            name: np.asarray(value, np.float64) for name, value in params[f"dense_{i}"].items()
        }
        x = x @ dense["kernel"] + dense.get("bias", 0.0)
        if hidden_norm if i < last else last_norm:
            x = batch_norm(x, params.get(f"norm_{i}"))
        x = np.maximum(x, 0) if i < last else x
    return x


def cross_entropy(scores, chosen):
    """-log( exp(scores[chosen]) / sum exp(scores) )."""
    return -math.log(math.exp(scores[chosen]) / sum(math.exp(score) for score in scores))


def nt_xent(z1, z2, temperature):
    """(losses of the anchors of view 1, those of view 2, share that find their partner): NT-Xent,
    anchor by anchor.
    """
    everything, count = unit(np.concatenate([z1, z2])), len(z1)
    terms, hits = [], 0
    for i, anchor in enumerate(everything):
        others = [j for j in range(2 * count) if j != i]
        scores = [float(anchor @ everything[j]) / temperature for j in others]
        partner = others.index((i + count) % (2 * count))
        terms.append(cross_entropy(scores, partner))
        hits += int(np.argmax(scores)) == partner
    return terms[:count], terms[count:], hits / (2 * count)


def spread(x):
    """Mean over channels of the deviation of unit rows."""
    return unit(x).std(0).mean()
