"""From values that wait to values with data: recorded, compiled, run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from threading import RLock
from typing import Any
from weakref import ref

from needle.autograd.laziness import one_by_one, settle
from needle.autograd.modes import traced_by
from needle.autograd.value import Value
from needle.backend_ndarray.devices import making_traced
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.realization.programs import Spelling, programs
from needle.realization.record import Record
from needle.realization.waiting import Waiting

__all__ = ["realize_together"]

_MOST_OPS = 2000  # of one program
_lock = RLock()


def _renew_lock() -> None:
    """In the child of a fork no other thread holds it."""
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def realize_together(asked: Sequence[Value], expected: Iterable[ref[Value]] = ()) -> None:
    """Give values their data: `asked`, and those of `expected` that share work with them.

    expected  weak references, as Waiting counts who else holds a value
    Raises what the ops raise on the data they get.
    """
    with _lock, traced_by(None), making_traced(None):
        waiting = Waiting(asked, expected)
        part = _Part(waiting)
        for place, value in enumerate(waiting.order):
            if len(part.values) >= _MOST_OPS:
                part.run(place)
                part = _Part(waiting)
            if not part.take(value):
                part.run(place)
                one_by_one([value])
                part = _Part(waiting)
        part.run(len(waiting.order))


class _Part:
    """Values in a row that one program computes."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting, self._record = waiting, Record()
        self.values: list[Value] = []

    def take(self, value: Value) -> bool:
        """Add a value; False if no program can have it in it."""
        taken = self._record.take(value)
        if taken:
            self.values.append(value)
        return taken

    def run(self, place: int) -> None:
        """Compute what is kept, and what is read from that place in the order on."""
        waiting = self._waiting
        wanted = [v for v in self.values if waiting.keeps(v) or waiting.is_read_from(v, place)]
        if len(self.values) < 2:  # an op by itself is what eager kernels are for
            one_by_one(wanted)
            return
        results = _Results(self._record)
        for value in wanted:
            results.ask(self._record.operands(value))
        arrays = results.compute()
        if arrays is None:
            one_by_one(wanted)  # raises what is wrong, in the words of the op
            return
        for value, row in zip(wanted, arrays, strict=True):
            settle(value, tuple(row) if value.holds_tuple else row[0])


class _Results:
    """What is asked of a record: views of nodes. As in eager mode, views of one share memory."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._asked: list[list[Operand]] = []

    def ask(self, operands: list[Operand]) -> None:
        """Ask for the arrays of one value."""
        self._asked.append(operands)

    def compute(self) -> list[list[NDArray]] | None:
        """The arrays of each value; None where one of the values they come of is at fault."""
        whole: dict[Node, int] = {}
        parts: dict[Operand, int] = {}
        outputs: list[Operand] = []
        everything = [operand for row in self._asked for operand in row]
        for operand in everything:
            if not _is_given(operand.node) and _shows_most(operand) and operand.node not in whole:
                whole[operand.node] = len(outputs)
                outputs.append(Operand(operand.node, _flat(operand.node.layout), 0))
        for operand in everything:
            apart = not _is_given(operand.node) and operand.node not in whole
            if apart and operand not in parts:
                parts[operand] = len(outputs)
                outputs.append(operand)
        spelling = Spelling(self._record, outputs)
        made = _run(spelling, self._record)
        if made is None:
            return None
        memories, layouts = made

        def array_of(operand: Operand) -> NDArray:
            if operand in parts:
                number = parts[operand]
                return _array(layouts[number], memories[number], 0)
            if operand.node in whole:
                return _array(operand.layout, memories[whole[operand.node]], operand.offset)
            memory, begin = self._record.source(operand.node)
            offset = begin // operand.layout.itemsize + operand.offset
            return _array(operand.layout, memory, offset)

        return [[array_of(operand) for operand in row] for row in self._asked]


def _run(spelling: Spelling, record: Record) -> tuple[list[Any], list[Layout]] | None:
    """The memory of each output and how it lies there; None where running op by op tells why."""
    if not spelling.graph.outputs and not record.checks:
        return [], []
    program = programs.find(spelling)
    try:
        memories = program.run(spelling)
    except MemoryError:
        return None
    return None if memories is None else (memories, program.layouts)


def _is_given(node: Node) -> bool:
    """Whether the node's memory is there before the program runs."""
    return node.primitive in ("input", "constant")


def _shows_most(operand: Operand) -> bool:
    """Whether a view is worth keeping all of the memory that it lies in."""
    return operand.layout.repeats or 2 * operand.layout.nbytes >= operand.node.layout.nbytes


def _flat(layout: Layout) -> Layout:
    """All of a memory, in the order in which it lies there."""
    return Layout.of(layout.device, layout.dtype, (layout.nbytes // layout.itemsize,))


def _array(layout: Layout, memory: Any, offset: int) -> NDArray:
    real = Layout.of(layout.device.real, layout.dtype, layout.shape, layout.strides, layout.repeats)
    array = new_array(real, memory)
    array._offset = offset
    return array
