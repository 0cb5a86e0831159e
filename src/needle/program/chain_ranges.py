"""Which columns of a chain's blocks matter: what a mask takes out is not computed at all.

A causal mask leaves a query the keys up to its own. The mask is a constant, so for each block of
rows the columns are known outside of which it is False throughout. That all else stays right is
found out by computing with what is known there: where(False, x, -inf) is -inf, exp of it 0, 0 times
anything 0; and the sum of a row, or a product with other matrices, may leave out zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from needle.backend_ndarray.device import Scalar
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.program.chains import Chain, Member, is_narrow
from needle.program.fuse import Unit
from needle.run_numbers import RunNumber
from needle.runtime.call import runtime_function

__all__ = ["Ranges", "find_ranges"]

_GRAIN = 32  # columns, of which there are as many as fill a row of a register tile
_WORTH = 0.9  # of all columns: where more are left, all are computed

_NEUTRAL = {"sum": 0.0, "max": -inf, "min": inf, "prod": 1.0}


@dataclass(frozen=True)
class Ranges:
    """Of each block the first column that matters, and the one after the last.

    values  the values of the chain whose columns these are; outside of them nobody looks
    """

    columns: tuple[tuple[int, int], ...]
    values: frozenset[Node]


def find_ranges(
    chain: Chain, blocks: Sequence[tuple[int, int]], stored: set[Node]
) -> Ranges | None:
    """Those of a chain with a mask, for these blocks of rows; None if all columns matter.

    stored  nodes that somebody else reads than the chain
    """
    for member in chain.members:
        for node in member.unit.nodes:
            for x in node.inputs:
                mask = _mask(chain, member, node, x)
                if mask is not None:
                    return _ranges(chain, blocks, stored, member, x, mask)
    return None


def _mask(chain: Chain, member: Member, node: Node, x: Operand) -> np.ndarray[Any, Any] | None:
    """A constant of bools, the same for all items, as rows and columns."""
    space = member.unit.space
    if space is None or x.node.primitive != "constant" or x.layout.dtype != bool:
        return None
    steps = {d: s for d, s in space.strides(space.axes_read(node), x.layout.strides).items() if s}
    wide = [digit for digit in steps if digit != member.row]
    if len(wide) != 1 or member.row not in steps or wide[0] in member.items:
        return None
    memory, size = _memory(x.node), x.layout.itemsize
    return np.lib.stride_tricks.as_strided(
        memory[x.offset :],
        (chain.rows, space.extents[wide[0]]),
        (steps[member.row] * size, steps[wide[0]] * size),
        writeable=False,
    )


def _memory(node: Node) -> np.ndarray[Any, Any]:
    """All that a constant holds, as it lies."""
    if "memory" not in node.parameters:
        return np.ascontiguousarray(node.parameters["values"]).reshape(-1)
    address = runtime_function("address")(node.parameters["memory"])
    interface = {
        "data": (address, True), "shape": (node.layout.size,), "version": 3,
        "typestr": node.layout.dtype.str,
    }  # fmt: skip
    return np.asarray(_Memory(interface, node))


@dataclass
class _Memory:
    """NumPy's view of memory, which it keeps."""

    __array_interface__: dict[str, Any]
    node: Node


def _ranges(
    chain: Chain,
    blocks: Sequence[tuple[int, int]],
    stored: set[Node],
    member: Member,
    x: Operand,
    mask: np.ndarray[Any, Any],
) -> Ranges | None:
    width = mask.shape[1]
    columns = []
    for first, last in blocks:
        (found,) = mask[first:last].any(axis=0).nonzero()
        low, high = (int(found[0]), int(found[-1]) + 1) if found.size else (0, 1)
        columns.append((low // _GRAIN * _GRAIN, min(-(-high // _GRAIN) * _GRAIN, width)))
    if sum(high - low for low, high in columns) > _WORTH * width * len(blocks):
        return None
    values = _connected(chain, member, width)
    return Ranges(tuple(columns), values) if _is_sound(chain, values, stored, x) else None


def _connected(chain: Chain, member: Member, width: int) -> frozenset[Node]:
    """The values whose columns are those of the mask that a member reads."""
    wide = {node for node, length in chain.values.items() if length == width}
    found: set[Node] = set()
    loops, more = set[Unit](), {member.unit}
    while more - loops:
        loops |= more
        for unit in loops:
            found |= wide & _touched(unit)
        units = [other.unit for other in chain.members if other.unit.space is not None]
        more = {unit for unit in units if found & _touched(unit)}
    return frozenset(found)


def _touched(unit: Unit) -> set[Node]:
    """What a unit makes and reads."""
    return {*unit.nodes, *[x.node for node in unit.nodes for x in node.inputs]}


def _is_sound(chain: Chain, values: frozenset[Node], stored: set[Node], mask: Operand) -> bool:
    """Whether nobody misses what is outside of the ranges."""
    known: dict[Node, Any] = {}  # what is outside; None, or not there: anything
    for member in chain.members:
        if not values & _touched(member.unit):
            continue
        sound = _contracts if member.unit.space is None else _loops
        if not sound(member, values, mask, known):
            return False
    return not values & stored


def _contracts(
    member: Member, values: frozenset[Node], mask: Operand, known: dict[Node, Any]
) -> bool:
    """Whether a contraction may leave out columns of what it reads, or makes them only."""
    (node,) = member.unit.nodes
    read = [x.node for x in node.inputs if x.node in values]
    return all(known.get(x) == 0 for x in read) and not (read and node in values)


def _loops(member: Member, values: frozenset[Node], mask: Operand, known: dict[Node, Any]) -> bool:
    """Whether the rows' reductions may; notes what the loop makes outside."""
    space = member.unit.space
    assert space is not None
    for node in member.unit.nodes:
        if node.primitive == "reduce":
            outside = known.get(node.inputs[0].node)
            if outside is None or outside != _NEUTRAL[node.parameters["name"]]:
                return False
        elif not is_narrow(node, space, member):
            known[node] = _outside(node.parameters["name"], _operands(node, mask, known))
    return True


def _operands(node: Node, mask: Operand, known: dict[Node, Any]) -> list[Any]:
    """What is known of a primitive's operands outside; numbers are known."""
    arrays, numbers = iter(node.inputs), iter(node.numbers)
    given = []
    for operand in node.parameters["operands"]:
        if isinstance(operand, Scalar):
            number = next(numbers)
            given.append(None if isinstance(number, RunNumber) else number)
        else:
            x = next(arrays)
            given.append(False if x == mask else known.get(x.node))
    return given


def _outside(name: str, given: list[Any]) -> Any:
    """What a primitive makes of what is known of its operands; None: anything."""
    first = given[0]
    if name == "where":
        return None if first is None else given[1] if first else given[2]
    if name in ("multiply", "divide") and 0 in (given if name == "multiply" else given[:1]):
        return 0.0
    if name == "logical_and" and False in given:
        return False
    if name in ("add", "subtract") and first in (inf, -inf):
        return first
    if first is None:
        return None
    if name == "copy":
        return first
    return float(np.exp(first)) if name == "exp" else -first if name == "negative" else None
