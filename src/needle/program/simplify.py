"""The same graph with less to do: equal nodes once, and none that change nothing."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from needle.backend_ndarray.device import Scalar
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.origins import current
from needle.program.graph import Graph
from needle.run_numbers import RunNumber

__all__ = ["simplify"]

_NEUTRAL = {"multiply": (0, 1), "divide": (1,)}  # the operands that change nothing if they are 1


def simplify(graph: Graph) -> Graph:
    """A graph with the same results.

    - an array filled with a number is that number: a node "fill"
    - an array that is written as a whole is a copy of what is written
    - equal nodes with equal inputs are one
    - copies, and products with 1, that are laid out as what they read are what they read
    """
    return _Simplified(graph).graph


class _Simplified:
    def __init__(self, graph: Graph) -> None:
        self._new: dict[Node, Node] = {}
        self._known: dict[Hashable, Node] = {}
        for node in graph.nodes:
            current.origin = node.origin  # what is made in its place is made for the same op
            self._new[node] = self._simple(node)
        current.origin = None
        outputs = [self._read(output) for output in graph.outputs]
        checks = [self._read(check) for check in graph.checks]
        inputs = [self._new.get(node, node) for node in graph.inputs]
        self.graph = Graph(inputs, outputs, checks=checks, updates=graph.updates)

    def _read(self, operand: Operand) -> Operand:
        return Operand(self._new[operand.node], operand.layout, operand.offset)

    def _simple(self, node: Node) -> Node:
        if node.primitive in ("input", "constant", "empty"):
            return node
        if node.primitive == "assign" and _writes_all(node):
            if node.numbers:
                return self._once(Node("fill", node.layout, (), {}, node.numbers))
            node = _as_copy(node)
        inputs = tuple([self._read(operand) for operand in node.inputs])
        given = _given(node, inputs)
        if given is not None:
            return given
        return self._once(Node(node.primitive, node.layout, inputs, node.parameters, node.numbers))

    def _once(self, node: Node) -> Node:
        """The node that was made before with the same contents, or this one."""
        if node.primitive == "assign":  # its memory is not its own alone
            return node
        numbers = tuple([_identity(number) for number in node.numbers])
        key = (node.primitive, node.layout, node.inputs, tuple(node.parameters.items()), numbers)
        try:
            return self._known.setdefault(key, node)
        except TypeError:  # parameters that no dict can have as keys
            return node


def _identity(number: Any) -> Hashable:
    if isinstance(number, RunNumber):
        return RunNumber, number.source
    return type(number), repr(number)  # 0.0 is not -0.0


def _writes_all(node: Node) -> bool:
    """Whether it writes all of a memory."""
    place = node.inputs[-1]
    return (
        place.offset == 0 and place.layout.nbytes == node.layout.nbytes and not place.layout.repeats
    )


def _as_copy(node: Node) -> Node:
    """What writes an array to all of a memory, as memory of its own."""
    source, place = node.inputs
    given = {"name": "copy", "operands": (source.layout,), "compute": (place.layout.dtype,)}
    return Node("elementwise", place.layout, (source,), given)


def _given(node: Node, inputs: tuple[Operand, ...]) -> Node | None:
    """What the node reads, if it is just that."""
    if node.primitive != "elementwise" or len(inputs) != 1:
        return None
    name, (x,) = node.parameters["name"], inputs
    if name != "copy" and not _is_by_one(name, node):
        return None
    own, layout = x.node.layout, node.layout
    whole = x.offset == 0 and own.nbytes == layout.nbytes and own.dtype == layout.dtype
    same = (x.layout.shape, x.layout.strides) == (layout.shape, layout.strides)
    return x.node if whole and same and not x.layout.repeats else None


def _is_by_one(name: str, node: Node) -> bool:
    places = _NEUTRAL.get(name, ())
    numbers = [i for i, x in enumerate(node.parameters["operands"]) if isinstance(x, Scalar)]
    if len(numbers) != 1 or numbers[0] not in places:
        return False
    return not isinstance(node.numbers[0], RunNumber) and node.numbers[0] == 1
