"""Elementwise kernels: one primitive on strided operands, broadcast to the result's shape.

The walk, coalesced, is cut into units of some rows by some columns, columns being the result's
innermost axis; shares of the work are ranges of units. Within a unit each row is walked in
vectors. What an operand does along the columns is its layout class:

    contiguous  a vector is loaded
    broadcast   one element, loaded once for the row
    transposed  its neighbours lie along the rows: square tiles are transposed in registers
    strided     one element per lane; units are then narrow, so that the cache lines which
                the rows of the unit share are met again while they are near
    scalar      a number handed over at the call
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from needle.compiler import functions, half
from needle.compiler.build import address_of
from needle.compiler.code import Code, Value
from needle.compiler.kernels.transpose import transpose_tile
from needle.compiler.prepared import Operand, Prepared, tasks_for
from needle.compiler.target import Target
from needle.compiler.types import F64, I64, TYPES, itemsize
from needle.compiler.walk import coalesce
from needle.dtypes import name_of

__all__ = ["prepare"]

_COLUMNS, _NARROW_COLUMNS, _ROWS = 8192, 32, 64
_LEAST_TILE = 16  # what is smaller is not worth transposing
_HEADER = 8  # numbers in front of the operands'


# How much more than an addition a function takes.
_WORK = {
    "exp": 12, "log": 14, "log1p": 16, "expm1": 16, "log2": 14, "tanh": 18, "sigmoid": 18,
    "erf": 18, "power": 40, "sin": 30, "cos": 30, "divide": 4, "sqrt": 4, "remainder": 10,
    "floor_divide": 10,
}  # fmt: skip
# What float64 calls of C's library, lane by lane.
_LIBM = {"log2", "erf", "power", "sin", "cos", "remainder", "floor_divide"}


def prepare(
    name: str,
    inputs: Sequence[Any],
    compute: Sequence[Any],
    out: Operand,
) -> Prepared:
    """The kernel of primitive `name`.

    inputs   operands already broadcast to the result's shape; what has a dtype but no strides is a
             number, handed over at the call as a double or an i64 by its dtype
    compute  the dtype that each is converted to first
    out      the result, or the target of an assignment; any strides
    """
    arrays: list[Operand] = [x for x in inputs if hasattr(x, "strides")]
    shape, strides = coalesce(out.shape, [*[x.strides for x in arrays], out.strides])
    classes = [
        _class_of(row, shape, x.dtype) for row, x in zip(strides, [*arrays, out], strict=True)
    ]
    walks = iter(classes)
    kinds = tuple(
        (name_of(x.dtype), name_of(to), next(walks) if hasattr(x, "strides") else "scalar")
        for x, to in zip(inputs, compute, strict=True)
    )
    structure = _Structure(name, kinds, name_of(out.dtype), classes[-1])
    count = prod(shape)
    nanoseconds = count * _cost(structure)
    return Prepared(
        address_of(structure.key(), structure.write),
        _numbers(shape, strides, structure, [x.dtype for x in [*arrays, out]]),
        nanoseconds,
        tasks_for(nanoseconds, max(1, count // 1024)),
    )


def _class_of(strides: tuple[int, ...], shape: tuple[int, ...], dtype: Any) -> str:
    if strides[-1] == 1 or shape[-1] == 1:
        return "contiguous"
    if strides[-1] == 0:
        return "broadcast"
    large = len(shape) > 1 and min(shape[-2:]) >= _LEAST_TILE
    if large and strides[-2] == 1 and itemsize(name_of(dtype)) in (4, 8):
        return "transposed"
    return "strided"


def _cost(structure: _Structure) -> float:
    """Nanoseconds per element, about."""
    bytes = itemsize(structure.out) + sum(itemsize(d) for d, _, kind in structure.inputs)
    work = _WORK.get(structure.name, 1)
    if any(to == "float64" for _, to, _ in structure.inputs):
        work *= 12 if structure.name in _LIBM else 4
    scattered = sum(kind in ("strided", "transposed") for *_, kind in structure.inputs)
    return max(bytes * 0.02, work * 0.03) + scattered * 0.5


def _numbers(
    shape: tuple[int, ...],
    strides: Sequence[tuple[int, ...]],
    structure: _Structure,
    dtypes: Sequence[Any],
) -> tuple[int, ...]:
    """Extents and block sizes, then per operand its strides in bytes, outermost axis last."""
    rows, columns = (shape[-2] if len(shape) > 1 else 1), shape[-1]
    classes = {structure.out_class, *[kind for *_, kind in structure.inputs]}
    narrow = bool(classes & {"strided", "transposed"})
    wide = min(columns, _NARROW_COLUMNS if narrow and rows > 1 else _COLUMNS) or 1
    high = min(rows, max(_ROWS, _COLUMNS // wide))
    outer = shape[:-2][::-1]
    header = [
        prod(outer), rows, columns, high, wide, -(-rows // high), -(-columns // wide), len(outer)
    ]  # fmt: skip
    operands = []
    for row, dtype in zip(strides, dtypes, strict=True):
        size = itemsize(name_of(dtype))
        operands += [row[-1] * size, row[-2] * size if len(row) > 1 else 0]
    outer_strides = [
        step * itemsize(name_of(dtype))
        for axis in range(len(shape) - 3, -1, -1)
        for step, dtype in zip([row[axis] for row in strides], dtypes, strict=True)
    ]
    return (*header, *operands, *outer, *outer_strides)


@dataclass(frozen=True)
class _Structure:
    """All that the code depends on."""

    name: str
    inputs: tuple[tuple[str, str, str], ...]  # dtype in memory, dtype to compute in, class
    out: str
    out_class: str

    def key(self) -> str:
        inputs = ", ".join(f"{kind} {dtype} as {to}" for dtype, to, kind in self.inputs)
        return f"elementwise {self.name}({inputs}) -> {self.out_class} {self.out}"

    def write(self, module: Any, target: Target) -> None:
        _Writer(self, Code(module, "kernel", target)).write()


class _Writer:
    """The kernel of one structure, being written."""

    def __init__(self, structure: _Structure, code: Code) -> None:
        self.structure, self.code = structure, code
        context, self.task, self.tasks = code.arguments
        self.numbers = code.pointer_at(context, 0)
        self.arrays = [x for x in structure.inputs if x[2] != "scalar"]
        self.operands = len(self.arrays) + 1
        self.pointers = [code.pointer_at(context, 1 + i) for i in range(self.operands)]
        self.scalars = [
            self._scalar(context, 9 + i, x[0], x[1])
            for i, x in enumerate(x for x in structure.inputs if x[2] == "scalar")
        ]

    def _scalar(self, context: Value, word: int, dtype: str, to: str) -> Value:
        bits = self.code.word(context, word)
        given = (bits.bits_as(F64) if TYPES[dtype].is_float else bits).cast(TYPES[dtype])
        # a number has the array's dtype, as in NumPy: beside float16, 70000 is infinite
        return half.rounded(self.code, given, to) if to in half.STORAGE else given.cast(TYPES[to])

    def number(self, index: Any) -> Value:
        return self.code.word(self.numbers, index)

    def lanes(self) -> int:
        """As many as the widest type in a register leaves room for."""
        widest = max(
            [TYPES[self.structure.out].itemsize]
            + [max(itemsize(d), TYPES[to].itemsize) for d, to, _ in self.structure.inputs]
        )
        return self.code.target.lanes(widest)

    def write(self) -> None:
        """Units of the share: which rows and columns, then walk them."""
        code, number = self.code, self.number
        row_blocks, column_blocks = number(5), number(6)
        begin, end = code.share(number(0) * row_blocks * column_blocks, self.task, self.tasks)
        with code.loop(begin, end) as unit:
            column = (unit % column_blocks) * number(4)
            rest = unit // column_blocks
            row = (rest % row_blocks) * number(3)
            at = self._addresses(rest // row_blocks, row, column)
            height = code.minimum(number(1) - row, number(3))
            width = code.minimum(number(2) - column, number(4))
            self._rows(at, height, width)
        code.finish()

    def _stride(self, operand: int, of_rows: bool) -> Value:
        return self.number(_HEADER + 2 * operand + of_rows)

    def _addresses(self, outer: Value, row: Value, column: Value) -> list[Value]:
        """Where the unit begins in each operand: the outer index is taken apart axis by axis."""
        code = self.code
        moved = [
            code.variable(row * self._stride(i, True) + column * self._stride(i, False))
            for i in range(self.operands)
        ]
        rest = code.variable(outer)
        axes = self.number(7)
        first = _HEADER + 2 * self.operands
        with code.loop(0, axes) as axis:
            extent = self.number(axis + first)
            index = rest.get() % extent
            rest.set(rest.get() // extent)
            steps = axis * self.operands + axes + first
            for i, place in enumerate(moved):
                place.set(place.get() + index * self.number(steps + i))
        return [p + m.get() for p, m in zip(self.pointers, moved, strict=True)]

    def _rows(self, at: list[Value], height: Value, width: Value) -> None:
        """The unit: square tiles where an operand has to be transposed, and row by row."""
        code, zero = self.code, self.code.constant(0, I64)
        if "transposed" not in [kind for *_, kind in self.arrays]:
            self._row_by_row(at, zero, height, zero, width)
            return
        side = self.lanes()
        tall, wide = (height // side) * side, (width // side) * side
        with code.loop(0, tall, side) as row, code.loop(0, wide, side) as column:
            self._tile(at, row, column, side)
        self._row_by_row(at, zero, tall, wide, width)
        self._row_by_row(at, tall, height, zero, width)

    def _row_by_row(
        self, at: list[Value], first: Value, last: Value, left: Value, right: Value
    ) -> None:
        code = self.code
        columns = [self._stride(i, False) for i in range(self.operands)]
        classes = [kind for *_, kind in self.arrays] + [self.structure.out_class]
        whole = "strided" not in classes and "transposed" not in classes
        with code.loop(first, last) as row:
            here = [p + row * self._stride(i, True) for i, p in enumerate(at)]
            body = self._body(here, columns, classes)
            code.strip(left, right, self.lanes(), body, masked=whole)

    def _tile(self, at: list[Value], row: Value, column: Value, side: int) -> None:
        """Transposed operands go through a square on the stack, where they are contiguous."""
        code = self.code
        columns = [self._stride(i, False) for i in range(self.operands)]
        classes, here, steps = [], [], []
        for i, (dtype, _, kind) in enumerate(
            [*self.arrays, (self.structure.out, "", "contiguous")]
        ):
            place = at[i] + row * self._stride(i, True) + column * columns[i]
            if kind == "transposed":
                place, step = self._transposed(place, columns[i], dtype, side)
            else:
                step = self._stride(i, True)
            classes.append("contiguous" if kind == "transposed" else kind)
            here.append(place)
            steps.append(step)
        with code.loop(0, side) as r:
            rows = [p + r * step for p, step in zip(here, steps, strict=True)]
            self._body(rows, columns, classes)(code.constant(0, I64), side, None)

    def _transposed(self, place: Value, step: Value, dtype: str, side: int) -> tuple[Value, Value]:
        """Where the transposed square begins, and bytes from row to row."""
        code = self.code
        size = itemsize(dtype)
        square = code.stack(side * side * size)
        lines = [code.load(place + step * k, dtype, 0, side) for k in range(side)]
        for k, line in enumerate(transpose_tile(code, lines)):
            code.store(line, square, dtype, k * side)
        return square, code.constant(side * size, I64)

    def _body(self, here: list[Value], columns: list[Value], classes: list[str]) -> Any:
        """What is done at an index of a row: load, apply, store."""
        fixed = [
            self.code.load(p, dtype) if kind == "broadcast" else None
            for p, (dtype, _, _), kind in zip(here, self.arrays, classes, strict=False)
        ]

        def body(i: Value, lanes: int, mask: Value | None) -> None:
            values = self._load(i, lanes, mask, here, fixed, columns, classes)
            result = functions.apply(self.code, self.structure.name, *values)
            converted = self.code.convert(result, self.structure.out)
            self._store(converted, i, mask, here[-1], columns[-1])

        return body

    def _load(
        self,
        i: Value,
        lanes: int,
        mask: Value | None,
        here: Any,
        fixed: Any,
        columns: Any,
        classes: Any,
    ) -> list[Value]:
        arrays = iter(zip(here, fixed, columns, classes, strict=False))
        scalars = iter(self.scalars)
        values = []
        for dtype, to, given in self.structure.inputs:
            if given == "scalar":
                values.append(next(scalars).spread(lanes))
                continue
            pointer, element, step, kind = next(arrays)
            if kind == "broadcast":
                x = element.spread(lanes)
            elif kind == "contiguous":
                x = self.code.load(pointer, dtype, i, lanes, mask)
            else:
                x = self.code.from_lanes(
                    [self.code.load(pointer + (i + k) * step, dtype) for k in range(lanes)]
                )
            values.append(self.code.convert(x, to))
        return values

    def _store(self, x: Value, i: Value, mask: Value | None, out: Value, step: Value) -> None:
        dtype = self.structure.out
        if self.structure.out_class != "strided":
            self.code.store(x, out, dtype, i, mask)
            return
        for k in range(x.lanes):
            lane = self.code.lane(x, k) if x.lanes > 1 else x
            self.code.store(lane, out + (i + k) * step, dtype)
