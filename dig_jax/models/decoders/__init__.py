"""Decoders: frames of a line -> its characters. `create` makes one by its name.

Every decoder is a plain object around a network; its parameters are handed in.

    init(key, frames, length)                                   -> params
    loss(params, frames, length, label, label_length, key=None) -> (f32[B], feasible bool[B])
    read(params, frames, length)                                -> reading
    attention(params, frames, length, ids)                      -> f32[B, T, S]; not of CTC

frames f32[B, S, F] of which length i32[B] are real (at least 1); label i32[B, L] of character ids,
0 past label_length i32[B]. loss: -log p(label | line) in nats, 0 where the label is not feasible;
with a shortcut, its CTC loss as well.
key: of dropout, in training. A reading has, for each line,

    ids         i32[B, T]  its characters, 0 behind them
    length      i32[B]     how many there are
    confidence  f32[B, T]  how sure each is, a probability
    frame       i32[B, T]  where each was seen
    line        f32[B]     how sure the line is: the mean over its characters

on_host: where a beam search runs. A decoder that reads one character after the other has
read(.., beam=k), on the device; CTC has `logits`, for `beam.py` on the host.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dig_jax.models.decoders.attention import AttentionReader
from dig_jax.models.decoders.autoregressive import Autoregressive
from dig_jax.models.decoders.ctc import Ctc, CtcHead
from dig_jax.models.decoders.glimpse import GlimpseReader
from dig_jax.models.decoders.transformer import TransformerReader

Decoder = Ctc | Autoregressive
CTC = ("linear", "bilstm")
READERS = {
    "attention": AttentionReader,
    "transformer": TransformerReader,
    "glimpse": GlimpseReader,
}


def reads_by_ctc(heads: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether one of config.method.heads reads by CTC."""
    return any(head.get("kind", "linear") in CTC for head in heads.values())


def create(charset_size: int, kind: str = "linear", **options: Any) -> Decoder:
    """The decoder that an entry of config.method.heads describes: kind "linear" or "bilstm" (CTC),
    "attention", "transformer" or "glimpse". shortcut: weight of the loss of a linear CTC reader,
    which learns beside a BiLSTM and tells the others what each frame says (`autoregressive.py`);
    0 = none. ValueError for another kind or option.
    """
    if kind not in (*CTC, *READERS):
        raise ValueError(
            f"kind is {kind!r}; set kind in config.method.heads to one of "
            f"{', '.join((*CTC, *READERS))}"
        )
    network = READERS.get(kind, CtcHead)
    known = {field.name for field in dataclasses.fields(network)} | {"shortcut"}
    known -= {"parent", "name", "kind", "charset_size"}
    if kind == "linear":  # one dense layer
        known = {"dropout", "dtype"}
    if wrong := sorted(options.keys() - known):
        raise ValueError(
            f"config.method.heads has {', '.join(wrong)}, which kind {kind!r} does not know: it "
            f"takes {', '.join(sorted(known))}"
        )
    if options.get("shortcut", 0.0) < 0:
        raise ValueError(
            f"shortcut is {options['shortcut']} in config.method.heads: set it to 0 for none, or 1"
        )
    if kind in CTC:
        return Ctc(CtcHead(charset_size, kind=kind, **options))
    shortcut = options.pop("shortcut", 0.0)
    return Autoregressive(network(charset_size, **options), shortcut)
