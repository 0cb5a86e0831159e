"""The innermost loops of reductions: a leaf of some outputs, gathered in registers.

A leaf is a function (frame, index, values): it reduces the frame's box of elements, for the
outputs from `index` on, and writes one value for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from needle.compiler import build
from needle.compiler.code import Code, Value
from needle.compiler.kernels.monoid import Monoid
from needle.compiler.kernels.reduction_kernel import Frame, Kernel, Tiles
from needle.compiler.kernels.reduction_layout import FEW, ROWS, STEPS, UNROLL, WIDE, WORDS
from needle.compiler.target import Target
from needle.compiler.types import I64, POINTER
from needle.compiler.value import Variable

__all__ = ["writer"]


def writer(kind: str, monoid: Monoid, source: str) -> build.Writer:
    """What writes the module for one class of layout, and inputs of dtype `source`."""

    def write(module: Any, target: Target) -> None:
        lanes = target.lanes(monoid.type.itemsize)
        few = min(lanes, FEW)
        most = {"columns": WIDE * lanes, "narrow": few, "short": few, "strided": few}.get(kind, 1)
        kernel = Kernel(module, target, monoid, source, most)
        kernel.write(_tiles(kernel, _LEAVES[kind](kernel)))

    return write


class _Leaf:
    """A leaf function being written: its arguments, loops and accumulators."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel, self.monoid = kernel, kernel.monoid
        self.code = code = kernel.function(name, (POINTER, I64, POINTER))
        memory, self.index, self.values = code.arguments
        self.frame = Frame(code, memory)
        self.base, self.last = self.frame.address("base"), self.frame["last"]
        self.first, self.end = self.frame["leaf_element"], self.frame["leaf_element_end"]
        run_stride, inner_stride = self.frame.numbers("run_stride inner_stride")
        self.step, self.inner = run_stride * kernel.size, inner_stride * kernel.size

    @contextmanager
    def runs(self) -> Iterator[Value]:
        """Over the runs of the box: the bytes from the base to each."""
        code, (axes, reduced) = self.code, self.frame.numbers("axes reduced")
        before = axes * (len(STEPS) + 1) + len(WORDS)
        table = code.offset(self.frame.address("numbers"), before * 8)
        with code.loop(self.frame["leaf_run"], self.frame["leaf_run_end"]) as run:
            [offset] = self.kernel.walker.sums(code, table, reduced, run, 1)
            yield offset * self.kernel.size

    def totals(self, count: int, lanes: int) -> list[Variable]:
        """Accumulators that hold the identity."""
        return [self.code.variable(self.monoid.start(self.code, lanes)) for _ in range(count)]

    def take(self, total: Variable, loaded: Value, mask: Value | None = None) -> None:
        """Combine elements into an accumulator; lanes that are not in the mask change nothing."""
        x = self.monoid.take(self.code, loaded)
        if mask is not None:
            x = self.code.select(mask, x, self.monoid.start(self.code, x.lanes))
        total.set(self.monoid.combine(self.code, total.get(), x))

    def load(
        self, where: Value, index: Any = 0, lanes: int = 1, mask: Value | None = None
    ) -> Value:
        """Neighbouring elements of the input."""
        return self.code.load(where, self.kernel.source, index, lanes, mask)

    def load_apart(self, where: Value, step: Value, lanes: int) -> Value:
        """Elements `step` bytes apart, each loaded for itself."""
        return self.code.from_lanes(
            [self.load(self.code.offset(where, step * i)) for i in range(lanes)]
        )

    def finish(self, totals: list[Variable]) -> Any:
        """Write the results and return; the function itself is given back."""
        for number, total in enumerate(totals):
            place = number * total.lanes
            self.code.store(total.get(), self.values, self.kernel.partial, place)
        self.code.finish()
        return self.code.function

    def finish_with(self, value: Value) -> Any:
        """The same, of one vector or scalar."""
        self.code.store(value, self.values, self.kernel.partial)
        self.code.finish()
        return self.code.function


def _tiles(kernel: Kernel, leaves: list[tuple[int, Any]]) -> Tiles:
    """The walk along the inner axis by leaves of given widths; the last width takes the rest."""

    def walk(code: Code, frame: Frame) -> None:
        first, last = frame["first"], frame["last"]
        for number, (width, leaf) in enumerate(leaves):
            whole = first + ((last - first) // width) * width
            stop = whole if number + 1 < len(leaves) else last
            with code.loop(first, stop, width) as index:
                kernel.tile(code, frame, leaf, index, width)
            first = stop

    return walk


def _column_leaf(kernel: Kernel) -> Any:
    """Some rows at a time onto sums that stay in the nearest cache.

    As in `_short_leaf`, neighbours are loaded one after the other by the same instructions.
    """
    leaf = _Leaf(kernel, "column")
    code, lanes, partial = leaf.code, kernel.lanes, kernel.partial
    count = code.minimum(leaf.last - leaf.index, kernel.most)
    base = code.offset(leaf.base, leaf.index * kernel.size)
    with code.loop(0, count, lanes) as i:
        code.store(kernel.monoid.start(code, lanes), leaf.values, partial, i)

    def add(rows: list[Value]) -> None:
        def body(i: Value, n: int, mask: Value | None) -> None:
            loaded = [kernel.monoid.take(code, leaf.load(row, i, n, mask)) for row in rows]
            before = code.load(leaf.values, partial, i, n)
            total = kernel.monoid.combine(code, before, kernel.monoid.tree(code, loaded))
            code.store(total, leaf.values, partial, i)

        code.strip(count * 0, count, lanes, body)

    whole = leaf.first + ((leaf.end - leaf.first) // ROWS) * ROWS
    with leaf.runs() as run:
        pointer = code.offset(base, run)
        with code.loop(leaf.first, whole, ROWS) as i:
            add([code.offset(pointer, (i + k) * leaf.step) for k in range(ROWS)])
        with code.loop(whole, leaf.end) as i:
            add([code.offset(pointer, i * leaf.step)])
    code.finish()
    return code.function


def _narrow_leaf(kernel: Kernel) -> Any:
    """As many rows as lanes are as many vectors as columns, onto as many sums in memory.

    An element of the sums belongs to the column that it would in rows; so those are added last.
    """
    leaf, lanes = _Leaf(kernel, "narrow"), kernel.most
    code, partial, [total] = leaf.code, kernel.partial, leaf.totals(1, lanes)
    columns = leaf.last - leaf.index
    mask = code.row(range(lanes), I64) < columns
    sums = code.stack(lanes * lanes * kernel.monoid.type.itemsize)
    for k in range(lanes):
        code.store(kernel.monoid.start(code, lanes), sums, partial, k * lanes)
    whole = leaf.first + ((leaf.end - leaf.first) // lanes) * lanes
    with leaf.runs() as run:
        pointer = code.offset(leaf.base, run)
        with code.loop(leaf.first, whole, lanes) as i:
            block = code.offset(pointer, i * leaf.step)
            with code.loop(0, columns * lanes, lanes) as j:
                loaded = kernel.monoid.take(code, leaf.load(block, j, lanes))
                before = code.load(sums, partial, j, lanes)
                code.store(kernel.monoid.combine(code, before, loaded), sums, partial, j)
        with code.loop(whole, leaf.end) as i:
            row = code.offset(pointer, i * leaf.step)
            leaf.take(total, leaf.load(row, 0, lanes, mask), mask)
    rows = [code.load(sums, partial, columns * k, lanes) for k in range(lanes)]
    across = kernel.monoid.combine(code, kernel.monoid.tree(code, rows), total.get())
    return leaf.finish_with(across)


def _strided_leaf(kernel: Kernel, lanes: int) -> Any:
    """Outputs along the inner axis, each lane loaded for itself."""
    leaf = _Leaf(kernel, f"strided{lanes}")
    code, totals = leaf.code, leaf.totals(1, lanes)
    base = code.offset(leaf.base, leaf.index * leaf.inner)
    with leaf.runs() as run, code.loop(leaf.first, leaf.end) as i:
        row = code.offset(base, run + i * leaf.step)
        leaf.take(totals[0], leaf.load_apart(row, leaf.inner, lanes))
    return leaf.finish(totals)


def _short_leaf(kernel: Kernel) -> Any:
    """A vector of sums along each of `lanes` rows, in memory; then their transpose, summed.

    Row after row by the same instructions, which is what the machine's prefetching understands:
    some rows at a time, each with loads of its own, took three times as long out of memory.
    """
    leaf, lanes = _Leaf(kernel, "short"), kernel.most
    code, partial = leaf.code, kernel.partial
    count = code.minimum(leaf.last - leaf.index, lanes)
    sums = code.stack(lanes * lanes * kernel.monoid.type.itemsize)
    for k in range(lanes):
        code.store(kernel.monoid.start(code, lanes), sums, partial, k * lanes)
    whole = leaf.first + ((leaf.end - leaf.first) // lanes) * lanes
    mask = code.row(range(lanes), I64) < (leaf.end - whole)
    base = code.offset(leaf.base, leaf.index * leaf.inner)
    with leaf.runs() as run, code.loop(0, count) as row:
        pointer = code.offset(base, run + row * leaf.inner)
        total = code.variable(code.load(sums, partial, row * lanes, lanes))
        with code.loop(leaf.first, whole, lanes) as i:
            leaf.take(total, leaf.load(pointer, i, lanes))
        with code.when(whole < leaf.end):
            leaf.take(total, leaf.load(pointer, whole, lanes, mask), mask)
        code.store(total.get(), sums, partial, row * lanes)
    rows = [code.load(sums, partial, k * lanes, lanes) for k in range(lanes)]
    return leaf.finish_with(kernel.monoid.transpose(code, rows))


def _row_leaf(kernel: Kernel) -> Any:
    """Several vectors of elements at a time, then one, then what is left; then across lanes."""
    leaf, lanes = _Leaf(kernel, "row"), kernel.lanes
    code, totals, [single] = leaf.code, leaf.totals(UNROLL, lanes), leaf.totals(1, 1)
    base, width = code.offset(leaf.base, leaf.index * leaf.inner), UNROLL * lanes
    whole = leaf.first + ((leaf.end - leaf.first) // width) * width
    with leaf.runs() as run:
        pointer = code.offset(base, run)
        with code.loop(leaf.first, whole, width) as i:
            for number, total in enumerate(totals):
                leaf.take(total, leaf.load(pointer, i + number * lanes, lanes))

        def rest(i: Value, n: int, mask: Value | None) -> None:
            leaf.take(totals[0] if n > 1 else single, leaf.load(pointer, i, n, mask), mask)

        code.strip(whole, leaf.end, lanes, rest)
    across = kernel.monoid.across(code, kernel.monoid.tree(code, [t.get() for t in totals]))
    return leaf.finish_with(kernel.monoid.combine(code, across, single.get()))


def _strided_row_leaf(kernel: Kernel) -> Any:
    """Elements that are loaded one by one into a vector, then across lanes."""
    leaf, lanes = _Leaf(kernel, "row"), min(kernel.lanes, FEW)
    code, [total], [single] = leaf.code, leaf.totals(1, lanes), leaf.totals(1, 1)
    base = code.offset(leaf.base, leaf.index * leaf.inner)
    with leaf.runs() as run:

        def take(i: Value, n: int, mask: Value | None) -> None:
            where = code.offset(base, run + i * leaf.step)
            leaf.take(total if n > 1 else single, leaf.load_apart(where, leaf.step, n))

        code.strip(leaf.first, leaf.end, lanes, take, masked=False)
    across = kernel.monoid.across(code, total.get())
    return leaf.finish_with(kernel.monoid.combine(code, across, single.get()))


_LEAVES: dict[str, Callable[[Kernel], list[tuple[int, Any]]]] = {
    "columns": lambda kernel: [(kernel.most, _column_leaf(kernel))],
    "narrow": lambda kernel: [(kernel.most, _narrow_leaf(kernel))],
    "strided": lambda kernel: [(n, _strided_leaf(kernel, n)) for n in (kernel.most, 1)],
    "short": lambda kernel: [(kernel.most, _short_leaf(kernel))],
    "rows": lambda kernel: [(1, _row_leaf(kernel))],
    "strided_rows": lambda kernel: [(1, _strided_row_leaf(kernel))],
}
