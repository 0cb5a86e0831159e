"""Sums down the columns of a loop, which the loop adds up as it goes: gradients of biases.

The loop keeps a row of sums for each chunk of its rows; a small reduction adds up the chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from needle.backend_ndarray.ndarray_backend_trace import Node
from needle.program.fuse import Unit
from needle.program.tails import Order

__all__ = ["ColumnSum", "find_column_sums"]

ColumnSum = tuple[Node, Node]  # a reduction, and the node of a loop that it reads


def find_column_sums(
    units: Sequence[Unit], tails: Mapping[Unit, tuple[Node, Order]]
) -> dict[Unit, tuple[list[ColumnSum], list[int]]]:
    """For loops with such sums: these, and the digits of the columns that they are left with."""
    unit_of = {node: unit for unit in units for node in unit.nodes}
    found: dict[Unit, tuple[list[ColumnSum], list[int]]] = {}
    for unit in units:
        node = unit.nodes[0]
        if len(unit.nodes) > 1 or not _is_sum(node):
            continue
        loop = unit_of[node.inputs[0].node]
        columns = _columns_left(loop, node)
        if columns is None:
            continue
        if loop in tails and set(tails[loop][1][1]) != set(columns):
            continue
        sums, others = found.setdefault(loop, ([], columns))
        if set(others) == set(columns):
            sums.append((node, node.inputs[0].node))
    return found


def _is_sum(node: Node) -> bool:
    return (
        node.primitive == "reduce"
        and node.parameters["name"] == "sum"
        and str(node.layout.dtype) in ("float32", "float64")
        and node.inputs[0].layout.dtype == node.layout.dtype
    )


def _columns_left(loop: Unit, node: Node) -> list[int] | None:
    """The digits that a sum over all rows of a loop leaves, in their order; None if it is none."""
    space, (operand,) = loop.space, node.inputs
    if space is None or len(loop.nodes) < 1 or operand.node not in space.axes:
        return None
    if space.of(operand.node) != space.extents.keys():
        return None
    axes = space.read(operand.node, operand.layout, operand.offset)
    if axes is None or None in axes:
        return None
    gone = node.parameters["axes"]
    kept = [digit for axis, row in enumerate(axes) if axis not in gone for digit in row or ()]
    if not kept or len(kept) == len(space.extents):
        return None
    if space.columns is not None and set(kept) != set(space.columns):
        return None
    return kept
