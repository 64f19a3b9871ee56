"""Connectionist temporal classification (Graves et al., ICML 2006): head, loss, greedy reading.

Class 0 is the blank.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dig_jax.models.heads import BiLstm, dropped
from dig_jax.models.layers import Dense


class CtcHead(nn.Module):
    """(frames [B, S, F], lengths i32[B]) -> logits f32[B, S, V], V = charset_size, the blank
    included.

    kind "linear": one dense layer. kind "bilstm": `layers` bidirectional LSTMs of `hidden` units
    each way, then dense. shortcut: weight of a second loss, that of a dense layer in front of the
    LSTMs. It shows the encoder what to learn while the LSTMs still give blanks, and reads nothing
    (CTC shortcut, Retsinas et al., arXiv 2404.11339).
    """

    charset_size: int
    kind: str = "linear"
    hidden: int = 256
    layers: int = 1
    dtype: str = "float32"
    dropout: float = 0.0
    shortcut: float = 0.0

    @nn.compact
    def __call__(self, frames, lengths, key=None, both: bool = False):
        """key: of the dropout in front of every layer, in training; None = none. both: also the
        logits of the shortcut."""
        if self.kind not in ("linear", "bilstm"):
            raise ValueError(f"head={self.kind!r} is not known: write 'linear' or 'bilstm'.")
        dense = lambda name: Dense(self.charset_size, dtype=self.dtype, name=name)
        short = self.shortcut and (both or self.is_initializing())
        short = dense("shortcut")(frames) if short else None
        if self.kind == "bilstm":
            lstm = BiLstm(self.hidden, self.layers, self.dtype, self.dropout, name="lstm")
            frames = lstm(frames, lengths, key)
        frames = dropped(frames, self.dropout, key, self.layers)
        logits = dense("classify")(frames)
        return (logits, short) if both else logits


class Ctc:
    """A `CtcHead` as a decoder, see `decoders.Decoder`. A beam search runs on the host
    (`beam.py`)."""

    on_host = True

    def __init__(self, network: CtcHead):
        self.network = network

    def init(self, key, frames, length):
        return self.network.init(key, frames, length)["params"]

    def logits(self, params, frames, length, key=None):
        """f32[B, S, V]."""
        return self.network.apply({"params": params}, frames, length, key)

    def loss(self, params, frames, length, label, label_length, key=None):
        logits, short = self.network.apply({"params": params}, frames, length, key, both=True)
        loss, feasible = ctc_loss(logits, length, label, label_length)
        if short is not None:
            loss += self.network.shortcut * ctc_loss(short, length, label, label_length)[0]
        return loss, feasible

    def read(self, params, frames, length):
        logits = self.logits(params, frames, length)
        return collapse(greedy(logits, length), confidence(logits), length)


def ctc_loss(logits, lengths, label, label_length):
    """Negative log likelihood of each label, summed over its alignments.

    logits f32[B, S, V], lengths i32[B] (real frames), label i32[B, L], label_length i32[B] ->
    (loss f32[B] >= 0 in nats a line, feasible bool[B]). A line with fewer frames than
    `frames_needed` has no alignment: feasible False, loss 0, gradient 0. An empty label is feasible
    and asks for blanks only.
    """
    feasible = lengths >= jnp.maximum(frames_needed(label, label_length), 1)
    loss = _negative_log_likelihood(logits.astype(jnp.float32), lengths, label, label_length)
    return jnp.where(feasible, loss, 0.0), feasible


def frames_needed(label, label_length):
    """One frame a character, and a blank between two equal neighbours: i32[B] of label [B, L].

    data/labels.py says the same of packed labels; tests/data/test_limits.py holds the two equal.
    """
    used = np.arange(label.shape[1])[None] < label_length[:, None]
    return label_length + ((label[:, 1:] == label[:, :-1]) & used[:, 1:]).sum(1)


# The lattice of Graves et al. (2006), section 4.1: M = 2 L + 1 states, the label with a blank
# before, between and behind its characters. Everything is in logarithms; NEVER is that of 0.
NEVER = -1e30


@jax.custom_vjp
def _negative_log_likelihood(logits, lengths, label, label_length):
    """-ln p(label | logits), f32[B]."""
    emit, skip = _lattice(logits, lengths, label, label_length)
    return _loss(_alpha(emit, skip), lengths, label_length)


def _forward(logits, lengths, label, label_length):
    """The loss, and its gradient: softmax minus the posterior of each class (their equation 15)."""
    emit, skip = _lattice(logits, lengths, label, label_length)
    # beta is alpha of the line and the label read from their ends, so one loop serves both.
    back = lambda x: _reversed(_reversed(x, lengths, 1), 2 * label_length + 1, 2)
    back_skip = jnp.pad(skip, ((0, 0), (0, 2)))[:, 2:]  # from the state it leads to
    back_skip = _reversed(back_skip, 2 * label_length + 1, 1)
    alpha, beta = jnp.split(
        _alpha(jnp.concatenate([emit, back(emit)]), jnp.concatenate([skip, back_skip])), 2
    )
    # Every frame is in some state: scaled to 1 by itself, a long line loses no digits.
    posterior = jax.nn.softmax(alpha + back(beta) - emit, axis=-1)  # (B, S, M)
    hot = jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
    wanted = jnp.einsum("bsl,blv->bsv", posterior[..., 1::2], hot, precision="highest")
    wanted = wanted.at[..., 0].add(posterior[..., ::2].sum(-1))
    real = jnp.arange(logits.shape[1])[None] < lengths[:, None]
    gradient = jnp.where(real[..., None], jax.nn.softmax(logits) - wanted, 0.0)
    return _loss(alpha, lengths, label_length), gradient


def _backward(gradient, cotangent):
    return gradient * cotangent[:, None, None], None, None, None


_negative_log_likelihood.defvjp(_forward, _backward)


def _lattice(logits, lengths, label, label_length):
    """ln p of each state's class f32[B, S, M], NEVER outside frames and label; and bool[B, M], the
    states that a path may enter past the blank before them.
    """
    classes = jnp.pad(label[..., None], ((0, 0), (0, 0), (1, 0))).reshape(len(label), -1)
    classes = jnp.pad(classes, ((0, 0), (0, 1)))  # blank, l_1, blank, .., l_L, blank
    emit = jnp.take_along_axis(logits, classes[:, None], axis=2, mode="clip")
    emit = emit - jax.nn.logsumexp(logits, axis=2, keepdims=True)
    state = jnp.arange(classes.shape[1])[None]
    real = jnp.arange(logits.shape[1])[None] < lengths[:, None]
    real = real[..., None] & (state < 2 * label_length[:, None] + 1)[:, None]
    before = jnp.pad(classes, ((0, 0), (2, 0)))[:, :-2]
    return jnp.where(real, emit, NEVER), (classes != before) & (state % 2 == 1)


def _alpha(emit, skip):
    """ln of the summed probability of all paths up to each state at each frame, f32[B, S, M]."""
    jump = jnp.where(skip, 0.0, NEVER)

    def step(alpha, emit):
        one, two = (jnp.pad(alpha, ((0, 0), (n, 0)), constant_values=NEVER)[:, :-n] for n in (1, 2))
        alpha = emit + _log_sum(alpha, one, two + jump)
        return alpha, alpha

    # Before the first frame a path stands in front of the first blank and may skip it.
    first = jnp.where(jnp.arange(emit.shape[2])[None] < 2, emit[:, 0], NEVER)
    _, later = jax.lax.scan(step, first, jnp.moveaxis(emit[:, 1:], 1, 0))
    return jnp.concatenate([first[:, None], jnp.moveaxis(later, 0, 1)], axis=1)


def _log_sum(*terms):
    """ln(e^a + e^b + ..), finite where all terms are NEVER."""
    largest = functools.reduce(jnp.maximum, terms)
    return largest + jnp.log(sum(jnp.exp(term - largest) for term in terms))


def _loss(alpha, lengths, label_length):
    """A path ends in the last character or in the blank behind it."""
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    final = jnp.take_along_axis(alpha, last, axis=1)[:, 0]
    state = jnp.arange(final.shape[1])[None]
    ends = (state == 2 * label_length[:, None]) | (state == 2 * label_length[:, None] - 1)
    return -jax.nn.logsumexp(jnp.where(ends, final, NEVER), axis=1)


def _reversed(x, counts, axis):
    """The first counts[b] entries along an axis in reverse order, the others in place."""
    place = jnp.arange(x.shape[axis])[None]
    place = jnp.where(place < counts[:, None], counts[:, None] - 1 - place, place)
    shape = [-1 if a in (0, axis) else 1 for a in range(x.ndim)]
    shape[0], shape[axis] = place.shape
    return jnp.take_along_axis(x, place.reshape(shape), axis=axis)


def greedy(logits, lengths):
    """Best class of each frame, i32[B, S]; 0 (blank) past the length. Merging repeats is
    `collapse`.
    """
    ids = jnp.argmax(logits, -1).astype(jnp.int32)
    return jnp.where(jnp.arange(ids.shape[1])[None, :] < lengths[:, None], ids, 0)


def confidence(logits):
    """Probability of the best class of each frame, f32[B, S] in (0, 1]."""
    logits = logits.astype(jnp.float32)
    return jnp.exp(jnp.max(logits, -1) - jax.nn.logsumexp(logits, -1))


OUTSIDE = 2**30  # a place behind every line: updates there are dropped


def collapse(ids, confidence, length):
    """Best paths -> characters, a reading as `decoders.Decoder` says. Of each run of equal classes
    the first frame and the highest confidence; of a line without characters the mean over its
    blanks.

    ids i32[B, S] with 0 past the length, confidence f32[B, S], length i32[B]: see `greedy`.
    """
    frames = jnp.arange(ids.shape[1])

    def line(ids, confidence, length):
        begins = (ids != 0) & (ids != jnp.pad(ids, (1, 0))[:-1])
        place = jnp.where(ids != 0, jnp.cumsum(begins) - 1, OUTSIDE)  # blanks fall out
        count = begins.sum()
        chars = jnp.zeros_like(ids).at[place].max(ids, mode="drop")
        sure = jnp.zeros_like(confidence).at[place].max(confidence, mode="drop")
        first = jnp.full_like(ids, OUTSIDE).at[place].min(frames, mode="drop")
        blank = jnp.where(frames < length, confidence, 0.0).sum() / jnp.maximum(length, 1)
        return {
            "ids": chars,
            "length": count.astype(jnp.int32),
            "confidence": sure,
            "frame": jnp.where(frames < count, first, 0),
            "line": jnp.where(count > 0, sure.sum() / jnp.maximum(count, 1), blank),
        }

    return jax.vmap(line)(ids, confidence, length)
