"""Sums down the columns of a loop, which the loop adds up as it goes: gradients of biases.

The loop keeps a row of sums for each chunk of its rows; a small reduction adds up the chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.program.fuse import Unit
from needle.program.space import Axes
from needle.program.tails import Order

__all__ = ["ColumnSum", "find_column_sums"]


class ColumnSum(NamedTuple):
    """A reduction of what a loop makes, or of what a node of it, the reader, reads.

    read  what that is, as the reader has it
    """

    total: Node
    read: Operand
    reader: Node | None = None

    @property
    def rows(self) -> int:
        """How many are added up."""
        return self.total.inputs[0].layout.size // self.total.layout.size


Found = dict[Unit, tuple[list[ColumnSum], list[int]]]


def find_column_sums(units: Sequence[Unit], tails: Mapping[Unit, tuple[Node, Order]]) -> Found:
    """For loops with such sums: these, and the digits of the columns that they are left with."""
    unit_of = {node: unit for unit in units for node in unit.nodes}
    readers = _readers(units)
    first_use = _first_uses(units)
    found: Found = {}
    for unit in units:
        node = unit.nodes[0]
        if len(unit.nodes) > 1 or not _is_sum(node):
            continue
        x = node.inputs[0]
        own = unit_of[x.node]
        choices: list[tuple[Unit, ColumnSum]] = [(own, ColumnSum(node, x))]
        # a loop that reads the same, if it comes before the sum is needed
        for place, other, reader, read in readers.get(x.node, ()):
            if other is not unit and place < first_use.get(node, len(units)):
                choices.append((other, ColumnSum(node, read, reader)))
        for loop, taken in choices:
            if _take(found, loop, taken, tails):
                break
    return found


def _take(
    found: Found, loop: Unit, taken: ColumnSum, tails: Mapping[Unit, tuple[Node, Order]]
) -> bool:
    """Add a sum to those of a loop, if it fits."""
    held: list[Axes] = [[found[loop][1]]] if loop in found else []
    if loop in tails:
        held.append(list(tails[loop][1]))
    columns = _columns_left(loop, taken, held)
    if columns is None or (loop in tails and tails[loop][1][1] != columns):
        return False
    sums, others = found.get(loop, ([], columns))
    if others != columns:
        return False
    found[loop] = ([*sums, taken], others)
    return True


def _readers(units: Sequence[Unit]) -> dict[Node, list[tuple[int, Unit, Node, Operand]]]:
    """Of what loops read from outside: the loop, its place, its node, and how that reads it."""
    found: dict[Node, list[tuple[int, Unit, Node, Operand]]] = {}
    for place, unit in enumerate(units):
        if unit.space is None:
            continue
        own = set(unit.nodes)
        for node in unit.nodes:
            for x in node.inputs:
                if x.node not in own and node.primitive == "elementwise":
                    found.setdefault(x.node, []).append((place, unit, node, x))
    return found


def _first_uses(units: Sequence[Unit]) -> dict[Node, int]:
    """The place of the first unit that reads each node."""
    found: dict[Node, int] = {}
    for place, unit in enumerate(units):
        for node in unit.nodes:
            for x in node.inputs:
                found.setdefault(x.node, place)
    return found


def _is_sum(node: Node) -> bool:
    return (
        node.primitive == "reduce"
        and node.parameters["name"] == "sum"
        and str(node.layout.dtype) in ("float32", "float64")
        and node.inputs[0].layout.dtype == node.layout.dtype
    )


def _columns_left(loop: Unit, taken: ColumnSum, held: Sequence[Axes]) -> list[int] | None:
    """The digits that a sum over all rows of a loop leaves, as it lies; None if it is none.

    `held` are kept right where digits are split.
    """
    space, node, reader = loop.space, taken.total, taken.reader
    if space is None:
        return None
    view, offset = node.inputs[0].layout, node.inputs[0].offset
    if reader is None:
        made = taken.read.node
        if made not in space.axes or space.of(made) != space.extents.keys():
            return None
        axes = space.read(made, view, offset, held)
    else:
        if space.of(reader) != space.extents.keys() or offset != taken.read.offset:
            return None
        steps = space.strides(space.axes[reader], taken.read.layout.strides)
        axes = None if 0 in steps.values() else space.walked(steps, view, held)
    if axes is None or None in axes:
        return None
    gone = node.parameters["axes"]
    if not _lies_in_rows(view, gone):
        return None
    keepdims = len(node.layout.shape) == len(axes)
    left = [[] if axis in gone else row for axis, row in enumerate(axes)]
    left = [row for axis, row in enumerate(left) if keepdims or axis not in gone]
    steps = space.strides(left, node.layout.strides)
    kept = sorted(steps, key=lambda digit: -steps[digit])
    if not kept or len(kept) == len(space.extents):
        return None
    if space.columns is not None and set(kept) != set(space.columns):
        return None
    return kept


def _lies_in_rows(view: Layout, gone: Sequence[int]) -> bool:
    """Whether what is kept lies innermost: else the loop would walk across memory."""
    steps = [0 if n == 1 else abs(step) for n, step in zip(view.shape, view.strides, strict=True)]
    kept = min([step for axis, step in enumerate(steps) if step and axis not in gone], default=0)
    return all(not step or step > kept for axis, step in enumerate(steps) if axis in gone)
