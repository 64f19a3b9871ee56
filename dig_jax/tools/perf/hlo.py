"""Reads a compiled program's text (HLO, after optimisation): what it computes, moves through memory
and sends to other devices.

All figures are of one device and one run. What stands in a loop counts as often as the loop turns.
XLA says how often (`known_trip_count`; the TPU compiler leaves it out), or the loop counts from 0
to a constant. Else it counts once, and `Summary.loops_of_unknown_length` says so. XLA's own cost
analysis counts a loop once.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator

import numpy as np

VERSION = "2"  # of what is counted: another one when a program would get other figures
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
# Bits of an element; what is not listed has its size in its name (f32, bf16, u8, f8e4m3fn, s4).
BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
# Move nothing by themselves; what they call is counted apart.
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota",
    "partition-id", "replica-id",
    "while", "call", "conditional", "async-start", "async-update", "opt-barrier", "add-dependency",
    "domain",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Collective:
    """One array. kind: one of KINDS. bytes: of the whole array that the group shares. group: the
    devices of the largest group, in order. times: turns of the loops around it."""

    kind: str
    bytes: int
    group: tuple[int, ...]
    times: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends in all its turns, by the usual ring algorithms."""
        n = len(self.group)
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(
            self.kind, (n - 1) / n
        )
        return self.times * self.bytes * share if n > 1 else 0.0


@dataclasses.dataclass(frozen=True)
class Summary:
    """flops: of matrix products and convolutions (a multiply-add is two). traffic: bytes read from
    and written to main memory by every instruction that is not fused into another."""

    flops: float
    traffic: float
    collectives: tuple[Collective, ...]
    loops_of_unknown_length: int


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str  # attributes; of a parameter its number


def summarize(text: str) -> Summary:
    """What the entry computation of a module does. ValueError where the text is no HLO module."""
    program = _Program(text)
    flops = traffic = 0.0
    collectives = []
    for computation, times in program.visits():
        for instruction in computation.values():
            traffic += times * program.moved(instruction, computation)
            flops += times * program.operations(instruction, computation)
            kind = instruction.opcode.removesuffix("-start")
            if kind in KINDS:
                collectives += program.collectives(kind, instruction, computation, times)
    return Summary(flops, traffic, tuple(collectives), program.unknown)


class _Program:
    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry, self.unknown = "", 0
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            head = re.match(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) )?(?:-> .*)?\{$", line)
            if head and not line.startswith("HloModule"):
                current = self.computations.setdefault(head[2], {})
                self.entry = head[2] if head[1] else self.entry
            elif instruction := _instruction(line):
                current[instruction.name] = instruction
        if not self.entry:
            raise ValueError("this text is no HLO module: it has no ENTRY computation")

    def visits(self) -> Iterator[tuple[dict[str, Instruction], int]]:
        """Every computation that runs by itself (no fusion), with the number of its runs, for each
        place it is called from.
        """
        waiting = [(self.entry, 1)]
        while waiting:
            name, times = waiting.pop()
            computation = self.computations[name]
            yield computation, times
            for instruction in computation.values():
                for called, turns in self._called(instruction, computation):
                    waiting.append((called, times * turns))

    def _turns(self, loop: Instruction, around: dict[str, Instruction]) -> int | None:
        """Turns of a loop, where they are said or where it counts from 0 by one, as JAX's loops."""
        if said := re.search(r'known_trip_count"?:\{"n":"?(\d+)', loop.rest):
            return int(said[1])
        test, body = (
            list(self.computations[re.search(rf"{part}=%?([\w.\-]+)", loop.rest)[1]].values())
            for part in ("condition", "body")
        )
        compared = [i for i in test if i.opcode == "compare" and "direction=LT" in i.rest]
        results = [i for i in body if i.opcode == "tuple"]
        start = around[loop.operands[0]]
        if len(compared) != 1 or not results or start.opcode != "tuple":
            return None
        counter, limit = (next(i for i in test if i.name == n) for n in compared[0].operands)
        place = re.search(r"index=(\d+)", counter.rest)
        if not place or limit.opcode != "constant":
            return None
        first = around[start.operands[int(place[1])]]
        while first.opcode in ("copy", "bitcast"):
            first = around[first.operands[0]]
        after = next((i for i in body if i.name == results[-1].operands[int(place[1])]), None)
        counts = first.rest == "0" and after is not None and after.opcode == "add"
        return int(limit.rest) if counts else None

    def _called(
        self, instruction: Instruction, computation: dict[str, Instruction]
    ) -> Iterator[tuple[str, int]]:
        opcode, rest = instruction.opcode, instruction.rest
        if opcode == "while":
            turns = self._turns(instruction, computation)
            self.unknown += turns is None
            yield re.search(r"body=%?([\w.\-]+)", rest)[1], turns or 1
        elif opcode in ("call", "async-start"):
            yield re.search(r"(?:to_apply|calls)=%?([\w.\-]+)", rest)[1], 1
        elif opcode == "conditional":  # the dearest branch is not known: all of them
            branches = re.search(r"branch_computations=\{([^}]*)\}", rest)
            named = (
                branches[1].split(",")
                if branches
                else re.findall(r"(?:true|false)_computation=(%?[\w.\-]+)", rest)
            )
            for branch in named:
                yield branch.strip().lstrip("%"), 1

    def operations(self, instruction: Instruction, computation: dict[str, Instruction]) -> float:
        """Operations of a dot or convolution, or of those that a fusion holds."""
        opcode, rest = instruction.opcode, instruction.rest
        if opcode == "fusion":
            fused = self._fused(instruction)
            return sum(self.operations(inner, fused) for inner in fused.values())
        if opcode == "dot":
            dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)
            lhs = _dims(computation[instruction.operands[0]].shape)
            contracted = [lhs[int(d)] for d in dims[1].split(",")] if dims and dims[1] else []
            return 2.0 * math.prod(_dims(instruction.shape)) * math.prod(contracted)
        if opcode == "convolution":
            operands = (computation[name].shape for name in instruction.operands)
            return 2.0 * _multiply_adds(*operands, instruction.shape, rest)
        return 0.0

    def moved(self, instruction: Instruction, computation: dict[str, Instruction]) -> float:
        """Bytes read and written by one instruction. Slices of an operand count as what is cut out
        of it.
        """
        opcode, operands = instruction.opcode, instruction.operands
        if opcode in FREE or opcode.endswith("-done"):
            return 0.0
        size = lambda name: _main(computation[name].shape) if name in computation else 0
        if opcode in ("copy-start", "all-gather-start", "collective-permute-start"):
            return float(_main(instruction.shape))  # it names both the source and the copy
        if opcode in ("slice-start", "dynamic-slice-start"):  # names the whole source and the slice
            source, cut = re.findall(r"\w+\[[^\]]*\](?:\{[^}]*\})?", instruction.shape)[:2]
            return float(bool(_main(source)) * _bytes(cut) + _main(cut))
        if opcode in ("dynamic-slice", "slice", "gather"):
            return float(_bytes(instruction.shape) + _main(instruction.shape))
        if opcode == "dynamic-update-slice":
            return 2.0 * size(operands[1])
        if opcode == "fusion":
            fused = self._fused(instruction)
            read = sum(self._read(i.name, fused) for i in fused.values() if i.opcode == "parameter")
            return max(float(read + _main(instruction.shape)), 0.0)
        return float(_main(instruction.shape) + sum(size(name) for name in operands))

    def _read(self, name: str, fused: dict[str, Instruction]) -> int:
        """Bytes of an array that a fusion reads. What is updated in place counts as the update less
        the whole, since the result is counted whole."""
        whole, total = _main(fused[name].shape), 0
        for reader in _readers(name, fused):
            first = reader.operands.index(name) == 0 and reader.operands.count(name) == 1
            if reader.opcode in ("dynamic-slice", "slice") and first:
                part = _bytes(reader.shape)
            elif reader.opcode == "dynamic-update-slice" and first:
                total += _bytes(fused[reader.operands[1]].shape) - whole
                continue
            elif reader.opcode == "bitcast":
                part = self._read(reader.name, fused)
            elif reader.opcode == "fusion":  # of a TPU: one within another
                inner = self._fused(reader)
                part = sum(self._read(i.name, inner) for i in _given(name, reader, inner))
            else:
                return whole
            if part >= whole:
                return whole
            total += part
        return min(total, whole)

    def collectives(
        self, kind: str, instruction: Instruction, computation: dict[str, Instruction], times: int
    ) -> Iterator[Collective]:
        """One for every array that an instruction exchanges."""
        group = max(_groups(instruction.rest), key=len, default=())
        if kind == "collective-permute":
            pairs = re.search(r"source_target_pairs=\{(.*?\})\}", instruction.rest)
            group = tuple(int(d) for d in re.findall(r"\d+", pairs[1])[:2]) if pairs else ()
        for index, name in enumerate(instruction.operands):
            whole = _bytes(computation[name].shape) * (len(group) if kind == "all-gather" else 1)
            result = [instruction.name]
            if len(instruction.operands) > 1:
                parts = _readers(instruction.name, computation)  # get-tuple-element
                result = [i.name for i in parts if re.search(rf"index={index}\b", i.rest)]
            scattered = kind == "all-reduce" and len(group) > 1 and all(
                self._only_sliced(name, computation, whole / len(group)) for name in result
            )  # fmt: skip
            # XLA merges a sum of which everybody keeps a part into one operation on accelerators,
            # and not on CPUs.
            yield Collective("reduce-scatter" if scattered else kind, whole, group, times)

    def _only_sliced(self, name: str, computation: dict[str, Instruction], most: float) -> bool:
        """Whether everything that reads an array takes at most so many bytes of it."""
        readers = _readers(name, computation)
        return bool(readers) and all(
            self._slices(reader, name, computation, most) for reader in readers
        )

    def _slices(
        self, reader: Instruction, name: str, computation: dict[str, Instruction], most: float
    ) -> bool:
        if reader.opcode == "dynamic-slice":
            return reader.operands[0] == name and _bytes(reader.shape) <= most
        if reader.opcode in ("bitcast", "copy", "reshape", "convert"):
            return self._only_sliced(reader.name, computation, most)
        if reader.opcode == "fusion":
            fused = self._fused(reader)
            return all(
                self._only_sliced(given.name, fused, most) for given in _given(name, reader, fused)
            )
        return False

    def _fused(self, instruction: Instruction) -> dict[str, Instruction]:
        return self.computations[re.search(r"calls=%?([\w.\-]+)", instruction.rest)[1]]


def _given(name: str, fusion: Instruction, fused: dict[str, Instruction]) -> list[Instruction]:
    """The parameters of a fusion that are this operand."""
    numbers = {str(i) for i, operand in enumerate(fusion.operands) if operand == name}
    return [i for i in fused.values() if i.opcode == "parameter" and i.rest in numbers]


def _readers(name: str, computation: dict[str, Instruction]) -> list[Instruction]:
    return [i for i in computation.values() if name in i.operands]


def _instruction(line: str) -> Instruction | None:
    match = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)$", line)
    if not match:
        return None
    text = match[2]
    end = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
    shape, text = text[:end], text[end:].lstrip()
    opening = text.find("(")
    if opening < 0:
        return None
    closing = _closing(text, opening)
    inside = re.sub(
        r"/\*.*?\*/|\[[^\]]*\]|\{[^}]*\}", "", text[opening + 1 : closing]
    )  # names, perhaps behind their types
    names = [item.split()[-1].lstrip("%") for item in inside.split(",") if item.strip()]
    opcode, rest = text[:opening], text[closing + 1 :]
    if opcode in ("parameter", "constant"):
        names, rest = [], inside
    return Instruction(match[1], shape, opcode, tuple(names), rest)


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for place, char in enumerate(text[start:], start):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return place
    return len(text) - 1


def _arrays(shape: str) -> Iterator[tuple[str, list[int]]]:
    for kind, dims in re.findall(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\]", shape):
        yield kind, [int(d.lstrip("<=")) for d in dims.split(",") if d]


def _multiply_adds(left: str, kernel: str, out: str, rest: str) -> int:
    """Multiply-adds of a convolution, given its shapes and attributes.

    What meets padding, or a hole of a dilated input, is none. The TPU compiler writes a batch of
    products as a convolution over the batch; all places of its window but one meet such holes.
    """
    names = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest).groups()
    read, weights, written = (
        dict(zip(labels, _dims(shape))) for labels, shape in zip(names, (left, kernel, out))
    )
    window = dict(re.findall(r"(\w+)=([\dx_-]+)", re.search(r"window=\{([^}]*)|$", rest)[1] or ""))
    total = written["b"] * written["f"] * weights["i"]
    for axis in range(len(read) - 2):
        of = {name: values.split("x")[axis] for name, values in window.items()}
        stride, holes, step = (int(of.get(n, 1)) for n in ("stride", "lhs_dilate", "rhs_dilate"))
        low, size = int(of.get("pad", "0").split("_")[0]), str(axis)
        place = stride * np.arange(written[size])[:, None] + step * np.arange(weights[size]) - low
        there = (place >= 0) & (place <= (read[size] - 1) * holes) & (place % holes == 0)
        total *= int(there.sum())
    return total


def _dims(shape: str) -> list[int]:
    return next(_arrays(shape))[1]


def _bytes(shape: str) -> int:
    """Bytes of an array or of all arrays of a tuple."""
    total = 0
    for kind, dims in _arrays(shape):
        bits = BITS[kind] if kind in BITS else int(re.search(r"\d+", kind)[0])
        total += math.prod(dims) * bits // 8
    return total


def _main(shape: str) -> int:
    """The same of those in main memory: S(1) is a TPU's memory on the chip, which the compiler
    fills and empties by copies of their own."""
    return _bytes(re.sub(r"\[[\d,]*\](?=\{[^}]*S\(\d+\))", "[0]", shape))


def _groups(rest: str) -> list[tuple[int, ...]]:
    """Replica groups, in each of XLA's three ways of writing them."""
    if match := re.search(r"replica_groups=\{(\{.*?\})\}", rest):
        return [
            tuple(int(d) for d in group.split(",") if d)
            for group in re.findall(r"\{([\d,]*)\}", match[1])
        ]
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        shape = [int(d) for d in match[1].split(",")]
        return [tuple(row) for row in _iota(match[2], match[3]).reshape(shape).tolist()]
    if match := re.search(
        r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", rest
    ):
        axes = [(name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])]
        ids = np.arange(math.prod(size for _, size in axes))
        if match[2] and (order := re.search(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", match[2])):
            ids = _iota(order[1], order[2]).reshape(-1)
        ids = ids.reshape([size for _, size in axes])
        chosen = re.findall(r"'([^']+)'", match[3])
        across = [place for place, (name, _) in enumerate(axes) if name in chosen]
        others = [place for place in range(len(axes)) if place not in across]
        size = math.prod(axes[place][1] for place in across)
        return [tuple(row) for row in ids.transpose(others + across).reshape(-1, size).tolist()]
    return []


def _iota(shape: str, order: str | None) -> np.ndarray:
    """0, 1, 2, ... in this shape, transposed."""
    dims = [int(d) for d in shape.split(",")]
    ids = np.arange(math.prod(dims)).reshape(dims)
    return ids.transpose([int(d) for d in order.split(",")]) if order else ids


def by_kind(collectives: tuple[Collective, ...]) -> dict[str, tuple[int, float]]:
    """{kind: (arrays, bytes that a device sends)} of the kinds that occur."""
    result = {}
    for kind, members in itertools.groupby(
        sorted(collectives, key=lambda c: c.kind), key=lambda c: c.kind
    ):
        members = list(members)
        result[kind] = (sum(c.times for c in members), sum(c.sent for c in members))
    return result
