"""Readers that write one character after the other, each given those before it.

    p(y | line) = prod_t p(y_t | y_1 .. y_{t-1}, line)     (Sutskever et al. 2014, equation 1)

Class 0, the blank of a character set, ends a line and stands in front of its first character. So
every reader has the same classes, and a classifier that learns more of them is extended alike.

A network (`attention.py`, `transformer.py`, `glimpse.py`) is a Linen module with the methods

    memory(frames, length, key, number) -> memory   computed once a line; every leaf [B, ...]
    start(memory)                    -> state       before the first character; every leaf [B, ...]
    step(memory, state, ids, place)  -> state, hidden f32[B,H], weights f32[B,S]
    logits(hidden)                   -> f32[..., V]

`step` is handed the character i32[B] before the one that it reads, and its place i32[]; the weights
say which frames it looked at. A network that reads all places at once in training has `parallel`.

Such readers are slow to find out where to look, above all with few labels. A shortcut shows them: a
linear CTC reader in front of them.

    loss  = -ln p(y | line) + shortcut * CTC loss       (Kim, Hori, Watanabe 2017, 1609.06773)
    frame + W softmax(logits of CTC)                    (Nozaki and Komatsu 2021, 2104.02724)

The second line is what a network reads, in training and afterwards. It is also handed `number`
f32[B, S]: how many characters CTC reads in front of each frame. For the Transformer that is the
frame's place, so frames and characters are numbered alike; the others leave it alone.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dig_jax.models.decoders.ctc import ctc_loss
from dig_jax.models.heads import dropped
from dig_jax.models.layers import Dense

END = 0
NEVER = -1e30  # logarithm of a probability of 0


class Reader(nn.Module):
    """What such networks share: how they are initialised, and their classifier."""

    def __call__(self, frames, length):
        memory = self.memory(frames, length)
        ids = jnp.zeros(len(frames), jnp.int32)
        return self.logits(self.step(memory, self.start(memory), ids, 0)[1])

    def logits(self, hidden):
        return self.classify(hidden)


class Shortcut(nn.Module):
    """Linear CTC in front of a reader: frames f32[B, S, F] -> (frames + W softmax(logits), logits
    f32[B, S, V])."""

    charset_size: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, frames):
        logits = Dense(self.charset_size, dtype=self.dtype, name="shortcut")(frames)
        told = Dense(frames.shape[-1], use_bias=False, dtype=self.dtype, name="told")
        return frames + told(jax.nn.softmax(logits)), logits


def numbers(logits):
    """Logits of CTC f32[B, S, V] -> how many characters begin in front of each frame, f32[B, S].

    It is the expected length of a path that is drawn frame by frame, collapsed. A second frame of
    one run has that run's character in front of it.
    """
    p = jax.nn.softmax(logits)[..., 1:]
    before = jnp.pad(p, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    begins = (p * (1.0 - before)).sum(-1)
    return jnp.cumsum(begins, 1) - begins


def real_frames(frames, length):
    """bool[B, S]: which of the frames f32[B, S, F] lie within their line of length i32[B]."""
    return jnp.arange(frames.shape[1])[None] < length[:, None]


class Autoregressive:
    """A network as a decoder, see `decoders.Decoder`.

    A line has at most one character a frame; a longer label is not feasible. shortcut: weight of
    the CTC loss, see above; 0 = no shortcut. Where equal neighbours leave CTC too few frames for a
    label, the CTC loss is 0 and the reader learns alone.
    """

    on_host = False

    def __init__(self, network: nn.Module, shortcut: float = 0.0):
        self.network, self.shortcut = network, shortcut
        self.front = Shortcut(network.charset_size, network.dtype) if shortcut else None

    def init(self, key, frames, length):
        params = self.network.init(key, frames, length)["params"]
        if self.front:
            params = params | self.front.init(jax.random.fold_in(key, 1), frames)["params"]
        return params

    def _memory(self, params, frames, length, key=None):
        """What the network keeps of the lines, and the logits of the shortcut."""
        memory = functools.partial(self.network.apply, {"params": params}, method="memory")
        if not self.front:
            return memory(frames, length, key), None
        frames, short = self.front.apply({"params": params}, frames)
        return memory(frames, length, key, numbers(short)), short

    def loss(self, params, frames, length, label, label_length, key=None):
        apply = functools.partial(self.network.apply, {"params": params})
        before = jnp.pad(label, ((0, 0), (1, 0)), constant_values=END)
        target = jnp.pad(label, ((0, 0), (0, 1)), constant_values=END)
        memory, short = self._memory(params, frames, length, key)
        if hasattr(self.network, "parallel"):
            hidden = apply(memory, before, key, method="parallel")[0]
        else:
            hidden = self._one_by_one(params, memory, before)[0]
        hidden = dropped(hidden, self.network.dropout, key, 1)
        logits = apply(hidden, method="logits").astype(jnp.float32)
        cost = jax.nn.logsumexp(logits, -1) - _of_class(logits, target)
        counted = jnp.arange(target.shape[1])[None] <= label_length[:, None]
        feasible = label_length <= length
        loss = jnp.where(feasible, jnp.where(counted, cost, 0.0).sum(1), 0.0)
        if short is not None:
            loss += self.shortcut * ctc_loss(short, length, label, label_length)[0]
        return loss, feasible

    def _one_by_one(self, params, memory, before):
        """Teacher forcing behind the characters i32[B,T] of a label: hidden f32[B,T,H], weights
        f32[B,T,S].
        """
        apply = functools.partial(self.network.apply, {"params": params})

        # Recomputed in the backward pass: kept, attention took 1.2 GB for 16 lines of 300 frames.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def step(state, now):
            state, *seen = apply(memory, state, *now, method="step")
            return state, seen

        places = jnp.arange(before.shape[1])
        start = apply(memory, method="start")
        _, seen = lax.scan(step, start, (before.T, places))
        return [jnp.moveaxis(x, 0, 1) for x in seen]

    def attention(self, params, frames, length, ids):
        """Which frames each character of a reading i32[B,T] came from: weights f32[B,T,S] of sum 1.

        Of a Transformer: of its last layer, the mean over heads. Of glimpses: where the last one
        of each character was.
        """
        apply = functools.partial(self.network.apply, {"params": params})
        before = jnp.pad(ids, ((0, 0), (1, 0)), constant_values=END)[:, :-1]
        memory, _ = self._memory(params, frames, length)
        if hasattr(self.network, "parallel"):
            return apply(memory, before, None, method="parallel")[1]
        return self._one_by_one(params, memory, before)[1]

    def read(self, params, frames, length, beam: int = 1):
        """beam: how many readings of a line are followed at once; 1 takes the best class each time.

        The reading is that of the largest probability found; nothing is divided by its length.
        """
        apply = functools.partial(self.network.apply, {"params": params})
        rows, places = frames.shape[:2]
        memory, _ = self._memory(params, frames, length)
        memory = jax.tree.map(lambda x: jnp.repeat(x, beam, axis=0), memory)
        empty = lambda kind: jnp.zeros((rows, beam, places), kind)
        carry = {
            "state": apply(memory, method="start"),
            "last": jnp.full((rows, beam), END, jnp.int32),
            "done": jnp.zeros((rows, beam), bool),
            "score": jnp.tile(jnp.where(jnp.arange(beam) == 0, 0.0, NEVER)[None], (rows, 1)),
            "end": jnp.zeros((rows, beam)),
            "length": jnp.zeros((rows, beam), jnp.int32),
            "ids": empty(jnp.int32),
            "frame": empty(jnp.int32),
            "confidence": empty(jnp.float32),
        }

        def going(now):
            place, carry = now
            # Scores only fall and stand in order, so what is done and first stays first.
            return (place <= places) & ~carry["done"][:, 0].all()

        def advance(now):
            place, carry = now
            state, hidden, weights = apply(
                memory, carry["state"], carry["last"].reshape(-1), place, method="step"
            )
            logits = apply(hidden, method="logits").astype(jnp.float32)
            log_p = jax.nn.log_softmax(logits).reshape(rows, beam, -1)
            frame = jnp.argmax(weights, -1).astype(jnp.int32).reshape(rows, beam)
            over = carry["done"] | (place >= length)[:, None]
            ends = jnp.arange(log_p.shape[-1])[None, None] == END
            onward = jnp.where(over[..., None], jnp.where(ends, 0.0, NEVER), log_p)
            total = (carry["score"][..., None] + onward).reshape(rows, -1)
            score, best = lax.top_k(total, beam)
            parent, ids = best // log_p.shape[-1], (best % log_p.shape[-1]).astype(jnp.int32)
            old = {
                name: _rows_of(value, parent) for name, value in carry.items() if name != "state"
            }
            sure = jnp.exp(_of_class(_rows_of(log_p, parent), ids))
            new = (ids != END) & ~old["done"]
            here = (jnp.arange(places)[None, None] == place) & new[..., None]
            put = lambda values, value: jnp.where(here, value[..., None], values)
            return place + 1, {
                "state": _states_of(state, parent) if beam > 1 else state,
                "last": ids,
                "done": old["done"] | (ids == END),
                "score": score,
                "end": jnp.where(old["done"], old["end"], sure),
                "length": old["length"] + new,
                "ids": put(old["ids"], ids),
                "frame": put(old["frame"], _rows_of(frame, parent)),
                "confidence": put(old["confidence"], sure),
            }

        _, found = lax.while_loop(going, advance, (jnp.int32(0), carry))
        names = ("ids", "length", "confidence", "frame")
        reading = {name: found[name][:, 0] for name in names}
        mean = reading["confidence"].sum(1) / jnp.maximum(reading["length"], 1)
        return reading | {"line": jnp.where(reading["length"] > 0, mean, found["end"][:, 0])}


def embedding(module: nn.Module, charset_size: int, width: int) -> Any:
    """Parameter `characters` f32[V, D]: one row a class, of about unit length."""
    init = nn.initializers.normal(width**-0.5)
    return module.param("characters", init, (charset_size, width), jnp.float32)


def _of_class(values, ids):
    """values [..., V], ids i32[...] -> the value of each class, [...]."""
    return jnp.take_along_axis(values, ids[..., None], -1)[..., 0]


def _rows_of(values, parent):
    """values [B, K, ...] -> those of the readings that are followed, by parent i32[B, K]."""
    return jax.vmap(lambda value, row: value[row])(values, parent)


def _states_of(state, parent):
    """The same for a state, whose leaves are [B * K, ...]."""
    rows, beam = parent.shape
    chosen = lambda x: _rows_of(x.reshape(rows, beam, *x.shape[1:]), parent).reshape(x.shape)
    return jax.tree.map(chosen, state)
