"""Compiled records. Two records that consist of the same primitives share one program.

What a program is found by is the record itself, node by node: the primitive, how it lies in
memory, what it reads, its options. Not part of it are the contents of inputs, the values of arrays
that ops hold (they are inputs too) and most numbers: a learning rate or a bias correction may be
another at each run. The few that `simplify` looks at are: 0, 1, -1, 2 and what is not finite.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

from needle.backend_ndarray.devices import cpu
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand, trace
from needle.program.executable import Executable
from needle.program.graph import Graph
from needle.realization.record import Record, Source
from needle.run_numbers import Numbers
from needle.runtime.call import runtime_function
from needle.runtime.threads import get_num_threads

__all__ = ["Compiled", "Programs", "Spelling", "programs"]

_FIXED = (0, 1, -1, 2)


class Spelling:
    """A record between its inputs and what is asked of it, spelt so that it can be compared.

    key      equal for records that one program serves
    inputs   the nodes whose memory is handed over, constants among them, in order
    sources  where their data lies
    numbers  those that may be others at the next run, each once
    """

    def __init__(self, record: Record, outputs: Sequence[Operand]) -> None:
        self.graph = Graph([], outputs, checks=record.checks)
        self.inputs: list[Node] = []
        self.sources: list[Source] = []
        self.numbers: list[Any] = []
        self._places: dict[Hashable, int] = {}
        self._number_of: dict[Node, int] = {}
        self._source = record.source
        rows = [self._row(number, node) for number, node in enumerate(self.graph.nodes)]
        asked = [self._operand(x) for x in (*outputs, *record.checks)]
        self.key = (get_num_threads(), len(outputs), tuple(rows), tuple(asked))

    def _row(self, number: int, node: Node) -> Hashable:
        self._number_of[node] = number
        if node.primitive in ("input", "constant"):
            self.inputs.append(node)
            self.sources.append(self._source(node))
            return node.layout
        read = tuple([self._operand(x) for x in node.inputs])
        options = tuple(node.parameters.items())
        if not node.numbers:
            return node.primitive, node.layout, read, options
        numbers = tuple([self._number(x) for x in node.numbers])
        return node.primitive, node.layout, read, options, numbers

    def _operand(self, x: Operand) -> Hashable:
        return self._number_of[x.node], x.layout, x.offset

    def _number(self, number: Any) -> Hashable:
        spelt = type(number), repr(number)  # 0.0 is not -0.0, True not 1
        if _is_fixed(number):
            return spelt
        place = self._places.setdefault(spelt, len(self.numbers))
        if place == len(self.numbers):
            self.numbers.append(number)
        return place

    def with_variables(self) -> tuple[Graph, Numbers]:
        """The graph to compile, and its numbers: those that may change have names.

        The nodes are the record's own, and changed: constants become inputs.
        """
        numbers = Numbers()
        named = [numbers.new(number) for number in self.numbers]
        for node in self.graph.nodes:
            if node.primitive == "constant":
                node.primitive, node.parameters = "input", {}
                layout = node.layout
                node.layout = Layout.of(trace(cpu()), layout.dtype, layout.shape)
            elif node.numbers:
                places = [self._number(number) for number in node.numbers]
                node.numbers = tuple(
                    [
                        named[place] if isinstance(place, int) else number
                        for number, place in zip(node.numbers, places, strict=True)
                    ]
                )
        graph = Graph(self.inputs, self.graph.outputs, self.graph.nodes, checks=self.graph.checks)
        return graph, numbers


def _is_fixed(number: Any) -> bool:
    return isinstance(number, bool) or number in _FIXED or not math.isfinite(number)


class Compiled:
    """A program for records of one spelling.

    nbytes  of the arena that it needs
    """

    def __init__(self, spelling: Spelling) -> None:
        graph, numbers = spelling.with_variables()
        self.executable = Executable(graph)
        self.executable.name = "lazy values"
        self.nbytes = self.executable.compiled.memory.total
        self.layouts = self.executable.layouts
        self._evaluate = numbers.evaluates(self.executable.numbers)
        self.serves = numbers.asks()
        self._last: Any = None

    def run(self, spelling: Spelling) -> list[Any] | None:
        """The memories of the outputs; None where a value is at fault."""
        numbers = self._evaluate(spelling.numbers)
        if numbers != self._last:
            self.executable.set_numbers(numbers)
            self._last = numbers
        arguments = [word for source in spelling.sources for word in source]
        new = runtime_function("new")
        memories = [new(layout.nbytes) for layout in self.layouts]
        results = [word for memory in memories for word in (memory, 0)]
        return memories if self.executable.run(arguments, results) else None


class Programs:
    """The programs there are, the least recently used first; some of them are let go at times.

    most        how many are kept
    most_bytes  of the arena that they share: those that need more are let go as soon as one is
                compiled that needs less than they
    compiled    how many were compiled so far
    """

    def __init__(self, most: int = 256, most_bytes: int = 1 << 30) -> None:
        self.most, self.most_bytes, self.compiled = most, most_bytes, 0
        self._known: OrderedDict[Hashable, Compiled] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, spelling: Spelling) -> Compiled:
        """The program for a spelling, compiled now if there is none."""
        found = self._known.get(spelling.key)
        if found is None or not found.serves(spelling.numbers):
            found = self._known[spelling.key] = Compiled(spelling)
            self.compiled += 1
            self._let_go(found.nbytes)
        self._known.move_to_end(spelling.key)
        return found

    def clear(self) -> None:
        """Let go of all programs, and the memory that they work in."""
        self._known.clear()

    def _let_go(self, needed: int) -> None:
        most = max(self.most_bytes, needed)
        for key in [key for key, program in self._known.items() if program.nbytes > most]:
            del self._known[key]
        while len(self._known) > self.most:
            self._known.popitem(last=False)


programs = Programs()
