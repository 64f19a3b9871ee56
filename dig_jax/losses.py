"""The loss library, for the methods here and for those who compose their own. All is float32 and
knows nothing of networks.

    info_nce         2T * cross-entropy of cosine similarities   MoCo v3 (2104.02057) alg. 1; DiG
    nt_xent          cross-entropy among all rows of both views  SimCLR (2002.05709) eq. 1; SeqCLR
    queue_nce        cross-entropy against a queue of old keys   MoCo (1911.05722) eq. 1
    n_pair           cross-entropy of plain products             Sohn (NIPS 2016), N-pair-mc
    negative_cosine  minus the cosine of a pair                  SimSiam (2011.10566) eq. 1, BYOL
    distillation     cross-entropy with a sharpened teacher      DINO (2104.14294) eq. 2; CCD
    contrastive      squares of distance and of missing margin   Hadsell et al. (CVPR 2006) eq. 4
    triplet          hinge of a difference of squared distances  FaceNet (1503.03832) section 3.1
    masked_mse       mean square over chosen values              MAE, the pixel loss of DiG
    masked_l1        mean absolute value over chosen values      SimMIM (2111.09886)
    masked_smooth_l1 square near zero, absolute value beyond     data2vec (2202.03555); Huber 1964
    unit_std         collapse figure, no loss                    SimSiam section 4.1

Rows and `valid`: arguments are f32[M, K] unless said otherwise. Row i of one belongs to row i of
the others, and `valid` bool[M] says which rows are real (None: all). A row that is not real is no
query, key or negative, and does not count in the mean. Its gradient is 0, whatever stands in it,
NaN included. Without any real row a loss is 0. M counts the rows of all devices: under jit over a
mesh the values are those of one device.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

_TINY = 1e-12
# The logit of what may not be chosen; finite, because rows of nothing else would give inf - inf.
_NEVER = -1e30


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """x f32[..., K] scaled to length 1 along an axis; a vector shorter than 1e-12 becomes 0, with
    zero gradient.
    """
    square = jnp.sum(x * x, axis=axis, keepdims=True)
    return x * jnp.where(square > _TINY**2, jax.lax.rsqrt(jnp.maximum(square, _TINY**2)), 0.0)


# ---- one among many ----


def info_nce(
    q: jax.Array,
    k: jax.Array,
    temperature: float,
    valid: jax.Array | None = None,
    chunk: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Contrast of queries against keys: the positive of row i is row i, every other row of `k` is a
    negative.

    q, k         f32[M, K], any length (made unit here). The caller stops the gradient of `k`.
    temperature  T > 0. The result is multiplied by 2T, so that gradients keep their size when T
    moves.
    chunk        so many keys at a time: memory M * chunk instead of M * M, for four matrix
                 products instead of three.
    Returns      loss f32[] in nats, at random start about 2T ln M, and top-1 f32[], the share of
                 queries whose own key is nearest.
    """
    _require_positive("temperature", temperature, "set method.temperature, 0.2 in DiG")
    (q, k), valid = _real_rows(valid, q, k)
    loss, top1 = _cross_entropy(unit(q) / temperature, unit(k), valid, chunk)
    return 2.0 * temperature * loss, top1


def nt_xent(
    z1: jax.Array,
    z2: jax.Array,
    temperature: float,
    valid: jax.Array | None = None,
    chunk: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Normalised-temperature cross-entropy: each row of each view must find its partner among all
    rows but itself.

    z1, z2       f32[M, K], any length (made unit here); gradients flow into both.
    temperature  T > 0, 0.1 in SeqCLR.
    chunk        as in `info_nce`; memory 2M * chunk instead of 2M * 2M.
    Returns      loss f32[] in nats, the mean over the 2M anchors, at random start about
                 ln(2M - 1); and top-1 f32[]. SimCLR's own figure is twice this loss: it adds the
                 means of the two views.
    """
    _require_positive("temperature", temperature, "set method.temperature, 0.1 in SeqCLR")
    (z1, z2), valid = _real_rows(valid, z1, z2)
    rows = unit(jnp.concatenate([z1, z2]))
    return _cross_entropy(rows / temperature, rows, jnp.tile(valid, 2), chunk, shift=len(z1))


def line_contrast(
    context: jax.Array, target: jax.Array, hidden: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Contrast among places of the same line (wav2vec 2.0, arXiv 2006.11477, equation 3). Each
    hidden place must find its own target among the targets of all hidden places of its line.

    context, target   f32[B, S, K], any length (made unit here); gradients flow into both.
    hidden            bool[B, S]. A line with one hidden place alone has nothing to choose from and
                      does not count.
    Returns           loss f32[] in nats, the mean over hidden places, at random start about ln of
                      how many a line has; top-1 f32[]; and i32[], how many places the mean is over.
    """
    _require_positive("temperature", temperature, "set method.temperature, 0.1 in wav2vec 2.0")
    hidden = hidden & (hidden.sum(1, keepdims=True) > 1)
    c, q = (unit(x.astype(jnp.float32)) for x in (context, target))
    products = jnp.einsum("bsk,btk->bst", c, q, precision=jax.lax.Precision.HIGHEST)
    own = jnp.diagonal(products, axis1=1, axis2=2)[..., None]
    among = hidden[:, None, :]
    # The own product is taken off first: near zero loss the difference of two sums has no digits.
    over = jnp.where(among, (products - own) / temperature, -jnp.inf)
    over = jnp.where(hidden[:, :, None], over, 0.0)  # rows that do not count stay finite
    each = jax.nn.logsumexp(over, axis=-1)
    best = ((products <= own) | ~among).all(-1)
    return _mean(each, hidden), _mean(best.astype(jnp.float32), hidden), hidden.sum()


def n_pair(anchor: jax.Array, positive: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """mean_i log(1 + sum_{j != i} exp(a_i . p_j - a_i . p_i)), f32[]; at random start ln M for
    short vectors.

    anchor, positive f32[M, K], not made unit: the paper adds a penalty on their squared length,
    which is the caller's.
    """
    (anchor, positive), valid = _real_rows(valid, anchor, positive)
    return _cross_entropy(anchor, positive, valid)[0]


def queue_nce(
    q: jax.Array, k: jax.Array, queue: jax.Array, temperature: float, valid: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of [q_i . k_i, q_i . queue] / T with label 0; no row of the batch is a negative
    of another.

    q, k         f32[M, K], queue f32[Q, K], any length (made unit here). The caller stops the
                 gradient of `k`.
    temperature  T > 0, 0.07 in MoCo v1, 0.2 in v2.
    Returns      loss f32[] in nats, at random start about ln(1 + Q), and top-1 f32[], the share of
                 queries strictly nearer to their key than to all of the queue, so that a collapse
                 does not look like success.
    """
    _require_positive("temperature", temperature, "set method.temperature, 0.07 in MoCo")
    (q, k), valid = _real_rows(valid, q, k)
    rows = unit(q) / temperature
    positive = jnp.sum(rows * unit(k), axis=1)
    negative = _products(rows, unit(queue.astype(jnp.float32)))  # (M, Q)
    others = jax.nn.logsumexp(negative, axis=1)
    loss = jax.nn.softplus(others - positive)  # exact where it is near 0
    return _mean(loss, valid), _mean(positive > negative.max(axis=1), valid)


def _cross_entropy(rows, keys, real, chunk=None, shift=0):
    """-log softmax_j(row_i . key_j) at the positive j = i + shift (mod M), over the real keys: mean
    and top-1 of real rows.

    rows f32[M, K], divided by the temperature; keys f32[M, K]; real bool[M], of rows as of keys.
    With a shift, row i and key i are one vector and are not compared. -log softmax is
    ln(1 + sum of exp(negative - positive)): a difference of two logarithms would lose the digits of
    a loss near 0.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(
            f"chunk is {chunk}; set method.loss_chunk to at least 1 key a step, or None for all at "
            "once"
        )
    index = jnp.arange(len(keys))
    skip = index if shift else jnp.full_like(index, -1)
    own = jnp.roll(index, -shift)
    if chunk is None or chunk >= len(keys):
        others, _, nearest = _totals(rows, keys, index, real, skip, own)
    else:
        others, nearest = _chunked_totals(rows, keys, real, skip, own, chunk)
    positive = jnp.sum(rows * jnp.roll(keys, -shift, axis=0), axis=1)
    return _mean(jax.nn.softplus(others - positive), real), _mean(nearest == own, real)


def _totals(rows, keys, index, real, skip, own):
    """The negatives of each row among `keys`: all real keys except number `skip`. Returns log sum
    exp of the products with them, the largest product, and the number of that key.

    keys f32[N, K] have the numbers index i32[N]; skip i32[M], -1 for none; own i32[M]: the
    positive.
    """
    allowed = real[None, :] & (index[None, :] != skip[:, None])
    logits = jnp.where(allowed, _products(rows, keys), _NEVER)  # (M, N)
    negatives = jnp.where(index[None, :] == own[:, None], _NEVER, logits)
    nearest = index[jnp.argmax(logits, axis=1)]
    return jax.nn.logsumexp(negatives, axis=1), logits.max(axis=1), nearest


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _chunked_totals(rows, keys, real, skip, own, chunk):
    """`_totals` over `chunk` keys at a time: (log sum exp f32[M], nearest key i32[M]); largest
    buffer M x chunk.

    A chunk's share of the sum is exp(its log sum exp - that of all). The gradient is therefore that
    of `_totals`, chunk by chunk, times this share. JAX's own derivative of the loop would keep M
    numbers of every step: M^2 / chunk.
    """

    def step(carry, part):
        total, best, nearest = carry
        part_total, part_best, part_nearest = _totals(rows, *part, skip, own)
        nearest = jnp.where(part_best > best, part_nearest, nearest)
        return (jnp.logaddexp(total, part_total), jnp.maximum(best, part_best), nearest), None

    never = jnp.full_like(rows[:, 0], _NEVER)
    start = (never, never, jnp.zeros_like(skip))
    (total, _, nearest), _ = jax.lax.scan(step, start, _split(keys, real, chunk))
    return total, nearest


def _chunked_forward(rows, keys, real, skip, own, chunk):
    total, nearest = _chunked_totals(rows, keys, real, skip, own, chunk)
    return (total, nearest), (rows, keys, real, skip, own, total)


def _chunked_backward(chunk, saved, cotangents):
    rows, keys, real, skip, own, total = saved

    def step(grad_rows, part):
        part_keys, *rest = part
        part_total, pull = jax.vjp(
            lambda rows, keys: _totals(rows, keys, *rest, skip, own)[0], rows, part_keys
        )
        from_part, grad_keys = pull(cotangents[0] * jnp.exp(part_total - total))
        return grad_rows + from_part, grad_keys

    grad_rows, grad_keys = jax.lax.scan(step, jnp.zeros_like(rows), _split(keys, real, chunk))
    return grad_rows, grad_keys.reshape(-1, keys.shape[1])[: len(keys)], None, None, None


_chunked_totals.defvjp(_chunked_forward, _chunked_backward)


def _split(keys, real, chunk):
    """(keys, their numbers, which are real), each [steps, chunk, ...]; the last chunk is filled
    with keys that are not.
    """
    count = -(-len(keys) // chunk) * chunk
    fill = count - len(keys)
    filled = jnp.pad(keys, ((0, fill), (0, 0))), jnp.arange(count), jnp.pad(real, (0, fill))
    return tuple(x.reshape(-1, chunk, *x.shape[1:]) for x in filled)


def _products(rows, keys):
    """row_i . key_j, f32[M, N]; "highest": an accelerator's default of 8 bits is too coarse to
    divide by T.
    """
    return jnp.einsum("ik,jk->ij", rows, keys, precision="highest")


# ---- pairs and triples ----


def negative_cosine(p: jax.Array, z: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """-mean_i cos(p_i, z_i), f32[] in [-1, 1]. The caller stops gradients; SimSiam is half the sum
    of two of these.
    """
    (p, z), valid = _real_rows(valid, p, z)
    return -_mean(jnp.sum(unit(p) * unit(z), axis=1), valid)


def distillation(
    student: jax.Array,
    teacher: jax.Array,
    center: jax.Array,
    student_temperature: float,
    teacher_temperature: float | jax.Array,
    valid: jax.Array | None = None,
) -> jax.Array:
    """mean_i -sum_k softmax((t_i - c) / Tt)_k log softmax(s_i / Ts)_k, f32[] in nats; ln K when the
    student is uniform.

    student, teacher f32[M, K] logits, center f32[K]. The caller stops the gradient of the teacher
    and moves the centre. teacher_temperature may be a traced scalar, as a schedule makes it; DINO
    and CCD: Ts 0.1, Tt 0.04.
    """
    _require_positive("student temperature", student_temperature, "0.1 in DINO")
    _require_positive("teacher temperature", teacher_temperature, "0.04 in DINO")
    (student, teacher), valid = _real_rows(valid, student, teacher)
    wanted = jax.nn.softmax(
        (teacher - jnp.broadcast_to(center, teacher.shape)) / teacher_temperature
    )
    return -_mean(
        jnp.sum(wanted * jax.nn.log_softmax(student / student_temperature), axis=1), valid
    )


def contrastive(
    x1: jax.Array, x2: jax.Array, same: jax.Array, margin: float, valid: jax.Array | None = None
) -> jax.Array:
    """mean_i D_i^2 / 2 where same[i], else max(0, margin - D_i)^2 / 2, with the Euclidean D_i =
    |x1_i - x2_i|. f32[].

    x1, x2 f32[M, K], not made unit; same bool[M]. At D = 0 the direction that would part two rows
    is not defined, so the gradient there is 0.
    """
    _require_positive("margin", margin, "set method.margin")
    (x1, x2), valid = _real_rows(valid, x1, x2)
    square = _square_distance(x1, x2)
    missing = jnp.maximum(margin - jnp.sqrt(jnp.maximum(square, _TINY**2)), 0.0)
    return _mean(jnp.where(same, square, missing * missing), valid) / 2


def triplet(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    margin: float,
    valid: jax.Array | None = None,
) -> jax.Array:
    """mean_i max(0, |a_i - p_i|^2 - |a_i - n_i|^2 + margin), f32[]: squared Euclidean distances of
    unit vectors, in [0, 4].

    All three f32[M, K], any length (made unit here). margin 0.2 in FaceNet, whose figure is the sum
    over triples.
    """
    _require_positive("margin", margin, "set method.margin, 0.2 in FaceNet")
    triple, valid = _real_rows(valid, anchor, positive, negative)
    anchor, positive, negative = map(unit, triple)
    gap = _square_distance(anchor, positive) - _square_distance(anchor, negative)
    return _mean(jnp.maximum(gap + margin, 0.0), valid)


def _square_distance(x1, x2):
    return jnp.sum(jnp.square(x1 - x2), axis=1)


# ---- values under a mask ----


def masked_mse(prediction: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean of (prediction - target)^2 over the values whose `weight` is True; 0 when there is none.

    All three f32 / f32 / bool of one shape. Values of weight False reach neither the loss nor any
    gradient, not even when they are NaN. Returns f32[].
    """
    return _mean(jnp.square(_masked_error(prediction, target, weight)), weight)


def masked_l1(prediction: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean of |prediction - target| over the values whose `weight` is True; otherwise as
    `masked_mse`.
    """
    return _mean(jnp.abs(_masked_error(prediction, target, weight)), weight)


def masked_smooth_l1(
    prediction: jax.Array, target: jax.Array, weight: jax.Array, beta: float
) -> jax.Array:
    """Mean of d^2 / (2 beta) where d = |prediction - target| is at most beta, else d - beta / 2;
    otherwise as `masked_mse`.
    """
    _require_positive("beta", beta, "set method.beta, 2 in data2vec for images")
    far = jnp.abs(_masked_error(prediction, target, weight))
    near = jnp.minimum(far, beta)
    return _mean(near * (far - near / 2) / beta, weight)


def _masked_error(prediction, target, weight):
    return jnp.where(weight, prediction - target, 0.0)


# ---- shared ----


def unit_std(x: jax.Array, real: jax.Array) -> jax.Array:
    """Collapse figure: standard deviation of the unit rows of x f32[..., K] over those that are
    real bool[...], mean over channels, f32[]. About 1 / sqrt(K) is healthy (SimSiam, arXiv
    2011.10566, section 4.1), 0 is collapse. No gradient.
    """
    rows, weight = unit(jax.lax.stop_gradient(x)), real[..., None].astype(jnp.float32)
    count = jnp.maximum(weight.sum(), 1)
    axes = tuple(range(rows.ndim - 1))
    mean = (rows * weight).sum(axes, keepdims=True) / count
    return jnp.sqrt((jnp.square(rows - mean) * weight).sum(axes) / count).mean()


def _real_rows(valid, *arrays):
    """(the arrays as float32 with zeros in rows that are not valid, valid bool[M])."""
    valid = jnp.ones(len(arrays[0]), bool) if valid is None else valid
    return [jnp.where(valid[:, None], x.astype(jnp.float32), 0.0) for x in arrays], valid


def _mean(values, weight):
    """Mean of `values` where the bool `weight` of the same shape is True, f32[]; 0 when it is
    nowhere.
    """
    count = jnp.maximum(jnp.sum(weight, dtype=jnp.float32), 1.0)
    return jnp.sum(jnp.where(weight, values, 0.0), dtype=jnp.float32) / count


def _require_positive(name, value, advice):
    if not isinstance(value, jax.Array) and value <= 0:  # a traced value is known too late
        raise ValueError(f"{name} is {value}; it must be above 0: {advice}")
