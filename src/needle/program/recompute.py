"""What is cheap to compute again is not kept in memory for a later loop: x - mean, for instance.

A loop that reads such a value computes it from what the value was made of, if that is in memory
anyway: so the value is neither written nor read, and memory is for what is dear.
"""

from __future__ import annotations

from collections.abc import Sequence

from needle.backend_ndarray.ndarray_backend_trace import Node
from needle.program.fuse import MOST_NODES, MOST_READ, Fused, Unit
from needle.program.graph import Graph
from needle.program.recipes import Recipe, Recipes, is_cheap, is_identity, is_wide

__all__ = ["recompute"]


def recompute(fused: Fused) -> Fused:
    """The units, with values that loops compute again in place of cheap ones that were kept."""
    return _Recomputation(fused).fused


class _Recomputation(Recipes):
    def __init__(self, fused: Fused) -> None:
        super().__init__(fused)
        graph = self.graph
        self._again: dict[tuple[Unit, Node], Node] = {}
        for unit in fused.units:
            if unit.space is not None:
                for node in list(unit.nodes):
                    self._consider(unit, node)
        units = [unit for unit in fused.units if self._is_needed(unit)]
        self.note_what_is_read(units)
        nodes = [node for unit in units for node in unit.nodes]
        self.fused = Fused(
            Graph(graph.inputs, graph.outputs, nodes, graph.checks, graph.updates), units
        )

    def _is_needed(self, unit: Unit) -> bool:
        return any(node in self.asked or self.users.get(node) for node in unit.nodes)

    # -- which ---------------------------------------------------------------------------------

    def _consider(self, unit: Unit, node: Node) -> None:
        """Have all loops that read a node compute it again, if all can."""
        if node in self.asked or not is_cheap(node) or not is_wide(unit, node):
            return
        readers = self.readers(unit, node)
        recipe = self.recipe(unit, node) if readers else None
        if recipe is not None and all(
            self._may_compute(other, users, node, recipe) for other, users in readers.items()
        ):
            for other, users in readers.items():
                self._compute_again(other, users, node, recipe)

    def is_there(self, unit: Unit, node: Node) -> bool:
        """Whether what a loop reads from outside is in memory, and stays for others."""
        return node not in self.overwritten and super().is_there(unit, node)

    def _may_compute(self, other: Unit, users: Sequence[Node], node: Node, recipe: Recipe) -> bool:
        """Whether a loop can, and reads no more for it than now."""
        if other.space is None or len(other.nodes) + len(recipe.nodes) > MOST_NODES:
            return False
        for user in users:
            for x in user.inputs:
                if x.node is node and not (is_identity(x) and _walks_all(other, user)):
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
        self, other: Unit, users: Sequence[Node], node: Node, recipe: Recipe
    ) -> None:
        assert other.space is not None
        axes = other.space.axes_read(users[0])
        made = []
        for old in recipe.nodes:
            if (other, old) not in self._again:
                self._again[other, old] = self.put(other, old, axes)
                made.append(self._again[other, old])
        for new in made:
            self.read(new, [(x.node, self._again.get((other, x.node), x.node)) for x in new.inputs])
        count = sum(unit is other for unit, _ in self._again) - len(made)
        other.nodes[count:count] = made  # what was made before may be read
        for user in users:
            self.read(user, [(node, self._again[other, node])])


def _walks_all(unit: Unit, node: Node) -> bool:
    return node in (unit.space.axes_reduced if unit.space else ()) or is_wide(unit, node)
