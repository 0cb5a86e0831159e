"""Recurrences: the first passes on what they do at each step, and less to do there.

A weight that each step multiplies by is laid out once, before the first, as the tiles of the
product read it: panel after panel of columns, each from its first row to its last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.backend_ndarray.recurrence import Recurrence
from needle.compiler.kernels.contraction_loops import tile_of
from needle.compiler.target import Target
from needle.dtypes import name_of
from needle.origins import current
from needle.program.expand import expand
from needle.program.graph import Graph, body_of, copied, separate_outputs
from needle.program.simplify import simplify

__all__ = ["hoist"]

_WORTH = 64  # rows, in all steps together, from which laying a weight out pays
_FLOATS = ("float32", "float64")


def hoist(graph: Graph) -> Graph:
    """A graph whose recurrences have bodies that are ready to be fused.

    - outputs that nobody reads are not made
    - an input that is filled with a number is that number
    - weights are laid out before the first step
    """
    if all(node.primitive != "recur" for node in graph.nodes):
        return graph
    return _Hoisted(graph).graph


class _Hoisted:
    def __init__(self, graph: Graph) -> None:
        self._new: dict[Node, Node] = {}
        self._used: dict[Node, set[int]] = {}
        for node in graph.nodes:
            if node.primitive == "part":
                number = node.parameters["number"]
                self._used.setdefault(node.inputs[0].node, set()).add(number)
        for node in graph.nodes:
            current.origin = node.origin
            self._new[node] = self._hoisted(node)
        current.origin = None
        outputs = [self._read(output) for output in graph.outputs]
        checks = [self._read(check) for check in graph.checks]
        self.graph = Graph(graph.inputs, outputs, checks=checks, updates=graph.updates)

    def _read(self, operand: Operand) -> Operand:
        return Operand(self._new[operand.node], operand.layout, operand.offset)

    def _hoisted(self, node: Node) -> Node:
        inputs = [self._read(x) for x in node.inputs]
        if node.primitive == "recur":
            return self._recurrence(node, inputs)
        if all(x.node is old.node for x, old in zip(inputs, node.inputs, strict=True)):
            return node
        return Node(node.primitive, node.layout, tuple(inputs), node.parameters, node.numbers)

    def _recurrence(self, node: Node, read: list[Operand]) -> Node:
        body = node.parameters["recurrence"]
        origin = current.origin
        body = _without(body, self._used.get(node, set()))
        graph = simplify(expand(_with_numbers(body, read)))
        current.origin = origin
        body = replace(body, results=graph.outputs, checks=graph.checks)
        body = _Layouts(body, read).recurrence
        graph = separate_outputs(body_of(body))
        body = replace(body, results=graph.outputs, checks=graph.checks)
        body, read = _with_what_is_read(body, read, graph)
        return Node("recur", node.layout, tuple(read), {"recurrence": body})


def _without(body: Recurrence, used: set[int]) -> Recurrence:
    """Without outputs that nobody reads."""
    kept = [part for part in body.parts if part in used]
    results = [*body.results[: body.states], *[body.results[part] for part in kept]]
    return replace(body, results=results, parts=kept)


def _with_numbers(body: Recurrence, read: list[Operand]) -> Graph:
    """The body's graph, its inputs being numbers where memory that is filled with one is read."""
    given = zip(body.inputs[body.states :], read[body.states :], strict=True)
    numbers = {
        stand_in.node: Node("fill", stand_in.node.layout, (), {}, x.node.numbers)
        for stand_in, x in given
        if x.node.primitive == "fill"
    }
    return _substituted(body_of(body), numbers)


def _substituted(graph: Graph, others: Mapping[Node, Node]) -> Graph:
    """A graph with others in the place of some of its nodes."""
    if not others:
        return graph
    new: dict[Node, Node] = {}

    def read(x: Operand) -> Operand:
        return Operand(new.get(x.node, x.node), x.layout, x.offset)

    for old in graph.nodes:
        node = others.get(old, old)
        inputs = tuple(map(read, node.inputs))
        if any(x.node is not y.node for x, y in zip(inputs, node.inputs, strict=True)):
            origin = node.origin
            node = Node(node.primitive, node.layout, inputs, node.parameters, node.numbers)
            node.origin = origin
        new[old] = node
    outputs, checks = list(map(read, graph.outputs)), list(map(read, graph.checks))
    return Graph(graph.inputs, outputs, checks=checks)


def _with_what_is_read(
    body: Recurrence, read: list[Operand], graph: Graph
) -> tuple[Recurrence, list[Operand]]:
    """Without inputs that no step reads; states stay."""
    nodes = set(graph.nodes)
    last = body.states + body.places
    kept = [i for i, x in enumerate(body.inputs) if i < body.states or x.node in nodes]
    places = sum(body.states <= i < last for i in kept)
    inputs = [body.inputs[i] for i in kept]
    return replace(body, inputs=inputs, places=places), [read[i] for i in kept]


class _Layouts:
    """Has products with what is fixed read it from panels, which are laid out outside.

    read  gains what is laid out
    """

    def __init__(self, body: Recurrence, read: list[Operand]) -> None:
        self._body, self._read = body, read
        first = body.states + body.places
        stand_ins = [x.node for x in body.inputs]
        self._outside = dict(zip(stand_ins[first:], read[first:], strict=True))
        self._inputs = list(body.inputs)
        self._known: dict[Operand, Operand] = {}
        graph = body_of(body)
        new: dict[Node, Node] = {}
        for node in graph.nodes:
            taken = self._by_panels(node) if node.primitive == "contract" else None
            if taken is not None:
                taken.origin = node.origin
                new[node] = taken
        graph = _substituted(graph, new)
        self.recurrence = replace(
            body, inputs=self._inputs, results=graph.outputs, checks=graph.checks
        )

    def _by_panels(self, node: Node) -> Node | None:
        """The same product, panel after panel; None where that is no gain."""
        (a, b), out = node.inputs, node.layout
        dtype, width = name_of(out.dtype), tile_of(Target.host(), name_of(out.dtype))[1]
        if node.parameters["groups"] != (0, 1, 1, 1) or b.node not in self._outside:
            return None
        if not out.dtype == a.layout.dtype == b.layout.dtype or dtype not in _FLOATS:
            return None
        m, n = out.shape
        if n % width or n == width or m < 2 or m * self._body.count < _WORTH or not out.compact:
            return None
        k, panels, (row, step) = b.layout.shape[0], n // width, a.layout.strides
        given = self._panels(b, (panels, k, width))
        inputs = (
            Operand(a.node, a.layout.strided((panels, m, k), (0, row, step)), a.offset),
            given,
        )
        layout = Layout.of(out.device, out.dtype, (panels, m, width), (width, n, 1))
        return Node("contract", layout, inputs, {"groups": (1, 1, 1, 1)})

    def _panels(self, b: Operand, shape: tuple[int, int, int]) -> Operand:
        """What stands in the body for the panels of a matrix (k, n)."""
        found = self._known.get(b)
        if found is None:
            row, step = b.layout.strides
            view = b.layout.strided(shape, (shape[2] * step, row, step))
            outside = self._outside[b.node]
            self._read.append(copied(Operand(outside.node, view, b.offset)))
            node = Node("input", self._read[-1].layout)
            found = self._known[b] = Operand(node, node.layout, 0)
            self._inputs.append(found)
        return found
