"""Connectionist temporal classification (Graves et al., ICML 2006): head, loss, greedy reading.

Class 0 is the blank.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dig_jax.models.heads import BiLstm
from dig_jax.models.layers import Dense


class CtcHead(nn.Module):
    """(frames [B, S, F], lengths i32[B]) -> logits f32[B, S, V], V = charset_size, the blank
    included.

    kind "linear": one dense layer. kind "bilstm": `layers` bidirectional LSTMs of `hidden` units
    each way, then dense.
    """

    charset_size: int
    kind: str = "linear"
    hidden: int = 256
    layers: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, frames, lengths):
        if self.kind not in ("linear", "bilstm"):
            raise ValueError(f"head={self.kind!r} is not known: write 'linear' or 'bilstm'.")
        if self.kind == "bilstm":
            frames = BiLstm(self.hidden, self.layers, self.dtype, name="lstm")(frames, lengths)
        return Dense(self.charset_size, dtype=self.dtype, name="classify")(frames)


def ctc_loss(logits, lengths, label, label_length):
    """Negative log likelihood of each label, summed over its alignments.

    logits f32[B, S, V], lengths i32[B] (real frames), label i32[B, L] (0 past the length),
    label_length i32[B] -> (loss f32[B] >= 0 in nats a line, feasible bool[B]). A label needs one
    frame a character and one more between two equal neighbours; a line with fewer frames has no
    alignment: feasible False, loss 0, gradient 0. An empty label is feasible and asks for blanks
    only.
    """
    used = jnp.arange(label.shape[1])[None, :] < label_length[:, None]
    repeats = jnp.sum((label[:, 1:] == label[:, :-1]) & used[:, 1:], 1)
    feasible = lengths >= jnp.maximum(label_length + repeats, 1)
    logits = logits.astype(jnp.float32)
    frame_padding = (jnp.arange(logits.shape[1])[None, :] >= lengths[:, None]).astype(jnp.float32)
    loss = optax.ctc_loss(
        logits, frame_padding, jnp.where(used, label, 0), 1.0 - used.astype(jnp.float32), blank_id=0
    )
    return jnp.where(feasible, loss, 0.0), feasible


def greedy(logits, lengths):
    """Best class of each frame, i32[B, S]; 0 (blank) past the length. Merging repeats is
    `Charset.ctc_collapse`.
    """
    ids = jnp.argmax(logits, -1).astype(jnp.int32)
    return jnp.where(jnp.arange(ids.shape[1])[None, :] < lengths[:, None], ids, 0)


def confidence(logits):
    """Probability of the best class of each frame, f32[B, S] in (0, 1]."""
    logits = logits.astype(jnp.float32)
    return jnp.exp(jnp.max(logits, -1) - jax.nn.logsumexp(logits, -1))


def spans(ids, length):
    """Where each character of a best path lies: (class, first frame, end frame), i64[n] each.

    ids i32[S], of which the first `length` are real. The classes are those of
    `Charset.ctc_collapse`; a character's frames are the run of its class.
    """
    frames = np.asarray(ids, np.int64)[: max(0, int(length))]
    starts = np.flatnonzero(np.diff(frames, prepend=-1))
    stops = np.append(starts[1:], len(frames))[: len(starts)]
    real = frames[starts] != 0
    return frames[starts][real], starts[real], stops[real]


def character_confidence(ids, frame_confidence, length):
    """Confidence of each character of a best path, f64[n]: the highest among its frames."""
    _, starts, stops = spans(ids, length)
    sure = np.asarray(frame_confidence, np.float64)
    return np.array([sure[start:stop].max() for start, stop in zip(starts, stops)])


def line_confidence(ids, frame_confidence, length):
    """Mean over the characters of a best path; where it reads nothing, mean over its blanks."""
    chars = character_confidence(ids, frame_confidence, length)
    values = chars if len(chars) else np.asarray(frame_confidence)[: max(0, int(length))]
    return float(values.mean()) if len(values) else 0.0
