"""Attention reader: a GRU that looks at all frames anew for each character.

| paper | equation | here |
|---|---|---|
| Bahdanau et al. 2015 (1409.0473) | 3.1: e = v tanh(W s + U h), weights, context | `step` |
| Chorowski et al. 2015 (1506.07503) | 8, 9: f = F * (last weights), in the energy | `windows` |
| Cho et al. 2014 (1406.1078) | gated recurrent unit, reset behind the product | `Gru` |

The unit resets behind the product, as cuDNN's does.

The reader is the one of Shi et al. 2016 and of the "attention" rows of scene text tables (Baek et
al. 2019), with a GRU for their LSTM. Its last position helps it through a line: letters repeat, and
content alone cannot tell the second from the first.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax.models.decoders.autoregressive import Reader, embedding, real_frames
from dig_jax.models.heads import dropped
from dig_jax.models.layers import Dense


class Gru(nn.Module):
    """One step of a gated recurrent unit: (x f32[B, D], hidden f32[B, H]) -> f32[B, H]."""

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, hidden):
        given = Dense(3 * self.features, dtype=self.dtype, name="input")(x)
        kept = Dense(3 * self.features, dtype=self.dtype, name="recurrent")(hidden)
        given, kept = jnp.split(given, 3, -1), jnp.split(kept, 3, -1)
        reset, update = (jax.nn.sigmoid(a + b) for a, b in zip(given[:2], kept[:2]))
        return update * hidden + (1 - update) * jnp.tanh(given[2] + reset * kept[2])


class AttentionReader(Reader):
    """See the module and `autoregressive.py`. hidden: units of the GRU and of the energies.

    reach: frames to each side whose last weights the energy of a frame is told.
    """

    charset_size: int
    hidden: int = 256
    reach: int = 7
    dropout: float = 0.0
    dtype: str = "float32"

    def setup(self):
        dense = lambda features, **options: Dense(features, dtype=self.dtype, **options)
        self.characters = embedding(self, self.charset_size, self.hidden)
        self.value, self.key = dense(self.hidden), dense(self.hidden)
        self.query = dense(self.hidden, use_bias=False)
        self.place = dense(self.hidden, use_bias=False)
        self.energy = dense(1, use_bias=False)
        self.gru = Gru(self.hidden, self.dtype)
        self.classify = dense(self.charset_size)

    def memory(self, frames, length, key=None, number=None):
        frames = dropped(frames, self.dropout, key, 0)
        values, keys = self.value(frames), self.key(frames)
        return {"values": values, "keys": keys, "real": real_frames(frames, length)}

    def start(self, memory):
        seen = jnp.zeros(memory["real"].shape)
        return {"hidden": jnp.zeros((seen.shape[0], self.hidden)), "seen": seen}

    def step(self, memory, state, ids, place):
        query = self.query(state["hidden"])[:, None]
        shown = self.place(windows(state["seen"], self.reach))
        energy = self.energy(jnp.tanh(memory["keys"] + query + shown))[..., 0]
        weights = jax.nn.softmax(jnp.where(memory["real"], energy, -jnp.inf))
        context = jnp.einsum("bs,bsd->bd", weights, memory["values"], precision="highest")
        read = jnp.concatenate([self.characters[ids], context], -1)
        hidden = self.gru(read, state["hidden"])
        # The state alone would have to carry the frame through the gates.
        return {"hidden": hidden, "seen": weights}, jnp.concatenate([hidden, context], -1), weights


def windows(weights, reach: int):
    """weights f32[B, S] -> those of the frames around each frame, f32[B, S, 2 * reach + 1]."""
    count = weights.shape[1]
    padded = jnp.pad(weights, ((0, 0), (reach, reach)))
    return jnp.stack([padded[:, i : i + count] for i in range(2 * reach + 1)], -1)
