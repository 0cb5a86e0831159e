"""What is cheap is made once more for the way back, in place of being kept from the way there.

The input of a layer's weights is read twice: on the way there, and for their gradient. Where a norm
or an activation made it of what its own gradient needs anyway, the loop of that gradient makes it
once more, and in between its memory is free. That is done where memory is needed most only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.program.fuse import MOST_NODES, MOST_READ, Fused, Unit
from needle.program.graph import Graph
from needle.program.recipes import Recipe, Recipes, is_identity, is_wide
from needle.program.space import Axes

__all__ = ["rematerialize"]

_LARGE = 1 << 20  # bytes: less lies in a cache
_SMALL = 16  # a value of so many times fewer bytes costs nothing to keep
_LATEST = 4  # levels by which readers may have to wait, where they read something large besides


def rematerialize(fused: Fused) -> Fused:
    """The units, with values made twice that would be in memory when most of it is needed."""
    return _Rematerialization(fused).fused


class _Rematerialization(Recipes):
    def __init__(self, fused: Fused) -> None:
        super().__init__(fused)
        self.fused = fused
        large = [node for node in self.graph.nodes if node.layout.nbytes >= _LARGE]
        if not large:
            return
        self._level = _levels(self.units)
        self._ahead = _ahead(self.units)
        self._peak = self._fullest(large)
        changed = [node for node in large if self._consider(self.unit_of[node], node)]
        if changed:
            self.note_what_is_read(self.units)
            units = _in_order(self.units)
            nodes = [node for unit in units for node in unit.nodes]
            graph = self.graph
            graph = Graph(graph.inputs, graph.outputs, nodes, graph.checks, graph.updates)
            self.fused = Fused(graph, units)

    def _fullest(self, nodes: Sequence[Node]) -> int:
        """The level at which the most bytes of these nodes have to be in memory."""
        change = [0] * (2 + max(self._level.values()))
        for node in nodes:
            unit = self.unit_of[node]
            readers = [self._level[other.number] for other in self.readers(unit, node)]
            if readers and node not in self.asked and node.primitive not in ("input", "constant"):
                change[self._level[unit.number]] += node.layout.nbytes
                change[max(readers) + 1] -= node.layout.nbytes
        most, fullest, now = 0, 0, 0
        for level, more in enumerate(change):
            now += more
            if now > most:
                most, fullest = now, level
        return fullest

    # -- which ---------------------------------------------------------------------------------

    def _consider(self, unit: Unit, node: Node) -> bool:
        """Have a loop on the way back make a node once more, if it is to be had for little."""
        if node in self.asked or not is_wide(unit, node):
            return False
        readers = self.readers(unit, node)
        recipe = self.recipe(unit, node) if len(readers) > 1 else None
        if recipe is None:
            return False
        for other in self._loops_that_read(recipe, node):
            late = [reader for reader in readers if not self._is_ahead(reader, other)]
            early = [reader for reader in readers if reader not in late]
            if other is unit or not self._is_worth_it(other, node, early, late):
                continue
            if not self._stays(recipe, node, other):
                continue
            axes = self._axes(other, recipe, node) if self._has_room(other, recipe) else None
            if axes is not None and _reads_alike(other, readers.get(other, ()), axes, node):
                self._make_again(other, node, recipe, axes, {u: readers[u] for u in late})
                return True
        return False

    def _loops_that_read(self, recipe: Recipe, node: Node) -> list[Unit]:
        """Those that read what the value is made of, the first first."""
        found = {
            self.unit_of[user]
            for leaf in recipe.leaves
            if leaf.layout.size == node.layout.size
            for user in self.users[leaf.node]
        }
        loops = [other for other in found if other.space is not None]
        return sorted(loops, key=lambda other: (self._level[other.number], other.number))

    def _is_ahead(self, unit: Unit, other: Unit) -> bool:
        """Whether `other` depends on a unit."""
        return bool(self._ahead[other.number] >> unit.number & 1)

    def _is_worth_it(
        self, other: Unit, node: Node, early: Sequence[Unit], late: Sequence[Unit]
    ) -> bool:
        """Whether memory is free when most is needed, and nobody waits long."""
        if not early or not late:
            return False
        level = self._level
        last, first = max(level[unit.number] for unit in early), level[other.number]
        if not last < self._peak < first:
            return False
        return all(
            first <= level[reader.number] + _LATEST or not self._reads_large(reader, node)
            for reader in late
        )

    def _reads_large(self, unit: Unit, node: Node) -> bool:
        """Whether a unit keeps other memory until it runs."""
        read = {x.node for user in unit.nodes for x in user.inputs} - {node}
        return any(
            x.layout.nbytes >= _LARGE
            and x.primitive not in ("input", "constant", "fill", "empty")
            and self.unit_of[x] is not unit
            for x in read
        )

    def _stays(self, recipe: Recipe, node: Node, other: Unit) -> bool:
        """Whether all that the value is made of is in memory when a loop runs, in any case."""
        mine = {x.node for member in other.nodes for x in member.inputs}
        for leaf in {x.node for x in recipe.leaves}:
            if leaf in self.overwritten and self._is_overwritten_ahead(leaf, other):
                return False
            if leaf in mine or leaf.primitive in ("input", "constant", "fill", "iota"):
                continue
            if leaf.layout.nbytes * _SMALL <= node.layout.nbytes:
                continue
            if not any(not self._is_ahead(u, other) for u in self.readers(other, leaf)):
                return False
        return True

    def _is_overwritten_ahead(self, given: Node, other: Unit) -> bool:
        graph = self.graph
        return any(
            source is not None
            and graph.inputs[source] is given
            and self._is_ahead(self.unit_of[graph.outputs[number].node], other)
            for number, source in graph.updates.items()
        )

    def _axes(self, other: Unit, recipe: Recipe, node: Node) -> Axes | None:
        """The digits that the value has in a loop, by those of what it is made of."""
        space = other.space
        assert space is not None
        for leaf in recipe.leaves:
            if leaf.layout.size != node.layout.size or leaf.offset:
                continue
            for user, x in _reads_of(other, leaf.node):
                steps = space.strides(space.axes_read(user), x.layout.strides)
                if x.offset or 0 in steps.values() or steps.keys() != space.extents.keys():
                    continue
                axes = space.walked(steps, leaf.layout)
                if axes is not None and None not in axes:
                    return axes
        return None

    def _has_room(self, other: Unit, recipe: Recipe) -> bool:
        read = {x.node for member in other.nodes for x in member.inputs} - set(other.nodes)
        read |= {x.node for x in recipe.leaves}
        return len(read) < MOST_READ and len(other.nodes) + len(recipe.nodes) <= MOST_NODES

    # -- doing it --------------------------------------------------------------------------------

    def _make_again(
        self,
        other: Unit,
        node: Node,
        recipe: Recipe,
        axes: Axes,
        late: Mapping[Unit, Sequence[Node]],
    ) -> None:
        again = {old: self.put(other, old, axes) for old in recipe.nodes}
        for new in again.values():
            self.read(new, again.items())
        other.nodes[:0] = again.values()
        for users in late.values():
            for user in users:
                self.read(user, [(node, again[node])])
        behind = self._ahead[other.number] | 1 << other.number
        waiting = sum([1 << unit.number for unit in late if unit is not other])
        for number, ahead in self._ahead.items():
            if (ahead | 1 << number) & waiting:
                self._ahead[number] = ahead | behind


def _reads_alike(unit: Unit, users: Sequence[Node], axes: Axes, node: Node) -> bool:
    """Whether these nodes of a loop read a value just as the loop would make it."""
    assert unit.space is not None
    return all(
        unit.space.axes_read(user) == axes
        and all(is_identity(x) for x in user.inputs if x.node is node)
        for user in users
    )


def _reads_of(unit: Unit, node: Node) -> list[tuple[Node, Operand]]:
    return [(user, x) for user in unit.nodes for x in user.inputs if x.node is node]


def _levels(units: Sequence[Unit]) -> dict[int, int]:
    """Of each unit, how many have to run one after the other before it."""
    level: dict[int, int] = {}
    for unit in units:
        level[unit.number] = 1 + max((level[other] for other in unit.direct), default=-1)
    return level


def _ahead(units: Sequence[Unit]) -> dict[int, int]:
    """Of each unit, all that it depends on, as bits."""
    ahead: dict[int, int] = {}
    for unit in units:
        ahead[unit.number] = 0
        for other in unit.direct:
            ahead[unit.number] |= ahead[other] | 1 << other
    return ahead


def _in_order(units: Sequence[Unit]) -> list[Unit]:
    """Dependencies first, else as they are."""
    known = {unit.number: unit for unit in units}
    order: list[Unit] = []
    done: set[int] = set()
    for unit in units:
        stack = [unit.number]
        while stack:
            number = stack[-1]
            waiting = [other for other in known[number].direct if other not in done]
            if waiting and number not in done:
                stack += waiting
                continue
            stack.pop()
            if number not in done:
                done.add(number)
                order.append(known[number])
    return order
