"""Which tokens of a line are hidden from the encoder.

    random   single tokens                                   DiG, MAE
    span     runs of whole columns, wherever they begin      wav2vec 2.0; `random_mask` with a span
    block    units of several patches, side by side          SimMIM; `unit_mask`
    mixed    one of the three, drawn for each line           MMS, arXiv 2505.06855

`hider` makes the function that a method draws its masks with, `most_visible` says how much of a
line it leaves at most.

DiG, reference section 1.6: a random 70 % of the tokens of every image, int(0.7 * 256) = 179 at 8 x
32, without block structure. MAE does the same with 75 %. SimMIM, section 7: 60 % of units of
several patches each. Departure that padded lines need: the share is of the *real* tokens and
padding is never hidden.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("random", "span", "block", "mixed")


def hider(
    patch: Sequence[int],
    ratio: float,
    span: int = 1,
    kind: str | None = None,
    unit_px: Sequence[int] | None = None,
) -> Callable[..., jax.Array]:
    """(key, width i32[B], grid) -> the hidden tokens, bool[B,N], True = hidden.

    kind: see above; None = "block" with a unit_px, "span" with a span above 1, else "random".
    ratio, span: see `random_mask`. unit_px: see `unit_mask`; None = two patches each way, in grids
    of an odd number of rows one row. ValueError for a kind that is not, and for one whose span is
    missing.
    """
    return functools.partial(
        _draw,
        patch=tuple(patch),
        kinds=kinds(kind, span, unit_px),
        ratio=ratio,
        span=span,
        unit_px=unit_px,
    )


def kinds(kind: str | None, span: int, unit_px: Sequence[int] | None) -> tuple[str, ...]:
    """The kinds that a line may get, by the arguments of `hider`."""
    if kind is None:
        if unit_px and span > 1:
            raise ValueError(
                f"mask_span is {span}, and mask_unit_px hides blocks: set config.method.mask_kind "
                "to 'span', or leave mask_span 1"
            )
        kind = "block" if unit_px else "random" if span == 1 else "span"
    if kind not in KINDS:
        raise ValueError(
            f"mask_kind is {kind!r}; set config.method.mask_kind to one of {', '.join(KINDS)}"
        )
    if kind in ("span", "mixed") and span == 1:
        raise ValueError(
            f"mask_kind is {kind!r} and mask_span is 1, which is no run: set "
            "config.method.mask_span to 2 or more"
        )
    return ("random", "span", "block") if kind == "mixed" else (kind,)


def _draw(key, width, grid, patch, kinds, ratio, span, unit_px):
    """See `hider`."""
    by = {
        "random": lambda key: random_mask(key, width, grid, patch, ratio),
        "span": lambda key: random_mask(key, width, grid, patch, ratio, span),
        "block": lambda key: unit_mask(key, width, grid, patch, ratio, _unit(unit_px, grid, patch)),
    }
    if len(kinds) == 1:
        return by[kinds[0]](key)
    which_key, *keys = jax.random.split(key, 1 + len(kinds))
    drawn = jnp.stack([by[kind](key) for kind, key in zip(kinds, keys)])
    pick = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(kinds)))
    which = pick(jax.random.split(which_key, len(width)))
    return jnp.take_along_axis(drawn, which[None, :, None], axis=0)[0]


def _unit(unit_px, grid, patch):
    """unit_px, or two patches each way."""
    return tuple(unit_px or (patch[0] * (2 - grid[0] % 2), patch[1] * 2))


def _hide_lowest(bits, place, valid, count):
    """bool[B,M]: of the valid units, the count (i32[B]) with the lowest (bits u32[B,M], place i32[B
    or 1,M]).
    """
    low = np.uint32((1 << (bits.shape[1] - 1).bit_length()) - 1)
    # The place in the low bits makes all scores of a line distinct, so that one sort gives an exact
    # threshold. The highest bit is cleared, so that padding ranks last.
    score = ((bits >> 1) & ~low) | place.astype(jnp.uint32)
    score = jnp.where(valid, score, np.uint32(0xFFFFFFFF))
    last = jnp.take_along_axis(jnp.sort(score, axis=1), jnp.maximum(count - 1, 0)[:, None], axis=1)
    return (score <= last) & (count > 0)[:, None]


def _hidden_counts(grid, ratio, span):
    """[i]: how many single tokens, or with span > 1 whole columns, a line of i columns hides. In
    Python's doubles: int(ratio * n) must not depend on the device's rounding."""
    unit = grid[0] if span == 1 else 1
    return [int(ratio * unit * c) for c in range(grid[1] + 1)]


def most_visible(grid, patch, ratio, span=1, kind=None, unit_px=None):
    """How many tokens a mask of `hider` leaves visible at most, whatever the line. An int: the
    static size of what an encoder has to read that reads nothing else (MAE)."""
    rows, columns = grid
    most = 0
    for one in kinds(kind, span, unit_px):
        if one == "block":
            hidden = _fewest_hidden(grid, patch, ratio, _unit(unit_px, grid, patch))
        else:
            each = 1 if one == "random" else rows
            counts = _hidden_counts(grid, ratio, 1 if one == "random" else span)
            hidden = [each * count for count in counts]
        most = max([most, *(c * rows - hidden[c] for c in range(columns + 1))])
    return most


def _fewest_hidden(grid, patch, ratio, unit_px):
    """[c]: how many tokens `unit_mask` hides at least on a line of c columns, where the units that
    the end of the line cuts are the hidden ones."""
    down, across = unit_px[0] // patch[0], unit_px[1] // patch[1]
    lanes, least = grid[0] // down, []
    for c in range(grid[1] + 1):
        units = -(-c // across) * lanes
        hidden, last = _hidden_units(units, ratio), c - (-(-c // across) - 1) * across
        cut = min(hidden, lanes)
        least.append(cut * last * down + (hidden - cut) * across * down)
    return least


def _hidden_units(units, ratio):
    """SimMIM's ceil, but never the whole line."""
    return max(min(math.ceil(ratio * units), units - 1), 0)


def _real_columns(width, patch, columns):
    """i32[B,1]: columns of a line that hold at least one real pixel, of `columns` at most."""
    return jnp.clip((width + patch[1] - 1) // patch[1], 1, columns)[:, None]


def random_mask(key, width, grid, patch, ratio, span=1):
    """Draws the hidden tokens of a batch of lines.

    key: a JAX key. width: i32[B], real pixels of each line. grid: (Gh, Gw) tokens; patch: (ph, pw)
    pixels. ratio: share of the real tokens to hide, in [0, 1]. span: 1 hides single tokens; more
    hides runs of `span` neighbouring columns, each with all its rows, so that a
        letter cannot be copied from its own upper half. The last run of a line is cut to meet the
        count.

    Returns bool[B,Gh*Gw], True = hidden, tokens column by column (n = column * Gh + row). A line
    with c real columns has exactly int(ratio * c * Gh) hidden tokens (span 1) or int(ratio * c)
    hidden columns (span > 1). A real token is hidden with the same chance wherever it stands;
    padding is never hidden. A very short line may have none. ValueError when ratio or span are out
    of range.
    """
    rows, columns = grid
    if not 0 <= ratio <= 1:
        raise ValueError(
            f"The share of hidden tokens must be between 0 and 1, not {ratio}: change "
            "method.mask_ratio."
        )
    if span < 1:
        raise ValueError(
            f"Hidden runs must be at least 1 column long, not {span}: change method.mask_span."
        )
    keys = jax.random.split(key, width.shape[0])
    real = _real_columns(width, patch, columns)
    count = jnp.array(_hidden_counts(grid, ratio, span), jnp.int32)[real[:, 0]]

    def bits(places):
        return jax.vmap(lambda k: jax.random.bits(k, (places,), jnp.uint32))(keys)

    if span == 1:
        place = jnp.arange(rows * columns)[None, :]
        return _hide_lowest(bits(rows * columns), place, place < real * rows, count)
    place = jnp.arange(columns)[None, :]
    # Runs lie on a ring with a random start: every column is equally likely, the ends of the line
    # included.
    drawn = bits(columns + 1)
    start = (drawn[:, columns:] % real.astype(jnp.uint32)).astype(jnp.int32)
    ring = (place + start) % real
    # The columns of a run share its bits and follow each other by their place on the ring.
    shared = jnp.take_along_axis(drawn[:, :columns], ring // span, axis=1)
    return jnp.repeat(_hide_lowest(shared, ring, place < real, count), rows, axis=1)


def unit_mask(key, width, grid, patch, ratio, unit_px):
    """Hides blocks of patches: units of unit_px = (height, width) pixels, side by side from the
    line's top left corner.

    The rest as for `random_mask`, except for the count. A line with u units, the last of them
    perhaps a part of one, has exactly min(ceil(ratio * u), u - 1) hidden units. That is SimMIM's
    ceil, but never the whole line. ValueError when a unit is not made of whole patches or units do
    not fill the height.
    """
    rows, columns = grid
    if not 0 <= ratio <= 1:
        raise ValueError(
            f"The share of hidden units must be between 0 and 1, not {ratio}: change "
            "method.mask_ratio."
        )
    down, across = unit_px[0] // patch[0], unit_px[1] // patch[1]
    if (
        (down * patch[0], across * patch[1]) != tuple(unit_px)
        or min(down, across) < 1
        or rows % down
    ):
        raise ValueError(
            f"Hidden units of {tuple(unit_px)} px are not whole patches of {tuple(patch)} px that "
            f"fill a height of {rows * patch[0]} px: change method.mask_unit_px."
        )
    lanes, places = rows // down, -(-columns // across)
    real = _real_columns(width, patch, columns)
    units = (real + across - 1) // across * lanes
    counts = [_hidden_units(u, ratio) for u in range(places * lanes + 1)]
    count = jnp.array(counts, jnp.int32)[units[:, 0]]
    keys, place = jax.random.split(key, width.shape[0]), jnp.arange(places * lanes)[None, :]
    bits = jax.vmap(lambda k: jax.random.bits(k, (places * lanes,), jnp.uint32))(keys)
    hidden = _hide_lowest(bits, place, place < units, count).reshape(-1, places, 1, lanes, 1)
    hidden = jnp.broadcast_to(hidden, (len(width), places, across, lanes, down)).reshape(
        -1, places * across, rows
    )
    return (hidden[:, :columns] & (jnp.arange(columns)[None, :] < real)[..., None]).reshape(
        -1, columns * rows
    )
