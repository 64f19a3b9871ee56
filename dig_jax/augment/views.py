"""Views of a batch of text lines: recipes (data) and the one function that applies them.

A recipe is a stage or a sequence of stages, which a line passes in turn. A stage is a dict:
    operators   ((name, {amount: range, ..}), ..), names unique, see OPERATORS for the amounts of each
    some_of     (lowest, highest): every line draws how many of the operators it gets, which, and their order
                (imgaug's SomeOf with random_order; (1, 1) is its OneOf)
    p           chance that a line gets any of the operators; absent = 1
    jitter      {"p", "brightness", "contrast", "saturation", "hue"}: torchvision's ColorJitter, or None
    grayscale_p chance of losing all colour at the end
Only one stage may move pixels, so that `max_shift_px` bounds the whole way.

Photometric operators run in the line's drawn order; geometric ones are composed in theirs into one map and the image is
resampled once, at the end of the operators (departures: see geometry.py and color.py). Amounts in pixels are pixels of
the batch, not of the original image, and the aspect ratio is kept, where DiG augments first and squeezes after.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dig_jax.augment import color, geometry

Recipe = str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None  # a name in RECIPES, a stage or several; None = as it is

# DiG's contrast branch (reference section 1.7). At 10 degrees the ends of a line wider than 6 heights leave the image.
DIG = {
    "some_of": (2, 5),
    "operators": (
        ("contrast", {"alpha": (0.5, 1.0)}),
        ("blur", {"sigma": (0.5, 1.5)}),
        ("crop_vertical", {"top": (0.0, 0.3), "bottom": (0.0, 0.3)}),
        ("crop_horizontal", {"left": (0.0, 0.1), "right": (0.0, 0.1)}),
        ("sharpen", {"alpha": (0.0, 0.5), "lightness": (0.0, 0.5)}),
        ("rotate", {"degrees": (-10.0, 10.0)}),
        ("piecewise", {"scale": (0.03, 0.04)}),
        ("perspective", {"scale": (0.05, 0.10)}),
        ("solarize", {"threshold": (32 / 255, 128 / 255), "invert_above_p": 0.5}),
        ("grayscale", {"alpha": (0.0, 1.0)}),
    ),
    "jitter": {"p": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
    "grayscale_p": 0.2,
}

# For whole text lines and short trainings: nothing that turns ink into paper or moves a letter by more than a stroke.
LINES_LIGHT = {
    "some_of": (2, 4),
    "operators": (
        ("contrast", {"alpha": (0.6, 1.0)}),
        ("blur", {"sigma": (0.3, 0.9)}),
        ("crop_vertical", {"top": (0.0, 0.1), "bottom": (0.0, 0.1)}),
        ("shift", {"right_px": (-2.0, 2.0), "down_px": (-1.5, 1.5)}),
        ("noise", {"sigma": (0.01, 0.05)}),
    ),
    "jitter": {"p": 0.8, "brightness": 0.2, "contrast": 0.3, "saturation": 0.2, "hue": 0.05},
    "grayscale_p": 0.2,
}


def _stage(*operators, some_of=None, **more):
    """All of the operators, or some_of them; `more`: p, jitter, grayscale_p."""
    return {"some_of": some_of or (len(operators),) * 2, "operators": operators, "jitter": None, "grayscale_p": 0.0, **more}


_CONTRAST, _BLUR = ("contrast", {"alpha": (0.5, 1.0)}), ("blur", {"sigma": (0.5, 1.5)})
_SHARPEN = ("sharpen", {"alpha": (0.0, 0.5), "lightness": (0.0, 0.5)})

# SeqCLR's three severities in the authors' later code (reference section 2.3). 2 is like the paper's: nothing but contrast,
# sharpness and warps that keep letters in place. In place of PiecewiseAffine that code bends elastically; this is the paper's.
SEQCLR_2 = _stage(
    _CONTRAST,
    _BLUR,
    ("crop_vertical", {"top": (0.0, 0.4), "bottom": (0.0, 0.4)}),
    ("crop_horizontal", {"left": (0.0, 0.02), "right": (0.0, 0.02)}),
    _SHARPEN,
    ("piecewise", {"scale": (0.02, 0.03)}),
    ("perspective", {"scale": (0.01, 0.02)}),
    some_of=(1, 7),
)
# 1, which that code ships: strong colours and grain, no geometry at all. Strengths of emboss are ours.
SEQCLR_1 = (
    _stage(("invert", {}), p=0.5),
    _stage(
        ("channel_shuffle", {"p": 0.35}),
        ("grayscale", {"alpha": (0.0, 1.0)}),
        ("posterize", {"levels": (2.0, 16.0)}),
        ("equalize", {}),
        ("dropout", {"share": (0.0, 0.2), "per_channel_p": 0.5}),
        ("gamma", {"exponent": (0.5, 2.0)}),
        ("brightness", {"factor": (0.5, 1.5)}),
        ("hue_saturation", {"turn": (-0.196, 0.196), "factor": (0.8, 1.2)}),  # +-50 of 255
        ("temperature", {"kelvin": (1100.0, 10000.0)}),
        some_of=(1, 1),
    ),
    _stage(
        _SHARPEN,
        _BLUR,
        ("average", {"size": (2.0, 5.0)}),
        ("median", {}),
        ("motion", {"degrees": (0.0, 180.0)}),
        some_of=(1, 1),
    ),
    _stage(
        ("emboss", {"alpha": (0.0, 1.0), "strength": (0.5, 1.5)}),
        ("noise", {"sigma": (0.0, 0.2)}),
        ("impulse", {"share": 0.1}),
        ("speckle", {"spread": 0.5}),
        some_of=(1, 1),
    ),
)
# 0 is ABINet's augmentation for recognisers: strong geometry in half of the lines, which a bound on the way sideways tames.
# How far its corners move in a perspective is our reading; its canvas grows with a turned word, ours does not.
SEQCLR_0 = (
    _stage(
        ("rotate", {"degrees": (-45.0, 45.0)}),
        ("affine", {"times": (0.5, 2.0), "degrees_x": (-45.0, 45.0), "degrees_y": (-15.0, 15.0)}),
        ("perspective", {"scale": (0.0, 0.2)}),
        some_of=(1, 1),
        p=0.5,
    ),
    _stage(
        ("noise", {"sigma": (0.0, 0.0175)}),  # a variance of 20, of 255^2
        ("motion", {"degrees": (0.0, 180.0)}),
        ("rescale", {"factor": (1.0, 4.0)}),
        p=0.25,
    ),
    _stage(jitter={"p": 0.25, "brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.1}),
)

# Whole-image contrast (reference sections 4 to 6) for text: no flips, and crops that keep all letters, where photographs
# lose up to 92 % of their area. The rest is the papers'. SimSiam's is MoCo v2's; MoCo v3's two views are not alike.
_CROP = _stage(
    ("crop_vertical", {"top": (0.0, 0.2), "bottom": (0.0, 0.2)}),
    ("crop_horizontal", {"left": (0.0, 0.05), "right": (0.0, 0.05)}),
)
_SOFT, _SOLARIZE = ("blur", {"sigma": (0.1, 2.0)}), ("solarize", {"threshold": 128 / 255, "invert_above_p": 1.0})


def _colours(brightness, contrast, saturation, hue):
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    return _stage(jitter={"p": 0.8, **strengths}, grayscale_p=0.2)


SIMCLR = (_CROP, _colours(0.8, 0.8, 0.8, 0.2), _stage(_SOFT, p=0.5))
MOCOV2 = (_CROP, _colours(0.4, 0.4, 0.4, 0.1), _stage(_SOFT, p=0.5))
MOCOV3_1 = (_CROP, _colours(0.4, 0.4, 0.2, 0.1), _stage(_SOFT))
MOCOV3_2 = (_CROP, _colours(0.4, 0.4, 0.2, 0.1), _stage(_SOFT, p=0.1), _stage(_SOLARIZE, p=0.2))

# What a half of a line suffers in our reading of SimAN: tone and sharpness, nothing that moves a pixel.
SIMAN = _stage(
    ("contrast", {"alpha": (0.4, 1.0)}),
    ("blur", {"sigma": (0.3, 1.2)}),
    ("noise", {"sigma": (0.02, 0.1)}),
    _SHARPEN,
    some_of=(1, 3),
    jitter={"p": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    grayscale_p=0.2,
)

# The names that configs know.
RECIPES = {
    "dig": DIG, "lines_light": LINES_LIGHT, "seqclr_0": SEQCLR_0, "seqclr_1": SEQCLR_1, "seqclr_2": SEQCLR_2, "simclr": SIMCLR,
    "mocov2": MOCOV2, "mocov3_1": MOCOV3_1, "mocov3_2": MOCOV3_2, "siman": SIMAN,
}  # fmt: skip

# Amounts of each operator; a pair is a uniform range, a number its only value.
OPERATORS = {
    "contrast": ("alpha",),
    "solarize": ("threshold", "invert_above_p"),
    "grayscale": ("alpha",),
    "blur": ("sigma",),
    "sharpen": ("alpha", "lightness"),
    "noise": ("sigma",),
    "crop_vertical": ("top", "bottom"),
    "crop_horizontal": ("left", "right"),
    "shift": ("right_px", "down_px"),
    "rotate": ("degrees",),
    "piecewise": ("scale",),
    "perspective": ("scale",),
    "affine": ("times", "degrees_x", "degrees_y"),
    "invert": (),
    "brightness": ("factor",),
    "gamma": ("exponent",),
    "channel_shuffle": ("p",),
    "hue_saturation": ("turn", "factor"),
    "temperature": ("kelvin",),
    "posterize": ("levels",),
    "equalize": (),
    "median": (),
    "rescale": ("factor",),
    "average": ("size",),
    "motion": ("degrees",),
    "emboss": ("alpha", "strength"),
    "dropout": ("share", "per_channel_p"),
    "impulse": ("share",),
    "speckle": ("spread",),
}
MOVING = {*geometry.MATRICES, "piecewise"}  # operators that move pixels
JITTER = ("brightness", "contrast", "saturation", "hue")
DICE = 128  # random numbers a line may use
UNUSED = 1000  # rank of an operator that a line did not draw


def recipe(name):
    """The recipe of a name in RECIPES; a recipe or None comes back as it is. ValueError for a name that there is not."""
    if not isinstance(name, str):
        return name
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; set config.method.recipe to one of {', '.join(RECIPES)}")
    return RECIPES[name]


def stages(recipe):
    """The stages of a recipe, one or several dicts, as a tuple."""
    return (recipe,) if isinstance(recipe, Mapping) else tuple(recipe)


def still(recipe):
    """A recipe without the operators that move pixels."""

    def stays(stage):
        operators = tuple(entry for entry in stage["operators"] if entry[0] not in MOVING)
        return {**stage, "operators": operators, "some_of": tuple(min(n, len(operators)) for n in stage["some_of"])}

    return tuple(stays(stage) for stage in stages(recipe))


def only(name, **amounts):
    """The recipe that always applies this one operator."""
    return {"some_of": (1, 1), "operators": ((name, amounts),), "jitter": None, "grayscale_p": 0.0}


class Draws(NamedTuple):
    """What chance decided for a batch: all leaves have B rows."""

    rank: dict  # operator -> i32[B], its place in the line's order, UNUSED when not drawn
    amounts: dict  # operator -> {amount: f32[B, ..]}
    noise_keys: jax.Array  # one for each line
    jitter: dict  # {"jitter_<name>": (rank i32[B], amount f32[B])}
    gray: jax.Array  # f32[B], 1 = lose the colour


def check(recipe):
    """Raises ValueError with one sentence when a recipe cannot be carried out."""
    for stage in stages(recipe):
        _check_stage(stage)
    if sum(any(name in MOVING for name, _ in stage["operators"]) for stage in stages(recipe)) > 1:
        raise ValueError("Only one stage of an augmentation recipe may move pixels: put its geometric operators together.")


def _check_stage(recipe):
    known = {"some_of", "operators", "jitter", "grayscale_p", "p"}
    if unknown := set(recipe) - known:
        raise ValueError(f"An augmentation recipe has the keys {sorted(known)}, not {sorted(unknown)}.")
    names = [name for name, _ in recipe["operators"]]
    if len(set(names)) < len(names):
        raise ValueError(f"An augmentation recipe names each operator once; this one has {names}.")
    for name, amounts in recipe["operators"]:
        if name not in OPERATORS:
            near = difflib.get_close_matches(name, OPERATORS, 1, 0.0)[0]
            raise ValueError(f"There is no augmentation operator '{name}' (nearest: '{near}'; all: {list(OPERATORS)}).")
        if set(amounts) != set(OPERATORS[name]):
            raise ValueError(f"Operator '{name}' takes the amounts {list(OPERATORS[name])}, not {list(amounts)}.")
        if name == "blur" and max(_range(amounts["sigma"])) > color.MAX_SIGMA_PX:
            raise ValueError(f"Blur has {color.TAPS} taps, which serve a sigma of up to {color.MAX_SIGMA_PX} px only.")
    low, high = recipe["some_of"]
    if not 0 <= low <= high <= len(names):
        raise ValueError(f"some_of={(low, high)} must be two rising counts between 0 and the {len(names)} operators.")
    if (jitter := recipe.get("jitter")) and set(jitter) - {"p", *JITTER}:
        raise ValueError(f"Jitter takes {['p', *JITTER]}, not {list(jitter)}.")


def _range(value):
    return (value, value) if isinstance(value, int | float) else tuple(value)


class _Dice:
    """One line's random numbers, drawn at once and handed out in turn: many small draws take seconds to compile."""

    def __init__(self, key, count):
        self.unused = jax.random.uniform(key, (count,), minval=2.0**-24)

    def uniform(self, *shape):
        """In (0, 1)."""
        count = math.prod(shape)
        if count > self.unused.size:
            raise RuntimeError("_draw_line asks for more random numbers than DICE: raise DICE.")
        taken, self.unused = self.unused[:count], self.unused[count:]
        return taken.reshape(shape)

    def normal(self, *shape):
        return jax.scipy.special.ndtri(self.uniform(*shape))

    def within(self, value):
        """Uniform in a range (low, high), or the number itself."""
        low, high = _range(value)
        return low + (high - low) * self.uniform()

    def happens(self, chance):
        """1.0 with this chance, else 0.0."""
        return (self.uniform() < chance).astype(jnp.float32)

    def order(self, count):
        """i32[count]: the place of each of `count` things in a random order."""
        return jnp.argsort(jnp.argsort(self.uniform(count)))


def _draw_amounts(name, amounts, dice):
    """One line's amounts of one operator."""
    drawn = {a: dice.within(amounts[a]) for a in OPERATORS[name]}
    if name == "piecewise":
        return {"offsets": drawn["scale"] * dice.normal(geometry.GRID, geometry.GRID, 2)}
    if name == "perspective":
        # imgaug folds the rare values of 0.5 and more back; they would turn the line inside out.
        return {"corners": jnp.minimum(drawn["scale"] * jnp.abs(dice.normal(4, 2)), 0.45)}
    if name == "solarize":
        return {"threshold": drawn["threshold"], "above": dice.happens(drawn["invert_above_p"])}
    if name == "channel_shuffle":
        return {"order": jnp.where(dice.happens(drawn["p"]) > 0, dice.order(3), jnp.arange(3))}
    if name == "dropout":
        return {"share": drawn["share"], "per_channel": dice.happens(drawn["per_channel_p"])}
    return drawn


def _draw_line(key, *, recipe):
    """Draws for one line: a function of its key and the recipe alone."""
    dice = _Dice(key, DICE)
    names = [name for name, _ in recipe["operators"]]
    low, high = recipe["some_of"]
    count = low + jnp.floor(dice.uniform() * (high - low + 1)).astype(jnp.int32)
    if recipe.get("p", 1.0) < 1.0:
        count = jnp.where(dice.happens(recipe["p"]) > 0, count, 0)
    place = dice.order(len(names))
    place = jnp.where(place < count, place, UNUSED)
    amounts = {name: _draw_amounts(name, ranges, dice) for name, ranges in recipe["operators"]}
    jitter = {}
    if recipe.get("jitter"):
        used = dice.happens(recipe["jitter"]["p"])
        order = jnp.where(used > 0, dice.order(len(JITTER)), UNUSED)
        for i, name in enumerate(JITTER):
            most = recipe["jitter"].get(name, 0.0)
            by = dice.within((-most, most))
            jitter[f"jitter_{name}"] = (order[i], by if name == "hue" else 1.0 + by)
    gray = dice.happens(recipe.get("grayscale_p", 0.0))
    ranks = {name: place[i] for i, name in enumerate(names)}
    return Draws(ranks, amounts, jax.random.fold_in(key, 1), jitter, gray)


def draw(key, batch, recipe):
    """Draws for `batch` lines; line i depends on (key, i) only, on no device count and no batch size."""
    return jax.vmap(partial(_draw_line, recipe=recipe))(jax.random.split(key, batch))


def _slots(rank, names, most):
    """i32[B,S]: which of `names` stands in each slot of a line's order, -1 = none; S = min(len(names), most)."""
    ranks = jnp.stack([rank[n] for n in names], axis=1)
    order = jnp.argsort(ranks, axis=1)[:, :most]
    used = jnp.take_along_axis(ranks, order, axis=1) < UNUSED
    return jnp.where(used, order, -1)


def _in_order(image, width, names, slots, amounts, noise_keys):
    """Passes lines (planes, f32[B,C,H,W]) through photometric operators, each line in its own order (see `_slots`)."""
    grain = color.grain(noise_keys, image.shape[1:]) if color.GRAINS.keys() & set(names) else None

    def branch(name):
        def run(image, chosen):
            changed = color.apply(name, image, width, grain, amounts[name])
            return jnp.where(chosen[:, None, None, None], changed, image)

        return run

    branches = [branch(name) for name in names]
    # Every slot tries every operator on the whole batch and keeps the lines that chose it. A scan with a switch and not
    # a plain loop: XLA for CPUs fuses a plain chain so eagerly that it computes early operators again for every tap of
    # a filter and every channel of a hue (40 times slower), and a scan compiles each operator once.
    step = lambda image, at: (jax.lax.switch(at[1], branches, image, at[0] == at[1]), None)  # noqa: E731
    slot = jnp.repeat(slots.T, len(names), axis=0)
    operator = jnp.tile(jnp.arange(len(names)), slots.shape[1])
    return jax.lax.scan(step, image, (slot, operator))[0]


def _chains(draws, recipe, height, width, names, warp_rank):
    """The homographies before and after the piecewise warp, f32[B,3,3] each, in every line's own order."""
    matrices = jnp.stack([geometry.MATRICES[n](height, width, **draws.amounts[n]) for n in names], axis=1)
    slots = _slots(draws.rank, names, recipe["some_of"][1])
    ordered = jnp.take_along_axis(matrices, slots[:, :, None, None], axis=1, mode="clip")
    ranks = jnp.take_along_axis(jnp.stack([draws.rank[n] for n in names], axis=1), slots, axis=1, mode="clip")
    nothing = geometry.identity(width.shape[0])
    chains = []
    for belongs in (ranks < warp_rank[:, None], ranks > warp_rank[:, None]):
        chosen = jnp.where((belongs & (slots >= 0))[:, :, None, None], ordered, nothing[:, None])
        chains.append(reduce(geometry.compose, [chosen[:, i] for i in range(slots.shape[1])]))
    return chains


def source_map(draws, recipe, shape, width, max_shift_px=None):
    """Where each pixel of the view comes from: (x, y), f32[B,H,W] each, inside the real line; shape (B, C, H, W).

    Other things than the image (a mask, boxes of letters) can follow the view through it.
    """
    batch, _, height, canvas_px = shape
    x, y = geometry.pixel_grid(batch, height, canvas_px)
    names = [n for n, _ in recipe["operators"] if n in geometry.MATRICES]
    rank = draws.rank
    warp_rank = rank.get("piecewise", jnp.full((batch,), UNUSED))
    if names:
        before, after = _chains(draws, recipe, height, width, names, warp_rank)
        x, y = geometry.apply_matrix(after, x, y)
    if "piecewise" in rank:
        offsets = jnp.where((warp_rank < UNUSED)[:, None, None, None], draws.amounts["piecewise"]["offsets"], 0.0)
        x, y = geometry.apply_piecewise(x, y, width, offsets)
    if names:
        x, y = geometry.apply_matrix(before, x, y)
    return geometry.limit_shift(x, y, width, max_shift_px)


def augment(key, image, width, recipe, max_shift_px=None):
    """One random view of each line.

    key: a JAX key. image: u8[B,H,W,C] in [0,255] or f32 in [0,1], C = 1 or 3. width: i32[B], real pixels, 1..W.
    recipe: see the module and RECIPES. max_shift_px: bound on the horizontal way of every pixel, None = unbounded
        as in the official recipe.

    Returns f32[B,H,W,C] in [0,1]; columns right of `width` are the input's. ValueError for an impossible recipe.
    """
    check(recipe)
    if max_shift_px is not None and max_shift_px < 0:
        raise ValueError(f"max_shift_px must be None or at least 0, not {max_shift_px}.")
    if image.dtype == jnp.uint8:
        image = image.astype(jnp.float32) / 255.0
    image = jnp.transpose(image, (0, 3, 1, 2))  # planes inside, see color.py
    original = image
    for i, stage in enumerate(stages(recipe)):
        image = _pass(jax.random.fold_in(key, i) if i else key, image, width, stage, max_shift_px)
    real = jnp.arange(image.shape[3])[None, None, None, :] < width[:, None, None, None]
    return jnp.transpose(jnp.where(real, image, original), (0, 2, 3, 1))


def _pass(key, image, width, recipe, max_shift_px):
    """Lines (planes, f32[B,C,H,W]) through one stage."""
    channels = image.shape[1]
    draws = draw(key, image.shape[0], recipe)
    colourless = color.COLOURLESS if channels == 1 else ()

    def photometric(names):
        return [n for n in names if n not in MOVING and n not in colourless]

    if names := photometric(draws.rank):
        slots = _slots(draws.rank, names, recipe["some_of"][1])
        image = _in_order(image, width, names, slots, draws.amounts, draws.noise_keys)
    if any(n in MOVING for n in draws.rank):
        image = geometry.resample(image, *source_map(draws, recipe, image.shape, width, max_shift_px))
    if names := photometric(draws.jitter):
        amounts = {n: {"turn" if n == "jitter_hue" else "factor": draws.jitter[n][1]} for n in names}
        slots = _slots({n: draws.jitter[n][0] for n in names}, names, len(names))
        image = _in_order(image, width, names, slots, amounts, None)
    if channels == 3 and recipe.get("grayscale_p"):
        image = color.grayscale(image, width, alpha=draws.gray)
    return image
