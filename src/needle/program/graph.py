"""A graph of primitives, as the trace device records it, between its inputs and its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand, sorted_nodes
from needle.backend_ndarray.recurrence import Recurrence
from needle.errors import describe

__all__ = [
    "CONTRACTIONS",
    "Graph",
    "body_of",
    "copied",
    "factors",
    "separate_outputs",
    "sorted_nodes",
]

CONTRACTIONS = ("contract", "convolve")  # primitives: of views; of windows on a picture


@dataclass
class Graph:
    """What a program is to compute.

    inputs   nodes whose memory is handed over at each run
    outputs  what is asked for: views of nodes
    nodes    all that the outputs depend on, each after what it reads; made by `sorted_nodes`
    checks   views of bools that must all be true, else nothing is to change
    updates  outputs that take the place of inputs, by their numbers: both may be one memory;
             None: outputs that take the place of what the program does not read, if they may
    """

    inputs: Sequence[Node]
    outputs: Sequence[Operand]
    nodes: list[Node] = field(default_factory=list)
    checks: Sequence[Operand] = ()
    updates: Mapping[int, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.nodes:
            self.nodes = sorted_nodes(x.node for x in (*self.outputs, *self.checks))

    def __str__(self) -> str:
        """A line per node: `%3 = add(float32[2], float32[2]) -> float32[2] of (%1, %2)`."""
        numbers = {id(node): i for i, node in enumerate(self.nodes)}
        lines = []
        for node in self.nodes:
            read = ", ".join(f"%{numbers[id(x.node)]}" for x in node.inputs)
            lines.append(f"%{numbers[id(node)]} = {node!r}" + (f" of ({read})" if read else ""))
            if node.primitive == "recur":
                body = body_of(node.parameters["recurrence"])
                lines += [f"    {line}" for line in str(body).splitlines()]
        for word, operands in (("require", self.checks), ("return", self.outputs)):
            given = [f"%{numbers[id(x.node)]} {describe(x.layout)}" for x in operands]
            if given or word == "return":
                lines.append(f"{word} {', '.join(given)}")
        return "\n".join(lines)


def body_of(recurrence: Recurrence) -> Graph:
    """What a step does, as a graph of its own."""
    inputs = [x.node for x in recurrence.inputs]
    return Graph(inputs, list(recurrence.results), checks=recurrence.checks)


def factors(node: Node) -> tuple[Any, Layout]:
    """a and b of a contraction, as its kernel takes them."""
    a, b = node.inputs
    return node.parameters.get("a", a.layout), b.layout


def separate_outputs(graph: Graph) -> Graph:
    """Each output all of the memory of a node of its own; each check a node that finds fault."""
    taken: set[Node] = set()
    outputs = []
    for output in graph.outputs:
        if not _is_whole(output) or output.node in taken:
            output = copied(output)
        taken.add(output.node)
        outputs.append(output)
    checks = [_check(operand) for operand in graph.checks]
    return Graph(graph.inputs, outputs, checks=checks, updates=graph.updates)


def _is_whole(output: Operand) -> bool:
    """Whether it is all that a node made, each element once."""
    node, layout = output.node, output.layout
    return (
        output.offset == 0
        and layout.size * layout.itemsize == node.layout.nbytes
        and not layout.repeats
        and layout.dtype == node.layout.dtype
        and node.primitive not in ("input", "constant")
    )


def copied(operand: Operand) -> Operand:
    """A copy, row after row."""
    view = operand.layout
    layout = Layout.of(view.device, view.dtype, view.shape)
    given = {"name": "copy", "operands": (view,), "compute": (layout.dtype,)}
    node = Node("elementwise", layout, (operand,), given)
    node.origin = operand.node.origin
    return Operand(node, layout, 0)


def _check(holds: Operand) -> Operand:
    """What finds fault unless all is true."""
    compact = copied(holds)
    node = Node("check", compact.layout, (compact,))
    node.origin = holds.node.origin
    return Operand(node, compact.layout, 0)
