"""What is cheap to compute again is not kept in memory for a later loop: x - mean, for instance.

A loop that reads such a value computes it from what the value was made of, if that is in memory
anyway: so the value is neither written nor read, and memory is for what is dear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.compiler.kernels.fused_body import DEAR
from needle.program.fuse import MOST_NODES, MOST_READ, Fused, Unit
from needle.program.graph import Graph

__all__ = ["recompute"]

_MOST_AGAIN = 6  # nodes for one value


def recompute(fused: Fused) -> Fused:
    """The units, with values that loops compute again in place of cheap ones that were kept."""
    return _Recomputation(fused).fused


@dataclass
class _Recipe:
    """How to compute a value again: the nodes, in order, and what they read that is in memory."""

    nodes: list[Node] = field(default_factory=list)
    leaves: list[Operand] = field(default_factory=list)


class _Recomputation:
    def __init__(self, fused: Fused) -> None:
        graph = fused.graph
        self._units = fused.units
        self._unit_of = {node: unit for unit in fused.units for node in unit.nodes}
        self._users: dict[Node, set[Node]] = {}
        for node in graph.nodes:
            for x in node.inputs:
                self._users.setdefault(x.node, set()).add(node)
        self._asked = {output.node for output in (*graph.outputs, *graph.checks)}
        updated = [given for given in graph.updates.values() if given is not None]
        self._overwritten = {graph.inputs[given] for given in updated}
        self._again: dict[tuple[Unit, Node], Node] = {}
        for unit in fused.units:
            if unit.space is not None:
                for node in list(unit.nodes):
                    self._consider(unit, node)
        units = [unit for unit in fused.units if self._is_needed(unit)]
        for unit in units:
            read = [self._unit_of[x.node] for node in unit.nodes for x in node.inputs]
            unit.direct = {other.number for other in read if other is not unit}
        nodes = [node for unit in units for node in unit.nodes]
        self.fused = Fused(
            Graph(graph.inputs, graph.outputs, nodes, graph.checks, graph.updates), units
        )

    def _is_needed(self, unit: Unit) -> bool:
        return any(node in self._asked or self._users.get(node) for node in unit.nodes)

    # -- which ---------------------------------------------------------------------------------

    def _consider(self, unit: Unit, node: Node) -> None:
        """Have all loops that read a node compute it again, if all can."""
        if node in self._asked or not _is_cheap(node) or not _is_wide(unit, node):
            return
        readers: dict[Unit, list[Node]] = {}
        for user in self._users.get(node, ()):
            if self._unit_of[user] is not unit:
                readers.setdefault(self._unit_of[user], []).append(user)
        recipe = self._recipe(unit, node) if readers else None
        if recipe is not None and all(
            self._may_compute(other, users, node, recipe) for other, users in readers.items()
        ):
            for other, users in readers.items():
                self._compute_again(other, users, node, recipe)

    def _recipe(self, unit: Unit, node: Node) -> _Recipe | None:
        """None for what is dear, or made of what would have to be kept in place of it."""
        recipe = _Recipe()
        return recipe if self._add(unit, node, recipe) else None

    def _add(self, unit: Unit, node: Node, recipe: _Recipe) -> bool:
        if node in recipe.nodes:
            return True
        if not _is_cheap(node) or len(recipe.nodes) >= _MOST_AGAIN:
            return False
        for x in node.inputs:
            if self._unit_of[x.node] is unit and _is_wide(unit, x.node) and not self._is_kept(x):
                if not _is_identity(x) or not self._add(unit, x.node, recipe):
                    return False
            elif self._is_there(unit, x.node):
                recipe.leaves.append(x)
            else:
                return False
        recipe.nodes.append(node)
        return True

    def _is_kept(self, x: Operand) -> bool:
        """Whether what is read is in memory, as something else than a loop of its own reads it."""
        own = self._unit_of[x.node]
        users = self._users.get(x.node, set())
        return x.node in self._asked or any(self._unit_of[user] is not own for user in users)

    def _is_there(self, unit: Unit, node: Node) -> bool:
        """Whether what a loop reads from outside stays, if others read it later.

        The result of a contraction that the loop alone reads would not: the loop is its tail.
        """
        if node in self._overwritten or node.primitive in ("assign", "empty"):
            return False
        users = self._users.get(node, set())
        return node.primitive != "contract" or any(self._unit_of[u] is not unit for u in users)

    def _may_compute(self, other: Unit, users: Sequence[Node], node: Node, recipe: _Recipe) -> bool:
        """Whether a loop can, and reads no more for it than now."""
        if other.space is None or len(other.nodes) + len(recipe.nodes) > MOST_NODES:
            return False
        for user in users:
            for x in user.inputs:
                if x.node is node and not (_is_identity(x) and _walks_all(other, user)):
                    return False
        known = [self._again[other, old] for old in recipe.nodes if (other, old) in self._again]
        walks = [other.space.axes_read(user) for user in users] + [
            other.space.axes[x] for x in known
        ]
        if any(axes != walks[0] for axes in walks):  # one of them turned, for instance
            return False
        own = set(other.nodes)
        read = {x.node for member in other.nodes for x in member.inputs if x.node not in own}
        new = {x.node for x in recipe.leaves} - read
        wide = [leaf for leaf in new if leaf.layout.size >= node.layout.size]
        bytes = sum(leaf.layout.itemsize for leaf in wide)
        return bytes <= node.layout.itemsize and len(read) + len(new) <= MOST_READ

    # -- doing it --------------------------------------------------------------------------------

    def _compute_again(
        self, other: Unit, users: Sequence[Node], node: Node, recipe: _Recipe
    ) -> None:
        assert other.space is not None
        axes = other.space.axes_read(users[0])
        made = []
        for old in recipe.nodes:
            if (other, old) in self._again:
                continue
            new = Node(old.primitive, old.layout, old.inputs, old.parameters, old.numbers)
            new.origin = old.origin
            self._again[other, old] = new
            other.space.axes[new] = [list(row or ()) for row in axes]
            self._unit_of[new] = other
            made.append(new)
        for new in made:
            self._read(
                new, [(x.node, self._again.get((other, x.node), x.node)) for x in new.inputs]
            )
        count = sum(unit is other for unit, _ in self._again) - len(made)
        other.nodes[count:count] = made  # what was made before may be read
        for user in users:
            self._users[node].discard(user)
            self._read(user, [(node, self._again[other, node])])

    def _read(self, node: Node, places: Sequence[tuple[Node, Node]]) -> None:
        """Let a node read others in their place."""
        new = dict(places)
        node.inputs = tuple(
            [Operand(new.get(x.node, x.node), x.layout, x.offset) for x in node.inputs]
        )
        for x in node.inputs:
            self._users.setdefault(x.node, set()).add(node)


def _is_cheap(node: Node) -> bool:
    return node.primitive == "elementwise" and node.parameters["name"] not in DEAR


def _is_wide(unit: Unit, node: Node) -> bool:
    """Whether it has an element for each place that the loop walks."""
    space = unit.space
    return space is not None and node in space.axes and space.of(node) == space.extents.keys()


def _is_identity(x: Operand) -> bool:
    """Whether all of a node's result is read as it lies."""
    own = x.node.layout
    return x.offset == 0 and (x.layout.shape, x.layout.strides) == (own.shape, own.strides)


def _walks_all(unit: Unit, node: Node) -> bool:
    return node in (unit.space.axes_reduced if unit.space else ()) or _is_wide(unit, node)
