"""Walking the rows of a scattered a, region by region, and the part of k that each of them sees.

Rows are counted in panels, region after region: the last panel of each may have fewer. Shares of
tasks are cut by what panels cost, as those at the edges of a picture see less of k.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from needle.compiler.code import Code, Value
from needle.compiler.kernels.contraction_regions import Region
from needle.compiler.kernels.packing import Odometer
from needle.compiler.target import Target
from needle.compiler.types import I64, POINTER
from needle.compiler.value import Variable

__all__ = ["DEEP", "STRETCH", "RegionWalk", "table_of", "write_lists"]

DEEP = 768  # steps of k in a block, at most
STRETCH = 24  # bytes of what is noted of one: first bytes in a, and in b, then how many steps

_LIST_ROWS, _LIST_STRETCHES = "list_rows", "list_stretches"


class RegionWord(IntEnum):
    """What the table holds of a region. X_GROUP and SEEN are where in it those words begin."""

    PANELS, COST = 0, 1  # of it and all before it
    PANEL_COST = 2
    HEIGHT = 3  # rows
    A_AT = 4  # bytes to the first
    FIRST = 5  # its number
    A_GROUP, NUMBER_GROUP = 6, 7
    SEEN = 8  # for each axis of k, the innermost first: begin and end of its range
    ALL = 9


def table_of(regions: Sequence[Region], rows: int, size: int) -> list[int]:
    """Words of all regions. `rows`: of a panel; `size`: bytes of an element of a."""
    table: list[int] = []
    behind: list[int] = []
    panels = cost = 0

    def place(words: Sequence[int]) -> int:
        behind.extend(words)
        return len(regions) * RegionWord.ALL + len(behind) - len(words)

    for region in regions:
        height, each = region.rows.size, max(region.deep, 1)
        panels += -(-height // rows)
        cost += -(-height // rows) * each
        table += [
            panels, cost, each, height, region.begin * size, region.first,
            place(region.rows.words(0, size)), place(region.rows.words(1, 1)),
            place([word for seen in reversed(region.seen) for word in seen]),
        ]  # fmt: skip
    return table + behind


class RegionWalk:
    """The walk of a kernel over its panels.

    begins, places  of the rows of a panel: where they begin in a, and where in the result; bytes
    numbers    of the rows of a panel
    stretches  of the part of a block of k that the region sees
    """

    def __init__(self, code: Code, table: Value, count: Value, rows: int) -> None:
        self._code, self._table, self._count, self._rows = code, table, count, rows
        self.begins, self.numbers, self.places = [code.stack(rows * 16) for _ in range(3)]
        self.stretches = code.stack(DEEP * STRETCH)
        zero = code.constant(0, I64)
        self._number, self._before, self._end, self._length, self._noted = [
            code.variable(zero) for _ in range(5)
        ]

    def _of(self, number: Value, word: RegionWord) -> Value:
        return self._code.word(self._table, number * RegionWord.ALL + word)

    def _group(self, word: RegionWord) -> Value:
        return self._table + self._of(self._number.get(), word) * 8

    # -- shares --------------------------------------------------------------------------------

    @property
    def panels(self) -> Value:
        """How many there are."""
        return self._of(self._count - 1, RegionWord.PANELS)

    @property
    def cost(self) -> Value:
        """Of all panels."""
        return self._of(self._count - 1, RegionWord.COST)

    def panel_at(self, cost: Value) -> Value:
        """The first panel that does not begin before so much is done."""
        code = self._code
        found, panels, done = [code.variable(code.constant(0, I64)) for _ in range(3)]
        with code.loop(0, self._count) as number:
            with code.when(cost > done.get()):
                each = self._of(number, RegionWord.PANEL_COST)
                more = (cost - done.get() + (each - 1)) // each
                most = self._of(number, RegionWord.PANELS) - panels.get()
                found.set(panels.get() + code.minimum(more, most))
            panels.set(self._of(number, RegionWord.PANELS))
            done.set(self._of(number, RegionWord.COST))
        return found.get()

    # -- panels --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Before the panels of a block of k: none has been reached."""
        self._number.set(-1)
        self._end.set(0)

    def reach(self, panel: Value, k: Value, along: tuple[Value, Value], b_step: Value) -> None:
        """Go on to the region of a panel; note the stretches of k if it is another one.

        k      the words of its group
        along  where in it the block begins, and how deep it is
        """
        code = self._code
        with code.when(panel >= self._end.get()):
            with code.repeat_while(lambda: panel >= self._end.get()):
                self._before.set(self._end.get())
                self._number.set(self._number.get() + 1)
                self._end.set(self._of(self._number.get(), RegionWord.PANELS))
            seen = self._group(RegionWord.SEEN)
            listed = code.call(_LIST_STRETCHES, I64, k, seen, *along, b_step, self.stretches)
            self._length.set(listed)

    @property
    def length(self) -> Value:
        """How many stretches there are."""
        return self._length.get()

    def rows_of(self, panel: Value, more: Value) -> tuple[Value, Value]:
        """Note where the rows of a panel begin; gives the bytes before all, and how many they are.

        more  how many of the rows behind them to note too
        """
        code, number = self._code, self._number.get()
        start = (panel - self._before.get()) * self._rows
        left = self._of(number, RegionWord.HEIGHT) - start
        height = code.minimum(left, self._rows)
        self._noted.set(code.minimum(left, height + more))
        groups = [self._group(word) for word in (RegionWord.A_GROUP, RegionWord.NUMBER_GROUP)]
        first = self._of(number, RegionWord.FIRST)
        code.call(_LIST_ROWS, None, *groups, start, self.noted, first, self.begins, self.numbers)
        return self._of(number, RegionWord.A_AT), height

    @property
    def noted(self) -> Value:
        """How many rows were, and those behind them."""
        return self._noted.get()

    def place_rows(self, first: Value, height: Value, c_row: Value, apart: bool) -> None:
        """Note where the rows lie in the result: by their numbers, or from `first` on if apart."""
        code = self._code
        with code.loop(0, height) as i:
            number = first + i if apart else code.word(self.numbers, i)
            code.set_word(self.places, i, number * c_row)


def write_lists(module: Any, target: Target) -> None:
    """The functions that list rows and stretches."""
    _write_list_rows(module, target)
    _write_list_stretches(module, target)


def _write_list_rows(module: Any, target: Target) -> None:
    """list_rows(group in a, group of numbers, start, count, first number, begins, numbers)."""
    arguments = (POINTER, POINTER, I64, I64, I64, POINTER, POINTER)
    code = Code(module, _LIST_ROWS, target, arguments)
    code.function.linkage = "internal"
    code.function.attributes.add("noinline")
    in_a, in_numbers, start, count, first_number, begins, numbers = code.arguments
    at = Odometer(code, in_a, start, in_numbers)
    done = code.variable(code.constant(0, I64))
    with code.repeat_while(lambda: done.get() < count):
        first = at.digit(0)
        length = code.minimum(code.word(in_a, 1) - first, count - done.get())
        begin, number = at.offsets
        with code.loop(0, length) as i:
            place, index = done.get() + i, first + i
            code.set_word(begins, place, begin + index * code.word(in_a, 2))
            number_here = first_number + number + index * code.word(in_numbers, 2)
            code.set_word(numbers, place, number_here)
        done.set(done.get() + length)
        at.carry()
    code.finish()


def _write_list_stretches(module: Any, target: Target) -> None:
    """list_stretches(group of k, seen, start, depth, bytes of a step of b, list) -> their number.

    A stretch is a part of a block of k that one step of a and one of b lead through.
    """
    arguments = (POINTER, POINTER, I64, I64, I64, POINTER)
    code = Code(module, _LIST_STRETCHES, target, arguments, I64)
    code.function.linkage = "internal"
    code.function.attributes.add("noinline")
    group, seen, start, depth, b_step, to = code.arguments
    extent, step = code.word(group, 1), code.word(group, 2)
    low, high = code.word(seen, 0), code.word(seen, 1)
    at = Odometer(code, group, start)
    count, done = [code.variable(code.constant(0, I64)) for _ in range(2)]
    with code.repeat_while(lambda: done.get() < depth):
        digit = at.digit(0)
        length = code.minimum(extent - digit, depth - done.get())
        first, last = code.maximum(digit, low), code.minimum(digit + length, high)
        hidden = code.variable(code.select(first < last, code.constant(0, I64), 1))
        with code.loop(1, code.word(group, 0)) as axis:
            index = at.digit(axis)
            here = (index >= code.word(seen, axis * 2)) & (index < code.word(seen, axis * 2 + 1))
            hidden.set(code.select(here, hidden.get(), 1))
        with code.when(hidden.get().equals(0)):
            in_b = (done.get() + (first - digit)) * b_step
            stretch = at.offsets[0] + first * step, in_b, last - first
            _note(code, to, count, stretch, (step, b_step))
        done.set(done.get() + length)
        at.carry()
    code.finish(count.get())


def _note(
    code: Code, to: Value, count: Variable, stretch: Sequence[Value], steps: Sequence[Value]
) -> None:
    """Another stretch, or more of the last one."""
    in_a, in_b, length = stretch
    last = to + code.maximum(count.get() - 1, 0) * STRETCH
    before = code.word(last, 2)
    joins = (
        (count.get() > 0)
        & (code.word(last, 0) + before * steps[0]).equals(in_a)
        & (code.word(last, 1) + before * steps[1]).equals(in_b)
    )

    def append() -> None:
        for i, word in enumerate(stretch):
            code.set_word(to + count.get() * STRETCH, i, word)
        count.set(count.get() + 1)

    code.either(joins, lambda: code.set_word(last, 2, before + length), append)
