"""Step after step: `recur`, a loop on arrays with data, and one node of the record on traced ones.

On traced arrays the step is run once, on inputs that stand for the states before any step and for
the inputs at any place. What it does is a record of its own, the body, which the node holds. What
in it depends on none of these is the same at each step: it stays outside, and the body has an input
for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from needle.backend_ndarray.access import index
from needle.backend_ndarray.devices import conditions_apart
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.backend_ndarray.ndarray_backend_trace import (
    Memory,
    Node,
    Operand,
    recorded,
    sorted_nodes,
    traced,
)
from needle.backend_ndarray.shapes import compact, concatenate, stack
from needle.unrolled import unrolled

__all__ = ["Recurrence", "recur"]

Step = Callable[..., Any]
Arrays = tuple[NDArray, ...]

_BOOL = np.dtype(bool)


@dataclass(eq=False)
class Recurrence:
    """What a node "recur" does: the body, and how often.

    The node reads the states before the first step, the inputs at all places, and what is fixed.
    Nodes "part" read what it makes, by number: the states after the last step, then the outputs at
    all places.

    inputs   in the order of the node's: views of the nodes that stand for them in the body
    results  views of nodes of the body: the states after a step, then the outputs at a place
    states   how many there are
    places   how many inputs there are of which each step has another part
    count    steps
    reverse  whether the last place is the first
    parts    for each output, the number of the "part" that it is
    checks   views of bools that must be true at each step
    """

    inputs: Sequence[Operand]
    results: Sequence[Operand]
    states: int
    places: int
    count: int
    reverse: bool
    parts: Sequence[int]
    checks: Sequence[Operand] = ()

    def __repr__(self) -> str:
        """`35 steps backwards`."""
        return f"{self.count} steps{' backwards' if self.reverse else ''}"


def recur(
    step: Step, states: Sequence[NDArray], inputs: Sequence[NDArray], reverse: bool = False
) -> tuple[Arrays, Arrays]:
    """`step` at one place of the inputs' first axis after the other: see `backend_numpy.recur`."""
    count = inputs[0].shape[0]
    if count == 1 or all(x.device.has_memory for x in (*states, *inputs)):
        return unrolled(step, states, inputs, reverse, at=_at, stack=stack)
    loop = _recorded(step, states, inputs, reverse)
    if loop is not None:
        return loop
    # the first step may change a state's dtype, or its device; it is one by itself then
    places = [slice(0, count - 1), slice(count - 1, count)]
    first, rest = reversed(places) if reverse else (slice(0, 1), slice(1, count))
    after, ahead = unrolled(step, states, _parts(inputs, first), reverse, at=_at, stack=stack)
    loop = _recorded(step, after, _parts(inputs, rest), reverse)
    if loop is None:
        return unrolled(step, states, inputs, reverse, at=_at, stack=stack)
    behind = loop[1]
    pairs = zip(behind, ahead, strict=True) if reverse else zip(ahead, behind, strict=True)
    return loop[0], tuple([concatenate(pair) for pair in pairs])


def _at(x: NDArray, t: int) -> NDArray:
    return index(x, (t,))


def _parts(inputs: Sequence[NDArray], places: slice) -> list[NDArray]:
    return [index(x, (places,)) for x in inputs]


# -- the record ------------------------------------------------------------------------------------


def _recorded(
    step: Step, states: Sequence[NDArray], inputs: Sequence[NDArray], reverse: bool
) -> tuple[Arrays, Arrays] | None:
    """The steps as one node; None where they are not alike, or somebody is told of values."""
    given = [*map(_like, states), *[traced(_at(x, 0)) for x in inputs]]
    with conditions_apart() as told:
        after, outputs = step(tuple(given[: len(states)]), tuple(given[len(states) :]))
    if told or not all(map(_are_alike, given, after)):
        return None
    count = inputs[0].shape[0]
    made = [recorded(compact(x)) for x in (*after, *outputs)]
    stand_ins = list(map(recorded, given))
    cut = _Cut(made, {x.node for x in stand_ins})
    if cut.has_loop:
        return None
    numbers = range(len(states), len(made))
    body = Recurrence(
        [*stand_ins, *cut.stand_ins], cut.results, len(states), len(inputs), count, reverse, numbers
    )
    read = (*map(recorded, (*states, *inputs)), *cut.fixed)
    device = given[0].device
    node = Node("recur", Layout.of(device, _BOOL, (0,)), read, {"recurrence": body})
    parts = []
    for number, x in enumerate(made):
        shape = x.layout.shape if number < len(states) else (count, *x.layout.shape)
        parts.append(_part(node, number, Layout.of(device, x.layout.dtype, shape)))
    return tuple(parts[: len(states)]), tuple(parts[len(states) :])


def _like(x: NDArray) -> NDArray:
    return traced(Layout.of(x.device, x.dtype, x.shape))


def _are_alike(before: NDArray, after: NDArray) -> bool:
    return (before.shape, before.dtype, before.device) == (after.shape, after.dtype, after.device)


def _part(node: Node, number: int, layout: Layout) -> NDArray:
    given = {"number": number}
    return new_array(layout, Memory(Node("part", layout, (Operand(node, node.layout, 0),), given)))


class _Cut:
    """Takes what a step recorded apart: the body, and what is the same at each step.

    fixed      operands that the body reads from outside
    stand_ins  what stands for each in the body
    has_loop   whether there is a recurrence in the body
    """

    def __init__(self, results: Sequence[Operand], given: set[Node]) -> None:
        self.fixed: list[Operand] = []
        self.stand_ins: list[Operand] = []
        self.has_loop = False
        self._inside: dict[Node, Node] = {node: node for node in given}  # of the body
        self._fixed: dict[Node, Node] = {}
        for node in sorted_nodes(x.node for x in results):
            if node not in given and any(x.node in self._inside for x in node.inputs):
                self.has_loop |= node.primitive == "recur"
                inputs = tuple([self.inside(x) for x in node.inputs])
                taken = Node(node.primitive, node.layout, inputs, node.parameters, node.numbers)
                taken.origin = node.origin
                self._inside[node] = taken
        self.results = [self.inside(x) for x in results]

    def inside(self, x: Operand) -> Operand:
        """The same of the body. What does not change is the same outside, or an input."""
        node = self._inside.get(x.node) or self._fixed.get(x.node)
        if node is None:
            node = x.node if _is_number(x.node) else Node("input", x.node.layout)
            self._fixed[x.node] = node
            if node is not x.node:
                self.fixed.append(Operand(x.node, x.node.layout, 0))
                self.stand_ins.append(Operand(node, node.layout, 0))
        return Operand(node, x.layout, x.offset)


def _is_number(node: Node) -> bool:
    """Whether it is made of nothing that has been computed: an array filled with a number."""
    if node.primitive == "assign":
        return len(node.inputs) == 1 and node.inputs[0].node.primitive == "empty"
    return node.primitive in ("constant", "iota", "empty")
