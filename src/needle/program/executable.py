"""A graph as something to run: steps in stages, one arena for what comes and goes, a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.program.graph import Graph
from needle.program.lower import Lowered, lower
from needle.program.schedule import Schedule
from needle.program.simplify import simplify
from needle.program.steps import Buffer, Place, Step, word_of
from needle.runtime.call import runtime_function
from needle.runtime.program import Bound, Call, Program, Variable
from needle.runtime.threads import get_num_threads

__all__ = ["Executable"]

_ALIGN = 64
_SCRATCH_WORD, _ERROR_WORD, _COUNTER_WORD, _WORDS, _FIRST_SCALAR = 13, 14, 15, 16, 9


class Executable:
    """A compiled graph.

    graph    what to compute
    updates  outputs that take the place of inputs, by their numbers: both may be one memory
    layouts   how each output lies in memory of its own
    in_place  for each output, whether it may be written where the input lies that it replaces
    """

    def __init__(
        self,
        graph: Graph,
        updates: Mapping[int, int] | None = None,
        checks: Sequence[Operand] = (),
    ) -> None:
        both = simplify(Graph(graph.inputs, [*graph.outputs, *checks]))
        count = len(graph.outputs)
        graph, checks = Graph(both.inputs, both.outputs[:count]), both.outputs[count:]
        graph, self.layouts = _with_outputs_apart(graph)
        checked = [_check(operand) for operand in checks]
        everything = [*graph.outputs, *[Operand(node, node.layout, 0) for node in checked]]
        updated = {graph.outputs[number].node for number in updates or ()}
        lowered = lower(Graph(graph.inputs, everything), updated)
        count = len(graph.inputs)
        for number, output in enumerate(graph.outputs):
            lowered.buffers[output.node].binding = count + number
        in_place = {
            lowered.buffers[graph.outputs[out].node]: lowered.buffers[graph.inputs[given]]
            for out, given in (updates or {}).items()
            if graph.inputs[given] in lowered.buffers
        }
        schedule = Schedule(lowered.steps, in_place)
        self.stages = schedule.stages
        self.in_place = [
            lowered.buffers[output.node] in schedule.granted for output in graph.outputs
        ]
        self._program = _program(self.stages, count + len(graph.outputs), lowered)
        self.calls = lowered.calls
        self.numbers = [number for _, number in lowered.words.variables.values()]
        self._are_floats = [is_float for _, is_float in lowered.words.variables]

    def set_numbers(self, values: Sequence[Any]) -> None:
        """Give `numbers` the values that the next runs are to have."""
        for variable, (value, is_float) in enumerate(zip(values, self._are_floats, strict=True)):
            self._program.set(variable, word_of(value, is_float))

    def run(self, arguments: Sequence[Any], results: Sequence[Any]) -> bool:
        """(memory, bytes) of each input and output in one row; False where a value is at fault."""
        return self._program.run(*arguments, *results)


def _check(holds: Operand) -> Node:
    """A node that finds fault unless all is true."""
    layout = Layout.of(holds.layout.device, holds.layout.dtype, holds.layout.shape)
    given = {"name": "copy", "operands": (holds.layout,), "compute": (layout.dtype,)}
    compact = Node("elementwise", layout, (holds,), given)
    return Node("check", layout, (Operand(compact, layout, 0),))


def _with_outputs_apart(graph: Graph) -> tuple[Graph, list[Layout]]:
    """Each output all of the memory of a node of its own, and how it lies there."""
    taken: set[Node] = set()
    outputs, layouts = [], []
    for output in graph.outputs:
        node, layout = output.node, output.layout
        whole = (
            output.offset == 0
            and layout.size * layout.itemsize == node.layout.nbytes
            and not layout.repeats
            and layout.dtype == node.layout.dtype
        )
        if not whole or node in taken or node.primitive in ("input", "constant"):
            out = Layout.of(layout.device, layout.dtype, layout.shape)
            node = Node(
                "elementwise",
                out,
                (output,),
                {"name": "copy", "operands": (layout,), "compute": (layout.dtype,)},
            )
            layout = out
        taken.add(node)
        outputs.append(Operand(node, layout, 0))
        layouts.append(layout)
    return Graph(graph.inputs, outputs), layouts


def _program(stages: list[list[Step]], bindings: int, lowered: Lowered) -> Program:
    where, total, scratch = _plan_memory(stages)
    arena = runtime_function("new")(total)
    base = runtime_function("address")(arena)

    def word(place: Place | int) -> int | Bound:
        if isinstance(place, int):
            return place
        buffer = place.buffer
        if buffer.binding is not None:
            return Bound(buffer.binding, place.offset)
        if buffer.address is not None:
            return buffer.address + place.offset
        return base + where[buffer] + place.offset

    def scratch_of(step: Step) -> int:
        return base + where[scratch[step]] if step in scratch else 0

    def call_fused(step: Step, tasks: int) -> Call:
        places = [word(place) for place in (*step.reads, *step.writes)]
        words = (scratch_of(step), *places, *step.scalars)
        return Call(step.prepared.address, step.prepared.numbers, words, tasks)

    def call(step: Step) -> Call:
        tasks = min(step.prepared.tasks, get_num_threads())
        if step.fused:
            return call_fused(step, tasks)
        words: list[int | Bound | Variable] = [0] * (_WORDS - 1)
        for i, place in enumerate((*step.reads, *step.writes)):
            words[i] = word(place)
        for i, scalar in enumerate(step.scalars):
            words[_FIRST_SCALAR - 1 + i] = scalar
        words[_SCRATCH_WORD - 1] = scratch_of(step)
        return Call(
            step.prepared.address,
            step.prepared.numbers,
            tuple(words),
            tasks,
            _ERROR_WORD if step.error else 0,
            _COUNTER_WORD if step.nodes[0].primitive == "reduce" else 0,
            None if step.tail is None else call_fused(step.tail, tasks),
        )

    calls = [[call(step) for step in stage] for stage in stages]
    lowered.calls = calls
    nanoseconds = sum(step.prepared.nanoseconds for stage in stages for step in stage)
    constants = [buffer.keep for buffer in lowered.buffers.values() if buffer.keep is not None]
    return Program(calls, bindings, (arena, constants), nanoseconds)


def _plan_memory(stages: list[list[Step]]) -> tuple[dict[Buffer, int], int, dict[Step, Buffer]]:
    """Where in the arena each buffer and each step's scratch begins; the arena's bytes."""
    begin: dict[Buffer, int] = {}
    end: dict[Buffer, int] = {}
    scratch: dict[Step, Buffer] = {}
    threads = get_num_threads()
    for number, stage in enumerate(stages):
        for step in stage:
            for place in (*step.places_read, *step.places_written):
                buffer = place.buffer
                if buffer.binding is None and buffer.address is None:
                    begin.setdefault(buffer, number)
                    end[buffer] = number
            for part in (step, step.tail):
                if part is not None and part.prepared.scratch:
                    tasks = min(step.prepared.tasks, threads)
                    room = scratch[part] = Buffer(part.prepared.scratch * tasks)
                    begin[room] = end[room] = number
    placed: list[tuple[int, int, int, int]] = []
    where: dict[Buffer, int] = {}
    total = 0
    for b in sorted(begin, key=lambda b: -b.nbytes):
        size = -(-max(b.nbytes, 1) // _ALIGN) * _ALIGN
        at = 0
        for start, stop in sorted(
            (p[0], p[1]) for p in placed if not (p[3] < begin[b] or p[2] > end[b])
        ):
            if at + size <= start:
                break
            at = max(at, stop)
        where[b] = at
        placed.append((at, at + size, begin[b], end[b]))
        total = max(total, at + size)
    return where, total, scratch
