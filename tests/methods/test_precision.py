"""float32 means float32: every product of a float32 model asks for the highest precision.

An accelerator takes bfloat16 or TF32 for a product that does not ask. A CPU cannot show it, so the
jaxpr of loss and gradient is read, as it would be for a TPU.
"""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dig_jax.methods import recognize
from dig_jax.models import decoders, encoders
from dig_jax.text import Charset
from dig_jax.train.state import TrainState
from tests.jaxprs import equations

VIT = {"patch": (8, 4), "width": 32, "depth": 1, "heads": 2, "dtype": "float32"}
CRNN = {
    "kind": "crnn", "height_px": 16, "stem": 8, "stages": (8, 8, 8, 8), "blocks": (1, 1, 1, 1),
    "width": 16, "layers": 1, "dtype": "float32", "fiducials": 4,
}  # fmt: skip
SMALL = {"projector_width": 16, "projector_dim": 8}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
WINDOWS = {"window_px": 16, "gap_px": 4, "jitter_px": 4, "tile_width": 16, "projector_width": 16}
# One method for each kind of network and of loss; views are the line itself, since augmentation is
# no part of the step's products and takes longest to trace.
METHODS = {
    "ccd": {"prototypes": 8, "decoder_width": 16, "recipe": None, **SMALL},
    "denoising": {"decoder_width": 16},
    "dig": {
        "window_px": 16, "decoder_width": 16, "pix_projector_width": 16, "recipe": None, **SMALL
    },
    "jigsaw": {"windows": 3, "permutations": 6, **WINDOWS},
    "latent": {},
    "linecontrast": {"mask_span": 2, "dim": 8, "hidden": 8},
    "mae": DECODER,
    "moco": {"queue": 8, "recipe": None, **SMALL},
    "seqclr": {"projection": "bilstm", "recipe": None, **SMALL},
    "siman": {"recipe": None, **DECODER},
    "ssm": {"window_px": 16, **DECODER, **SMALL},
    "vicreg": {"projector_width": 8, "recipe": None},
}  # fmt: skip
# The others, and the method above whose modules and products they have.
ALIKE = {
    "colorization": "denoising",
    "ibot": "ccd",
    "mocov3": "dig",
    "relative_position": "jigsaw",
    "rotation": "jigsaw",
    "simclr": "seqclr",
    "simmim": "denoising",
    "simsiam": "dig",
}
RAW = {
    "image": jnp.zeros((4, 16, 64, 3), jnp.uint8),
    "width": jnp.array([64, 64, 40, 9]),
    "valid": jnp.ones(4, bool),
    "label": jnp.ones((4, 5), jnp.int32),
    "label_length": jnp.array([5, 3, 2, 1]),
}


def products(method):
    """The matrix products and convolutions of a step's loss and gradient."""
    key = jax.random.key(0)

    def start():
        batch = method.augment(key, RAW)
        made = method.init(key, batch)
        return made["params"], method.init_teacher(made["params"]), made["mutable"], batch

    def loss(params, teacher, mutable, batch):
        state = TrainState(jnp.zeros((), jnp.int32), params, teacher, None, mutable)
        return method.loss(params, state, batch, key, jnp.float32(0.5))[0]

    jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(*jax.eval_shape(start))
    names = ("dot_general", "conv_general_dilated")
    return [found for found in equations(jaxpr.jaxpr) if found.primitive.name in names]


def prove(method):
    found = products(method)
    assert found
    for equation in found:
        assert {x.aval.dtype.name for x in equation.invars} == {"float32"}, equation
        precision = equation.params["precision"]
        both = precision if isinstance(precision, tuple) else (precision,) * 2
        assert set(both) == {jax.lax.Precision.HIGHEST}, equation.source_info


def test_every_method_has_a_case():
    folder = importlib.import_module("dig_jax.methods").__path__[0]
    names = {path.stem for path in Path(folder).glob("[!_]*.py")}
    assert names == {*METHODS, *ALIKE, "recognize"} and set(ALIKE.values()) <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_float32_method_has_float32_products(name):
    encoder = encoders.resolve(VIT, "tpu")
    assert encoder["attention"] == "blocks"
    module = importlib.import_module(f"dig_jax.methods.{name}")
    prove(module.Method(encoder=encoder, channels=3, **METHODS[name]))


@pytest.mark.parametrize("decoder", ["ctc", *decoders.READERS])
def test_a_float32_decoder_has_float32_products(decoder):
    encoder = encoders.resolve(VIT | {"depth": 2}, "tpu")
    made = recognize.Method(
        charset=Charset("abc"), encoder=encoder, heads={decoder: {}}, block="mix"
    )
    prove(made)


@pytest.mark.parametrize(
    ("encoder", "kind"), [(VIT, "linear"), (CRNN, "bilstm")], ids=["vit-linear", "crnn-bilstm"]
)
def test_a_float32_reader_has_float32_products(encoder, kind):
    heads = {"ctc": {"kind": kind, **({"hidden": 8} if kind == "bilstm" else {})}}
    encoder = encoders.resolve(encoder, "tpu")
    prove(recognize.Method(charset=Charset("abc"), encoder=encoder, heads=heads))
