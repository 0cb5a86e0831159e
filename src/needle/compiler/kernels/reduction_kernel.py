"""The functions of a reduction's module that all classes of layout share.

    kernel     its share of the units of work; for each, tile after tile
    tile       some outputs of one unit: leaf after leaf, joined in a cascade, and stored
    leaf       a box of elements of each of these outputs, in registers: see `reduction_leaves`

They hand each other a frame, a row of 64-bit words. Being functions of their own, they are compiled
once, whatever the number of kinds of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from needle.compiler import build
from needle.compiler.code import Code, Value
from needle.compiler.kernels.axes import Walker
from needle.compiler.kernels.monoid import Monoid
from needle.compiler.kernels.reduction_layout import MOST_LEAVES, STEPS, WORDS
from needle.compiler.target import Target
from needle.compiler.types import I64, POINTER, Type, itemsize

__all__ = ["HEADER", "Frame", "Kernel", "Tiles"]

HEADER = 64  # bytes of scratch before the results of chunks
_COUNTER = 15  # the word of the context with the address of a counter, which is 0 between calls
_LEVELS = MOST_LEAVES.bit_length()  # of the cascade


class Frame:
    """What the functions of a module tell each other, in memory.

    numbers       the numbers of the plan
    out           address of the output
    partials      address of the results of chunks
    STEPS         of the unit: the input's offset, the output's (for 0 on the inner axis), the first
                  index on the inner axis, the first run, the first element of it, the chunk
    base          address of the input at that offset
    last          end of the unit's range of the inner axis
    leaf_...      the box of runs and of their elements that a leaf reduces
    """

    WORDS = (
        "numbers", "out", "partials", *STEPS, "base", "last",
        "leaf_run", "leaf_run_end", "leaf_element", "leaf_element_end",
    )  # fmt: skip

    def __init__(self, code: Code, memory: Value | None = None) -> None:
        self.code = code
        self.memory = code.stack(8 * len(self.WORDS)) if memory is None else memory

    def __getitem__(self, name: str) -> Value:
        return self.code.word(self.memory, self.WORDS.index(name))

    def __setitem__(self, name: str, value: Value) -> None:
        self.code.set_word(self.memory, self.WORDS.index(name), value)

    def address(self, name: str) -> Value:
        """A word that is an address."""
        return self.code.pointer_at(self.memory, self.WORDS.index(name))

    def numbers(self, names: str) -> list[Value]:
        """Some of the plan's numbers, by their names in WORDS."""
        numbers = self.address("numbers")
        return [self.code.word(numbers, WORDS.index(name)) for name in names.split()]


# Writes the walk over the range of the inner axis that the frame says.
Tiles = Callable[[Code, Frame], None]


class Kernel:
    """The module of one class of layout, being written.

    source  dtype of the input
    most    how many outputs the widest tile has
    """

    def __init__(self, module: Any, target: Target, monoid: Monoid, source: str, most: int) -> None:
        self.module, self.target, self.monoid, self.source = module, target, monoid, source
        self.most, self.size = most, itemsize(source)
        self.partial, self.lanes = str(monoid.type), target.lanes(monoid.type.itemsize)
        self.walker = Walker(module, target)
        self._join, self._give = self._write_join(), self._write_give()
        self._tile = self._write_tile()

    def function(self, name: str, arguments: Sequence[Type], result: Type | None = None) -> Code:
        """A function of this module that stays one."""
        code = Code(self.module, name, self.target, arguments, result)
        code.function.attributes.add("noinline")
        code.function.linkage = "internal"
        return code

    # -- units ---------------------------------------------------------------------------------

    def write(self, tiles: Tiles) -> None:
        """The kernel itself."""
        code = Code(self.module, build.ENTRY, self.target)
        _compile_fast(code)
        context, task, tasks = code.arguments
        frame, scratch = Frame(code), code.pointer_at(context, 13)
        frame["numbers"], frame["out"] = code.pointer_at(context, 0), code.pointer_at(context, 2)
        frame["partials"] = code.offset(scratch, HEADER)
        units, chunks = frame.numbers("units chunks")
        begin, end = code.share(units, task, tasks)
        with code.loop(begin, end) as unit:
            self._set_unit(code, frame, code.pointer_at(context, 1), unit)
            tiles(code, frame)
        with code.when(chunks > 1):
            self._finish_chunks(code, frame, code.pointer_at(context, _COUNTER), tasks)
        code.finish()

    def _set_unit(self, code: Code, frame: Frame, x: Value, unit: Value) -> None:
        axes, begin, out_begin, grain, inner = frame.numbers("axes begin out_begin grain inner")
        table = code.offset(frame.address("numbers"), 8 * len(WORDS))
        sums = self.walker.sums(code, table, axes, unit, len(STEPS))
        for name, value in zip(STEPS, sums, strict=True):
            frame[name] = value
        frame["x"], frame["place"] = frame["x"] + begin, frame["place"] + out_begin
        frame["base"] = code.offset(x, frame["x"] * self.size)
        frame["last"] = code.minimum(frame["first"] + grain, inner)

    # -- tiles ---------------------------------------------------------------------------------

    def tile(self, code: Code, frame: Frame, leaf: Any, index: Value, width: int) -> None:
        """Reduce and store `width` outputs (or those there are) from `index` on.

        leaf: a function (frame, index, values) that reduces the frame's leaf to `width` values
        """
        arguments = [frame.memory.ir, code.address(leaf).ir, index.ir, I64.ir(width)]
        code.builder.call(self._tile, arguments)

    def _write_tile(self) -> Any:
        code = self.function("tile", (POINTER, POINTER, I64, I64))
        _compile_fast(code)
        memory, leaf, index, width = code.arguments
        frame, level_bytes = Frame(code, memory), self.most * self.monoid.type.itemsize
        levels, count = code.stack(level_bytes * _LEVELS), code.variable(code.constant(0, I64))

        def level(number: Value) -> Value:
            return code.offset(levels, number * level_bytes)

        def join(older: Value, newer: Value) -> None:
            code.builder.call(self._join, [older.ir, newer.ir, width.ir])

        with self._leaves(code, frame):
            # the levels taken by the ones that the count ends in become free
            free = _zeros(code, "cttz", ~count.get())
            code.call_pointer(leaf, memory, index, level(free))
            with code.loop(0, free) as i:
                join(level(i), level(free))
            count.set(count.get() + 1)
        lowest = _zeros(code, "cttz", count.get())
        highest = 64 - _zeros(code, "ctlz", count.get())
        with code.loop(lowest + 1, highest) as i, code.when(((count.get() >> i) & 1) > 0):
            join(level(i), level(lowest))
        self._store(code, frame, level(lowest), index, code.minimum(width, frame["last"] - index))
        code.finish()
        return code.function

    @contextmanager
    def _leaves(self, code: Code, frame: Frame) -> Iterator[None]:
        """Over the leaves of the unit; at least one: that of nothing is the identity."""
        run, element = frame["run"], frame["element"]
        names = "leaf_runs leaf chunk_runs chunk_length runs length"
        leaf_runs, leaf, chunk_runs, chunk, runs, length = frame.numbers(names)
        run_end = code.minimum(run + chunk_runs, runs)
        end = code.minimum(element + chunk, length)
        with code.loop(run, run_end, leaf_runs) as i:
            frame["leaf_run"], frame["leaf_run_end"] = i, code.minimum(i + leaf_runs, run_end)
            with code.loop(element, code.maximum(end, element + 1), leaf) as j:
                frame["leaf_element"], frame["leaf_element_end"] = j, code.minimum(j + leaf, end)
                yield

    def _write_join(self) -> Any:
        """newer = older with newer, element by element, in whole vectors."""
        code = self.function("join", (POINTER, POINTER, I64))
        older, newer, count = code.arguments
        lanes = min(self.most, self.lanes)
        with code.loop(0, count, lanes) as i:
            a, b = [code.load(side, self.partial, i, lanes) for side in (older, newer)]
            code.store(self.monoid.combine(code, a, b), newer, self.partial, i)
        code.finish()
        return code.function

    # -- results -------------------------------------------------------------------------------

    def _store(self, code: Code, frame: Frame, values: Value, index: Value, count: Value) -> None:
        """The results for `index` and on along the inner axis; of a chunk, as they are."""
        stride, chunks, row = frame.numbers("inner_out chunks row")
        out, partials, whole = frame.address("out"), frame.address("partials"), chunks.equals(1)
        place = frame["place"] + index * stride

        def one_by_one() -> None:
            with code.loop(0, count) as i:
                x, at = code.load(values, self.partial, i), place + i * stride
                code.either(
                    whole,
                    lambda: code.store(self.monoid.give(x), out, self.monoid.result, at),
                    lambda: code.store(x, partials, self.partial, frame["chunk"] * row + at),
                )

        def at_once() -> None:
            code.builder.call(self._give, [values.ir, out.ir, place.ir, count.ir])

        code.either(whole & stride.equals(1), at_once, one_by_one)

    def _write_give(self) -> Any:
        """Results as elements of the output, from a place on."""
        code = self.function("give", (POINTER, POINTER, I64, I64))
        values, out, place, count = code.arguments

        def body(i: Value, lanes: int, mask: Value | None) -> None:
            x = self.monoid.give(code.load(values, self.partial, i, lanes, mask))
            code.store(x, out, self.monoid.result, place + i, mask)

        code.strip(count * 0, count, self.lanes, body)
        code.finish()
        return code.function

    def _finish_chunks(self, code: Code, frame: Frame, counter: Value, tasks: Value) -> None:
        """Whichever task comes last combines the chunks, in pairs, pairs of pairs, ..."""
        chunks, outputs, row = frame.numbers("chunks outputs row")
        partials, row_bytes = frame.address("partials"), row * self.monoid.type.itemsize
        before = code.builder.atomic_rmw("add", counter.ir, I64.ir(1), ordering="acq_rel")
        with code.when((code.wrap(before, I64) + 1).equals(tasks)):
            code.set_word(counter, 0, 0)
            with code.loop(0, 64 - _zeros(code, "ctlz", chunks - 1)) as level:
                apart = code.constant(1, I64) << level
                with code.loop(0, chunks - apart, apart * 2) as chunk:
                    first = code.offset(partials, chunk * row_bytes)
                    second = code.offset(first, apart * row_bytes)
                    code.builder.call(self._join, [second.ir, first.ir, row.ir])
            out = frame.address("out")
            code.builder.call(self._give, [partials.ir, out.ir, I64.ir(0), outputs.ir])


def _compile_fast(code: Code) -> None:
    """Leave a function that runs seldom, and short, as it is written: half the time to compile."""
    code.function.attributes.update({"noinline", "optnone"})


def _zeros(code: Code, name: str, x: Value) -> Value:
    """How many zero bits there are at the end (cttz) or at the beginning (ctlz)."""
    count = getattr(code.builder, name)
    return code.wrap(count(x.ir, ir.Constant(ir.IntType(1), 0)), I64)
