"""Which nodes become one loop: elementwise primitives with what they read, and reductions of rows.

Nodes are taken in order. Each joins the loop of something that it reads, if it walks the same
places and no other way leads from that loop to it; loops that meet in a node become one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.program.graph import Graph
from needle.program.space import Axes, Space, align

__all__ = ["MOST_NODES", "MOST_READ", "Fused", "Unit", "fuse"]

_REDUCTIONS = ("sum", "max", "min", "prod")
MOST_NODES = 96
MOST_READ = 28
_LONGEST_ROW = 1 << 16  # of which a kernel keeps intermediate values
_ONE_ROW = 1 << 12  # elements, beyond which one row is better shared by threads


class Unit:
    """Nodes that run as one: a loop with a space, or a single node without."""

    def __init__(self, node: Node, number: int, space: Space | None = None) -> None:
        self.nodes, self.number, self.space = [node], number, space
        self.direct: set[int] = set()

    @property
    def kind(self) -> str:
        """What it is, for people."""
        return "" if self.space is None else ", a loop"

    def __repr__(self) -> str:
        return f"Unit {self.number}: {'; '.join(map(repr, self.nodes))}"


@dataclass
class Fused:
    """A graph, and the units that its nodes are in, each after those that it depends on."""

    graph: Graph
    units: list[Unit]

    def __str__(self) -> str:
        """Of each unit a line, and one for each of its nodes."""
        lines = []
        for number, unit in enumerate(self.units):
            lines.append(f"unit {number}{unit.kind}:")
            lines += [f"    {node!r}" for node in unit.nodes]
        return "\n".join(lines)


def fuse(graph: Graph) -> Fused:
    """Which nodes become one loop."""
    return Fused(graph, _Fusion(graph).units_in_order())


class _Fusion:
    """Units so far, by their numbers.

    closure  of each, those that it depends on, as bits; who was united has the bits of both
    bits     its own
    users    the numbers of those that read it directly
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.unit_of: dict[Node, Unit] = {}
        self.units: dict[int, Unit] = {}
        self.closure: list[int] = []
        self.bits: list[int] = []
        self.users: list[set[int]] = []
        for node in graph.nodes:
            self._place(node)

    # -- dependencies --------------------------------------------------------------------------

    def _new(self, node: Node, space: Space | None = None) -> Unit:
        number = len(self.closure)
        unit = self.units[number] = self.unit_of[node] = Unit(node, number, space)
        self.closure.append(0)
        self.bits.append(1 << number)
        self.users.append(set())
        self.closure[number] = self._depend(unit, node)  # and nobody depends on it yet
        return unit

    def _depend(self, unit: Unit, node: Node) -> int:
        """Note what a node of a unit reads directly; gives all that it depends on, as bits."""
        more = 0
        for operand in node.inputs:
            other = self.unit_of[operand.node]
            if other is not unit:
                unit.direct.add(other.number)
                self.users[other.number].add(unit.number)
                more |= self.closure[other.number] | self.bits[other.number]
        return more

    def _add_to_closure(self, numbers: Iterable[int], more: int) -> None:
        """These units depend on more, and so does who depends on them."""
        waiting = list(numbers)
        while waiting:
            number = waiting.pop()
            if more & ~self.closure[number]:
                self.closure[number] |= more
                waiting += self.users[number]

    def _may_join(self, unit: Unit, node: Node) -> bool:
        bits = self.bits[unit.number]
        return not any(
            self.closure[other.number] & bits
            for other in (self.unit_of[x.node] for x in node.inputs)
            if other is not unit
        )

    def _may_unite(self, a: Unit, b: Unit) -> bool:
        return not any(
            self.closure[other] & self.bits[second.number]
            for first, second in ((a, b), (b, a))
            for other in first.direct
            if other != second.number
        )

    def _unite(self, a: Unit, b: Unit) -> None:
        """Put the nodes of b into a."""
        old, new = b.number, a.number
        closure, bits, users = self.closure, self.bits, self.users
        del self.units[old]
        for number in users[old]:
            self.units[number].direct.discard(old)
            self.units[number].direct.add(new)
        for number in b.direct:
            users[number].discard(old)
            users[number].add(new)
        a.direct = (a.direct | b.direct) - {old, new}
        users[new] = (users[new] | users[old]) - {old, new}
        a.nodes += b.nodes
        for node in b.nodes:
            self.unit_of[node] = a
        bits[new] |= bits[old]
        closure[new] = (closure[new] | closure[old]) & ~bits[new]
        self._add_to_closure(users[new], closure[new] | bits[new])

    # -- joining -------------------------------------------------------------------------------

    def _place(self, node: Node) -> None:
        if not _is_fusible(node):
            self._new(node)
            return
        candidates = list(
            dict.fromkeys(
                self.unit_of[x.node] for x in node.inputs if self.unit_of[x.node].space is not None
            )
        )
        candidates.sort(key=lambda unit: -unit.space.size)  # type: ignore[union-attr]
        joined = next((unit for unit in candidates if self._join(unit, node)), None)
        if joined is None:
            space = _space_of(node)
            self._new(node, space)
            if space is None:
                return
            joined = self.unit_of[node]
        for other in candidates:
            if other is not joined and other.number in self.units:
                self._try_to_unite(joined, other, node)

    def _join(self, unit: Unit, node: Node) -> bool:
        if len(unit.nodes) >= MOST_NODES or not self._may_join(unit, node):
            return False
        if len(self._read_by([*unit.nodes, node])) > MOST_READ:
            return False
        inside = [x for x in node.inputs if self.unit_of[x.node] is unit]
        space = unit.space
        assert space is not None
        if node.primitive == "reduce":
            fits = self._join_reduction(space, node)
        else:
            fits = _join_elementwise(space, node, inside)
        if fits:
            unit.nodes.append(node)
            self.unit_of[node] = unit
            self._add_to_closure([unit.number], self._depend(unit, node))
        return fits

    def _read_by(self, nodes: Sequence[Node]) -> set[tuple[Node, object, int]]:
        own = set(nodes)
        return {
            (x.node, x.layout, x.offset) for node in nodes for x in node.inputs if x.node not in own
        }

    def _join_reduction(self, space: Space, node: Node) -> bool:
        operand = node.inputs[0]
        axes = space.read(operand.node, operand.layout, operand.offset)
        if axes is None or None in axes:
            return False
        return _reduced(space, node, axes)

    def _try_to_unite(self, unit: Unit, other: Unit, node: Node) -> None:
        a, b = unit.space, other.space
        assert a is not None and b is not None
        if len(unit.nodes) + len(other.nodes) > MOST_NODES or not self._may_unite(unit, other):
            return
        if len(self._read_by([*unit.nodes, *other.nodes])) > MOST_READ:
            return
        operands = [x for x in node.inputs if self.unit_of[x.node] is other]
        names = _names(a, b, node, operands[0])
        if names is None or not _same_columns(a, b, names):
            return
        had_columns = a.columns is not None
        for mine, theirs in ((a.axes, b.axes), (a.axes_reduced, b.axes_reduced)):
            for member, axes in theirs.items():
                mine[member] = [[names[digit] for digit in row or ()] for row in axes]
        if a.columns is None and b.columns is not None:
            a.columns = [names[digit] for digit in b.columns]
        if not self._is_read_in_place(unit, other, a):
            for member in b.axes:
                del a.axes[member]
                a.axes_reduced.pop(member, None)
            a.columns = a.columns if had_columns else None
            return
        self._unite(unit, other)

    def _is_read_in_place(self, unit: Unit, other: Unit, space: Space) -> bool:
        """Whether all that either reads of the other is read where its own elements are.

        What reads it elsewhere, mirrored for instance, needs it in memory.
        """
        for reader, read in ((unit, other), (other, unit)):
            for node in reader.nodes:
                for x in node.inputs:
                    if self.unit_of[x.node] is read:
                        view = space.read(x.node, x.layout, x.offset)
                        own = space.axes_reduced.get(node, space.axes[node])
                        if view is None or not _agree(view, own):
                            return False
        return True

    # -- order ---------------------------------------------------------------------------------

    def units_in_order(self) -> list[Unit]:
        """All units, dependencies first."""
        place = {node: i for i, node in enumerate(self.graph.nodes)}
        order: list[Unit] = []
        done: set[int] = set()
        for node in self.graph.nodes:
            stack = [self.unit_of[node].number]
            while stack:
                number = stack[-1]
                if number in done:
                    stack.pop()
                    continue
                ahead = [d for d in self.units[number].direct if d not in done]
                if ahead:
                    stack += ahead
                    continue
                done.add(number)
                stack.pop()
                unit = self.units[number]
                unit.nodes.sort(key=place.__getitem__)
                order.append(unit)
        return order


def _is_fusible(node: Node) -> bool:
    if prod(node.layout.shape) == 0:
        return False
    if node.primitive == "elementwise":
        return True
    return (
        node.primitive == "reduce"
        and node.parameters["name"] in _REDUCTIONS
        and node.layout.dtype != bool
        and node.inputs[0].layout.size > 0
    )


def _space_of(node: Node) -> Space | None:
    """The space of a loop that begins with a node; None for what is better left alone."""
    space = Space()
    if node.primitive == "elementwise":
        space.axes[node] = space.new_axes(node.layout.shape)
        return space
    axes = space.new_axes(node.inputs[0].layout.shape)
    return space if _reduced(space, node, axes) else None


def _reduced(space: Space, node: Node, axes: Axes) -> bool:
    """Take a reduction of a wide value into a space, if it is one of rows."""
    operand = node.inputs[0].layout
    gone = node.parameters["axes"]
    columns = [digit for axis in sorted(gone) for digit in axes[axis] or ()]
    if not columns or (space.columns is not None and set(columns) != set(space.columns)):
        return False
    if {digit for row in axes for digit in row or ()} != space.extents.keys():
        return False
    length = prod(space.extents[digit] for digit in columns)
    rows = space.size // length
    if space.columns is None and (length > _LONGEST_ROW or (rows == 1 and length > _ONE_ROW)):
        return False
    steps = space.strides(axes, operand.strides)
    inner = [abs(steps[digit]) for digit in columns]
    outer = [abs(steps[digit]) for digit in space.extents if digit not in columns]
    if space.columns is None and outer and max(inner) > min(step for step in outer):
        return False  # a reduction of columns
    if space.columns is None:
        space.columns = columns
    space.axes_reduced[node] = axes
    kept: Axes = []
    rest = iter([row for axis, row in enumerate(axes) if axis not in gone])
    keepdims = len(node.layout.shape) == len(operand.shape)
    for axis in range(len(operand.shape)):
        if axis not in gone:
            kept.append(list(next(rest) or ()))
        elif keepdims:
            kept.append([])
    space.axes[node] = kept
    return len(kept) == len(node.layout.shape)


def _join_elementwise(space: Space, node: Node, inside: Sequence[Operand]) -> bool:
    """Find the digits of a node's axes from what it reads inside a space."""
    shape = node.layout.shape
    found: list[Axes] = []
    for x in inside:
        axes = space.read(x.node, x.layout, x.offset, found)
        if axes is None:
            return False
        found.append(axes)
    own: Axes = []
    for axis in range(len(shape)):
        known = [row for axes in found if (row := axes[axis]) is not None]
        if any(row != known[0] for row in known[1:]):
            return False
        own.append(list(known[0]) if known else None)
    unknown = [axis for axis, row in enumerate(own) if row is None]
    if unknown:
        if space.columns is None:
            return False
        taken = space.take([shape[axis] for axis in unknown], space.columns, [own, *found])
        if taken is None:
            return False
        for axis, row in zip(unknown, taken, strict=True):
            own[axis] = row
    digits = [digit for row in own for digit in row or ()]
    if len(set(digits)) != len(digits):
        return False
    if set(digits) != space.extents.keys() and (space.columns is None or set(digits) != space.rows):
        return False
    if any(
        axes[axis] is not None and axes[axis] != own[axis]
        for axes in found
        for axis in range(len(shape))
    ):
        return False
    space.axes[node] = own
    return True


def _agree(view: Axes, own: Axes) -> bool:
    return all(row is None or row == mine for row, mine in zip(view, own, strict=True))


def _names(a: Space, b: Space, node: Node, operand: Operand) -> dict[int, int] | None:
    """What each digit of b is in a, by a node of a that reads one of b."""
    seen = b.read(operand.node, operand.layout, operand.offset)
    if seen is None:
        return None
    own = _axes_read(a, node)
    if own is None:
        return None
    names: dict[int, int] = {}
    free: list[int] = []
    for axis, row in enumerate(seen):
        if row is None:
            free += own[axis] or ()
            continue
        found = align(a, list(own[axis] or ()), b, list(row), own, seen)
        if found is None:
            return None
        names |= found
        own = _axes_read(a, node)
        assert own is not None
    rest = [digit for digit in (b.columns or ()) if digit not in names]
    if rest:
        mine = [digit for axis, row in enumerate(seen) if row is None for digit in own[axis] or ()]
        mine = mine or list(a.columns or ())
        found = align(a, mine, b, rest)
        if found is None:
            return None
        names |= found
    return names if names.keys() == b.extents.keys() else None


def _axes_read(space: Space, node: Node) -> Axes | None:
    """The digits of what a node reads: its own, but for a reduction."""
    if node.primitive != "reduce":
        return [list(row or ()) for row in space.axes[node]]
    return None


def _same_columns(a: Space, b: Space, names: dict[int, int]) -> bool:
    mapped = set(names.values())
    if len(mapped) != len(names):
        return False
    everything = a.extents.keys()
    if b.columns is not None:
        renamed = {names[digit] for digit in b.columns}
        if a.columns is not None and renamed != set(a.columns):
            return False
        return mapped == everything
    return mapped == everything or (a.columns is not None and mapped == a.rows)
