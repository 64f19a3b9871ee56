"""The recogniser: frozen means frozen, a sweep equals runs of one head, feature statistics, what is
counted.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dig_jax.augment import recipes
from dig_jax.methods import recognize
from dig_jax.methods.shared import classes
from dig_jax.models import encoders
from dig_jax.models.decoders import search
from dig_jax.text import Charset
from dig_jax.train import optim, state
from dig_jax.train.step import make_train_step
from tests.tiers import tiers

CHARSET = Charset("abcd")
ENCODER = {"patch": (8, 4), "width": 16, "depth": 1, "heads": 2, "dtype": "float32"}
FLAT = ENCODER | {"depth": 0}  # enough, and quick to compile, where blocks do not matter
LINEAR = {"kind": "linear", "dtype": "float32"}
RATES = {"lr_1e-3": 1e-3, "lr_3e-2": 3e-2}


def make(heads=None, **options):
    options = {"frozen": True, "standardize": True, "encoder": FLAT} | options
    return recognize.Method(charset=CHARSET, heads=heads or {"ctc": LINEAR}, **options)


def make_batch(seed=0, rows=6, width_px=48):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 4, rows)
    label = np.where(np.arange(5) < lengths[:, None], rng.integers(1, 5, (rows, 5)), 0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (rows, 16, width_px, 1)), jnp.uint8),
        "width": jnp.asarray(rng.integers(width_px // 2, width_px + 1, rows), jnp.int32),
        "label": jnp.asarray(label, jnp.int32),
        "label_length": jnp.asarray(lengths, jnp.int32),
        "valid": jnp.asarray([True] * (rows - 1) + [False]),
    }


def start(method, optimizer=None, seed=7):
    batch = jax.jit(method.augment)(jax.random.key(1), make_batch())
    tx = optimizer.tx if optimizer else optax.identity()
    made = jax.jit(lambda key: state.create(method, tx, method.init(key, batch)))(
        jax.random.key(seed)
    )
    return made.replace(
        mutable=method.calibrate(made.params, made.mutable, [make_batch(0), make_batch(1)])
    )


def train_for(method, rates, steps=4):
    """Some steps through the trainer's own step, one rule a head."""
    shapes = jax.eval_shape(
        lambda key: method.init(key, method.augment(key, make_batch()))["params"], jax.random.key(0)
    )
    rules = [("^(encoder|norm)/", {"freeze": True})]
    rules += [(f"^heads/{name}/", {"lr_scale": rate}) for name, rate in rates.items()]
    optimizer = optim.create(
        params=shapes, total_steps=steps, batch_size=6, lr=1.0, schedule="constant", rules=rules
    )
    step = jax.jit(make_train_step(method, optimizer, 0))
    made = start(method, optimizer)
    first = made
    for i in range(steps):
        made, metrics = step(made, make_batch(i))
    return first, made, metrics


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiers(["linear", "bilstm"]))
def test_a_sweep_of_heads_equals_runs_of_one_head(kind):
    head = LINEAR | {"kind": kind} | ({"hidden": 8} if kind == "bilstm" else {})
    _, together, metrics = train_for(make(dict.fromkeys(RATES, head)), RATES)
    assert {f"loss_{name}" for name in RATES} <= metrics.keys()
    ends = []
    for name, rate in RATES.items():
        _, alone, one = train_for(make({name: head}), {name: rate})
        np.testing.assert_allclose(metrics[f"loss_{name}"], one["loss"], rtol=1e-5)
        got, want = together.params["heads"][name], alone.params["heads"][name]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)
        ends.append(float(one["loss"]))
    assert len(set(ends)) == len(RATES), "the rates had no effect, so this test proves nothing"


@pytest.mark.slow
def test_frozen_encoder_stays_and_has_no_gradient():
    method = make(encoder=ENCODER | {"final_norm": False, "drop_path": 0.5})
    first, last, _ = train_for(method, {"ctc": 1e-2})
    jax.tree.map(np.testing.assert_array_equal, first.params["encoder"], last.params["encoder"])
    jax.tree.map(np.testing.assert_array_equal, first.params["norm"], last.params["norm"])
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), first.params["heads"], last.params["heads"]
    )
    assert min(jax.tree.leaves(moved)) > 0
    grads = gradients(method, first)
    assert all(
        float(jnp.abs(leaf).max()) == 0
        for leaf in jax.tree.leaves((grads["encoder"], grads["norm"]))
    )


def gradients(method, made):
    batch = method.augment(jax.random.key(1), make_batch())
    return jax.jit(
        jax.grad(lambda params: method.loss(params, made, batch, jax.random.key(0), 0.0)[0])
    )(made.params)


@pytest.mark.slow
def test_frozen_encoder_has_no_drop_path_and_a_trained_one_has():
    for frozen in (True, False):
        encoder = ENCODER | {"depth": 2, "drop_path": 0.5}
        method = make(frozen=frozen, encoder=encoder)
        made = start(method)
        batch = method.augment(jax.random.key(1), make_batch())
        loss = jax.jit(method.loss)
        losses = {
            float(loss(made.params, made, batch, jax.random.key(i), 0.0)[0]) for i in range(4)
        }
        assert (len(losses) == 1) == frozen


def test_dropout_of_a_recogniser_replaces_that_of_its_encoder():
    cnn = {"kind": "cnn", "height_px": 32, "channels": (8,) * 5, "hidden": 4, "layers": 2}
    own = [make(encoder=cnn | {"dropout": 0.5}, dropout=given) for given in (None, 0.2, 0.0)]
    assert [method.encoder.dropout for method in own] == [0.5, 0.2, 0.0]
    assert make(encoder=cnn, dropout=0.2).encoder.dropout == 0.2
    assert make(encoder=ENCODER, dropout=0.0).encoder == make(encoder=ENCODER).encoder
    with pytest.raises(ValueError, match="dropout"):
        make(encoder=ENCODER, dropout=0.2)  # a ViT has none


@pytest.mark.slow
def test_unfrozen_encoder_gets_a_gradient():
    method = make(frozen=False, standardize=False, encoder=ENCODER | {"final_norm": False})
    made = start(method)
    grads = gradients(method, made)
    assert float(jnp.abs(grads["encoder"]["patch_embed"]["kernel"]).max()) > 0
    assert float(jnp.abs(grads["norm"]["scale"]).max()) > 0


def test_padding_and_invalid_rows_do_not_touch_the_loss():
    method = make(frozen=False, standardize=False, encoder=ENCODER)
    made = start(method)
    batch = make_batch()
    behind = jnp.arange(batch["image"].shape[2])[None, :, None] >= batch["width"][:, None, None]
    other = batch | {"image": jnp.where(behind[:, None], jnp.uint8(17), batch["image"])}
    other["image"] = other["image"].at[-1].set(3)  # the row that is not valid
    other["label"] = other["label"].at[-1].set(2)
    key = jax.random.key(0)
    loss = jax.jit(method.loss)
    one, two = (
        loss(made.params, made, method.augment(key, b), key, 0.0)[0] for b in (batch, other)
    )
    np.testing.assert_array_equal(one, two)


def test_calibrate_equals_numpy_over_the_real_frames_of_valid_rows():
    method = make()
    batches = [make_batch(0, width_px=48), make_batch(1, rows=3, width_px=32), make_batch(2)]
    batches[2]["valid"] = jnp.zeros_like(batches[2]["valid"])
    made = start(method)
    scale = method.calibrate(made.params, made.mutable, batches)["scale"]
    rows = []
    for batch in batches:
        encoded = jax.jit(method.encode)(made.params, batch)
        for frames, length, valid in zip(
            encoded["frames"], encoded["frame_length"], batch["valid"]
        ):
            rows += [np.asarray(frames, np.float64)[: int(length)]] * bool(valid)
    rows = np.concatenate(rows)
    np.testing.assert_allclose(scale["mean"], rows.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(scale["std"], rows.std(axis=0), rtol=1e-4)
    assert scale["mean"].dtype == jnp.float32


@pytest.mark.parametrize(
    "head, names",
    [
        ({"kind": "bilstm"}, ("classify", "shortcut")),
        ({"kind": "attention"}, ("classify", "shortcut", "told", "characters")),
    ],
)
def test_new_characters_extend_the_shortcut_too(head, names):
    """Of each array the old classes stay, along whichever axis they are counted."""
    head = {"read": head | {"hidden": 4, "shortcut": 0.3, "dtype": "float32"}}
    fresh = start(make(head)).params["heads"]["read"]
    size, axes = 3, {"told": 0, "characters": 0}
    fewer = lambda name: lambda leaf: jnp.take(leaf + 1.0, np.arange(size), axes.get(name, -1))
    old = fresh | {name: jax.tree.map(fewer(name), fresh[name]) for name in names}
    new = classes.extend_classes(old, fresh)
    for name in names:
        axis = axes.get(name, -1)
        for mine, was, start_ in zip(*(jax.tree.leaves(tree[name]) for tree in (new, old, fresh))):
            kept, added = np.split(np.asarray(mine), [size], axis)
            np.testing.assert_array_equal(kept, was)
            np.testing.assert_array_equal(added, np.split(np.asarray(start_), [size], axis)[1])


def test_the_features_of_a_vit_are_standardised_if_nothing_is_said():
    cnn = {"kind": "cnn", "height_px": 32, **encoders.sized({"size": "cnn_nano"})}
    options = {"charset": CHARSET, "heads": {"ctc": LINEAR}}
    found = [
        recognize.Method(encoder=encoder, standardize=said, **options).standardize
        for encoder in (FLAT, cnn)
        for said in (None, True, False)
    ]
    assert found == [True, True, False, False, True, False]


def test_standardised_features_do_not_depend_on_the_scale_of_the_encoder():
    """What the heads read is the same when every channel of the features is stretched and
    shifted.
    """
    method = make()
    made = start(method)
    norm = made.params["encoder"]["norm"]
    stretched = made.params | {
        "encoder": made.params["encoder"]
        | {"norm": {"scale": norm["scale"] * 50.0, "bias": norm["bias"] + 20.0}}
    }
    mutable = method.calibrate(stretched, made.mutable, [make_batch(0), make_batch(1)])
    batch = method.augment(jax.random.key(1), make_batch())
    loss = jax.jit(method.loss)
    losses = [
        loss(params, made.replace(mutable=scale), batch, jax.random.key(0), 0.0)[0]
        for params, scale in ((made.params, made.mutable), (stretched, mutable))
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_calibration_without_any_real_line_is_a_sentence():
    method = make()
    batch = make_batch()
    with pytest.raises(ValueError, match="config.data.train"):
        made = start(method)
        method.calibrate(
            made.params, made.mutable, [batch | {"valid": jnp.zeros_like(batch["valid"])}]
        )


def test_infeasible_lines_are_counted_and_left_out_of_the_loss():
    method = make()
    made = start(method)
    batch = method.augment(jax.random.key(1), make_batch())
    wide = batch | {"label": jnp.ones((6, 5), jnp.int32)}  # aaaaa wants 9 frames
    wide["label_length"] = jnp.array([5, 1, 1, 1, 1, 5], jnp.int32)
    wide["width"] = jnp.array([24, 24, 24, 24, 24, 24], jnp.int32)  # 6 frames
    score = jax.jit(method.loss)
    loss, aux = score(made.params, made, wide, jax.random.key(0), 0.0)
    np.testing.assert_allclose(aux.metrics["infeasible_frac"], 1 / 5)  # the sixth is not valid
    without = wide | {"valid": jnp.array([False, True, True, True, True, False])}
    same, aux = score(made.params, made, without, jax.random.key(0), 0.0)
    np.testing.assert_allclose(loss, same, rtol=1e-6)
    assert float(aux.metrics["infeasible_frac"]) == 0 and float(loss) < 100
    nothing = wide | {"valid": jnp.zeros(6, bool)}
    assert float(score(made.params, made, nothing, jax.random.key(0), 0.0)[0]) == 0


@functools.cache
def readers():
    """A sweep of two heads after a step, and what it predicts of a batch."""
    method = make(dict.fromkeys(RATES, LINEAR))
    made, batch = start(method), make_batch()
    return method, made, batch, jax.jit(method.predict)(made.params, made.mutable, batch)


def test_predict_reads_every_head_and_says_where_and_how_sure():
    _, _, batch, read = readers()
    assert read.keys() == RATES.keys()
    for reading in read.values():
        assert reading["ids"].shape == (6, 12) and reading["ids"].dtype == jnp.int32
        length = np.asarray(reading["length"])
        assert (length <= -(-np.asarray(batch["width"]) // 4)).all()
        used = np.arange(12)[None] < length[:, None]
        np.testing.assert_array_equal(np.asarray(reading["ids"]) > 0, used)
        sure, frame = np.asarray(reading["confidence"]), np.asarray(reading["frame"])
        assert (sure[used] > 1 / CHARSET.size).all() and (sure <= 1).all()
        assert all((np.diff(row[:n]) > 0).all() for row, n in zip(frame, length))


def test_logits_are_those_that_predict_reads():
    method, made, batch, read = readers()
    told = jax.jit(method.logits)(made.params, made.mutable, batch)
    for name, reading in read.items():
        log_p = search.log_softmax(np.asarray(told[name]["logits"]))
        np.testing.assert_allclose(np.exp(log_p).sum(-1), 1, rtol=1e-5)
        for row, length in enumerate(np.asarray(told[name]["length"])):
            ids = np.asarray(reading["ids"][row])[: int(reading["length"][row])]
            assert CHARSET.ctc_collapse(log_p[row].argmax(-1), length) == ids.tolist()


def test_predict_holds_the_logits_of_one_head_at_a_time():
    method = make({name: LINEAR for name in ("lr_1", "lr_2", "lr_3")})
    made, batch = start(method), make_batch()
    program = jax.make_jaxpr(method.predict)(made.params, made.mutable, batch)
    classes = CHARSET.size
    heads_of = [
        var.aval.shape[0]
        for equation in program.eqns
        for var in equation.outvars
        if len(var.aval.shape) == 4 and var.aval.shape[-1] == classes
    ]
    assert not heads_of and any(equation.primitive.name == "scan" for equation in program.eqns)


def test_the_recogniser_learns_to_read_a_batch(key):
    method = make(frozen=False, standardize=False)
    batch = make_batch()
    optimizer = optim.create(
        params=jax.eval_shape(lambda k: method.init(k, method.augment(k, batch))["params"], key),
        total_steps=150, batch_size=6, lr=3e-3,
    )  # fmt: skip
    made = start(method, optimizer)
    step = jax.jit(make_train_step(method, optimizer, 0))
    for _ in range(150):
        made, _ = step(made, batch)
    read = jax.jit(method.predict)(made.params, made.mutable, batch)["ctc"]
    for row in range(5):
        ids = np.asarray(read["ids"][row])[: int(read["length"][row])].tolist()
        assert ids == np.asarray(batch["label"][row, : batch["label_length"][row]]).tolist()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"heads": {"a": LINEAR, "b": LINEAR}, "frozen": False}, "config.method.frozen"),
        ({"heads": {"a": LINEAR, "b": {"kind": "bilstm"}}}, "one shape"),
        ({"encoder": None}, "config.init_from"),
        ({"recipe": "lines"}, "lines_light"),
    ],
)
def test_contradictions_are_sentences(options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)


def test_an_optimiser_that_moves_what_is_frozen_or_couples_heads_is_a_sentence():
    method = make({"a": LINEAR, "b": LINEAR})
    held = {"encoder": {"kernel": False}, "heads": {"a": True, "b": True}}
    method.check_optimizer(held, None)
    with pytest.raises(ValueError, match=r"would move the encoder: set config.optim.rules="):
        method.check_optimizer(held | {"encoder": {"kernel": True}}, None)
    with pytest.raises(ValueError, match="clip_norm is 5.0: the gradients of 2 heads"):
        method.check_optimizer(held, 5.0)
    make({"a": LINEAR}).check_optimizer(held, 5.0)


def test_no_head_is_a_sentence():
    with pytest.raises(ValueError, match="at least one head"):
        recognize.Method(charset=CHARSET, encoder=ENCODER, heads={})


@pytest.mark.parametrize("recipe", ["lines_light", recipes.LINES_LIGHT], ids=["name", "recipe"])
def test_augmentation_is_off_by_default_and_moves_pixels_when_on(recipe):
    batch = make_batch()
    plain = make().augment(jax.random.key(0), batch)["image"]
    np.testing.assert_allclose(plain, batch["image"] / 127.5 - 1, atol=1e-6)
    moved = jax.jit(make(recipe=recipe).augment)(jax.random.key(0), batch)["image"]
    assert (
        moved.shape == plain.shape
        and -1 <= float(moved.min()) < -0.1
        and 0.1 < float(moved.max()) <= 1
    )
    assert float(jnp.abs(moved - plain).max()) > 0.1


@pytest.mark.slow
def test_a_cnn_is_fine_tuned_as_well():
    """Every array of a CNN + BiLSTM learns from the labels, and its frames come with their
    lengths.
    """
    cnn = {
        "kind": "crnn",
        "height_px": 16,
        "stem": 8,
        "stages": (8, 8, 8, 8),
        "blocks": (1, 1, 1, 1),
        "width": 8,
        "layers": 1,
    }
    method = make(encoder=cnn, frozen=False)
    made = start(method)
    for path, grad in jax.tree_util.tree_leaves_with_path(gradients(method, made)):
        assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)
    batch = make_batch()
    encoded = jax.jit(method.encode)(made.params, batch)
    assert encoded["frames"].shape == (6, 12, 8)
    np.testing.assert_array_equal(encoded["frame_length"], -(-batch["width"] // 4))


BLOCKS = ENCODER | {"depth": 2}


@pytest.mark.slow
def test_frames_of_a_block_are_those_of_an_encoder_that_ends_there():
    short = make(encoder=ENCODER | {"final_norm": False}, standardize=False)
    made, batch = start(short), make_batch()
    deep = make(encoder=BLOCKS | {"final_norm": False}, standardize=False, block=1)
    first = jax.jit(deep.init)(jax.random.key(0), deep.augment(jax.random.key(0), batch))["params"]
    # The same first block, and another behind it that must not matter.
    encoder = first["encoder"] | {
        name: value for name, value in made.params["encoder"].items() if name != "norm"
    }
    one = jax.jit(short.encode)(made.params, batch)
    two = jax.jit(deep.encode)(made.params | {"encoder": encoder}, batch)
    np.testing.assert_allclose(one["frames"], two["frames"], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_mix_weighs_normalised_blocks_and_every_head_learns_its_weights():
    """On a frozen encoder, whose frames are computed once; each block standardised by itself."""
    method = make(encoder=BLOCKS, block="mix")
    first, last, _ = train_for(method, {"ctc": 1e-2})
    head = last.params["heads"]["ctc"]
    assert np.abs(head["mix"]).min() > 0 and head["mix"].shape == (2,)
    jax.tree.map(np.testing.assert_array_equal, first.params["encoder"], last.params["encoder"])
    batch = make_batch()
    frames = jax.jit(method.encode)(last.params, batch)["frames"]
    assert frames.shape == (6, 12, 2 * 2 * 16)  # token rows, blocks, width
    one_by_one = []
    for block in (1, 2):
        alone = make(encoder=BLOCKS, block=block)
        one_by_one.append(jax.jit(alone.encode)(last.params, batch)["frames"])
    weights = np.asarray(jax.nn.softmax(head["mix"]))
    want = sum(w * np.asarray(each) for w, each in zip(weights, one_by_one))
    np.testing.assert_allclose(method._mixed(head, frames), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", ["3", 0, "first", "mix"])
def test_blocks_that_are_not_there_are_sentences(block):
    encoder = FLAT if block == "mix" else BLOCKS
    with pytest.raises(ValueError, match="config.method.block"):
        make(encoder=encoder, block=block)


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiers(["attention", "transformer", "glimpse"]))
def test_other_decoders_stand_where_ctc_does(kind):
    """Two heads of each kind: losses, gradients to the encoder, readings."""
    options = {"attention": {"hidden": 8}, "glimpse": {"hidden": 8}}
    options["transformer"] = {"width": 8, "heads": 2, "depth": 1, "inner": 8}
    method = make({"read": {"kind": kind, "dtype": "float32", **options[kind]}}, frozen=False)
    made = start(method)
    grads = gradients(method, made)
    assert float(jnp.abs(grads["encoder"]["patch_embed"]["kernel"]).max()) > 0
    reading = jax.jit(method.predict)(made.params, made.mutable, make_batch())["read"]
    assert reading["ids"].shape == (6, 12) and float(reading["line"].min()) > 0
