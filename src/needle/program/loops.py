"""A unit with a space, as one fused kernel: what it loads, computes and stores, and its strides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isinf, prod
from typing import Any

from needle.backend_ndarray.device import Scalar as NumberOperand
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.compiler.kernels import fused
from needle.compiler.prepared import Prepared
from needle.dtypes import name_of
from needle.program.column_sums import ColumnSum
from needle.program.fuse import Unit
from needle.program.steps import Words
from needle.program.tails import Order
from needle.runtime.program import Variable

__all__ = ["Loop", "Window", "loop_of"]

_LONG_ROW = 16 << 10  # bytes
_BAKED = (0, 1, -1, 2, 0.5)  # numbers that are part of the code, as they make it simpler


@dataclass(eq=False)
class Loop:
    """A fused kernel to be.

    prepared  the kernel
    reads     what each pointer of its operands is to show; of an index, the number it begins with
    writes    the nodes that it stores, in the order of its stores
    scalars   words of its numbers
    walks     of what is read, then written: elements from place to place along each digit
    columns   the digits of the columns
    """

    prepared: Prepared
    reads: list[Operand | int]
    writes: list[Node]
    scalars: list[int | Variable]
    in_step: frozenset[tuple[int, int]]
    shares: dict[Operand | int, list[int]]
    walks: list[dict[int, int]]
    columns: list[int]


@dataclass
class Window:
    """A part of a loop's places, where others call the loop part by part.

    fixed        digits that stand still in a part
    extents      of digits of which a part has fewer than all
    row_strides  of nodes that lie in memory for one part: elements from row to row there
    row          the digit of these rows
    """

    fixed: Sequence[int]
    extents: dict[int, int]
    row_strides: Mapping[Node, int]
    row: int

    def walk(self, node: Node, steps: dict[int, int]) -> dict[int, int]:
        """What a step along each digit is within a part."""
        inside = {digit: step for digit, step in steps.items() if digit not in self.fixed}
        return inside | {self.row: self.row_strides[node]} if node in self.row_strides else inside


def loop_of(
    unit: Unit,
    stored: Sequence[Node],
    words: Words,
    order: Order | None = None,
    columns: Sequence[int] = (),
    sums: Sequence[ColumnSum] = (),
    chunk: int = 1,
    window: Window | None = None,
) -> Loop | None:
    """The loop of a unit, of whose nodes these are stored; None if it cannot be one loop.

    order    digits of rows and columns, if they have to be these
    columns  digits of the columns, if they have to be these
    sums     what is added up over the rows, chunk by chunk; stored last
    window   the part that it walks, if it is not all
    """
    builder = _Builder(unit, stored, words, window)
    if columns and order is None:
        order = builder.order_with(columns)
    return builder.build(order, sums, chunk)


class _Builder:
    def __init__(
        self, unit: Unit, stored: Sequence[Node], words: Words, window: Window | None = None
    ) -> None:
        assert unit.space is not None
        self.words, self.window = words, window
        self.unit, self.space, self.stored = unit, unit.space, list(stored)
        self.extents = dict(unit.space.extents)
        if window is not None:
            self.extents |= window.extents
            for digit in window.fixed:
                del self.extents[digit]
        self.walks: list[dict[int, int]] = []
        self.values: list[Any] = []
        self.number: dict[Any, int] = {}
        self.operands: list[tuple[Operand | int, dict[int, int]]] = []
        self.scalars: list[int | Variable] = []
        strides = self.space.strides
        whole = [strides(self.space.axes[node], node.layout.strides) for node in stored]
        self.stores = [
            (node, steps if window is None else window.walk(node, steps))
            for node, steps in zip(stored, whole, strict=True)
        ]
        self.walks_written = whole

    def order_with(self, columns: Sequence[int]) -> Order:
        """The usual order, but with these columns, in this order."""
        rank = self._rank(self._walks())
        rest = [digit for digit in self.extents if digit not in columns]
        return sorted(rest, key=rank), list(columns)

    def build(self, wanted: Order | None, sums: Sequence[ColumnSum], chunk: int) -> Loop | None:
        order = self._order(wanted)
        if order is None:
            return None
        rows, columns = order
        self.row_digits, self.column_digits = rows, columns
        for node in self.unit.nodes:
            self.number[node] = self._add_node(node)
        width = prod(self.extents[digit] for digit in columns)
        stores = []
        for node, steps in self.stores:
            number, kind = self.number[node], self._kind(steps)
            streamed = kind == "row" and self._has_long_rows(width * node.layout.itemsize)
            stores.append(fused.Store(number, name_of(node.layout.dtype), kind, streamed))
        for total, read, reader in sums:
            number = self.number[read.node] if reader is None else self._add_operand(reader, read)
            stores.append(fused.Store(number, name_of(total.layout.dtype), "sums"))
        body = fused.Body.of(self.values, stores)
        strides = [self._strides(steps) for _, steps in (*self.operands, *self.stores)]
        strides += [((0,) * len(rows), 1)] * len(sums)
        extents = [self.extents[digit] for digit in rows]
        prepared = fused.prepare(body, extents, width, strides, chunk)
        reads = [operand for operand, _ in self.operands]
        in_step = frozenset(
            (i, j)
            for i, (_, read) in enumerate(self.operands)
            for j, (_, written) in enumerate(self.stores)
            if body.passes == 1 and read == written
        )
        level = [body.level[store.value] for store in stores]
        return Loop(
            prepared,
            reads,
            [node for node, _ in self.stores],
            self.scalars,
            in_step,
            self._shares(body, level),
            [*self.walks, *self.walks_written],
            columns,
        )

    def _has_long_rows(self, nbytes: int) -> bool:
        """Whether rows so long, which are walked several times, may be written past the caches.

        That does not depend on how many rows there are, so that the code does not.
        """
        reduces = any(isinstance(value, fused.Reduce) for value in self.values)
        return reduces and nbytes >= _LONG_ROW and self.window is None

    def _shares(self, body: fused.Body, level: Sequence[int]) -> dict[Operand | int, list[int]]:
        """For what is read: the stores that may write where it lies, place by place."""
        last = [0] * len(body.values)  # the last pass in which a value is computed from loads
        for number in range(body.passes):
            for i in body.needed(number):
                last[i] = number
        shares: dict[Operand | int, list[int]] = {}
        for i, (operand, read) in zip(body.operands, self.operands, strict=True):
            shares[operand] = [
                j
                for j, (node, written) in enumerate(self.stores)
                if read == written
                and isinstance(operand, Operand)
                and node.layout.dtype == operand.layout.dtype
                and level[j] >= last[i]
            ]
        return shares

    # -- the order of loops --------------------------------------------------------------------

    def _order(self, wanted: Order | None) -> Order | None:
        """Digits of the rows, outermost first, and of the columns, which are to be one axis."""
        space = self.space
        walks = self._walks()
        everything = list(self.extents)
        rank = self._rank(walks)
        if wanted is not None:
            return wanted if self._is_one_axis(wanted[1], walks) else None
        first = [] if self.window is None else [self.window.row]  # outermost, and no column
        if space.columns is not None:
            columns = sorted(space.columns, key=rank)
            rest = sorted((d for d in everything if d not in (*first, *columns)), key=rank)
            return (first + rest, columns) if self._is_one_axis(columns, walks) else None
        order = sorted((d for d in everything if d not in first), key=rank)
        columns = order[-1:]
        while len(columns) < len(order) and self._is_one_axis(order[-len(columns) - 1 :], walks):
            columns = order[-len(columns) - 1 :]
        return first + order[: len(order) - len(columns)], columns

    def _rank(self, walks: list[dict[int, int]]) -> Callable[[int], tuple[int, ...]]:
        """What digits are sorted by, outermost first: as results lie, then as operands do."""
        leading = [steps for _, steps in self.stores] + walks
        return lambda digit: tuple([-abs(steps.get(digit, 0)) for steps in leading])

    def _walks(self) -> list[dict[int, int]]:
        """The steps of everything that is read from outside, the largest first."""
        own = set(self.unit.nodes)
        found = []
        for node in self.unit.nodes:
            for x in node.inputs:
                if x.node not in own:
                    found.append((x.layout.size, self._steps(node, x)))
        found.sort(key=lambda pair: -pair[0])
        return [steps for _, steps in found]

    def _is_one_axis(self, digits: Sequence[int], walks: Iterable[dict[int, int]]) -> bool:
        extents = self.extents
        return all(
            steps.get(outer, 0) == steps.get(inner, 0) * extents[inner]
            for steps in (*walks, *[steps for _, steps in self.stores])
            for outer, inner in pairwise(digits)
        )

    def _steps(self, node: Node, x: Operand) -> dict[int, int]:
        """Steps along the digits of an operand of a node."""
        steps = self.space.strides(self.space.axes_read(node), x.layout.strides)
        return steps if self.window is None else self.window.walk(x.node, steps)

    # -- values --------------------------------------------------------------------------------

    def _add(self, key: Any, value: Any) -> int:
        found = self.number.get(key)
        if found is None:
            found = self.number[key] = len(self.values)
            self.values.append(value)
        return found

    def _add_node(self, node: Node) -> int:
        given = node.parameters
        dtype = name_of(node.layout.dtype)
        if node.primitive == "reduce":
            inner = self._add_operand(node, node.inputs[0])
            self.values.append(fused.Reduce(given["name"], inner, dtype))
            return len(self.values) - 1
        arrays, numbers = iter(node.inputs), iter(node.numbers)
        inputs = [
            self._add_number(next(numbers), x)
            if isinstance(x, NumberOperand)
            else self._add_operand(node, next(arrays))
            for x in given["operands"]
        ]
        compute = tuple([name_of(to) for to in given["compute"]])
        self.values.append(fused.Apply(given["name"], tuple(inputs), compute, dtype))
        return len(self.values) - 1

    def _add_operand(self, node: Node, x: Operand) -> int:
        found = self.number.get(x.node)
        if found is not None:
            return found
        if x.node.primitive == "fill":
            return self._add_number(x.node.numbers[0], NumberOperand(x.layout.dtype))
        steps = self._steps(node, x)
        key = (x.node, tuple(sorted(steps.items())), x.offset)
        dtype = name_of(x.layout.dtype)
        known = self.number.get(key)
        if known is not None:
            return known
        kind = self._kind(steps)
        if x.node.primitive == "iota" and x.layout.dtype.kind in "iu":
            value: Any = fused.Index(dtype, "same" if kind == "same" else "row")
            self.operands.append((x.offset, steps))
        else:
            value = fused.Load(dtype, kind)
            self.operands.append((x, steps))
        self.walks.append(self.space.strides(self.space.axes_read(node), x.layout.strides))
        return self._add(key, value)

    def _add_number(self, number: Any, operand: NumberOperand) -> int:
        dtype = name_of(operand.dtype)
        if _is_baked(number):
            known = ("number", dtype, repr(float(number)))  # 0.0 is not -0.0
            return self._add(known, fused.Number(float(number), dtype))
        word = self.words.of(number, operand.dtype)
        key = ("scalar", dtype, word)
        if key not in self.number:
            self.scalars.append(word)
        return self._add(key, fused.Scalar(dtype))

    # -- strides -------------------------------------------------------------------------------

    def _kind(self, steps: dict[int, int]) -> str:
        if all(steps.get(digit, 0) == 0 for digit in self.column_digits):
            return "same"
        inner = steps.get(self.column_digits[-1], 0)
        return "row" if inner == 1 else "strided"

    def _strides(self, steps: dict[int, int]) -> tuple[tuple[int, ...], int]:
        column = steps.get(self.column_digits[-1], 0) if self.column_digits else 0
        return tuple(steps.get(digit, 0) for digit in self.row_digits), column


def _is_baked(number: Any) -> bool:
    if type(number) not in (int, float):
        return False
    return number in _BAKED or (type(number) is float and isinf(number))
