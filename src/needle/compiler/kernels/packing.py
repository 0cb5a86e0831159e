"""Panels: parts of an operand copied so that a register tile reads them front to back.

A panel holds some rows of a (or columns of b) over a stretch of k: all of them for the first k,
then for the next. It is also where layouts end: transposed, strided, merged from several axes
and converted, all become the same panel.

A *group* is what is known of some axes that are walked as one, in words: how many axes are left
after merging, then the extent and the stride in bytes of each, the innermost first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from needle.compiler.code import Code, Value
from needle.compiler.target import Target
from needle.compiler.types import I64, POINTER, TYPES, itemsize

__all__ = [
    "Odometer",
    "Pack",
    "list_offsets",
    "offset_of",
    "stretches",
    "write_list_offsets",
    "write_offset_of",
    "write_pack",
]

_OFFSET_OF, _LIST_OFFSETS = "offset_of", "list_offsets"
_MOST_AXES = 64  # of a group; an array has fewer
# first element; groups across and along the panel; where and how wide, where and how long;
# the panel, and the bytes from one of its rows to the next
ARGUMENTS = (POINTER, POINTER, POINTER, I64, I64, I64, I64, POINTER, I64)


@dataclass(frozen=True)
class Pack:
    """What packing depends on: dtypes in memory and in the panel, and the widest panel."""

    source: str
    dtype: str
    most: int

    @property
    def name(self) -> str:
        """Its symbol."""
        return f"pack_{self.source}_{self.dtype}"


def write_offset_of(module: Any, target: Target) -> None:
    """offset_of(group, index): bytes from the first element of a group to the one at `index`."""
    code = Code(module, _OFFSET_OF, target, (POINTER, I64), I64)
    code.function.linkage = "internal"
    code.function.attributes.add("noinline")
    group, index = code.arguments
    last = code.word(group, 0) - 1
    rest, offset = code.variable(index), code.variable(code.constant(0, I64))
    with code.loop(0, last) as axis:
        extent = code.word(group, axis * 2 + 1)
        outer = rest.get() // extent
        within = rest.get() - outer * extent
        offset.set(offset.get() + within * code.word(group, axis * 2 + 2))
        rest.set(outer)
    code.finish(offset.get() + rest.get() * code.word(group, last * 2 + 2))


def offset_of(code: Code, group: Value, index: Value) -> Value:
    """Bytes from the first element of a group to the one at `index`."""
    return code.call(_OFFSET_OF, I64, group, index)


class Odometer:
    """An index in a group, a digit for each axis; walked from run to run of the innermost axis.

    Taking an index apart costs a division for each axis; going on to the next run an addition.

    others  groups of the same extents, whose offsets are wanted too
    """

    def __init__(self, code: Code, group: Value, index: Value, *others: Value) -> None:
        self._code, self._group = code, group
        self._groups = (group, *others)
        self._digits = code.stack(8 * _MOST_AXES)
        self._outer = [code.variable(code.constant(0, I64)) for _ in self._groups]
        rest = code.variable(index)
        with code.loop(0, code.word(group, 0)) as axis:
            extent = code.word(group, axis * 2 + 1)
            digit = rest.get() % extent
            rest.set(rest.get() // extent)
            code.set_word(self._digits, axis, digit)
            with code.when(axis > 0):
                self._move(axis, digit)

    def _move(self, axis: Value, by: Value) -> None:
        for group, outer in zip(self._groups, self._outer, strict=True):
            outer.set(outer.get() + by * self._code.word(group, axis * 2 + 2))

    @property
    def offsets(self) -> list[Value]:
        """Bytes from the first element of each group to the first of the run."""
        return [outer.get() for outer in self._outer]

    def digit(self, axis: Any) -> Value:
        """Of the index, along an axis; 0 is the innermost."""
        return self._code.word(self._digits, axis)

    def carry(self) -> None:
        """To the first index of the next run."""
        code, group = self._code, self._group
        code.set_word(self._digits, 0, 0)
        axis = code.variable(code.constant(1, I64))
        with code.repeat_while(lambda: axis.get() < code.word(group, 0)):
            place = axis.get()
            extent, digit = code.word(group, place * 2 + 1), self.digit(place)
            is_last = (digit + 1).equals(extent)
            code.set_word(self._digits, place, code.select(is_last, 0, digit + 1))
            self._move(place, code.select(is_last, -digit, 1))
            axis.set(code.select(is_last, place + 1, _MOST_AXES))


@contextmanager
def stretches(
    code: Code, group: Value, start: Value, stop: Value
) -> Iterator[tuple[Value, Value, Value]]:
    """For each part of start..stop that one step leads through: first, last + 1, first's offset."""
    extent = code.word(group, 1)
    with code.loop(start // extent, (stop + extent - 1) // extent) as number:
        first = code.maximum(number * extent, start)
        last = code.minimum((number + 1) * extent, stop)
        yield first, last, offset_of(code, group, first)


def write_list_offsets(module: Any, target: Target) -> None:
    """list_offsets(group, start, count, list): the offset of each index from `start` on."""
    code = Code(module, _LIST_OFFSETS, target, (POINTER, I64, I64, POINTER))
    code.function.linkage = "internal"
    code.function.attributes.add("noinline")
    group, start, count, to = code.arguments
    extent, step = code.word(group, 1), code.word(group, 2)
    at = Odometer(code, group, start)
    done = code.variable(code.constant(0, I64))
    with code.repeat_while(lambda: done.get() < count):
        first = at.digit(0)
        length = code.minimum(extent - first, count - done.get())
        with code.loop(0, length) as i:
            code.set_word(to, done.get() + i, at.offsets[0] + (first + i) * step)
        done.set(done.get() + length)
        at.carry()
    code.finish()


def list_offsets(code: Code, group: Value, start: Value, count: Value, to: Value) -> None:
    """Words at `to`: bytes from the first element of a group to the next `count` from `start`."""
    code.call(_LIST_OFFSETS, None, group, start, count, to)


def write_pack(module: Any, target: Target, pack: Pack) -> None:
    """The function of `ARGUMENTS` that fills one panel."""
    code = Code(module, pack.name, target, ARGUMENTS)
    code.function.linkage = "internal"
    code.function.attributes.add("noinline")
    across = code.arguments[1]
    neighbours = code.word(across, 2).equals(itemsize(pack.source))
    code.either(neighbours, lambda: _copy_rows(code, pack), lambda: _gather_lines(code, pack))
    code.finish()


def _segments(code: Code, body: Callable[[Value, Value, Value, Value], None]) -> None:
    """body(offset, step, length, place) for each stretch of k that one step leads through."""
    _, _, along, _, _, start, length, to, row = code.arguments
    with stretches(code, along, start, start + length) as (first, last, offset):
        body(offset, code.word(along, 2), last - first, to + (first - start) * row)


def _load(
    code: Code, pack: Pack, place: Value, index: Any = 0, lanes: int = 1, mask: Value | None = None
) -> Value:
    """What lies there, in the panel's dtype."""
    return code.load(place, pack.source, index, lanes, mask).cast(TYPES[pack.dtype])


def _copy_rows(code: Code, pack: Pack) -> None:
    """Across the panel the source is contiguous in stretches: copy one row of each for each k."""
    source, across, _, index, width, *_, row = code.arguments
    lanes = code.target.lanes(itemsize(pack.dtype))
    with stretches(code, across, index, index + width) as (first, last, start):
        shift = (first - index) * itemsize(pack.dtype)

        def copy(offset: Value, step: Value, length: Value, place: Value) -> None:
            with code.loop(0, length) as k:
                line, to = source + (start + offset + step * k), place + (shift + k * row)

                def move(i: Value, lanes: int, mask: Value | None) -> None:
                    code.store(_load(code, pack, line, i, lanes, mask), to, pack.dtype, i, mask)

                code.strip(code.constant(0, I64), last - first, lanes, move)

        _segments(code, copy)


def _gather_lines(code: Code, pack: Pack) -> None:
    """Each row of a (column of b) is a line of its own; four at a time where k is contiguous."""
    source, across, _, index, width, *_, row = code.arguments
    lines = code.stack(pack.most * 8)
    list_offsets(code, across, index, width, lines)
    size = itemsize(pack.dtype)

    def gather(offset: Value, step: Value, length: Value, place: Value) -> None:
        def line(i: Value) -> Value:
            return source + (code.word(lines, i) + offset)

        contiguous = step.equals(itemsize(pack.source))
        lanes = _lanes(code, pack)
        whole = code.select(contiguous, width & ~3, 0)
        done = code.select(contiguous, length & ~(lanes - 1), 0)
        # all lines of the panel before going on along k: their cache lines, and its, are near then
        with code.loop(0, done, lanes) as k, code.loop(0, whole, 4) as i:
            to = place + (k * row + i * size)
            _transpose(code, pack, [line(i + j) for j in range(4)], k, to)

        def rest(i: Value, start: Value) -> None:
            with code.loop(start, length) as k:
                x = _load(code, pack, line(i) + k * step)
                code.store(x, place + k * row, pack.dtype, i)

        with code.loop(0, width) as i:
            rest(i, code.select(i < whole, done, 0))

    _segments(code, gather)


def _lanes(code: Code, pack: Pack) -> int:
    """How many elements of a line are transposed at a time."""
    return max(4, min(8, code.target.lanes(itemsize(pack.dtype))))


def _transpose(code: Code, pack: Pack, lines: list[Value], k: Value, place: Value) -> None:
    """A vector of each of four contiguous lines into the panel.

    Blocks of 4x4 are transposed within vectors by two rounds of interleaving, then stored.
    """
    lanes, row = _lanes(code, pack), code.arguments[-1]
    fours = range(0, lanes, 4)
    low = [lane for f in fours for lane in (f, lanes + f, f + 1, lanes + f + 1)]
    left = [lane for f in fours for lane in (f, f + 1, lanes + f, lanes + f + 1)]
    high, right = [lane + 2 for lane in low], [lane + 2 for lane in left]
    a, b, c, d = [_load(code, pack, line, k, lanes) for line in lines]
    columns = []
    for half in (low, high):
        ab, cd = code.shuffle(a, b, half), code.shuffle(c, d, half)
        columns += [code.shuffle(ab, cd, left), code.shuffle(ab, cd, right)]
    for number in range(lanes):
        x, first = columns[number % 4], number - number % 4
        part = code.shuffle(x, x, range(first, first + 4)) if lanes > 4 else x
        code.store(part, place + row * number, pack.dtype)
