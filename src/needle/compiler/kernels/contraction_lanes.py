"""Sums of products side by side: the innermost axis of the batch is contiguous in a, b and out.

    out[g, m] = sum over k of a[g, m, k] · b[g, k]

as in a depthwise convolution, where g are the channels. Vectors run along g and nothing is packed:
up to nine vectors of sums stay in registers, one for each of as many m, which share what is
loaded of b. Nine are the places of a 3x3 kernel, so that its gradient reads everything once.

m and k may be any axes: where their elements lie is listed in scratch memory, block by block.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from needle.compiler.code import Code, Value
from needle.compiler.kernels.microkernel import multiply_add
from needle.compiler.kernels.packing import (
    list_offsets,
    offset_of,
    write_list_offsets,
    write_offset_of,
)
from needle.compiler.target import Target
from needle.compiler.types import I64, POINTER, STORED_AS_HALF, TYPES, itemsize

__all__ = ["KC", "MC", "Lanes", "LanesWord", "scratch_for"]

_HEIGHTS = (9, 4, 2, 1)
# How many m and k are listed at a time. A sum over more than KC is one of sums over KC each.
MC, KC = 288, 512
# pointers a, b, out; lists of offsets: of m in a and out, of k in a and b; how many k; whether
# to add to out; how many lanes there are
_ARGUMENTS = (POINTER,) * 7 + (I64,) * 3


class LanesWord(IntEnum):
    """The kernel's numbers. Strides are in bytes; X_GROUP is where that group's words begin."""

    A_AT, B_AT = 0, 1  # which pointer of the call is a's, and which b's
    OUTER, LANES, M, K, KC = 2, 3, 4, 5, 6
    SCRATCH = 7  # bytes per task
    OUTER_A, OUTER_B, OUTER_C = 8, 9, 10
    M_GROUP_A, M_GROUP_C, K_GROUP_A, K_GROUP_B = 11, 12, 13, 14
    GROUPS = 15  # from here on


def scratch_for(kc: int) -> int:
    """Bytes of the four lists, for blocks of that many k."""
    return 16 * (MC + kc)


@dataclass(frozen=True)
class Lanes:
    """What the code depends on: the dtypes of both operands and of the result."""

    a: str
    b: str
    out: str

    @property
    def compute(self) -> str:
        """The dtype of the sums."""
        if self.out == "bool":
            return "uint8"
        return "float32" if self.out in STORED_AS_HALF else self.out

    @property
    def stored(self) -> str:
        """The dtype in which sums are written."""
        return self.out if self.out in STORED_AS_HALF else self.compute

    @property
    def logical(self) -> bool:
        """Whether sums are "any" and products "all"."""
        return self.out == "bool"

    @property
    def sums_are_rounded(self) -> bool:
        """Whether they cannot be added to once they are written."""
        return self.out in STORED_AS_HALF

    @property
    def key(self) -> str:
        """Names the kernel."""
        return f"lanes {self.a} {self.b} {self.out}"

    def write(self, module: Any, target: Target) -> None:
        """The kernel and the functions it calls."""
        write_offset_of(module, target)
        write_list_offsets(module, target)
        lanes = target.lanes(itemsize(self.compute))
        for height in _HEIGHTS:
            _write_tile(module, target, self, height, lanes, False)
            _write_tile(module, target, self, height, lanes if target.has_masks else 1, True)
        _Writer(Code(module, "kernel", target), self).write()


def _name(height: int, edge: bool) -> str:
    return f"lanes_{height}{'_edge' if edge else ''}"


def _write_tile(module: Any, target: Target, s: Lanes, height: int, lanes: int, edge: bool) -> None:
    """The function of `_ARGUMENTS`: sums for so many m, of a vector of lanes.

    edge: fewer lanes than the vector has, by a mask, or (lanes = 1) one after the other.
    """
    code = Code(module, _name(height, edge), target, _ARGUMENTS)
    code.function.linkage = "internal"
    code.function.attributes.add("noinline")
    count = code.arguments[-1]
    if edge and lanes == 1:
        with code.loop(0, count) as lane:
            _sums(code, s, height, 1, lane, None)
    else:
        mask = code.row(range(lanes), I64) < count if edge else None
        _sums(code, s, height, lanes, 0, mask)
    code.finish()


def _sums(code: Code, s: Lanes, height: int, lanes: int, lane: Any, mask: Value | None) -> None:
    a, b, c, m_in_a, m_in_c, k_in_a, k_in_b, length, adding, _ = code.arguments
    type = TYPES[s.compute]
    rows = [a + code.word(m_in_a, i) for i in range(height)]
    sums = [code.variable(code.constant(0, type, lanes)) for _ in rows]
    places = [c + code.word(m_in_c, i) for i in range(height)]
    for place in places:
        code.prefetch(place, to_write=True)
    with code.when(length > 0):  # the last that the next tile's windows see
        ahead = a + code.word(k_in_a, length - 1)
        for i in range(height):
            code.prefetch(ahead + code.word(m_in_a, height + i))
    with code.loop(0, length) as k:
        y = code.load(b + code.word(k_in_b, k), s.b, lane, lanes, mask).cast(type)
        step = code.word(k_in_a, k)
        for row, total in zip(rows, sums, strict=True):
            x = code.load(row + step, s.a, lane, lanes, mask).cast(type)
            total.set(multiply_add(code, x, y, total.get(), s.logical))
    with code.when(adding.differs(0)):
        for place, total in zip(places, sums, strict=True):
            before = code.load(place, s.stored, lane, lanes, mask)
            total.set(before | total.get() if s.logical else before + total.get())
    for place, total in zip(places, sums, strict=True):
        code.store(total.get(), place, s.stored, lane, mask)


class _Writer:
    """The loops around the tiles."""

    def __init__(self, code: Code, structure: Lanes) -> None:
        self.code, self.structure = code, structure
        self.width = code.target.lanes(itemsize(structure.compute))

    def word(self, number: int) -> Value:
        return self.code.word(self.numbers, number)

    def group(self, number: LanesWord) -> Value:
        return self.numbers + self.word(number) * 8

    def write(self) -> None:
        code = self.code
        context, self.task, self.tasks = code.arguments
        self.numbers = code.pointer_at(context, 0)
        places = self.word(LanesWord.A_AT), self.word(LanesWord.B_AT), 3
        self.pointers = [code.pointer_at(context, place) for place in places]
        scratch = code.pointer_at(context, 13) + self.task * self.word(LanesWord.SCRATCH)
        self.kc = self.word(LanesWord.KC)
        self.m_in_a, self.m_in_c = scratch, scratch + MC * 8
        self.k_in_a = scratch + MC * 16
        self.k_in_b = self.k_in_a + self.kc * 8
        self.m, self.k = self.word(LanesWord.M), self.word(LanesWord.K)
        self.share()
        code.finish()

    def share(self) -> None:
        """Tasks share the m of all outer batches; if those are few, the lanes."""
        code, one = self.code, self.code.constant(1, I64)
        panels = (self.m + (_HEIGHTS[0] - 1)) // _HEIGHTS[0]
        count = self.word(LanesWord.OUTER) * panels
        by_m = count >= self.tasks
        task, tasks = code.select(by_m, self.task, 0), code.select(by_m, self.tasks, one)
        begin, end = code.share(count, task, tasks)
        task, tasks = self.task - task, code.select(by_m, one, self.tasks)
        lanes = code.share(self.word(LanesWord.LANES), task, tasks, self.width)
        some = (begin < end) & (lanes[0] < lanes[1])
        last = code.select(some, (end + panels - 1) // code.maximum(panels, 1), 0)
        with code.loop(begin // code.maximum(panels, 1), last) as outer:
            start = code.maximum(begin - outer * panels, 0) * _HEIGHTS[0]
            stop = code.minimum((end - outer * panels) * _HEIGHTS[0], self.m)
            self.blocks(outer, (start, stop), lanes)

    def blocks(self, outer: Value, rows: tuple[Value, Value], lanes: tuple[Value, Value]) -> None:
        """List the offsets of a block of m and k, and go through it."""
        code = self.code
        groups = LanesWord.OUTER_A, LanesWord.OUTER_B, LanesWord.OUTER_C
        self.a, self.b, self.c = [
            pointer + offset_of(code, self.group(group), outer)
            for pointer, group in zip(self.pointers, groups, strict=True)
        ]
        steps = code.maximum((self.k + self.kc - 1) // self.kc, 1)
        with code.loop(*rows, MC) as first:
            count = code.minimum(rows[1] - first, MC)
            list_offsets(code, self.group(LanesWord.M_GROUP_A), first, count, self.m_in_a)
            list_offsets(code, self.group(LanesWord.M_GROUP_C), first, count, self.m_in_c)
            with code.loop(0, steps) as step:
                k = step * self.kc
                depth = code.minimum(self.kc, self.k - k)
                list_offsets(code, self.group(LanesWord.K_GROUP_A), k, depth, self.k_in_a)
                list_offsets(code, self.group(LanesWord.K_GROUP_B), k, depth, self.k_in_b)
                adding = code.select(step > 0, code.constant(1, I64), 0)
                self.tiles(count, lanes, depth, adding)

    def tiles(self, count: Value, lanes: tuple[Value, Value], depth: Value, adding: Value) -> None:
        """Nine m at a time, all their lanes; fewer m in lower tiles."""
        code = self.code
        done = code.constant(0, I64)
        for height in _HEIGHTS:
            stop = done + (count - done) // height * height
            with code.loop(done, stop, height) as i, code.loop(*lanes, self.width) as lane:
                self.tile(height, i, lane, lanes[1] - lane, depth, adding)
            done = stop

    def tile(
        self, height: int, i: Value, lane: Value, left: Value, depth: Value, adding: Value
    ) -> None:
        """A tile from the i-th of the listed m on."""
        code, s = self.code, self.structure
        pointers = [
            pointer + lane * itemsize(dtype)
            for pointer, dtype in ((self.a, s.a), (self.b, s.b), (self.c, s.stored))
        ]
        lists = self.m_in_a + i * 8, self.m_in_c + i * 8, self.k_in_a, self.k_in_b

        def call(edge: bool) -> None:
            code.call(_name(height, edge), None, *pointers, *lists, depth, adding, left)

        code.either(left < self.width, lambda: call(True), lambda: call(False))
