"""Transformer reader (Vaswani et al. 2017, 1706.03762; pre-norm), with a cache in reading.

In training all places of a label are read at once under a causal mask (`parallel`). In reading one
step handles one place: keys and values of earlier places, and those of the frames, are kept. Both
forms compute the same.

Frames bring no column of their own from a CNN, so sine codes are added to them as to the
characters: of their column, or behind a shortcut of the number of characters in front of them. (As
long as CTC reads blanks only, that is 0 everywhere, and frames are told apart by content alone.)
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dig_jax.models.decoders.autoregressive import Reader, embedding, real_frames
from dig_jax.models.heads import dropped
from dig_jax.models.layers import Dense, LayerNorm, along_last, compute_dtype, dot_f32acc, gelu


class Layer(nn.Module):
    """Causal self-attention, attention to the frames, feed-forward; each behind a norm and
    added."""

    width: int
    heads: int
    inner: int
    dtype: str

    def setup(self):
        dense = lambda features: Dense(features, dtype=self.dtype)
        self.norm1, self.norm2, self.norm3 = LayerNorm(), LayerNorm(), LayerNorm()
        self.own, self.own_out = dense(3 * self.width), dense(self.width)
        self.query, self.shown, self.out = (
            dense(self.width),
            dense(2 * self.width),
            dense(self.width),
        )
        self.fc1, self.fc2 = dense(self.inner), dense(self.width)

    def frames(self, x):
        """Keys and values of the frames, computed once: two f32[B, S, heads, head dim]."""
        return tuple(map(self._by_head, jnp.split(self.shown(x), 2, -1)))

    def __call__(self, x, frames, real, cache=None, place=None):
        """x f32[B, T, D] -> (x, cache, weights f32[B, T, S] over the frames).

        cache: keys and values of all places, of which those before `place` are filled; x then is
        this one place.
        """
        query, *own = map(self._by_head, jnp.split(self.own(self.norm1(x)), 3, -1))
        if cache is None:
            places = jnp.arange(x.shape[1])
            known = places[None, :] <= places[:, None]  # (T, T)
        else:
            put = lambda kept, new: jax.lax.dynamic_update_slice_in_dim(kept, new, place, 1)
            own = cache = tuple(map(put, cache, own))
            known = (jnp.arange(own[0].shape[1]) <= place)[None]  # (1, T)
        x = x + self.own_out(_attend(query, *own, known[None], self.dtype)[0])
        query = self._by_head(self.query(self.norm2(x)))
        seen, weights = _attend(query, *frames, real[:, None], self.dtype)
        x = x + self.out(seen)
        x = x + self.fc2(gelu(self.fc1(self.norm3(x))))
        return x, cache, weights

    def _by_head(self, x):
        return x.reshape(*x.shape[:-1], self.heads, -1)


def _attend(query, key, value, known, dtype):
    """query [B, T, heads, d], key and value [B, S, heads, d], known bool[B or 1, T or 1, S].

    Returns (f32[B, T, heads * d], mean weights over the heads f32[B, T, S])."""
    dtype = compute_dtype(dtype)
    query = query * query.shape[-1] ** -0.5
    logits = dot_f32acc(query, key, (((3,), (3,)), ((0, 2), (0, 2))), dtype)  # (B, heads, T, S)
    weights = jax.nn.softmax(jnp.where(known[:, None], logits, -jnp.inf))
    out = dot_f32acc(weights, value, (((3,), (1,)), ((0, 1), (0, 2))), dtype)
    out = out.transpose(0, 2, 1, 3)
    return out.reshape(*out.shape[:2], -1), weights.mean(1)


class TransformerReader(Reader):
    """See the module and `autoregressive.py`. width, depth, heads, inner: of the decoder's layers;
    inner is the width of their feed-forward part."""

    charset_size: int
    width: int = 256
    depth: int = 2
    heads: int = 4
    inner: int = 1024
    dropout: float = 0.0
    dtype: str = "float32"

    def setup(self):
        if self.width % (2 * self.heads):
            raise ValueError(
                f"a decoder width of {self.width} does not divide into {self.heads} heads of an "
                "even width: set width and heads in config.method.heads"
            )
        self.characters = embedding(self, self.charset_size, self.width)
        self.frame = Dense(self.width, dtype=self.dtype)
        self.frame_norm, self.norm = LayerNorm(), LayerNorm()
        self.layers = [
            Layer(self.width, self.heads, self.inner, self.dtype) for _ in range(self.depth)
        ]
        self.classify = Dense(self.charset_size, dtype=self.dtype)

    def memory(self, frames, length, key=None, number=None):
        x = self.frame_norm(self.frame(dropped(frames, self.dropout, key, 0)))
        places = jnp.arange(x.shape[1])[None] if number is None else number
        x = x + codes(places, self.width)
        frames = [layer.frames(x) for layer in self.layers]
        return {"frames": frames, "real": real_frames(x, length)}

    def start(self, memory):
        """Empty keys and values of every layer, for a character a frame and the end."""
        rows, frames = memory["real"].shape
        empty = jnp.zeros((rows, frames + 1, self.heads, self.width // self.heads))
        return [(empty, empty) for _ in self.layers]

    def step(self, memory, state, ids, place):
        x = self._embedded(ids[:, None], jnp.asarray(place)[None])
        kept = []
        for layer, frames, cache in zip(self.layers, memory["frames"], state):
            x, cache, weights = layer(x, frames, memory["real"], cache, place)
            kept.append(cache)
        return kept, self.norm(x)[:, 0], weights[:, 0]

    def parallel(self, memory, ids, key=None):
        """All places at once: (hidden f32[B, T, D], weights f32[B, T, S])."""
        x = dropped(self._embedded(ids, jnp.arange(ids.shape[1])), self.dropout, key, 2)
        for layer, frames in zip(self.layers, memory["frames"]):
            x, _, weights = layer(x, frames, memory["real"])
        return self.norm(x), weights

    def _embedded(self, ids, places):
        # Rows of length 1, as the sine codes have, would drown in them.
        return self.characters[ids] * self.width**0.5 + codes(places, self.width)[None]


def codes(places, dim: int):
    """Sine and cosine of each place [...] at `dim / 2` frequencies: f32[..., dim]."""
    frequency = 10000.0 ** (-jnp.arange(dim // 2) / (dim // 2))
    angle = places.astype(jnp.float32)[..., None]
    angle = angle * along_last(frequency, angle)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)
