"""A graph of primitives, as the trace device records it, between its inputs and its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.errors import describe

__all__ = ["Graph", "sorted_nodes"]


@dataclass
class Graph:
    """What a program is to compute.

    inputs   nodes whose memory is handed over at each run
    outputs  what is asked for: views of nodes
    nodes    all that the outputs depend on, each after what it reads; made by `sorted_nodes`
    """

    inputs: Sequence[Node]
    outputs: Sequence[Operand]
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.nodes:
            self.nodes = sorted_nodes(output.node for output in self.outputs)

    def __str__(self) -> str:
        """A line per node: `%3 = add(%1 float32[2], %2 float32[2]) -> float32[2]`."""
        numbers = {id(node): i for i, node in enumerate(self.nodes)}
        lines = []
        for node in self.nodes:
            read = ", ".join(f"%{numbers[id(x.node)]}" for x in node.inputs)
            lines.append(f"%{numbers[id(node)]} = {node!r} of ({read})")
        given = [f"%{numbers[id(x.node)]} {describe(x.layout)}" for x in self.outputs]
        return "\n".join([*lines, f"return {', '.join(given)}"])


def sorted_nodes(roots: Iterable[Node]) -> list[Node]:
    """The nodes that the roots depend on, and they: each once, after what it reads."""
    found: dict[int, Node] = {}
    order: list[Node] = []
    for root in roots:
        if id(root) in found:
            continue
        found[id(root)] = root
        stack = [(root, iter(root.inputs))]
        while stack:
            node, inputs = stack[-1]
            for operand in inputs:
                if id(operand.node) not in found:
                    found[id(operand.node)] = operand.node
                    stack.append((operand.node, iter(operand.node.inputs)))
                    break
            else:
                order.append(node)
                stack.pop()
    return order
