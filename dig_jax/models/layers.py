"""Layers that several networks share: dense with float32 accumulation, layer norm, drop path, GELU,
position codes.

Parameters are float32. `dtype` is the type that goes *into* matrix products. Norms, softmax, biases
and residual sums stay in float32, which is standard mixed precision on every device.
"bfloat16_stored" also passes results between the layers of a block in bfloat16: those of its norms,
queries, keys and values, attention, the hidden layer, and their biases. They take half the memory
and half the memory bandwidth, where an accelerator waits for its memory rather than for its matrix
units.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

DTYPES = ("float32", "bfloat16", "bfloat16_stored")
xavier_uniform = nn.initializers.xavier_uniform()


def compute_dtype(name: str) -> Any:
    """Type of matrix-product operands. ValueError for a name that is none of DTYPES.

    "auto" is none either: `encoders.resolve` replaces it before anything is traced.
    """
    if name not in DTYPES:
        raise ValueError(
            f"dtype={name!r} is not known: set config.method.encoder.dtype to 'auto' or one of "
            f"{', '.join(DTYPES)}"
        )
    return jnp.dtype(name.removesuffix("_stored"))


def stored_dtype(name: str) -> Any:
    """Type in which the widest results of a block pass from layer to layer: float32, or bfloat16
    for "bfloat16_stored".
    """
    return jnp.dtype("bfloat16" if name == "bfloat16_stored" else "float32")


def uniform_fan_in(gain: float = 1.0):
    """Initialiser uniform(+-gain / sqrt(fan_in)) for kernels f32[fan_in, fan_out]; PyTorch's
    default for Linear.
    """

    def init(key, shape, dtype=jnp.float32):
        bound = gain / np.sqrt(shape[0])
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


# ---- matrix products -----------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dot(lhs, rhs, dimension_numbers, out):
    """lax.dot_general of operands rounded to bfloat16, accumulated in float32 and returned in
    `out`.
    """
    lhs, rhs = lhs.astype(jnp.bfloat16), rhs.astype(jnp.bfloat16)
    return lax.dot_general(lhs, rhs, dimension_numbers, preferred_element_type=out)


def _dot_forward(lhs, rhs, dimension_numbers, out):
    # Only the rounded operands are kept: they are all the backward products read, at half the
    # memory. The empty arrays carry the callers' dtypes.
    rounded = lhs.astype(jnp.bfloat16), rhs.astype(jnp.bfloat16)
    result = lax.dot_general(*rounded, dimension_numbers, preferred_element_type=out)
    return result, (*rounded, jnp.zeros((0,), lhs.dtype), jnp.zeros((0,), rhs.dtype))


def _free(ndim, contracted, batch):
    return [d for d in range(ndim) if d not in contracted and d not in batch]


def _dot_backward(dimension_numbers, out, kept, cotangent):
    lhs, rhs, lhs_like, rhs_like = kept
    (lc, rc), (lb, rb) = dimension_numbers
    # Rounding the cotangent first keeps the two backward products on the bfloat16 units as well;
    # with a float32 operand XLA's CPU backend falls back to plain float32 speed (a factor of two on
    # a training step).
    g = cotangent.astype(jnp.bfloat16)
    batch = list(range(len(lb)))
    lhs_free, rhs_free = _free(lhs.ndim, lc, lb), _free(rhs.ndim, rc, rb)
    g_lhs = [len(batch) + i for i in range(len(lhs_free))]
    g_rhs = [len(batch) + len(lhs_free) + i for i in range(len(rhs_free))]
    # A product leaves (batch, free of its left, free of its right operand); what is free of the
    # other operand here are its contracted dimensions, in rising order. With the cotangent on the
    # side where it stood, the usual products (dense layer, attention) need no transposition, and
    # XLA's CPU backend refuses some transposed bfloat16 products.
    d_lhs = lax.dot_general(
        g, rhs, ((g_rhs, rhs_free), (batch, rb)), preferred_element_type=lhs_like.dtype
    )
    d_lhs = jnp.transpose(d_lhs, np.argsort([*lb, *lhs_free, *(lc[i] for i in np.argsort(rc))]))
    d_rhs = lax.dot_general(
        lhs, g, ((lhs_free, g_lhs), (lb, batch)), preferred_element_type=jnp.float32
    )
    d_rhs = jnp.transpose(d_rhs, np.argsort([*rb, *(rc[i] for i in np.argsort(lc)), *rhs_free]))
    return d_lhs.astype(lhs_like.dtype), d_rhs.astype(rhs_like.dtype)


_dot.defvjp(_dot_forward, _dot_backward)


def dot_f32acc(lhs, rhs, dimension_numbers, dtype=jnp.bfloat16, out=jnp.float32):
    """lax.dot_general whose products are taken in `dtype` and summed in float32, forwards and
    backwards.

    Operands of any float type; returns float32, or with dtype=bfloat16 what `out` says (rounded
    once, after the sum). With dtype=bfloat16 all three products of a training step are bfloat16 x
    bfloat16 -> float32, and the gradient of a float32 weight is never rounded. With float32 it is
    the plain product, whatever an accelerator would make of it by default (bfloat16 on a TPU, TF32
    on a GPU).
    """
    (lc, rc), (lb, rb) = dimension_numbers
    if jnp.dtype(dtype) == jnp.bfloat16:
        return _dot(lhs, rhs, ((tuple(lc), tuple(rc)), (tuple(lb), tuple(rb))), out)
    if lhs.ndim > 2 and not lb and tuple(lc) == (lhs.ndim - 1,):
        # All rows in one dimension: XLA's CPU backend needs up to twice the time for the float32
        # gradients of a product with several (docs/performance.md). Its bfloat16 products are the
        # other way round.
        flat = dot_f32acc(lhs.reshape(-1, lhs.shape[-1]), rhs, (((1,), rc), ((), ())), dtype)
        return flat.reshape(*lhs.shape[:-1], *flat.shape[1:])
    lhs, rhs = lhs.astype(dtype), rhs.astype(dtype)
    return lax.dot_general(
        lhs, rhs, dimension_numbers, precision="highest", preferred_element_type=jnp.float32
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dots(lhs, rhs, parts, out):
    return _dots_forward(lhs, rhs, parts, out)[0]


def _dots_forward(lhs, rhs, parts, out):
    rounded = lhs.astype(jnp.bfloat16), rhs.astype(jnp.bfloat16)
    results = tuple(
        lax.dot_general(rounded[0], part, _rows(lhs), preferred_element_type=out)
        for part in jnp.split(rounded[1], parts, 1)
    )
    return results, (*rounded, jnp.zeros((0,), lhs.dtype), jnp.zeros((0,), rhs.dtype))


def _dots_backward(parts, out, kept, cotangents):
    g = jnp.concatenate([g.astype(jnp.bfloat16) for g in cotangents], -1)
    return _dot_backward(_rows(kept[0]), out, kept, g)


_dots.defvjp(_dots_forward, _dots_backward)


def dots_f32acc(lhs, rhs, parts, dtype=jnp.bfloat16, out=jnp.float32):
    """`parts` results of dot_f32acc: lhs [..., in] times each of the equal blocks of columns of rhs
    [in, parts * D].

    In bfloat16 each block is a product of its own, so that nothing is cut out of a wide result.
    Backwards they are one product.
    """
    if jnp.dtype(dtype) == jnp.bfloat16:
        return _dots(lhs, rhs, parts, out)
    return tuple(jnp.split(dot_f32acc(lhs, rhs, _rows(lhs), dtype, out), parts, -1))


def _rows(lhs):
    """Dimension numbers of rows [..., in] times a matrix [in, D]."""
    return ((lhs.ndim - 1,), (0,)), ((), ())


@jax.custom_vjp
def add_bias(x, bias):
    """x [..., D] + bias f32[D], in x's dtype, so that XLA can make it a part of the product. The
    gradient of the bias is summed in float32."""
    return x + along_last(bias.astype(x.dtype), x)


def _bias_backward(_, cotangent):
    rows = tuple(range(cotangent.ndim - 1))
    return cotangent, jnp.sum(cotangent.astype(jnp.float32), rows)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), _bias_backward)


class Dense(nn.Module):
    """Affine map of the last axis: [..., in] -> [..., features]. `dtype` is the type of the
    product's operands, `out` that of the result. parts: so many results of equal width, with no
    bias."""

    features: int
    use_bias: bool = True
    dtype: str = "float32"
    kernel_init: Any = xavier_uniform
    bias_init: Any = nn.initializers.zeros
    out: Any = jnp.float32
    parts: int = 1

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        dtype = compute_dtype(self.dtype)
        if self.parts > 1:
            return dots_f32acc(x, kernel, self.parts, dtype, self.out)
        out = dot_f32acc(x, kernel, _rows(x), dtype, self.out)
        if self.use_bias:
            out = add_bias(out, self.param("bias", self.bias_init, (self.features,), jnp.float32))
        return out


def along_last(vector, like):
    """vector [D] shaped to multiply or add to `like` [..., D]; rank promotion is an error in this
    project.
    """
    return vector.reshape((1,) * (like.ndim - 1) + (-1,))


# ---- normalisation, activation, regularisation ---------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _layer_norm(x, scale, bias, epsilon, out):
    return _layer_norm_forward(x, scale, bias, epsilon, out)[0]


def _layer_norm_forward(x, scale, bias, epsilon, out):
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, -1, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), -1, keepdims=True)
    inverse = lax.rsqrt(variance + epsilon)
    result = (wide - mean) * inverse * along_last(scale, x) + along_last(bias, x)
    return result.astype(out), (x, mean, inverse, scale)


def _layer_norm_backward(epsilon, out, kept, cotangent):
    # The barrier keeps the normalised rows from being shared with the forward pass, which would
    # store them: 4 bytes a number written and read again, a quarter of a norm's traffic.
    x, mean, inverse, scale, g = lax.optimization_barrier((*kept, cotangent))
    g = g.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse
    rows = tuple(range(x.ndim - 1))
    d_scale, d_bias = jnp.sum(g * normal, rows), jnp.sum(g, rows)
    g = g * along_last(scale, x)
    d_x = g - jnp.mean(g, -1, keepdims=True) - normal * jnp.mean(g * normal, -1, keepdims=True)
    return (d_x * inverse).astype(x.dtype), d_scale, d_bias


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nn.Module):
    """Layer norm over the last axis in float32, [..., D] -> [..., D] of type `out`; two-pass
    variance, so large means are safe. The backward pass reads x, not the normalised rows.
    """

    epsilon: float = 1e-6
    out: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return _layer_norm(x, scale, bias, self.epsilon, self.out)


def _gelu(x, form):
    # Half-precision tanh and erf are several times slower than float32 on CPUs and no faster
    # elsewhere. jax.nn.gelu takes erfc, which costs a GPU more than the passage over memory.
    wide = x.astype(jnp.float32)
    if form == "exact":
        share = 0.5 * (1.0 + lax.erf(wide * np.float32(np.sqrt(0.5))))
    elif form == "tanh":
        inner = np.float32(np.sqrt(2.0 / np.pi)) * (wide + 0.044715 * wide**3)
        share = 0.5 * (1.0 + jnp.tanh(inner))
    else:
        raise ValueError(f"gelu={form!r} is not known: write 'exact' or 'tanh'.")
    return (wide * share).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x, form: str = "exact"):
    """GELU, "exact" (erf) or "tanh" (the usual approximation, off by at most 5e-4), computed in
    float32, x's dtype. The backward pass reads x alone. ValueError for another form.
    """
    return _gelu(x, form)


def _gelu_backward(form, x, cotangent):
    # Barriers, as in the layer norm: nothing wide is stored for it, and it hands on x's dtype.
    x, cotangent = lax.optimization_barrier((x, cotangent))
    _, pull = jax.vjp(functools.partial(_gelu, form=form), x)
    return lax.optimization_barrier(pull(cotangent))


gelu.defvjp(lambda x, form: (_gelu(x, form), x), _gelu_backward)


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drops a whole line's branch with probability `rate`,
    scales the others.

    x [B, ...], rate f32[] in [0, 1) (may be traced, so that scanned blocks can differ). Needs the
    rng "drop_path".
    """

    @nn.compact
    def __call__(self, x, rate):
        keep = 1.0 - rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("drop_path"), keep, shape)
        return jnp.where(kept, x / keep, 0.0)


# ---- position codes ------------------------------------------------------------------------------


def _wave(position, dim: int):
    """position [...] -> angles f32[..., dim], frequencies 10000^(-k/dim) for k < dim."""
    frequency = jnp.asarray(10000.0 ** (-np.arange(dim) / dim), jnp.float32)
    return position.astype(jnp.float32)[..., None] * frequency.reshape((1,) * position.ndim + (-1,))


def sincos_2d(rows, cols, dim: int):
    """Separable 2-D code of MAE and MoCo v3: f32[..., dim] for coordinates rows, cols (float, same
    shape [...]).

    Four quarters: sin(col), cos(col), sin(row), cos(row), each with frequencies 10000^(-k/(dim/4)).
    """
    if dim % 4:
        raise ValueError(
            f"The width {dim} does not divide by 4, which the sincos_2d position code needs."
        )
    col, row = _wave(cols, dim // 4), _wave(rows, dim // 4)
    return jnp.concatenate([jnp.sin(col), jnp.cos(col), jnp.sin(row), jnp.cos(row)], -1)


def sincos_flat(n, dim: int):
    """DiG's 1-D code of a flat token index n (numpy [...]): f32[..., dim], even channels sin, odd
    cos (interleaved).

    Channel j has the angle n / 10000^(2 * floor(j / 2) / dim).
    """
    if dim % 2:
        raise ValueError(f"The width {dim} is odd; the flat_1d position code needs an even one.")
    # In float64, like the original: an angle of 255 rounded to float32 would be off by 1e-5, which
    # is enough to move ReLUs behind batch norms to their other side and so single gradients by
    # parts in a thousand.
    angle = n[..., None] / 10000.0 ** (2 * np.arange(dim // 2) / dim)
    codes = np.stack([np.sin(angle), np.cos(angle)], -1)
    return jnp.asarray(codes.reshape(*n.shape, dim), jnp.float32)
