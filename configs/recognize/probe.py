"""Frozen probe: what can be read off features that nothing but pre-training has shaped.

    python -m dig_jax.main --config=probe:decoder=ctc --config.init_from=PRETRAIN_DIR --workdir=DIR
    ... probe:decoder=ctc,head=bilstm,labels=0.1   a BiLSTM reader, a tenth of the labels
    ... probe:decoder=attention,block=mix          another decoder, frames of all blocks
    ... probe:decoder=ctc,shape_from=PRETRAIN_DIR  the same encoder with random weights

Attention, Transformer and glimpses have a CTC shortcut in front, which shortcut=0 leaves out.
Encoder, height, channels and records are those of the pre-training, unless given here. One run is
the whole sweep: a head for each rate, all on the same frozen, standardised features
(methods/recognize.py). The figure is the lowest validation CER over rates and evaluations
(`dig_jax.tools.results`). Train long enough that it no longer falls at the end: that is part of the
protocol, so look at the curve. Nothing is tuned on a test split.
"""

import math
from decimal import Decimal

from dig_jax.configs import common

RATES = {"linear": "1e-3+3e-3+1e-2+3e-2+1e-1", "bilstm": "3e-4+1e-3+2e-3+4e-3+8e-3"}
RATES["bilstm2"] = RATES["bilstm"]
RATES |= dict.fromkeys(common.DECODERS[1:], "5e-4+1e-3+2e-3+4e-3")


def get_config(arg=None):
    own = {"head": "linear", "hidden": 0, "rates": "", "shape_from": "", "size": "", "patch": "8x4"}
    args = common.parse_recogniser(arg, **common.RECOGNITION, **own, steps=3000, batch=32)
    head = common.reader(args, common.SHORTCUT * (args.decoder != "ctc"))
    rates = args.rates or RATES[args.head if args.decoder == "ctc" else args.decoder]
    rates = {rate_name(text): float(text) for text in rates.split("+")}
    most = max(rates.values())
    if args.shape_from:
        common.refuse(arg, "the encoder is that of shape_from", "size", "patch")
    config = common.recognition(args)
    config.shape_from = args.shape_from
    config.calibrate_batches = 1000  # at most one epoch
    config.method.heads = {name: head for name in rates}
    config.method.frozen = True
    config.method.standardize = True
    config.optim = {"lr": most}
    config.optim.rules = (
        ("^(encoder|norm)/", {"freeze": True}),
        *((f"^heads/{name}/", {"lr_scale": rate / most}) for name, rate in rates.items()),
    )
    if args.size:
        config.method.encoder = common.encoder(args.size, common.patch(args.patch))
        config.data.update(height_px=common.height_of(args.size), channels=1)
    return common.quick(config) if args.quick else config


def rate_name(text):
    """ "0.001" -> "lr_1e-3"; names of config keys hold no dots. ValueError for no rate."""
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"rates has {text!r}: give numbers above 0, with + between them")
    _, digits, exponent = Decimal(text).normalize().as_tuple()
    return f"lr_{''.join(map(str, digits))}e{exponent}"
