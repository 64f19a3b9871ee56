"""The ViT of another project as ours: the same features of the same image.

What differs is folded into the weights, so that nothing of it is left at run time:

- pixels: their mean and spread go into the patch embedding, which here is given -1 to 1
- bias of the keys: adds the same to all logits of a query, so softmax does not see it
- layer scale: goes into the layer before it
- order of tokens: a table of positions is turned to reading order, column by column
- class token: kept, with its place's code added, or dropped
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dig_jax.interop.layouts import CONTAINERS, HEAD_WIDTH, LAYOUTS, OWN, PIXELS, Layout
from dig_jax.models import vit

FIRST = "patch_embed.proj.weight"  # every ViT has it, so it tells where one lies
CODES = ("sincos_2d", "square_2d", "flat_1d")
SAME = 1e-5  # a table that is this near to one of our codes is that code
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
# In a block of ours <- theirs; `_block` does the rest.
DENSE = {"attn/proj": "attn.proj", "mlp/fc1": "mlp.fc1", "mlp/fc2": "mlp.fc2"}
SCALES = {"attn/proj": ("gamma_1", "ls1.gamma"), "mlp/fc2": ("gamma_2", "ls2.gamma")}


@dataclasses.dataclass(frozen=True)
class Imported:
    """encoder: options of `encoders.create`. params: its parameters. prefix: what was read.

    left_out: names under the prefix that this encoder has no place for; others: how many arrays
    belong to other parts.
    """

    encoder: dict[str, Any]
    params: dict[str, Any]
    prefix: str
    left_out: tuple[str, ...]
    others: int


def convert(
    state: Mapping[str, np.ndarray],
    layout: str | None,
    *,
    prefix: str | None = None,
    heads: int | None = None,
    pixels: str | None = None,
    trained_px: tuple[int, int] | None = None,
    for_px: tuple[int, int] | None = None,
    channels: int | None = 3,
    class_token: bool = True,
) -> Imported:
    """A state dict (names -> f32 arrays) as our ViT. ValueError in one sentence.

    layout: None for an export of ours to torch. prefix, heads, pixels, trained_px: instead of the
    layout's. for_px: (height, width) that the table of positions is stretched to. channels: 1 adds
    the colours up, for grey lines; None: as the file has them. class_token: False drops it, which
    changes the features.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}: choose one of {', '.join(LAYOUTS)}")
    if channels not in (1, 3, None):
        raise ValueError(f"channels is {channels}: choose 1 (grey) or 3 (colour)")
    known = OWN if layout is None else LAYOUTS[layout]
    prefix = _prefix(state, layout, known, prefix)
    own = {n.removeprefix(prefix): x for n, x in state.items() if n.startswith(prefix)}
    beside = {name for name in own if re.match(known.beside, name)}
    take = _Taker({name: own[name] for name in own if name not in beside}, prefix)
    kernel = take(FIRST)
    if kernel.ndim != 4 or (kernel.shape[1] != 3 and channels):
        raise ValueError(
            f"{prefix}{FIRST} has the shape {kernel.shape}: a patch embedding of colour images "
            "[width, 3, height, width of a patch] is read"
        )
    width, patch = kernel.shape[0], kernel.shape[2:]
    depth = 1 + max((int(m[1]) for n in own if (m := BLOCK.match(n))), default=-1)
    blocks = [_block(take, f"blocks.{i}.") for i in range(depth)]
    trained = vit.grid((*(trained_px or known.trained_px), 1), patch)
    wanted = trained if for_px is None else vit.grid((*for_px, 1), patch)
    position, token = _position(take, known, trained, wanted, width)
    params: dict[str, Any] = {f"block_{i}": block for i, block in enumerate(blocks)}
    params |= {"mask_token": np.zeros(width, np.float32)} | position.pop("params")
    if "mask_token" in take:
        params["mask_token"] = take("mask_token").reshape(-1)
    params["patch_embed"] = _patch_embed(
        kernel, take(FIRST.replace("weight", "bias")), PIXELS[pixels or known.pixels], channels
    )
    final_norm = "norm.weight" in take or not known.norm_may_lack
    if final_norm:
        params["norm"] = _norm(take, "norm.")
    if token is not None and class_token:
        params["cls_token"] = token
    take.finish(layout)
    hidden = blocks[0]["mlp"]["fc1"]["kernel"].shape[1] if blocks else 4 * width
    options = {"patch": list(patch), "width": width, "depth": depth, "mlp_ratio": hidden / width}
    heads = _heads(known, width) if heads is None else heads
    if heads < 1 or width % heads:
        raise ValueError(
            f"heads is {heads}, which does not divide the width of {width}: state with --heads how "
            "many the network has"
        )
    options |= {"heads": heads, "final_norm": final_norm} | position
    options |= {"class_token": True} if "cls_token" in params else {}
    left = tuple(sorted(beside)) + (("cls_token",) if token is not None and not class_token else ())
    left += take.unused
    return Imported({"kind": "vit"} | options, params, prefix, left, len(state) - len(own))


# ---- names


class _Taker:
    """Arrays by name; what is not there is said at once, what is left over by `finish`."""

    def __init__(self, arrays: Mapping[str, np.ndarray], prefix: str):
        self.left, self.prefix = dict(arrays), prefix
        self.unused: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def __call__(self, name: str) -> np.ndarray:
        if name not in self.left:
            raise ValueError(
                f"the state dict has no {self.prefix}{name}: choose the layout that it is of"
            )
        return np.asarray(self.left.pop(name), np.float32)

    def first(self, names: tuple[str, ...]) -> np.ndarray | None:
        """The one of several names that is there."""
        return next((self(name) for name in names if name in self.left), None)

    def finish(self, layout: str | None) -> None:
        if self.left:
            names = sorted(self.left)
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(
                f"the layout {layout} knows no {', '.join(names[:5])}{more} under "
                f"{self.prefix or 'the top'!r}: choose the layout that the file is of"
            )


def _prefix(state: Mapping[str, Any], layout: str | None, known: Layout, given: str | None) -> str:
    """What the names of the encoder begin with."""
    found = [
        name[: -len(FIRST)] for name in state if re.search(rf"(^|\.){re.escape(FIRST)}$", name)
    ]
    plain = {_plain(prefix): prefix for prefix in sorted(found, reverse=True)}
    wanted = known.prefixes if given is None else (_plain(given), given)
    for prefix in wanted:
        if prefix in plain:
            return plain[prefix]
    if given in found:
        return given
    have = ", ".join(repr(prefix) for prefix in found) or "none"
    raise ValueError(
        f"the layout {layout} has an encoder under {wanted[0]!r}, and this file has encoders under "
        f"{have}: choose another layout, or name one with --prefix"
    )


def _plain(prefix: str) -> str:
    return "".join(f"{part}." for part in prefix.split(".") if part and part not in CONTAINERS)


def _heads(layout: Layout, width: int) -> int:
    if width not in layout.heads and width % HEAD_WIDTH:
        raise ValueError(
            f"the width is {width}, from which the number of attention heads does not follow: "
            "state it with --heads"
        )
    return layout.heads.get(width, width // HEAD_WIDTH)


# ---- layers


def _patch_embed(kernel, bias, pixels, channels: int | None) -> dict[str, np.ndarray]:
    """Kernel [D, 3, h, w] for (x - mean) / std of x in 0..1 -> for 2 x - 1, [h * w * C, D]."""
    colours = kernel.shape[1]
    mean, std = (np.asarray(x[:colours], np.float64)[None, :, None, None] for x in pixels)
    kernel = kernel.astype(np.float64)
    bias = bias + (kernel * (0.5 - mean) / std).sum((1, 2, 3))
    kernel = kernel * 0.5 / std
    if channels == 1 < colours:
        kernel = kernel.sum(1, keepdims=True)
    kernel = kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def _norm(take: _Taker, name: str) -> dict[str, np.ndarray]:
    return {"scale": take(name + "weight"), "bias": take(name + "bias")}


def _block(take: _Taker, name: str) -> dict[str, Any]:
    block: dict[str, Any] = {norm: _norm(take, f"{name}{norm}.") for norm in ("norm1", "norm2")}
    block |= {"attn": {}, "mlp": {}}
    for ours, theirs in DENSE.items():
        found = take.first(tuple(name + suffix for suffix in SCALES.get(ours, ())))
        scale = np.ones(1, np.float32) if found is None else found
        room, layer = ours.split("/")
        kernel, bias = (take(f"{name}{theirs}.{kind}") for kind in ("weight", "bias"))
        block[room][layer] = {"kernel": kernel.T * scale, "bias": bias * scale}
    kernel = take(f"{name}attn.qkv.weight")
    block["attn"]["qkv"] = {"kernel": kernel.T}
    width = kernel.shape[1]
    both = take.first((f"{name}attn.qkv.bias",))
    if both is None:
        query, value = take(f"{name}attn.q_bias"), take(f"{name}attn.v_bias")
    else:
        query, value = both[:width], both[2 * width :]
    block["attn"] |= {"q_bias": query, "v_bias": value}
    return block


def _position(take: _Taker, layout: Layout, trained, wanted, width: int):
    """({"position", "flat_columns", "params"}, class token f32[D] or None)."""
    rows, cols = trained
    table, token = take.first(("pos_embed",)), take.first(("cls_token",))
    first: np.ndarray | float = 0.0
    if table is None:
        if layout.codes is None:
            raise ValueError(f"the state dict has no {take.prefix}pos_embed: choose another layout")
        codes = vit.position_codes(layout.codes, trained, width, cols)
        table = _by_row(np.asarray(codes)[0], trained)
    elif table.ndim == 4:  # an export of ours: a grid, and a class token without a place
        wanted = table.shape[1:3] if wanted == trained else wanted
        trained, table = table.shape[1:3], table[0]
        rows, cols = trained
    else:
        table = table.reshape(-1, table.shape[-1])
        if token is not None and len(table) == rows * cols + 1:
            first, table = table[0], table[1:]
        elif token is not None:  # stored, and without a place never read
            take.unused, token = ("cls_token",), None
        if len(table) != rows * cols:
            raise ValueError(
                f"pos_embed has {len(table)} places, and the images of this layout {rows} x {cols} "
                "patches: state with --trained_px=HxW what it was trained on"
            )
        table = table.reshape(rows, cols, width)
    token = None if token is None else token.reshape(-1) + first
    name = _code_of(table, width)
    if name == "sincos_2d" or (name and wanted == trained):
        return {"position": name, "flat_columns": cols, "params": {}}, token
    if wanted != trained:
        table = np.asarray(jax.image.resize(jnp.asarray(table), (*wanted, width), "cubic"))
    table = table.transpose(1, 0, 2).reshape(-1, width)  # to reading order
    options = {"position": "learned", "flat_columns": wanted[1]}
    return options | {"params": {"position": np.ascontiguousarray(table)}}, token


def _by_row(codes: np.ndarray, grid) -> np.ndarray:
    """[N, D] in reading order -> [rows, columns, D]."""
    return codes.reshape(grid[1], grid[0], -1).transpose(1, 0, 2)


def _code_of(table: np.ndarray, width: int) -> str | None:
    """The name of our code that a table [rows, columns, D] holds; None: it is one of its own."""
    for name in CODES:
        try:
            codes = np.asarray(vit.position_codes(name, table.shape[:2], width, table.shape[1]))[0]
        except ValueError:  # a width or a number of places that this code has not
            continue
        if np.abs(_by_row(codes, table.shape[:2]) - table).max() < SAME:
            return name
    return None
