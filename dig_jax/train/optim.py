"""Optimiser: the update by the rates of `schedules` and the path rules of `param_groups`.

Update of a parameter p with rate lr(step), its own scale s and its own weight decay w (Loshchilov &
Hutter 2019):
    p <- p - s * lr * (m_hat / (sqrt(v_hat) + eps) + w * p)
so the scale multiplies the decayed rate and with it the decay, as in PyTorch's parameter groups
(methods.md 15.1, 10). Or, for papers from before it, SGD with momentum, the decay in the gradient
(Sutskever et al. 2013 as PyTorch has it):
    v <- momentum * v + g + w * p,   p <- p - s * lr * v
A rule may give its parameters another shape of schedule (SimSiam's predictor), and w may grow with
the step (DINO, CCD).

With `average`, p moves so beside an average x of all p so far, and x is what the run is judged by,
saved and started from (Shamir and Zhang 2013, arXiv 1212.1824, polynomial-decay averaging):
    x_t <- (1 - c) x_(t-1) + c p_t,   c = (average + 1) / (average + t),   t = 1, 2, ...
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dig_jax import trees
from dig_jax.train.param_groups import ParamGroup, Rules, param_groups
from dig_jax.train.schedules import check_growth, check_schedule, decay_growth, make_schedule

Numbers = Mapping[str, Any]  # peak, total_steps, warmup_steps, min_lr: Python's, or traced
Schedule = Callable[[Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """numbers: what `build` makes the transformation and the schedule of. trainable: the parameter
    tree in bools; gradients of the False leaves are never used and they have no moments in the
    optimiser state. decays: the same, where weight decay moves them."""

    build: Callable[[Numbers], tuple[optax.GradientTransformation, Schedule]]
    numbers: Numbers
    trainable: Any
    decays: Any
    clip_norm: float | None
    average: float | None
    _groups: tuple[tuple[str, int, int], ...]

    @functools.cached_property
    def tx(self) -> optax.GradientTransformation:
        """optax transformation over the whole parameter tree, its numbers constants."""
        return self.build(self.numbers)[0]

    @functools.cached_property
    def schedule(self) -> Schedule:
        """step -> learning rate f32[]."""
        return self.build(self.numbers)[1]

    def moving(self, opt_state: Any, params: Any) -> Any:
        """The parameters that gradients are taken at: those that move, where `params` are their
        average. Before the first step both are the same."""
        return params if self.average is None else _moving(opt_state, params)

    def describe(self) -> str:
        """The derived peak rate, then a line for each way of treating parameters: how many it
        covers.
        """
        lines = [f"peak learning rate {self.numbers['peak']:.4g}"]
        lines += [
            f"{arrays:4d} arrays {numbers:12,d} parameters  {what}"
            for what, arrays, numbers in self._groups
        ]
        return "\n".join(lines)


def create(
    *,
    params: Any,
    total_steps: int,
    batch_size: int,
    name: str = "adamw",
    lr: float,
    lr_per: int | None = None,
    min_lr: float = 0.0,
    warmup_steps: int = 0,
    schedule: str = "cosine",
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    momentum: float = 0.9,
    drops: Sequence[float] | None = None,
    drop: float | None = None,
    weight_decay: float = 0.0,
    weight_decay_end: float | None = None,
    clip_norm: float | None = None,
    clip_norm_each: float | None = None,
    average: float | None = None,
    rules: Rules = (),
    layer_decay: float | None = None,
) -> Optimizer:
    """The optimiser of a run.

        params          parameter tree or its shapes
        name            "adamw" (reads b1, b2, eps) or "sgd" (reads momentum)
        lr              peak rate; with lr_per=256 the rate for 256 rows, and the peak is
                        lr * batch_size / 256 (min_lr is absolute, as in DiG)
        clip_norm       limit on the global gradient norm of what trains
        clip_norm_each  limit on the norm of every array instead (of every block of a stacked
                        one), as DINO and CCD do
        average         see the module: 8 is about the mean of the last fifth of the steps so far
        rules           ordered (regex, {lr_scale | freeze | freeze_frac | weight_decay | schedule})
        layer_decay     see `layer_scales`
        schedule, min_lr, drops, drop   see `make_schedule`

    The first regex of `rules` found (re.search) in a parameter's path, such as
    "encoder/block_0/mlp/kernel", decides. Rules, where given, must cover every parameter and each
    must decide something, so a renamed layer cannot slip out of its rule. freeze_frac (adamw) holds
    a parameter, its moments, its count and its decay for that share of the run, as PyTorch does for
    a gradient of None.

    Weight decay falls on weights of two or more dimensions only, unless a rule states it. With
    weight_decay_end it goes from weight_decay to that along half a cosine. What a rule states
    changes by the same factor. Raises ValueError.
    """
    _check(name, schedule, drops, weight_decay_end, clip_norm, clip_norm_each)
    peak = lr * batch_size / lr_per if lr_per else lr
    numbers = {"peak": peak, "total_steps": total_steps}
    numbers |= {"warmup_steps": warmup_steps, "min_lr": min_lr}
    groups = param_groups(params, weight_decay, rules, layer_decay, total_steps)
    kinds = {schedule, *(t.schedule for t in jax.tree.leaves(groups) if t.schedule)}
    for kind in kinds:
        check_schedule(**numbers, kind=kind, drops=drops)
    check_growth(weight_decay, weight_decay_end)
    trainable = jax.tree.map(lambda t: not t.freeze, groups)
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    if name == "sgd":
        direction, after = _sgd(groups, momentum)
    else:
        direction = _late(optax.scale_by_adam(b1=b1, b2=b2, eps=eps), groups, b1, b2, eps)
        after = groups
    labels = jax.tree.map(lambda train: "train" if train else "freeze", trainable)

    def build(numbers: Numbers) -> tuple[optax.GradientTransformation, Schedule]:
        rates = {
            kind: make_schedule(**numbers, kind=kind, drops=drops, drop=drop) for kind in kinds
        }
        growth = decay_growth(weight_decay, weight_decay_end, numbers["total_steps"])
        trained = optax.chain(
            _clip_each(clip_norm_each, params) if clip_norm_each else clip,
            direction,
            optax.identity(),  # where weight decay once stood: checkpoints keep their shape
            _step(after, rates, schedule, growth),
        )
        tx = optax.partition({"train": trained, "freeze": optax.set_to_zero()}, labels)
        return tx if average is None else _averaged(tx, average), rates[schedule]

    summary = _summary(params, groups)
    decays = jax.tree.map(lambda group: bool(not group.freeze and group.weight_decay), groups)
    return Optimizer(build, numbers, trainable, decays, clip_norm, average, summary)


def _check(
    name: str,
    schedule: str,
    drops: Sequence[float] | None,
    weight_decay_end: float | None,
    clip_norm: float | None,
    clip_norm_each: float | None,
) -> None:
    """Refuses options of `create` that contradict each other with a ValueError."""
    if name not in ("adamw", "sgd"):
        raise ValueError(f"config.optim.name is {name!r}: set it to 'adamw' or 'sgd'")
    if name == "sgd" and weight_decay_end is not None:
        raise ValueError(
            "config.optim.weight_decay_end is for name='adamw': set it to None, or change the "
            "optimiser"
        )
    if drops and schedule != "steps":
        raise ValueError(
            f"config.optim.drops is {tuple(drops)} and schedule {schedule!r}: set "
            "config.optim.schedule='steps'"
        )
    if clip_norm and clip_norm_each:
        raise ValueError(
            "config.optim has both clip_norm and clip_norm_each: set one of them to None"
        )


class Averaged(NamedTuple):
    """What `average` adds to the state of an optimiser. count i32[], moving: parameters."""

    count: jax.Array
    moving: Any
    inner: Any


def _moving(state: Averaged, params: Any) -> Any:
    """See `Optimizer.moving`. Before the first step another run may have replaced `params`."""
    started = state.count > 0
    return jax.tree.map(lambda p, x: jnp.where(started, p, x), state.moving, params)


def _averaged(tx: optax.GradientTransformation, power: float) -> optax.GradientTransformation:
    """`tx` on parameters of its own; what it updates is their average. Gradients are to be those
    at `Optimizer.moving`."""

    def init(params: Any) -> Averaged:
        return Averaged(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params), tx.init(params))

    def update(updates: Any, state: Averaged, params: Any = None) -> tuple[Any, Averaged]:
        before = _moving(state, params)
        updates, inner = tx.update(updates, state.inner, before)
        moving = jax.tree.map(jnp.add, before, updates)
        count = optax.safe_increment(state.count)
        share = (power + 1.0) / (power + count.astype(jnp.float32))
        nearer = jax.tree.map(lambda p, x: share * (p - x), moving, params)
        return nearer, Averaged(count, moving, inner)

    return optax.GradientTransformation(init, update)


def _masked(x: Any) -> bool:
    """Whether this is what optax.partition puts in the place of a frozen leaf."""
    return isinstance(x, optax.MaskedNode)


def _decay(groups: Any) -> optax.GradientTransformation:
    """g -> g + weight_decay * p with each leaf's own number."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        add = lambda u, p, t: u if _masked(u) or not t.weight_decay else u + t.weight_decay * p
        return jax.tree.map(add, updates, params, groups, is_leaf=_masked), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _sgd(groups: Any, momentum: float) -> tuple[optax.GradientTransformation, Any]:
    """The direction of SGD with the decay in the gradient, and the groups without their decay."""
    if any(t.start for t in jax.tree.leaves(groups)):
        raise ValueError(
            "a rule of config.optim.rules has freeze_frac, which is for name='adamw': set "
            "config.optim.name so, or remove it"
        )
    direction = optax.chain(_decay(groups), optax.trace(decay=momentum))
    return direction, jax.tree.map(lambda t: dataclasses.replace(t, weight_decay=0.0), groups)


def _late(
    adam: optax.GradientTransformation, groups: Any, b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
    """`adam`, with moments and count of each leaf beginning at its group's first step.

    The state is that of `adam`. Gradients of 0 keep moments at their start. What is left to do is
    to divide them by the bias of the leaf's own count.
    """
    if not any(t.start for t in jax.tree.leaves(groups)):
        return adam

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        held = lambda u, t: (
            u if _masked(u) or not t.start else jnp.where(state.count < t.start, 0.0, u)
        )
        updates = jax.tree.map(held, updates, groups, is_leaf=_masked)
        updates, state = adam.update(updates, state, params)

        def one(u: Any, mu: Any, nu: Any, t: ParamGroup) -> Any:
            if _masked(u) or not t.start:
                return u
            count = jnp.maximum(state.count - t.start, 1).astype(jnp.float32)
            return (mu / (1 - b1**count)) / (jnp.sqrt(nu / (1 - b2**count)) + eps)

        return jax.tree.map(one, updates, state.mu, state.nu, groups, is_leaf=_masked), state

    return optax.GradientTransformation(adam.init, update)


def _step(
    groups: Any, rates: Mapping[str, Any], usual: str, growth: Any
) -> optax.GradientTransformation:
    """u -> -rate * lr_scale * (u + weight_decay * p) with each leaf's own numbers. The state is the
    count of steps.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        now = {kind: -rate(state.count) for kind, rate in rates.items()}
        grown = growth(state.count) if growth else 1.0

        def one(u: Any, p: Any, t: ParamGroup) -> Any:
            if _masked(u):
                return u
            u = u + t.weight_decay * grown * p if t.weight_decay else u
            u = u * jnp.broadcast_to(t.lr_scale, u.shape) if not _is_one(t.lr_scale) else u
            u = jnp.where(state.count < t.start, 0.0, u) if t.start else u
            return now[t.schedule or usual] * u

        updates = jax.tree.map(one, updates, params, groups, is_leaf=_masked)
        return updates, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(
        lambda params: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update
    )


def _clip_each(most: float, params: Any) -> optax.GradientTransformation:
    """Scales the gradient of every array, and of every block of a stacked one, to a norm of at most
    `most`.
    """
    stacked = jax.tree.unflatten(
        jax.tree.structure(params),
        [name.startswith("encoder/blocks/") for name in trees.named_leaves(params)],
    )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:

        def one(u: Any, blocks: bool) -> Any:
            if _masked(u):
                return u
            axes = tuple(range(1, u.ndim)) if blocks else None
            norm = jnp.sqrt(jnp.sum(jnp.square(u), axis=axes, keepdims=True))
            return u * jnp.minimum(1.0, most / (norm + 1e-6))

        return jax.tree.map(one, updates, stacked, is_leaf=_masked), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _is_one(scale: Any) -> bool:
    return isinstance(scale, float) and scale == 1.0


def _summary(params: Any, groups: Any) -> tuple[tuple[str, int, int], ...]:
    counts: dict[str, list[int]] = {}
    for leaf, t in zip(jax.tree.leaves(params), jax.tree.leaves(groups)):
        scale = f"{t.lr_scale:.4g}" if isinstance(t.lr_scale, (int, float)) else "by layer"
        shape = f", {t.schedule} rate" if t.schedule else ""
        shape += f", from step {t.start}" if t.start else ""
        what = "frozen" if t.freeze else f"lr x {scale}, weight decay {t.weight_decay:g}{shape}"
        entry = counts.setdefault(what, [0, 0])
        entry[0] += 1
        entry[1] += math.prod(leaf.shape)
    return tuple((what, *entry) for what, entry in counts.items())
