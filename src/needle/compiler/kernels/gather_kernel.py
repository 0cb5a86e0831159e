"""The code of gather and scatter_add: see `needle.compiler.kernels.gather` for what they compute.

    for every block of positions i:
        where each position's slice begins in the table, bounds-checked      (on the stack)
        for every outer index (the axes before and behind the indexed ones, but the innermost):
            for every position of the block:
                move the innermost axis, or add it

A block of up to 256 positions takes 2 KiB of stack: small beside the first-level cache, and long
enough that what is done once per block does not count. Extents are known at run time only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

from needle.compiler.build import ENTRY, Writer
from needle.compiler.code import Code, Value
from needle.compiler.target import Target
from needle.compiler.types import I64, STORED_AS_HALF, TYPES, U64, itemsize

__all__ = ["LONGEST_BLOCK", "Number", "Variant", "column_grain", "writer"]

# What `Code.strip` calls: (index, lanes, mask).
Body = Callable[[Value, int, "Value | None"], None]

LONGEST_BLOCK = 256
_OUT_OF_RANGE, _SCRATCH = 14, 13


class Number(IntEnum):
    """The kernel's numbers.

    Behind them: extent and table stride of each indexed axis; the outer axes, the innermost one
    as their last (extents, table strides, picked strides); the axes of the indices (extents,
    picked strides, strides of each index).
    """

    BLOCKS = 0  # of positions, in all; none crosses the end of the indices' last axis
    BLOCK = 1  # positions in each, but the last of a run
    COLUMNS = 2  # elements picked by one position
    BLOCKS_ARE_SHARED = 3  # tasks share the blocks, else the columns
    TABLE_ROWS = 4  # of a row-major table: how many slices there are to pick,
    TABLE_ROW_STEP = 5  # the stride from one to the next
    INDICES = 6
    OUTER_RANK = 7
    PICKED_RANK = 8


@dataclass(frozen=True)
class Variant:
    """What the code depends on.

    act    gather or scatter_add
    dtype  of the elements
    inner  the innermost axis behind the indexed ones: "one" (there is none), "row" (neighbouring
           elements in both operands), "strided"
    """

    act: str
    dtype: str
    inner: str

    def __str__(self) -> str:
        return f"{self.act} {self.dtype} {self.inner}"


def column_grain(inner: str) -> int:
    """Columns are shared among tasks in multiples of this: in rows, cache lines of float32."""
    return 1 if inner == "one" else 16


def writer(variant: Variant) -> Writer:
    """What writes the kernel of that variant."""
    return partial(_write, variant=variant)


def _write(module: Any, target: Target, variant: Variant) -> None:
    code = Code(module, ENTRY, target)
    _Kernel(code, variant).write()
    code.finish()


class _Axes:
    """Axes in the kernel's numbers: extents, then each operand's strides.

    Kernels run along the last axis; the others are walked by a flat number.
    """

    def __init__(self, code: Code, pointer: Value, rank: Value) -> None:
        self.code, self.pointer, self.rank = code, pointer, rank
        self.extent = code.word(pointer, rank - 1)

    def stride(self, operand: Any) -> Value:
        """An operand's stride along the last axis."""
        return self.code.word(self.pointer, self.rank * operand + self.rank * 2 - 1)

    def starts(self, flat: Value, operands: list[Any]) -> list[Value]:
        """Where the flat-th run along the last axis begins in these operands."""
        code, rank = self.code, self.rank
        rest = code.variable(flat)
        starts = [code.variable(code.constant(0, I64)) for _ in operands]
        with code.loop(2, rank + 1) as n:
            axis, before = rank - n, rest.get()
            extent = code.word(self.pointer, axis)
            rest.set(before // extent)
            coordinate = before - rest.get() * extent
            for operand, start in zip(operands, starts, strict=True):
                stride = code.word(self.pointer, rank * operand + rank + axis)
                start.set(start.get() + coordinate * stride)
        return [start.get() for start in starts]


class _Kernel:
    """The parts of a kernel, with what they all read."""

    def __init__(self, code: Code, variant: Variant) -> None:
        self.code, self.variant = code, variant
        self.offsets = code.stack(8 * LONGEST_BLOCK)
        self.context, task, tasks = code.arguments
        self.numbers = code.pointer_at(self.context, 0)
        self.indices = self.number(Number.INDICES)
        self._find_axes()
        self._find_operands()
        self._find_share(task, tasks)
        self.lanes = code.target.lanes(itemsize(self.table_dtype))

    def number(self, name: int) -> Value:
        """One of the kernel's numbers."""
        return self.code.word(self.numbers, name)

    def _find_axes(self) -> None:
        code, outer_rank = self.code, self.number(Number.OUTER_RANK)
        self.indexed = code.offset(self.numbers, 8 * len(Number))
        outer = code.offset(self.indexed, self.indices * 16)
        self.outer = _Axes(code, outer, outer_rank)
        picks = code.offset(outer, outer_rank * 24)
        self.picks = _Axes(code, picks, self.number(Number.PICKED_RANK))
        self.block = self.number(Number.BLOCK)
        self.blocks_per_run = (self.picks.extent + self.block - 1) // self.block
        self.table_step, self.picked_step = self.outer.stride(0), self.outer.stride(1)

    def _find_operands(self) -> None:
        first = self.code.pointer_at(self.context, 1)
        last = self.code.pointer_at(self.context, self.indices + 2)
        dtype = self.table_dtype = self.variant.dtype
        self.scatters, self.out = self.variant.act == "scatter_add", last
        self.table, self.picked = (last, first) if self.scatters else (first, last)
        self.is_rounded = self.scatters and dtype in STORED_AS_HALF
        if self.is_rounded:  # sums of many numbers would stand still in 16 bits
            self.table_dtype = "float32"
            self.table = self.code.pointer_at(self.context, _SCRATCH)

    def _find_share(self, task: Value, tasks: Value) -> None:
        code, count, columns = self.code, self.number(Number.BLOCKS), self.number(Number.COLUMNS)
        blocks_are_shared = self.number(Number.BLOCKS_ARE_SHARED).differs(0)
        blocks = code.share(count, task, tasks)
        across = code.share(columns, task, tasks, column_grain(self.variant.inner))
        self.first_block = code.select(blocks_are_shared, blocks[0], 0)
        self.last_block = code.select(blocks_are_shared, blocks[1], count)
        self.first_column = code.select(blocks_are_shared, 0, across[0])
        self.last_column = code.select(blocks_are_shared, columns, across[1])

    def write(self) -> None:
        """All of it."""
        code = self.code
        if self.scatters:
            self._each_of_table(self._zero)
        with code.loop(self.first_block, self.last_block) as block:
            run = block // self.blocks_per_run
            begin = (block - run * self.blocks_per_run) * self.block
            count = code.minimum(self.picks.extent - begin, self.block)
            self._find_offsets(run, begin, count)
            self._move_block(run, begin, count)
        if self.is_rounded:
            self._each_of_table(self._round)

    # -- where things lie: offsets are in elements ---------------------------------------------

    def _find_offsets(self, run: Value, begin: Value, count: Value) -> None:
        """Of each position of the block: where its slice begins in the table."""
        code = self.code
        first = run * self.picks.extent + begin
        with code.loop(0, count) as j:
            code.store(code.constant(0, I64), self.offsets, index=j)
        with code.loop(0, self.indices) as k:
            index, step = code.pointer_at(self.context, k + 2), self.picks.stride(k + 1)
            start = self.picks.starts(run, [k + 1])[0] + begin * step
            extent, stride = code.word(self.indexed, k * 2), code.word(self.indexed, k * 2 + 1)
            with code.loop(0, count) as j:
                found = self._checked(code.word(index, start + j * step), extent, first + j)
                offset = code.word(self.offsets, j) + found * stride
                code.store(offset, self.offsets, index=j)

    def _checked(self, found: Value, extent: Value, number: Value) -> Value:
        """A position counted from the start; outside, 0, and a word to the caller."""
        code = self.code
        found = code.select(found < 0, found + extent, found)
        outside = found.bits_as(U64) >= extent.bits_as(U64)
        with code.when(outside, likely=False):
            self._report(number + 1)
        return code.select(outside, 0, found)

    def _report(self, number: Value) -> None:
        """The smallest number wins, whichever task comes first; 0 is none."""
        code, order = self.code, "monotonic"
        word = (self.context + 8 * _OUT_OF_RANGE).ir
        seen = code.variable(code.wrap(code.builder.load_atomic(word, order, 8, typ=I64.ir), I64))
        with code.repeat_while(lambda: seen.get().equals(0) | (seen.get() > number)):
            before = seen.get()
            pair = code.builder.cmpxchg(word, before.ir, number.ir, order, order)
            found = code.wrap(code.builder.extract_value(pair, 0), I64)
            seen.set(code.select(found.equals(before), number, found))

    @contextmanager
    def _outer(self) -> Iterator[tuple[Value, Value, Value, Value]]:
        """Each outer index of this task: both operands' offsets, its part of the inner axis."""
        code, inner = self.code, self.outer.extent
        last = (self.last_column + inner - 1) // inner
        with code.loop(self.first_column // inner, last) as i:
            table, picked = self.outer.starts(i, [0, 1])
            begin = code.maximum(self.first_column - i * inner, 0)
            end = code.minimum(self.last_column - i * inner, inner)
            yield table, picked, begin, end

    # -- what is done there --------------------------------------------------------------------

    def _move_block(self, run: Value, begin: Value, count: Value) -> None:
        """The slices of a block of positions."""
        code, step = self.code, self.picks.stride(0)
        start = self.picks.starts(run, [0])[0] + begin * step
        with self._outer() as (table, picked, first, last), code.loop(0, count) as j:
            offset = code.word(self.offsets, j)
            self._move_inner(table + offset, picked + start + j * step, first, last)

    def _move_inner(self, table: Value, picked: Value, begin: Value, end: Value) -> None:
        """The innermost axis of one position, from `begin` to `end`."""
        code = self.code
        if self.variant.inner == "one":
            self._move(table, picked)
        elif self.variant.inner == "row":

            def body(q: Value, lanes: int, mask: Value | None) -> None:
                self._move(table + q, picked + q, lanes, mask)

            code.strip(begin, end, self.lanes, body)
        else:
            with code.loop(begin, end) as q:
                self._move(table + q * self.table_step, picked + q * self.picked_step)

    def _move(self, table: Value, picked: Value, lanes: int = 1, mask: Value | None = None) -> None:
        code, dtype = self.code, self.variant.dtype
        stored = code.load(self.table, self.table_dtype, table, lanes, mask)
        if not self.scatters:
            code.store(stored, self.picked, dtype, picked, mask)
            return
        added = code.load(self.picked, dtype, picked, lanes, mask)
        total = stored | added if dtype == "bool" else stored + added
        code.store(total, self.table, self.table_dtype, table, mask)

    def _each_of_table(self, act: Body) -> None:
        """`act` over this task's columns of a row-major table."""
        code, rows = self.code, self.number(Number.TABLE_ROWS)
        row_step = self.number(Number.TABLE_ROW_STEP)
        with self._outer() as (table, _, begin, end):
            if self.variant.inner == "one":  # nothing lies behind the indexed axes
                code.strip(table, table + rows, self.lanes, act)
                return
            # whole rows follow each other without a gap: they are one
            is_whole = (end - begin).equals(row_step)
            end = code.select(is_whole, rows * row_step, end)
            with code.loop(0, code.select(is_whole, 1, rows)) as row:
                start = table + row * row_step
                code.strip(start + begin, start + end, self.lanes, act)

    def _zero(self, at: Value, lanes: int, mask: Value | None) -> None:
        zero = self.code.constant(0, TYPES[self.table_dtype], lanes)
        self.code.store(zero, self.table, self.table_dtype, at, mask)

    def _round(self, at: Value, lanes: int, mask: Value | None) -> None:
        total = self.code.load(self.table, self.table_dtype, at, lanes, mask)
        self.code.store(total, self.out, self.variant.dtype, at, mask)
