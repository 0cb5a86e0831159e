"""The loops of fused kernels: rows, and the passes over the columns of each."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from needle.compiler import build, functions, half
from needle.compiler.code import Code, Value
from needle.compiler.kernels.fused_body import (
    Apply,
    Body,
    Index,
    Load,
    Number,
    Reduce,
    Scalar,
    Store,
)
from needle.compiler.kernels.monoid import Monoid
from needle.compiler.target import Target
from needle.compiler.types import F64, I64, POINTER, TYPES, itemsize
from needle.compiler.value import Variable

__all__ = ["FIRST_POINTER", "Region", "Word", "write"]

FIRST_POINTER = 2  # words of the context: numbers, scratch, operands, stores, scalars


class Word(IntEnum):
    """The kernel's numbers. Then, for each operand and store, its step along columns and along
    rows; the extents of outer axes, innermost first; for each, the steps of all."""

    ROWS, INNER_ROWS = 0, 1  # all of them, and those that one step leads along
    COLUMNS, BLOCK = 2, 3  # and how many make a unit of work
    CHUNK = 4  # rows that are added up together
    AXES = 5  # beyond the rows' innermost
    SCRATCH, SCRATCH_ROW = 6, 7  # bytes of a task, and of a kept value
    STREAMED = 8  # whether rows that may go past the caches do: 1 or 0
    STEPS = 9


class Region(IntEnum):
    """What a call with 0 tasks finds at the address in place of the task: which part to do."""

    FIRST_ROW, LAST_ROW, FIRST_COLUMN, LAST_COLUMN, TASK = range(5)
    CHUNK, CONTINUED = 5, 6  # number of the rows' sums; whether earlier rows are in these: 1 or 0


def write(module: Any, target: Target, body: Body) -> None:
    """The kernel, and the function for a part of the rows and columns that it calls."""
    _Region(module, target, body).write()
    code = Code(module, build.ENTRY, target)
    context, task, tasks = code.arguments
    numbers, scratch = code.pointer_at(context, 0), code.pointer_at(context, 1)

    def word(number: Word) -> Value:
        return code.word(numbers, number)

    def region(*place: Value) -> None:
        code.call("region", None, context, *place)

    with code.when(tasks.equals(0)):
        part = code.wrap(code.builder.inttoptr(task.ir, POINTER.ir), POINTER)
        place = [code.word(part, i) for i in list(Region)[:4]]
        sums = [code.word(part, i) for i in (Region.CHUNK, Region.CONTINUED)]
        region(*place, *sums, scratch + code.word(part, Region.TASK) * word(Word.SCRATCH))
        code.finish()
    scratch = scratch + task * word(Word.SCRATCH)
    zero = code.constant(0, I64)
    rows, columns, width = word(Word.ROWS), word(Word.COLUMNS), word(Word.BLOCK)
    blocks = (columns + (width - 1)) // width

    def whole_rows() -> None:
        chunk = word(Word.CHUNK)
        first, last = code.share((rows + (chunk - 1)) // chunk, task, tasks)
        stop = code.minimum(last * chunk, rows)
        region(first * chunk, stop, zero, columns, first, zero, scratch)

    def parts_of_rows() -> None:
        begin, end = code.share(rows * blocks, task, tasks)
        with code.loop(begin, end) as unit:
            row, column = unit // blocks, (unit % blocks) * width
            stop = code.minimum(column + width, columns)
            region(row, row + 1, column, stop, zero, zero, scratch)

    code.either(blocks.equals(1), whole_rows, parts_of_rows)
    code.finish()


class _Region:
    """region(context, first row, last row, first column, last column, number of the first rows'
    sums, whether earlier rows are in these, scratch)."""

    def __init__(self, module: Any, target: Target, body: Body) -> None:
        arguments = (POINTER, *[I64] * 6, POINTER)
        self.code = code = Code(module, "region", target, arguments)
        code.function.linkage = "internal"
        code.function.attributes.add("noinline")
        self.body = body
        self.lanes = target.lanes(body.itemsize)
        context, self.first, self.last, self.left, self.right, *sums, scratch = code.arguments
        self.chunk, self.continued = sums
        self.numbers = code.pointer_at(context, 0)
        count = len(body.operands) + len(body.stores)
        self.operands = {i: k for k, i in enumerate(body.operands)}
        self.stores = list(enumerate(body.stores, len(body.operands)))
        self.bases = [code.pointer_at(context, FIRST_POINTER + k) for k in range(count)]
        kept = self.word(Word.SCRATCH_ROW)
        self.kept = {i: scratch + kept * slot for i, slot in body.kept.items()}
        self.fixed: dict[int, Value] = {}
        for k, i in enumerate(body.scalars):
            bits = code.word(context, FIRST_POINTER + count + k)
            self.fixed[i] = self._scalar(bits, body.values[i].dtype)
        for i, v in enumerate(body.values):
            if isinstance(v, Number):
                self.fixed[i] = code.constant(v.value, TYPES[v.dtype])

    def _scalar(self, bits: Value, dtype: str) -> Value:
        type = TYPES[dtype]
        given = (bits.bits_as(F64) if type.is_float else bits).cast(type)
        return half.rounded(self.code, given, dtype) if dtype in half.STORAGE else given

    def word(self, number: Any) -> Value:
        return self.code.word(self.numbers, number)

    # -- rows ----------------------------------------------------------------------------------

    def write(self) -> None:
        """All rows; those that one step leads along at a time."""
        code = self.code
        row = code.variable(self.first)
        inner = self.word(Word.INNER_ROWS)
        count = len(self.bases)
        columns = [self.word(Word.STEPS + 2 * k) for k in range(count)]
        steps = [self.word(Word.STEPS + 2 * k + 1) for k in range(count)]
        self.columns = columns
        with code.repeat_while(lambda: row.get() < self.last):
            outer, begin = row.get() // inner, row.get() % inner
            end = code.minimum(inner, begin + (self.last - row.get()))
            at = self._begin(outer)
            with code.loop(begin, end) as i:
                self.here = [p + i * step for p, step in zip(at, steps, strict=True)]
                self.row_number = row.get() + (i - begin)
                self.row()
            row.set(row.get() + (end - begin))
        if any(store.streamed for store in self.body.stores):
            code.fence()
        code.finish()

    def _begin(self, outer: Value) -> list[Value]:
        """Where each operand begins for an index of the outer axes, which is taken apart."""
        code, count = self.code, len(self.bases)
        moved = [code.variable(code.constant(0, I64)) for _ in range(count)]
        rest = code.variable(outer)
        axes = self.word(Word.AXES)
        first = int(Word.STEPS) + 2 * count
        with code.loop(0, axes) as axis:
            extent = self.word(axis + first)
            index = rest.get() % extent
            rest.set(rest.get() // extent)
            steps = axis * count + axes + first
            for k, place in enumerate(moved):
                place.set(place.get() + index * self.word(steps + k))
        return [p + m.get() for p, m in zip(self.bases, moved, strict=True)]

    # -- a row ---------------------------------------------------------------------------------

    def row(self) -> None:
        """Narrow values and passes, in turns."""
        self.narrow = dict(self.fixed)
        if any(store.kind == "sums" for _, store in self.stores):
            self._find_sums()
        for number in range(self.body.passes):
            self._narrow_values(number)
            self._pass(number)
        self._narrow_values(self.body.passes)
        for k, store in self.stores:
            if store.kind == "same":
                x = self.code.convert(self.narrow[store.value], store.dtype)
                self.code.store(x, self.here[k], store.dtype)

    def _narrow_values(self, level: int) -> None:
        code, body = self.code, self.body
        for i, v in enumerate(body.values):
            if body.wide[i] or body.level[i] != level or i in self.narrow:
                continue
            if isinstance(v, Load):
                self.narrow[i] = code.load(self.here[self.operands[i]], v.dtype)
            elif isinstance(v, Index):
                self.narrow[i] = self._index(i).cast(TYPES[v.dtype])
            elif isinstance(v, Apply):
                self.narrow[i] = self._apply(v, [self.narrow[j] for j in v.inputs])

    def _index(self, i: int) -> Value:
        address = self.here[self.operands[i]]
        return self.code.wrap(self.code.builder.ptrtoint(address.ir, I64.ir), I64)

    def _apply(self, v: Apply, inputs: list[Value]) -> Value:
        code = self.code
        given = [
            # a number has the array's dtype, as in NumPy: beside float16, 70000 is infinite
            (_as_stored if isinstance(self.body.values[i], Scalar) else Code.convert)(code, x, to)
            for i, x, to in zip(v.inputs, inputs, v.compute, strict=True)
        ]
        return _as_stored(code, functions.apply(code, v.name, *given), v.dtype)

    # -- a pass --------------------------------------------------------------------------------

    def _pass(self, number: int) -> None:
        """Walk the columns once: several vectors at a time, single ones, and what is left."""
        code, body, lanes = self.code, self.body, self.lanes
        stores = [
            (k, s) for k, s in self.stores if s.kind != "same" and body.level[s.value] == number
        ]
        saved = [i for i in self.kept if body.level[i] == number]
        reduces = {
            i: v
            for i, v in enumerate(body.values)
            if isinstance(v, Reduce) and body.level[v.input] == number
        }
        if not (stores or saved or reduces):
            return
        several = 2 if body.is_dear(number) else 4
        totals = {i: _Total(code, v, several, lanes) for i, v in reduces.items()}

        def step(
            at: Value, width: int, mask: Value | None, turn: int = 0, streamed: bool = False
        ) -> None:
            values = _Columns(self, number, at, width, mask)
            for i, v in reduces.items():
                totals[i].take(values[v.input], turn, mask)
            for i in saved:
                code.store(values[i], self.kept[i], _kept_dtype(body.values[i].dtype), at, mask)
            # all is read before anything is written: a result may lie where an operand does
            for k, store, x in [(k, store, values[store.value]) for k, store in stores]:
                self._store(k, store, x, at, mask, streamed and store.streamed)

        def walk(streamed: bool = False) -> None:
            with code.loop(left, whole, lanes * several) as at:
                for turn in range(several):
                    step(at + turn * lanes, lanes, None, turn, streamed)

        left, right = self.left, self.right
        whole = left + ((right - left) // (lanes * several)) * (lanes * several)
        streamed = [(k, store) for k, store in stores if store.streamed]
        if streamed and lanes > 1:
            code.either(self._may_stream(streamed), lambda: walk(streamed=True), walk)
        else:
            walk()
        code.strip(whole, right, lanes, step, masked=self._has_masks(number))
        for i in reduces:
            self.narrow[i] = _as_stored(code, totals[i].result(), body.values[i].dtype)

    def _may_stream(self, stores: list[tuple[int, Store]]) -> Value:
        """Whether the call says so, and the row begins where vectors do."""
        code = self.code
        may = self.word(Word.STREAMED).equals(1)
        for k, store in stores:
            size = itemsize(store.dtype)
            begin = code.builder.ptrtoint((self.here[k] + self.left * size).ir, I64.ir)
            may = may & (code.wrap(begin, I64) % (self.lanes * size)).equals(0)
        return may

    def _has_masks(self, number: int) -> bool:
        """Whether all that a pass reads and writes can be masked."""
        kinds = [v.kind for v in self.body.values if isinstance(v, Load)]
        return "strided" not in [*kinds, *[s.kind for s in self.body.stores]]

    def _store(
        self, k: int, store: Store, x: Value, at: Value, mask: Value | None, streamed: bool
    ) -> None:
        code = self.code
        x = code.convert(x.spread(max(x.lanes, 1)), store.dtype)
        if store.kind == "sums":
            self._add_to_sums(k, store, x, at, mask)
        elif store.kind == "row":
            code.store(x, self.here[k], store.dtype, at, mask, streamed)
        else:
            for lane in range(x.lanes):
                one = code.lane(x, lane) if x.lanes > 1 else x
                code.store(one, self.here[k] + (at + lane) * self.columns[k], store.dtype)

    def _find_sums(self) -> None:
        """Where the sums of the row's chunk are; the first row of a chunk begins with zeros."""
        code, chunk = self.code, self.word(Word.CHUNK)
        before = self.row_number - self.first
        number = before // chunk
        for k, store in self.stores:
            if store.kind == "sums":
                row = self.word(Word.COLUMNS) * itemsize(store.dtype)
                self.here[k] = self.bases[k] + (self.chunk + number) * row

        def clear() -> None:
            for k, store in self.stores:
                if store.kind == "sums":
                    self._clear(k, store.dtype)

        with code.when((before + self.continued).equals(number * chunk)):
            clear()

    def _clear(self, k: int, dtype: str) -> None:
        code = self.code

        def zero(at: Value, lanes: int, mask: Value | None) -> None:
            code.store(
                code.constant(0.0, TYPES[dtype]).spread(lanes), self.here[k], dtype, at, mask
            )

        code.strip(self.left, self.right, self.lanes, zero)

    def _add_to_sums(self, k: int, store: Store, x: Value, at: Value, mask: Value | None) -> None:
        code, place = self.code, self.here[k]
        before = code.load(place, store.dtype, at, x.lanes, mask)
        code.store(before + x, place, store.dtype, at, mask)


def _as_stored(code: Code, x: Value, dtype: str) -> Value:
    """What memory would hold: rounded to 16 bits where the dtype has no more."""
    if dtype in half.STORAGE:
        return half.rounded(code, x, dtype)
    return code.convert(x, dtype)


def _kept_dtype(dtype: str) -> str:
    """How a value lies in scratch: as it is in registers."""
    return TYPES[dtype].name


class _Columns:
    """The wide values of a pass at some columns, each computed once."""

    def __init__(
        self, region: _Region, number: int, at: Value, lanes: int, mask: Value | None
    ) -> None:
        self.region, self.number, self.at, self.lanes, self.mask = region, number, at, lanes, mask
        self.values: dict[int, Value] = {}

    def __getitem__(self, i: int) -> Value:
        found = self.values.get(i)
        if found is None:
            found = self.values[i] = self._value(i)
        return found

    def _value(self, i: int) -> Value:
        region, body = self.region, self.region.body
        v = body.values[i]
        if not body.wide[i]:
            return region.narrow[i].spread(self.lanes)
        if i in region.kept and body.level[i] < self.number:
            place = region.kept[i]
            return region.code.load(place, _kept_dtype(v.dtype), self.at, self.lanes, self.mask)
        if isinstance(v, Load):
            return self._load(i, v)
        if isinstance(v, Index):
            step = region.columns[region.operands[i]]
            lanes = region.code.row(range(self.lanes), I64) if self.lanes > 1 else 0
            places = region._index(i) + (lanes + self.at) * step
            return places.cast(TYPES[v.dtype])
        assert isinstance(v, Apply)
        return region._apply(v, [self[j] for j in v.inputs])

    def _load(self, i: int, v: Load) -> Value:
        code, k = self.region.code, self.region.operands[i]
        here, step = self.region.here[k], self.region.columns[k]
        if v.kind == "row":
            return code.load(here, v.dtype, self.at, self.lanes, self.mask)
        places = [here + (self.at + lane) * step for lane in range(self.lanes)]
        return code.from_lanes([code.load(place, v.dtype) for place in places])


class _Total:
    """A reduction over the columns: accumulators that are added to in turns."""

    def __init__(self, code: Code, v: Reduce, several: int, lanes: int) -> None:
        self.code, self.monoid = code, Monoid(v.name, v.dtype, v.dtype)
        self.vectors = [self._start(lanes) for _ in range(several)]
        self.single = self._start(1)

    def _start(self, lanes: int) -> Variable:
        return self.code.variable(self.monoid.start(self.code, lanes))

    def take(self, x: Value, turn: int, mask: Value | None) -> None:
        x = self.monoid.take(self.code, x)
        if mask is not None:
            x = self.code.select(mask, x, self.monoid.start(self.code, x.lanes))
        total = self.vectors[turn] if x.lanes == self.vectors[0].lanes else self.single
        total.set(self.monoid.combine(self.code, total.get(), x))

    def result(self) -> Value:
        code, monoid = self.code, self.monoid
        vector = monoid.across(code, monoid.tree(code, [v.get() for v in self.vectors]))
        return monoid.give(monoid.combine(code, vector, self.single.get()))
