"""Matrix times vector where the matrix's rows are contiguous: one sum of products per row.

Reading the matrix is what takes the time. Four rows go side by side, so that the vector is loaded
once for the four and there are four independent chains of additions; the rows left over, which a
single product of two vectors is too, have four chains each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from needle.compiler.code import Code, Value
from needle.compiler.kernels.packing import offset_of, write_offset_of
from needle.compiler.target import Target
from needle.compiler.types import I64, TYPES
from needle.compiler.value import Variable

__all__ = ["Rows", "RowsWord"]

_ROWS = _CHAINS = 4


class RowsWord(IntEnum):
    """The kernel's numbers. Strides are in bytes; X_GROUP is where that group's words begin."""

    MATRIX_AT, VECTOR_AT = 0, 1  # which pointers of the call they are
    BATCH, ROWS, LENGTH = 2, 3, 4
    MATRIX_ROW, VECTOR_STEP, OUT_STEP = 5, 6, 7
    SCRATCH = 8  # bytes per task; 0 if the vector is contiguous and read in place
    BATCH_MATRIX, BATCH_VECTOR, BATCH_OUT = 9, 10, 11
    GROUPS = 12  # from here on


@dataclass(frozen=True)
class Rows:
    """What the code depends on: dtypes."""

    matrix: str
    vector: str
    out: str

    @property
    def key(self) -> str:
        """Names the kernel."""
        return f"rows {self.matrix} {self.vector} {self.out}"

    def write(self, module: Any, target: Target) -> None:
        """The kernel."""
        write_offset_of(module, target)
        _Writer(Code(module, "kernel", target), self).write()


class _Writer:
    def __init__(self, code: Code, structure: Rows) -> None:
        self.code, self.structure = code, structure
        self.type = TYPES[structure.out]
        self.lanes = code.target.lanes(self.type.itemsize)

    def word(self, number: int) -> Value:
        return self.code.word(self.numbers, number)

    def group(self, number: RowsWord) -> Value:
        return self.numbers + self.word(number) * 8

    def write(self) -> None:
        """Panels of four rows of all batches are one range, shared among tasks."""
        code = self.code
        context, task, tasks = code.arguments
        self.numbers = code.pointer_at(context, 0)
        places = self.word(RowsWord.MATRIX_AT), self.word(RowsWord.VECTOR_AT), 3
        matrix, vector, out = [code.pointer_at(context, place) for place in places]
        self.scratch = code.pointer_at(context, 13) + task * self.word(RowsWord.SCRATCH)
        rows, self.length = self.word(RowsWord.ROWS), self.word(RowsWord.LENGTH)
        panels = (rows + (_ROWS - 1)) // _ROWS
        begin, end = code.share(self.word(RowsWord.BATCH) * panels, task, tasks)
        with (
            code.when(begin < end),
            code.loop(begin // panels, (end + panels - 1) // panels) as batch,
        ):
            start = code.maximum(begin - batch * panels, 0) * _ROWS
            stop = code.minimum((end - batch * panels) * _ROWS, rows)
            a, x, to = [
                pointer + offset_of(code, self.group(group), batch)
                for pointer, group in (
                    (matrix, RowsWord.BATCH_MATRIX),
                    (vector, RowsWord.BATCH_VECTOR),
                    (out, RowsWord.BATCH_OUT),
                )
            ]
            self.share(a, self.contiguous(x), to, start, stop)
        code.finish()

    def contiguous(self, x: Value) -> Value:
        """The vector, or a copy of it if it is strided."""
        code, dtype = self.code, self.structure.vector
        copied = self.word(RowsWord.SCRATCH).differs(0)
        with code.when(copied), code.loop(0, self.length) as k:
            element = code.load(x + k * self.word(RowsWord.VECTOR_STEP), dtype)
            code.store(element, self.scratch, dtype, k)
        return code.select(copied, self.scratch, x)

    def share(self, a: Value, x: Value, out: Value, start: Value, stop: Value) -> None:
        code, row, step = self.code, self.word(RowsWord.MATRIX_ROW), self.word(RowsWord.OUT_STEP)
        whole = start + ((stop - start) // _ROWS) * _ROWS
        with code.loop(start, whole, _ROWS) as i:
            lines = [a + (i + j) * row for j in range(_ROWS)]
            for j, total in enumerate(self.products(lines, x)):
                code.store(total, out + (i + j) * step, self.structure.out)
        with code.loop(whole, stop) as i:
            total = self.product(a + i * row, x)
            code.store(total, out + i * step, self.structure.out)

    def products(self, lines: Sequence[Value], x: Value) -> list[Value]:
        """Each line times x, one chain of additions each."""
        chains = [self.zero() for _ in lines]
        self.rest(lines, x, self.code.constant(0, I64), chains)
        return [self.total(*chain) for chain in chains]

    def product(self, line: Value, x: Value) -> Value:
        """A line times x in several chains."""
        code = self.code
        chains = [self.zero() for _ in range(_CHAINS)]
        block = self.lanes * _CHAINS
        whole = (self.length // block) * block
        with code.loop(0, whole, block) as k:
            for number, (sums, _) in enumerate(chains):
                self.add(line, x, k + number * self.lanes, self.lanes, None, sums)
        self.rest([line], x, whole, chains[:1])
        total = self.total(*chains[0])
        for sums, _ in chains[1:]:
            total = total + self.lane_sum(sums.get())
        return total

    def zero(self) -> tuple[Variable, Variable]:
        """A chain: sums in lanes, and of the elements that do not fill a vector."""
        zero = self.code.constant(0, self.type, self.lanes)
        return self.code.variable(zero), self.code.variable(self.code.constant(0, self.type))

    def rest(
        self,
        lines: Sequence[Value],
        x: Value,
        start: Value,
        chains: Sequence[tuple[Variable, Variable]],
    ) -> None:
        """From `start` on, vector by vector."""

        def body(k: Value, lanes: int, mask: Value | None) -> None:
            for line, (sums, single) in zip(lines, chains, strict=True):
                self.add(line, x, k, lanes, mask, sums if lanes > 1 else single)

        self.code.strip(start, self.length, self.lanes, body)

    def add(
        self, line: Value, x: Value, k: Value, lanes: int, mask: Value | None, to: Variable
    ) -> None:
        code, s = self.code, self.structure
        a, b = code.load(line, s.matrix, k, lanes, mask), code.load(x, s.vector, k, lanes, mask)
        to.set(code.fma(a.cast(self.type), b.cast(self.type), to.get()))

    def total(self, sums: Variable, single: Variable) -> Value:
        """All of a chain."""
        return self.lane_sum(sums.get()) + single.get()

    def lane_sum(self, x: Value) -> Value:
        """The sum of the lanes, halving the vector again and again."""
        lanes = x.lanes
        while lanes > 1:
            lanes //= 2
            low, high = range(lanes), range(lanes, 2 * lanes)
            x = self.code.shuffle(x, x, low) + self.code.shuffle(x, x, high)
        return self.code.lane(x, 0)
