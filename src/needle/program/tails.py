"""Which loops run as tails of contractions: on each panel of the result, while a cache holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from needle.backend_ndarray.ndarray_backend_trace import Node
from needle.compiler.kernels.contraction import takes_tail
from needle.program.fuse import Unit
from needle.program.graph import CONTRACTIONS, factors
from needle.program.space import Space

__all__ = ["Order", "find_tails"]

Order = tuple[list[int], list[int]]  # digits of rows, outermost first, and of columns


def find_tails(
    units: Sequence[Unit], users: Mapping[Node, set[Unit]], asked: set[Node]
) -> dict[Unit, tuple[Node, Order]]:
    """For units that can be one: the contraction, and the order of the loop that it needs."""
    found: dict[Unit, tuple[Node, Order]] = {}
    unit_of = {node: unit for unit in units for node in unit.nodes}
    closure = _closures(units)
    for unit in units:
        if unit.space is None:
            continue
        for node in _contractions_read(unit):
            own = unit_of.get(node)
            if own is None or len(own.nodes) > 1 or node in asked or users[node] != {unit}:
                continue
            order = _order(unit, node)
            if order is None or _comes_back(unit, own, closure):
                continue
            a, b = factors(node)
            whole = unit.space.columns is not None
            if takes_tail(a, b, node.layout, node.parameters["groups"], whole):
                found[unit] = (node, order)
                break
    return found


def _contractions_read(unit: Unit) -> list[Node]:
    """Those that a unit reads, the last first: what the others make is there by then."""
    own = set(unit.nodes)
    read = [x.node for node in unit.nodes for x in node.inputs if x.node not in own]
    return [node for node in reversed(dict.fromkeys(read)) if node.primitive in CONTRACTIONS]


def _closures(units: Sequence[Unit]) -> dict[int, int]:
    """Of each unit, all that it depends on, as bits."""
    closure: dict[int, int] = {}
    for unit in units:
        closure[unit.number] = 0
        for other in unit.direct:
            closure[unit.number] |= closure[other] | 1 << other
    return closure


def _comes_back(unit: Unit, contraction: Unit, closure: Mapping[int, int]) -> bool:
    """Whether something else that the unit reads depends on the contraction."""
    others = unit.direct - {contraction.number}
    return any(closure[other] >> contraction.number & 1 for other in others)


def _order(unit: Unit, node: Node) -> Order | None:
    """The loop's digits, rows and columns being those of the contraction's result."""
    space = unit.space
    assert space is not None
    if not node.layout.compact:
        return None
    steps = _steps_of(unit, space, node)
    if steps is None or steps.keys() != space.extents.keys():
        return None
    batch, m, n, _ = node.parameters["groups"]
    width = prod(node.layout.shape[batch + m :])
    order = sorted(steps, key=lambda digit: -steps[digit])
    columns = [digit for digit in order if steps[digit] < width]
    rows = [digit for digit in order if steps[digit] >= width]
    if prod(space.extents[digit] for digit in columns) != width or n < 1:
        return None
    if space.columns is not None and set(columns) != set(space.columns):
        return None
    return rows, columns


def _steps_of(unit: Unit, space: Space, node: Node) -> dict[int, int] | None:
    """Steps along the loop's digits in the memory of a node that is read, in one way only."""
    found: dict[int, int] | None = None
    for member in unit.nodes:
        axes = space.axes_read(member)
        for x in member.inputs:
            if x.node is not node:
                continue
            steps = space.strides(axes, x.layout.strides)
            if x.offset or (found is not None and found != steps) or 0 in steps.values():
                return None
            found = steps
    return found
