"""A recurrence as one step: its body goes through the same passes, and runs again and again.

A state lies in a double buffer: what a step reads, and what it leaves for the next, which trade
places. The inputs and outputs of a step lie a row on, or back, from those of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Node
from needle.backend_ndarray.recurrence import Recurrence
from needle.compiler.kernels import elementwise, move
from needle.compiler.prepared import Prepared
from needle.program.chains import chain
from needle.program.fuse import fuse
from needle.program.graph import body_of
from needle.program.plan_memory import ALIGN, plan_memory
from needle.program.recompute import recompute
from needle.program.schedule import schedule
from needle.program.steps import Buffer, Moving, Place, Repeat, Step

if TYPE_CHECKING:
    from needle.program.lower import Lowered

__all__ = ["lower_recurrence"]


def lower_recurrence(lowered: Lowered, node: Node) -> None:
    """The step that a recurrence is; copies of the states before the first, and after the last."""
    body: Recurrence = node.parameters["recurrence"]
    inner = type(lowered)(chain(recompute(fuse(body_of(body)))), lowered)
    stages = schedule(inner)
    memory = plan_memory(stages)
    parts = lowered.parts_of(node)
    states = [_DoubleBuffer(x.layout) for x in body.results[: body.states]]
    for state, x in zip(states, node.inputs, strict=False):
        _copy(lowered, node, (lowered.place(x), x.layout), (state.place(0), state.layout))
    read = [*[state.moving(0) for state in states], *_inputs(lowered, node, body)]
    made = [state.moving(1) for state in states]
    for number, result in zip(body.parts, body.results[body.states :], strict=True):
        place = lowered.fresh(parts[number]) if number in parts else Place(Buffer(0))
        made.append(_moving(place, result.layout.nbytes, body))
    nanoseconds = body.count * sum(step.prepared.nanoseconds for step in inner.steps)
    prepared = Prepared(move.address(), (), nanoseconds, 1, memory.total)
    step = Step("", prepared, _places(read), _places(made), nodes=[node])
    step.error = any(each.error for each in inner.steps)
    step.repeat = Repeat(inner, stages, memory, [*read, *made], body.count)
    lowered.steps.append(step)
    for number, state in enumerate(states):
        if number in parts:
            part = parts[number]
            source = state.place(body.count % 2), state.layout
            _copy(lowered, part, source, (lowered.fresh(part), part.layout))


class _DoubleBuffer:
    """Memory for a state before a step and after it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.row = -(-max(layout.nbytes, 1) // ALIGN) * ALIGN
        self.buffer = Buffer(2 * self.row)

    def place(self, number: int) -> Place:
        """The first, or the second."""
        return Place(self.buffer, number * self.row)

    def moving(self, first: int) -> Moving:
        """One after the other, in turns; beginning with that."""
        return Moving(self.place(0), self.row, first, 2)


def _inputs(lowered: Lowered, node: Node, body: Recurrence) -> Iterator[Moving]:
    """Where a step finds its part of the inputs, and what is fixed."""
    given = zip(node.inputs[body.states :], body.inputs[body.states :], strict=True)
    for number, (x, stand_in) in enumerate(given):
        place, size = lowered.place(x), x.layout.itemsize
        if number < body.places:
            place = Place(place.buffer, place.offset - stand_in.offset * size)
            yield _moving(place, x.layout.strides[0] * size, body)
        else:
            yield Moving(place)


def _moving(place: Place, row: int, body: Recurrence) -> Moving:
    """From the first row on; or from the last one back."""
    if body.reverse:
        place, row = Place(place.buffer, place.offset + (body.count - 1) * row), -row
    return Moving(place, row, 0, body.count)


def _places(given: list[Moving]) -> list[Place]:
    return [moving.place for moving in given]


def _copy(
    lowered: Lowered, node: Node, source: tuple[Place, Layout], target: tuple[Place, Layout]
) -> None:
    (place, view), (to, layout) = source, target
    prepared = elementwise.prepare("copy", [view], [layout.dtype], layout)
    lowered.steps.append(Step("copy", prepared, [place], [to], (), False, [node]))
