"""Views of a batch of text lines: the one function that applies a recipe (augment/recipes.py), and
its checks.

Photometric operators run in the line's drawn order. Geometric ones are composed in theirs into one
map, and the image is resampled once, at the end of the operators (departures: see geometry.py and
color.py). Amounts in pixels are pixels of the batch, not of the original image. The aspect ratio is
kept, where DiG augments first and squeezes after.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dig_jax.augment import color, filters, geometry, recipes, resample

# A name of recipes.py, a stage or several; None = the image as it is.
Recipe = str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None

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
    "elastic": ("reach_px",),
    "stretch": ("times",),
    "perspective": ("scale",),
    "affine": ("times", "degrees_x", "degrees_y"),
    "scale": ("across", "down"),
    "shear": ("degrees_x", "degrees_y"),
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
    "morphology": ("grow",),
    "erase": ("half_px", "grey"),
}
MOVING = {*geometry.MATRICES, "piecewise", "elastic", "stretch"}  # operators that move pixels
JITTER = ("brightness", "contrast", "saturation", "hue")
DICE = 128  # random numbers a line may use
BOXES = 3  # that `erase` paints
UNUSED = 1000  # rank of an operator that a line did not draw


def recipe(name):
    """The recipe of a name of recipes.py; a recipe or None comes back as it is. ValueError for a
    name that there is not.
    """
    if not isinstance(name, str):
        return name
    if name not in recipes.RECIPES:
        raise ValueError(
            f"recipe is {name!r}; set config.method.recipe to one of {', '.join(recipes.RECIPES)}"
        )
    return recipes.RECIPES[name]


def stages(recipe):
    """The stages of a recipe, one or several dicts, as a tuple."""
    return (recipe,) if isinstance(recipe, Mapping) else tuple(recipe)


def without_motion(recipe):
    """A recipe without the operators that move pixels; None stays None."""

    if recipe is None:
        return None

    def stays(stage):
        operators = tuple(entry for entry in stage["operators"] if entry[0] not in MOVING)
        return {
            **stage,
            "operators": operators,
            "some_of": tuple(min(n, len(operators)) for n in stage["some_of"]),
        }

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
        raise ValueError(
            "Only one stage of a recipe may move pixels: put its geometric operators together."
        )


def _check_stage(recipe):
    known = {"some_of", "operators", "jitter", "grayscale_p", "p"}
    if unknown := set(recipe) - known:
        raise ValueError(
            f"An augmentation recipe has the keys {sorted(known)}, not {sorted(unknown)}."
        )
    names = [name for name, _ in recipe["operators"]]
    if len(set(names)) < len(names):
        raise ValueError(f"An augmentation recipe names each operator once; this one has {names}.")
    for name, amounts in recipe["operators"]:
        if name not in OPERATORS:
            near = difflib.get_close_matches(name, OPERATORS, 1, 0.0)[0]
            raise ValueError(
                f"There is no operator '{name}' (nearest: '{near}'; all: {list(OPERATORS)})."
            )
        if set(amounts) - {"chance"} != set(OPERATORS[name]):
            raise ValueError(
                f"Operator '{name}' takes the amounts {list(OPERATORS[name])}, not {list(amounts)}."
            )
        if name == "blur" and max(_range(amounts["sigma"])) > filters.MAX_SIGMA_PX:
            raise ValueError(
                f"Blur has {filters.TAPS} taps, for a sigma up to {filters.MAX_SIGMA_PX} px only."
            )
    low, high = recipe["some_of"]
    if not 0 <= low <= high <= len(names):
        raise ValueError(
            f"some_of={(low, high)} must be two rising counts from 0 to {len(names)} (operators)."
        )
    if (jitter := recipe.get("jitter")) and set(jitter) - {"p", *JITTER}:
        raise ValueError(f"Jitter takes {['p', *JITTER]}, not {list(jitter)}.")


def _range(value):
    return (value, value) if isinstance(value, int | float) else tuple(value)


class _Dice:
    """One line's random numbers, drawn at once and handed out in turn: many small draws take
    seconds to compile.
    """

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
    if name == "erase":
        places = dice.uniform(BOXES, 2)
        low, high = _range(amounts["half_px"])
        half = low + (high - low) * dice.uniform(BOXES, 2)
        return {"boxes": jnp.concatenate([places, half], 1), "grey": drawn["grey"]}
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
    for i, (_, ranges) in enumerate(recipe["operators"]):
        if ranges.get("chance", 1.0) < 1.0:
            place = place.at[i].set(jnp.where(dice.happens(ranges["chance"]) > 0, place[i], UNUSED))
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
    """Draws for `batch` lines; line i depends on (key, i) only, on no device count and no batch
    size.
    """
    return jax.vmap(partial(_draw_line, recipe=recipe))(jax.random.split(key, batch))


def _slots(rank, names, most):
    """i32[B,S]: which of `names` stands in each slot of a line's order, -1 = none; S =
    min(len(names), most).
    """
    ranks = jnp.stack([rank[n] for n in names], axis=1)
    order = jnp.argsort(ranks, axis=1)[:, :most]
    used = jnp.take_along_axis(ranks, order, axis=1) < UNUSED
    return jnp.where(used, order, -1)


def _in_order(image, width, names, slots, amounts, noise_keys):
    """Passes lines (planes, f32[B,C,H,W]) through photometric operators, each line in its own order
    (see `_slots`).
    """
    grain = color.grain(noise_keys, image.shape[1:]) if color.GRAINS.keys() & set(names) else None

    def branch(name):
        def run(image, chosen):
            changed = color.apply(name, image, width, grain, amounts[name])
            return jnp.where(chosen[:, None, None, None], changed, image)

        return run

    branches = [branch(name) for name in names]
    # Every slot tries every operator on the whole batch and keeps the lines that chose it. A scan
    # with a switch and not a plain loop: XLA for CPUs fuses a plain chain so eagerly that it
    # computes early operators again for every tap of a filter and every channel of a hue (40 times
    # slower), and a scan compiles each operator once.
    step = lambda image, at: (jax.lax.switch(at[1], branches, image, at[0] == at[1]), None)
    slot = jnp.repeat(slots.T, len(names), axis=0)
    operator = jnp.tile(jnp.arange(len(names)), slots.shape[1])
    return jax.lax.scan(step, image, (slot, operator))[0]


def _chains(draws, recipe, height, width, names, warp_rank):
    """The homographies before and after the piecewise warp, f32[B,3,3] each, in every line's own
    order.
    """
    matrices = jnp.stack(
        [geometry.MATRICES[n](height, width, **draws.amounts[n]) for n in names], axis=1
    )
    slots = _slots(draws.rank, names, recipe["some_of"][1])
    ordered = jnp.take_along_axis(matrices, slots[:, :, None, None], axis=1, mode="clip")
    ranks = jnp.take_along_axis(
        jnp.stack([draws.rank[n] for n in names], axis=1), slots, axis=1, mode="clip"
    )
    nothing = geometry.identity(width.shape[0])
    chains = []
    for belongs in (ranks < warp_rank[:, None], ranks > warp_rank[:, None]):
        chosen = jnp.where((belongs & (slots >= 0))[:, :, None, None], ordered, nothing[:, None])
        chains.append(reduce(geometry.compose, [chosen[:, i] for i in range(slots.shape[1])]))
    return chains


def source_map(draws, recipe, shape, width, max_shift_px=None):
    """Where each pixel of the view comes from, and the view's real width; shape (B, C, H, W).
    Returns (x, y), f32[B,H,W] each, inside the real line, and the width i32[B].

    Other things than the image (a mask, boxes of letters) can follow the view through it.
    """
    batch, _, height, canvas_px = shape
    x, y = geometry.pixel_grid(batch, height, canvas_px)
    wide = width
    if "stretch" in draws.rank:
        used = draws.rank["stretch"] < UNUSED
        times = jnp.where(used, draws.amounts["stretch"]["times"], 1.0)
        x, wide = geometry.stretch(x, width, times, canvas_px)
    start = x
    if "elastic" in draws.rank:
        used = draws.rank["elastic"] < UNUSED
        reach = jnp.where(used, draws.amounts["elastic"]["reach_px"], 0.0)
        x, y = geometry.elastic(x, y, draws.noise_keys, reach)
    names = [n for n, _ in recipe["operators"] if n in geometry.MATRICES]
    rank = draws.rank
    warp_rank = rank.get("piecewise", jnp.full((batch,), UNUSED))
    if names:
        before, after = _chains(draws, recipe, height, width, names, warp_rank)
        x, y = geometry.apply_matrix(after, x, y)
    if "piecewise" in rank:
        offsets = jnp.where(
            (warp_rank < UNUSED)[:, None, None, None], draws.amounts["piecewise"]["offsets"], 0.0
        )
        x, y = geometry.apply_piecewise(x, y, width, offsets)
    if names:
        x, y = geometry.apply_matrix(before, x, y)
    return *geometry.limit_shift(x, y, width, max_shift_px, start), wide


def augment(key, image, width, recipe, max_shift_px=None):
    """One random view of each line, see `augment_lines`, by a recipe that keeps their widths."""
    if any(name == "stretch" for stage in stages(recipe) for name, _ in stage["operators"]):
        raise ValueError("This recipe changes the width of lines: use it for recognisers only.")
    return augment_lines(key, image, width, recipe, max_shift_px)[0]


def augment_lines(key, image, width, recipe, max_shift_px=None):
    """One random view of each line, and its width.

    key: a JAX key. image: u8[B,H,W,C] in [0,255] or f32 in [0,1], C = 1 or 3. width: i32[B], real
    pixels, 1..W. recipe: see augment/recipes.py. max_shift_px: bound on the horizontal way of every
    pixel, None = unbounded
        as in the official recipe.

    Returns (f32[B,H,W,C] in [0,1], i32[B]). Columns right of the line are the input's, white where
    a line has shrunk. ValueError for an impossible recipe.
    """
    check(recipe)
    if max_shift_px is not None and max_shift_px < 0:
        raise ValueError(f"max_shift_px must be None or at least 0, not {max_shift_px}.")
    if image.dtype == jnp.uint8:
        image = image.astype(jnp.float32) / 255.0
    image = jnp.transpose(image, (0, 3, 1, 2))  # planes inside, see color.py
    outside = jnp.where(geometry.inside(width, image.shape[3])[:, None, None], 1.0, image)
    later = jax.random.fold_in(
        key, 2**32 - 1
    )  # beyond the number of any line: `draw` folds those in
    for i, stage in enumerate(stages(recipe)):
        own = jax.random.fold_in(later, i) if i else key
        image, width = _pass(own, image, width, stage, max_shift_px)
    real = geometry.inside(width, image.shape[3])[:, None, None]
    return jnp.transpose(jnp.where(real, image, outside), (0, 2, 3, 1)), width


def _pass(key, image, width, recipe, max_shift_px):
    """Lines (planes, f32[B,C,H,W]) through one stage: (lines, their widths)."""
    channels = image.shape[1]
    draws = draw(key, image.shape[0], recipe)
    colourless = color.COLOURLESS if channels == 1 else ()

    def photometric(names):
        return [n for n in names if n not in MOVING and n not in colourless]

    if names := photometric(draws.rank):
        slots = _slots(draws.rank, names, recipe["some_of"][1])
        image = _in_order(image, width, names, slots, draws.amounts, draws.noise_keys)
    if any(n in MOVING for n in draws.rank):
        x, y, width = source_map(draws, recipe, image.shape, width, max_shift_px)
        image = resample.bilinear(image, x, y)
    if names := photometric(draws.jitter):
        amounts = {
            n: {"turn" if n == "jitter_hue" else "factor": draws.jitter[n][1]} for n in names
        }
        slots = _slots({n: draws.jitter[n][0] for n in names}, names, len(names))
        image = _in_order(image, width, names, slots, amounts, None)
    if channels == 3 and recipe.get("grayscale_p"):
        image = color.grayscale(image, width, alpha=draws.gray)
    return image, width
