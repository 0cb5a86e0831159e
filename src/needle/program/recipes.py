"""How a value that a loop makes can be made once more by another loop, of what lies in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.compiler.kernels.fused_body import DEAR
from needle.program.fuse import Fused, Unit
from needle.program.graph import CONTRACTIONS
from needle.program.space import Axes

__all__ = ["Recipe", "Recipes", "is_cheap", "is_identity", "is_wide"]

_MOST_AGAIN = 6  # nodes for one value


@dataclass
class Recipe:
    """The nodes that make a value, in order, and what they read that is in memory."""

    nodes: list[Node] = field(default_factory=list)
    leaves: list[Operand] = field(default_factory=list)


class Recipes:
    """The loops of a graph, and who reads what they make.

    unit_of      the unit that each node is in
    users        the nodes that read each
    asked        nodes whose values are asked for, or checked
    overwritten  inputs in whose place outputs go
    """

    def __init__(self, fused: Fused) -> None:
        graph = self.graph = fused.graph
        self.units = fused.units
        self.unit_of = {node: unit for unit in fused.units for node in unit.nodes}
        self.users: dict[Node, set[Node]] = {}
        for node in graph.nodes:
            for x in node.inputs:
                self.users.setdefault(x.node, set()).add(node)
        self.asked = {output.node for output in (*graph.outputs, *graph.checks)}
        updated = [given for given in graph.updates.values() if given is not None]
        self.overwritten = {graph.inputs[given] for given in updated}

    def readers(self, unit: Unit, node: Node) -> dict[Unit, list[Node]]:
        """The other units that read a node, and which of their nodes do."""
        found: dict[Unit, list[Node]] = {}
        for user in self.users.get(node, ()):
            if self.unit_of[user] is not unit:
                found.setdefault(self.unit_of[user], []).append(user)
        return found

    def recipe(self, unit: Unit, node: Node) -> Recipe | None:
        """None for what is dear, or made of what would have to be kept in place of it."""
        recipe = Recipe()
        return recipe if self._add(unit, node, recipe) else None

    def _add(self, unit: Unit, node: Node, recipe: Recipe) -> bool:
        if node in recipe.nodes:
            return True
        if not is_cheap(node) or len(recipe.nodes) >= _MOST_AGAIN:
            return False
        for x in node.inputs:
            if self.unit_of[x.node] is unit and is_wide(unit, x.node) and not self._is_kept(x):
                if not is_identity(x) or not self._add(unit, x.node, recipe):
                    return False
            elif self.is_there(unit, x.node):
                recipe.leaves.append(x)
            else:
                return False
        recipe.nodes.append(node)
        return True

    def _is_kept(self, x: Operand) -> bool:
        """Whether what is read is in memory, as something else than a loop of its own reads it."""
        own = self.unit_of[x.node]
        users = self.users.get(x.node, set())
        return x.node in self.asked or any(self.unit_of[user] is not own for user in users)

    def is_there(self, unit: Unit, node: Node) -> bool:
        """Whether what a loop reads from outside is in memory.

        The result of a contraction that the loop alone reads is not: the loop is its tail.
        """
        if node.primitive in ("assign", "empty"):
            return False
        users = self.users.get(node, set())
        others = any(self.unit_of[user] is not unit for user in users)
        return node.primitive not in CONTRACTIONS or others

    def put(self, other: Unit, old: Node, axes: Axes) -> Node:
        """A node of another loop that computes the same, with these digits; it has to be placed."""
        assert other.space is not None
        new = Node(old.primitive, old.layout, old.inputs, old.parameters, old.numbers)
        new.origin = old.origin
        other.space.axes[new] = [list(row or ()) for row in axes]
        self.unit_of[new] = other
        return new

    def read(self, node: Node, places: Iterable[tuple[Node, Node]]) -> None:
        """Let a node read others in their place."""
        new = dict(places)
        for x in node.inputs:
            if new.get(x.node, x.node) is not x.node:
                self.users[x.node].discard(node)
        node.inputs = tuple(
            [Operand(new.get(x.node, x.node), x.layout, x.offset) for x in node.inputs]
        )
        for x in node.inputs:
            self.users.setdefault(x.node, set()).add(node)

    def note_what_is_read(self, units: Sequence[Unit]) -> None:
        """Let units know what each depends on directly."""
        for unit in units:
            read = [self.unit_of[x.node] for node in unit.nodes for x in node.inputs]
            unit.direct = {other.number for other in read if other is not unit}


def is_cheap(node: Node) -> bool:
    """Whether a node may be computed twice."""
    return node.primitive == "elementwise" and node.parameters["name"] not in DEAR


def is_wide(unit: Unit, node: Node) -> bool:
    """Whether it has an element for each place that the loop walks."""
    space = unit.space
    return space is not None and node in space.axes and space.of(node) == space.extents.keys()


def is_identity(x: Operand) -> bool:
    """Whether all of a node's result is read as it lies."""
    own = x.node.layout
    return x.offset == 0 and (x.layout.shape, x.layout.strides) == (own.shape, own.strides)
