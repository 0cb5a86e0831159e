"""A chain as a step: what its kernels are, and what differs from part to part of the work.

Each kernel is prepared for one block of rows of one item. What passes from one to the next lies in
a scratch tile, memory of the task's own that holds one block; all else lies where it would without
chains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from needle.backend_ndarray.device import Scalar
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.compiler.kernels import chain as kernel
from needle.compiler.kernels import contraction, elementwise
from needle.compiler.kernels.chain import When
from needle.compiler.kernels.fused_loops import Word as LoopWord
from needle.compiler.prepared import Prepared, tasks_for
from needle.program.chain_ranges import find_ranges
from needle.program.chains import Chain, Member
from needle.program.fuse import Unit
from needle.program.loops import Loop, Window, loop_of
from needle.program.steps import Links, Place, ScratchTile, Step, Vary, word_of
from needle.program.tails import Order, find_tails

if TYPE_CHECKING:
    from needle.program.lower import Lowered

__all__ = ["chain_step"]

_ROWS, _ROWS_IF_MASKED = 96, 48  # of a block; with fewer rows, more columns are left out
_LINE = 64  # bytes
_CROWDED = 4096  # bytes, at multiples of which rows would crowd into few places of a cache
_MANY = 8  # items, of which each task then has about as many as the others


def chain_step(lowered: Lowered, chain: Chain, users: Mapping[Node, set[Unit]]) -> Step | None:
    """The step of a chain; None if its members cannot be run like that.

    users  of each node, the units that read it, a chain being one
    """
    builder = _Builder(lowered, chain, users)
    return builder.step() if builder.add_all() else None


class _Builder:
    def __init__(self, lowered: Lowered, chain: Chain, users: Mapping[Node, set[Unit]]) -> None:
        self.lowered, self.chain = lowered, chain
        self.unit_of = {node: m.unit for m in chain.members for node in m.unit.nodes}
        self.member_of = {member.unit: member for member in chain.members}
        asked = lowered.asked
        self.stored = {n for n in chain.nodes if n in asked or not users.get(n, set()) <= {chain}}
        self.readers: dict[Node, set[Unit]] = {}
        for member in chain.members:
            for node in member.unit.nodes:
                for x in node.inputs:
                    self.readers.setdefault(x.node, set()).add(member.unit)
        self.row_strides = {  # of what lies in tiles: elements from row to row
            node: _apart(width, node.layout.itemsize)
            for node, width in chain.values.items()
            if node in self.unit_of and node not in self.stored
        }
        self.tiles: dict[Node, ScratchTile] = {}
        self.places: dict[Node, Place] = {}
        for rows in (_ROWS_IF_MASKED, _ROWS):
            self.rows = min(rows, chain.rows)
            starts = range(0, chain.rows, self.rows)
            self.blocks = [(start, min(start + self.rows, chain.rows)) for start in starts]
            self.ranges = find_ranges(chain, self.blocks, self.stored)
            if self.ranges is not None:
                break
        self.masked = self.ranges.values if self.ranges else frozenset[Node]()
        self.tails = find_tails(list(self.member_of), self.readers, self.stored)
        self.steps: list[tuple[Step, When]] = []
        self.varies: list[Vary] = []
        self.computed_shares: dict[Node, float] = {}

    # -- members -------------------------------------------------------------------------------

    def add_all(self) -> bool:
        """Add all members; False if one cannot be a part of it."""
        waiting = {node for node, _ in self.tails.values()}
        for unit, member in self.member_of.items():
            if unit.space is None:
                if unit.nodes[0] not in waiting:
                    self._add_contraction(member)
                continue
            if unit in self.tails:
                if self._add_with_tail(*self.tails[unit], member):
                    continue
                self._add_contraction(self.member_of[self.unit_of[self.tails[unit][0]]])
            loop = self._loop(member)
            if loop is None:
                return False
            self.steps.append((self._loop_step(member, loop), When.ALWAYS))
            self._vary_rows(self.steps[-1][0], member, loop)
        return True

    def _add_with_tail(self, node: Node, order: Order, member: Member) -> bool:
        """A contraction, and a loop on each panel of it."""
        rows = [digit for digit in order[0] if digit not in member.items]
        loop = self._loop(member, (rows, order[1])) if rows == [member.row] else None
        if loop is None:
            return False
        result = next(x for x in loop.reads if isinstance(x, Operand) and x.node is node)
        homes = [j for j in loop.shares[result] if loop.writes[j] in self.row_strides]
        if homes and node in self.row_strides:
            self.tiles[node] = self._tile(loop.writes[homes[0]])
        assert member.unit.space is not None
        whole = member.unit.space.columns is not None
        step = self._add_contraction(self.member_of[self.unit_of[node]], whole)
        step.tail = self._loop_step(member, loop)
        return True

    # -- contractions --------------------------------------------------------------------------

    def _add_contraction(self, member: Member, whole: bool = False) -> Step:
        """A product of matrices for a block of rows, or of sums over it."""
        (node,) = member.unit.nodes
        a, b = node.inputs
        batch = node.parameters["groups"][0]
        (m, n), k = node.layout.shape[batch:], a.layout.shape[-1]
        extents = {"m": m, "n": n, "k": k}
        rows = "k" if member.sums else "m"
        inside = extents | {rows: self.rows}
        masked_axis = self._masked_axis(member, node, a, b)
        operands = (a, b, Operand(node, node.layout, 0))
        views, walks = [], []
        for x, axes in zip(operands, ("mk", "kn", "mn"), strict=True):
            steps = dict(zip(axes, x.layout.strides[batch:], strict=True))
            walks.append(steps)
            if x.node in self.row_strides:
                steps = {axis: self.row_strides[x.node] if axis == rows else 1 for axis in axes}
            shape = tuple([inside[axis] for axis in axes])
            views.append(x.layout.strided(shape, tuple([steps[axis] for axis in axes])))
        first, second, out = views
        prepared = contraction.prepare(first, second, out, 0, 1, 1, 1, whole)
        numbers = list(prepared.numbers)
        numbers[contraction.Word.ADDS] = int(member.sums)
        prepared = replace(prepared, numbers=tuple(numbers))
        reads, writes = [self._place(a), self._place(b)], [self._made(node)]
        step = Step("", prepared, reads, writes, nodes=[node])
        if member.sums:
            self._add_clearing(node, step.writes[0])
        self.steps.append((step, When.ALWAYS))
        for at, (x, steps) in enumerate(zip(operands, walks, strict=True)):
            row, column = steps.get(rows, 0), steps.get(masked_axis, 0) if masked_axis else 0
            self._vary(step, at, x.node, _axes(x.layout, batch), row, column, x.layout.itemsize)
        self._vary_number(step, contraction.Word[rows.upper()], self._heights())
        if masked_axis:
            self._vary_number(step, contraction.Word[masked_axis.upper()], self._widths())
            self.computed_shares[node] = self._computed_share(extents[masked_axis])
        return step

    def _masked_axis(self, member: Member, node: Node, a: Operand, b: Operand) -> str | None:
        """The axis that has the columns of which only some matter."""
        if a.node in self.masked:
            return "m" if member.sums else "k"
        return "n" if node in self.masked or (member.sums and b.node in self.masked) else None

    def _add_clearing(self, node: Node, place: Place) -> None:
        """Zeros, which sums over all blocks begin with."""
        batch = node.parameters["groups"][0]
        flat = node.layout.strided((prod(node.layout.shape[batch:]),), (1,))
        prepared = elementwise.prepare("copy", [Scalar(np.dtype("float64"))], [flat.dtype], flat)
        step = Step("zeros", prepared, [], [place], [word_of(0.0, True)], nodes=[node])
        self.steps.append((step, When.FIRST))
        self._vary(step, 0, node, _axes(node.layout, batch), 0, 0, node.layout.itemsize)

    # -- loops ---------------------------------------------------------------------------------

    def _loop(self, member: Member, order: Order | None = None) -> Loop | None:
        """The loop of a member, for a block of rows."""
        unit, readers = member.unit, self.readers
        stored = [n for n in unit.nodes if n in self.stored or readers.get(n, set()) - {unit}]
        window = Window(member.items, {member.row: self.rows}, self.row_strides, member.row)
        loop = loop_of(unit, stored, self.lowered.words, order, window=window)
        if loop is None or any(n not in self.row_strides and n not in self.stored for n in stored):
            return None
        if self._is_masked(unit):
            assert unit.space is not None and self.ranges is not None
            wide = prod(unit.space.extents[digit] for digit in loop.columns)
            lengths = {self.chain.values[node] for node in self.masked}
            if lengths != {wide}:
                return None
            self.computed_shares |= dict.fromkeys(unit.nodes, self._computed_share(wide))
        return loop

    def _is_masked(self, unit: Unit) -> bool:
        touched = {*unit.nodes, *[x.node for node in unit.nodes for x in node.inputs]}
        return not self.masked.isdisjoint(touched)

    def _loop_step(self, member: Member, loop: Loop) -> Step:
        unit = member.unit
        reads = [x if isinstance(x, int) else self._place(x) for x in loop.reads]
        writes = [self._made(node) for node in loop.writes]
        step = Step("", loop.prepared, reads, writes, loop.scalars, False, unit.nodes, True)
        assert unit.space is not None
        extents = unit.space.extents
        masked = self._is_masked(unit) and loop.columns
        for at, (x, walk) in enumerate(zip((*loop.reads, *loop.writes), loop.walks, strict=True)):
            items = [(extents[digit], walk.get(digit, 0)) for digit in member.items]
            column = walk.get(loop.columns[-1], 0) if masked else 0
            node = x.node if isinstance(x, Operand) else x if isinstance(x, Node) else None
            size = 1 if isinstance(x, int) else x.layout.itemsize  # an index counts, in ones
            self._vary(step, at, node, items, walk.get(member.row, 0), column, size)
        return step

    def _vary_rows(self, step: Step, member: Member, loop: Loop) -> None:
        """How many rows and columns there are, which a tail is told by its contraction."""
        others = step.prepared.numbers[LoopWord.ROWS] // self.rows
        self._vary_number(step, LoopWord.ROWS, [height * others for height in self._heights()])
        if self._is_masked(member.unit):
            self._vary_number(step, LoopWord.COLUMNS, self._widths())
            self._vary_number(step, LoopWord.BLOCK, self._widths())

    # -- memory --------------------------------------------------------------------------------

    def _tile(self, node: Node) -> ScratchTile:
        tile = self.tiles.get(node)
        if tile is None:
            row = self.row_strides[node]
            nbytes = self.rows * row * node.layout.itemsize
            tile = self.tiles[node] = ScratchTile(nbytes, row=row)
        return tile

    def _place(self, x: Operand) -> Place:
        return Place(self._tile(x.node)) if x.node in self.row_strides else self.lowered.place(x)

    def _made(self, node: Node) -> Place:
        """Where a node is written."""
        if node in self.row_strides:
            return Place(self._tile(node))
        if node not in self.places:
            self.places[node] = self.lowered.fresh(node)
        return self.places[node]

    # -- what differs from part to part --------------------------------------------------------

    def _heights(self) -> list[int]:
        return [last - first for first, last in self.blocks]

    def _widths(self) -> list[int]:
        assert self.ranges is not None
        return [last - first for first, last in self.ranges.columns]

    def _computed_share(self, width: int) -> float:
        """Of blocks with rows so long: what the ranges leave."""
        sizes = zip(self._heights(), self._widths(), strict=True)
        return sum(height * wide for height, wide in sizes) / (self.chain.rows * width)

    def _vary(
        self,
        step: Step,
        at: int,
        node: Node | None,
        items: Sequence[tuple[int, int]],
        row: int,
        column: int,
        size: int,
    ) -> None:
        """A place: steps are in elements, those of the items outermost first."""
        if node in self.row_strides:
            items, row = [], 0
        lows = [low for low, _ in self.ranges.columns] if self.ranges else [0] * len(self.blocks)
        table = [
            (first * row + low * column) * size
            for (first, _), low in zip(self.blocks, lows, strict=True)
        ]
        steps = tuple([(n, step * size) for n, step in reversed(items) if n > 1])
        given = steps if any(step for _, step in steps) else ()
        if given or any(table):
            self.varies.append(Vary(step, at, given, tuple(table) if any(table) else ()))

    def _vary_number(self, step: Step, number: int, table: Sequence[int]) -> None:
        if any(entry != step.prepared.numbers[number] for entry in table):
            self.varies.append(Vary(step, -1 - number, (), tuple(table)))

    # -- the step ------------------------------------------------------------------------------

    def step(self) -> Step:
        """The whole chain."""
        at = 0
        for tile in dict.fromkeys(self.tiles.values()):
            tile.offset, at = at, at + _up(tile.nbytes)
        scratch: dict[Step, int] = {}
        end = at
        for step, _ in self.steps:
            here = at
            for part in step.parts:
                scratch[part], here = here, here + _up(part.prepared.scratch)
            end = max(end, here)
        parts = [part for step, _ in self.steps for part in step.parts]
        writes = _outside([place for part in parts for place in part.writes])
        mine = {place.buffer for place in writes}
        read = _outside([x for part in parts for x in part.reads if isinstance(x, Place)])
        chain, blocks = self.chain, len(self.blocks)
        sums = any(member.sums for member in chain.members)
        span = blocks if sums or chain.items >= _MANY else 1
        nanoseconds = chain.items * blocks * sum(part.prepared.nanoseconds for part in parts)
        numbers = (chain.items, blocks, span, len(self.varies), len(self.steps))
        tasks = tasks_for(nanoseconds, chain.items * blocks // span)
        prepared = Prepared(kernel.address(), numbers, nanoseconds, tasks, end)
        return Step(
            "",
            prepared,
            [place for place in read if place.buffer not in mine],
            writes,
            nodes=chain.nodes,
            links=Links(self.steps, self.varies, scratch, self.computed_shares),
        )


def _axes(view: Layout, count: int) -> list[tuple[int, int]]:
    """Extents and steps of the first so many axes."""
    return list(zip(view.shape[:count], view.strides[:count], strict=True))


def _outside(places: Sequence[Place]) -> list[Place]:
    """Those that are no scratch tiles, each once."""
    return list(dict.fromkeys(x for x in places if not isinstance(x.buffer, ScratchTile)))


def _apart(width: int, size: int) -> int:
    """The elements from row to row, for rows so long, so that rows do not crowd."""
    if width == 1:
        return 1
    row = _up(width * size)
    return (row + (_LINE if row % _CROWDED == 0 else 0)) // size


def _up(nbytes: int) -> int:
    return -(-nbytes // _LINE) * _LINE
