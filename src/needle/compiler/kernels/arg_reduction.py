"""argmax and argmin along one axis: the first place of the extreme; the first NaN wins.

Two ways. Along neighbouring elements, block after block: the block's extreme in vectors, then,
if it beats what was found before, where in the block it is. Otherwise along the other axes, in
vectors of values and of places where they have neighbouring elements, else one by one.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir

from needle.compiler import build
from needle.compiler.code import Code, Value
from needle.compiler.kernels.axes import Axis, Walker, merge, round_up, row_major, take, upwards
from needle.compiler.kernels.monoid import Monoid
from needle.compiler.prepared import Operand, Prepared, tasks_for
from needle.compiler.target import Target
from needle.compiler.types import BOOL, I64, TYPES, itemsize
from needle.compiler.value import Variable

__all__ = ["prepare", "writer"]

_WORDS = (
    "units", "length", "stride", "inner", "inner_stride", "inner_out", "grain", "axes", "begin",
    "out_begin",
)  # fmt: skip
_STEPS = ("x", "place", "first")
_SHORT = 16  # elements of a row for which looking once more costs more than one by one
_BLOCK = 1024  # elements whose extreme is found before its place is looked for
_UNIT = 16_384  # elements worth a unit of work of their own


def prepare(name: str, x: Operand, axis: int, out: Operand) -> Prepared:
    """out = the place of x's largest (argmax) or smallest (argmin) element along `axis`.

    x    any strides, at least one element along the axis
    out  int64, row-major over the other axes
    """
    source = str(x.dtype)
    numbers = [i for i in range(len(x.shape)) if i != axis]
    outputs = row_major([x.shape[i] for i in numbers])
    axes, begin, out_begin = upwards(
        Axis(x.shape[i], x.strides[i], s) for i, s in zip(numbers, outputs, strict=True)
    )
    kept, length, stride = merge(axes), x.shape[axis], x.strides[axis]
    kind = "rows" if stride == 1 and length > _SHORT else "strided"
    if kind == "strided" and any(a.stride == 1 for a in kept):
        kind = "columns"
    inner = take(kept, lambda a: (kind == "columns" and a.stride == 1, a.extent))
    grain = round_up(max(1, _UNIT // max(1, length)), 64)
    blocks = -(-inner.extent // grain)
    units = math.prod(a.extent for a in kept) * blocks
    table = [n for a in kept for n in (*a, 0)] + [blocks, 0, 0, grain]
    words = (
        units, length, stride, inner.extent, inner.stride, inner.out_stride, grain,
        len(kept) + 1, begin, out_begin, *table,
    )  # fmt: skip

    each = {"rows": 0.15 + 40 / max(1, length), "columns": 0.4}.get(kind, 2.0)
    nanoseconds = 100.0 + math.prod(x.shape) * each
    return Prepared(
        build.address_of(f"{name} {kind} {source}", writer(name, kind, source)),
        words,
        nanoseconds,
        tasks_for(nanoseconds, at_most=max(1, units)),
    )


def writer(name: str, kind: str, source: str) -> build.Writer:
    """What writes the kernel of a class of layout: rows, columns or strided."""
    return lambda module, target: _Kernel(module, target, name, kind, source).write()


class _Kernel:
    """The kernel of one class of layout, being written."""

    def __init__(self, module: Any, target: Target, name: str, kind: str, source: str) -> None:
        self.walker = Walker(module, target)
        self.code = code = Code(module, build.ENTRY, target)
        computed = "uint8" if source == "bool" else str(TYPES[source])
        self.monoid = Monoid(name.removeprefix("arg"), source, computed)
        self.kind, self.source, self.size = kind, source, itemsize(source)
        context, self.task, self.tasks = code.arguments
        self.numbers = code.pointer_at(context, 0)
        self.x, self.out = code.pointer_at(context, 1), code.pointer_at(context, 2)
        self.word = {word: code.word(self.numbers, i) for i, word in enumerate(_WORDS)}

    def write(self) -> None:
        """The whole function."""
        code, word = self.code, self.word
        table = code.offset(self.numbers, 8 * len(_WORDS))
        begin, end = code.share(word["units"], self.task, self.tasks)
        with code.loop(begin, end) as unit:
            x, place, first = self.walker.sums(code, table, word["axes"], unit, len(_STEPS))
            base = code.offset(self.x, (word["begin"] + x) * self.size)
            last = code.minimum(first + word["grain"], word["inner"])
            self._unit(base, word["out_begin"] + place, first, last)
        code.finish()

    def _unit(self, base: Value, place: Value, first: Value, last: Value) -> None:
        """Outputs first to last of the inner axis."""
        code, word = self.code, self.word
        if self.kind != "rows":
            lanes = code.target.lanes(8) if self.kind == "columns" else 1
            code.strip(first, last, lanes, lambda i, n, m: self._columns(base, place, i, n, m))
            return
        with code.loop(first, last) as row:
            pointer = code.offset(base, row * word["inner_stride"] * self.size)
            code.store(self._row(pointer), self.out, "int64", place + row * word["inner_out"])

    def _load(self, pointer: Value, index: Any, lanes: int, mask: Value | None = None) -> Value:
        x = self.code.load(pointer, self.source, index, lanes, mask)
        return self.monoid.take(self.code, x)

    def _beats(self, x: Value, best: Value) -> Value:
        """Whether x comes before best: it is NaN where best is not, or more extreme."""
        if not x.type.is_float:
            return x > best if self.monoid.name == "max" else x < best
        not_worse = ~(x <= best) if self.monoid.name == "max" else ~(x >= best)
        return not_worse & best.equals(best)

    # -- along the other axes ------------------------------------------------------------------

    def _columns(
        self, base: Value, place: Value, index: Value, lanes: int, mask: Value | None
    ) -> None:
        """Outputs `index` and on, as many as there are lanes."""
        code, word = self.code, self.word
        step, start = word["stride"] * self.size, index * word["inner_stride"] * self.size
        column = code.offset(base, start)
        best = code.variable(self._load(column, 0, lanes, mask))
        found = code.variable(code.constant(0, I64, lanes))
        with code.loop(1, word["length"]) as i:
            x = self._load(code.offset(column, i * step), 0, lanes, mask)
            better = self._beats(x, best.get())
            best.set(code.select(better, x, best.get()))
            found.set(code.select(better, i.spread(lanes), found.get()))
        if lanes == 1:
            self._store(found.get(), place, index)
            return
        count, memory = code.minimum(word["inner"] - index, lanes), code.stack(8 * lanes)
        code.store(found.get(), memory)
        with code.loop(0, count) as k:
            self._store(code.load(memory, "int64", k), place, index + k)

    def _store(self, found: Value, place: Value, index: Value) -> None:
        self.code.store(found, self.out, "int64", place + index * self.word["inner_out"])

    # -- along neighbouring elements -----------------------------------------------------------

    def _row(self, row: Value) -> Value:
        code, length = self.code, self.word["length"]
        best = code.variable(self._load(row, 0, 1))
        found = code.variable(code.constant(0, I64))
        with code.loop(0, length, _BLOCK) as start:
            end = code.minimum(start + _BLOCK, length)
            extreme = self._extreme(row, start, end)
            with code.when(self._beats(extreme, best.get()), likely=False):
                best.set(extreme)
                found.set(self._first(row, start, end, extreme))
        return found.get()

    def _extreme(self, row: Value, start: Value, end: Value) -> Value:
        """The extreme of a block, NaN if it holds one: four vectors at a time."""
        code, monoid = self.code, self.monoid
        lanes = code.target.lanes(monoid.type.itemsize)
        totals = [code.variable(monoid.start(code, lanes)) for _ in range(4)]
        single = code.variable(monoid.start(code, 1))

        def join(total: Variable, x: Value) -> None:
            total.set(monoid.combine(code, total.get(), x))

        whole = start + ((end - start) // (4 * lanes)) * (4 * lanes)
        with code.loop(start, whole, 4 * lanes) as i:
            for k, total in enumerate(totals):
                join(total, self._load(row, i + k * lanes, lanes))

        def rest(i: Value, n: int, mask: Value | None) -> None:
            join(totals[0] if n > 1 else single, self._load(row, i, n))

        code.strip(whole, end, lanes, rest, masked=False)
        across = monoid.across(code, monoid.tree(code, [total.get() for total in totals]))
        return monoid.combine(code, across, single.get())

    def _first(self, row: Value, start: Value, end: Value, extreme: Value) -> Value:
        """The first place of an extreme that the block holds: its vector, then its lane."""
        code = self.code
        lanes = code.target.lanes(self.monoid.type.itemsize)
        place, searching = code.variable(start), code.variable(start.equals(start))
        whole = start + ((end - start) // lanes) * lanes
        with code.repeat_while(lambda: (place.get() < whole) & searching.get()):
            hit = self._is(self._load(row, place.get(), lanes), extreme)
            bits = code.builder.bitcast(hit.ir, ir.IntType(lanes))
            none = code.wrap(code.builder.icmp_unsigned("==", bits, ir.IntType(lanes)(0)), BOOL)
            searching.set(none)
            place.set(code.select(none, place.get() + lanes, place.get()))
        with code.repeat_while(lambda: ~self._is(self._load(row, place.get(), 1), extreme)):
            place.set(place.get() + 1)
        return place.get()

    def _is(self, x: Value, extreme: Value) -> Value:
        """Lane by lane, whether it is the extreme, or both are NaN."""
        same = x.equals(extreme)
        if not x.type.is_float:
            return same
        return same | (x.differs(x) & extreme.differs(extreme))
