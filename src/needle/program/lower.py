"""Nodes to steps: each primitive to the kernel that the device runs for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np

from needle.backend_ndarray.device import Scalar
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.compiler.kernels import (
    arg_reduction,
    check,
    contraction,
    elementwise,
    gather,
    iota,
    reduction,
    scan,
)
from needle.compiler.prepared import Prepared
from needle.program.alike import unite_alike
from needle.program.chain_steps import chain_step
from needle.program.chains import Chain
from needle.program.column_sums import ColumnSum, find_column_sums
from needle.program.fuse import Fused, Unit
from needle.program.graph import factors
from needle.program.loops import Loop, loop_of
from needle.program.repeat import lower_recurrence
from needle.program.steps import Buffer, Place, Step, Words, listing
from needle.program.tails import find_tails
from needle.runtime.call import runtime_function
from needle.runtime.program import Variable

__all__ = ["Lowered", "lower"]

_AS_NUMBERS = (np.dtype(np.float32), np.dtype(np.float64))  # rounded as they would be in memory
_CHUNK = 64  # rows that a loop adds up one after the other


class Lowered:
    """The steps of a graph, and where each node's memory is.

    around    of the body of a recurrence: those that it is among, whose variables it shares
    in_place  of outputs that take the place of something: their memory, and that of the input
              where it is one
    """

    def __init__(self, fused: Fused, around: Lowered | None = None) -> None:
        graph = self.graph = fused.graph
        updated = [number for number, given in graph.updates.items() if given is not None]
        self._updated = {graph.outputs[number].node for number in updated}
        self.buffers: dict[Node, Buffer] = {}
        self.steps: list[Step] = []
        self.words: Words = Words() if around is None else around.words
        # layers ask the same again
        self.contraction: Callable[..., Prepared] = (
            cache(contraction.prepare) if around is None else around.contraction
        )
        self._later: list[Step] = []
        self._done: set[Node] = set()
        self._looked_at: set[tuple[Sequence[Operand], Sequence[int]]] = set()
        self._bindings = {node: number for number, node in enumerate(graph.inputs)}
        self._units = fused.units
        self._unit_of = {node: unit for unit in fused.units for node in unit.nodes}
        self.asked = {output.node for output in graph.outputs}
        self._users: dict[Node, set[Unit]] = {}
        for node in graph.nodes:
            for x in node.inputs:
                self._users.setdefault(x.node, set()).add(self._unit_of[node])
        self._position = -1
        self._tails = find_tails(fused.units, self._users, self.asked)
        self._deferred = {node: unit.nodes[-1] for unit, (node, _) in self._tails.items()}
        self._last_use = self._find_last_uses()
        self._sums = find_column_sums(fused.units, self._tails)
        self._put_off = self._find_put_off()
        for unit in fused.units:
            self._lower_unit(unit)
        self._bind_outputs()
        self.steps = unite_alike(self.steps)

    def _find_last_uses(self) -> dict[Node, int]:
        """Where in the order of nodes each is read for the last time, by the step that reads it."""
        order = [node for unit in self._units for node in unit.nodes]
        place = {node: i for i, node in enumerate(order)}
        last_use = {output.node: len(order) for output in self.graph.outputs}
        for node in order:
            read_at = place[self._deferred.get(node, node)]
            for x in node.inputs:
                last_use[x.node] = max(last_use.get(x.node, -1), read_at)
        return last_use

    def _find_put_off(self) -> set[Node]:
        """The sums that stand before the loop which adds them up."""
        place = {unit: i for i, unit in enumerate(self._units)}
        return {
            one.total
            for loop, (sums, _) in self._sums.items()
            for one in sums
            if place[self._unit_of[one.total]] < place[loop]
        }

    # -- units ---------------------------------------------------------------------------------

    def _lower_unit(self, unit: Unit) -> None:
        if isinstance(unit, Chain):
            self._lower_chain(unit)
            return
        first = unit.nodes[0]
        is_later = first.primitive == "fill" and first not in self.asked
        is_later = is_later or first in self._deferred or first in self._put_off
        if is_later or first in self._done:
            self._position += 1
        elif not (self._lower_as_tail(unit) or self._lower_as_loop(unit)):
            for node in unit.nodes:
                self._position += 1
                self._lower_node(node)

    def _lower_node(self, node: Node) -> None:
        if node.primitive == "input":
            self.buffers[node] = Buffer(node.layout.nbytes, binding=self._bindings[node])
        else:
            _LOWER[node.primitive](self, node)

    def _lower_chain(self, unit: Chain) -> None:
        step = chain_step(self, unit, self._users)
        if step is None:
            for member in unit.members:
                self._lower_unit(member.unit)
        else:
            self._position += len(unit.nodes)
            self.steps.append(step)

    def _lower_as_tail(self, unit: Unit) -> bool:
        if unit not in self._tails:
            return False
        node, order = self._tails[unit]
        sums, columns = self._sums.get(unit, ([], []))
        panels = self._panels(node) if sums else (1, 1)
        loop = None
        if panels is not None:
            stored = self._stored(unit, sums)
            loop = loop_of(unit, stored, self.words, order, columns, sums, panels[1])
        if loop is None:
            self._lower_node(node)  # by itself, and then the loop
            return False
        self._position += len(unit.nodes)
        assert panels is not None
        self._add_tail(node, unit, loop, sums, panels[0])
        return True

    def _lower_as_loop(self, unit: Unit) -> bool:
        sums, columns = self._sums.get(unit, ([], []))
        if len(unit.nodes) == 1 and not sums:
            return False
        chunk = _CHUNK if sums else 1
        loop = loop_of(unit, self._stored(unit, sums), self.words, None, columns, sums, chunk)
        if loop is None and sums:
            for one in sums:
                if one.total in self._put_off:
                    self._lower_node(one.total)
            sums, loop = [], loop_of(unit, self._stored(unit, []), self.words)
        if loop is None:
            return False
        self._position += len(unit.nodes)
        self._add_loop(unit, loop, sums)
        return True

    def _stored(self, unit: Unit, sums: Sequence[ColumnSum]) -> list[Node]:
        """The nodes of a loop that something else reads than itself, and its sums."""
        known = {unit, *[self._unit_of[one.total] for one in sums]}
        return [n for n in unit.nodes if n in self.asked or not self._users.get(n, known) <= known]

    def _bind_outputs(self) -> None:
        """Give outputs the bindings after those of the inputs."""
        graph, buffers = self.graph, self.buffers
        for number, output in enumerate(graph.outputs, len(graph.inputs)):
            buffers[output.node].binding = number
        self.in_place: dict[Buffer, Buffer | None] = {}
        for out, given in graph.updates.items():
            before = None if given is None else buffers.get(graph.inputs[given])
            if given is None or before is not None:
                self.in_place[buffers[graph.outputs[out].node]] = before

    def __str__(self) -> str:
        """A line per step: the places that it reads and writes, and what it computes."""
        return listing(self.steps)

    def _panels(self, node: Node) -> tuple[int, int] | None:
        """How many panels a contraction with a tail has, and of how many rows at most."""
        return contraction.panels_of(*factors(node), node.layout, node.parameters["groups"])

    def _add_sums(self, sums: Sequence[ColumnSum], chunks: int) -> list[Place]:
        """Memory for the sums of chunks, and the steps that add those up."""
        places = []
        for one in sums:
            node, width = one.total, one.total.layout.size
            rows = Layout.of(node.layout.device, node.layout.dtype, (chunks, width))
            out = Layout.of(node.layout.device, node.layout.dtype, (width,))
            place = Place(Buffer(rows.nbytes))
            places.append(place)
            prepared = reduction.prepare("sum", rows, (0,), out)
            self._later.append(Step("", prepared, [place], [self.fresh(node)], nodes=[node]))
            self._done.add(node)
        return places

    def _flush(self) -> None:
        self.steps += self._later
        self._later = []

    def _add_tail(
        self, node: Node, unit: Unit, loop: Loop, sums: Sequence[ColumnSum], panels: int
    ) -> None:
        """A contraction with a loop as its tail."""
        a, b = factors(node)
        whole = unit.space is not None and unit.space.columns is not None
        batch, m, n, k = node.parameters["groups"]
        prepared = self.contraction(a, b, node.layout, batch, m, n, k, whole)
        result = next(x for x in loop.reads if isinstance(x, Operand) and x.node is node)
        reads = [self.place(operand) for operand in node.inputs]
        writes = [self.fresh(stored) for stored in loop.writes]
        # the sums may lie where the tail then writes what it makes of them
        homes = [j for j in loop.shares[result] if loop.writes[j] not in self._updated]
        if homes:
            self.buffers[node] = writes[homes[0]].buffer
        else:
            self.fresh(node)
        step = Step("", prepared, reads, [Place(self.buffers[node])], nodes=[node])
        step.tail = self._loop_step(unit, loop, [*writes, *self._add_sums(sums, panels)])
        self.steps.append(step)
        self._flush()

    def _loop_step(self, unit: Unit, loop: Loop, writes: Sequence[Place]) -> Step:
        reads = [x if isinstance(x, int) else self.place(x) for x in loop.reads]
        return Step(
            "", loop.prepared, reads, writes, loop.scalars, False, unit.nodes, True, loop.in_step
        )

    def _add_loop(self, unit: Unit, loop: Loop, sums: Sequence[ColumnSum]) -> None:
        writes = [self.fresh(node) for node in loop.writes]
        chunks = max([-(-one.rows // _CHUNK) for one in sums], default=0)
        self.steps.append(self._loop_step(unit, loop, [*writes, *self._add_sums(sums, chunks)]))
        self._flush()

    def place(self, operand: Operand) -> Place:
        """Where an operand begins. What is filled with a number exists from when it is read on."""
        if operand.node.primitive == "fill" and operand.node not in self.buffers:
            _fill(self, operand.node)
        return Place(self.buffers[operand.node], operand.offset * operand.layout.itemsize)

    def fresh(self, node: Node) -> Place:
        """Memory of its own for what the node makes."""
        buffer = self.buffers[node] = Buffer(node.layout.nbytes)
        return Place(buffer)

    def add(
        self,
        node: Node,
        prepared: Prepared,
        scalars: Iterable[int | Variable] = (),
        error: bool = False,
        read: Sequence[Operand] | None = None,
    ) -> None:
        """A step that reads the node's inputs, or some of them, and fills memory of its own."""
        read = node.inputs if read is None else read
        reads = [self.place(operand) for operand in read]
        self.steps.append(
            Step(
                "",
                prepared,
                reads,
                [self.fresh(node)],
                tuple(scalars),
                error,
                [node],
                in_step=_in_step(node, read),
            )
        )

    def is_first_look(self, indices: Sequence[Operand], extents: Sequence[int]) -> bool:
        """Whether no step so far finds fault with the same positions along the same axes.

        A second look would find nothing else, and might come late: that of an embedding's gradient.
        """
        look = (tuple(indices), tuple(extents))
        known = look in self._looked_at
        self._looked_at.add(look)
        return not known

    def parts_of(self, recurrence: Node) -> dict[int, Node]:
        """The nodes that what a recurrence makes is read through, by their numbers."""
        units = self._users.get(recurrence, ())
        return {unit.nodes[0].parameters["number"]: unit.nodes[0] for unit in units}

    def is_last_use(self, node: Node) -> bool:
        """Whether nobody reads `node` after the node that is being lowered."""
        return self._last_use.get(node, -1) <= self._position


def lower(fused: Fused) -> Lowered:
    """The steps that compute a graph, each a kernel with its numbers."""
    return Lowered(fused)


def _in_step(node: Node, read: Sequence[Operand]) -> frozenset[tuple[int, int]]:
    """Of an elementwise node: which of the operands that are read as the result is written."""
    if node.primitive != "elementwise":
        return frozenset()
    same = [
        i
        for i, x in enumerate(read)
        if (x.layout.shape, x.layout.strides) == (node.layout.shape, node.layout.strides)
        and x.layout.itemsize == node.layout.itemsize
    ]
    return frozenset((i, 0) for i in same)


def _elementwise(lowered: Lowered, node: Node) -> None:
    """What is filled with a number is read as one."""
    given = node.parameters
    arrays, numbers = iter(node.inputs), iter(node.numbers)
    operands: list[Layout | Scalar] = []
    read: list[Operand] = []
    words: list[int | Variable] = []
    for operand, dtype in zip(given["operands"], given["compute"], strict=True):
        x = None if isinstance(operand, Scalar) else next(arrays)
        same = operand.dtype == dtype and dtype in _AS_NUMBERS
        if x is None or (same and x.node.primitive == "fill"):
            number = next(numbers) if x is None else x.node.numbers[0]
            words.append(lowered.words.of(number, operand.dtype))
            operands.append(Scalar(operand.dtype))
        else:
            read.append(x)
            operands.append(operand)
    prepared = elementwise.prepare(given["name"], operands, given["compute"], node.layout)
    lowered.add(node, prepared, words, read=read)


def _assign(lowered: Lowered, node: Node) -> None:
    *sources, target = node.inputs
    before = target.node
    if before.primitive == "fill":  # it may be shared
        _fill_for(lowered, node, before)
    elif (
        lowered.is_last_use(before)
        and lowered.buffers[before].binding is None
        and lowered.buffers[before].address is None
    ):
        lowered.buffers[node] = lowered.buffers[before]
    else:
        _copy(lowered, node, before)
    buffer = lowered.buffers[node]
    source = sources[0].layout if sources else Scalar(_number_dtype(node.numbers[0], target.layout))
    words: list[int | Variable] = []
    if not sources:
        words.append(lowered.words.of(node.numbers[0], source.dtype))
    prepared = elementwise.prepare("copy", [source], [target.layout.dtype], target.layout)
    where = Place(buffer, target.offset * target.layout.itemsize)
    reads = [lowered.place(x) for x in sources]
    lowered.steps.append(Step("", prepared, reads, [where], words, False, [node]))


def _copy(lowered: Lowered, node: Node, before: Node) -> None:
    """All of the memory before the write, for who still reads that."""
    flat = before.layout.strided((before.layout.nbytes // before.layout.itemsize,), (1,))
    prepared = elementwise.prepare("copy", [flat], [flat.dtype], flat)
    reads = [Place(lowered.buffers[before])]
    lowered.steps.append(Step("copy", prepared, reads, [lowered.fresh(node)], (), False, [node]))


def _number_dtype(number: Any, target: Layout) -> np.dtype[Any]:
    return target.dtype if target.dtype.kind in "iub" else np.dtype(np.float64)


def _fill_for(lowered: Lowered, node: Node, fill: Node) -> None:
    """Memory of a node's own, filled. What others have of it stays theirs."""
    known = lowered.buffers.pop(fill, None)
    _fill(lowered, fill)
    lowered.buffers[node] = lowered.buffers.pop(fill)
    if known is not None:
        lowered.buffers[fill] = known


def _fill(lowered: Lowered, node: Node) -> None:
    flat = node.layout.strided((node.layout.nbytes // node.layout.itemsize,), (1,))
    dtype = _number_dtype(node.numbers[0], flat)
    prepared = elementwise.prepare("copy", [Scalar(dtype)], [flat.dtype], flat)
    lowered.add(node, prepared, [lowered.words.of(node.numbers[0], dtype)])


def _empty(lowered: Lowered, node: Node) -> None:
    lowered.fresh(node)


def _constant(lowered: Lowered, node: Node) -> None:
    if "memory" in node.parameters:
        memory = node.parameters["memory"]
        address = runtime_function("address")(memory)
        lowered.buffers[node] = Buffer(node.layout.nbytes, address=address, keep=memory)
        return
    values = np.array(node.parameters["values"], order="C", copy=True)
    address = values.__array_interface__["data"][0]
    lowered.buffers[node] = Buffer(values.nbytes, address=address, keep=values)


def _reduce(lowered: Lowered, node: Node) -> None:
    given = node.parameters
    x = node.inputs[0].layout
    lowered.add(node, reduction.prepare(given["name"], x, given["axes"], node.layout))


def _arg_reduce(lowered: Lowered, node: Node) -> None:
    given = node.parameters
    x = node.inputs[0].layout
    lowered.add(node, arg_reduction.prepare(given["name"], x, given["axis"], node.layout))


def _scan(lowered: Lowered, node: Node) -> None:
    given = node.parameters
    lowered.add(
        node, scan.prepare(given["name"], node.inputs[0].layout, given["axis"], node.layout)
    )


def _contract(lowered: Lowered, node: Node) -> None:
    a, b = factors(node)
    lowered.add(node, lowered.contraction(a, b, node.layout, *node.parameters["groups"]))


def _gather(lowered: Lowered, node: Node) -> None:
    x, *indices = [operand.layout for operand in node.inputs]
    axis = node.parameters["axis"]
    looks = lowered.is_first_look(node.inputs[1:], x.shape[axis:][: len(indices)])
    lowered.add(node, gather.prepare_gather(x, indices, axis, node.layout), error=looks)


def _scatter_add(lowered: Lowered, node: Node) -> None:
    x, *indices = [operand.layout for operand in node.inputs]
    axis, out = node.parameters["axis"], node.layout
    looks = lowered.is_first_look(node.inputs[1:], out.shape[axis:][: len(indices)])
    lowered.add(node, gather.prepare_scatter_add(x, indices, axis, out), error=looks)


def _check(lowered: Lowered, node: Node) -> None:
    (operand,) = node.inputs
    reads = [lowered.place(operand)]
    lowered.buffers[node] = reads[0].buffer
    lowered.steps.append(Step("check", check.prepare(operand.layout), reads, [], (), True, [node]))


def _iota(lowered: Lowered, node: Node) -> None:
    lowered.add(node, iota.prepare(node.layout))


def _delay(lowered: Lowered, node: Node) -> None:
    """A copy that nobody takes for what it copies, when the others are known."""
    x, *others = node.inputs
    prepared = elementwise.prepare("copy", [x.layout], [node.layout.dtype], node.layout)
    waiting = [lowered.place(other) for other in others]
    reads, writes = [lowered.place(x)], [lowered.fresh(node)]
    lowered.steps.append(Step("", prepared, reads, writes, (), False, [node], after=waiting))


def _part(lowered: Lowered, node: Node) -> None:
    """What a recurrence has made."""


_LOWER: dict[str, Callable[[Lowered, Node], None]] = {
    "elementwise": _elementwise,
    "assign": _assign,
    "empty": _empty,
    "fill": _fill,
    "constant": _constant,
    "reduce": _reduce,
    "arg_reduce": _arg_reduce,
    "scan": _scan,
    "contract": _contract,
    "convolve": _contract,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "check": _check,
    "iota": _iota,
    "delay": _delay,
    "recur": lower_recurrence,
    "part": _part,
}
