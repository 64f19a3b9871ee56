"""Glimpse reader: one recurrent network reads glimpses, a second one chooses the next place.

| paper | part | here |
|---|---|---|
| Mnih et al. 2014, RAM (1406.6247) | glimpses of several scales, "what" times "where" | `glimpse` |
| Ba et al. 2015, DRAM (1412.7755) | section 2: its networks | `memory`, `start`, `look`, `step` |
| Gregor et al. 2015, DRAW (1502.04623) | section 3.2: filters around a learned centre | `filters` |

DRAM's networks are those of context, glimpse, two recurrences, emission and classification.

Departures. Places are frames of a line instead of pixels of a picture, so the reader stands on any
encoder. On an encoder without layers it reads patches. A place is where the last one was plus a
step. The first network is told the last character, as the other readers are. The end of a line is a
class of its own, as in DRAM.

Soft, not REINFORCE. A glimpse is a mean of frames under a Gaussian, so the loss has a gradient with
respect to each place. The whole reader learns by back-propagation from -log p(label | line), the
loss of the other readers. REINFORCE would estimate the same gradient from sampled places, and its
variance grows with their number: a line has about a hundred. What a hard glimpse would save,
computing features of few places, is spent here by the encoder already.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax.models.decoders.attention import Gru
from dig_jax.models.decoders.autoregressive import Reader, embedding, real_frames
from dig_jax.models.heads import dropped
from dig_jax.models.layers import Dense


class GlimpseReader(Reader):
    """See the module and `autoregressive.py`. hidden: units of each network.

    glimpses: before each character. scales: distance between the filters of a glimpse, in frames,
    and their spread. taps: filters of a scale. stride: frames that an untrained reader steps on
    for each character. reach: the longest step.
    """

    charset_size: int
    hidden: int = 256
    glimpses: int = 2
    scales: tuple[float, ...] = (1.0, 4.0)
    taps: int = 5
    stride: float = 3.0
    reach: float = 12.0
    dropout: float = 0.0
    dtype: str = "float32"

    def setup(self):
        dense = lambda features, **options: Dense(features, dtype=self.dtype, **options)
        self.characters = embedding(self, self.charset_size, self.hidden)
        self.value, self.context = dense(self.hidden), dense(self.hidden)
        self.what = dense(self.hidden)
        self.where = dense(self.hidden, bias_init=nn.initializers.ones)
        self.reader, self.chooser = Gru(self.hidden, self.dtype), Gru(self.hidden, self.dtype)
        self.emission = dense(1, kernel_init=nn.initializers.normal(1e-3))
        self.classify = dense(self.charset_size)

    def memory(self, frames, length, key=None, number=None):
        values = self.value(dropped(frames, self.dropout, key, 0))
        last = (length - 1).astype(jnp.float32)
        return {"values": values, "real": real_frames(frames, length), "last": last}

    def start(self, memory):
        """The chooser has had one look at the whole line (DRAM's context network)."""
        real = memory["real"][..., None]
        mean = jnp.where(real, memory["values"], 0.0).sum(1) / real.sum(1)
        rows = mean.shape[0]
        state = {"reading": jnp.zeros((rows, self.hidden)), "place": jnp.zeros(rows)}
        return state | {"choosing": jnp.tanh(self.context(mean))}

    def step(self, memory, state, ids, place):
        for _ in range(self.glimpses):
            state = self.look(memory, state, ids)
        weights = filters(state["place"], memory["real"], (1.0,), 1)[:, 0]
        return state, state["reading"], weights

    def look(self, memory, state, ids):
        """The chooser moves the place, the reader reads a glimpse there."""
        step = self.emission(state["choosing"])[:, 0]
        step = self.reach * jnp.tanh(step + self.stride / (self.reach * self.glimpses))
        place = state["place"] + step
        # A place beyond an end is moved to it; the gradient that would move it back goes through.
        place = place + jax.lax.stop_gradient(jnp.clip(place, 0.0, memory["last"]) - place)
        seen = self.glimpse(memory, place)
        reading = self.reader(jnp.concatenate([seen, self.characters[ids]], -1), state["reading"])
        choosing = self.chooser(reading, state["choosing"])
        return {"reading": reading, "choosing": choosing, "place": place}

    def glimpse(self, memory, place):
        """What is seen at a place f32[B], times where it is: f32[B, hidden]."""
        weights = filters(place, memory["real"], self.scales, self.taps)
        seen = jnp.einsum("bks,bsd->bkd", weights, memory["values"], precision="highest")
        what = jax.nn.relu(self.what(seen.reshape(seen.shape[0], -1)))
        last = jnp.maximum(memory["last"], 1.0)
        near_end = jnp.exp((place - memory["last"]) / 4.0)
        return what * self.where(jnp.stack([place / last, near_end], -1))


def filters(place, real, scales, taps: int):
    """Gaussian weights over frames around places f32[B]: f32[B, len(scales) * taps, S], sums of 1.

    Those of one scale stand `scale` frames apart and are half as wide. real bool[B, S].
    """
    frame = jnp.arange(real.shape[1], dtype=jnp.float32)[None, None]
    result = []
    for scale in scales:
        offset = scale * (jnp.arange(taps) - (taps - 1) / 2)
        distance = frame - (place[:, None] + offset[None])[..., None]
        logits = jnp.where(real[:, None], -0.5 * jnp.square(distance / (0.5 * scale)), -jnp.inf)
        result.append(jax.nn.softmax(logits))
    return jnp.concatenate(result, 1)
